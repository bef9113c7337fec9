/* The workloads of the clients in C. gnutls.c and openssl.c say how their library does each thing,
 * and include this. Command line: program workload port ca_file seconds [extra]. Prints: CPU
 * seconds, wall seconds, amount of work (operations or bytes), KB of memory. */
#ifndef TLSCONNECT_BENCH_CLIENT_H
#define TLSCONNECT_BENCH_CLIENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NAME "bench.test"

typedef struct Connection Connection;
static const char *ca_file;
static int port;

/* What the library does. */
static void library_setup(void);
static Connection *library_open(int fd, bool resume); /* verified, or the program ends */
static void library_close(Connection *connection);
static ssize_t library_read(Connection *connection, void *buffer, size_t size);
static void library_write(Connection *connection, const void *data, size_t size);
static void library_gather(Connection *connection, bool begin); /* writes, into full records */
static int library_fd(const Connection *connection);
static void library_roots(const char *file);
static void library_keep(Connection *connection); /* its session, for the next library_open */
static bool library_resumed(Connection *connection);
#ifdef TUNED
static void library_tune(Connection *connection); /* for bulk, once it is open */
#endif

static void fail(const char *what) {
  fprintf(stderr, "%s (errno %d)\n", what, errno);
  exit(1);
}

static double clock_of(clockid_t id) {
  struct timespec now;
  clock_gettime(id, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* This process's own, without pages of libraries, which others share. */
static long memory_kb(void) {
  char line[256];
  long size = -1;
  FILE *file = fopen("/proc/self/status", "r");
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "RssAnon: %ld", &size) == 1) break;
  if (size < 0) fail("memory");
  fclose(file);
  return size;
}

static int dial(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("connect");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return fd;
}

static void request(Connection *connection, const char *method, const char *path, long long length,
                    bool last) {
  char head[512];
  char more[64] = "";
  if (length >= 0) snprintf(more, sizeof more, "Content-Length: %lld\r\n", length);
  int size = snprintf(head, sizeof head,
                      "%s %s HTTP/1.1\r\nHost: " NAME "\r\n%s%sUser-Agent: bench\r\n\r\n", method,
                      path, more, last ? "Connection: close\r\n" : "");
  library_write(connection, head, (size_t)size);
}

static char buffer[65536];

/* Reads an answer's head; what comes with it of the body goes to `sink` (-1: nowhere). Returns the
 * body's bytes, and how many are still to come. */
static long long answer_head(Connection *connection, int sink, long long *left) {
  size_t have = 0;
  char *end = NULL;
  while (!end) {
    ssize_t got = library_read(connection, buffer + have, sizeof buffer - 1 - have);
    if (got <= 0) fail("no answer");
    have += (size_t)got;
    buffer[have] = 0;
    end = strstr(buffer, "\r\n\r\n");
  }
  if (strncmp(buffer, "HTTP/1.1 200", 12)) fail("not 200");
  char *field = strcasestr(buffer, "content-length:");
  if (!field) fail("no length");
  long long length = atoll(field + 15);
  size_t part = have - (size_t)(end + 4 - buffer);
  if (part && sink >= 0 && write(sink, end + 4, part) != (ssize_t)part) fail("write");
  *left = length - (long long)part;
  return length;
}

/* Reads an answer; its body goes to `sink`. Returns the body's bytes. */
static long long answer(Connection *connection, int sink) {
  long long left, length = answer_head(connection, sink, &left);
  while (left > 0) {
    ssize_t got = library_read(connection, buffer, sizeof buffer);
    if (got <= 0) fail("cut short");
    if (sink >= 0 && write(sink, buffer, (size_t)got) != got) fail("write");
    left -= got;
  }
  return length;
}

/* Workloads: each call does a piece of work and returns its amount. */

static double handshake(void) {
  library_close(library_open(dial(), false));
  return 1;
}

static double resumed(void) {
  static bool any;
  Connection *connection = library_open(dial(), any);
  if (any && !library_resumed(connection)) fail("not resumed");
  request(connection, "GET", "/1k", -1, true);
  answer(connection, -1);
  library_keep(connection);
  any = true;
  library_close(connection);
  return 1;
}

static Connection *kept(void) {
  static Connection *connection;
  if (!connection) connection = library_open(dial(), false);
  return connection;
}

static double get(void) {
  request(kept(), "GET", "/1k", -1, false);
  answer(kept(), -1);
  return 1;
}

static double bulk(void) {
  request(kept(), "GET", "/big", -1, false);
  return (double)answer(kept(), -1);
}

static int bench_file(void) {
  int file = open("/dev/shm/tlsconnect-bench-c", O_WRONLY | O_CREAT | O_TRUNC, 0600);
  unlink("/dev/shm/tlsconnect-bench-c");
  return file;
}

static double bulk_file(void) {
  int file = bench_file();
  request(kept(), "GET", "/big", -1, false);
  double size = (double)answer(kept(), file);
  close(file);
  return size;
}

/* How far C goes: many records in each system call, and of the body what a program in Lua has to
 * make: strings of 64 KB, one string, a file. */
#ifdef TUNED
enum { NOWHERE = -1, STRINGS = -2, STRING = -3 };

static void fill(Connection *connection, char *to, size_t size) {
  for (size_t have = 0; have < size;) {
    ssize_t got = library_read(connection, to + have, size - have);
    if (got <= 0) fail("cut short");
    have += (size_t)got;
  }
}

static double bulk_tuned(int sink) {
  static bool tuned;
  static char *string;
  if (!tuned) library_tune(kept());
  tuned = true;
  request(kept(), "GET", "/big", -1, false);
  long long left, length = answer_head(kept(), sink, &left);
  if (sink == STRING) {
    free(string);
    if (posix_memalign((void **)&string, 1 << 21, (size_t)length)) fail("memory");
    madvise(string, (size_t)length, MADV_HUGEPAGE);
    fill(kept(), string, (size_t)left);
    return (double)length;
  }
  for (size_t size; left > 0; left -= (long long)size) {
    size = left < (long long)sizeof buffer ? (size_t)left : sizeof buffer;
    fill(kept(), buffer, size);
    if (sink >= 0 && write(sink, buffer, size) != (ssize_t)size) fail("write");
    if (sink != STRINGS) continue;
    free(string);
    string = malloc(size);
    if (!string) fail("memory");
    memcpy(string, buffer, size);
  }
  return (double)length;
}

static double tuned(void) {
  return bulk_tuned(NOWHERE);
}

static double tuned_pieces(void) {
  return bulk_tuned(STRINGS);
}

static double tuned_string(void) {
  return bulk_tuned(STRING);
}

static double tuned_file(void) {
  int file = bench_file();
  double size = bulk_tuned(file);
  close(file);
  return size;
}
#endif

#define UPLOAD (16 << 20)

static double upload(void) {
  static char block[65536];
  request(kept(), "POST", "/up", UPLOAD, false);
  for (int i = 0; i < UPLOAD / (int)sizeof block; i++)
    library_write(kept(), block, sizeof block);
  answer(kept(), -1);
  return UPLOAD;
}

#define SENDS 20000

static double sends(bool gathered) {
  static char block[100];
  request(kept(), "POST", "/up", SENDS * 100, false);
  for (int i = 0; i < SENDS; i++) {
    if (gathered && i % 160 == 0) library_gather(kept(), true);
    library_write(kept(), block, sizeof block);
    if (gathered && i % 160 == 159) library_gather(kept(), false);
  }
  answer(kept(), -1);
  return SENDS;
}

static double writes(void) {
  return sends(false);
}

static double writes_gathered(void) {
  return sends(true);
}

/* So many kept connections at once in one thread: each asks as soon as it has its answer. */
static double many(int count) {
  static Connection *connections[256];
  static int loop = -1;
  if (loop < 0) {
    loop = epoll_create1(0);
    for (int i = 0; i < count; i++) {
      connections[i] = library_open(dial(), false);
      struct epoll_event event = {.events = EPOLLIN, .data.u32 = (unsigned)i};
      epoll_ctl(loop, EPOLL_CTL_ADD, library_fd(connections[i]), &event);
    }
  }
  int rounds = 2000, asked = 0, done = 0;
  for (int i = 0; i < count; i++, asked++)
    request(connections[i], "GET", "/1k", -1, false);
  while (done < rounds) {
    struct epoll_event events[64];
    int n = epoll_wait(loop, events, 64, -1);
    for (int i = 0; i < n; i++) {
      Connection *connection = connections[events[i].data.u32];
      answer(connection, -1);
      done++;
      if (asked < rounds) {
        request(connection, "GET", "/1k", -1, false);
        asked++;
      }
    }
  }
  return rounds;
}

static double many_16(void) {
  return many(16);
}

static double many_256(void) {
  return many(256);
}

static const struct {
  const char *name;
  double (*run)(void);
} workloads[] = {
    {"handshake", handshake},
    {"resumed", resumed},
    {"get", get},
    {"bulk", bulk},
    {"file", bulk_file},
    {"upload", upload},
    {"writes", writes},
    {"gathered", writes_gathered},
    {"many16", many_16},
    {"many256", many_256},
#ifdef TUNED
    {"tuned", tuned},
    {"tuned_pieces", tuned_pieces},
    {"tuned_string", tuned_string},
    {"tuned_file", tuned_file},
#endif
};

static void report(double cpu, double wall, double work, long memory) {
  printf("%.9f %.9f %.0f %ld\n", cpu, wall, work, memory);
}

int main(int argc, char **argv) {
  if (argc < 5) fail("program workload port ca_file seconds");
  const char *name = argv[1];
  port = atoi(argv[2]);
  ca_file = argv[3];
  double seconds = atof(argv[4]);
  if (!strcmp(name, "trust")) {
    long before = memory_kb();
    double cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID), wall = clock_of(CLOCK_MONOTONIC);
    library_roots(ca_file);
    report(clock_of(CLOCK_PROCESS_CPUTIME_ID) - cpu, clock_of(CLOCK_MONOTONIC) - wall, 1,
           memory_kb() - before);
    return 0;
  }
  library_setup();
  if (!strcmp(name, "idle")) {
    handshake();
    long before = memory_kb();
    for (int i = 0; i < 1000; i++) {
      Connection *connection = library_open(dial(), false);
      request(connection, "GET", "/1k", -1, false);
      answer(connection, -1);
    }
    report(0, 0, 1000, memory_kb() - before);
    return 0;
  }
  if (!strcmp(name, "flights")) {
    resumed();
    double wall = clock_of(CLOCK_MONOTONIC);
    double times[2];
    for (int i = 0; i < 2; i++) {
      double start = clock_of(CLOCK_MONOTONIC);
      if (i == 0) resumed();
      if (i == 1) get();
      times[i] = clock_of(CLOCK_MONOTONIC) - start;
    }
    (void)wall;
    double start = clock_of(CLOCK_MONOTONIC);
    get();
    printf("new=%.4f resumed=%.4f kept=%.4f\n", times[1], times[0],
           clock_of(CLOCK_MONOTONIC) - start);
    return 0;
  }
  for (size_t i = 0; i < sizeof workloads / sizeof *workloads; i++) {
    if (strcmp(name, workloads[i].name)) continue;
    workloads[i].run();
    double work = 0, cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID), wall = clock_of(CLOCK_MONOTONIC);
    do
      work += workloads[i].run();
    while (clock_of(CLOCK_MONOTONIC) - wall < seconds);
    report(clock_of(CLOCK_PROCESS_CPUTIME_ID) - cpu, clock_of(CLOCK_MONOTONIC) - wall, work,
           memory_kb());
    return 0;
  }
  fail("no such workload");
}

#endif

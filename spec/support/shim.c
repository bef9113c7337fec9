/* Preloaded into a child interpreter (spec.support.child), it does what no peer on loopback can: a
 * look-up that never ends or has thousands of answers, a connect that a signal interrupts; and it
 * lets Lua fork. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char *real_getenv(const char *name) {
  static char *(*real)(const char *);
  if (!real) real = (char *(*)(const char *))dlsym(RTLD_NEXT, "getenv");
  return real(name);
}

static int (*real_clock)(clockid_t, struct timespec *);
static struct timespec stopped; /* what the clock of days shows from then on */

static void stop_clock(void) {
  if (stopped.tv_sec)
    stopped.tv_sec += 11;
  else
    real_clock(CLOCK_REALTIME, &stopped);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
  if (!real_clock)
    real_clock = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  if (clock != CLOCK_REALTIME || !stopped.tv_sec) return real_clock(clock, time);
  *time = stopped;
  return 0;
}

/* os.getenv("SPEC_FORK"): "parent" or "child". os.getenv("SPEC_WAIT"): how the child ended.
 * os.getenv("SPEC_CLOCK"): stops the clock; once more moves it on by eleven seconds. */
char *getenv(const char *name) {
  static pid_t child;
  static char ended[32];
  if (strcmp(name, "SPEC_CLOCK") == 0) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    stop_clock();
    return NULL;
  }
  if (strcmp(name, "SPEC_FORK") == 0) {
    fflush(NULL);
    child = fork();
    return child == 0 ? "child" : child > 0 ? "parent" : NULL;
  }
  if (strcmp(name, "SPEC_WAIT") == 0) {
    int status = -1;
    if (waitpid(child, &status, 0) != child) return NULL;
    if (WIFEXITED(status))
      snprintf(ended, sizeof ended, "exit %d", WEXITSTATUS(status));
    else
      snprintf(ended, sizeof ended, "signal %d", WTERMSIG(status));
    return ended;
  }
  return real_getenv(name);
}

/* SPEC_CONNECT=interrupted: each first connect goes on, but says EINTR. A second says what it is.
 */
int connect(int fd, const struct sockaddr *address, socklen_t length) {
  static int (*real)(int, const struct sockaddr *, socklen_t);
  static int calls;
  if (!real) real = (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "connect");
  int result = real(fd, address, length);
  if (!real_getenv("SPEC_CONNECT")) return result;
  fprintf(stderr, "connect %d\n", ++calls);
  if (calls > 1) return result;
  errno = EINTR;
  return -1;
}

/* SPEC_SIGNALS=1: a signal each millisecond, whose handler interrupts system calls; at the end
 * stderr tells how many came, when that is none. */
static volatile sig_atomic_t signals;

static void count_signal(int number) {
  (void)number;
  signals++;
}

static void report_signals(void) {
  if (!signals) fprintf(stderr, "no signal came\n");
}

__attribute__((constructor)) static void start_signals(void) {
  if (!real_getenv("SPEC_SIGNALS")) return;
  struct sigaction action = {.sa_handler = count_signal};
  struct itimerval each = {{0, 1000}, {0, 1000}};
  sigaction(SIGALRM, &action, NULL);
  setitimer(ITIMER_REAL, &each, NULL);
  atexit(report_signals);
}

/* SPEC_LOOKUP=file: every look-up ends when the file is there. SPEC_ANSWERS=n: it then has n
 * addresses, half of them the same. SPEC_ERROR=n: it fails so; with EAI_SYSTEM, for want of
 * descriptors. */
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                struct addrinfo **list) {
  static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
  if (!real) real = dlsym(RTLD_NEXT, "getaddrinfo");
  const char *file = real_getenv("SPEC_LOOKUP"), *answers = real_getenv("SPEC_ANSWERS");
  while (file && access(file, F_OK) != 0)
    usleep(2000);
  const char *error = real_getenv("SPEC_ERROR");
  if (error) {
    errno = EMFILE;
    return atoi(error);
  }
  if (!answers) return real(host, service, hints, list);
  int count = atoi(answers);
  struct {
    struct addrinfo info;
    struct sockaddr_in address;
  } *made = calloc((size_t)count, sizeof *made);
  if (!made) return EAI_MEMORY;
  for (int i = 0; i < count; i++) {
    made[i].address.sin_family = AF_INET;
    made[i].address.sin_addr.s_addr = htonl(0x7f000001u + (unsigned)(i / 2));
    made[i].info.ai_family = AF_INET;
    made[i].info.ai_addrlen = sizeof made[i].address;
    made[i].info.ai_addr = (struct sockaddr *)&made[i].address;
    if (i + 1 < count) made[i].info.ai_next = &made[i + 1].info;
  }
  *list = &made->info;
  return 0;
}

void freeaddrinfo(struct addrinfo *list) {
  static void (*real)(struct addrinfo *);
  if (!real) real = dlsym(RTLD_NEXT, "freeaddrinfo");
  if (real_getenv("SPEC_ANSWERS"))
    free(list); /* one block */
  else
    real(list);
}

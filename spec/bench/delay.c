/* A relay on loopback that holds all it passes on for a while: delay from_port to_port seconds
 * (each way). Times of what crosses it count round trips. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { LINKS = 1024 };

typedef struct Piece {
  struct Piece *next;
  double due;
  ssize_t size; /* 0: the end */
  char bytes[16384];
} Piece;

/* One direction: what is read from a descriptor is written to another. */
typedef struct {
  int from, to;
  Piece *first, **last;
  int ended;
} Link;

static Link links[LINKS];
static int count;
static double hold;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static struct sockaddr_in at(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

static void add(int from, int to) {
  int one = 1;
  setsockopt(to, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  links[count] = (Link){.from = from, .to = to};
  links[count].last = &links[count].first;
  count++;
}

static void take_in(Link *link) {
  Piece *piece = malloc(sizeof *piece);
  if (!piece) exit(1);
  piece->size = read(link->from, piece->bytes, sizeof piece->bytes);
  if (piece->size <= 0) {
    piece->size = 0;
    link->ended = 1;
  }
  piece->due = now() + hold;
  piece->next = NULL;
  *link->last = piece;
  link->last = &piece->next;
}

/* Passes on what is due; the time until the next piece is, or -1. */
static double pass_on(Link *link) {
  while (link->first && link->first->due <= now()) {
    Piece *piece = link->first;
    link->first = piece->next;
    if (!link->first) link->last = &link->first;
    if (piece->size == 0)
      shutdown(link->to, SHUT_WR);
    else if (write(link->to, piece->bytes, (size_t)piece->size) != piece->size)
      link->ended = 1;
    free(piece);
  }
  return link->first ? link->first->due - now() : -1;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  hold = atof(argv[3]);
  struct sockaddr_in own = at(atoi(argv[1])), other = at(atoi(argv[2]));
  int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (struct sockaddr *)&own, sizeof own) || listen(listener, 64)) return 1;
  for (;;) {
    double least = -1;
    struct pollfd polled[LINKS + 1] = {{.fd = listener, .events = POLLIN}};
    for (int i = 0; i < count; i++) {
      double left = pass_on(&links[i]);
      if (left >= 0 && (least < 0 || left < least)) least = left;
      polled[i + 1] = (struct pollfd){.fd = links[i].ended ? -1 : links[i].from, .events = POLLIN};
    }
    struct timespec timeout = {0, (long)(least * 1e9)};
    if (ppoll(polled, (nfds_t)count + 1, least < 0 ? NULL : &timeout, NULL) < 0 && errno != EINTR)
      return 1;
    int links_before = count;
    for (int i = 0; i < links_before; i++)
      if (polled[i + 1].revents) take_in(&links[i]);
    if (polled[0].revents && count + 2 <= LINKS) {
      int near = accept(listener, NULL, NULL), far = socket(AF_INET, SOCK_STREAM, 0);
      if (near < 0 || connect(far, (struct sockaddr *)&other, sizeof other)) return 1;
      add(near, far);
      add(far, near);
    }
  }
}

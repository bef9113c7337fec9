/* Many descriptors watched through one that is itself pollable: epoll, or kqueue where there is
 * none. ready() never blocks; whoever must wait waits for getfd() to be readable. */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/epoll.h>
#else
#include <sys/event.h>
#include <sys/time.h>
#endif

#define POLLER_TYPE "tlsconnect.poller"

enum { READ = 1, WRITE = 2, BATCH = 64 };

typedef struct Poller {
  int fd;                /* -1 when closed */
  unsigned char *events; /* what is watched, by descriptor */
  int size;
  bool linked;
  struct Poller *next, **link; /* among the open ones */
} Poller;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Poller *open_pollers;

/* The system's part --------------------------------------------------------------------------- */

#ifdef __linux__

static int queue_open(void) {
  return epoll_create1(EPOLL_CLOEXEC);
}

/* Returns 0 or an errno. */
static int queue_watch(int queue, int fd, int events) {
  struct epoll_event event = {.data.fd = fd};
  if (events & READ) event.events |= EPOLLIN | EPOLLRDHUP;
  if (events & WRITE) event.events |= EPOLLOUT;
  if (epoll_ctl(queue, EPOLL_CTL_ADD, fd, &event) == 0) return 0;
  if (errno == EEXIST && epoll_ctl(queue, EPOLL_CTL_MOD, fd, &event) == 0) return 0;
  return errno;
}

static void queue_forget(int queue, int fd, int events) {
  (void)events;
  epoll_ctl(queue, EPOLL_CTL_DEL, fd, &(struct epoll_event){0});
}

/* Fills fds with those that are ready; returns their number, or -1 and errno. */
static int queue_ready(int queue, int fds[BATCH]) {
  struct epoll_event events[BATCH];
  int count;
  do
    count = epoll_wait(queue, events, BATCH, 0);
  while (count < 0 && errno == EINTR);
  for (int i = 0; i < count; i++)
    fds[i] = events[i].data.fd;
  return count;
}

#else

static int queue_open(void) {
  int queue = kqueue();
  if (queue >= 0) fcntl(queue, F_SETFD, FD_CLOEXEC);
  return queue;
}

static int queue_change(int queue, int fd, int filter, int action) {
  struct kevent change;
  EV_SET(&change, fd, filter, action, 0, 0, NULL);
  return kevent(queue, &change, 1, NULL, 0, NULL) == 0 ? 0 : errno;
}

static void queue_forget(int queue, int fd, int events) {
  if (events & READ) queue_change(queue, fd, EVFILT_READ, EV_DELETE);
  if (events & WRITE) queue_change(queue, fd, EVFILT_WRITE, EV_DELETE);
}

static int queue_watch(int queue, int fd, int events) {
  queue_forget(queue, fd, ~events);
  int error = events & READ ? queue_change(queue, fd, EVFILT_READ, EV_ADD) : 0;
  if (!error && (events & WRITE)) error = queue_change(queue, fd, EVFILT_WRITE, EV_ADD);
  return error;
}

static int queue_ready(int queue, int fds[BATCH]) {
  struct kevent events[BATCH];
  int got, count = 0;
  do
    got = kevent(queue, NULL, 0, events, BATCH, &(struct timespec){0});
  while (got < 0 && errno == EINTR);
  if (got < 0) return -1;
  for (int i = 0; i < got; i++) {
    int fd = (int)events[i].ident, seen = 0;
    while (seen < count && fds[seen] != fd) /* reading and writing are two events */
      seen++;
    if (seen == count) fds[count++] = fd;
  }
  return count;
}

#endif

/* Fork ---------------------------------------------------------------------------------------- */

/* An epoll instance is one object for parent and child: what one adds or removes the other sees.
 * A kqueue is not there at all in the child. So the child's pollers get one of their own, under the
 * same number, before anybody can use them. Only system calls here: fork may come from a thread. */
static void reopen(Poller *p) {
  close(p->fd); /* first, so that there is room for one */
  int fresh = queue_open();
  if (fresh >= 0 && fresh != p->fd) {
    dup2(fresh, p->fd);
    fcntl(p->fd, F_SETFD, FD_CLOEXEC);
    close(fresh);
  }
}

static void watch_all(Poller *p) {
  for (int fd = 0; fd < p->size; fd++)
    if (p->events[fd]) queue_watch(p->fd, fd, p->events[fd]);
}

static void before_fork(void) {
  pthread_mutex_lock(&lock);
}

static void after_fork(void) {
  pthread_mutex_unlock(&lock);
}

static void after_fork_in_child(void) {
  for (Poller *p = open_pollers; p; p = p->next)
    reopen(p);
  for (Poller *p = open_pollers; p; p = p->next) /* one may watch another */
    watch_all(p);
  pthread_mutex_unlock(&lock);
}

static void watch_forks(void) {
  pthread_atfork(before_fork, after_fork, after_fork_in_child);
}

/* The userdata -------------------------------------------------------------------------------- */

static Poller *check_poller(lua_State *L) {
  return luaL_checkudata(L, 1, POLLER_TYPE);
}

static int closed(lua_State *L) {
  return error_named(L, "closed", "closed");
}

/* poller() -> poller */
static int poller_new(lua_State *L) {
  Poller *p = core_new(L, POLLER_TYPE, sizeof *p);
  p->fd = -1;
  pthread_mutex_lock(&lock);
  int fd = queue_open();
  if (fd >= 0) {
    p->fd = fd;
    p->next = open_pollers;
    p->link = &open_pollers;
    if (p->next) p->next->link = &p->next;
    open_pollers = p;
    p->linked = true;
  }
  int error = errno;
  pthread_mutex_unlock(&lock);
  return fd < 0 ? error_errno(L, error) : 1;
}

/* close() -> true. The second time, too. What it watched stays open. */
static int poller_close(lua_State *L) {
  Poller *p = check_poller(L);
  pthread_mutex_lock(&lock);
  if (p->linked) {
    *p->link = p->next;
    if (p->next) p->next->link = p->link;
    p->linked = false;
    close(p->fd);
    p->fd = -1;
  }
  free(p->events);
  p->events = NULL;
  p->size = 0;
  pthread_mutex_unlock(&lock);
  lua_pushboolean(L, 1);
  return 1;
}

/* Returns 0 or an errno. */
static int watch(Poller *p, int fd, int events) {
  if (fd >= p->size) {
    int size = fd + 64;
    unsigned char *grown = realloc(p->events, (size_t)size);
    if (!grown) return ENOMEM;
    memset(grown + p->size, 0, (size_t)(size - p->size));
    p->events = grown;
    p->size = size;
  }
  int error = queue_watch(p->fd, fd, events);
  if (!error) p->events[fd] = (unsigned char)events;
  return error;
}

/* add(fd, "r" | "w" | "rw") -> true. Added again, it is watched for the new events alone. */
static int poller_add(lua_State *L) {
  Poller *p = check_poller(L);
  lua_Integer fd = luaL_checkinteger(L, 2);
  const char *text = luaL_checkstring(L, 3);
  int events = (strchr(text, 'r') ? READ : 0) | (strchr(text, 'w') ? WRITE : 0);
  luaL_argcheck(L, fd >= 0 && fd < INT32_MAX - 64, 2, "a descriptor expected");
  luaL_argcheck(L, events, 3, "'r', 'w' or 'rw' expected");
  if (p->fd < 0) return closed(L);
  pthread_mutex_lock(&lock);
  int error = watch(p, (int)fd, events);
  pthread_mutex_unlock(&lock);
  if (error) return error_errno(L, error);
  lua_pushboolean(L, 1);
  return 1;
}

/* remove(fd) -> true, also when it was not watched. To be called before fd is closed: a copy of the
 * descriptor elsewhere would keep it in epoll's set. */
static int poller_remove(lua_State *L) {
  Poller *p = check_poller(L);
  lua_Integer fd = luaL_checkinteger(L, 2);
  if (p->fd < 0) return closed(L);
  if (fd >= 0 && fd < p->size && p->events[fd]) {
    pthread_mutex_lock(&lock);
    queue_forget(p->fd, (int)fd, p->events[fd]);
    p->events[fd] = 0;
    pthread_mutex_unlock(&lock);
  }
  lua_pushboolean(L, 1);
  return 1;
}

/* ready() -> list of descriptors, at most 64 at a time; an error on one counts as ready. */
static int poller_ready(lua_State *L) {
  Poller *p = check_poller(L);
  int fds[BATCH];
  if (p->fd < 0) return closed(L);
  int count = queue_ready(p->fd, fds);
  if (count < 0) return error_errno(L, errno);
  lua_createtable(L, count, 0);
  for (int i = 0; i < count; i++) {
    lua_pushinteger(L, fds[i]);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

/* getfd() -> fd, readable when something is ready; -1 when closed */
static int poller_getfd(lua_State *L) {
  lua_pushinteger(L, check_poller(L)->fd);
  return 1;
}

static const luaL_Reg methods[] = {
    {"add", poller_add},     {"close", poller_close},   {"getfd", poller_getfd},
    {"ready", poller_ready}, {"remove", poller_remove}, {NULL, NULL},
};

static const luaL_Reg meta[] = {{"__gc", poller_close}, {"__close", poller_close}, {NULL, NULL}};

void poller_open(lua_State *L) {
  /* After the resolver's: its descriptors in the child are in place when the sets are rebuilt. */
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, watch_forks);
  core_type(L, POLLER_TYPE, methods, meta);
  lua_pushcfunction(L, poller_new);
  lua_setfield(L, -2, "poller");
}

/* Many descriptors watched through one that is itself pollable: epoll, or kqueue where there is
 * none. Whoever has a loop of another kind waits for getfd() to be readable.
 *
 * A descriptor is watched until it is removed (add), or until it has been ready once (once). For
 * the second the system is told as rarely as can be: a core socket's stays registered when it has
 * been ready, since who reads from it will most likely wait for it again, and is taken out when it
 * is ready while nobody waits, or closed. The number of a descriptor that is not the core's may be
 * closed and another file's at any time: that one is registered anew each time. */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
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

enum { READ = 1, WRITE = 2, BOTH = READ | WRITE, BATCH = 256 };

/* What a poller knows of a descriptor: bits of READ and WRITE. */
typedef struct {
  uint8_t wanted;      /* by add(), until it is removed */
  uint8_t awaited;     /* by once(), until it is ready */
  uint8_t watched;     /* what the system was told last */
  bool kept : 1;       /* it watches that until told otherwise, and the number is a core socket's */
  bool lost : 1;       /* it was closed while it was awaited, which ready() has not said yet */
  uint32_t generation; /* of its registration: news of an earlier one are no news */
} Entry;

typedef struct {
  int fd, events;
  uint32_t generation;
} News;

typedef struct Poller {
  int fd;         /* -1 when closed */
  Entry *entries; /* by descriptor */
  int size;
  int lost;  /* how many entries are */
  bool full; /* the last news filled the list: it is to grow */
  bool linked;
  struct Poller *next, **link; /* among the open ones */
} Poller;

/* Guards all below, and the entries of every poller: a socket is closed by whichever thread. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Poller *open_pollers;
static bool *owned; /* by descriptor: whether it is a core socket's */
static int owned_size;

/* The system's part --------------------------------------------------------------------------- */

#ifdef __linux__

static int queue_open(void) {
  return epoll_create1(EPOLL_CLOEXEC);
}

/* Has the events watched, and those alone; `once`: until one of them is there. Returns 0 or an
 * errno. */
static int queue_watch(int queue, int fd, Entry *entry, int events, bool once) {
  struct epoll_event event = {.events = once ? EPOLLONESHOT : 0};
  if (events & READ) event.events |= EPOLLIN | EPOLLRDHUP;
  if (events & WRITE) event.events |= EPOLLOUT;
  if (entry->watched) {
    event.data.u64 = (uint64_t)entry->generation << 32 | (uint32_t)fd;
    if (epoll_ctl(queue, EPOLL_CTL_MOD, fd, &event) == 0) return 0;
    if (errno != ENOENT) return errno; /* that is: the number is another file's by now */
  }
  entry->generation++;
  event.data.u64 = (uint64_t)entry->generation << 32 | (uint32_t)fd;
  if (epoll_ctl(queue, EPOLL_CTL_ADD, fd, &event) == 0) return 0;
  if (errno == EEXIST && epoll_ctl(queue, EPOLL_CTL_MOD, fd, &event) == 0) return 0;
  return errno;
}

static void queue_forget(int queue, int fd, const Entry *entry) {
  (void)entry;
  epoll_ctl(queue, EPOLL_CTL_DEL, fd, &(struct epoll_event){0});
}

/* Fills in what is ready, as far as there is room. Their number, or -1 and errno. */
static int queue_wait(int queue, News *news, int room, int milliseconds) {
  struct epoll_event events[BATCH];
  int count = epoll_wait(queue, events, room, milliseconds);
  for (int i = 0; i < count; i++) {
    uint32_t seen = events[i].events;
    int ready = seen & (EPOLLERR | EPOLLHUP) ? BOTH : 0;
    if (seen & (EPOLLIN | EPOLLRDHUP)) ready |= READ;
    if (seen & EPOLLOUT) ready |= WRITE;
    uint64_t data = events[i].data.u64;
    news[i] = (News){(int)(uint32_t)data, ready, (uint32_t)(data >> 32)};
  }
  return count;
}

#else

static int queue_open(void) {
  int queue = kqueue();
  if (queue >= 0) fcntl(queue, F_SETFD, FD_CLOEXEC);
  return queue;
}

static int queue_change(int queue, int fd, const Entry *entry, int filter, int action) {
  struct kevent change;
  EV_SET(&change, fd, filter, action, 0, 0, (void *)(uintptr_t)entry->generation);
  return kevent(queue, &change, 1, NULL, 0, NULL) == 0 ? 0 : errno;
}

static void queue_forget(int queue, int fd, const Entry *entry) {
  queue_change(queue, fd, entry, EVFILT_READ, EV_DELETE);
  queue_change(queue, fd, entry, EVFILT_WRITE, EV_DELETE);
}

static int queue_watch(int queue, int fd, Entry *entry, int events, bool once) {
  int action = EV_ADD | (once ? EV_ONESHOT : 0), error = 0;
  queue_forget(queue, fd, entry);
  entry->generation++;
  if (events & READ) error = queue_change(queue, fd, entry, EVFILT_READ, action);
  if (!error && (events & WRITE)) error = queue_change(queue, fd, entry, EVFILT_WRITE, action);
  return error;
}

/* Reading and writing are two events here. */
static int queue_wait(int queue, News *news, int room, int milliseconds) {
  struct kevent events[BATCH];
  struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
  int count = kevent(queue, NULL, 0, events, room, milliseconds < 0 ? NULL : &time);
  for (int i = 0; i < count; i++) {
    int ready = events[i].filter == EVFILT_WRITE ? WRITE : READ;
    if (events[i].flags & EV_ERROR || (events[i].flags & EV_EOF && events[i].fflags)) ready = BOTH;
    news[i] = (News){(int)events[i].ident, ready, (uint32_t)(uintptr_t)events[i].udata};
  }
  return count;
}

#endif

/* Entries ------------------------------------------------------------------------------------- */

/* All below with the lock. */

static bool is_owned(int fd) {
  return fd < owned_size && owned[fd];
}

/* The entry of a descriptor, or NULL when memory is out. */
static Entry *entry_of(Poller *p, int fd) {
  if (fd >= p->size) {
    int size = fd + 64;
    Entry *grown = realloc(p->entries, (size_t)size * sizeof *grown);
    if (!grown) return NULL;
    memset(grown + p->size, 0, (size_t)(size - p->size) * sizeof *grown);
    p->entries = grown;
    p->size = size;
  }
  return &p->entries[fd];
}

/* Has watched what is wanted and awaited. Returns 0 or an errno. */
static int arm(Poller *p, int fd, Entry *entry) {
  int events = entry->wanted | entry->awaited;
  bool once = !entry->wanted && !is_owned(fd);
  int error = queue_watch(p->fd, fd, entry, events, once);
  entry->watched = (uint8_t)(error ? 0 : events);
  entry->kept = !error && is_owned(fd);
  return error;
}

static void forget(Poller *p, int fd, Entry *entry) {
  if (entry->watched) queue_forget(p->fd, fd, entry);
  entry->wanted = entry->awaited = entry->watched = 0;
  entry->kept = false;
}

/* What of the news anybody waits for; the system is told where that has changed. */
static int take(Poller *p, const News *news) {
  if (news->fd >= p->size) return 0;
  Entry *entry = &p->entries[news->fd];
  if (entry->generation != news->generation || !entry->watched) return 0;
  int asked = entry->wanted | entry->awaited, hit = news->events & asked;
  bool once = !entry->wanted && !entry->kept;
  bool unasked = !hit || (news->events & entry->watched & ~asked);
  entry->awaited &= (uint8_t)~hit;
  if (once) { /* the system has stopped watching */
    if (entry->awaited) arm(p, news->fd, entry);
  } else if (unasked && !asked) {
    forget(p, news->fd, entry);
  } else if (unasked && queue_watch(p->fd, news->fd, entry, asked, false) == 0) {
    entry->watched = (uint8_t)asked;
  }
  return hit;
}

/* Those that were closed while they were awaited count as ready. */
static int take_lost(Poller *p, News *news, int room) {
  int count = 0;
  for (int fd = 0; fd < p->size && p->lost && count < room; fd++) {
    if (!p->entries[fd].lost) continue;
    p->entries[fd].lost = false;
    p->lost--;
    news[count++] = (News){.fd = fd, .events = BOTH};
  }
  return count;
}

void poller_gains(int fd) {
  if (fd < 0) return;
  pthread_mutex_lock(&lock);
  if (fd >= owned_size) {
    int size = fd + 256;
    bool *grown = realloc(owned, (size_t)size * sizeof *grown);
    if (grown) {
      memset(grown + owned_size, 0, (size_t)(size - owned_size) * sizeof *grown);
      owned = grown;
      owned_size = size;
    }
  }
  if (fd < owned_size) owned[fd] = true; /* else it is registered anew for each wait */
  pthread_mutex_unlock(&lock);
}

void poller_loses(int fd) {
  if (fd < 0) return;
  pthread_mutex_lock(&lock);
  if (fd < owned_size) owned[fd] = false;
  for (Poller *p = open_pollers; p; p = p->next) {
    if (fd >= p->size) continue;
    Entry *entry = &p->entries[fd];
    if (entry->awaited && !entry->lost) {
      entry->lost = true;
      p->lost++;
    }
    /* A copy of the descriptor elsewhere would keep it in epoll's set. */
    forget(p, fd, entry);
  }
  pthread_mutex_unlock(&lock);
}

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
  for (int fd = 0; fd < p->size; fd++) {
    Entry *entry = &p->entries[fd];
    entry->watched = 0;
    entry->kept = false;
    if (entry->wanted | entry->awaited) arm(p, fd, entry);
  }
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
  free(p->entries);
  p->entries = NULL;
  p->size = p->lost = 0;
  pthread_mutex_unlock(&lock);
  lua_pushboolean(L, 1);
  return 1;
}

/* add() and once(): the arguments. Returns the events. */
static int check_events(lua_State *L, int *fd) {
  lua_Integer number = luaL_checkinteger(L, 2);
  const char *text = luaL_checkstring(L, 3);
  int events = (strchr(text, 'r') ? READ : 0) | (strchr(text, 'w') ? WRITE : 0);
  luaL_argcheck(L, number >= 0 && number < INT32_MAX - 64, 2, "a descriptor expected");
  luaL_argcheck(L, events, 3, "'r', 'w' or 'rw' expected");
  *fd = (int)number;
  return events;
}

static int done(lua_State *L, int error) {
  if (error) return error_errno(L, error);
  lua_pushboolean(L, 1);
  return 1;
}

/* add(fd, "r" | "w" | "rw") -> true: it is watched until it is removed. Added again, it is watched
 * for the new events alone. */
static int poller_add(lua_State *L) {
  Poller *p = check_poller(L);
  int fd, events = check_events(L, &fd), error = ENOMEM;
  if (p->fd < 0) return closed(L);
  pthread_mutex_lock(&lock);
  Entry *entry = entry_of(p, fd);
  if (entry) {
    entry->wanted = (uint8_t)events;
    error = arm(p, fd, entry);
    if (error) entry->wanted = 0;
  }
  pthread_mutex_unlock(&lock);
  return done(L, error);
}

/* once(fd, "r" | "w" | "rw") -> true: ready() tells once of each event; until then another call
 * adds to the events. */
static int poller_once(lua_State *L) {
  Poller *p = check_poller(L);
  int fd, events = check_events(L, &fd), error = ENOMEM;
  if (p->fd < 0) return closed(L);
  pthread_mutex_lock(&lock);
  Entry *entry = entry_of(p, fd);
  if (entry) {
    uint8_t before = entry->awaited;
    entry->awaited |= (uint8_t)events;
    error = 0;
    if (!entry->kept || (events & ~entry->watched)) error = arm(p, fd, entry);
    if (error) entry->awaited = before;
  }
  pthread_mutex_unlock(&lock);
  return done(L, error);
}

/* remove(fd) -> true, also when it was not watched. A descriptor that is not a core socket's is to
 * be removed before it is closed: a copy of it elsewhere would keep it in epoll's set. */
static int poller_remove(lua_State *L) {
  Poller *p = check_poller(L);
  lua_Integer fd = luaL_checkinteger(L, 2);
  if (p->fd < 0) return closed(L);
  if (fd >= 0 && fd < p->size) {
    pthread_mutex_lock(&lock);
    Entry *entry = &p->entries[fd];
    forget(p, (int)fd, entry);
    if (entry->lost) p->lost--;
    entry->lost = false;
    pthread_mutex_unlock(&lock);
  }
  return done(L, 0);
}

/* For how many pairs the list at index 2 has room. It grows before anything is taken from the
 * system: what is once taken is told, whatever the memory. */
static int make_room(lua_State *L, const Poller *p) {
  size_t room = lua_rawlen(L, 2) / 2, wanted = room < 8 ? 8 : p->full ? 2 * room : room;
  if (wanted > BATCH) wanted = BATCH;
  for (size_t i = 2 * room + 1; i <= 2 * wanted; i++) {
    lua_pushboolean(L, 0);
    lua_rawseti(L, 2, (int)i);
  }
  return (int)wanted;
}

/* ready(list [, deadline]) -> count: fills the list with what is ready, a descriptor and "r", "w"
 * or "rw" in turn, and returns the number of such pairs; what stands behind them has no meaning. An
 * error or a hang-up counts as both. No more than 256 pairs at a time; a descriptor may be in two.
 * deadline: a time on now()'s clock until which it waits for the first; without one it does not
 * wait. It may come back earlier, with none: after a signal, or when there were only news that
 * nobody waits for any more. */
static int poller_ready(lua_State *L) {
  Poller *p = check_poller(L);
  luaL_checktype(L, 2, LUA_TTABLE);
  double deadline = luaL_optnumber(L, 3, 0);
  luaL_argcheck(L, deadline == deadline, 3, "a time expected, got nan");
  if (p->fd < 0) return closed(L);
  lua_settop(L, 2);
  int room = make_room(L, p);
  lua_pushliteral(L, "r"); /* at 2 + READ */
  lua_pushliteral(L, "w");
  lua_pushliteral(L, "rw");
  News news[BATCH];
  pthread_mutex_lock(&lock);
  int count = p->lost ? take_lost(p, news, room) : 0;
  pthread_mutex_unlock(&lock);
  if (count == 0) {
    int got = queue_wait(p->fd, news, room, core_milliseconds(deadline));
    if (got < 0 && errno != EINTR) return error_errno(L, errno);
    pthread_mutex_lock(&lock);
    for (int i = 0; i < got; i++) {
      news[count] = (News){.fd = news[i].fd, .events = take(p, &news[i])};
      if (news[count].events) count++;
    }
    pthread_mutex_unlock(&lock);
    p->full = got == room;
  }
  for (int i = 0; i < count; i++) {
    lua_pushinteger(L, news[i].fd);
    lua_rawseti(L, 2, 2 * i + 1);
    lua_pushvalue(L, 2 + news[i].events);
    lua_rawseti(L, 2, 2 * i + 2);
  }
  lua_pushinteger(L, count);
  return 1;
}

/* getfd() -> fd, readable when something is ready; -1 when closed */
static int poller_getfd(lua_State *L) {
  lua_pushinteger(L, check_poller(L)->fd);
  return 1;
}

static const luaL_Reg methods[] = {
    {"add", poller_add},   {"close", poller_close}, {"getfd", poller_getfd},
    {"once", poller_once}, {"ready", poller_ready}, {"remove", poller_remove},
    {NULL, NULL},
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

/* luaopen_tlsconnect_core, and the few helpers that every file shares. */
#include "core.h"
#include "codings.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define DATUM_TYPE "tlsconnect.datum"

static int datum_gc(lua_State *L) {
  gnutls_datum_t *datum = lua_touserdata(L, 1);
  if (datum->data) {
    gnutls_memset(datum->data, 0, datum->size); /* it may hold a key */
    gnutls_free(datum->data);
    datum->size = 0;
  }
  return 0;
}

gnutls_datum_t *core_datum(lua_State *L) {
  return core_new(L, DATUM_TYPE, sizeof(gnutls_datum_t));
}

static unsigned forks;

static void count_fork(void) {
  forks++;
}

static void watch_forks(void) {
  pthread_atfork(NULL, NULL, count_fork);
}

unsigned core_forks(void) {
  return forks;
}

double core_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

int core_milliseconds(double deadline) {
  if (!(deadline < HUGE_VAL)) return -1;
  double left = (deadline - core_now()) * 1000;
  return left <= 0 ? 0 : left > 1e9 ? 1000000000 : (int)ceil(left);
}

/* Pushes the field, or returns false and pushes nothing. */
static bool option(lua_State *L, int index, const char *field) {
  if (index == 0 || lua_isnoneornil(L, index)) return false;
  luaL_checktype(L, index, LUA_TTABLE);
  lua_getfield(L, index, field);
  if (!lua_isnil(L, -1)) return true;
  lua_pop(L, 1);
  return false;
}

static void wrong_option(lua_State *L, const char *field, const char *expected) {
  luaL_error(L, "option '%s': %s expected, got %s", field, expected, luaL_typename(L, -1));
}

/* The string stays alive as long as the options table holds it. */
const char *core_optstring(lua_State *L, int index, const char *field, size_t *size) {
  if (size) *size = 0;
  if (!option(L, index, field)) return NULL;
  if (lua_type(L, -1) != LUA_TSTRING) wrong_option(L, field, "string");
  const char *value = lua_tolstring(L, -1, size);
  lua_pop(L, 1);
  return value;
}

bool core_optboolean(lua_State *L, int index, const char *field) {
  if (!option(L, index, field)) return false;
  if (!lua_isboolean(L, -1)) wrong_option(L, field, "boolean");
  bool value = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return value;
}

double core_optnumber(lua_State *L, int index, const char *field, double fallback) {
  if (!option(L, index, field)) return fallback;
  if (lua_type(L, -1) != LUA_TNUMBER) wrong_option(L, field, "number");
  double value = lua_tonumber(L, -1);
  lua_pop(L, 1);
  return value;
}

static int core_now_lua(lua_State *L) {
  lua_pushnumber(L, core_now());
  return 1;
}

/* forks(): 0, or in a process that was forked after the module was loaded, how many times. */
static int core_forks_lua(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)forks);
  return 1;
}

/* poll(fd, events, deadline): events "r", "w" or "rw"; deadline on now()'s clock, or nil for none.
 * True when ready, also when the descriptor has an error that the next call will report. This is
 * the default wait, the one function of the core that blocks. A signal does not end it early. */
static int core_poll(lua_State *L) {
  lua_Integer fd = luaL_checkinteger(L, 1);
  struct pollfd entry = {.fd = (int)fd};
  const char *events = luaL_checkstring(L, 2);
  double deadline = luaL_optnumber(L, 3, HUGE_VAL);
  if (strchr(events, 'r')) entry.events |= POLLIN;
  if (strchr(events, 'w')) entry.events |= POLLOUT;
  luaL_argcheck(L, entry.events, 2, "'r', 'w' or 'rw' expected");
  luaL_argcheck(L, deadline == deadline, 3, "a time expected, got nan");
  /* poll(2) waits on no negative number, and so for ever; a closed connection's is -1. */
  if (fd < 0 || fd > INT_MAX) return error_errno(L, EBADF);
  for (;;) {
    int rc = poll(&entry, 1, core_milliseconds(deadline));
    if (rc > 0 && (entry.revents & POLLNVAL)) return error_errno(L, EBADF);
    if (rc > 0) {
      lua_pushboolean(L, 1);
      return 1;
    }
    if (rc < 0 && errno != EINTR) return error_errno(L, errno);
    if (deadline < HUGE_VAL && core_now() >= deadline) {
      lua_pushnil(L);
      lua_pushliteral(L, "timeout");
      return 2;
    }
  }
}

/* terminal(fd): the columns of the terminal that the descriptor is (0: unknown), or nil when it is
 * none. The command-line tool paints and cleans what it writes there. */
static int core_terminal(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  struct winsize size = {0};
  if (!isatty(fd)) {
    lua_pushnil(L);
    return 1;
  }
  if (ioctl(fd, TIOCGWINSZ, &size) != 0) size.ws_col = 0;
  lua_pushinteger(L, size.ws_col);
  return 1;
}

extern char **environ; /* POSIX: the program declares it */

/* proxied(): whether the environment has a variable that names a proxy. Asked before each request,
 * so all names are looked for in one go. */
static int core_proxied(lua_State *L) {
  static const char *const names[] = {"http_proxy=", "https_proxy=", "all_proxy="};
  bool found = false;
  for (char **entry = environ; entry && *entry && !found; entry++) {
    char first = **entry;
    if (first != 'h' && first != 'H' && first != 'a' && first != 'A') continue;
    for (int i = 0; i < 3 && !found; i++)
      found = strncasecmp(*entry, names[i], strlen(names[i])) == 0;
  }
  lua_pushboolean(L, found);
  return 1;
}

/* append(path, bytes): adds the bytes to a file in one write; one that does not exist yet is made
 * for this user alone. For what nobody else should read (the key log). True, or nil, message,
 * cause. */
static int core_append(lua_State *L) {
  size_t length, size;
  const char *path = luaL_checklstring(L, 1, &length);
  luaL_argcheck(L, strlen(path) == length, 1, "a NUL byte in the path");
  const char *bytes = luaL_checklstring(L, 2, &size);
  int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0) return error_errno(L, errno);
  int failed = 0;
  while (size > 0 && !failed) {
    ssize_t count = write(fd, bytes, size);
    if (count < 0 && errno != EINTR) failed = errno;
    if (count > 0) {
      bytes += count;
      size -= (size_t)count;
    }
  }
  if (close(fd) != 0 && !failed) failed = errno;
  if (failed) return error_errno(L, failed);
  lua_pushboolean(L, 1);
  return 1;
}

static const luaL_Reg no_methods[] = {{NULL, NULL}};
static const luaL_Reg datum_meta[] = {{"__gc", datum_gc}, {NULL, NULL}};
static const luaL_Reg functions[] = {{"now", core_now_lua},
                                     {"forks", core_forks_lua},
                                     {"poll", core_poll},
                                     {"terminal", core_terminal},
                                     {"append", core_append},
                                     {"proxied", core_proxied},
                                     {NULL, NULL}};

__attribute__((visibility("default"))) int luaopen_tlsconnect_core(lua_State *L);
int luaopen_tlsconnect_core(lua_State *L) {
  if (!gnutls_check_version("3.7.0"))
    return luaL_error(L, "tlsconnect needs GnuTLS 3.7 or later, found %s",
                      gnutls_check_version(NULL));
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, watch_forks);
  core_type(L, DATUM_TYPE, no_methods, datum_meta);
  lua_newtable(L);
  luaL_setfuncs(L, functions, 0);
  lua_pushstring(L, gnutls_check_version(NULL));
  lua_setfield(L, -2, "gnutls");
  large_open(L);
  lua_newtable(L);
  for (int i = 0; codings[i].name; i++) {
    lua_pushstring(L, codings[i].name);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -2, "codings");
  error_open(L);
  address_open(L);
  idna_open(L);
  resolver_open(L);
  poller_open(L);
  socket_open(L);
  certificate_open(L);
  key_open(L);
  context_open(L);
  session_open(L);
  trust_open(L);
  lock_open(L);
  digest_open(L);
  file_open(L);
  head_open(L);
  private_open(L);
  return 1;
}

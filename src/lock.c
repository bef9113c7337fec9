/* Locks between processes that read and write one file of state at the same time. The file is
 * replaced as a whole, so the lock stands for it in a file of its own, which stays. */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define LOCK_TYPE "tlsconnect.lock"

typedef struct {
  int fd;         /* plus one, so that all bytes zero is a closed one */
  unsigned forks; /* core_forks() of the process that took it */
} Lock;

/* A child that was forked meanwhile has the descriptor, too: closing it here would not give the
 * lock back, and the child is not to give back what is its parent's. */
static void release(Lock *lock) {
  if (lock->fd > 0 && lock->forks == core_forks()) flock(lock->fd - 1, LOCK_UN);
  if (lock->fd > 0) close(lock->fd - 1);
  lock->fd = 0;
}

/* lock_file(path): takes the lock that `path`, a file made for nothing else, stands for. A lock,
 * whose close() gives it back; nil, "locked" while another has it; or nil, message, cause. A
 * symbolic link is refused. */
static int lock_file(lua_State *L) {
  size_t size;
  const char *path = luaL_checklstring(L, 1, &size);
  luaL_argcheck(L, strlen(path) == size, 1, "a NUL byte in the path");
  Lock *lock = core_new(L, LOCK_TYPE, sizeof *lock);
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
  if (fd < 0) return error_errno(L, errno);
  lock->fd = fd + 1;
  lock->forks = core_forks();
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return 1;
  int number = errno;
  release(lock);
  if (number != EWOULDBLOCK && number != EINTR) return error_errno(L, number);
  lua_pushnil(L);
  lua_pushliteral(L, "locked");
  return 2;
}

static int lock_close(lua_State *L) {
  release(luaL_checkudata(L, 1, LOCK_TYPE));
  return 0;
}

static const luaL_Reg methods[] = {{"close", lock_close}, {NULL, NULL}};
static const luaL_Reg meta[] = {{"__gc", lock_close}, {NULL, NULL}};

void lock_open(lua_State *L) {
  core_type(L, LOCK_TYPE, methods, meta);
  lua_pushcfunction(L, lock_file);
  lua_setfield(L, -2, "lock_file");
}

/* Files of state, which other processes read and write at the same time: read whole, replaced whole
 * (a new file beside it takes its name), under a lock of their own. */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_TYPE "tlsconnect.lock"
#define FILE_TYPE "tlsconnect.state"

enum { MAX_PATH = 4096 };

/* A descriptor, and the name of a file that is not wanted any more. */
typedef struct {
  int fd;
  char *unwanted;
} File;

static File *file_new(lua_State *L, const char *type) {
  File *file = core_new(L, type, sizeof *file);
  file->fd = -1;
  return file;
}

static void file_close(File *file) {
  if (file->fd >= 0) close(file->fd);
  file->fd = -1;
  if (file->unwanted) unlink(file->unwanted);
  free(file->unwanted);
  file->unwanted = NULL;
}

static int file_gc(lua_State *L) {
  file_close(lua_touserdata(L, 1));
  return 0;
}

/* Closes, and fails with the number. */
static int failed(lua_State *L, File *file, int number) {
  file_close(file);
  if (number == ELOOP) return error_named(L, "unreadable_file", "it is a symbolic link");
  return error_errno(L, number);
}

static const char *check_path(lua_State *L) {
  size_t size;
  const char *path = luaL_checklstring(L, 1, &size);
  luaL_argcheck(L, size > 0 && size < MAX_PATH && strlen(path) == size, 1, "no path");
  return path;
}

/* read_file(path, limit): all bytes of a regular file that is no symbolic link, or nil, message,
 * cause; of more than `limit` bytes: EFBIG. */
static int read_file(lua_State *L) {
  const char *path = check_path(L);
  double limit = luaL_checknumber(L, 2);
  File *file = file_new(L, FILE_TYPE);
  struct stat found;
  file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (file->fd < 0 || fstat(file->fd, &found) < 0) return failed(L, file, errno);
  if (!S_ISREG(found.st_mode)) return failed(L, file, S_ISDIR(found.st_mode) ? EISDIR : EINVAL);
  if ((double)found.st_size > limit) return failed(L, file, EFBIG);
  luaL_Buffer buffer;
  luaL_buffinit(L, &buffer);
  double total = 0;
  for (;;) {
    char *room = luaL_prepbuffer(&buffer);
    ssize_t got = read(file->fd, room, LUAL_BUFFERSIZE);
    int number = errno;
    if (got < 0 && number == EINTR) continue;
    total += got > 0 ? (double)got : 0;
    luaL_addsize(&buffer, got > 0 ? (size_t)got : 0);
    if (got == 0) break;
    if (got < 0 || total > limit) {
      luaL_pushresult(&buffer);
      return failed(L, file, got < 0 ? number : EFBIG);
    }
  }
  luaL_pushresult(&buffer);
  file_close(file);
  return 1;
}

static int write_all(int fd, const char *bytes, size_t size) {
  while (size) {
    ssize_t put = write(fd, bytes, size);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return errno;
    bytes += put;
    size -= (size_t)put;
  }
  return 0;
}

/* A new file beside `path`, with a name that nobody else has. 0, or an errno. */
static int create_beside(File *file, const char *path) {
  size_t size = strlen(path) + 24;
  char *name = malloc(size);
  if (!name) return ENOMEM;
  for (int tries = 0; tries < 16; tries++) {
    unsigned char random[8];
    if (gnutls_rnd(GNUTLS_RND_NONCE, random, sizeof random) < 0) break;
    int length = snprintf(name, size, "%s.", path);
    for (size_t i = 0; i < sizeof random; i++)
      length += snprintf(name + length, size - (size_t)length, "%02x", random[i]);
    file->fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (file->fd >= 0) {
      file->unwanted = name;
      return 0;
    }
    if (errno != EEXIST) break;
  }
  int number = errno;
  free(name);
  return number ? number : EEXIST;
}

/* replace_file(path, bytes): writes a new file and gives it the name: whoever reads sees the old
 * bytes or the new ones, whatever goes wrong. It keeps the old one's permissions; a new one is its
 * owner's alone (0600). A symbolic link is refused. True, or nil, message, cause. */
static int replace_file(lua_State *L) {
  const char *path = check_path(L);
  size_t size;
  const char *bytes = luaL_checklstring(L, 2, &size);
  File *file = file_new(L, FILE_TYPE);
  struct stat old;
  bool there = lstat(path, &old) == 0;
  if (there && !S_ISREG(old.st_mode)) return failed(L, file, S_ISLNK(old.st_mode) ? ELOOP : EINVAL);
  int number = create_beside(file, path);
  if (number == 0) number = write_all(file->fd, bytes, size);
  if (number == 0 && there && fchmod(file->fd, old.st_mode & 0777) < 0) number = errno;
  if (number == 0 && fsync(file->fd) < 0) number = errno;
  if (number == 0 && rename(file->unwanted, path) < 0) number = errno;
  if (number) return failed(L, file, number);
  free(file->unwanted); /* the name is gone */
  file->unwanted = NULL;
  file_close(file);
  lua_pushboolean(L, 1);
  return 1;
}

/* lock_file(path): takes the lock that `path`, a file made for nothing else, stands for. A lock,
 * whose close() gives it back; nil, "locked" while another has it; or nil, message, cause. */
static int lock_file(lua_State *L) {
  const char *path = check_path(L);
  File *file = file_new(L, LOCK_TYPE);
  file->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
  if (file->fd < 0) return failed(L, file, errno);
  if (flock(file->fd, LOCK_EX | LOCK_NB) == 0) return 1;
  int number = errno;
  if (number != EWOULDBLOCK && number != EINTR) return failed(L, file, number);
  file_close(file);
  lua_pushnil(L);
  lua_pushliteral(L, "locked");
  return 2;
}

static int lock_close(lua_State *L) {
  file_close(luaL_checkudata(L, 1, LOCK_TYPE));
  return 0;
}

static const luaL_Reg no_methods[] = {{NULL, NULL}};
static const luaL_Reg lock_methods[] = {{"close", lock_close}, {NULL, NULL}};
static const luaL_Reg meta[] = {{"__gc", file_gc}, {NULL, NULL}};
static const luaL_Reg functions[] = {{"read_file", read_file},
                                     {"replace_file", replace_file},
                                     {"lock_file", lock_file},
                                     {NULL, NULL}};

void state_open(lua_State *L) {
  core_type(L, FILE_TYPE, no_methods, meta);
  core_type(L, LOCK_TYPE, lock_methods, meta);
  luaL_setfuncs(L, functions, 0);
}

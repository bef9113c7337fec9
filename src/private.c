/* Files that hold secrets: nobody else may read or plant them, and none is ever seen half written.
 */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A descriptor that the collector closes, should an error be raised. */
typedef struct {
  int fd;
} File;

#define FILE_TYPE "tlsconnect.private"

static void file_close(File *file) {
  if (file->fd >= 0) close(file->fd);
  file->fd = -1;
}

static int file_gc(lua_State *L) {
  file_close(lua_touserdata(L, 1));
  return 0;
}

static File *file_new(lua_State *L) {
  File *file = core_new(L, FILE_TYPE, sizeof *file);
  file->fd = -1;
  return file;
}

static const char *check_path(lua_State *L) {
  size_t size;
  const char *path = luaL_checklstring(L, 1, &size);
  luaL_argcheck(L, strlen(path) == size, 1, "a NUL byte in the path");
  return path;
}

static bool write_all(int fd, const char *data, size_t size) {
  while (size > 0) {
    ssize_t done = write(fd, data, size);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return false;
    data += done;
    size -= (size_t)done;
  }
  return true;
}

/* write_private(path, data): replaces the file as a whole, with mode 0600. True, or nil, message,
 * cause; the old file stays then. */
static int private_write(lua_State *L) {
  size_t size;
  const char *path = check_path(L), *data = luaL_checklstring(L, 2, &size);
  File *file = file_new(L);
  const char *pattern = lua_pushfstring(L, "%s.XXXXXX", path);
  char *name = lua_newuserdata(L, strlen(pattern) + 1);
  strcpy(name, pattern);
  file->fd = mkostemp(name, O_CLOEXEC); /* O_EXCL, 0600 */
  if (file->fd < 0) return error_errno(L, errno);
  bool good = fchmod(file->fd, S_IRUSR | S_IWUSR) == 0 && write_all(file->fd, data, size) &&
              fsync(file->fd) == 0 && rename(name, path) == 0;
  int number = errno;
  file_close(file);
  if (!good) {
    unlink(name);
    return error_errno(L, number);
  }
  lua_pushboolean(L, 1);
  return 1;
}

/* Why the file cannot be trusted, or NULL. */
static const char *suspicious(const struct stat *about) {
  if (!S_ISREG(about->st_mode)) return "it is no regular file";
  if (about->st_uid != geteuid()) return "it belongs to another user";
  if (about->st_mode & (S_IRWXG | S_IRWXO)) return "others may use it (its mode is not 0600)";
  return NULL;
}

/* Pushes what is in the file, or nil, message, cause. Returns the number of results. */
static int push_content(lua_State *L, const File *file, size_t limit) {
  size_t size = 0;
  struct stat about;
  if (file->fd < 0 || fstat(file->fd, &about) < 0) return error_errno(L, errno);
  const char *why = suspicious(&about);
  if (why) return error_named(L, "unreadable_file", "%s", why);
  if (about.st_size < 0 || (size_t)about.st_size > limit)
    return error_named(L, "too_long", "it is longer than %d bytes", (int)limit);
  char *data = lua_newuserdata(L, (size_t)about.st_size + 1);
  while (size < (size_t)about.st_size) {
    ssize_t got = read(file->fd, data + size, (size_t)about.st_size - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return error_errno(L, errno);
    if (got == 0) break;
    size += (size_t)got;
  }
  lua_pushlstring(L, data, size);
  gnutls_memset(data, 0, size);
  return 1;
}

/* read_private(path, limit): the content, of at most `limit` bytes, of a file that nobody else can
 * have written or read; nil, message, cause. */
static int private_read(lua_State *L) {
  const char *path = check_path(L);
  size_t limit = (size_t)luaL_checkinteger(L, 2);
  File *file = file_new(L);
  file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  int results = push_content(L, file, limit);
  file_close(file);
  return results;
}

void private_open(lua_State *L) {
  static const luaL_Reg none[] = {{NULL, NULL}};
  static const luaL_Reg meta[] = {{"__gc", file_gc}, {NULL, NULL}};
  core_type(L, FILE_TYPE, none, meta);
  lua_pushcfunction(L, private_write);
  lua_setfield(L, -2, "write_private");
  lua_pushcfunction(L, private_read);
  lua_setfield(L, -2, "read_private");
}

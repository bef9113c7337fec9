/* Files that downloads are written to. What Lua's io cannot say is said here: a file must be new,
 * must not be a symbolic link, must be nobody else's at the moment. */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_TYPE "tlsconnect.file"

typedef struct {
  int fd; /* plus one, so that all bytes zero is a closed one */
} File;

static int descriptor(lua_State *L, File **file) {
  *file = luaL_checkudata(L, 1, FILE_TYPE);
  return (*file)->fd - 1;
}

static void release(File *file) {
  if (file->fd > 0) close(file->fd - 1);
  file->fd = 0;
}

/* What an open file must be more: plain and, where it is continued, nobody else's at the moment. 0,
 * or the number of results of an error. */
static int refuse(lua_State *L, int fd, bool locked) {
  struct stat status;
  if (fstat(fd, &status) < 0) return error_errno(L, errno);
  if (!S_ISREG(status.st_mode)) return error_named(L, "permission", "not a plain file");
  if (!locked || flock(fd, LOCK_EX | LOCK_NB) == 0) return 0;
  if (errno != EWOULDBLOCK) return error_errno(L, errno);
  return error_named(L, "unwritable_file", "another call or process is writing it");
}

/* The FILE of an open file of Lua's. */
static FILE *lua_file(lua_State *L, int index) {
#if LUA_VERSION_NUM >= 502
  const luaL_Stream *stream = luaL_checkudata(L, index, LUA_FILEHANDLE);
  FILE *file = stream->closef ? stream->f : NULL;
#else
  FILE *file = *(FILE **)luaL_checkudata(L, index, LUA_FILEHANDLE);
#endif
  luaL_argcheck(L, file, index, "the file is closed");
  return file;
}

OpenFile file_begin(lua_State *L, int index) {
  OpenFile file = {NULL, -1, 0};
  const File *own = luaL_testudata(L, index, FILE_TYPE);
  if (own) {
    file.fd = own->fd - 1;
    luaL_argcheck(L, file.fd >= 0, index, "the file is closed");
    return file;
  }
  file.stream = lua_file(L, index);
  file.fd = fileno(file.stream);
  if (fflush(file.stream) != 0) file.problem = errno;
  return file;
}

/* POSIX 2.5.1: a stream whose descriptor was written to is told where it is. */
int file_end(OpenFile *file) {
  off_t here = file->stream ? lseek(file->fd, 0, SEEK_CUR) : -1;
  if (here < 0) return 0; /* no file to move about in */
  return fseeko(file->stream, here, SEEK_SET) == 0 ? 0 : errno;
}

/* pourable(file): whether pour() may write to it, an open file of Lua's or of this module. Not to a
 * pipe or a socket: their readers may go, and SIGPIPE is for the program to meet where it writes.
 */
static int file_pourable(lua_State *L) {
  struct stat status;
  int fd = -1;
  if (luaL_testudata(L, 1, FILE_TYPE)) {
    const File *own = lua_touserdata(L, 1);
    fd = own->fd - 1;
  } else {
    fd = fileno(lua_file(L, 1));
  }
  bool known = fd >= 0 && fstat(fd, &status) == 0;
  lua_pushboolean(L, known && (S_ISREG(status.st_mode) || S_ISCHR(status.st_mode)));
  return 1;
}

/* file(path, mode): a file to write to. mode "new": it must not exist; "private": so, and it is its
 * user's alone; "resume": it is continued, or made when it does not exist, and locked against
 * others that do the same. A symbolic link is refused either way, and so is what is no plain file.
 * nil, message, cause. */
static int file_new(lua_State *L) {
  static const char *const modes[] = {"new", "resume", "private", NULL};
  size_t size;
  const char *path = luaL_checklstring(L, 1, &size);
  luaL_argcheck(L, strlen(path) == size, 1, "a NUL byte in it");
  int mode = luaL_checkoption(L, 2, NULL, modes);
  bool resume = mode == 1;
  File *file = core_new(L, FILE_TYPE, sizeof *file);
  int flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
  int fd;
  do
    fd = open(path, flags | (resume ? O_APPEND : O_EXCL), mode == 2 ? 0600 : 0666);
  while (fd < 0 && errno == EINTR);
  if (fd < 0) return error_errno(L, errno);
  file->fd = fd + 1;
  int results = refuse(L, fd, resume);
  if (!results) return 1;
  release(file);
  return results;
}

/* f:write(data): true, or nil, message, cause. */
static int file_write(lua_State *L) {
  File *file;
  int fd = descriptor(L, &file);
  size_t size;
  const char *data = luaL_checklstring(L, 2, &size);
  while (size > 0) {
    ssize_t done = write(fd, data, size);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return error_errno(L, errno);
    data += done;
    size -= (size_t)done;
  }
  lua_pushboolean(L, 1);
  return 1;
}

/* f:size(): bytes in it, or nil, message, cause. */
static int file_size(lua_State *L) {
  File *file;
  struct stat status;
  if (fstat(descriptor(L, &file), &status) < 0) return error_errno(L, errno);
  lua_pushinteger(L, (lua_Integer)status.st_size);
  return 1;
}

/* f:clear(): throws its bytes away. True, or nil, message, cause. */
static int file_clear(lua_State *L) {
  File *file;
  if (ftruncate(descriptor(L, &file), 0) < 0) return error_errno(L, errno);
  lua_pushboolean(L, 1);
  return 1;
}

/* f:close(): true, or nil, message, cause when what was written did not arrive. */
static int file_close(lua_State *L) {
  File *file;
  int fd = descriptor(L, &file);
  file->fd = 0;
  if (fd >= 0 && close(fd) < 0 && errno != EINTR) return error_errno(L, errno);
  lua_pushboolean(L, 1);
  return 1;
}

static int file_gc(lua_State *L) {
  release(luaL_checkudata(L, 1, FILE_TYPE));
  return 0;
}

static const luaL_Reg methods[] = {{"write", file_write},
                                   {"size", file_size},
                                   {"clear", file_clear},
                                   {"close", file_close},
                                   {NULL, NULL}};
static const luaL_Reg meta[] = {{"__gc", file_gc}, {NULL, NULL}};

void file_open(lua_State *L) {
  core_type(L, FILE_TYPE, methods, meta);
  lua_pushcfunction(L, file_new);
  lua_setfield(L, -2, "file");
  lua_pushcfunction(L, file_pourable);
  lua_setfield(L, -2, "pourable");
}

/* A stream socket (TCP or Unix) that never blocks. What would block returns nil and "want_read" or
 * "want_write"; what the world did wrong returns nil, message, cause; a closed socket's cause has
 * the code "closed". */
#include "core.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_TYPE "tlsconnect.socket"

typedef struct {
  Channel *channel; /* NULL once collected: a later finaliser may still call */
} Socket;

/* The descriptor ------------------------------------------------------------------------------ */

static int channel_take(Channel *channel, int fd) {
  poller_gains(fd);
  return channel->fd = fd;
}

/* Takes its descriptor away; -1 when there is none. */
static int channel_give(Channel *channel) {
  int fd = channel->fd;
  channel->fd = -1;
  poller_loses(fd);
  return fd;
}

void channel_close(Channel *channel) {
  int fd = channel_give(channel);
  /* Never again after EINTR: the number is free by then, and may be another's. */
  if (fd >= 0) close(fd);
}

static void drop_input(Channel *channel) {
  if (!channel->input) return;
  input_free(channel->input);
  free(channel->input);
  channel->input = NULL;
}

void channel_release(Channel *channel) {
  if (--channel->references > 0) return;
  channel_close(channel);
  drop_input(channel);
  free(channel);
}

static bool set_flags(int fd) {
  int status = fcntl(fd, F_GETFL), descriptor = fcntl(fd, F_GETFD);
  if (status < 0 || descriptor < 0 || fcntl(fd, F_SETFD, descriptor | FD_CLOEXEC) < 0 ||
      fcntl(fd, F_SETFL, status | O_NONBLOCK) < 0)
    return false;
#ifdef SO_NOSIGPIPE
  setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &(int){1}, sizeof(int));
#endif
  return true;
}

/* Closes fd when it cannot be made ready. Returns it, or -1 and errno. */
static int made_ready(int fd) {
  if (fd < 0 || set_flags(fd)) return fd;
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}

static int open_descriptor(int family) {
#if defined(SOCK_NONBLOCK) && defined(SOCK_CLOEXEC)
  int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd >= 0 || errno != EINVAL) return fd;
#endif
  return made_ready(socket(family, SOCK_STREAM, 0));
}

static int accept_descriptor(int listener) {
#if defined(SOCK_NONBLOCK) && defined(SOCK_CLOEXEC)
  int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0 || errno != ENOSYS) return fd;
#endif
  return made_ready(accept(listener, NULL, NULL));
}

/* The userdata -------------------------------------------------------------------------------- */

static Socket *check_socket(lua_State *L, int index) {
  return luaL_checkudata(L, index, SOCKET_TYPE);
}

Channel *socket_channel(lua_State *L, int index) {
  Socket *s = check_socket(L, index);
  luaL_argcheck(L, s->channel, index, "the socket is collected");
  return s->channel;
}

void socket_push(lua_State *L, Channel *channel) {
  Socket *s = core_new(L, SOCKET_TYPE, sizeof *s);
  s->channel = channel;
  channel->references++;
}

static int descriptor(const Socket *s) {
  return s->channel ? s->channel->fd : -1;
}

static int closed(lua_State *L) {
  return error_named(L, "closed", "closed");
}

/* Pushes a closed socket, ready to take a descriptor; NULL and pushed results when memory is out.
 */
static Socket *new_socket(lua_State *L) {
  Socket *s = core_new(L, SOCKET_TYPE, sizeof *s);
  s->channel = calloc(1, sizeof *s->channel);
  if (!s->channel) {
    error_errno(L, ENOMEM);
    return NULL;
  }
  s->channel->references = 1;
  s->channel->fd = -1;
  return s;
}

static int family_of(lua_State *L, int index) {
  static const char *const names[] = {"inet", "inet6", "unix", NULL};
  static const int families[] = {AF_INET, AF_INET6, AF_UNIX};
  return families[luaL_checkoption(L, index, NULL, names)];
}

/* socket(family) -> socket: "inet", "inet6" or "unix"; not connected. */
static int socket_new(lua_State *L) {
  int family = family_of(L, 1);
  Socket *s = new_socket(L);
  if (!s) return 3;
  int fd = channel_take(s->channel, open_descriptor(family));
  s->channel->family = (uint8_t)family;
  if (fd < 0) return error_errno(L, errno);
  return 1;
}

/* adopt(fd) -> socket: takes over a stream socket made elsewhere, and makes it non-blocking and
 * close-on-exec. On failure the descriptor stays the caller's. */
static int socket_adopt(lua_State *L) {
  lua_Integer fd = luaL_checkinteger(L, 1);
  luaL_argcheck(L, fd >= 0 && fd <= INT32_MAX, 1, "a descriptor expected");
  Socket *s = new_socket(L);
  if (!s) return 3;
  int type = 0;
  socklen_t length = sizeof type;
  if (getsockopt((int)fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0) return error_errno(L, errno);
  if (type != SOCK_STREAM) return error_named(L, "unsupported", "not a stream socket");
  if (!set_flags((int)fd)) return error_errno(L, errno);
  channel_take(s->channel, (int)fd);
  return 1;
}

static int socket_gc(lua_State *L) {
  Socket *s = check_socket(L, 1);
  if (s->channel) channel_release(s->channel);
  s->channel = NULL;
  return 0;
}

/* close() -> true. The second time, too. Bytes read ahead are dropped. */
static int socket_close(lua_State *L) {
  Socket *s = check_socket(L, 1);
  if (s->channel) {
    channel_close(s->channel);
    drop_input(s->channel);
  }
  lua_pushboolean(L, 1);
  return 1;
}

/* detach() -> fd: gives the descriptor to the caller; -1 when closed. The socket is closed after.
 */
static int socket_detach(lua_State *L) {
  Socket *s = check_socket(L, 1);
  lua_pushinteger(L, s->channel ? channel_give(s->channel) : -1);
  return 1;
}

/* getfd() -> fd, -1 when closed */
static int socket_getfd(lua_State *L) {
  lua_pushinteger(L, descriptor(check_socket(L, 1)));
  return 1;
}

static int socket_tostring(lua_State *L) {
  Socket *s = check_socket(L, 1);
  if (descriptor(s) >= 0)
    lua_pushfstring(L, "tlsconnect.socket (descriptor %d)", s->channel->fd);
  else
    lua_pushliteral(L, "tlsconnect.socket (closed)");
  return 1;
}

/* Addresses ----------------------------------------------------------------------------------- */

/* The socket's own family decides how the address at `index` is read. Returns false after it has
 * pushed nil, message, cause. */
static bool check_address(lua_State *L, Socket *s, int index, Address *address) {
  size_t size;
  const char *text = luaL_checklstring(L, index, &size);
  if (!s->channel->family) {
    Address own = {.length = sizeof own.storage};
    if (getsockname(s->channel->fd, &own.any, &own.length) != 0) {
      error_errno(L, errno);
      return false;
    }
    s->channel->family = (uint8_t)own.any.sa_family;
  }
  if (s->channel->family != AF_UNIX) {
    lua_Integer port = luaL_checkinteger(L, index + 1);
    luaL_argcheck(L, port >= 0 && port <= 65535, index + 1, "a port from 0 to 65535 expected");
    if (!address_parse(text, size, (uint16_t)port, address)) {
      error_named(L, "bad_address", "not an IP address in full");
      return false;
    }
    if (address->any.sa_family != s->channel->family) {
      error_named(L, "bad_address", "an address of the other family");
      return false;
    }
    return true;
  }
  memset(address, 0, sizeof *address);
  address->local.sun_family = AF_UNIX;
  if (size == 0 || size >= sizeof address->local.sun_path || memchr(text, '\0', size)) {
    error_named(L, "bad_path", "a socket's path has 1 to %d bytes, and no NUL",
                (int)sizeof address->local.sun_path - 1);
    return false;
  }
  memcpy(address->local.sun_path, text, size);
  address->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size + 1);
  return true;
}

static int push_name(lua_State *L, int (*ask)(int, struct sockaddr *, socklen_t *)) {
  Socket *s = check_socket(L, 1);
  if (descriptor(s) < 0) return closed(L);
  Address address = {.length = sizeof address.storage};
  if (ask(s->channel->fd, &address.any, &address.length) != 0) return error_errno(L, errno);
  return address_push(L, &address);
}

/* local_address() -> address, port, family; of a Unix socket path, nil, "unix" */
static int socket_local_address(lua_State *L) {
  return push_name(L, getsockname);
}

/* peer_address() -> address, port, family */
static int socket_peer_address(lua_State *L) {
  return push_name(L, getpeername);
}

/* bind(address, port) -> true; a Unix socket: bind(path) */
static int socket_bind(lua_State *L) {
  Socket *s = check_socket(L, 1);
  Address address;
  if (descriptor(s) < 0) return closed(L);
  if (!check_address(L, s, 2, &address)) return 3;
  if (bind(s->channel->fd, &address.any, address.length) != 0) return error_errno(L, errno);
  lua_pushboolean(L, 1);
  return 1;
}

/* Connecting and listening -------------------------------------------------------------------- */

/* A port that nobody listens on may be picked as the connecting socket's own, and TCP's
 * simultaneous open (RFC 9293 section 3.5) then connects it to itself. */
static bool is_own_peer(int fd, const Address *peer) {
  Address own = {.length = sizeof own.storage};
  if (peer->any.sa_family != AF_INET && peer->any.sa_family != AF_INET6) return false;
  if (getsockname(fd, &own.any, &own.length) != 0) return false;
  if (own.any.sa_family != peer->any.sa_family) return false;
  if (own.any.sa_family == AF_INET)
    return own.inet.sin_port == peer->inet.sin_port &&
           own.inet.sin_addr.s_addr == peer->inet.sin_addr.s_addr;
  return own.inet6.sin6_port == peer->inet6.sin6_port &&
         memcmp(&own.inet6.sin6_addr, &peer->inet6.sin6_addr, sizeof own.inet6.sin6_addr) == 0;
}

/* How a connect that is under way has ended, or has not: 0, EINPROGRESS, or why it failed. */
static int connect_result(const Socket *s, int fd, Address *peer) {
  peer->length = sizeof peer->storage;
  if (getpeername(fd, &peer->any, &peer->length) == 0) return 0;
  struct pollfd entry = {.fd = fd, .events = POLLOUT};
  int ready;
  do
    ready = poll(&entry, 1, 0);
  while (ready < 0 && errno == EINTR);
  /* ERR and HUP alone also mean that there is news. */
  if (s->channel->connecting && ready == 0) return EINPROGRESS;
  if (ready < 0) return errno;
  int error = 0;
  socklen_t length = sizeof error;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
  if (error) return error == EALREADY ? EINPROGRESS : error;
  peer->length = sizeof peer->storage;
  if (getpeername(fd, &peer->any, &peer->length) == 0) return 0;
  /* The error was fetched already; reading tells it again, if anything does. */
  error = errno;
  if (error == ENOTCONN && recv(fd, &(char){0}, 1, MSG_PEEK) < 0 && errno != EAGAIN) error = errno;
  return error;
}

/* error: how it ended. */
static int end_connect(lua_State *L, Socket *s, int error, const Address *peer) {
  if (error == EINPROGRESS) return error_want(L, true);
  s->channel->connecting = false;
  if (!error && is_own_peer(s->channel->fd, peer)) error = ECONNREFUSED;
  if (error) return error_errno(L, error);
  lua_pushboolean(L, 1);
  return 1;
}

/* finish_connect() -> true: asks how a connect that was under way has ended. */
static int socket_finish_connect(lua_State *L) {
  Socket *s = check_socket(L, 1);
  int fd = descriptor(s);
  if (fd < 0) return closed(L);
  Address peer;
  return end_connect(L, s, connect_result(s, fd, &peer), &peer);
}

/* connect(address, port) -> true; a Unix socket: connect(path). The address is an IP address.
 * After "want_write" comes finish_connect(). It dials once, however often it is called. */
static int socket_connect(lua_State *L) {
  Socket *s = check_socket(L, 1);
  Address address;
  if (descriptor(s) < 0) return closed(L);
  if (s->channel->dialled) return socket_finish_connect(L);
  if (!check_address(L, s, 2, &address)) return 3;
  s->channel->dialled = true;
  if (connect(s->channel->fd, &address.any, address.length) == 0) return socket_finish_connect(L);
  /* POSIX: interrupted, it goes on by itself, and a second call would say EALREADY. */
  if (errno == EINPROGRESS || errno == EINTR || errno == EALREADY) {
    s->channel->connecting = true;
    /* Within this machine it has most often ended by now. */
    address.length = sizeof address.storage;
    bool ended =
        errno == EINPROGRESS && getpeername(s->channel->fd, &address.any, &address.length) == 0;
    return end_connect(L, s, ended ? 0 : EINPROGRESS, &address);
  }
  if (errno == EISCONN) return socket_finish_connect(L);
  int error = errno;
  s->channel->dialled = false;
  /* Linux, a Unix socket whose listener's queue is full: there is nothing to wait on. */
  if (error == EAGAIN) return error_named(L, "backlog_full", "the listener's queue is full");
  return error_errno(L, error);
}

/* listen(backlog) -> true: connections that may wait to be accepted, the system's most unless told
 */
static int socket_listen(lua_State *L) {
  Socket *s = check_socket(L, 1);
  lua_Integer backlog = luaL_optinteger(L, 2, SOMAXCONN);
  luaL_argcheck(L, backlog >= 0 && backlog <= INT32_MAX, 2, "a number of connections expected");
  if (descriptor(s) < 0) return closed(L);
  if (listen(s->channel->fd, (int)backlog) != 0) return error_errno(L, errno);
  lua_pushboolean(L, 1);
  return 1;
}

/* What ended the one connection that was to be accepted says nothing about the next (accept(2)). */
static bool next_may_do(int error) {
  switch (error) {
  case EINTR:
  case ECONNABORTED:
  case EPROTO:
  case ENETDOWN:
  case ENETUNREACH:
  case EHOSTDOWN:
  case EHOSTUNREACH:
    return true;
  default:
    return false;
  }
}

/* accept() -> socket */
static int socket_accept(lua_State *L) {
  Socket *s = check_socket(L, 1);
  if (descriptor(s) < 0) return closed(L);
  Socket *peer = new_socket(L);
  if (!peer) return 3;
  int fd;
  do
    fd = channel_take(peer->channel, accept_descriptor(s->channel->fd));
  while (fd < 0 && next_may_do(errno));
  if (fd >= 0) return 1;
  return errno == EAGAIN || errno == EWOULDBLOCK ? error_want(L, false) : error_errno(L, errno);
}

static const struct {
  const char *name;
  int level, option;
  bool number; /* bytes or a count; else on or off */
} settings[] = {
    {"nodelay", IPPROTO_TCP, TCP_NODELAY, false},   {"keepalive", SOL_SOCKET, SO_KEEPALIVE, false},
    {"reuseaddr", SOL_SOCKET, SO_REUSEADDR, false}, {"v6only", IPPROTO_IPV6, IPV6_V6ONLY, false},
    {"send_buffer", SOL_SOCKET, SO_SNDBUF, true},   {"receive_buffer", SOL_SOCKET, SO_RCVBUF, true},
    {"reset", SOL_SOCKET, SO_LINGER, false},
};

/* set(name, value) -> true: "nodelay", "keepalive", "reuseaddr", "v6only" and "reset" (close()
 * resets the connection) are on or off, "send_buffer" and "receive_buffer" in bytes. */
static int socket_set(lua_State *L) {
  Socket *s = check_socket(L, 1);
  const char *name = luaL_checkstring(L, 2);
  size_t at = 0, count = sizeof settings / sizeof *settings;
  while (at < count && strcmp(settings[at].name, name) != 0)
    at++;
  luaL_argcheck(L, at < count, 2, "no such setting");
  if (!settings[at].number) luaL_checktype(L, 3, LUA_TBOOLEAN);
  int value = settings[at].number ? (int)luaL_checkinteger(L, 3) : lua_toboolean(L, 3);
  if (descriptor(s) < 0) return closed(L);
  struct linger linger = {.l_onoff = value};
  bool lingers = settings[at].option == SO_LINGER && settings[at].level == SOL_SOCKET;
  if (setsockopt(s->channel->fd, settings[at].level, settings[at].option,
                 lingers ? (void *)&linger : &value, lingers ? sizeof linger : sizeof value))
    return error_errno(L, errno);
  lua_pushboolean(L, 1);
  return 1;
}

/* shutdown("send" | "receive" | "both") -> true */
static int socket_shutdown(lua_State *L) {
  static const char *const names[] = {"send", "receive", "both", NULL};
  static const int ways[] = {SHUT_WR, SHUT_RD, SHUT_RDWR};
  Socket *s = check_socket(L, 1);
  int way = ways[luaL_checkoption(L, 2, "both", names)];
  if (descriptor(s) < 0) return closed(L);
  if (shutdown(s->channel->fd, way) != 0) return error_errno(L, errno);
  lua_pushboolean(L, 1);
  return 1;
}

/* Bytes --------------------------------------------------------------------------------------- */

static ssize_t pull(void *owner, void *buffer, size_t size) {
  Channel *channel = owner;
  ssize_t got;
  do
    got = recv(channel->fd, buffer, size, 0);
  while (got < 0 && errno == EINTR);
  if (got < 0) channel->error = errno;
  channel->input->pollable = true;
  return got;
}

static int pull_failed(lua_State *L, void *owner, ssize_t result) {
  const Channel *channel = owner;
  if (result == 0) return closed(L);
  if (channel->error == EAGAIN || channel->error == EWOULDBLOCK) return error_want(L, false);
  return error_errno(L, channel->error);
}

static bool has_input(Channel *channel) {
  if (!channel->input) channel->input = calloc(1, sizeof *channel->input);
  return channel->input != NULL;
}

size_t channel_give_back(Channel *channel, const unsigned char *data, size_t size) {
  size_t done = 0;
  while (done < size && has_input(channel)) {
    size_t part = size - done < 16384 ? size - done : 16384;
    if (!input_add(channel->input, data + done, part)) break;
    done += part;
  }
  return done;
}

/* The channel, ready to be read from; NULL and pushed results when it is not. */
static Channel *readable(lua_State *L, int *results) {
  Channel *channel = check_socket(L, 1)->channel;
  if (!channel || channel->fd < 0) {
    *results = closed(L);
    return NULL;
  }
  if (has_input(channel)) return channel;
  *results = error_errno(L, ENOMEM);
  return NULL;
}

static size_t buffered(const Socket *s) {
  const Input *input = s->channel ? s->channel->input : NULL;
  return input ? input->end - input->start : 0;
}

/* read(what, limit) -> string: input.c has the patterns. The peer's end is the code "closed". */
static int socket_read(lua_State *L) {
  int results;
  Channel *channel = readable(L, &results);
  if (!channel) return results;
  return input_read(L, 2, channel->input, pull, pull_failed, channel);
}

/* pour(file, most) -> bytes written: see input.c */
static int socket_pour(lua_State *L) {
  int results;
  Channel *channel = readable(L, &results);
  if (!channel) return results;
  return input_pour(L, 2, channel->input, pull, pull_failed, channel);
}

/* drop() -> true: throws away what has come and nobody has read, up to 64 KB of what the kernel
 * has.
 */
static int socket_drop(lua_State *L) {
  Socket *s = check_socket(L, 1);
  char scratch[4096];
  if (descriptor(s) < 0) return closed(L);
  drop_input(s->channel);
  for (int i = 0; i < 16; i++)
    if (recv(s->channel->fd, scratch, sizeof scratch, MSG_DONTWAIT) < (ssize_t)sizeof scratch)
      break;
  lua_pushboolean(L, 1);
  return 1;
}

/* take() -> string: what has come and was not handed out, "" when nothing */
static int socket_take(lua_State *L) {
  Socket *s = check_socket(L, 1);
  if (s->channel && s->channel->input) return input_take(L, s->channel->input);
  lua_pushliteral(L, "");
  return 1;
}

/* buffered() -> bytes that take() would hand out */
static int socket_buffered(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)buffered(check_socket(L, 1)));
  return 1;
}

/* quiet() -> true when nothing has come, not even the end */
static int socket_quiet(lua_State *L) {
  Socket *s = check_socket(L, 1);
  char byte;
  lua_pushboolean(L, descriptor(s) >= 0 && buffered(s) == 0 &&
                         recv(s->channel->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
                         (errno == EAGAIN || errno == EWOULDBLOCK));
  return 1;
}

/* A position as string.sub takes it. */
static size_t position(lua_State *L, int index, size_t size, lua_Integer fallback) {
  lua_Integer at = luaL_optinteger(L, index, fallback);
  if (at < 0) at += (lua_Integer)size + 1;
  return at < 0 ? 0 : (size_t)at;
}

/* write(data, i, j) -> last | nil, "want_write", last | nil, message, cause, last
 * Sends data:sub(i, j). `last` is the position of the last byte sent, i - 1 when none was: after a
 * want go on from last + 1. */
static int socket_write(lua_State *L) {
  Socket *s = check_socket(L, 1);
  size_t size;
  const char *data = luaL_checklstring(L, 2, &size);
  size_t first = position(L, 3, size, 1), end = position(L, 4, size, -1);
  if (first < 1) first = 1;
  if (end > size) end = size;
  size_t last = first - 1;
  int error = descriptor(s) < 0 ? EBADF : 0;
  while (last < end && !error) {
    ssize_t sent = send(s->channel->fd, data + last, end - last, MSG_NOSIGNAL);
    if (sent >= 0)
      last += (size_t)sent;
    else if (errno != EINTR)
      error = errno;
  }
  if (error) {
    bool want = error == EAGAIN || error == EWOULDBLOCK;
    if (want)
      error_want(L, true);
    else if (error == EBADF)
      closed(L);
    else
      error_errno(L, error);
    lua_pushinteger(L, (lua_Integer)last);
    return want ? 3 : 4;
  }
  lua_pushinteger(L, (lua_Integer)last);
  return 1;
}

static const luaL_Reg methods[] = {
    {"accept", socket_accept},
    {"bind", socket_bind},
    {"buffered", socket_buffered},
    {"close", socket_close},
    {"connect", socket_connect},
    {"detach", socket_detach},
    {"finish_connect", socket_finish_connect},
    {"getfd", socket_getfd},
    {"listen", socket_listen},
    {"local_address", socket_local_address},
    {"peer_address", socket_peer_address},
    {"pour", socket_pour},
    {"quiet", socket_quiet},
    {"read", socket_read},
    {"drop", socket_drop},
    {"set", socket_set},
    {"shutdown", socket_shutdown},
    {"take", socket_take},
    {"write", socket_write},
    {NULL, NULL},
};

static const luaL_Reg meta[] = {
    {"__gc", socket_gc}, {"__close", socket_close}, {"__tostring", socket_tostring}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"socket", socket_new}, {"adopt", socket_adopt}, {NULL, NULL}};

void socket_open(lua_State *L) {
  core_type(L, SOCKET_TYPE, methods, meta);
  luaL_setfuncs(L, functions, 0);
}

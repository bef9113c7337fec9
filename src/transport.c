/* Where a session's bytes come from and go to: a socket's descriptor, another session (TLS in TLS),
 * or two buffers in memory. The functions run inside GnuTLS: they never call Lua, and they keep the
 * real cause of a failure, which GnuTLS would reduce to "error in the pull function". */
#include "session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

typedef struct {
  unsigned char *data;
  size_t start, end, size;
} Bytes;

struct Memory {
  Bytes in, out;
  bool ended; /* no more will be fed */
};

/* Bytes --------------------------------------------------------------------------------------- */

static size_t bytes_length(const Bytes *bytes) {
  return bytes->end - bytes->start;
}

static bool bytes_add(Bytes *bytes, const void *data, size_t size) {
  if (size > bytes->size - bytes->end) {
    size_t length = bytes_length(bytes), wanted = bytes->size ? bytes->size : 4096;
    if (size > SIZE_MAX / 4 - length) return false;
    while (wanted < length + size)
      wanted *= 2;
    unsigned char *larger = malloc(wanted);
    if (!larger) return false;
    if (length) memcpy(larger, bytes->data + bytes->start, length);
    free(bytes->data);
    *bytes = (Bytes){larger, 0, length, wanted};
  }
  memcpy(bytes->data + bytes->end, data, size);
  bytes->end += size;
  return true;
}

static size_t bytes_take(Bytes *bytes, void *data, size_t size) {
  size_t length = bytes_length(bytes);
  if (size > length) size = length;
  memcpy(data, bytes->data + bytes->start, size);
  bytes->start += size;
  if (bytes->start == bytes->end) bytes->start = bytes->end = 0;
  return size;
}

static void bytes_free(Bytes *bytes) {
  free(bytes->data);
  *bytes = (Bytes){NULL, 0, 0, 0};
}

/* What the pull and push functions return to GnuTLS ------------------------------------------- */

static ssize_t broken(Session *session, int number) {
  session->system = number;
  gnutls_transport_set_errno(session->tls, number == EAGAIN ? EIO : number);
  return -1;
}

static ssize_t would_block(Session *session, char want) {
  /* After a want GnuTLS 3.7.9 would encrypt early data once more, and not as it was. */
  if (want == 'w' && session->early && !session->server && session->last_in < 0)
    return broken(session, ENOBUFS);
  session->blocked = true;
  session->want = want;
  gnutls_transport_set_errno(session->tls, EAGAIN);
  return -1;
}

/* Follows the records that come in: how many bytes those of handshake messages hold. */
static void follow_records(Handshake *handshake, const unsigned char *bytes, size_t size) {
  while (size > 0) {
    if (handshake->record_left == 0) {
      handshake->record[handshake->record_size++] = *bytes++;
      size--;
      if (handshake->record_size < sizeof handshake->record) continue;
      handshake->record_size = 0;
      handshake->record_left = (uint32_t)handshake->record[3] << 8 | handshake->record[4];
      if (handshake->record[0] == 22) handshake->in_records += handshake->record_left;
      if (handshake->record[0] == 20 && !handshake->in_records_old)
        handshake->in_records_old = handshake->in_records + 1;
    } else {
      size_t part = size < handshake->record_left ? size : handshake->record_left;
      handshake->record_left -= (uint32_t)part;
      bytes += part;
      size -= part;
    }
  }
}

/* What a peer may send without data in it: a whole handshake, and then tickets and the like. GnuTLS
 * would gather a message of 16 MB before it finds it too long. */
#define HANDSHAKE_LIMIT (512 * 1024)
#define SILENT_LIMIT (4 * 1024 * 1024)

/* Until the peer's first handshake message its bytes are kept: they may be no TLS. */
static ssize_t pulled(Session *session, const void *buffer, size_t size) {
  Handshake *handshake = session->handshake;
  session->ended = size == 0;
  session->silent += (uint32_t)size;
  if (session->silent > (handshake ? HANDSHAKE_LIMIT : SILENT_LIMIT)) {
    session->flooded = true;
    return broken(session, EMSGSIZE);
  }
  if (handshake) follow_records(handshake, buffer, size);
  if (handshake && session->last_in < 0) {
    size_t room = sizeof handshake->first - handshake->first_size;
    if (room > size) room = size;
    memcpy(handshake->first + handshake->first_size, buffer, room);
    handshake->first_size += (unsigned char)room;
  }
  return (ssize_t)size;
}

/* A descriptor -------------------------------------------------------------------------------- */

/* GnuTLS asks for a record's header of 5 bytes and then for the rest. What else the kernel has
 * comes along in the same call, so that most records cost one; the bulk of a long one still goes
 * straight to where GnuTLS wants it. Where the kernel has had more than that, the stream is a fast
 * one: then several records come in one call, and many where those were not all, until one brings
 * little. */
static const uint32_t ahead_sizes[] = {4096, 65536, READ_AHEAD};
enum { FASTEST = sizeof ahead_sizes / sizeof *ahead_sizes - 1 };
#define HEADER 5

/* Bytes read ahead that poll(2) does not speak for. */
size_t transport_ahead(const Session *session) {
  size_t length = session->ahead_end - session->ahead_start;
  if (length == 0 || session->ahead_size > HEADER) return length;
  const unsigned char *next = session->ahead;
  return length < HEADER || next[3] || next[4] ? 0 : length;
}

static size_t take_ahead(Session *session, void *buffer, size_t size) {
  size_t length = (size_t)(session->ahead_end - session->ahead_start);
  if (size > length) size = length;
  if (!size) return 0;
  memcpy(buffer, session->ahead + session->ahead_start, size);
  session->ahead_start += (uint32_t)size;
  return size;
}

void transport_read_ahead(Session *session, bool on) {
  while (session && session->kind == TRANSPORT_SESSION)
    session = session->link.outer;
  if (session) session->ahead_off = !on;
}

static void free_ahead(Session *session) {
  free(session->ahead);
  session->ahead = NULL;
  session->ahead_start = session->ahead_end = session->ahead_size = 0;
}

void transport_settle(Session *session) {
  if (session->ahead_start == session->ahead_end) free_ahead(session);
}

/* Room for what is read ahead, none of which is there now: 0 when there is no memory. */
static size_t room_ahead(Session *session) {
  uint32_t wanted = ahead_sizes[session->pace];
  if (session->ahead_size < wanted) {
    free_ahead(session);
    session->ahead = malloc(wanted);
    session->ahead_size = session->ahead ? wanted : 0;
  }
  return session->ahead_size;
}

/* Room for the next record's header, 0 unless the rest of a record is asked for: a handshake's
 * records come in a row. Of what is to be seen by poll(2) it hides nothing, for a body follows. */
static size_t room_header(Session *session, size_t size) {
  if (!session->handshake || session->handshake->record_left != size) return 0;
  if (session->ahead_size < HEADER) {
    free_ahead(session);
    session->ahead = malloc(HEADER);
    session->ahead_size = session->ahead ? HEADER : 0;
  }
  return session->ahead ? HEADER : 0;
}

static ssize_t receive(Session *session, void *buffer, size_t size) {
  size_t room = session->ahead_off ? room_header(session, size) : room_ahead(session);
  struct iovec pieces[2] = {{buffer, size}, {session->ahead, room}};
  ssize_t got;
  do
    got = readv(session->link.channel->fd, pieces, room ? 2 : 1);
  while (got < 0 && errno == EINTR);
  if (room > HEADER && got > 0 && (size_t)got == size + room)
    session->pace += session->pace < FASTEST;
  else if (room > HEADER && got > 0 && got <= (ssize_t)ahead_sizes[0])
    session->pace = 0;
  if (got <= (ssize_t)size) return got;
  session->ahead_start = 0;
  session->ahead_end = (uint32_t)((size_t)got - size);
  return (ssize_t)size;
}

/* What a client sends without an answer to come waits for what it sends next, and leaves with it:
 * change_cipher_spec, which only tells things on the way about keys (RFC 8446 D.4), and Finished
 * where the program has said that its first words follow. It leaves before anything is waited for.
 */
#define HELD_LIMIT 160
#define HELD_PIECES 16 /* that leave with it */

struct Held {
  unsigned char size;
  unsigned char bytes[HELD_LIMIT];
};

static bool may_wait(const Session *session, const giovec_t *pieces, int count, size_t total) {
  if (session->server || session->state != STATE_HANDSHAKE) return false;
  const unsigned char *first = pieces[0].iov_base;
  if (total == 6 && count == 1 && first[0] == 20) return true;
  return session->words_follow && session->last_out == GNUTLS_HANDSHAKE_FINISHED &&
         gnutls_protocol_get_version(session->tls) >= GNUTLS_TLS1_3;
}

/* How many bytes are held now, all there are; 0: they leave at once. */
static size_t hold(Session *session, const giovec_t *pieces, int count) {
  size_t total = 0;
  for (int i = 0; i < count; i++)
    total += pieces[i].iov_len;
  if (!may_wait(session, pieces, count, total)) return 0;
  if (!session->held) session->held = calloc(1, sizeof *session->held);
  Held *held = session->held;
  if (!held || held->size + total > HELD_LIMIT) return 0;
  for (int i = 0; i < count; held->size += (unsigned char)pieces[i++].iov_len)
    memcpy(held->bytes + held->size, pieces[i].iov_base, pieces[i].iov_len);
  return total;
}

static ssize_t push(Session *session, const struct iovec *pieces, size_t count) {
  struct msghdr message = {.msg_iov = (struct iovec *)pieces, .msg_iovlen = count};
  ssize_t sent;
  do
    sent = sendmsg(session->link.channel->fd, &message, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  if (sent >= 0) return sent;
  if (errno == EAGAIN || errno == EWOULDBLOCK) return would_block(session, 'w');
  return broken(session, errno);
}

/* Takes what has left off what is held: how much of `sent` was not of it. */
static size_t let_go(Session *session, size_t sent) {
  Held *held = session->held;
  size_t part = sent < held->size ? sent : held->size;
  held->size -= (unsigned char)part;
  memmove(held->bytes, held->bytes + part, held->size);
  if (held->size > 0) return 0;
  free(held);
  session->held = NULL;
  return sent - part;
}

static bool send_held(Session *session) {
  while (session->held) {
    struct iovec piece = {session->held->bytes, session->held->size};
    ssize_t sent = push(session, &piece, 1);
    if (sent < 0) return false;
    let_go(session, (size_t)sent);
  }
  return true;
}

static ssize_t push_all(Session *session, const giovec_t *pieces, int count) {
  /* giovec_t is struct iovec by another name (gnutls.h). */
  if (!session->held) return push(session, (const struct iovec *)pieces, (size_t)count);
  struct iovec all[HELD_PIECES + 1] = {{session->held->bytes, session->held->size}};
  if (count > HELD_PIECES) count = HELD_PIECES;
  memcpy(all + 1, pieces, (size_t)count * sizeof *all);
  ssize_t sent = push(session, all, (size_t)count + 1);
  if (sent < 0) return sent;
  size_t rest = let_go(session, (size_t)sent);
  return rest > 0 ? (ssize_t)rest : would_block(session, 'w');
}

static ssize_t channel_push(gnutls_transport_ptr_t pointer, const giovec_t *pieces, int count) {
  Session *session = pointer;
  size_t total = hold(session, pieces, count);
  if (total > 0) return (ssize_t)total;
  ssize_t sent = push_all(session, pieces, count);
  session->asked = sent > 0 && !session->server;
  return sent;
}

static ssize_t channel_pull(gnutls_transport_ptr_t pointer, void *buffer, size_t size) {
  Session *session = pointer;
  size_t first = take_ahead(session, buffer, size);
  if (first == size) return pulled(session, buffer, size);
  /* The answer to what has left just now takes its time. */
  bool early = session->asked && session->state == STATE_HANDSHAKE && first == 0 &&
               session->link.channel->fd >= 0;
  session->asked = false;
  ssize_t got = -1;
  errno = EAGAIN;
  if (!early) got = receive(session, (unsigned char *)buffer + first, size - first);
  if (got < 0 && first) got = 0; /* what it is will be said once more */
  if (got >= 0) return pulled(session, buffer, first + (size_t)got);
  if (errno != EAGAIN && errno != EWOULDBLOCK) return broken(session, errno);
  return send_held(session) ? would_block(session, 'r') : -1;
}

/* Another session ----------------------------------------------------------------------------- */

static ssize_t outer_stopped(Session *session) {
  Session *outer = session->link.outer;
  if (outer->blocked) return would_block(session, outer->want);
  session->outer_failed = true;
  return broken(session, EIO);
}

/* What the program left unread in the outer session's buffer (after a proxy's answer) is first. */
static size_t take_buffered(Session *outer, void *buffer, size_t size) {
  Input *input = outer->input;
  size_t length = input && input->data ? input->end - input->start : 0;
  if (size > length) size = length;
  if (!size) return 0;
  memcpy(buffer, input->data + input->start, size);
  input->start += size;
  input->scanned = 0;
  if (input->start == input->end) input_free(input);
  session_input_done(outer);
  return size;
}

static ssize_t outer_pull(gnutls_transport_ptr_t pointer, void *buffer, size_t size) {
  Session *session = pointer, *outer = session->link.outer;
  if (!outer->tls) return broken(session, EBADF);
  ssize_t got = (ssize_t)take_buffered(outer, buffer, size);
  if (got == 0) got = session_receive(outer, buffer, size);
  return got < 0 ? outer_stopped(session) : pulled(session, buffer, (size_t)got);
}

static ssize_t outer_push(gnutls_transport_ptr_t pointer, const void *data, size_t size) {
  Session *session = pointer, *outer = session->link.outer;
  if (!outer->tls) return broken(session, EBADF);
  ssize_t sent = session_send(outer, data, size);
  return sent < 0 ? outer_stopped(session) : sent;
}

/* Memory -------------------------------------------------------------------------------------- */

static ssize_t memory_pull(gnutls_transport_ptr_t pointer, void *buffer, size_t size) {
  Session *session = pointer;
  Memory *memory = session->link.memory;
  if (bytes_length(&memory->in) == 0)
    return memory->ended ? pulled(session, buffer, 0) : would_block(session, 'r');
  return pulled(session, buffer, bytes_take(&memory->in, buffer, size));
}

static ssize_t memory_push(gnutls_transport_ptr_t pointer, const void *data, size_t size) {
  Session *session = pointer;
  if (!bytes_add(&session->link.memory->out, data, size)) return broken(session, ENOMEM);
  return (ssize_t)size;
}

/* GnuTLS asks whether a pull would find something; it is never let wait. */
static int pull_timeout(gnutls_transport_ptr_t pointer, unsigned milliseconds) {
  Session *session = pointer;
  (void)milliseconds;
  if (session->kind == TRANSPORT_CHANNEL) {
    char byte;
    if (session->ahead_start < session->ahead_end) return 1;
    return recv(session->link.channel->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 ||
           (errno != EAGAIN && errno != EWOULDBLOCK);
  }
  return transport_holds_data(session);
}

bool transport_holds_data(const Session *session) {
  if (session->kind == TRANSPORT_MEMORY)
    return bytes_length(&session->link.memory->in) > 0 || session->link.memory->ended;
  if (session->kind == TRANSPORT_CHANNEL) return transport_ahead(session) > 0;
  const Session *outer = session->link.outer;
  return outer->tls && ((outer->input && outer->input->data) ||
                        gnutls_record_check_pending(outer->tls) > 0 || transport_holds_data(outer));
}

bool transport_quiet(const Session *session) {
  char byte;
  while (session->kind == TRANSPORT_SESSION) {
    session = session->link.outer;
    if (!session || !session->tls) return false;
  }
  if (session->kind == TRANSPORT_MEMORY) return !transport_holds_data(session);
  return recv(session->link.channel->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
         (errno == EAGAIN || errno == EWOULDBLOCK);
}

int transport_failure(const Session *session, int rc) {
  return session->ended && rc == GNUTLS_E_UNEXPECTED_PACKET_LENGTH ? GNUTLS_E_PREMATURE_TERMINATION
                                                                   : rc;
}

void transport_first_bytes(Session *session) {
  unsigned char more[sizeof session->handshake->first];
  bool blocked = session->blocked;
  int number = session->system;
  if (session->kind == TRANSPORT_CHANNEL)
    channel_pull(session, more, sizeof more);
  else if (session->kind == TRANSPORT_SESSION)
    outer_pull(session, more, sizeof more);
  else
    memory_pull(session, more, sizeof more);
  session->blocked = blocked;
  session->system = number;
}

int transport_set(lua_State *L, Session *session, int options) {
  lua_getfield(L, options, "socket");
  lua_getfield(L, options, "session");
  bool memory = core_optboolean(L, options, "memory");
  int given = !lua_isnil(L, -2) + !lua_isnil(L, -1) + memory;
  if (given != 1) return luaL_error(L, "one of the options socket, session, memory expected");
  session->want = 'r';
  if (!lua_isnil(L, -2)) {
    session->link.channel = socket_channel(L, -2);
    session->link.channel->references++;
    session->kind = TRANSPORT_CHANNEL;
    gnutls_transport_set_vec_push_function(session->tls, channel_push);
    gnutls_transport_set_pull_function(session->tls, channel_pull);
  } else if (!lua_isnil(L, -1)) {
    int results;
    Session *outer = session_open_one(L, -1, &results);
    if (!outer) return results;
    session->link.outer = outer;
    outer->references++;
    session->kind = TRANSPORT_SESSION;
    gnutls_transport_set_push_function(session->tls, outer_push);
    gnutls_transport_set_pull_function(session->tls, outer_pull);
  } else {
    session->link.memory = calloc(1, sizeof(Memory));
    if (!session->link.memory) return error_gnutls(L, GNUTLS_E_MEMORY_ERROR);
    session->kind = TRANSPORT_MEMORY;
    gnutls_transport_set_push_function(session->tls, memory_push);
    gnutls_transport_set_pull_function(session->tls, memory_pull);
  }
  gnutls_transport_set_pull_timeout_function(session->tls, pull_timeout);
  gnutls_transport_set_ptr(session->tls, session);
  lua_pop(L, 2);
  return 0;
}

void transport_release(Session *session) {
  free_ahead(session);
  free(session->held);
  session->held = NULL;
  if (!session->link.channel) return; /* any of the union's pointers */
  switch ((Kind)session->kind) {
  case TRANSPORT_CHANNEL:
    channel_release(session->link.channel);
    break;
  case TRANSPORT_SESSION:
    session_release(session->link.outer);
    break;
  case TRANSPORT_MEMORY:
    bytes_free(&session->link.memory->in);
    bytes_free(&session->link.memory->out);
    free(session->link.memory);
    break;
  }
  session->link.channel = NULL;
}

/* Methods ------------------------------------------------------------------------------------- */

static Memory *check_memory(lua_State *L, Session **session) {
  *session = session_get(L, 1);
  luaL_argcheck(L, (*session)->kind == TRANSPORT_MEMORY, 1, "the session is not over memory");
  return (*session)->link.memory;
}

/* s:feed(bytes): what arrived from the peer; nil: nothing more will. Over memory only. */
static int transport_feed(lua_State *L) {
  Session *session;
  Memory *memory = check_memory(L, &session);
  if (!memory) return error_named(L, "closed", "the session is closed");
  if (lua_isnoneornil(L, 2)) {
    memory->ended = true;
  } else {
    size_t size;
    const char *data = luaL_checklstring(L, 2, &size);
    if (size && !bytes_add(&memory->in, data, size)) return error_gnutls(L, GNUTLS_E_MEMORY_ERROR);
  }
  lua_pushboolean(L, 1);
  return 1;
}

/* s:drain(): what is to be sent to the peer, "" when there is nothing. Over memory only. */
static int transport_drain(lua_State *L) {
  Session *session;
  Memory *memory = check_memory(L, &session);
  if (!memory) return error_named(L, "closed", "the session is closed");
  lua_pushlstring(L, memory->out.data ? (char *)memory->out.data + memory->out.start : "",
                  bytes_length(&memory->out));
  bytes_free(&memory->out);
  return 1;
}

/* s:hand_back(): what was read and stands behind the peer's close_notify is no TLS, and the
 * socket's own: its read() begins with it. True, or nil, message, cause: no memory, and nothing is
 * lost. */
static int transport_hand_back(lua_State *L) {
  int results;
  Session *session = session_open_one(L, 1, &results);
  if (!session) return results;
  luaL_argcheck(L, session->close_received && session->kind == TRANSPORT_CHANNEL, 1,
                "the peer's close_notify over a socket expected");
  size_t size = session->ahead_end - session->ahead_start;
  if (size > 0) {
    size_t done =
        channel_give_back(session->link.channel, session->ahead + session->ahead_start, size);
    session->ahead_start += (uint32_t)done;
    transport_settle(session);
    if (done < size) return error_gnutls(L, GNUTLS_E_MEMORY_ERROR);
  }
  lua_pushboolean(L, 1);
  return 1;
}

/* s:socket(): the socket that it stands on, in a userdata that may be collected while nobody needs
 * it: the session keeps the descriptor. nil where there is none, or the session is closed. */
static int transport_socket(lua_State *L) {
  const Session *session = session_get(L, 1);
  if (session->kind == TRANSPORT_CHANNEL && session->link.channel)
    socket_push(L, session->link.channel);
  else
    lua_pushnil(L);
  return 1;
}

/* s:want(): "r" or "w": what the transport at the bottom last waited for. */
static int transport_want(lua_State *L) {
  lua_pushlstring(L, &session_get(L, 1)->want, 1);
  return 1;
}

const luaL_Reg transport_methods[] = {
    {"feed", transport_feed},     {"drain", transport_drain}, {"hand_back", transport_hand_back},
    {"socket", transport_socket}, {"want", transport_want},   {NULL, NULL},
};

/* A session once its handshake is complete: reading, writing and closing. */
#include "session.h"

#include <stdlib.h>

/* Records without data (tickets, key updates, warnings, empty ones) that are looked at in one call,
 * so that a flood of them leaves other coroutines their turn; and in a row, before the peer is
 * taken to be up to no good. */
#define QUIET_TURN 64
#define QUIET_LIMIT 4096

/* Bytes written in one call, or dropped by a close, while the transport keeps up. A read's turn
 * ends after as many, and what has been read ahead must be used up by then. */
#define TURN_BYTES ((size_t)1 << 20)
#define TURN_AHEAD (TURN_BYTES - READ_AHEAD)

/* Reading ------------------------------------------------------------------------------------- */

static ssize_t fail_receive(Session *session, int rc) {
  rc = transport_failure(session, rc);
  session->read_failure = (Failure){rc, session->system};
  if (!session->system) session_send_alert(session, rc);
  return -1;
}

static ssize_t receive(Session *session, void *buffer, size_t size) {
  session->blocked = false;
  if (session->close_received) return 0;
  if (session->read_failure.gnutls) return -1;
  for (int turns = 0; !session->blocked; turns++) {
    session->system = 0;
    bool fresh = gnutls_record_check_pending(session->tls) == 0;
    ssize_t rc = session->reauthenticate ? gnutls_reauth(session->tls, 0)
                                         : gnutls_record_recv(session->tls, buffer, size);
    if (session->reauthenticate) {
      if (rc == 0) session->reauthenticate = false;
      if (rc == 0) rc = GNUTLS_E_AGAIN;
    }
    if (rc > 0) {
      session->quiet = 0;
      session->silent = 0;
      trace_mark(session, MARK_DATA_IN);
      session->bytes_in += (uint64_t)rc;
      session->records_in += fresh;
      return rc;
    }
    if (rc == 0) {
      session->close_received = true;
      trace_mark(session, MARK_CLOSE_IN);
      return 0;
    }
    if (session->blocked) break;
    /* RFC 8446 4.6.2: the server asks for our certificate after the handshake. */
    if (rc == GNUTLS_E_REAUTH_REQUEST) session->reauthenticate = true;
    /* RFC 5746 and RFC 9325 3.5: the handshake is not begun again. */
    if (rc == GNUTLS_E_REHANDSHAKE || gnutls_error_is_fatal((int)rc))
      return fail_receive(session, (int)rc);
    if (++session->quiet > QUIET_LIMIT)
      return fail_receive(session, GNUTLS_E_TOO_MANY_EMPTY_PACKETS);
    if (turns > QUIET_TURN) {
      transport_read_ahead(session, false);
      if (session_may_end_turn(session)) session_end_turn(session, 'r');
    }
  }
  return -1;
}

ssize_t session_receive(Session *session, void *buffer, size_t size) {
  ssize_t got = receive(session, buffer, size);
  transport_settle(session);
  return got;
}

Input *session_input(Session *session) {
  if (!session->input) session->input = calloc(1, sizeof *session->input);
  return session->input;
}

void session_input_done(Session *session) {
  if (!session->input || session->input->data) return;
  free(session->input);
  session->input = NULL;
}

static ssize_t reading_pull(void *owner, void *buffer, size_t size) {
  Session *session = owner;
  ssize_t got = session_receive(session, buffer, size);
  if (got <= 0) return got;
  session->turn += (size_t)got;
  if (session->turn > TURN_AHEAD) transport_read_ahead(session, false);
  session->input->pollable = session_may_end_turn(session);
  return got;
}

static int reading_fail(lua_State *L, void *owner, ssize_t result) {
  Session *session = owner;
  if (result == 0) {
    int results = error_named(L, "closed", "the peer closed the connection");
    lua_pushliteral(L, "data");
    lua_setfield(L, -2, "step");
    return results;
  }
  if (session->blocked) return session_want(L, session);
  return report_failure(L, session, session->read_failure);
}

/* s:read(what, limit): see input.c. Code "closed" at the peer's close_notify, "truncated" when the
 * transport ends without one. */
static int data_read(lua_State *L) {
  int results;
  Session *session = session_open_one(L, 1, &results);
  if (!session || (results = session_not_open(L, session))) return results;
  session->turn = 0;
  transport_read_ahead(session, true);
  if (!session_input(session)) return error_gnutls(L, GNUTLS_E_MEMORY_ERROR);
  results = input_read(L, 2, session->input, reading_pull, reading_fail, session);
  session_input_done(session);
  return results;
}

/* s:pour(file, most): see input.c. */
static int data_pour(lua_State *L) {
  int results;
  Session *session = session_open_one(L, 1, &results);
  if (!session || (results = session_not_open(L, session))) return results;
  session->turn = 0;
  transport_read_ahead(session, true);
  if (!session_input(session)) return error_gnutls(L, GNUTLS_E_MEMORY_ERROR);
  results = input_pour(L, 2, session->input, reading_pull, reading_fail, session);
  session_input_done(session);
  return results;
}

int session_take(lua_State *L, Session *session) {
  if (!session->input) {
    lua_pushliteral(L, "");
    return 1;
  }
  int results = input_take(L, session->input);
  session_input_done(session);
  return results;
}

/* s:take(): what was read and not yet handed out. */
static int data_take(lua_State *L) {
  return session_take(L, session_get(L, 1));
}

static size_t buffered(const Session *session) {
  return session->input && session->input->data ? session->input->end - session->input->start : 0;
}

/* s:buffered(): how many bytes take() would give. */
static int data_buffered(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)buffered(session_get(L, 1)));
  return 1;
}

static size_t decrypted(const Session *session) {
  size_t pending = session->tls ? gnutls_record_check_pending(session->tls) : 0;
  return pending + buffered(session) + transport_ahead(session);
}

/* s:pending(): bytes that are here, whatever a wait on the descriptor says; those that are still to
 * be decrypted, and those of the sessions below this one, too. */
static int data_pending(lua_State *L) {
  const Session *session = session_get(L, 1);
  size_t pending = decrypted(session);
  while (session->kind == TRANSPORT_SESSION && session->link.outer) {
    session = session->link.outer;
    pending += decrypted(session);
  }
  lua_pushinteger(L, (lua_Integer)pending);
  return 1;
}

static bool is_quiet(const Session *session) {
  bool quiet = session->tls != NULL && session->forks == core_forks();
  for (const Session *one = session; quiet && one;
       one = one->kind == TRANSPORT_SESSION ? one->link.outer : NULL)
    quiet = !one->close_received && !one->read_failure.gnutls && decrypted(one) == 0;
  return quiet && transport_quiet(session);
}

/* s:quiet(): true when nothing has come, not even the end: nothing is left in any buffer, and the
 * descriptor has nothing either. One system call, and no byte is taken in; false says only that
 * read() has something to look at (a late ticket, maybe), or that this is the child of a fork. */
static int data_quiet(lua_State *L) {
  lua_pushboolean(L, is_quiet(session_get(L, 1)));
  return 1;
}

/* Writing ------------------------------------------------------------------------------------- */

static ssize_t fail_send(Session *session, ssize_t rc) {
  session->write_failure = (Failure){(int)rc, session->system};
  return -1;
}

/* One call of GnuTLS for which "again" means the transport blocked, or to try at once. */
static ssize_t attempt(Session *session, const void *data, size_t size) {
  ssize_t rc;
  session->blocked = false;
  session->system = 0;
  do
    rc = session->uncorking ? gnutls_record_uncork(session->tls, 0)
                            : gnutls_record_send(session->tls, data, size);
  while ((rc == GNUTLS_E_AGAIN || rc == GNUTLS_E_INTERRUPTED) && !session->blocked);
  return rc;
}

ssize_t session_send(Session *session, const void *data, size_t size) {
  if (session->write_failure.gnutls) {
    session->blocked = false;
    return -1;
  }
  if (session->uncorking) {
    ssize_t rc = attempt(session, NULL, 0);
    if (rc < 0) return session->blocked ? -1 : fail_send(session, rc);
    session->uncorking = false;
  }
  /* GnuTLS holds a record half sent: it wants no new data until that one has left. */
  ssize_t rc = session->unsent ? attempt(session, NULL, 0) : attempt(session, data, size);
  if (rc >= 0) {
    session->unsent = 0;
    trace_mark(session, MARK_DATA_OUT);
    session->bytes_out += (uint64_t)rc;
    session->records_out++;
    return rc;
  }
  if (!session->blocked) return fail_send(session, rc);
  if (!session->unsent) {
    size_t record = gnutls_record_get_max_size(session->tls);
    session->unsent = size < record ? size : record;
  }
  return -1;
}

/* Pushes what a call that sends could not do: want, or the failure. */
static int unable_to_send(lua_State *L, Session *session) {
  return session->blocked ? session_want(L, session)
                          : report_failure(L, session, session->write_failure);
}

/* i and j as string.sub has them. */
static void range(lua_State *L, size_t size, size_t *from, size_t *to) {
  lua_Integer i = luaL_optinteger(L, 3, 1), j = luaL_optinteger(L, 4, -1), n = (lua_Integer)size;
  if (i < 0) i = i + n + 1;
  if (j < 0) j = j + n + 1;
  if (i < 1) i = 1;
  if (j > n) j = n;
  *from = (size_t)(i - 1);
  *to = j < i ? *from : (size_t)j;
}

static int with_last(lua_State *L, int results, size_t last) {
  if (results == 2) {
    lua_pushinteger(L, (lua_Integer)last);
    return 3;
  }
  lua_pushinteger(L, (lua_Integer)last);
  return 4;
}

/* Writes data[at, end). */
static int write_out(lua_State *L, Session *session, const char *data, size_t at, size_t end) {
  size_t done = 0;
  while (at < end) {
    if (done > TURN_BYTES && session->kind != TRANSPORT_MEMORY) {
      session_end_turn(session, 'w');
      return with_last(L, session_want(L, session), at);
    }
    ssize_t sent = session_send(session, data + at, end - at);
    if (sent < 0) return with_last(L, unable_to_send(L, session), at);
    at += (size_t)sent;
    done += (size_t)sent;
  }
  lua_pushinteger(L, (lua_Integer)at);
  return 1;
}

/* s:write(data, i, j): the index of the last byte written; or nil, "want_write" or "want_read",
 * last; or nil, message, cause, last. After a want call it again with i = last + 1. */
static int data_write(lua_State *L) {
  size_t size, at, end;
  const char *data = luaL_checklstring(L, 2, &size);
  range(L, size, &at, &end);
  int results;
  Session *session = session_open_one(L, 1, &results);
  if (!session || (results = session_not_open(L, session))) return with_last(L, results, at);
  luaL_argcheck(L, at == end || session->unsent <= end - at, 2,
                "less than the last call was told to write");
  return write_out(L, session, data, at, end);
}

/* s:ask(data): writes all of it, as write() does, where s:quiet() is true; else nil, "heard". */
static int data_ask(lua_State *L) {
  size_t size;
  const char *data = luaL_checklstring(L, 2, &size);
  Session *session = session_get(L, 1);
  if (!is_quiet(session) || session->unsent) {
    lua_pushnil(L);
    lua_pushliteral(L, "heard");
    return 2;
  }
  int results = session_not_open(L, session);
  return results ? with_last(L, results, 0) : write_out(L, session, data, 0, size);
}

/* s:cork(): what is written is gathered until uncork(), to leave in full records. */
static int data_cork(lua_State *L) {
  int results;
  Session *session = session_open_one(L, 1, &results);
  if (!session || (results = session_not_open(L, session))) return results;
  if (session->uncorking || session->unsent) return session_want(L, session);
  gnutls_record_cork(session->tls);
  lua_pushboolean(L, 1);
  return 1;
}

/* s:uncork(): true when all that was gathered has left; else want, or nil, message, cause. */
static int data_uncork(lua_State *L) {
  int results;
  Session *session = session_open_one(L, 1, &results);
  if (!session || (results = session_not_open(L, session))) return results;
  session->uncorking = true;
  ssize_t rc = attempt(session, NULL, 0);
  if (rc < 0 && !session->blocked) fail_send(session, rc);
  if (rc < 0) return unable_to_send(L, session);
  session->uncorking = false;
  lua_pushboolean(L, 1);
  return 1;
}

/* s:update_keys(peer): new keys for what we send (RFC 8446 4.6.3), and, with `peer`, for what the
 * peer sends too. */
static int data_update_keys(lua_State *L) {
  int results, rc;
  Session *session = session_open_one(L, 1, &results);
  if (!session || (results = session_not_open(L, session))) return results;
  if (gnutls_protocol_get_version(session->tls) < GNUTLS_TLS1_3)
    return error_named(L, "unsupported", "keys are updated in TLS 1.3 only");
  session->blocked = false;
  session->system = 0;
  do
    rc = gnutls_session_key_update(session->tls, lua_toboolean(L, 2) ? GNUTLS_KU_PEER : 0);
  while (rc == GNUTLS_E_INTERRUPTED || (rc == GNUTLS_E_AGAIN && !session->blocked));
  if (rc < 0 && !session->blocked) fail_send(session, rc);
  if (rc < 0) return unable_to_send(L, session);
  lua_pushboolean(L, 1);
  return 1;
}

/* s:send_tickets(count): a TLS 1.3 server gives the client that many more tickets, so that it can
 * use a new one for each connection (RFC 8446 4.6.1). Two leave with every handshake. */
static int data_send_tickets(lua_State *L) {
  lua_Integer count = luaL_checkinteger(L, 2);
  luaL_argcheck(L, count > 0 && count <= 255, 2, "1 to 255 expected");
  int results, rc;
  Session *session = session_open_one(L, 1, &results);
  if (!session || (results = session_not_open(L, session))) return results;
  if (!session->server || gnutls_protocol_get_version(session->tls) < GNUTLS_TLS1_3)
    return error_named(L, "unsupported", "tickets are sent by servers, in TLS 1.3");
  session->blocked = false;
  session->system = 0;
  do
    rc = gnutls_session_ticket_send(session->tls, (unsigned)count, 0);
  while (rc == GNUTLS_E_INTERRUPTED || (rc == GNUTLS_E_AGAIN && !session->blocked));
  if (rc < 0 && !session->blocked) fail_send(session, rc);
  if (rc < 0) return unable_to_send(L, session);
  lua_pushboolean(L, 1);
  return 1;
}

/* Closing ------------------------------------------------------------------------------------- */

static bool send_close(Session *session) {
  if (session->close_sent) return true;
  if (session->unsent && session_send(session, NULL, 0) < 0) return false;
  if (session->write_failure.gnutls) {
    session->blocked = false;
    return false;
  }
  int rc;
  session->blocked = false;
  session->system = 0;
  do
    rc = gnutls_bye(session->tls, GNUTLS_SHUT_WR);
  while ((rc == GNUTLS_E_AGAIN || rc == GNUTLS_E_INTERRUPTED) && !session->blocked);
  if (rc < 0 && !session->blocked) fail_send(session, rc);
  session->close_sent = rc >= 0;
  if (session->close_sent) trace_mark(session, MARK_CLOSE_OUT);
  return session->close_sent;
}

/* s:close_notify(wait): tells the peer that no more will be sent; with `wait`, also reads until the
 * peer has said so too, and drops what it still sends. True, or want, or nil, message, cause. */
static int data_close_notify(lua_State *L) {
  int results;
  Session *session = session_open_one(L, 1, &results);
  if (!session || (results = session_not_open(L, session))) return results;
  if (!send_close(session)) return unable_to_send(L, session);
  size_t dropped = 0;
  transport_read_ahead(session, true);
  while (lua_toboolean(L, 2) && !session->close_received) {
    unsigned char scratch[4096];
    ssize_t got = session_receive(session, scratch, sizeof scratch);
    if (got < 0)
      return session->blocked ? session_want(L, session)
                              : report_failure(L, session, session->read_failure);
    dropped += (size_t)got;
    if (dropped > TURN_AHEAD) transport_read_ahead(session, false);
    if (dropped > TURN_BYTES && session_may_end_turn(session)) {
      session_end_turn(session, 'r');
      return session_want(L, session);
    }
  }
  lua_pushboolean(L, 1);
  return 1;
}

const luaL_Reg data_methods[] = {
    {"read", data_read},
    {"pour", data_pour},
    {"take", data_take},
    {"buffered", data_buffered},
    {"pending", data_pending},
    {"quiet", data_quiet},
    {"write", data_write},
    {"ask", data_ask},
    {"cork", data_cork},
    {"uncork", data_uncork},
    {"update_keys", data_update_keys},
    {"send_tickets", data_send_tickets},
    {"close_notify", data_close_notify},
    {NULL, NULL},
};

/* Session userdata: the handshake, reading, writing and closing. Each call does what it can without
 * waiting and says "want_read" or "want_write" when the transport would block. */
#include "session.h"

#include <stdlib.h>
#include <string.h>

/* Records without data (tickets, key updates, warnings, empty ones) that are looked at in one call,
 * so that a flood of them leaves other coroutines their turn; and in a row, before the peer is
 * taken to be up to no good. */
#define QUIET_TURN 64
#define QUIET_LIMIT 4096

/* Warnings that a peer may send in a handshake: unrecognized_name is the only usual one. */
#define WARNINGS_LIMIT 8

/* Bytes written in one call, or dropped by a close, while the transport keeps up. */
#define TURN_BYTES ((size_t)1 << 20)

/* A peer's handshake message, of which Certificate is the longest: 128 KiB. */
#define MESSAGE_LIMIT (128 * 1024)

typedef struct {
  Session *session;
} Box;

/* Making and freeing ------------------------------------------------------------------------------
 */

Session *session_get(lua_State *L, int index) {
  Box *box = luaL_checkudata(L, index, SESSION_TYPE);
  luaL_argcheck(L, box->session, index, "the session is collected");
  return box->session;
}

gnutls_session_t session_check(lua_State *L, int index) {
  Session *session = session_get(L, index);
  luaL_argcheck(L, session->tls, index, "the session is closed");
  return session->tls;
}

Session *session_open_one(lua_State *L, int index, int *results) {
  Session *session = session_get(L, index);
  if (session->tls) return session;
  *results = error_named(L, "closed", "the session is closed");
  return NULL;
}

static void end_handshake(Session *session) {
  free(session->handshake);
  session->handshake = NULL;
}

/* Frees all but the structure itself, which a session inside this one may still look at. */
static void session_end(Session *session) {
  if (session->tls) gnutls_deinit(session->tls);
  session->tls = NULL;
  end_handshake(session);
  trace_release(session);
  input_free(&session->input);
  transport_release(session);
  credentials_release(session->credentials); /* after gnutls_deinit */
  session->credentials = NULL;
}

void session_release(Session *session) {
  if (--session->references > 0) return;
  session_end(session);
  free(session);
}

static int session_gc(lua_State *L) {
  Box *box = lua_touserdata(L, 1);
  Session *session = box->session;
  box->session = NULL;
  if (session) session_release(session);
  return 0;
}

/* s:close(): frees what it holds; sends nothing; the socket stays open. */
static int session_close(lua_State *L) {
  session_end(session_get(L, 1));
  lua_pushboolean(L, 1);
  return 1;
}

/* Pauses the handshake until the program has judged the peer's chain. GnuTLS calls it again when
 * the handshake goes on. It does not call it for a resumed session. */
static int verify_peer(gnutls_session_t tls) {
  Session *session = gnutls_session_get_ptr(tls);
  if (session->verdict == VERDICT_GOOD) return 0;
  if (session->verdict == VERDICT_BAD) return GNUTLS_E_CERTIFICATE_ERROR;
  unsigned count = 0;
  if (session->server && !gnutls_certificate_get_peers(tls, &count)) return 0;
  trace_mark(session, MARK_VERIFY);
  session->state = STATE_VERIFY;
  return GNUTLS_E_AGAIN;
}

/* Makes the GnuTLS session, with a client's ticket in it. A ticket that GnuTLS cannot read costs a
 * full handshake, never the connection; but it may have been taken half, so that the session is
 * made anew. */
static int make_tls(Session *session, unsigned flags, const char *ticket, size_t size) {
  for (;;) {
    int rc = gnutls_init(&session->tls, flags);
    if (rc < 0) session->tls = NULL;
    if (rc < 0 || !size) return rc;
    rc = gnutls_session_set_data(session->tls, ticket, size);
    if (rc >= 0 || rc == GNUTLS_E_MEMORY_ERROR) return rc;
    gnutls_deinit(session->tls);
    session->tls = NULL;
    size = 0;
  }
}

int session_new(lua_State *L, Credentials *credentials, bool server, int options) {
  size_t size;
  const char *ticket = core_optstring(L, options, "ticket", &size);
  if (server) size = 0;
  unsigned flags = GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL;
  if (core_optboolean(L, options, "post_handshake_auth")) flags |= GNUTLS_POST_HANDSHAKE_AUTH;
  /* One key share: the most preferred group's. A server that wants another asks for it. */
  flags |= server ? GNUTLS_SERVER : GNUTLS_CLIENT | GNUTLS_KEY_SHARE_TOP;
  Box *box = core_new(L, SESSION_TYPE, sizeof *box);
  Session *session = calloc(1, sizeof *session);
  if (!session) return error_gnutls(L, GNUTLS_E_MEMORY_ERROR);
  box->session = session;
  session->references = 1;
  session->server = server;
  int rc = make_tls(session, flags, ticket, size);
  if (rc < 0) return error_gnutls(L, rc);
  session->credentials = credentials;
  credentials->references++;
  gnutls_session_set_ptr(session->tls, session);
  gnutls_session_set_verify_function(session->tls, verify_peer);
  gnutls_handshake_set_max_packet_length(session->tls, MESSAGE_LIMIT);
  int failed = transport_set(L, session, options);
  if (!failed) failed = trace_set(L, session, options);
  return failed;
}

/* Ready or not ------------------------------------------------------------------------------------
 */

static int want(lua_State *L, const Session *session) {
  return error_want(L, session->want == 'w');
}

/* Ends a turn though the transport has not blocked. The wait that follows must not miss what is
 * already here, so this is done only when all of it would show on the descriptor. */
static bool may_end_turn(const Session *session) {
  const Session *bottom = session;
  while (bottom->kind == TRANSPORT_SESSION)
    bottom = bottom->link.outer;
  return bottom->kind == TRANSPORT_CHANNEL && !transport_holds_data(session) &&
         (session->state != STATE_OPEN || gnutls_record_check_pending(session->tls) == 0);
}

static void end_turn(Session *session, char direction) {
  session->blocked = true;
  session->want = direction;
}

/* Refuses data before the handshake is complete, and after it has failed. */
static int not_open(lua_State *L, Session *session) {
  if (session->state == STATE_OPEN) return 0;
  if (session->state == STATE_FAILED) return report_failure(L, session, session->read_failure);
  return error_named(L, "not_ready", "the handshake is not complete");
}

/* The handshake ------------------------------------------------------------------------------- */

/* RFC 8446 6.2: who finds the failure sends the alert. Its own failures change nothing. */
static void send_alert(Session *session, int rc) {
  bool outer_failed = session->outer_failed;
  switch (rc) {
  case GNUTLS_E_PUSH_ERROR:
  case GNUTLS_E_PULL_ERROR:
  case GNUTLS_E_PREMATURE_TERMINATION:
  case GNUTLS_E_SESSION_EOF:
  case GNUTLS_E_INVALID_SESSION:
  case GNUTLS_E_FATAL_ALERT_RECEIVED:
    return;
  case GNUTLS_E_WARNING_ALERT_RECEIVED:
    gnutls_alert_send(session->tls, GNUTLS_AL_FATAL, GNUTLS_A_UNEXPECTED_MESSAGE);
    break;
  case GNUTLS_E_REHANDSHAKE:
    gnutls_alert_send(session->tls, GNUTLS_AL_FATAL, GNUTLS_A_NO_RENEGOTIATION);
    break;
  case GNUTLS_E_CERTIFICATE_ERROR:
    if (session->verdict == VERDICT_BAD) {
      gnutls_alert_send(session->tls, GNUTLS_AL_FATAL, session->alert);
      break;
    }
    /* fall through */
  default:
    gnutls_alert_send_appropriate(session->tls, rc);
  }
  session->outer_failed = outer_failed;
}

static int fail_handshake(lua_State *L, Session *session, int rc) {
  Failure failure = {rc, session->system};
  session->state = STATE_FAILED;
  session->read_failure = session->write_failure = failure;
  int results = report_failure(L, session, failure);
  if (!failure.system) send_alert(session, rc);
  return results;
}

/* RFC 7301 3.2: a protocol that was not offered is refused, and so is none where one must be. */
static bool alpn_refused(const Session *session) {
  gnutls_datum_t chosen;
  return trace_alpn_refused(session) ||
         (session->alpn_mandatory && gnutls_alpn_get_selected_protocol(session->tls, &chosen) < 0);
}

static int finish_handshake(lua_State *L, Session *session) {
  if (alpn_refused(session)) return fail_handshake(L, session, GNUTLS_E_NO_APPLICATION_PROTOCOL);
  session->state = STATE_OPEN;
  session->silent = 0;
  trace_mark(session, MARK_DONE);
  end_handshake(session);
  lua_pushboolean(L, 1);
  return 1;
}

static int want_verify(lua_State *L) {
  lua_pushnil(L);
  lua_pushliteral(L, "want_verify");
  return 2;
}

/* s:handshake(): true once it is complete; nil, "want_read" or "want_write"; nil, "want_verify"
 * when the peer's chain is here to be judged: call verdict(), then handshake() again. Else nil,
 * message, cause; cause.at names the handshake message, cause.step the step. The fitting alert is
 * sent. */
static int session_handshake(lua_State *L) {
  int results, rc;
  Session *session = session_open_one(L, 1, &results);
  if (!session) return results;
  if (session->state == STATE_OPEN) {
    lua_pushboolean(L, 1);
    return 1;
  }
  if (session->state == STATE_FAILED) return not_open(L, session);
  if (session->state == STATE_VERIFY) return want_verify(L);
  if (session->state == STATE_FRESH) {
    session->handshake = calloc(1, sizeof *session->handshake);
    if (!session->handshake) return error_gnutls(L, GNUTLS_E_MEMORY_ERROR);
    session->start = core_now();
    session->state = STATE_HANDSHAKE;
  }
  for (int turns = 0;; turns++) {
    session->blocked = false;
    session->system = 0;
    rc = gnutls_handshake(session->tls);
    if (rc == GNUTLS_E_SUCCESS) return finish_handshake(L, session);
    if (session->state == STATE_VERIFY) return want_verify(L);
    if (gnutls_error_is_fatal(rc)) break;
    if (rc == GNUTLS_E_WARNING_ALERT_RECEIVED && ++session->warnings > WARNINGS_LIMIT) break;
    if (rc == GNUTLS_E_GOT_APPLICATION_DATA || rc == GNUTLS_E_REHANDSHAKE) break;
    if (!session->blocked && turns > QUIET_TURN && may_end_turn(session)) end_turn(session, 'r');
    if (session->blocked) return want(L, session);
  }
  return fail_handshake(L, session, rc);
}

/* s:verdict(true), or s:verdict(false, alert): the answer to "want_verify". alert: a name of the
 * IANA registry, "bad_certificate" by default. */
static int session_verdict(lua_State *L) {
  Session *session = session_get(L, 1);
  luaL_checktype(L, 2, LUA_TBOOLEAN);
  const char *name = luaL_optstring(L, 3, "bad_certificate");
  int alert = report_alert_number(name);
  luaL_argcheck(L, alert > 0, 3, "no alert has this name");
  if (session->state != STATE_VERIFY) return luaL_error(L, "no verdict is awaited");
  session->state = STATE_HANDSHAKE;
  session->alert = (uint8_t)alert;
  session->verdict = lua_toboolean(L, 2) ? VERDICT_GOOD : VERDICT_BAD;
  if (session->verdict == VERDICT_GOOD) trace_mark(session, MARK_VERIFIED);
  lua_pushboolean(L, 1);
  return 1;
}

/* Reading ------------------------------------------------------------------------------------- */

static ssize_t fail_receive(Session *session, int rc) {
  session->read_failure = (Failure){rc, session->system};
  if (!session->system) send_alert(session, rc);
  return -1;
}

ssize_t session_receive(Session *session, void *buffer, size_t size) {
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
    if (turns > QUIET_TURN && may_end_turn(session)) end_turn(session, 'r');
  }
  return -1;
}

static ssize_t reading_pull(void *owner, void *buffer, size_t size) {
  Session *session = owner;
  ssize_t got = session_receive(session, buffer, size);
  if (got > 0) session->input.pollable = may_end_turn(session);
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
  if (session->blocked) return want(L, session);
  return report_failure(L, session, session->read_failure);
}

/* s:read(what, limit): see input.c. Code "closed" at the peer's close_notify, "truncated" when the
 * transport ends without one. */
static int session_read(lua_State *L) {
  int results;
  Session *session = session_open_one(L, 1, &results);
  if (!session || (results = not_open(L, session))) return results;
  return input_read(L, 2, &session->input, reading_pull, reading_fail, session);
}

/* s:take(): what was read and not yet handed out. */
static int session_take(lua_State *L) {
  return input_take(L, &session_get(L, 1)->input);
}

static size_t buffered(const Session *session) {
  return session->input.data ? session->input.end - session->input.start : 0;
}

/* s:buffered(): how many bytes take() would give. */
static int session_buffered(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)buffered(session_get(L, 1)));
  return 1;
}

/* s:pending(): decrypted bytes that are here, whatever a wait on the descriptor says. */
static int session_pending(lua_State *L) {
  Session *session = session_get(L, 1);
  size_t pending = session->tls ? gnutls_record_check_pending(session->tls) : 0;
  lua_pushinteger(L, (lua_Integer)(pending + buffered(session)));
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
  return session->blocked ? want(L, session) : report_failure(L, session, session->write_failure);
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

/* s:write(data, i, j): the index of the last byte written; or nil, "want_write" or "want_read",
 * last; or nil, message, cause, last. After a want call it again with i = last + 1. */
static int session_write(lua_State *L) {
  size_t size, at, end, done = 0;
  const char *data = luaL_checklstring(L, 2, &size);
  range(L, size, &at, &end);
  int results;
  Session *session = session_open_one(L, 1, &results);
  if (!session || (results = not_open(L, session))) return with_last(L, results, at);
  luaL_argcheck(L, at == end || session->unsent <= end - at, 2,
                "less than the last call was told to write");
  while (at < end) {
    if (done > TURN_BYTES && session->kind != TRANSPORT_MEMORY) {
      end_turn(session, 'w');
      return with_last(L, want(L, session), at);
    }
    ssize_t sent = session_send(session, data + at, end - at);
    if (sent < 0) return with_last(L, unable_to_send(L, session), at);
    at += (size_t)sent;
    done += (size_t)sent;
  }
  lua_pushinteger(L, (lua_Integer)at);
  return 1;
}

/* s:cork(): what is written is gathered until uncork(), to leave in full records. */
static int session_cork(lua_State *L) {
  int results;
  Session *session = session_open_one(L, 1, &results);
  if (!session || (results = not_open(L, session))) return results;
  if (session->uncorking || session->unsent) return want(L, session);
  gnutls_record_cork(session->tls);
  lua_pushboolean(L, 1);
  return 1;
}

/* s:uncork(): true when all that was gathered has left; else want, or nil, message, cause. */
static int session_uncork(lua_State *L) {
  int results;
  Session *session = session_open_one(L, 1, &results);
  if (!session || (results = not_open(L, session))) return results;
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
static int session_update_keys(lua_State *L) {
  int results, rc;
  Session *session = session_open_one(L, 1, &results);
  if (!session || (results = not_open(L, session))) return results;
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
static int session_send_tickets(lua_State *L) {
  lua_Integer count = luaL_checkinteger(L, 2);
  luaL_argcheck(L, count > 0 && count <= 255, 2, "1 to 255 expected");
  int results, rc;
  Session *session = session_open_one(L, 1, &results);
  if (!session || (results = not_open(L, session))) return results;
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
static int session_close_notify(lua_State *L) {
  int results;
  Session *session = session_open_one(L, 1, &results);
  if (!session || (results = not_open(L, session))) return results;
  if (!send_close(session)) return unable_to_send(L, session);
  size_t dropped = 0;
  while (lua_toboolean(L, 2) && !session->close_received) {
    unsigned char scratch[4096];
    ssize_t got = session_receive(session, scratch, sizeof scratch);
    if (got < 0)
      return session->blocked ? want(L, session)
                              : report_failure(L, session, session->read_failure);
    dropped += (size_t)got;
    if (dropped > TURN_BYTES && may_end_turn(session)) {
      end_turn(session, 'r');
      return want(L, session);
    }
  }
  lua_pushboolean(L, 1);
  return 1;
}

static const luaL_Reg methods[] = {
    {"handshake", session_handshake},
    {"verdict", session_verdict},
    {"read", session_read},
    {"take", session_take},
    {"buffered", session_buffered},
    {"pending", session_pending},
    {"write", session_write},
    {"cork", session_cork},
    {"uncork", session_uncork},
    {"update_keys", session_update_keys},
    {"send_tickets", session_send_tickets},
    {"close_notify", session_close_notify},
    {"close", session_close},
    {NULL, NULL},
};
static const luaL_Reg meta[] = {{"__gc", session_gc}, {NULL, NULL}};

void session_open(lua_State *L) {
  core_type(L, SESSION_TYPE, methods, meta);
  luaL_getmetatable(L, SESSION_TYPE);
  lua_getfield(L, -1, "__index");
  luaL_setfuncs(L, transport_methods, 0);
  luaL_setfuncs(L, trace_methods, 0);
  luaL_setfuncs(L, info_methods, 0);
  lua_pop(L, 2);
}

/* Session userdata: made, shaking hands, freed. Each call does what it can without waiting and says
 * "want_read" or "want_write" when the transport would block. data.c does what follows. */
#include "session.h"

#include <stdlib.h>
#include <string.h>

/* Turns of a handshake in one call that brought nothing, so that a flood leaves other coroutines
 * theirs. */
#define HANDSHAKE_TURNS 64

/* Warnings that a peer may send in a handshake: unrecognized_name is the only usual one. */
#define WARNINGS_LIMIT 8

/* A peer's handshake message, of which Certificate is the longest: 128 KiB. */
#define MESSAGE_LIMIT (128 * 1024)

typedef struct {
  Session *session;
} Box;

/* Making and freeing -------------------------------------------------------------------------- */

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
  if (!session->handshake) return;
  free(session->handshake->first_words);
  gnutls_memset(session->handshake, 0, sizeof *session->handshake);
  free(session->handshake);
  session->handshake = NULL;
}

bool session_begin_handshake(Session *session) {
  if (!session->handshake) session->handshake = calloc(1, sizeof *session->handshake);
  return session->handshake != NULL;
}

/* Frees all but the structure itself, which a session inside this one may still look at. */
static void session_end(Session *session) {
  if (session->tls) gnutls_deinit(session->tls);
  session->tls = NULL;
  end_handshake(session);
  trace_release(session);
  if (session->input) input_free(session->input);
  session_input_done(session);
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
  if (core_optboolean(L, options, "false_start")) flags |= GNUTLS_ENABLE_FALSE_START;
  bool early = server && early_taken(credentials);
  if (early) flags |= GNUTLS_ENABLE_EARLY_DATA;
  /* One key share: the most preferred group's. A server that wants another asks for it. */
  flags |= server ? GNUTLS_SERVER : GNUTLS_CLIENT | GNUTLS_KEY_SHARE_TOP;
  Box *box = core_new(L, SESSION_TYPE, sizeof *box);
  Session *session = calloc(1, sizeof *session);
  if (!session) return error_gnutls(L, GNUTLS_E_MEMORY_ERROR);
  box->session = session;
  session->references = 1;
  session->server = server;
  session->early = early;
  session->words_follow = core_optboolean(L, options, "words_follow");
  session->forks = core_forks();
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

/* Ready or not -------------------------------------------------------------------------------- */

int session_want(lua_State *L, Session *session) {
  transport_settle(session);
  return error_want(L, session->want == 'w');
}

/* Ends a turn though the transport has not blocked. The wait that follows must not miss what is
 * already here, so this is done only when all of it would show on the descriptor. */
bool session_may_end_turn(const Session *session) {
  const Session *bottom = session;
  while (bottom && bottom->kind == TRANSPORT_SESSION)
    bottom = bottom->link.outer; /* NULL: one of them was closed */
  return bottom && bottom->kind == TRANSPORT_CHANNEL && !transport_holds_data(session) &&
         (session->state != STATE_OPEN || gnutls_record_check_pending(session->tls) == 0);
}

void session_end_turn(Session *session, char direction) {
  session->blocked = true;
  session->want = direction;
}

/* After a fork the session is the parent's: two processes that write the same records would give
 * its keys away (RFC 5116 3.1: a nonce is used once), and take each other's bytes. */
static int forked(lua_State *L) {
  return error_named(L, "forked", "the connection is the parent process's");
}

/* Refuses data before the handshake is complete, and after it has failed. */
int session_not_open(lua_State *L, Session *session) {
  if (session->forks != core_forks()) return forked(L);
  if (session->state == STATE_OPEN) return 0;
  if (session->state == STATE_FAILED) return report_failure(L, session, session->read_failure);
  return error_named(L, "not_ready", "the handshake is not complete");
}

/* The handshake ------------------------------------------------------------------------------- */

/* RFC 8446 6.2: who finds the failure sends the alert. Its own failures change nothing. */
void session_send_alert(Session *session, int rc) {
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
  rc = transport_failure(session, rc);
  Failure failure = {rc, session->system};
  session->state = STATE_FAILED;
  session->read_failure = session->write_failure = failure;
  int results = report_failure(L, session, failure);
  if (!failure.system) session_send_alert(session, rc);
  return results;
}

/* RFC 7301 3.2: a protocol that was not offered is refused, and so is none where one must be. */
static bool alpn_refused(const Session *session) {
  gnutls_datum_t chosen;
  return trace_alpn_refused(session) ||
         (session->alpn_mandatory && gnutls_alpn_get_selected_protocol(session->tls, &chosen) < 0);
}

static int finish_handshake(lua_State *L, Session *session) {
  /* RFC 8446 4.2.10: a server that took early data once, and now speaks TLS 1.2, is none. */
  if (session->early && !session->server &&
      gnutls_protocol_get_version(session->tls) < GNUTLS_TLS1_3)
    return fail_handshake(L, session, GNUTLS_E_UNSUPPORTED_VERSION_PACKET);
  if (alpn_refused(session)) return fail_handshake(L, session, GNUTLS_E_NO_APPLICATION_PROTOCOL);
  session->state = STATE_OPEN;
  session->silent = 0;
  trace_mark(session, MARK_DONE);
  trace_resumed_keys(session);
  transport_settle(session);
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
  if (session->forks != core_forks()) return forked(L);
  if (session->state == STATE_FAILED) return session_not_open(L, session);
  if (session->state == STATE_VERIFY) return want_verify(L);
  if (session->state == STATE_FRESH) {
    if (!session_begin_handshake(session)) return error_gnutls(L, GNUTLS_E_MEMORY_ERROR);
    session->start = core_now();
    session->state = STATE_HANDSHAKE;
  }
  /* A server may speak first, and tickets follow: nothing stays hidden from poll(2) here. */
  transport_read_ahead(session, false);
  for (int turns = 0;; turns++) {
    session->blocked = false;
    session->system = 0;
    rc =
        session->state == STATE_FALSE_START ? early_go_on(session) : gnutls_handshake(session->tls);
    int kept = early_collect(session);
    if (kept < 0) rc = kept;
    if (rc == GNUTLS_E_SUCCESS && early_false_start(session)) continue;
    if (rc == GNUTLS_E_SUCCESS) return finish_handshake(L, session);
    if (session->state == STATE_VERIFY) return want_verify(L);
    if (gnutls_error_is_fatal(rc)) break;
    if (rc == GNUTLS_E_WARNING_ALERT_RECEIVED && ++session->warnings > WARNINGS_LIMIT) break;
    if (rc == GNUTLS_E_GOT_APPLICATION_DATA || rc == GNUTLS_E_REHANDSHAKE) break;
    if (!session->blocked && turns > HANDSHAKE_TURNS && session_may_end_turn(session))
      session_end_turn(session, 'r');
    if (session->blocked) return session_want(L, session);
  }
  return fail_handshake(L, session, rc);
}

/* s:verdict(true), or s:verdict(false, alert): the answer to "want_verify". alert: a name of the
 * IANA registry, "bad_certificate" by default. */
static int session_verdict(lua_State *L) {
  Session *session = session_get(L, 1);
  luaL_checktype(L, 2, LUA_TBOOLEAN);
  bool good = lua_toboolean(L, 2);
  const char *name = luaL_optstring(L, 3, "bad_certificate");
  int alert = good ? GNUTLS_A_BAD_CERTIFICATE : report_alert_number(name);
  luaL_argcheck(L, alert > 0, 3, "no alert has this name");
  if (session->state != STATE_VERIFY) return luaL_error(L, "no verdict is awaited");
  session->state = STATE_HANDSHAKE;
  session->alert = (uint8_t)alert;
  session->verdict = good ? VERDICT_GOOD : VERDICT_BAD;
  if (good) trace_mark(session, MARK_VERIFIED);
  lua_pushboolean(L, 1);
  return 1;
}

static const luaL_Reg methods[] = {
    {"handshake", session_handshake},
    {"verdict", session_verdict},
    {"close", session_close},
    {NULL, NULL},
};
static const luaL_Reg meta[] = {{"__gc", session_gc}, {NULL, NULL}};

void session_open(lua_State *L) {
  core_type(L, SESSION_TYPE, methods, meta);
  luaL_getmetatable(L, SESSION_TYPE);
  lua_getfield(L, -1, "__index");
  luaL_setfuncs(L, data_methods, 0);
  luaL_setfuncs(L, transport_methods, 0);
  luaL_setfuncs(L, trace_methods, 0);
  luaL_setfuncs(L, early_methods, 0);
  luaL_setfuncs(L, info_methods, 0);
  lua_pop(L, 2);
}

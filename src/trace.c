/* What the hooks saw: the moments of a handshake, its messages' bytes and its secrets where they
 * were asked for. The hooks run inside GnuTLS: they copy bytes and never call Lua. */
#include "session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A peer may send messages for ever (tickets); a program may never drain them. */
#define TRACE_LIMIT (4 * 1024 * 1024)
#define CERTIFICATES_LIMIT 16

typedef struct Message {
  struct Message *next;
  double time;
  size_t size;
  int type;
  bool incoming;
  unsigned char bytes[];
} Message;

struct Trace {
  Message *first, **last;
  size_t size;
  unsigned lost; /* messages there was no memory for */
  bool messages, keys, keys_lost;
  char *keylog; /* lines in the NSS key log format */
  size_t keylog_size;
};

/* Messages and steps -------------------------------------------------------------------------- */

typedef struct {
  int type;
  const char *name; /* as RFC 8446 and RFC 5246 spell it */
  const char *step; /* DESIGN.md, The ten steps */
} Name;

/* https://www.iana.org/assignments/tls-parameters: TLS HandshakeType; GnuTLS adds 254 and 1025. */
static const Name names[] = {
    {GNUTLS_HANDSHAKE_HELLO_REQUEST, "HelloRequest", "data"},
    {GNUTLS_HANDSHAKE_CLIENT_HELLO, "ClientHello", "client_hello"},
    {GNUTLS_HANDSHAKE_SERVER_HELLO, "ServerHello", "server_hello"},
    {GNUTLS_HANDSHAKE_NEW_SESSION_TICKET, "NewSessionTicket", "finished"},
    {GNUTLS_HANDSHAKE_END_OF_EARLY_DATA, "EndOfEarlyData", "finished"},
    {GNUTLS_HANDSHAKE_ENCRYPTED_EXTENSIONS, "EncryptedExtensions", "server_hello"},
    {GNUTLS_HANDSHAKE_CERTIFICATE_PKT, "Certificate", "server_hello"},
    {GNUTLS_HANDSHAKE_SERVER_KEY_EXCHANGE, "ServerKeyExchange", "key_exchange"},
    {GNUTLS_HANDSHAKE_CERTIFICATE_REQUEST, "CertificateRequest", "server_hello"},
    {GNUTLS_HANDSHAKE_SERVER_HELLO_DONE, "ServerHelloDone", "key_exchange"},
    {GNUTLS_HANDSHAKE_CERTIFICATE_VERIFY, "CertificateVerify", "key_exchange"},
    {GNUTLS_HANDSHAKE_CLIENT_KEY_EXCHANGE, "ClientKeyExchange", "key_exchange"},
    {GNUTLS_HANDSHAKE_FINISHED, "Finished", "finished"},
    {GNUTLS_HANDSHAKE_CERTIFICATE_STATUS, "CertificateStatus", "server_hello"},
    {GNUTLS_HANDSHAKE_SUPPLEMENTAL, "SupplementalData", "server_hello"},
    {GNUTLS_HANDSHAKE_KEY_UPDATE, "KeyUpdate", "data"},
    {GNUTLS_HANDSHAKE_COMPRESSED_CERTIFICATE_PKT, "CompressedCertificate", "server_hello"},
    {GNUTLS_HANDSHAKE_CHANGE_CIPHER_SPEC, "ChangeCipherSpec", "finished"},
    {GNUTLS_HANDSHAKE_HELLO_RETRY_REQUEST, "HelloRetryRequest", "server_hello"},
    {-1, NULL, NULL},
};

static const Name *find_name(int type) {
  const Name *name = names;
  while (name->name && name->type != type)
    name++;
  return name;
}

const char *trace_message_name(int type, const char **step) {
  const Name *name = find_name(type);
  if (step) *step = name->step;
  return name->name;
}

#define ANY 0
#define OLD 2 /* TLS 1.2 */
#define NEW 3 /* TLS 1.3 */

typedef struct {
  int16_t last; /* the peer's last message; -1: none */
  int16_t next; /* the one that must or may follow */
  uint8_t version;
} Next;

static const Next client_waits[] = {
    {-1, GNUTLS_HANDSHAKE_SERVER_HELLO, ANY},
    {GNUTLS_HANDSHAKE_HELLO_RETRY_REQUEST, GNUTLS_HANDSHAKE_SERVER_HELLO, ANY},
    {GNUTLS_HANDSHAKE_SERVER_HELLO, GNUTLS_HANDSHAKE_ENCRYPTED_EXTENSIONS, NEW},
    {GNUTLS_HANDSHAKE_SERVER_HELLO, GNUTLS_HANDSHAKE_CERTIFICATE_PKT, OLD},
    {GNUTLS_HANDSHAKE_ENCRYPTED_EXTENSIONS, GNUTLS_HANDSHAKE_CERTIFICATE_PKT, NEW},
    {GNUTLS_HANDSHAKE_CERTIFICATE_REQUEST, GNUTLS_HANDSHAKE_CERTIFICATE_PKT, NEW},
    {GNUTLS_HANDSHAKE_CERTIFICATE_REQUEST, GNUTLS_HANDSHAKE_SERVER_HELLO_DONE, OLD},
    {GNUTLS_HANDSHAKE_CERTIFICATE_PKT, GNUTLS_HANDSHAKE_CERTIFICATE_VERIFY, NEW},
    {GNUTLS_HANDSHAKE_COMPRESSED_CERTIFICATE_PKT, GNUTLS_HANDSHAKE_CERTIFICATE_VERIFY, NEW},
    {GNUTLS_HANDSHAKE_CERTIFICATE_PKT, GNUTLS_HANDSHAKE_SERVER_KEY_EXCHANGE, OLD},
    {GNUTLS_HANDSHAKE_CERTIFICATE_STATUS, GNUTLS_HANDSHAKE_SERVER_KEY_EXCHANGE, OLD},
    {GNUTLS_HANDSHAKE_SERVER_KEY_EXCHANGE, GNUTLS_HANDSHAKE_SERVER_HELLO_DONE, OLD},
    {-2, GNUTLS_HANDSHAKE_FINISHED, ANY},
};

static const Next server_waits[] = {
    {-1, GNUTLS_HANDSHAKE_CLIENT_HELLO, ANY},
    {GNUTLS_HANDSHAKE_CLIENT_HELLO, GNUTLS_HANDSHAKE_CLIENT_KEY_EXCHANGE, OLD},
    {GNUTLS_HANDSHAKE_CERTIFICATE_PKT, GNUTLS_HANDSHAKE_CLIENT_KEY_EXCHANGE, OLD},
    {GNUTLS_HANDSHAKE_CERTIFICATE_PKT, GNUTLS_HANDSHAKE_CERTIFICATE_VERIFY, NEW},
    {-2, GNUTLS_HANDSHAKE_FINISHED, ANY},
};

static int awaited(const Session *session) {
  if (session->last_in < 0 && session->last_out < 0) return GNUTLS_HANDSHAKE_CLIENT_HELLO;
  bool resumed = gnutls_session_is_resumed(session->tls) != 0;
  int version = gnutls_protocol_get_version(session->tls) >= GNUTLS_TLS1_3 ? NEW : OLD;
  if (session->server && session->last_in == GNUTLS_HANDSHAKE_CLIENT_HELLO) {
    if (session->last_out == GNUTLS_HANDSHAKE_HELLO_RETRY_REQUEST)
      return GNUTLS_HANDSHAKE_CLIENT_HELLO;
    if (!resumed && session->credentials->client_certificates != GNUTLS_CERT_IGNORE)
      return GNUTLS_HANDSHAKE_CERTIFICATE_PKT;
    if (resumed || version == NEW) return GNUTLS_HANDSHAKE_FINISHED;
  }
  if (!session->server && resumed &&
      session->last_in ==
          (version == NEW ? GNUTLS_HANDSHAKE_ENCRYPTED_EXTENSIONS : GNUTLS_HANDSHAKE_SERVER_HELLO))
    return GNUTLS_HANDSHAKE_FINISHED;
  const Next *next = session->server ? server_waits : client_waits;
  while (next->last != -2 &&
         (next->last != session->last_in || (next->version != ANY && next->version != version)))
    next++;
  return next->next;
}

const char *trace_awaited(const Session *session, const char **step) {
  return trace_message_name(awaited(session), step);
}

/* The message hook ---------------------------------------------------------------------------- */

void trace_mark(Session *session, int mark) {
  if (session->marks[mark]) return; /* the first time counts */
  double microseconds = (core_now() - session->start) * 1e6;
  session->marks[mark] = microseconds < 4e9 ? (uint32_t)microseconds + 1 : UINT32_MAX;
}

static void keep_message(Trace *trace, int type, bool incoming, const gnutls_datum_t *bytes) {
  Message *message = NULL;
  if (trace->size + bytes->size <= TRACE_LIMIT) message = malloc(sizeof *message + bytes->size);
  if (!message) {
    trace->lost++;
    return;
  }
  message->next = NULL;
  message->time = core_now();
  message->size = bytes->size;
  message->type = type;
  message->incoming = incoming;
  if (bytes->size) memcpy(message->bytes, bytes->data, bytes->size);
  *trace->last = message;
  trace->last = &message->next;
  trace->size += bytes->size + sizeof *message;
}

/* RFC 8446 4.1.3: a server that could speak 1.3 ends its random so when it is made to speak less.
 */
static bool downgrade_mark(const gnutls_datum_t *hello) {
  static const unsigned char mark[7] = {'D', 'O', 'W', 'N', 'G', 'R', 'D'};
  if (hello->size < 34) return false;
  return memcmp(hello->data + 26, mark, sizeof mark) == 0 && hello->data[33] <= 1;
}

/* Certificates in a Certificate message, without parsing one. In TLS 1.3 (RFC 8446 4.4.2) a context
 * stands before the list, and extensions behind each entry. */
static unsigned count_certificates(const gnutls_datum_t *message, bool new_form) {
  const unsigned char *p = message->data, *end = p + message->size;
  if (new_form) {
    if (p == end || (size_t)(end - p) < 1u + *p) return 0;
    p += 1 + *p;
  }
  unsigned count = 0;
  if (end - p < 3) return 0;
  for (p += 3; end - p >= 3; count++) {
    size_t size = (size_t)p[0] << 16 | (size_t)p[1] << 8 | p[2];
    p += 3;
    if ((size_t)(end - p) < size) break;
    p += size;
    if (new_form) {
      if (end - p < 2) break;
      size = (size_t)p[0] << 8 | p[1];
      p += 2;
      if ((size_t)(end - p) < size) break;
      p += size;
    }
  }
  return count;
}

/* The protocol a server chose (RFC 7301 3.1: a list of one). GnuTLS passes over one that was not
 * offered; its bytes are kept for the error. */
static int see_alpn(void *context, unsigned id, const unsigned char *data, unsigned size) {
  Session *session = context;
  if (id != 16 || size < 3 || 3u + data[2] > size) return 0;
  memcpy(session->handshake->refused_alpn, data + 3, data[2]);
  session->handshake->alpn_size = data[2];
  return 0;
}

/* The extensions of a ServerHello: behind version, random, session id, suite and compression. */
static void see_server_extensions(Session *session, int type, const gnutls_datum_t *message) {
  gnutls_datum_t list = *message;
  if (type == GNUTLS_HANDSHAKE_SERVER_HELLO) {
    if (list.size < 35 || list.size < 35u + list.data[34] + 3) return;
    unsigned skip = 35u + list.data[34] + 3;
    session->handshake->suite = (uint16_t)(list.data[skip - 3] << 8 | list.data[skip - 2]);
    list.data += skip;
    list.size -= skip;
  }
  gnutls_ext_raw_parse(session, see_alpn, &list, 0);
}

bool trace_alpn_refused(const Session *session) {
  gnutls_datum_t chosen;
  return session->handshake->alpn_size > 0 &&
         gnutls_alpn_get_selected_protocol(session->tls, &chosen) < 0;
}

static int hook_certificate(Session *session, bool incoming, const gnutls_datum_t *message) {
  if (incoming || session->server) trace_mark(session, MARK_CERTIFICATE);
  if (!incoming) return 0;
  if (trace_alpn_refused(session)) return GNUTLS_E_NO_APPLICATION_PROTOCOL;
  bool new_form = gnutls_protocol_get_version(session->tls) >= GNUTLS_TLS1_3;
  if (count_certificates(message, new_form) <= CERTIFICATES_LIMIT) return 0;
  session->handshake->too_many = true;
  return GNUTLS_E_CERTIFICATE_ERROR;
}

/* RFC 8446 5.1. The first message behind the change is all that comes after the hellos in TLS 1.3,
 * and Finished in TLS 1.2. GnuTLS 3.7.9 would take one in the clear out of the last record before.
 */
static bool straddles(Session *session, unsigned type, const gnutls_datum_t *message) {
  Handshake *handshake = session->handshake;
  if (handshake->keys_changed) return false;
  bool hello = type == GNUTLS_HANDSHAKE_CLIENT_HELLO || type == GNUTLS_HANDSHAKE_SERVER_HELLO ||
               type == GNUTLS_HANDSHAKE_HELLO_RETRY_REQUEST;
  bool tls13 = gnutls_protocol_get_version(session->tls) >= GNUTLS_TLS1_3;
  if (hello || (!tls13 && type != GNUTLS_HANDSHAKE_FINISHED)) {
    handshake->in_messages += 4 + message->size;
    return false;
  }
  handshake->keys_changed = true;
  uint32_t came =
      tls13 || !handshake->in_records_old ? handshake->in_records : handshake->in_records_old - 1;
  return came > handshake->in_messages;
}

/* RFC 8446 4.6.1 and RFC 5077 3.3: both begin with the life. */
static void see_ticket(Session *session, const gnutls_datum_t *message) {
  session->tickets++;
  early_see_ticket(session, message);
  if (message->size < 4) return;
  const unsigned char *life = message->data;
  session->ticket_life = (uint32_t)life[0] << 24 | life[1] << 16 | life[2] << 8 | life[3];
}

/* Called by GnuTLS before it makes use of a message. An error ends the handshake. */
static int hook(gnutls_session_t tls, unsigned type, unsigned when, unsigned incoming,
                const gnutls_datum_t *message) {
  Session *session = gnutls_session_get_ptr(tls);
  (void)when;
  if (session->handshake && incoming && straddles(session, type, message))
    return GNUTLS_E_UNEXPECTED_HANDSHAKE_PACKET;
  if (incoming)
    session->last_in = (int16_t)type;
  else
    session->last_out = (int16_t)type;
  if (session->trace && session->trace->messages)
    keep_message(session->trace, (int)type, incoming != 0, message);
  if (type == GNUTLS_HANDSHAKE_NEW_SESSION_TICKET) see_ticket(session, message);
  if (type == GNUTLS_HANDSHAKE_KEY_UPDATE && incoming) session->key_updates++;
  if (!session->handshake) return 0;
  switch (type) {
  case GNUTLS_HANDSHAKE_CLIENT_HELLO:
    trace_mark(session, MARK_CLIENT_HELLO);
    if (!incoming) break;
    identity_see_hello(session, message);
    return tickets_see_hello(session, message);
  case GNUTLS_HANDSHAKE_SERVER_HELLO:
    trace_mark(session, MARK_SERVER_HELLO);
    if (!incoming) break;
    session->handshake->downgraded = downgrade_mark(message);
    see_server_extensions(session, (int)type, message);
    break;
  case GNUTLS_HANDSHAKE_HELLO_RETRY_REQUEST:
    /* GnuTLS 3.7.9 would send the second ClientHello under the keys of the early data. */
    if (session->early && incoming) return GNUTLS_E_EARLY_DATA_REJECTED;
    break;
  case GNUTLS_HANDSHAKE_ENCRYPTED_EXTENSIONS:
    if (incoming) see_server_extensions(session, (int)type, message);
    break;
  case GNUTLS_HANDSHAKE_CERTIFICATE_PKT:
    return hook_certificate(session, incoming != 0, message);
  case GNUTLS_HANDSHAKE_SERVER_KEY_EXCHANGE:
  case GNUTLS_HANDSHAKE_CLIENT_KEY_EXCHANGE:
  case GNUTLS_HANDSHAKE_CERTIFICATE_VERIFY:
    trace_mark(session, MARK_KEY_EXCHANGE);
    break;
  case GNUTLS_HANDSHAKE_FINISHED:
    trace_mark(session, incoming ? MARK_FINISHED_IN : MARK_FINISHED_OUT);
    break;
  }
  return 0;
}

/* The key log --------------------------------------------------------------------------------- */

static char *hex(char *to, const unsigned char *bytes, size_t size) {
  static const char digits[] = "0123456789abcdef";
  for (size_t i = 0; i < size; i++) {
    *to++ = digits[bytes[i] >> 4];
    *to++ = digits[bytes[i] & 15];
  }
  return to;
}

static void wipe_keylog(Trace *trace) {
  if (!trace->keylog) return;
  gnutls_memset(trace->keylog, 0, trace->keylog_size);
  free(trace->keylog);
  trace->keylog = NULL;
  trace->keylog_size = 0;
}

/* Adds "LABEL <client random> <secret>" (the NSS key log format, as tshark reads it). */
static int keep_key(gnutls_session_t tls, const char *label, const gnutls_datum_t *secret) {
  Trace *trace = ((Session *)gnutls_session_get_ptr(tls))->trace;
  gnutls_datum_t random;
  gnutls_session_get_random(tls, &random, NULL);
  size_t more = strlen(label) + 1 + 2 * random.size + 1 + 2 * secret->size + 1;
  char *larger = malloc(trace->keylog_size + more);
  if (!larger) {
    trace->keys_lost = true;
    return 0;
  }
  char *to = larger;
  if (trace->keylog) memcpy(to, trace->keylog, trace->keylog_size);
  to += trace->keylog_size;
  size_t size = trace->keylog_size + more;
  wipe_keylog(trace); /* not realloc: it would leave the old secrets behind */
  memcpy(to, label, strlen(label));
  to += strlen(label);
  *to++ = ' ';
  to = hex(to, random.data, random.size);
  *to++ = ' ';
  to = hex(to, secret->data, secret->size);
  *to = '\n';
  trace->keylog = larger;
  trace->keylog_size = size;
  return 0;
}

void trace_resumed_keys(Session *session) {
  gnutls_session_t tls = session->tls;
  if (!session->trace || !session->trace->keys || !gnutls_session_is_resumed(tls) ||
      gnutls_protocol_get_version(tls) >= GNUTLS_TLS1_3)
    return;
  gnutls_datum_t secret;
  gnutls_session_get_master_secret(tls, &secret); /* the session's own, nothing to free */
  keep_key(tls, "CLIENT_RANDOM", &secret);
}

/* Making and freeing -------------------------------------------------------------------------- */

static void free_messages(Trace *trace) {
  for (Message *message = trace->first, *next; message; message = next) {
    next = message->next;
    free(message);
  }
  trace->first = NULL;
  trace->last = &trace->first;
  trace->size = 0;
  trace->lost = 0;
}

int trace_set(lua_State *L, Session *session, int options) {
  bool messages = core_optboolean(L, options, "trace");
  bool keys = core_optboolean(L, options, "keylog");
  session->last_in = session->last_out = -1;
  gnutls_handshake_set_hook_function(session->tls, GNUTLS_HANDSHAKE_ANY, GNUTLS_HOOK_PRE, hook);
  /* GnuTLS's own would write to the file that SSLKEYLOGFILE names, unasked. */
  gnutls_session_set_keylog_function(session->tls, keys ? keep_key : NULL);
  if (!messages && !keys) return 0;
  session->trace = calloc(1, sizeof *session->trace);
  if (!session->trace) return error_gnutls(L, GNUTLS_E_MEMORY_ERROR);
  session->trace->last = &session->trace->first;
  session->trace->messages = messages;
  session->trace->keys = keys;
  return 0;
}

void trace_release(Session *session) {
  if (!session->trace) return;
  free_messages(session->trace);
  wipe_keylog(session->trace);
  free(session->trace);
  session->trace = NULL;
}

/* Methods ------------------------------------------------------------------------------------- */

/* s:tell(dns, dns_ended, tcp, tcp_ended, verify, verify_ended): times on now()'s clock, or false.
 * The session keeps them for marks(), in less room than Lua would. */
static int trace_tell(lua_State *L) {
  Session *session = session_get(L, 1);
  for (int i = 0; i < TOLD; i++) {
    session->told[i] = 0;
    if (!lua_toboolean(L, i + 2)) continue;
    double after = (luaL_checknumber(L, i + 2) - session->start) * 1e6;
    if (after >= 0) after += 1;
    if (after > -1 && after < 0) after = -1;
    session->told[i] = (int32_t)fmax(-INT32_MAX, fmin(after, INT32_MAX));
  }
  return 0;
}

/* s:marks(): {start=, client_hello=, ...}, times on now()'s clock; absent: not seen. And what
 * tell() was told: dns, dns_ended, tcp, tcp_ended, judging, judged. */
static int trace_marks(lua_State *L) {
  static const char *const fields[MARKS] = {
      "client_hello", "server_hello", "certificate",  "key_exchange", "verify",
      "verified",     "finished_in",  "finished_out", "done",         "data_out",
      "data_in",      "close_out",    "close_in"};
  static const char *const told[TOLD] = {"dns",       "dns_ended", "tcp",
                                         "tcp_ended", "judging",   "judged"};
  Session *session = session_get(L, 1);
  lua_createtable(L, 0, MARKS + 1);
  if (session->start == 0) return 1;
  lua_pushnumber(L, session->start);
  lua_setfield(L, -2, "start");
  for (int i = 0; i < MARKS; i++) {
    if (!session->marks[i]) continue;
    lua_pushnumber(L, session->start + (session->marks[i] - 1) * 1e-6);
    lua_setfield(L, -2, fields[i]);
  }
  for (int i = 0; i < TOLD; i++) {
    int32_t after = session->told[i];
    if (!after) continue;
    lua_pushnumber(L, session->start + (after > 0 ? after - 1 : after) * 1e-6);
    lua_setfield(L, -2, told[i]);
  }
  return 1;
}

/* s:messages(): the list of {type=, name=, incoming=, time=, bytes=} since the last call, as the
 * handshake messages stand behind their 4-byte headers; `lost` counts those there was no memory
 * for. Empty unless the session was made with trace=true. */
static int trace_messages(lua_State *L) {
  Session *session = session_get(L, 1);
  lua_newtable(L);
  Trace *trace = session->trace;
  if (!trace) return 1;
  int count = 0;
  for (Message *message = trace->first; message; message = message->next) {
    lua_createtable(L, 0, 5);
    lua_pushinteger(L, message->type);
    lua_setfield(L, -2, "type");
    lua_pushstring(L, trace_message_name(message->type, NULL));
    lua_setfield(L, -2, "name");
    lua_pushboolean(L, message->incoming);
    lua_setfield(L, -2, "incoming");
    lua_pushnumber(L, message->time);
    lua_setfield(L, -2, "time");
    lua_pushlstring(L, (char *)message->bytes, message->size);
    lua_setfield(L, -2, "bytes");
    lua_rawseti(L, -2, ++count);
  }
  lua_pushinteger(L, (lua_Integer)trace->lost);
  lua_setfield(L, -2, "lost");
  free_messages(trace); /* only now: a memory error above must not lose them */
  return 1;
}

/* s:keylog(): the secrets' lines since the last call, in the NSS key log format; "" when there is
 * none. Nil, message, cause unless the session was made with keylog=true. */
static int trace_keylog(lua_State *L) {
  Session *session = session_get(L, 1);
  Trace *trace = session->trace;
  if (!trace || !trace->keys) return error_named(L, "not_asked", "no key log was asked for");
  if (trace->keys_lost) return error_gnutls(L, GNUTLS_E_MEMORY_ERROR);
  lua_pushlstring(L, trace->keylog ? trace->keylog : "", trace->keylog_size);
  wipe_keylog(trace);
  return 1;
}

/* s:awaiting(): the name of the handshake message that the session waits for or sends next, and its
 * step; nil once the handshake is over. */
static int trace_awaiting(lua_State *L) {
  Session *session = session_get(L, 1);
  const char *step;
  if (!session->tls || session->state >= STATE_OPEN) {
    lua_pushnil(L);
    return 1;
  }
  if (session->state == STATE_VERIFY) {
    lua_pushliteral(L, "Certificate");
    lua_pushliteral(L, "verify");
    return 2;
  }
  lua_pushstring(L, trace_awaited(session, &step));
  lua_pushstring(L, step);
  return 2;
}

const luaL_Reg trace_methods[] = {
    {"marks", trace_marks},   {"tell", trace_tell},         {"messages", trace_messages},
    {"keylog", trace_keylog}, {"awaiting", trace_awaiting}, {NULL, NULL},
};

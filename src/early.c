/* What a program says before the handshake is complete: early data (0-RTT, RFC 8446 2.3) in TLS
 * 1.3, false start (RFC 7918) in TLS 1.2; and, on a server, what is taken of early data.
 *
 * Early data can be sent again by whoever recorded it. A server takes it only once: each
 * ClientHello that it accepts early data from is remembered for as long as GnuTLS would accept it
 * again (RFC 8446 8.2, 8.3), and where that memory is full, early data is refused. Refused early
 * data costs a round trip, never the connection.
 *
 * False start trusts what Finished would prove: that nobody changed what was agreed on. Whoever
 * changes it can only choose among what both sides offer. So data leaves early only under keys that
 * are good whatever else was offered: an ephemeral key signed by the certificate that the program
 * has just judged good, and an AEAD cipher. A server that says it was made to speak an older
 * version (RFC 8446 4.1.3) gets nothing early. */
#include "session.h"

#include <stdlib.h>
#include <string.h>

/* As many ClientHellos in one stretch of GnuTLS's recording, 10 seconds. */
#define SEEN_LIMIT 16384

enum { SEEN_FIRST = 64, SEEN_SIZE = 32, STRETCH_SIZE = 12 };

/* Early data leaves with the ClientHello in one go: GnuTLS 3.7.9 cannot go on with half of it. A
 * new socket takes as much as this. */
#define EARLY_LIMIT 8192

struct Early {
  int references;
  unsigned forks; /* core_forks() of the process that made it */
  gnutls_anti_replay_t replay;
  /* The binders of the ClientHellos of this stretch, each a MAC: a hash table that is found by
   * their own first bytes. All zero: free. */
  unsigned char (*seen)[SEEN_SIZE];
  size_t size, count;
  unsigned char stretch[STRETCH_SIZE]; /* when it began */
};

/* A server's memory --------------------------------------------------------------------------- */

static unsigned char *find(const Early *early, const unsigned char *binder) {
  static const unsigned char none[SEEN_SIZE];
  size_t at = (size_t)binder[0] << 16 | (size_t)binder[1] << 8 | binder[2];
  for (;; at++) {
    unsigned char *place = early->seen[at & (early->size - 1)];
    if (memcmp(place, none, SEEN_SIZE) == 0 || memcmp(place, binder, SEEN_SIZE) == 0) return place;
  }
}

/* Keeps a quarter of the places free, and twice as many as it had. */
static bool grow(Early *early) {
  Early larger = *early;
  larger.size = early->size ? early->size * 2 : SEEN_FIRST;
  if (larger.size > SEEN_LIMIT * 2) return false;
  larger.seen = calloc(larger.size, sizeof *larger.seen);
  if (!larger.seen) return false;
  static const unsigned char none[SEEN_SIZE];
  for (size_t i = 0; i < early->size; i++)
    if (memcmp(early->seen[i], none, SEEN_SIZE) != 0)
      memcpy(find(&larger, early->seen[i]), early->seen[i], SEEN_SIZE);
  free(early->seen);
  *early = larger;
  return true;
}

/* GnuTLS's question whether a ClientHello is new: the key is the beginning of the stretch and the
 * hello's binder. What belongs to an older stretch GnuTLS refuses itself. */
static int remember(void *pointer, time_t until, const gnutls_datum_t *key,
                    const gnutls_datum_t *entry) {
  Early *early = pointer;
  (void)until;
  (void)entry;
  if (key->size < STRETCH_SIZE + SEEN_SIZE) return GNUTLS_E_INVALID_REQUEST;
  if (memcmp(early->stretch, key->data, STRETCH_SIZE) != 0) {
    free(early->seen);
    early->seen = NULL;
    early->size = early->count = 0;
    memcpy(early->stretch, key->data, STRETCH_SIZE);
  }
  if (early->count >= SEEN_LIMIT) return GNUTLS_E_DB_ERROR;
  if (early->count * 4 >= early->size * 3 && !grow(early)) return GNUTLS_E_DB_ERROR;
  const unsigned char *binder = key->data + STRETCH_SIZE;
  unsigned char *place = find(early, binder);
  if (memcmp(place, binder, SEEN_SIZE) == 0) return GNUTLS_E_DB_ENTRY_EXISTS;
  memcpy(place, binder, SEEN_SIZE);
  early->count++;
  return 0;
}

int early_new(Early **result) {
  Early *early = calloc(1, sizeof *early);
  if (!early) return GNUTLS_E_MEMORY_ERROR;
  int rc = gnutls_anti_replay_init(&early->replay);
  if (rc < 0) {
    free(early);
    return rc;
  }
  gnutls_anti_replay_set_add_function(early->replay, remember);
  gnutls_anti_replay_set_ptr(early->replay, early);
  early->references = 1;
  early->forks = core_forks();
  *result = early;
  return 0;
}

Early *early_share(Early *early) {
  if (early) early->references++;
  return early;
}

void early_release(Early *early) {
  if (!early || --early->references > 0) return;
  gnutls_anti_replay_deinit(early->replay);
  free(early->seen);
  free(early);
}

/* After a fork there are two memories and one ticket key: each process would take what the other
 * has taken. Only the one that made it goes on. */
bool early_taken(const Credentials *credentials) {
  return credentials->early && credentials->early->forks == core_forks();
}

void early_serve(Session *session) {
  if (session->early) gnutls_anti_replay_enable(session->tls, session->credentials->early->replay);
}

/* Moves what has come as early data to where it is read from. */
int early_collect(Session *session) {
  if (!session->early || !session->server) return 0;
  for (;;) {
    unsigned char data[4096];
    ssize_t size = gnutls_record_recv_early_data(session->tls, data, sizeof data);
    if (size <= 0) return 0;
    trace_mark(session, MARK_DATA_IN);
    session->bytes_in += (uint64_t)size;
    if (!session_input(session) || !input_add(session->input, data, (size_t)size))
      return GNUTLS_E_MEMORY_ERROR;
  }
}

/* A client's first words ---------------------------------------------------------------------- */

/* RFC 8446 4.6.1: how much early data a ticket allows: 0 unless it says so. */
static int see_extension(void *context, unsigned id, const unsigned char *data, unsigned size) {
  Session *session = context;
  if (id == 42 && size == 4)
    session->early_limit = (uint32_t)data[0] << 24 | data[1] << 16 | data[2] << 8 | data[3];
  return 0;
}

void early_see_ticket(Session *session, const gnutls_datum_t *message) {
  session->early_limit = 0;
  if (gnutls_protocol_get_version(session->tls) < GNUTLS_TLS1_3) return;
  /* life, age_add, nonce, ticket */
  size_t at = 8;
  if (at >= message->size) return;
  at += 1u + message->data[at];
  if (at + 2 > message->size) return;
  at += 2u + ((size_t)message->data[at] << 8 | message->data[at + 1]);
  if (at + 2 > message->size) return;
  gnutls_datum_t extensions = {message->data + at, (unsigned)(message->size - at)};
  gnutls_ext_raw_parse(session, see_extension, &extensions, 0);
}

/* s:first(data, early): what the program wants to say first. With `early` it leaves with the
 * ClientHello: then the session must have been made with a ticket that allows so much, and its peer
 * been judged. Else it leaves before the server's Finished, where that is safe in TLS 1.2 (the
 * session was made with false_start=true), or not at all: see first_sent(). True, or nil, message,
 * cause ("too_long": more early data than is sent). */
static int early_first(lua_State *L) {
  int results;
  Session *session = session_open_one(L, 1, &results);
  if (!session) return results;
  size_t size;
  const char *data = luaL_checklstring(L, 2, &size);
  if (session->server || session->state != STATE_FRESH || session->handshake)
    return luaL_error(L, "the first words come before a client's handshake");
  if (lua_toboolean(L, 3)) {
    if (size > EARLY_LIMIT) return error_named(L, "too_long", "too much for early data");
    ssize_t rc = gnutls_record_send_early_data(session->tls, data, size);
    if (rc < 0) return error_gnutls(L, (int)rc);
    session->early = true;
  }
  if (!session_begin_handshake(session)) return error_gnutls(L, GNUTLS_E_MEMORY_ERROR);
  session->handshake->first_words = malloc(size ? size : 1);
  if (!session->handshake->first_words) return error_gnutls(L, GNUTLS_E_MEMORY_ERROR);
  memcpy(session->handshake->first_words, data, size);
  session->handshake->first_left = session->handshake->first_total = size;
  lua_pushboolean(L, 1);
  return 1;
}

/* s:first_sent(): "early" when the server took the first words as early data, "false_start" when
 * they left in a false start; nil when they have not left, or were refused. */
static int early_first_sent(lua_State *L) {
  const Session *session = session_get(L, 1);
  if (session->false_start)
    lua_pushliteral(L, "false_start");
  else if (session->tls && session->early && !session->server &&
           gnutls_session_get_flags(session->tls) & GNUTLS_SFLAGS_EARLY_DATA)
    lua_pushliteral(L, "early");
  else
    lua_pushnil(L);
  return 1;
}

/* s:early(): what a server has read of early data and not handed out yet, "" where there is none.
 * Whoever recorded it may have sent it again, until the handshake is complete. */
static int early_early(lua_State *L) {
  Session *session = session_get(L, 1);
  if (session->state < STATE_OPEN && session->early && session->server)
    return session_take(L, session);
  lua_pushliteral(L, "");
  return 1;
}

/* Whether data may leave under the keys of a handshake that lacks only the server's Finished. */
static bool safe_to_start(const Session *session) {
  /* RFC 7918 5: ECDHE with ECDSA or RSA, and AES-GCM or ChaCha20-Poly1305. GnuTLS tells a suite's
   * parts only once it is in use both ways. */
  static const uint16_t suites[] = {0xc02b, 0xc02c, 0xc02f, 0xc030, 0xcca8, 0xcca9};
  if (session->handshake->downgraded || session->verdict != VERDICT_GOOD) return false;
  for (size_t i = 0; i < sizeof suites / sizeof *suites; i++)
    if (session->handshake->suite == suites[i]) return true;
  return false;
}

bool early_false_start(Session *session) {
  if (session->server || session->state == STATE_FALSE_START ||
      !(gnutls_session_get_flags(session->tls) & GNUTLS_SFLAGS_FALSE_START))
    return false;
  session->state = STATE_FALSE_START;
  if (!safe_to_start(session)) session->handshake->first_left = 0;
  return true;
}

/* Sends the first words, then has GnuTLS take in what is left of the handshake: it does so in a
 * read, which may bring data, too. */
int early_go_on(Session *session) {
  Handshake *handshake = session->handshake;
  while (handshake->first_left > 0) {
    size_t done = handshake->first_total - handshake->first_left;
    ssize_t sent = session_send(session, handshake->first_words + done, handshake->first_left);
    if (sent < 0) return session->blocked ? GNUTLS_E_AGAIN : session->write_failure.gnutls;
    handshake->first_left -= (size_t)sent;
    session->false_start = true;
  }
  session->blocked = false;
  session->system = 0;
  unsigned char byte;
  ssize_t rc = gnutls_record_recv(session->tls, &byte, 1);
  if (rc > 0 && (!session_input(session) || !input_add(session->input, &byte, 1)))
    return GNUTLS_E_MEMORY_ERROR;
  if (rc < 0 && gnutls_error_is_fatal((int)rc)) return (int)rc;
  if (!session->marks[MARK_FINISHED_IN]) return rc < 0 ? (int)rc : GNUTLS_E_UNEXPECTED_PACKET;
  if (rc > 0) {
    trace_mark(session, MARK_DATA_IN);
    session->bytes_in++;
    session->records_in++;
  } else if (rc == 0) {
    session->close_received = true;
    trace_mark(session, MARK_CLOSE_IN);
  }
  return 0;
}

const luaL_Reg early_methods[] = {
    {"first", early_first},
    {"first_sent", early_first_sent},
    {"early", early_early},
    {NULL, NULL},
};

/* What the files of a session share: session.c (handshake), data.c (read, write, close_notify),
 * transport.c (where its bytes come from and go to), trace.c (what the hooks saw), early.c (what is
 * said before the handshake is complete), info.c (what it tells), report.c (how its failures are
 * told), and context.c, identity.c and tickets.c, which make the credentials it stands on. */
#ifndef TLSCONNECT_SESSION_H
#define TLSCONNECT_SESSION_H

#include "core.h"

/* GnuTLS's own limit of a chain, and a bound on a key that makes each signature slow to check. */
enum { MAX_OWN_CHAIN = 16, MAX_KEY_BITS = 16384 };

enum { TICKET_KEY_SIZE = 64 }; /* GnuTLS's */

typedef struct Identity Identity;
typedef struct Early Early;

/* What many sessions share. Counted, because at lua_close the context may be collected before its
 * sessions, and GnuTLS wants sessions freed before their credentials. */
typedef struct {
  int references;
  gnutls_certificate_credentials_t certificates; /* a client's */
  gnutls_certificate_credentials_t server;       /* made when the first session needs them */
  Identity **identities;                         /* what a server chooses from */
  size_t identity_count;
  gnutls_priority_t priority;
  gnutls_datum_t ticket_key; /* server; made when the first session needs it */
  Early *early;              /* server; NULL: early data is refused */
  gnutls_datum_t alpn;       /* each protocol as one length byte and its name */
  bool alpn_mandatory;
  bool no_tickets;
  gnutls_certificate_request_t client_certificates;
} Credentials;

void credentials_release(Credentials *credentials);

/* identity.c: a server's certificates ----------------------------------------------------------
 * They return 0 or a number of GnuTLS's. */

/* Adds one, which is copied: the key must be the certificate's. */
int identity_add(Credentials *credentials, gnutls_x509_crt_t *chain, unsigned count,
                 gnutls_x509_privkey_t key);
/* Gives the last one that was added an OCSP response, until then ((time_t)-1: for ever). */
int identity_staple(Credentials *credentials, gnutls_datum_t response, time_t until);
void identity_free(Identity *identity);
/* What GnuTLS needs to have them chosen from. */
int identity_credentials(Credentials *credentials, gnutls_certificate_credentials_t *result);

/* tickets.c: a server's tickets ---------------------------------------------------------------
 * They return 0 or a number of GnuTLS's. */

/* Makes the key unless there is one. */
int tickets_make_key(Credentials *credentials);
int tickets_copy_key(Credentials *credentials, const void *key, size_t size);
void tickets_wipe_key(Credentials *credentials);

/* early.c: a server's memory of early data ---------------------------------------------------- */

int early_new(Early **result);
Early *early_share(Early *early);
void early_release(Early *early);
/* Whether a session of these takes early data. */
bool early_taken(const Credentials *credentials);

/* The moments of a handshake, in microseconds after `start`, one more than measured so that 0 means
 * "not seen". The names are those of s:marks(). */
enum {
  MARK_CLIENT_HELLO,
  MARK_SERVER_HELLO,
  MARK_CERTIFICATE,
  MARK_KEY_EXCHANGE,
  MARK_VERIFY,
  MARK_VERIFIED,
  MARK_FINISHED_IN,
  MARK_FINISHED_OUT,
  MARK_DONE,
  MARK_DATA_OUT, /* the first bytes of the program's, each way */
  MARK_DATA_IN,
  MARK_CLOSE_OUT, /* close_notify */
  MARK_CLOSE_IN,
  MARKS
};

/* Times of steps that the session has no part in, or does not end: in microseconds after `start`,
 * and one more where that is not negative, so that 0 means "not told". */
enum { TOLD_DNS, TOLD_DNS_ENDED, TOLD_TCP, TOLD_TCP_ENDED, TOLD_VERIFY, TOLD_VERIFY_ENDED, TOLD };

/* A failure as it happened: GnuTLS's number, and the errno of the transport where it has one. */
typedef struct {
  int16_t gnutls; /* 0: none */
  int16_t system;
} Failure;

typedef struct Session Session;
typedef struct Memory Memory;
typedef struct Trace Trace;
typedef struct Held Held;

/* Needed while a handshake runs, freed at its end. */
typedef struct {
  unsigned char first[64]; /* what the peer said first: it may be no TLS at all */
  unsigned char first_size;
  unsigned char alpn_size;
  bool takes_rsa, takes_ecdsa; /* suites that a client offers in TLS 1.2 */
  bool downgraded;             /* the ServerHello carries the mark of RFC 8446 4.1.3 */
  bool too_many;               /* certificates */
  uint16_t suite;              /* that the server chose */
  char refused_alpn[255];      /* what the server chose though it was not offered */
  /* RFC 8446 5.1: no message may straddle a change of keys. What came in handshake records must be
   * what the messages before the change took. */
  bool keys_changed;
  unsigned char record_size; /* of the header that has come so far */
  unsigned char record[5];
  uint32_t record_left;       /* bytes of the record that are still to come */
  uint32_t in_records;        /* bytes in handshake records */
  uint32_t in_records_old;    /* the same before the first change_cipher_spec, plus 1 */
  uint32_t in_messages;       /* bytes of the messages before the change */
  unsigned char *first_words; /* a client's; what has not left of them is at their end */
  size_t first_total, first_left;
  bool has_ticket_key;
  unsigned char ticket_key[TICKET_KEY_SIZE]; /* of the name that was asked for */
} Handshake;

typedef enum { TRANSPORT_CHANNEL, TRANSPORT_SESSION, TRANSPORT_MEMORY } Kind;

typedef enum {
  STATE_FRESH,
  STATE_HANDSHAKE,
  STATE_VERIFY,      /* paused in the verify callback until verdict() */
  STATE_FALSE_START, /* the server's Finished is still to come */
  STATE_OPEN,
  STATE_FAILED, /* the handshake did */
} State;

typedef enum { VERDICT_NONE, VERDICT_GOOD, VERDICT_BAD } Verdict;

struct Session {
  gnutls_session_t tls; /* NULL once closed */
  Credentials *credentials;
  union {
    Channel *channel;
    Session *outer;
    Memory *memory;
  } link;
  Handshake *handshake;
  unsigned char *ahead; /* read and not yet asked for by GnuTLS; NULL when there is none */
  uint32_t ahead_start, ahead_end, ahead_size;
  uint32_t silent; /* bytes from the transport since the last data, or since the beginning */
  Held *held;      /* records that leave with the next ones */
  Trace *trace;    /* NULL unless the messages' bytes or the keys were asked for */
  Input *input;    /* what was read and not yet handed out; NULL when there is nothing */
  size_t turn;     /* bytes read in this call */
  size_t unsent;   /* bytes of the program's in a record that GnuTLS holds half sent */
  Failure read_failure, write_failure;
  double start; /* of the handshake, on core_now()'s clock */
  uint64_t bytes_in, bytes_out, records_in, records_out;
  uint32_t marks[MARKS];
  int32_t told[TOLD];
  uint32_t tickets, key_updates;
  uint32_t ticket_life; /* seconds, as the last NewSessionTicket says */
  uint32_t early_limit; /* bytes of early data that it allows */
  int references;
  unsigned forks;            /* core_forks() of the process that made it */
  int system;                /* errno of the transport's last failure */
  uint16_t quiet;            /* records in a row that brought no data */
  int16_t last_in, last_out; /* handshake messages, GNUTLS_HANDSHAKE_...; -1: none yet */
  uint8_t kind, state, verdict;
  uint8_t alert;    /* to send with a bad verdict */
  uint8_t warnings; /* during the handshake */
  char want;        /* 'r' or 'w': what the bottom transport last blocked on */
  uint8_t pace;     /* how often in a row the kernel had more than was asked for, up to 2 */
  /* Bits, as an idle connection is to be small. */
  bool server : 1, blocked : 1, outer_failed : 1, reauthenticate : 1, uncorking : 1;
  bool alpn_mandatory : 1, flooded : 1, close_sent : 1, close_received : 1;
  bool asked : 1;        /* something has left, and no answer was looked for since */
  bool words_follow : 1; /* the program sends as soon as the handshake is complete */
  bool early : 1;        /* early data is sent (client) or taken (server) */
  bool false_start : 1;  /* data has left in one */
  bool ahead_off : 1; /* this turn is long enough: what more comes is to stay where poll(2) sees it
                       */
  bool ended : 1;     /* the transport has no more bytes, and GnuTLS wanted some */
};

/* priority.c */
/* Text for a priority string that puts groups and ciphers of the default in the order of their
 * cost; "" where there is nothing to put. */
const char *priority_order(void);
void priority_open(lua_State *L);

/* identity.c */
void identity_see_hello(Session *session, const gnutls_datum_t *hello);

/* tickets.c */
int tickets_see_hello(Session *session, const gnutls_datum_t *hello);

/* session.c */
Session *session_get(lua_State *L, int index); /* the Session even when it is closed */
/* Pushes nil, message, cause and returns NULL when it is closed. */
Session *session_open_one(lua_State *L, int index, int *results);
void session_release(Session *session);
/* Makes what a handshake needs; false: no memory. */
bool session_begin_handshake(Session *session);
/* Makes one; pushes the userdata. 0, or the number of results of an error. */
int session_new(lua_State *L, Credentials *credentials, bool server, int options);
/* Pushes nil and "want_read" or "want_write", by what the transport last blocked on. */
int session_want(lua_State *L, Session *session);
/* Whether a turn may end though the transport has not blocked. The wait that follows must not miss
 * what is already here, so all of that must show on the descriptor. */
bool session_may_end_turn(const Session *session);
void session_end_turn(Session *session, char direction);
/* 0 when data may pass; else pushes why not: before the handshake is complete, or it has failed. */
int session_not_open(lua_State *L, Session *session);
/* RFC 8446 6.2: who finds a failure sends the alert. Its own failures change nothing. */
void session_send_alert(Session *session, int rc);

/* data.c */
/* Decrypted bytes: their number, 0 at the peer's close_notify, or -1: `blocked`, or read_failure.
 */
ssize_t session_receive(Session *session, void *buffer, size_t size);
/* The session's Input, made where there is none; NULL: no memory. Whoever has used it lets go of
 * it: it is freed when nothing is left in it. */
Input *session_input(Session *session);
void session_input_done(Session *session);
/* take(): pushes all that is in it. */
int session_take(lua_State *L, Session *session);
/* Sends at most one record of it: the bytes taken, or -1: `blocked`, or write_failure. */
ssize_t session_send(Session *session, const void *data, size_t size);
extern const luaL_Reg data_methods[];

/* transport.c */
/* Reads the transport from the options table; 0, or the number of results of an error. */
int transport_set(lua_State *L, Session *session, int options);
void transport_release(Session *session);
/* GnuTLS's number of a failure: an end in the midst of a record is an end, and no bad length. */
int transport_failure(const Session *session, int rc);
/* After a failure: reads what more the peer has sent, up to the 64 bytes that are kept. */
void transport_first_bytes(Session *session);
/* True when a wait for the descriptor would not see what is already here. */
bool transport_holds_data(const Session *session);
/* How many bytes are read ahead that such a wait would not see. */
size_t transport_ahead(const Session *session);
/* Whether the transport at the bottom has neither bytes nor an end to give. */
bool transport_quiet(const Session *session);
/* Whether more than GnuTLS asks for may be read. Not once a turn has been long enough: then it must
 * come to a point where all that is here shows on the descriptor. */
void transport_read_ahead(Session *session, bool on);
enum { READ_AHEAD = 262144 }; /* at most */
/* At the end of a call: an idle connection keeps no buffer. */
void transport_settle(Session *session);
extern const luaL_Reg transport_methods[]; /* feed, drain, hand_back, want */

/* trace.c */
int trace_set(lua_State *L, Session *session, int options);
void trace_release(Session *session);
void trace_mark(Session *session, int mark);
/* GnuTLS logs no key when TLS 1.2 resumes a session: at the handshake's end this does. */
void trace_resumed_keys(Session *session);
/* A handshake message's name and, where `step` is not NULL, its step among the ten. */
const char *trace_message_name(int type, const char **step);
/* The same of the message that the session waits for or sends next. */
const char *trace_awaited(const Session *session, const char **step);
/* RFC 7301 3.2: true when the peer chose a protocol that was not offered. */
bool trace_alpn_refused(const Session *session);
extern const luaL_Reg trace_methods[]; /* marks, messages, keylog, awaiting */

/* early.c */
void early_serve(Session *session);
/* After a call of gnutls_handshake: 0, or a number of GnuTLS's. */
int early_collect(Session *session);
void early_see_ticket(Session *session, const gnutls_datum_t *message);
/* Whether GnuTLS has left the handshake with the server's Finished to come; go on with the other.
 */
bool early_false_start(Session *session);
int early_go_on(Session *session);     /* as gnutls_handshake does */
extern const luaL_Reg early_methods[]; /* first, first_sent, early */

/* info.c */
extern const luaL_Reg info_methods[];

/* report.c */
/* Pushes nil, message, cause {code=, at=, awaited=, step=, alert=, ...}; returns 3. `awaited` is
 * false when `at` had come and was not accepted. */
int report_failure(lua_State *L, Session *session, Failure failure);
/* The number of an alert by its name, or -1. */
int report_alert_number(const char *name);
const char *report_alert_name(int number);

#endif

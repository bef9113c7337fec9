/* What the files of the core share: how userdata are made and checked, how errors are returned,
 * and the few structures that more than one file stands on.
 *
 * Rules of the core: it never blocks, never waits, and calls Lua only where Lua called it; no Lua
 * call is made inside a GnuTLS callback. A userdata is made first, empty and closable, and filled
 * after, so that a memory error at any point finds it consistent. */
#ifndef TLSCONNECT_CORE_H
#define TLSCONNECT_CORE_H

#include "compat.h"

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* SO_NOSIGPIPE stands in */
#endif

/* core.c ------------------------------------------------------------------------------------- */

/* Registers a userdata type: methods behind __index, metamethods beside it. */
void core_type(lua_State *L, const char *type, const luaL_Reg *methods, const luaL_Reg *meta);

/* Pushes a new userdata of that type, all bytes zero. */
void *core_new(lua_State *L, const char *type, size_t size);

/* Pushes a datum that the collector frees with gnutls_free, so that what GnuTLS allocates is never
 * held by a C variable alone. */
gnutls_datum_t *core_datum(lua_State *L);

/* Seconds on the monotonic clock. */
double core_now(void);

/* The milliseconds until then, as poll(2) wants them: rounded up, or the last one would spin; -1
 * for a time that never comes. */
int core_milliseconds(double deadline);

/* How many forks lie between this process and the one that loaded the module. */
unsigned core_forks(void);

/* Optional fields of the options table at `index` (0 or nil: none). A wrong type raises an error
 * that names the field. */
const char *core_optstring(lua_State *L, int index, const char *field, size_t *size);
bool core_optboolean(lua_State *L, int index, const char *field);
double core_optnumber(lua_State *L, int index, const char *field, double fallback);

/* error.c: the only place that turns GnuTLS, errno and EAI codes into errors ------------------ */

/* Each pushes nil, a message and a cause {code=, message=, ...} and returns 3. */
int error_gnutls(lua_State *L, int number);
/* The same, where the caller knows a better code than the table does. */
int error_gnutls_as(lua_State *L, const char *code, int number);
int error_errno(lua_State *L, int number);
int error_gai(lua_State *L, int number, int system_error);
int error_named(lua_State *L, const char *code, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 3, 4)))
#endif
    ;

/* Pushes nil and "want_read" or "want_write", returns 2. */
int error_want(lua_State *L, bool write);

/* large.c ------------------------------------------------------------------------------------- */

bool large_enough(size_t size); /* for either of these */
void *large_block(size_t size); /* to be freed with free(); NULL when there is no memory */
/* lua_pushlstring. */
void large_push(lua_State *L, const void *data, size_t size);

/* A string of Lua's whose bytes are written before it is one. */
typedef struct {
  unsigned char *bytes;
  size_t length;
  unsigned char *block; /* of the allocator's, until the string is made */
  size_t size;
  lua_Alloc allocate;
  void *owner;
  bool taken; /* the block is Lua's own now */
} LargeString;

/* NULL when there is no memory, or this Lua has no way to do it. Raises no error. */
LargeString *large_string(lua_State *L, size_t length);
/* Pushes it, as lua_pcall does: 0, or a status, with an error on the stack. To be dropped then. */
int large_finish(lua_State *L, LargeString *string);
void large_drop(LargeString *string);
void large_open(lua_State *L);

/* file.c -------------------------------------------------------------------------------------- */

/* A file of Lua's io library, or of file.c, while bytes are written to its descriptor. */
typedef struct {
  FILE *stream; /* of Lua's; NULL else */
  int fd;
  int problem; /* errno of what it held back and could not write; 0: none */
} OpenFile;

/* What Lua's file holds back is written first. Raises an error when there is no open file. */
OpenFile file_begin(lua_State *L, int index);
/* Lua's file goes on where the descriptor stands now. 0, or an errno. */
int file_end(OpenFile *file);

/* input.c: buffered reading by pattern, the same for sockets and sessions --------------------- */

typedef struct {
  unsigned char
      *data; /* owned; NULL while nothing is buffered, so that an idle peer costs nothing */
  LargeString *string; /* whose bytes `data` is; NULL: it is malloc's */
  size_t start, end;   /* the bytes not yet handed out */
  size_t size;
  size_t scanned;    /* how far a search for a line end has come, from start */
  bool scanned_head; /* it was for the end of a head */
  /* Set by a pull that has left no byte behind where poll(2) cannot see it (decrypted, read ahead):
   * a read of a stream that never pauses may then end its turn with "want_read", so that deadlines
   * and other coroutines are served. A pull that is not sure leaves it alone. */
  bool pollable;
} Input;

/* How input_read gets more bytes. Returns their number, 0 at the end of the stream, or -1 after it
 * has stored why; it never calls Lua. */
typedef ssize_t (*input_pull)(void *owner, void *buffer, size_t size);

/* How input_read reports a pull that returned 0 or -1: pushes results like error_...() does. */
typedef int (*input_fail)(lua_State *L, void *owner, ssize_t result);

/* read(what, limit): see input.c for the patterns. Returns the number of results. */
int input_read(lua_State *L, int index, Input *input, input_pull pull, input_fail fail,
               void *owner);
/* Puts at most 16 KiB behind what is buffered; false: no memory. */
bool input_add(Input *input, const void *data, size_t size);
/* pour(file, most): see input.c. Returns the number of results. */
int input_pour(lua_State *L, int index, Input *input, input_pull pull, input_fail fail,
               void *owner);
/* take(): pushes everything buffered, empties the buffer. */
int input_take(lua_State *L, Input *input);
void input_free(Input *input);

/* head.c -------------------------------------------------------------------------------------- */

/* How an answer's body is framed (RFC 9112 6.3). */
typedef enum { FRAMED_NONE, FRAMED_LENGTH, FRAMED_CHUNKED, FRAMED_CLOSE, FRAMED_BADLY } Framing;

typedef struct {
  int status; /* 0: it is no answer */
  Framing framing;
  uint64_t length; /* of FRAMED_LENGTH, below 2^53 */
  bool encoded;    /* it has a Content-Encoding */
} Answer;

/* Reads the head of an answer, through its empty line, of `most` fields at most. Pushes
 *   answer, kind, length, persistent, more     and returns 5; of an interim answer, length is the
 * head's answer, false, message, shown, more        where the body's end cannot be told false,
 * code, message, shown                and returns 4, where it is refused `shown` is what the peer
 * sent, to stand behind the message, or nil. The text must not be the collector's to free. */
int head_push(lua_State *L, const char *text, size_t size, size_t most, Answer *answer);

/* address.c ----------------------------------------------------------------------------------- */

typedef struct {
  union {
    struct sockaddr any;
    struct sockaddr_in inet;
    struct sockaddr_in6 inet6;
    struct sockaddr_un local;
    struct sockaddr_storage storage;
  };
  socklen_t length;
} Address;

#define ADDRESS_TEXT 64 /* an IPv6 address, %, an interface's name */

/* Reads an IP address written in full (no short, octal or hexadecimal forms), with a zone or not.
 */
bool address_parse(const char *text, size_t size, uint16_t port, Address *address);
void address_format(const Address *address, char text[ADDRESS_TEXT]);
/* Pushes address, port, family and returns 3; of a Unix socket path, nil, "unix". */
int address_push(lua_State *L, const Address *address);

/* idna.c -------------------------------------------------------------------------------------- */

#define IDNA_MAX 253 /* RFC 1035 2.3.4, as text without the last dot */

/* NULL when the ASCII name, without a dot at its end, can be looked up; else what is wrong with it.
 */
const char *idna_fault(const char *name, size_t size);

/* socket.c ------------------------------------------------------------------------------------ */

/* A descriptor with a count of the userdata that use it: the collector may free a socket before
 * the session on it. The rest is the socket's own. */
typedef struct {
  int references;
  int fd;          /* -1 once closed */
  Input *input;    /* made by the first read: a socket that carries TLS has none */
  int error;       /* errno of the last failed pull */
  bool dialled;    /* connect() was called, and is not called again */
  bool connecting; /* it has not ended */
  uint8_t family;  /* AF_INET, AF_INET6 or AF_UNIX; 0: not asked yet */
} Channel;

Channel *socket_channel(lua_State *L, int index); /* of the socket userdata at index */
void socket_push(lua_State *L, Channel *channel); /* one more userdata of the same */
/* Puts bytes behind what its socket has read and not handed out. How many: fewer when memory is
 * short. */
size_t channel_give_back(Channel *channel, const unsigned char *data, size_t size);
void channel_close(Channel *channel);   /* closes the descriptor, once */
void channel_release(Channel *channel); /* gives one reference back */

/* poller.c ------------------------------------------------------------------------------------ */

void poller_gains(int fd); /* a core socket has this number from now on */
void poller_loses(int fd); /* it is about to be closed, or given away */

/* certificate.c, key.c ------------------------------------------------------------------------ */

#define CERTIFICATE_TYPE "tlsconnect.certificate"
#define KEY_TYPE "tlsconnect.key"

/* Pushes a certificate userdata made from DER. On failure pushes nil, message, cause and returns
 * NULL. The pointer lives as long as the userdata. */
gnutls_x509_crt_t certificate_push(lua_State *L, const gnutls_datum_t *der);
gnutls_x509_crt_t certificate_check(lua_State *L, int index);
gnutls_x509_crt_t certificate_test(lua_State *L, int index); /* NULL when it is none */
gnutls_x509_privkey_t key_check(lua_State *L, int index);

/* session.c ----------------------------------------------------------------------------------- */

#define SESSION_TYPE "tlsconnect.session"

gnutls_session_t session_check(lua_State *L, int index); /* raises when it is closed */

/* Each file's open function adds its names to the core table on top of the stack. */
void error_open(lua_State *L);
void address_open(lua_State *L);
void idna_open(lua_State *L);
void resolver_open(lua_State *L);
void poller_open(lua_State *L);
void socket_open(lua_State *L);
void certificate_open(lua_State *L);
void key_open(lua_State *L);
void context_open(lua_State *L);
void session_open(lua_State *L);
void trust_open(lua_State *L);
void private_open(lua_State *L);
void lock_open(lua_State *L);
void coding_open(lua_State *L);
void digest_open(lua_State *L);
void suffix_open(lua_State *L);
void file_open(lua_State *L);
void head_open(lua_State *L);

#endif

/* What the files that read certificates, keys, requests and revocation lists share: a strict DER
 * reader, PEM blocks, and how names and keys are shown to Lua. Peers choose these bytes, so every
 * reader is linear in their length and keeps them inside `Bytes`. */
#ifndef TLSCONNECT_X509_H
#define TLSCONNECT_X509_H

#include "core.h"

/* A stretch of bytes that somebody else owns. */
typedef struct {
  const unsigned char *data;
  size_t size;
} Bytes;

/* der.c: X.690, DER only: definite, shortest lengths; tag numbers below 31 ----------------------
 */

enum {
  DER_BOOLEAN = 0x01,
  DER_INTEGER = 0x02,
  DER_BIT_STRING = 0x03,
  DER_OCTET_STRING = 0x04,
  DER_NULL = 0x05,
  DER_OID = 0x06,
  DER_ENUMERATED = 0x0a,
  DER_UTF8_STRING = 0x0c,
  DER_NUMERIC_STRING = 0x12,
  DER_PRINTABLE_STRING = 0x13,
  DER_T61_STRING = 0x14,
  DER_IA5_STRING = 0x16,
  DER_UTC_TIME = 0x17,
  DER_GENERALIZED_TIME = 0x18,
  DER_VISIBLE_STRING = 0x1a,
  DER_UNIVERSAL_STRING = 0x1c,
  DER_BMP_STRING = 0x1e,
  DER_SEQUENCE = 0x30,
  DER_SET = 0x31,
  DER_CONTEXT = 0x80,    /* [n] IMPLICIT, primitive: DER_CONTEXT | n */
  DER_CONSTRUCTED = 0xa0 /* [n] constructed: DER_CONSTRUCTED | n */
};

/* Takes the next element off `in`. `content` and `whole` (with its header) may be NULL. False when
 * there is none or it is broken; `in` is then as it was. */
bool der_next(Bytes *in, unsigned *tag, Bytes *content, Bytes *whole);
/* Takes the next element when it has this tag. */
bool der_take(Bytes *in, unsigned tag, Bytes *content);
/* The one element of this tag that fills `in`. */
bool der_only(Bytes in, unsigned tag, Bytes *content);
/* A non-negative INTEGER below 2^31. */
bool der_small(Bytes content, int *value);
/* UTCTime or GeneralizedTime as RFC 5280 4.1.2.5 writes them: seconds since the epoch. */
bool der_time(unsigned tag, Bytes content, double *seconds);
/* Takes such a time off the front of `in`. */
bool der_take_time(Bytes *in, double *seconds);
bool der_is(Bytes content, const char *bytes, size_t size);
bool bytes_equal(Bytes a, Bytes b);

/* The tag that comes next, or 0. */
unsigned der_peek(const Bytes *in);
/* Takes the next element if it has this tag; `present` says so. False only when it is broken. */
bool der_optional(Bytes *in, unsigned tag, Bytes *content, bool *present);
/* BOOLEAN DEFAULT FALSE. An encoded FALSE is no DER, but is met, and is read as what it says. */
bool der_boolean(Bytes *in, bool *value);
/* Whether this is the content of an INTEGER: not empty, no needless first byte. */
bool der_integer(Bytes content);
/* A BIT STRING of whole bytes, as keys and signatures are. */
bool der_bits(Bytes content, Bytes *bytes);

void der_pushbytes(lua_State *L, Bytes bytes);
void der_pushhex(lua_State *L, Bytes bytes);
void der_pushoid(lua_State *L, Bytes content);     /* "2.5.29.17" */
void der_pushinteger(lua_State *L, Bytes content); /* hex, "-" before a negative one */
void der_pushtime(lua_State *L, double seconds);   /* an integer where Lua has them */

/* pem.c: RFC 7468 -------------------------------------------------------------------------------
 */

typedef struct {
  Bytes label; /* "CERTIFICATE" */
  Bytes body;  /* between the two lines */
  Bytes block; /* the lines included */
} Pem;

/* Takes the next block off `text`: 1, 0 when there is no more, -1 when one has no end. */
int pem_next(Bytes *text, Pem *pem);
/* Keeps of a text without another block what may begin one when more text follows. */
void pem_keep(Bytes *text);
bool pem_is(const Pem *pem, const char *label);
/* Pushes the decoded body as a core_datum. On failure pushes nil, message, cause; returns NULL. */
gnutls_datum_t *pem_decode(lua_State *L, const Pem *pem);
void pem_push(lua_State *L, const char *label, Bytes der);
void pem_pushbase64(lua_State *L, Bytes bytes);

/* names.c ---------------------------------------------------------------------------------------
 */

/* Adds UTF-8 text to the buffer; control characters, what is not UTF-8 and what turns the reading
 * direction become \HH of their bytes. `special` characters get a backslash. */
void names_escape(luaL_Buffer *buffer, Bytes text, const char *special);
/* Whether a whole distinguished name has more parts than any real one: GnuTLS takes half a minute
 * to import a certificate with 50,000 of them. */
enum { NAMES_MAX_ATTRIBUTES = 200 };
bool names_crowded(Bytes name);
/* A distinguished name (the content of its SEQUENCE): as RFC 4514 text; as a table. False, and nil
 * pushed, when it is broken. */
bool names_pushtext(lua_State *L, Bytes name);
bool names_pushtable(lua_State *L, Bytes name);
/* form: argument `index` of subject() and issuer(): "text" (default), "table" or "der". */
int names_result(lua_State *L, int index, Bytes name);
/* GeneralNames (the content): a list. False, and nil pushed, when it is broken. */
bool names_pushgeneral(lua_State *L, Bytes names);
/* One GeneralName: a table. `ranges`: an IP address is followed by its mask (name constraints). */
bool names_pushone(lua_State *L, unsigned tag, Bytes content, bool ranges);
/* names(type): the list behind the subjectAltName among `extensions`. */
int names_alternative(lua_State *L, int index, Bytes extensions);

/* extensions.c ----------------------------------------------------------------------------------
 */

/* Finds an extension by the content of its OID. False when there is none. */
bool extensions_find(Bytes extensions, const char *oid, size_t size, Bytes *value, bool *critical);
/* extensions(): the list of all. Returns the number of results. */
int extensions_push(lua_State *L, Bytes extensions);

/* publickey.c -----------------------------------------------------------------------------------
 */

/* A SubjectPublicKeyInfo, whole. */
int publickey_push(lua_State *L, Bytes spki); /* {type=, bits=, curve=, oid=, id=, pin=, der=} */
const char *publickey_type(Bytes spki, int *bits, const char **curve);
int publickey_pin(lua_State *L, Bytes spki); /* base64 of SHA-256, RFC 7469 */
/* hash: argument `index`, a name as GnuTLS knows them, default "sha256". Pushes hex. */
int publickey_fingerprint(lua_State *L, int index, Bytes bytes);
void publickey_pushsignature(lua_State *L, gnutls_sign_algorithm_t algorithm);

/* key.c, pkcs12.c -------------------------------------------------------------------------------
 */

/* An RSA key of 16,384 bits is 9,300 bytes of DER; GnuTLS computes with its numbers on import. */
enum { KEY_MAX_BITS = 16384, KEY_MAX_SIZE = 10240 };

typedef enum {
  KEY_UNKNOWN,
  KEY_PKCS8,
  KEY_PKCS8_ENCRYPTED,
  KEY_PKCS1,
  KEY_SEC1,
  KEY_PKCS12
} KeyKind;

/* What kind of key file some DER is, by its shape. */
KeyKind key_kind(Bytes der);
/* Pushes a key userdata made from DER that holds one key; or nil, message, cause. */
int key_import(lua_State *L, const gnutls_datum_t *der, const char *password);
/* Whether an encrypted key asks for a bearable number of hash rounds. */
bool key_rounds_allowed(const gnutls_datum_t *der);
/* The SubjectPublicKeyInfo of the key at `index`. */
Bytes key_spki(lua_State *L, int index);
/* Pushes a key, the list of its certificate and those above it, and the list of other certificates;
 * or nil, message, cause. Returns the number of results: an error's first is nil. */
int pkcs12_read(lua_State *L, const gnutls_datum_t *der, const char *password);
void pkcs12_open(lua_State *L);

/* certificate.c ---------------------------------------------------------------------------------
 */

/* The whole DER of three fields of the certificate at `index`. */
void certificate_fields(lua_State *L, int index, Bytes *subject, Bytes *issuer, Bytes *spki);

/* Bytes of the string argument `index`. */
Bytes x509_checkbytes(lua_State *L, int index);

/* Each adds its names to the core table; certificate_open calls them. */
void names_open(lua_State *L);
void publickey_open(lua_State *L);
void extensions_open(lua_State *L);
void request_open(lua_State *L);

#endif

/* What the files of certificate verification share. trust.c speaks to Lua; view.c reads a
 * certificate, signature.c checks one signature, path.c finds the way to an anchor, constraints.c
 * and hostname.c judge names, policy.c policies, store.c keeps the roots, bundle.c reads their
 * files, revocation.c reads staples and CRLs. */
#ifndef TLSCONNECT_TRUST_H
#define TLSCONNECT_TRUST_H

#include "x509.h"

#include <gnutls/abstract.h>

/* Limits on what a peer may make us work on. */
enum {
  MAX_CHAIN = 128,            /* certificates handed in */
  MAX_CHAIN_BYTES = 1 << 20,  /* of all of them together */
  MAX_NAMES = 10000,          /* subject alternative names of one certificate */
  MAX_CONSTRAINTS = 4096,     /* subtrees of one certificate */
  MAX_COMPARISONS = 100000,   /* names against subtrees, along one path */
  MAX_DEPTH = 10,             /* intermediates in a path */
  MAX_STEPS = 4096,           /* nodes the path search visits */
  MAX_SIGNATURES = 48,        /* signature checks in one verification */
  MAX_STAPLE_BYTES = 1 << 16, /* one OCSP response */
  MAX_STAPLE_ENTRIES = 256
};

/* faults.c: what can be wrong with one certificate ------------------------------------------- */

typedef enum {
  FAULT_NONE,
#define FAULT(name, code, strict, text) FAULT_##name,
#include "faults.h"
#undef FAULT
  FAULT_COUNT
} Fault;

typedef struct {
  const char *code; /* err.code: part of the API */
  bool strict;      /* refused by the strict profile alone */
  const char *text; /* what follows the certificate's name in a sentence */
} FaultText;

extern const FaultText fault_texts[FAULT_COUNT];

/* view.c: a certificate as verification sees it ----------------------------------------------- */

enum { /* key usage, RFC 5280 4.2.1.3; the first bit of the BIT STRING is the lowest here */
       USAGE_SIGNATURE = 1 << 0,
       USAGE_KEY_ENCIPHERMENT = 1 << 2,
       USAGE_KEY_AGREEMENT = 1 << 4,
       USAGE_CERT_SIGN = 1 << 5,
       USAGE_CRL_SIGN = 1 << 6
};

typedef enum {
  PURPOSE_SERVER = 1 << 0,
  PURPOSE_CLIENT = 1 << 1,
  PURPOSE_OCSP = 1 << 2,
  PURPOSE_ANY = 1 << 3
} Purpose;

typedef struct {
  Bytes der, tbs, algorithm, signature; /* algorithm: the whole AlgorithmIdentifier */
  Bytes serial, issuer, subject;        /* names: with their SEQUENCE header */
  Bytes spki, key;                      /* key: the bytes of the subjectPublicKey */
  double not_before, not_after;
  int version;
  unsigned key_bits;
  Bytes names, constraints, points; /* of those extensions (names: the list's content); data
                                     * NULL: absent; points: CRL distribution points */
  Bytes policies, mappings; /* certificate policies, and their mappings: the lists' content */
  int require_policy, inhibit_mapping, inhibit_any; /* after how many certificates; -1: never */
  Bytes access;                     /* authority information access: the list's content */
  Bytes limits;                     /* of a root: name constraints that its owner here gave it */
  Bytes subject_key, authority_key; /* key identifiers */
  Bytes unknown;                    /* OID of an unknown critical extension */
  int path_length;                  /* -1: none */
  unsigned usage, purposes;
  bool has_basic, ca, has_usage, has_purposes, has_authority, must_staple, no_check;
  uint64_t faults;       /* 1 << Fault: those that hold in every role */
  gnutls_x509_crt_t crt; /* GnuTLS's own reading, once it was needed */
} View;

/* Reads `der`, which must outlive the view. What is wrong is noted in view->faults; when nothing
 * can be read at all, FAULT_MALFORMED is, and the other fields are empty. */
void view_read(View *view, Bytes der);
gnutls_x509_crt_t view_crt(View *view); /* NULL when GnuTLS cannot read it */
void view_free(View *view);
bool view_self_issued(const View *view);
static inline bool view_has(const View *view, Fault fault) {
  return view->faults >> fault & 1;
}

/* One element of a GeneralNames list. */
enum {
  NAME_OTHER = 0,
  NAME_EMAIL = 1,
  NAME_DNS = 2,
  NAME_X400 = 3,
  NAME_DIRECTORY = 4,
  NAME_EDI = 5,
  NAME_URI = 6,
  NAME_IP = 7,
  NAME_REGISTERED = 8
};
bool general_name_next(Bytes *in, unsigned *kind, Bytes *content);

/* The value of the first `oid` attribute (its content, without the string's header) of a name. */
bool name_attribute(Bytes name, const char *oid, size_t size, Bytes *value, unsigned *tag);

/* Writes an address of 4 or 16 bytes as RFC 5952 does; false when it is neither. */
bool address_text(Bytes address, char *text, size_t size);

/* signature.c ---------------------------------------------------------------------------------- */

typedef enum { SIGNATURE_OK, SIGNATURE_WEAK, SIGNATURE_UNKNOWN } SignatureStrength;

/* What an AlgorithmIdentifier says. */
SignatureStrength signature_algorithm(Bytes identifier, gnutls_sign_algorithm_t *algorithm);
/* True when `signature` over `data` was made by the key in `spki`. */
bool signature_valid(Bytes spki, Bytes identifier, Bytes data, Bytes signature);

/* hostname.c ----------------------------------------------------------------------------------- */

typedef struct {
  Bytes dns; /* A-labels, lower case, no trailing dot; data NULL: an address */
  unsigned char address[16];
  size_t address_size; /* 4 or 16 */
} Reference;

/* RFC 9525: does one of the certificate's names stand for the reference? The CN is never looked
 * at. */
bool hostname_matches(const View *view, const Reference *reference);
/* One presented dNSName against a reference name. */
bool hostname_dns_matches(Bytes presented, Bytes reference);
/* The same for one's own certificates: a wildcard is not judged by how much it stands for. */
bool hostname_covers(Bytes presented, Bytes name);
/* Letters, digits, hyphens and underscores in labels of 1 to 63; at most 253; one leading "*."
 * allowed when `wildcard`. */
bool hostname_valid(Bytes name, bool wildcard);

/* constraints.c -------------------------------------------------------------------------------- */

/* Reads the extension: false when it is malformed. `dotted` says that a dNSName in it begins with
 * a dot. */
bool constraints_valid(Bytes constraints, bool *dotted);
/* Whether all subtrees are of the kinds that RFC 5280 tells how to judge. */
bool constraints_plain(Bytes constraints);
/* RFC 5280 4.2.1.10 over a path, leaf first, anchor last. Sets *which to the certificate that
 * broke one. */
Fault constraints_check(View *const *path, size_t count, size_t *which);

/* policy.c -------------------------------------------------------------------------------------
 */

/* Readers of the four extensions; false when one is malformed. */
bool policy_read_list(View *view, Bytes value);
bool policy_read_mappings(View *view, Bytes value);
bool policy_read_constraints(View *view, Bytes value);
bool policy_read_inhibit_any(View *view, Bytes value);
/* Whether one of the path's certificates says something about policies beyond its own. */
bool policy_ruled(View *const *path, size_t count);
/* RFC 5280 6.1 over a path, leaf first, anchor last. Sets *which to the certificate that fell. */
Fault policy_check(View *const *path, size_t count, size_t *which);

/* store.c -------------------------------------------------------------------------------------- */

typedef struct Store Store;

Store *store_new(void);
void store_free(Store *store);
/* Each returns how many certificates were added, or -errno; -EBADMSG: broken PEM. `lazy`: read no
 * more of each certificate than its subject until it is needed, which suits a system's bundle but
 * finds a broken one late. */
long store_file(Store *store, const char *path, bool lazy);
long store_directory(Store *store, const char *path);
/* PEM or DER. limits: name constraints (DER) that hold for these roots; data NULL: none. Given for
 * a root that is there already, they hold for it from now on. */
long store_text(Store *store, Bytes text, Bytes limits);
/* Adds what GnuTLS takes for the system's trust, and is not there yet. */
long store_system(Store *store);
/* Looks whether a file changed, and if so reads all again. Returns 0 or -errno; *path is then the
 * file that cannot be read any more. */
int store_refresh(Store *store, const char **path);
/* True when a file was found changed by store_find: refresh, and search again. */
bool store_stale(const Store *store);
/* True, once, when a root was not read for want of memory: what was not found may be there. */
bool store_starved(Store *store);
/* After -EBADMSG: which certificate of the file is broken, from 1. */
size_t store_broken(const Store *store);
unsigned long store_generation(const Store *store); /* grows whenever the roots may differ */
size_t store_count(const Store *store);
size_t store_loaded(const Store *store); /* how many were needed, and read, so far */
/* The roots of that subject name: up to `room` views, which live until the next refresh. */
size_t store_find(Store *store, Bytes subject, View **views, size_t room);
/* The DER of root `index` of store_count; data NULL when it is broken. */
Bytes store_at(Store *store, size_t index);
/* Remembers an intermediate that stood in a verified path; the oldest is forgotten. */
void store_remember(Store *store, Bytes der);
size_t store_remembered(Store *store, View **views, size_t room);

/* bundle.c ------------------------------------------------------------------------------------- */

typedef struct {
  size_t offset, size; /* of the base64 (or, with `binary`, of the DER) in the file */
  bool binary;
  Bytes subject; /* the name with its header; it and `der` live until the next call */
  Bytes der;     /* of it what was read: all, unless `lazy` */
} Block;

/* The certificates of a file, one after the other, through a window: a bundle is read once, and
 * never held. Begin with fd, size and lazy; end with bundle_free(). */
typedef struct {
  int fd;
  size_t size;        /* of the file */
  bool lazy;          /* read no more of each than its subject */
  size_t read, count; /* bytes read; certificates met, the broken ones too */
  unsigned char *window;
  size_t room;
  Bytes text; /* of the window what was not looked at yet */
  unsigned char *der;
  size_t der_room;
} Bundle;

/* 1; 0: no more; -EBADMSG: a broken one, go on behind it; else -errno. */
int bundle_next(Bundle *bundle, Block *block);
void bundle_free(Bundle *bundle);
/* The subject name, with its header, of a whole certificate. False: it is none. */
bool bundle_subject(Bytes der, Bytes *subject);
bool bundle_takes(const Pem *pem); /* whether the block's label is a certificate's */

/* base64.c ------------------------------------------------------------------------------------- */

typedef struct {
  const unsigned char *next;
  size_t left;
  unsigned bits, held, padding; /* of a group begun */
} Base64;

/* Decodes base64 (white space ignored) until `want` bytes or up to two more are there, or the end.
 * Returns how many, or -1 when it is broken. */
long base64_read(Base64 *in, unsigned char *out, size_t want);
/* All of it. `out` has room for body.size bytes. */
long base64_decode(Bytes body, unsigned char *out);

/* path.c --------------------------------------------------------------------------------------- */

typedef struct {
  Fault fault;      /* FAULT_NONE: none */
  const View *view; /* the certificate it is about */
} Problem;

typedef struct {
  View *chain; /* chain[0] is the peer's own certificate */
  size_t count;
  Store *store;
  Purpose purpose;
  double time;
  bool strict;
  int max_depth; /* intermediates, up to MAX_DEPTH */

  View *path[MAX_DEPTH + 2]; /* leaf ... anchor, when found */
  size_t length;             /* 0: not found */
  View *sent[MAX_DEPTH + 2]; /* when not found: the leaf and what stands above it by name */
  size_t sent_count;
  Problem problem; /* why not */
  size_t steps, signatures;
  struct PathMemo *memo; /* of signatures checked; path_free */
} Path;

bool path_find(Path *path);
void path_reset(Path *path); /* as if nothing had been looked for */
void path_free(Path *path);

/* revocation.c --------------------------------------------------------------------------------- */

typedef enum { REVOCATION_UNKNOWN, REVOCATION_GOOD, REVOCATION_REVOKED } RevocationAnswer;

typedef struct {
  RevocationAnswer answer;
  const char *code;                /* why unknown, or "revoked"; NULL when good */
  double revoked_at;               /* when revoked */
  int reason;                      /* CRLReason, or -1 */
  double this_update, next_update; /* of the entry that decided; 0: none */
} Revocation;

/* Judges one OCSP response about `subject`, which `issuer` issued. */
void revocation_ocsp(Bytes response, const View *subject, const View *issuer, double time,
                     Revocation *result);
/* Judges one CRL. Returns false when it is not of that issuer. */
bool revocation_crl(Bytes crl, const View *subject, const View *issuer, double time, bool strict,
                    Revocation *result);

/* trust.c, judgement.c, inquiry.c: those that touch Lua ------------------------------------------
 */

typedef struct {
  Store *store;
  int busy; /* judgements under way: a finaliser may start another inside one */
} Trust;

Trust *trust_check(lua_State *L); /* argument 1 */
/* What a store's number means to Lua: a count, or nil, message, cause. */
int trust_added(lua_State *L, const Store *store, long count, const char *path);
int judgement_judge(lua_State *L);
/* Sets a field to what people call a certificate's subject or issuer, escaped: its CN, or else O or
 * OU. */
void judgement_set_name(lua_State *L, const char *field, Bytes name);
void judgement_open(lua_State *L);
void inquiry_open(lua_State *L);

#endif

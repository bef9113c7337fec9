/* The certificates that a server has, and which of them a client is shown. GnuTLS's own choice
 * knows no wildcards. */
#include "session.h"
#include "trust.h"

#include <stdlib.h>
#include <string.h>

struct Identity {
  gnutls_pcert_st *chain;
  unsigned count;
  gnutls_privkey_t key;
  gnutls_pk_algorithm_t kind;
  gnutls_ocsp_data_st staple; /* response.data NULL: none */
  gnutls_datum_t names;       /* each DNS name as one length byte and its bytes */
};

void identity_free(Identity *identity) {
  if (!identity) return;
  for (unsigned i = 0; i < identity->count; i++)
    gnutls_pcert_deinit(&identity->chain[i]);
  free(identity->chain);
  if (identity->key) gnutls_privkey_deinit(identity->key);
  free(identity->staple.response.data);
  free(identity->names.data);
  free(identity);
}

/* Making -------------------------------------------------------------------------------------- */

/* The DNS names of a certificate; longer ones than 255 bytes are none. */
static int take_names(Identity *identity, gnutls_x509_crt_t certificate) {
  for (unsigned i = 0;; i++) {
    unsigned char name[256];
    unsigned type;
    size_t size = sizeof name;
    int rc = gnutls_x509_crt_get_subject_alt_name2(certificate, i, name, &size, &type, NULL);
    if (rc == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) return 0;
    if (rc < 0 || type != GNUTLS_SAN_DNSNAME || size == 0 || size > 255) continue;
    size_t old = identity->names.size;
    unsigned char *larger = realloc(identity->names.data, old + 1 + size);
    if (!larger) return GNUTLS_E_MEMORY_ERROR;
    larger[old] = (unsigned char)size;
    memcpy(larger + old + 1, name, size);
    identity->names.data = larger;
    identity->names.size = (unsigned)(old + 1 + size);
  }
}

static int fill(Identity *identity, gnutls_x509_crt_t *chain, unsigned count,
                gnutls_x509_privkey_t key) {
  identity->kind = (gnutls_pk_algorithm_t)gnutls_x509_privkey_get_pk_algorithm(key);
  identity->chain = calloc(count, sizeof *identity->chain);
  if (!identity->chain) return GNUTLS_E_MEMORY_ERROR;
  for (; identity->count < count; identity->count++) {
    int rc = gnutls_pcert_import_x509(&identity->chain[identity->count], chain[identity->count], 0);
    if (rc < 0) return rc;
  }
  int rc = gnutls_privkey_init(&identity->key);
  if (rc < 0) {
    identity->key = NULL;
    return rc;
  }
  rc = gnutls_privkey_import_x509(identity->key, key, GNUTLS_PRIVKEY_IMPORT_COPY);
  return rc < 0 ? rc : take_names(identity, chain[0]);
}

int identity_add(Credentials *credentials, gnutls_x509_crt_t *chain, unsigned count,
                 gnutls_x509_privkey_t key) {
  size_t size = (credentials->identity_count + 1) * sizeof *credentials->identities;
  Identity **larger = realloc(credentials->identities, size);
  if (!larger) return GNUTLS_E_MEMORY_ERROR;
  credentials->identities = larger;
  Identity *identity = calloc(1, sizeof *identity);
  if (!identity) return GNUTLS_E_MEMORY_ERROR;
  int rc = fill(identity, chain, count, key);
  if (rc < 0) {
    identity_free(identity);
    return rc;
  }
  larger[credentials->identity_count++] = identity;
  return 0;
}

int identity_staple(Credentials *credentials, gnutls_datum_t response, time_t until) {
  gnutls_ocsp_data_st *staple = &credentials->identities[credentials->identity_count - 1]->staple;
  unsigned char *copy = malloc(response.size);
  if (!copy) return GNUTLS_E_MEMORY_ERROR;
  memcpy(copy, response.data, response.size);
  free(staple->response.data);
  staple->response.data = copy;
  staple->response.size = response.size;
  staple->exptime = until == (time_t)-1 ? 0 : until;
  return 0;
}

/* What the client can take --------------------------------------------------------------------- */

/* The suites of a ClientHello: behind version, random and session id. */
static Bytes offered_suites(const gnutls_datum_t *hello) {
  Bytes none = {NULL, 0};
  if (hello->size < 35 || hello->size < 35u + hello->data[34] + 2) return none;
  const unsigned char *list = hello->data + 35 + hello->data[34];
  size_t size = (size_t)list[0] << 8 | list[1], left = hello->size - 35u - hello->data[34] - 2;
  return size <= left ? (Bytes){list + 2, size} : none;
}

static bool offers(Bytes suites, const unsigned char *suite) {
  for (size_t i = 0; i + 1 < suites.size; i += 2)
    if (memcmp(suites.data + i, suite, 2) == 0) return true;
  return false;
}

/* In TLS 1.2 a suite says which kind of key signs (RFC 5246 7.4.3, RFC 8422 2). */
void identity_see_hello(Session *session, const gnutls_datum_t *hello) {
  if (session->credentials->identity_count < 2) return;
  Bytes suites = offered_suites(hello);
  unsigned index;
  for (unsigned i = 0;
       gnutls_priority_get_cipher_suite_index(session->credentials->priority, i, &index) >= 0;
       i++) {
    unsigned char suite[2];
    gnutls_kx_algorithm_t kx;
    if (!gnutls_cipher_suite_info(index, suite, &kx, NULL, NULL, NULL) || !offers(suites, suite))
      continue;
    if (kx == GNUTLS_KX_ECDHE_ECDSA) session->handshake->takes_ecdsa = true;
    if (kx == GNUTLS_KX_ECDHE_RSA || kx == GNUTLS_KX_DHE_RSA || kx == GNUTLS_KX_RSA)
      session->handshake->takes_rsa = true;
  }
}

/* RFC 8446 4.2.3: RSA keys no longer sign as PKCS #1 says. */
static bool pkcs1(gnutls_sign_algorithm_t algorithm) {
  return algorithm == GNUTLS_SIGN_RSA_SHA256 || algorithm == GNUTLS_SIGN_RSA_SHA384 ||
         algorithm == GNUTLS_SIGN_RSA_SHA512 || algorithm == GNUTLS_SIGN_RSA_SHA1 ||
         algorithm == GNUTLS_SIGN_RSA_SHA224;
}

static bool allowed(const Session *session, gnutls_sign_algorithm_t algorithm) {
  const unsigned *list;
  int count = gnutls_priority_sign_list(session->credentials->priority, &list);
  for (int i = 0; i < count; i++)
    if (list[i] == algorithm) return true;
  return false;
}

/* Whether client and server have a signature scheme, and in TLS 1.2 a suite, for this key. */
static bool usable(const Session *session, const Identity *identity) {
  bool new_form = gnutls_protocol_get_version(session->tls) >= GNUTLS_TLS1_3;
  bool rsa = identity->kind == GNUTLS_PK_RSA || identity->kind == GNUTLS_PK_RSA_PSS;
  if (!new_form && !(rsa ? session->handshake->takes_rsa : session->handshake->takes_ecdsa))
    return false;
  gnutls_sign_algorithm_t algorithm;
  for (size_t i = 0; gnutls_sign_algorithm_get_requested(session->tls, i, &algorithm) >= 0; i++) {
    if (new_form && pkcs1(algorithm)) continue;
    if (gnutls_sign_supports_pk_algorithm(algorithm, identity->kind) && allowed(session, algorithm))
      return true;
  }
  return false;
}

/* Choosing ------------------------------------------------------------------------------------ */

typedef enum { OTHER_NAME, BY_WILDCARD, BY_NAME } Match;

static Match match(const Identity *identity, Bytes name) {
  Match best = OTHER_NAME;
  const gnutls_datum_t *names = &identity->names;
  for (unsigned at = 0; at < names->size; at += names->data[at] + 1u) {
    Bytes own = {names->data + at + 1, names->data[at]};
    if (!hostname_covers(own, name)) continue;
    if (own.data[0] != '*') return BY_NAME;
    best = BY_WILDCARD;
  }
  return best;
}

/* The name that was asked for (RFC 6066 3); none of those that are too long to be one. */
static Bytes asked_name(gnutls_session_t tls, char name[256]) {
  unsigned type;
  size_t size = 256;
  if (gnutls_server_name_get(tls, name, &size, &type, 0) < 0 || type != GNUTLS_NAME_DNS) size = 0;
  if (size > 0 && name[size - 1] == '.') size--;
  return (Bytes){(unsigned char *)name, size};
}

/* A certificate for the name comes before the others, one that the client can take before one that
 * it cannot, a name in full before a wildcard, and the first before the next. So a client that asks
 * for no name, or for one that nobody here has, gets the first that it can take. */
static Identity *choose(const Session *session) {
  const Credentials *credentials = session->credentials;
  if (credentials->identity_count == 1) return credentials->identities[0];
  char text[256];
  Bytes name = asked_name(session->tls, text);
  Identity *best = NULL;
  int best_rank = -1;
  for (size_t i = 0; i < credentials->identity_count; i++) {
    Identity *identity = credentials->identities[i];
    int good = usable(session, identity), matched = name.size ? (int)match(identity, name) : 0;
    int rank = matched ? matched + 1 + 2 * good : good;
    if (rank > best_rank) {
      best = identity;
      best_rank = rank;
    }
  }
  return best;
}

/* Called by GnuTLS once, when it has read the ClientHello. */
static int retrieve(gnutls_session_t tls, const struct gnutls_cert_retr_st *info,
                    gnutls_pcert_st **chain, unsigned *count, gnutls_ocsp_data_st **staples,
                    unsigned *staple_count, gnutls_privkey_t *key, unsigned *flags) {
  (void)info;
  Identity *identity = choose(gnutls_session_get_ptr(tls));
  if (!identity) return GNUTLS_E_INSUFFICIENT_CREDENTIALS;
  *chain = identity->chain;
  *count = identity->count;
  *staples = &identity->staple;
  *staple_count = identity->staple.response.data ? 1 : 0;
  *key = identity->key;
  *flags = 0; /* all of it stays the context's, which outlives its sessions */
  return 0;
}

int identity_credentials(Credentials *credentials, gnutls_certificate_credentials_t *result) {
  if (!credentials->server) {
    int rc = gnutls_certificate_allocate_credentials(&credentials->server);
    if (rc < 0) {
      credentials->server = NULL;
      return rc;
    }
    gnutls_certificate_set_verify_limits(credentials->server, MAX_KEY_BITS, MAX_OWN_CHAIN);
    gnutls_certificate_set_retrieve_function3(credentials->server, retrieve);
  }
  *result = credentials->server;
  return 0;
}

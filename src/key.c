/* Private keys: read (PKCS #8, PKCS #1, SEC 1, PKCS #12), made, written, and used to sign. What
 * GnuTLS allocates for a secret is wiped when it goes; a Lua string that holds one (a PEM text read
 * or written) stays until the collector takes it. */
#include "x509.h"

#include <gnutls/abstract.h>
#include <gnutls/crypto.h>
#include <gnutls/pkcs12.h>
#include <string.h>

/* The public part is kept as it stands in a certificate, so that pin, type and comparison cost
 * nothing. */
typedef struct {
  gnutls_x509_privkey_t key;
  gnutls_privkey_t signer; /* stands on key */
  gnutls_datum_t spki;
} Key;

static Key *check(lua_State *L, int index) {
  Key *key = luaL_checkudata(L, index, KEY_TYPE);
  luaL_argcheck(L, key->spki.data, index, "the key is empty");
  return key;
}

gnutls_x509_privkey_t key_check(lua_State *L, int index) {
  return check(L, index)->key;
}

Bytes key_spki(lua_State *L, int index) {
  Key *key = check(L, index);
  return (Bytes){key->spki.data, key->spki.size};
}

static int key_gc(lua_State *L) {
  Key *key = luaL_checkudata(L, 1, KEY_TYPE);
  if (key->signer) gnutls_privkey_deinit(key->signer);
  if (key->key) gnutls_x509_privkey_deinit(key->key);
  gnutls_free(key->spki.data);
  memset(key, 0, sizeof *key);
  return 0;
}

/* Pushes an empty key. Returns NULL after it has pushed an error. */
static Key *push_empty(lua_State *L) {
  Key *key = core_new(L, KEY_TYPE, sizeof *key);
  int rc = gnutls_x509_privkey_init(&key->key);
  if (rc < 0) {
    key->key = NULL;
    error_gnutls(L, rc);
    return NULL;
  }
  return key;
}

/* Holds a gnutls_pubkey_t for the moment in which its bytes are taken out. */
static int take_spki(gnutls_privkey_t signer, gnutls_datum_t *spki) {
  gnutls_pubkey_t public;
  int rc = gnutls_pubkey_init(&public);
  if (rc < 0) return rc;
  rc = gnutls_pubkey_import_privkey(public, signer, 0, 0);
  if (rc >= 0) rc = gnutls_pubkey_export2(public, GNUTLS_X509_FMT_DER, spki);
  gnutls_pubkey_deinit(public);
  return rc;
}

/* Makes a key whose GnuTLS part is filled ready for use; it is on top of the stack. */
static int finish(lua_State *L, Key *key) {
  int rc = gnutls_privkey_init(&key->signer);
  if (rc < 0) key->signer = NULL;
  if (rc >= 0) rc = gnutls_privkey_import_x509(key->signer, key->key, 0);
  if (rc >= 0) rc = take_spki(key->signer, &key->spki);
  if (rc < 0) return error_gnutls_as(L, "bad_key", rc);
  return 1;
}

/* Reading ------------------------------------------------------------------------------------- */

int key_import(lua_State *L, const gnutls_datum_t *der, const char *password) {
  if (der->size > KEY_MAX_SIZE) return error_named(L, "too_large", "a key of %u bytes", der->size);
  Key *key = push_empty(L);
  if (!key) return 3;
  int rc;
  switch (key_kind((Bytes){der->data, der->size})) {
  case KEY_PKCS8:
    rc = gnutls_x509_privkey_import_pkcs8(key->key, der, GNUTLS_X509_FMT_DER, NULL,
                                          GNUTLS_PKCS_PLAIN);
    break;
  case KEY_PKCS8_ENCRYPTED:
    if (!password) return error_named(L, "password_required", "the key is encrypted");
    if (!key_rounds_allowed(der)) return error_named(L, "too_large", "too many password rounds");
    rc = gnutls_x509_privkey_import_pkcs8(key->key, der, GNUTLS_X509_FMT_DER, password, 0);
    if (rc == GNUTLS_E_UNKNOWN_CIPHER_TYPE || rc == GNUTLS_E_UNSUPPORTED_SIGNATURE_ALGORITHM ||
        rc == GNUTLS_E_UNKNOWN_HASH_ALGORITHM || rc == GNUTLS_E_UNKNOWN_PKCS_CONTENT_TYPE)
      return error_gnutls_as(L, "unsupported", rc);
    /* One wrong password in 256 decrypts to good padding and then fails as DER. */
    if (rc < 0) return error_named(L, "wrong_password", "the password is wrong");
    break;
  case KEY_PKCS1:
  case KEY_SEC1:
    rc = gnutls_x509_privkey_import(key->key, der, GNUTLS_X509_FMT_DER);
    break;
  default:
    return error_named(L, "bad_der", "the key is not well-formed DER");
  }
  if (rc == GNUTLS_E_ECC_UNSUPPORTED_CURVE || rc == GNUTLS_E_UNKNOWN_PK_ALGORITHM ||
      rc == GNUTLS_E_UNIMPLEMENTED_FEATURE)
    return error_gnutls_as(L, "unsupported", rc);
  if (rc < 0) return error_gnutls_as(L, "bad_der", rc);
  unsigned bits = 0;
  gnutls_x509_privkey_get_pk_algorithm2(key->key, &bits);
  if (bits > KEY_MAX_BITS) return error_named(L, "too_large", "a key of %u bits", bits);
  rc = gnutls_x509_privkey_verify_params(key->key);
  if (rc < 0) return error_gnutls_as(L, "bad_key", rc);
  return finish(L, key);
}

/* RFC 1421 encryption, as `openssl rsa -aes256` writes it: "Proc-Type: 4,ENCRYPTED". */
static int import_openssl(lua_State *L, const Pem *pem, const char *password) {
  gnutls_datum_t block = {(unsigned char *)pem->block.data, (unsigned)pem->block.size};
  /* GnuTLS has one answer for a wrong password and for bytes that are none. */
  const unsigned char *end = pem->body.data + pem->body.size;
  const unsigned char *cipher = memmem(pem->body.data, pem->body.size, "DEK-Info:", 9);
  const unsigned char *line = cipher ? memchr(cipher, '\n', (size_t)(end - cipher)) : NULL;
  if (!line) return error_named(L, "bad_pem", "the key's encryption is not named");
  Pem encrypted = {.body = {line, (size_t)(end - line)}};
  if (!pem_decode(L, &encrypted)) return 3;
  if (block.size > 2 * KEY_MAX_SIZE)
    return error_named(L, "too_large", "a key of %u bytes", block.size);
  if (!password) return error_named(L, "password_required", "the key is encrypted");
  Key *key = push_empty(L);
  if (!key) return 3;
  int rc = gnutls_x509_privkey_import_openssl(key->key, &block, password);
  if (rc == GNUTLS_E_INVALID_REQUEST || rc == GNUTLS_E_UNKNOWN_CIPHER_TYPE)
    return error_gnutls_as(L, "unsupported", rc);
  if (rc == GNUTLS_E_BASE64_DECODING_ERROR || rc == GNUTLS_E_BASE64_UNEXPECTED_HEADER_ERROR)
    return error_gnutls_as(L, "bad_pem", rc);
  if (rc < 0) return error_named(L, "wrong_password", "the password is wrong");
  return finish(L, key);
}

static bool is_key(const Pem *pem) {
  static const char *const labels[] = {"PRIVATE KEY",    "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY",
                                       "EC PRIVATE KEY", "DSA PRIVATE KEY",       "PKCS12"};
  for (size_t i = 0; i < sizeof labels / sizeof *labels; i++)
    if (pem_is(pem, labels[i])) return true;
  return false;
}

static int import_der(lua_State *L, const gnutls_datum_t *der, const char *password) {
  if (key_kind((Bytes){der->data, der->size}) == KEY_PKCS12) return pkcs12_read(L, der, password);
  return key_import(L, der, password);
}

/* key(text, password) -> the first key in PEM text, or the one in DER. PKCS #12 also gives the
 * certificates in it, the key's own first: key, {certificate, ...}. */
static int key_read(lua_State *L) {
  Bytes text = x509_checkbytes(L, 1);
  size_t size;
  const char *password = luaL_optlstring(L, 2, NULL, &size);
  luaL_argcheck(L, !password || strlen(password) == size, 2, "a password holds no NUL");
  lua_settop(L, 2);
  if (text.size > 0 && text.data[0] == DER_SEQUENCE) {
    gnutls_datum_t der = {(unsigned char *)text.data, (unsigned)text.size};
    return import_der(L, &der, password);
  }
  Pem pem;
  int rc;
  while ((rc = pem_next(&text, &pem)) > 0 && !is_key(&pem))
    continue;
  if (rc < 0) return error_named(L, "bad_pem", "a PEM block has no end line");
  if (rc == 0) return error_named(L, "bad_pem", "no private key in the text");
  static const char encrypted[] = "4,ENCRYPTED";
  if (memmem(pem.body.data, pem.body.size, encrypted, sizeof encrypted - 1))
    return import_openssl(L, &pem, password);
  gnutls_datum_t *der = pem_decode(L, &pem);
  return der ? import_der(L, der, password) : 3;
}

static Bytes spki(const Key *key) {
  return (Bytes){key->spki.data, key->spki.size};
}

/* Making -------------------------------------------------------------------------------------- */

/* generate_key(type, bits): bits for "rsa" only, 1024 to 8192, default 3072. RSA takes a while:
 * half a second for 4096 bits. */
static int key_generate(lua_State *L) {
  static const char *const types[] = {"p256", "p384", "p521", "ed25519", "ed448", "rsa", NULL};
  static const struct {
    gnutls_pk_algorithm_t algorithm;
    gnutls_ecc_curve_t curve;
  } kinds[] = {
      {GNUTLS_PK_ECDSA, GNUTLS_ECC_CURVE_SECP256R1},
      {GNUTLS_PK_ECDSA, GNUTLS_ECC_CURVE_SECP384R1},
      {GNUTLS_PK_ECDSA, GNUTLS_ECC_CURVE_SECP521R1},
      {GNUTLS_PK_EDDSA_ED25519, GNUTLS_ECC_CURVE_ED25519},
      {GNUTLS_PK_EDDSA_ED448, GNUTLS_ECC_CURVE_ED448},
      {GNUTLS_PK_RSA, GNUTLS_ECC_CURVE_INVALID},
  };
  int kind = luaL_checkoption(L, 1, "p256", types);
  bool rsa = kinds[kind].algorithm == GNUTLS_PK_RSA;
  lua_Number bits = luaL_optnumber(L, 2, rsa ? 3072 : 0);
  luaL_argcheck(L, rsa || bits == 0, 2, "bits are for rsa only");
  luaL_argcheck(L, !rsa || (bits >= 1024 && bits <= 8192 && bits == (int)bits), 2,
                "1024 to 8192 bits expected");
  Key *key = push_empty(L);
  if (!key) return 3;
  unsigned size = rsa ? (unsigned)bits : GNUTLS_CURVE_TO_BITS(kinds[kind].curve);
  int rc = gnutls_x509_privkey_generate(key->key, kinds[kind].algorithm, size, 0);
  if (rc < 0) return error_gnutls(L, rc);
  return finish(L, key);
}

/* random(n): n bytes fit for keys and serial numbers. */
static int key_random(lua_State *L) {
  unsigned char bytes[1024];
  lua_Integer size = luaL_checkinteger(L, 1);
  luaL_argcheck(L, size > 0 && size <= (lua_Integer)sizeof bytes, 1, "1 to 1024 expected");
  int rc = gnutls_rnd(GNUTLS_RND_KEY, bytes, (size_t)size);
  if (rc < 0) return error_gnutls(L, rc);
  lua_pushlstring(L, (const char *)bytes, (size_t)size);
  gnutls_memset(bytes, 0, sizeof bytes);
  return 1;
}

/* Methods ------------------------------------------------------------------------------------- */

static int key_type(lua_State *L) {
  int bits;
  const char *curve;
  lua_pushstring(L, publickey_type(spki(check(L, 1)), &bits, &curve));
  return 1;
}

static int key_bits(lua_State *L) {
  int bits;
  const char *curve;
  publickey_type(spki(check(L, 1)), &bits, &curve);
  lua_pushinteger(L, bits);
  return 1;
}

static int key_curve(lua_State *L) {
  int bits;
  const char *curve;
  publickey_type(spki(check(L, 1)), &bits, &curve);
  lua_pushstring(L, curve);
  return 1;
}

static int key_pin(lua_State *L) {
  return publickey_pin(L, spki(check(L, 1)));
}

/* public(form): SubjectPublicKeyInfo as "pem" (default) or "der". */
static int key_public(lua_State *L) {
  static const char *const forms[] = {"pem", "der", NULL};
  Key *key = check(L, 1);
  if (luaL_checkoption(L, 2, "pem", forms) == 0)
    pem_push(L, "PUBLIC KEY", spki(key));
  else
    der_pushbytes(L, spki(key));
  return 1;
}

/* PKCS #8; with a password encrypted as PBES2 with AES-256-CBC (RFC 8018). */
static int export(lua_State *L, gnutls_x509_crt_fmt_t format) {
  Key *key = check(L, 1);
  size_t size;
  const char *password = luaL_optlstring(L, 2, NULL, &size);
  luaL_argcheck(L, !password || strlen(password) == size, 2, "a password holds no NUL");
  luaL_argcheck(L, !password || size > 0, 2, "an empty password protects nothing");
  gnutls_datum_t *out = core_datum(L);
  int rc = gnutls_x509_privkey_export2_pkcs8(
      key->key, format, password, password ? GNUTLS_PKCS_PBES2_AES_256 : GNUTLS_PKCS_PLAIN, out);
  if (rc < 0) return error_gnutls(L, rc);
  lua_pushlstring(L, (const char *)out->data, out->size);
  return 1;
}

static int key_pem(lua_State *L) {
  return export(L, GNUTLS_X509_FMT_PEM);
}

static int key_der(lua_State *L) {
  return export(L, GNUTLS_X509_FMT_DER);
}

/* The hash of a signature by this key: as strong as the key (RFC 5480 4, NIST SP 800-57). */
static gnutls_digest_algorithm_t fitting_hash(const Key *key, gnutls_pk_algorithm_t algorithm) {
  int bits;
  const char *curve;
  if (algorithm == GNUTLS_PK_EDDSA_ED25519) return GNUTLS_DIG_SHA512;
  if (algorithm == GNUTLS_PK_EDDSA_ED448) return GNUTLS_DIG_SHAKE_256;
  publickey_type(spki(key), &bits, &curve);
  if (!curve || bits <= 256) return GNUTLS_DIG_SHA256;
  return bits <= 384 ? GNUTLS_DIG_SHA384 : GNUTLS_DIG_SHA512;
}

/* The signature algorithm for the hash named by argument `index`, or the one that fits the key.
 * GNUTLS_SIGN_UNKNOWN after it has pushed an error. */
static gnutls_sign_algorithm_t check_algorithm(lua_State *L, const Key *key, int index) {
  unsigned bits;
  gnutls_pk_algorithm_t kind =
      (gnutls_pk_algorithm_t)gnutls_x509_privkey_get_pk_algorithm2(key->key, &bits);
  gnutls_digest_algorithm_t hash = fitting_hash(key, kind);
  const char *name = luaL_optstring(L, index, NULL);
  if (name) {
    bool fixed = kind == GNUTLS_PK_EDDSA_ED25519 || kind == GNUTLS_PK_EDDSA_ED448;
    luaL_argcheck(L, !fixed, index, "an EdDSA key has its own hash");
    hash = gnutls_digest_get_id(name);
    luaL_argcheck(L, hash != GNUTLS_DIG_UNKNOWN, index, "unknown hash");
  }
  gnutls_sign_algorithm_t algorithm = gnutls_pk_to_sign(kind, hash);
  if (algorithm == GNUTLS_SIGN_UNKNOWN || !gnutls_sign_get_oid(algorithm)) {
    error_named(L, "unsupported", "the key cannot sign with %s", gnutls_digest_get_name(hash));
    return GNUTLS_SIGN_UNKNOWN;
  }
  return algorithm;
}

/* algorithm(hash) -> name and OID of a signature by this key, "ECDSA-SHA256" and its number. hash:
 * as strong as the key when none is named; an EdDSA key has its own. */
static int key_algorithm(lua_State *L) {
  gnutls_sign_algorithm_t algorithm = check_algorithm(L, check(L, 1), 2);
  if (algorithm == GNUTLS_SIGN_UNKNOWN) return 3;
  lua_pushstring(L, gnutls_sign_get_name(algorithm));
  lua_pushstring(L, gnutls_sign_get_oid(algorithm));
  return 2;
}

/* sign(data, hash) -> signature, as X.509 holds it. */
static int key_sign(lua_State *L) {
  Key *key = check(L, 1);
  Bytes data = x509_checkbytes(L, 2);
  gnutls_sign_algorithm_t algorithm = check_algorithm(L, key, 3);
  if (algorithm == GNUTLS_SIGN_UNKNOWN) return 3;
  gnutls_datum_t input = {(unsigned char *)data.data, (unsigned)data.size};
  gnutls_datum_t *out = core_datum(L);
  int rc = gnutls_privkey_sign_data2(key->signer, algorithm, 0, &input, out);
  if (rc < 0) return error_gnutls_as(L, "unsupported", rc);
  lua_pushlstring(L, (const char *)out->data, out->size);
  return 1;
}

static int key_eq(lua_State *L) {
  Key *a = luaL_testudata(L, 1, KEY_TYPE), *b = luaL_testudata(L, 2, KEY_TYPE);
  lua_pushboolean(L, a && b && a->spki.size == b->spki.size && a->spki.size > 0 &&
                         memcmp(a->spki.data, b->spki.data, a->spki.size) == 0);
  return 1;
}

/* Never the secret: "key p256, pin-sha256 ...". */
static int key_tostring(lua_State *L) {
  Key *key = luaL_checkudata(L, 1, KEY_TYPE);
  int bits;
  const char *curve;
  if (!key->spki.data) {
    lua_pushliteral(L, "key");
    return 1;
  }
  const char *type = publickey_type(spki(key), &bits, &curve);
  if (curve || strncmp(type, "ed", 2) == 0)
    lua_pushfstring(L, "key %s, pin-sha256 ", curve ? curve : type);
  else
    lua_pushfstring(L, "key %s %d, pin-sha256 ", type, bits);
  publickey_pin(L, spki(key));
  lua_concat(L, 2);
  return 1;
}

static const luaL_Reg methods[] = {
    {"type", key_type},           {"bits", key_bits}, {"curve", key_curve}, {"pin", key_pin},
    {"public", key_public},       {"pem", key_pem},   {"der", key_der},     {"sign", key_sign},
    {"algorithm", key_algorithm}, {NULL, NULL},
};
static const luaL_Reg meta[] = {
    {"__gc", key_gc},
    {"__eq", key_eq},
    {"__tostring", key_tostring},
    {NULL, NULL},
};
static const luaL_Reg functions[] = {
    {"key", key_read},
    {"generate_key", key_generate},
    {"random", key_random},
    {NULL, NULL},
};

void key_open(lua_State *L) {
  core_type(L, KEY_TYPE, methods, meta);
  luaL_setfuncs(L, functions, 0);
  pkcs12_open(L);
}

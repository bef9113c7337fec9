/* Which kind of key file some bytes are, and PKCS #12 (RFC 7292): a key, and the certificates
 * beside it. */
#include "x509.h"

#include <gnutls/pkcs12.h>
#include <string.h>

#define STORE_TYPE "tlsconnect.pkcs12"

enum {
  MAX_ROUNDS = 5000000, /* some seconds; OpenSSL writes 2,048, OWASP advises 600,000 */
  MAX_CERTIFICATES = 200
};

typedef struct {
  gnutls_pkcs12_t store;
  gnutls_pkcs12_bag_t bag;
} Store;

static int store_gc(lua_State *L) {
  Store *s = luaL_checkudata(L, 1, STORE_TYPE);
  if (s->bag) gnutls_pkcs12_bag_deinit(s->bag);
  if (s->store) gnutls_pkcs12_deinit(s->store);
  memset(s, 0, sizeof *s);
  return 0;
}

/* RFC 5958: version, algorithm, key | RFC 8017 A.1.2: version, modulus | RFC 5915: 1, key |
 * RFC 7292: 3, contents | RFC 5958 3: algorithm, encrypted key. */
KeyKind key_kind(Bytes der) {
  Bytes in, first;
  unsigned tag;
  int version;
  if (!der_only(der, DER_SEQUENCE, &in) || !der_next(&in, &tag, &first, NULL)) return KEY_UNKNOWN;
  if (tag == DER_SEQUENCE)
    return der_only(in, DER_OCTET_STRING, NULL) ? KEY_PKCS8_ENCRYPTED : KEY_UNKNOWN;
  if (tag != DER_INTEGER || !der_small(first, &version)) return KEY_UNKNOWN;
  if (!der_next(&in, &tag, NULL, NULL)) return KEY_UNKNOWN;
  if (tag == DER_SEQUENCE) return version >= 3 ? KEY_PKCS12 : KEY_PKCS8;
  return tag == DER_INTEGER ? KEY_PKCS1 : tag == DER_OCTET_STRING ? KEY_SEC1 : KEY_UNKNOWN;
}

bool key_rounds_allowed(const gnutls_datum_t *der) {
  unsigned schema, cipher, rounds = 0;
  char *oid = NULL;
  int rc = gnutls_pkcs8_info(der, GNUTLS_X509_FMT_DER, &schema, &cipher, NULL, NULL, &rounds, &oid);
  gnutls_free(oid);
  return rc < 0 || rounds <= MAX_ROUNDS; /* what cannot be read fails in the import, and by name */
}

static int fail(lua_State *L, int rc) {
  switch (rc) {
  case GNUTLS_E_MAC_VERIFY_FAILED:
  case GNUTLS_E_DECRYPTION_FAILED:
  case GNUTLS_E_PKCS1_WRONG_PAD:
    return error_named(L, "wrong_password", "the password is wrong");
  case GNUTLS_E_UNKNOWN_CIPHER_TYPE:
  case GNUTLS_E_UNKNOWN_HASH_ALGORITHM:
  case GNUTLS_E_UNKNOWN_ALGORITHM:
  case GNUTLS_E_UNKNOWN_PKCS_CONTENT_TYPE:
  case GNUTLS_E_UNIMPLEMENTED_FEATURE:
    return error_gnutls_as(L, "unsupported", rc);
  default:
    return error_gnutls_as(L, "bad_der", rc);
  }
}

/* Finds the password that the MAC is for: the one given; without one, none or the empty one, which
 * are two different keys. Returns 0, or pushes an error. */
static int find_password(lua_State *L, Store *s, const char **password) {
  unsigned mac, rounds = 0;
  char *oid = NULL; /* not asked for, GnuTLS 3.7.9 leaks it where the hash is unknown */
  int rc = gnutls_pkcs12_mac_info(s->store, &mac, NULL, NULL, &rounds, &oid);
  gnutls_free(oid);
  if (rc < 0) return fail(L, rc);
  if (rounds > MAX_ROUNDS) return error_named(L, "too_large", "%u password rounds", rounds);
  rc = gnutls_pkcs12_verify_mac(s->store, *password);
  if (rc == 0) return 0;
  if (*password) return fail(L, rc);
  *password = "";
  if (gnutls_pkcs12_verify_mac(s->store, "") == 0) return 0;
  if (rc != GNUTLS_E_MAC_VERIFY_FAILED) return fail(L, rc);
  return error_named(L, "password_required", "the PKCS #12 data is encrypted");
}

static bool bag_rounds_allowed(gnutls_pkcs12_bag_t bag) {
  unsigned schema, cipher, rounds = 0;
  char *oid = NULL;
  int rc = gnutls_pkcs12_bag_enc_info(bag, &schema, &cipher, NULL, NULL, &rounds, &oid);
  gnutls_free(oid);
  return rc < 0 || rounds <= MAX_ROUNDS;
}

/* Takes what the bag holds: the first key goes to stack index `key`, certificates join the list
 * after it. Returns 0, or pushes an error. */
static int take_bag(lua_State *L, Store *s, const char *password, int key) {
  int rc;
  if (gnutls_pkcs12_bag_get_type(s->bag, 0) == GNUTLS_BAG_ENCRYPTED) {
    if (!bag_rounds_allowed(s->bag)) return error_named(L, "too_large", "too many password rounds");
    rc = gnutls_pkcs12_bag_decrypt(s->bag, password);
    if (rc < 0) return fail(L, rc);
  }
  int count = gnutls_pkcs12_bag_get_count(s->bag);
  for (int i = 0; i < count; i++) {
    gnutls_datum_t data;
    int type = gnutls_pkcs12_bag_get_type(s->bag, (unsigned)i);
    if (gnutls_pkcs12_bag_get_data(s->bag, (unsigned)i, &data) < 0) continue;
    if (type == GNUTLS_BAG_CERTIFICATE) {
      int size = (int)lua_rawlen(L, key + 1);
      if (size >= MAX_CERTIFICATES)
        return error_named(L, "too_large", "more than %d certificates", MAX_CERTIFICATES);
      if (!certificate_push(L, &data)) return 3;
      lua_rawseti(L, key + 1, size + 1);
    } else if ((type == GNUTLS_BAG_PKCS8_KEY || type == GNUTLS_BAG_PKCS8_ENCRYPTED_KEY) &&
               lua_isnil(L, key)) {
      rc = key_import(L, &data, password ? password : "");
      if (rc != 1) return rc;
      lua_replace(L, key);
    }
  }
  return 0;
}

/* Moves the certificate whose `issuer` or key is looked for from the list at `from` to the end of
 * the one at `to`. */
static bool move(lua_State *L, int from, int to, const Bytes *key, const Bytes *name) {
  int count = (int)lua_rawlen(L, from);
  for (int i = 1; i <= count; i++) {
    Bytes subject, issuer, spki;
    lua_rawgeti(L, from, i);
    certificate_fields(L, -1, &subject, &issuer, &spki);
    if (key ? bytes_equal(spki, *key) : bytes_equal(subject, *name)) {
      lua_rawseti(L, to, (int)lua_rawlen(L, to) + 1);
      for (; i <= count; i++) {
        lua_rawgeti(L, from, i + 1);
        lua_rawseti(L, from, i);
      }
      return true;
    }
    lua_pop(L, 1);
  }
  return false;
}

/* The key's certificate, its issuer, and so on; what is left stays in the list at `from`. */
static void order(lua_State *L, int key, int from, int to) {
  Bytes subject, issuer, spki = key_spki(L, key);
  bool found = move(L, from, to, &spki, NULL);
  while (found) {
    lua_rawgeti(L, to, (int)lua_rawlen(L, to));
    certificate_fields(L, -1, &subject, &issuer, &spki);
    lua_pop(L, 1);
    found = !bytes_equal(subject, issuer) && move(L, from, to, NULL, &issuer);
  }
}

int pkcs12_read(lua_State *L, const gnutls_datum_t *der, const char *password) {
  Store *s = core_new(L, STORE_TYPE, sizeof *s);
  int key = lua_gettop(L) + 1, rc;
  lua_pushnil(L);
  lua_newtable(L);
  rc = gnutls_pkcs12_init(&s->store);
  if (rc < 0) s->store = NULL;
  if (rc >= 0) rc = gnutls_pkcs12_import(s->store, der, GNUTLS_X509_FMT_DER, 0);
  if (rc < 0) return fail(L, rc);
  rc = find_password(L, s, &password);
  if (rc != 0) return rc;
  for (int i = 0;; i++) {
    rc = gnutls_pkcs12_bag_init(&s->bag);
    if (rc < 0) s->bag = NULL;
    if (rc >= 0) rc = gnutls_pkcs12_get_bag(s->store, i, s->bag);
    if (rc == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) break;
    if (rc < 0) return fail(L, rc);
    rc = take_bag(L, s, password, key);
    if (rc != 0) return rc;
    gnutls_pkcs12_bag_deinit(s->bag);
    s->bag = NULL;
  }
  if (lua_isnil(L, key)) return error_named(L, "no_key", "no private key in the PKCS #12 data");
  lua_newtable(L);
  order(L, key, key + 1, key + 2);
  lua_pushvalue(L, key);
  lua_pushvalue(L, key + 2);
  lua_pushvalue(L, key + 1);
  return 3;
}

void pkcs12_open(lua_State *L) {
  static const luaL_Reg none[] = {{NULL, NULL}};
  static const luaL_Reg meta[] = {{"__gc", store_gc}, {NULL, NULL}};
  core_type(L, STORE_TYPE, none, meta);
}

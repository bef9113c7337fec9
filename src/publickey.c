/* What a SubjectPublicKeyInfo says: kind, bits, curve; and the digests by which certificates and
 * keys are told apart. Read here and not by GnuTLS, so that a key of any kind or size costs
 * nothing. */
#include "x509.h"

#include <gnutls/crypto.h>
#include <string.h>

#define OID(bytes) bytes, sizeof(bytes) - 1

static const struct {
  const char *oid;
  size_t size;
  const char *type;
  int bits; /* 0: found in the key */
} kinds[] = {
    {OID("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"), "rsa", 0},     /* RFC 3279 */
    {OID("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a"), "rsa_pss", 0}, /* RFC 4055 */
    {OID("\x2a\x86\x48\xce\x3d\x02\x01"), "ec", 0},              /* RFC 5480 */
    {OID("\x2b\x65\x70"), "ed25519", 256},                       /* RFC 8410 */
    {OID("\x2b\x65\x71"), "ed448", 456},
    {OID("\x2b\x65\x6e"), "x25519", 256},
    {OID("\x2b\x65\x6f"), "x448", 448},
    {OID("\x2a\x86\x48\xce\x38\x04\x01"), "dsa", 0}, /* RFC 3279 */
    {OID("\x2a\x86\x48\xce\x3e\x02\x01"), "dh", 0},
    {OID("\x60\x86\x48\x01\x65\x03\x04\x03\x11"), "ml_dsa_44", 10496}, /* RFC 9881 */
    {OID("\x60\x86\x48\x01\x65\x03\x04\x03\x12"), "ml_dsa_65", 15616},
    {OID("\x60\x86\x48\x01\x65\x03\x04\x03\x13"), "ml_dsa_87", 20736},
};

static const struct {
  const char *oid;
  size_t size;
  const char *name;
  int bits;
} curves[] = {
    {OID("\x2a\x86\x48\xce\x3d\x03\x01\x07"), "p256", 256}, /* RFC 5480 2.1.1.1 */
    {OID("\x2b\x81\x04\x00\x22"), "p384", 384},
    {OID("\x2b\x81\x04\x00\x23"), "p521", 521},
    {OID("\x2b\x81\x04\x00\x21"), "p224", 224},
    {OID("\x2a\x86\x48\xce\x3d\x03\x01\x01"), "p192", 192},
    {OID("\x2b\x81\x04\x00\x0a"), "secp256k1", 256},
    {OID("\x2b\x24\x03\x03\x02\x08\x01\x01\x07"), "brainpool_p256r1", 256}, /* RFC 5639 */
    {OID("\x2b\x24\x03\x03\x02\x08\x01\x01\x0b"), "brainpool_p384r1", 384},
    {OID("\x2b\x24\x03\x03\x02\x08\x01\x01\x0d"), "brainpool_p512r1", 512},
};

/* Bits of the INTEGER that comes first in `in`. */
static int integer_bits(Bytes in) {
  Bytes number;
  if (!der_take(&in, DER_INTEGER, &number)) return 0;
  while (number.size > 0 && number.data[0] == 0) {
    number.data++;
    number.size--;
  }
  if (number.size == 0 || number.size > 1u << 24) return 0;
  int bits = (int)number.size * 8;
  for (unsigned char first = number.data[0]; !(first & 0x80); first = (unsigned char)(first << 1))
    bits--;
  return bits;
}

/* The parts of SEQUENCE { SEQUENCE { OID, parameters }, BIT STRING }. */
static bool parts(Bytes spki, Bytes *oid, Bytes *parameters, Bytes *bits) {
  Bytes content, algorithm;
  if (!der_only(spki, DER_SEQUENCE, &content) || !der_take(&content, DER_SEQUENCE, &algorithm) ||
      !der_take(&algorithm, DER_OID, oid) || !der_take(&content, DER_BIT_STRING, bits) ||
      bits->size < 1)
    return false;
  *parameters = algorithm;
  *bits = (Bytes){bits->data + 1, bits->size - 1}; /* without the count of unused bits */
  return true;
}

const char *publickey_type(Bytes spki, int *bits, const char **curve) {
  Bytes oid, parameters, key, inner;
  *bits = 0;
  *curve = NULL;
  if (!parts(spki, &oid, &parameters, &key)) return "unknown";
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (!der_is(oid, kinds[i].oid, kinds[i].size)) continue;
    const char *type = kinds[i].type;
    *bits = kinds[i].bits;
    if (strncmp(type, "rsa", 3) == 0) {
      if (der_only(key, DER_SEQUENCE, &inner)) *bits = integer_bits(inner);
    } else if (strcmp(type, "dsa") == 0 || strcmp(type, "dh") == 0) {
      if (der_take(&parameters, DER_SEQUENCE, &inner)) *bits = integer_bits(inner);
    } else if (strcmp(type, "ec") == 0 && der_only(parameters, DER_OID, &inner)) {
      for (size_t j = 0; j < sizeof curves / sizeof *curves; j++) {
        if (!der_is(inner, curves[j].oid, curves[j].size)) continue;
        *curve = curves[j].name;
        *bits = curves[j].bits;
      }
    }
    return type;
  }
  return "unknown";
}

static void digest(lua_State *L, gnutls_digest_algorithm_t hash, Bytes bytes,
                   unsigned char result[64]) {
  int rc = gnutls_hash_fast(hash, bytes.data, bytes.size, result);
  if (rc < 0) luaL_error(L, "%s", gnutls_strerror(rc));
}

int publickey_pin(lua_State *L, Bytes spki) {
  unsigned char hash[64];
  digest(L, GNUTLS_DIG_SHA256, spki, hash);
  pem_pushbase64(L, (Bytes){hash, 32});
  return 1;
}

int publickey_fingerprint(lua_State *L, int index, Bytes bytes) {
  unsigned char result[64];
  const char *name = luaL_optstring(L, index, "sha256");
  gnutls_digest_algorithm_t hash = gnutls_digest_get_id(name);
  size_t size = hash == GNUTLS_DIG_UNKNOWN ? 0 : gnutls_hash_get_len(hash);
  if (size == 0 || size > sizeof result)
    return luaL_argerror(L, index, lua_pushfstring(L, "unknown hash '%s'", name));
  digest(L, hash, bytes, result);
  der_pushhex(L, (Bytes){result, size});
  return 1;
}

int publickey_push(lua_State *L, Bytes spki) {
  int bits;
  const char *curve, *type = publickey_type(spki, &bits, &curve);
  Bytes oid, parameters, key;
  lua_createtable(L, 0, 7);
  lua_pushstring(L, type);
  lua_setfield(L, -2, "type");
  lua_pushinteger(L, bits);
  lua_setfield(L, -2, "bits");
  if (curve) {
    lua_pushstring(L, curve);
    lua_setfield(L, -2, "curve");
  }
  if (parts(spki, &oid, &parameters, &key)) {
    unsigned char id[64];
    der_pushoid(L, oid);
    lua_setfield(L, -2, "oid");
    digest(L, GNUTLS_DIG_SHA256, key, id);
    der_pushhex(L, (Bytes){id, 20}); /* RFC 7093 2, method 1 */
    lua_setfield(L, -2, "id");
  }
  publickey_pin(L, spki);
  lua_setfield(L, -2, "pin");
  der_pushbytes(L, spki);
  lua_setfield(L, -2, "der");
  return 1;
}

/* Pushes "ECDSA-SHA256" and "SHA256"; "unknown" and nil. */
void publickey_pushsignature(lua_State *L, gnutls_sign_algorithm_t algorithm) {
  const char *name = gnutls_sign_get_name(algorithm);
  gnutls_digest_algorithm_t hash = gnutls_sign_get_hash_algorithm(algorithm);
  lua_pushstring(L, name ? name : "unknown");
  lua_pushstring(L, hash == GNUTLS_DIG_UNKNOWN ? NULL : gnutls_digest_get_name(hash));
}

/* public_key(der): what a SubjectPublicKeyInfo says. */
static int publickey_read(lua_State *L) {
  Bytes spki = x509_checkbytes(L, 1), oid, parameters, key;
  if (!parts(spki, &oid, &parameters, &key))
    return error_named(L, "bad_der", "the public key is not well-formed DER");
  return publickey_push(L, spki);
}

/* pem(label, der): a PEM block. */
static int publickey_pem(lua_State *L) {
  const char *label = luaL_checkstring(L, 1);
  pem_push(L, label, x509_checkbytes(L, 2));
  return 1;
}

void publickey_open(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"public_key", publickey_read}, {"pem", publickey_pem}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}

/* The one place that reads signature algorithms and checks a signature. */
#include "trust.h"

#include <string.h>

#define OID(bytes) bytes, sizeof(bytes) - 1
#define PKCS1 "\x2a\x86\x48\x86\xf7\x0d\x01\x01"
#define X962 "\x2a\x86\x48\xce\x3d\x04"
#define NIST "\x60\x86\x48\x01\x65\x03\x04"

typedef struct {
  const char *oid;
  size_t size;
  gnutls_sign_algorithm_t algorithm; /* GNUTLS_SIGN_UNKNOWN: broken, and refused */
} Algorithm;

static const Algorithm algorithms[] = {
    {OID(X962 "\x03\x02"), GNUTLS_SIGN_ECDSA_SHA256},
    {OID(X962 "\x03\x03"), GNUTLS_SIGN_ECDSA_SHA384},
    {OID(X962 "\x03\x04"), GNUTLS_SIGN_ECDSA_SHA512},
    {OID(PKCS1 "\x0b"), GNUTLS_SIGN_RSA_SHA256},
    {OID(PKCS1 "\x0c"), GNUTLS_SIGN_RSA_SHA384},
    {OID(PKCS1 "\x0d"), GNUTLS_SIGN_RSA_SHA512},
    {OID("\x2b\x65\x70"), GNUTLS_SIGN_EDDSA_ED25519},
    {OID("\x2b\x65\x71"), GNUTLS_SIGN_EDDSA_ED448},
    {OID(PKCS1 "\x02"), GNUTLS_SIGN_UNKNOWN},                   /* MD2 */
    {OID(PKCS1 "\x03"), GNUTLS_SIGN_UNKNOWN},                   /* MD4 */
    {OID(PKCS1 "\x04"), GNUTLS_SIGN_UNKNOWN},                   /* MD5 */
    {OID(PKCS1 "\x05"), GNUTLS_SIGN_UNKNOWN},                   /* SHA-1 with RSA */
    {OID("\x2b\x0e\x03\x02\x1d"), GNUTLS_SIGN_UNKNOWN},         /* the same, by its older name */
    {OID(X962 "\x01"), GNUTLS_SIGN_UNKNOWN},                    /* SHA-1 with ECDSA */
    {OID("\x2a\x86\x48\xce\x38\x04\x03"), GNUTLS_SIGN_UNKNOWN}, /* SHA-1 with DSA */
    {NULL, 0, GNUTLS_SIGN_UNKNOWN},
};

/* RFC 4055: AlgorithmIdentifier of a hash, its parameters NULL or absent. */
static const Algorithm hashes[] = {
    {OID(NIST "\x02\x01"), GNUTLS_SIGN_RSA_PSS_SHA256},
    {OID(NIST "\x02\x02"), GNUTLS_SIGN_RSA_PSS_SHA384},
    {OID(NIST "\x02\x03"), GNUTLS_SIGN_RSA_PSS_SHA512},
    {NULL, 0, GNUTLS_SIGN_UNKNOWN},
};

static gnutls_sign_algorithm_t read_hash(Bytes in) {
  Bytes fields, oid, none;
  bool present;
  if (!der_take(&in, DER_SEQUENCE, &fields) || in.size || !der_take(&fields, DER_OID, &oid) ||
      !der_optional(&fields, DER_NULL, &none, &present) || fields.size || (present && none.size))
    return GNUTLS_SIGN_UNKNOWN;
  for (const Algorithm *known = hashes; known->oid; known++)
    if (der_is(oid, known->oid, known->size)) return known->algorithm;
  return GNUTLS_SIGN_UNKNOWN;
}

/* RSASSA-PSS-params: a SHA-2 hash, MGF1 with the same one, and a salt of the hash's length, which
 * is what the CA/Browser Forum allows and what TLS itself uses. The defaults are SHA-1. */
static SignatureStrength read_pss(Bytes in, gnutls_sign_algorithm_t *algorithm) {
  Bytes fields, hash, mask, salt, trailer, oid, content;
  bool has_hash, has_mask, has_salt, has_trailer;
  if (!der_take(&in, DER_SEQUENCE, &fields) || in.size ||
      !der_optional(&fields, (DER_CONSTRUCTED | 0), &hash, &has_hash) ||
      !der_optional(&fields, (DER_CONSTRUCTED | 1), &mask, &has_mask) ||
      !der_optional(&fields, (DER_CONSTRUCTED | 2), &salt, &has_salt) ||
      !der_optional(&fields, (DER_CONSTRUCTED | 3), &trailer, &has_trailer) || fields.size)
    return SIGNATURE_UNKNOWN;
  if (!has_hash || !has_mask) return SIGNATURE_WEAK;
  *algorithm = read_hash(hash);
  if (*algorithm == GNUTLS_SIGN_UNKNOWN || !has_salt) return SIGNATURE_UNKNOWN;
  int length, one = 1;
  Bytes generator;
  if (!der_take(&mask, DER_SEQUENCE, &generator) || mask.size ||
      !der_take(&generator, DER_OID, &oid) || !der_is(oid, OID(PKCS1 "\x08")) ||
      read_hash(generator) != *algorithm || !der_take(&salt, DER_INTEGER, &content) || salt.size ||
      !der_small(content, &length))
    return SIGNATURE_UNKNOWN;
  if (has_trailer && (!der_take(&trailer, DER_INTEGER, &content) || !der_small(content, &one)))
    return SIGNATURE_UNKNOWN;
  int expected = *algorithm == GNUTLS_SIGN_RSA_PSS_SHA256   ? 32
                 : *algorithm == GNUTLS_SIGN_RSA_PSS_SHA384 ? 48
                                                            : 64;
  return one == 1 && length == expected ? SIGNATURE_OK : SIGNATURE_UNKNOWN;
}

SignatureStrength signature_algorithm(Bytes identifier, gnutls_sign_algorithm_t *algorithm) {
  Bytes fields, oid, none;
  *algorithm = GNUTLS_SIGN_UNKNOWN;
  if (!der_take(&identifier, DER_SEQUENCE, &fields) || !der_take(&fields, DER_OID, &oid))
    return SIGNATURE_UNKNOWN;
  if (der_is(oid, OID(PKCS1 "\x0a"))) return read_pss(fields, algorithm);
  for (const Algorithm *known = algorithms; known->oid; known++) {
    if (!der_is(oid, known->oid, known->size)) continue;
    if (known->algorithm == GNUTLS_SIGN_UNKNOWN) return SIGNATURE_WEAK;
    *algorithm = known->algorithm;
    bool present;
    if (!der_optional(&fields, DER_NULL, &none, &present) || fields.size) return SIGNATURE_UNKNOWN;
    return SIGNATURE_OK;
  }
  /* ML-DSA: known to GnuTLS 3.8.9 and later, by name, so that older headers do. */
  if (oid.size == sizeof(NIST) + 1 && memcmp(oid.data, OID(NIST "\x03")) == 0) {
    static const char *const names[] = {"ML-DSA-44", "ML-DSA-65", "ML-DSA-87"};
    unsigned number = oid.data[oid.size - 1];
    if (number >= 17 && number <= 19 && fields.size == 0)
      *algorithm = gnutls_sign_get_id(names[number - 17]);
    if (*algorithm != GNUTLS_SIGN_UNKNOWN) return SIGNATURE_OK;
  }
  return SIGNATURE_UNKNOWN;
}

static gnutls_datum_t datum(Bytes slice) {
  return (gnutls_datum_t){(unsigned char *)slice.data, (unsigned)slice.size};
}

bool signature_valid(Bytes spki, Bytes identifier, Bytes data, Bytes signature) {
  gnutls_sign_algorithm_t algorithm;
  if (signature_algorithm(identifier, &algorithm) != SIGNATURE_OK) return false;
  gnutls_pubkey_t key;
  if (gnutls_pubkey_init(&key) < 0) return false;
  gnutls_datum_t spki_datum = datum(spki), data_datum = datum(data), signed_ = datum(signature);
  /* An rsaEncryption key may make PSS signatures too; GnuTLS names the pair differently. */
  int rc = gnutls_pubkey_import(key, &spki_datum, GNUTLS_X509_FMT_DER);
  if (rc >= 0 && gnutls_pubkey_get_pk_algorithm(key, NULL) == GNUTLS_PK_RSA) {
    if (algorithm == GNUTLS_SIGN_RSA_PSS_SHA256) algorithm = GNUTLS_SIGN_RSA_PSS_RSAE_SHA256;
    if (algorithm == GNUTLS_SIGN_RSA_PSS_SHA384) algorithm = GNUTLS_SIGN_RSA_PSS_RSAE_SHA384;
    if (algorithm == GNUTLS_SIGN_RSA_PSS_SHA512) algorithm = GNUTLS_SIGN_RSA_PSS_RSAE_SHA512;
  }
  if (rc >= 0)
    rc = gnutls_pubkey_verify_data2(key, algorithm, GNUTLS_PROFILE_TO_VFLAGS(GNUTLS_PROFILE_MEDIUM),
                                    &data_datum, &signed_);
  gnutls_pubkey_deinit(key);
  return rc >= 0;
}

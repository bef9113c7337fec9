/* Reads a certificate the way verification needs it: strictly, once, without copying. What GnuTLS
 * would accept quietly (a second extension of one kind, an empty list, a malformed name) is noted
 * as a fault here; path.c decides whether the certificate in its role is refused for it. */
#include "trust.h"

#include <arpa/inet.h>
#include <string.h>

#define OID(bytes) bytes, sizeof(bytes) - 1
#define RSA_ENCRYPTION "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"
#define RSA_PSS "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a"
#define EC_PUBLIC_KEY "\x2a\x86\x48\xce\x3d\x02\x01"
#define ED25519 "\x2b\x65\x70"
#define ED448 "\x2b\x65\x71"
#define DSA "\x2a\x86\x48\xce\x38\x04\x01"
#define ML_DSA "\x60\x86\x48\x01\x65\x03\x04\x03" /* then 17, 18, 19 */

static void fault(View *view, Fault number) {
  view->faults |= (uint64_t)1 << number;
}

/* Keys ---------------------------------------------------------------------------------------- */

typedef struct {
  const char *oid;
  size_t size;
  unsigned bits;
} Curve;

static const Curve curves[] = {
    {OID("\x2a\x86\x48\xce\x3d\x03\x01\x07"), 256},
    {OID("\x2b\x81\x04\x00\x22"), 384},
    {OID("\x2b\x81\x04\x00\x23"), 521},
    {NULL, 0, 0},
};

static unsigned integer_bits(Bytes integer) {
  if (integer.size && integer.data[0] == 0) {
    integer.data++;
    integer.size--;
  }
  if (integer.size == 0) return 0;
  if (integer.size > 1 << 16) return 1 << 19;
  unsigned bits = (unsigned)integer.size * 8;
  for (unsigned char top = integer.data[0]; !(top & 0x80); top = (unsigned char)(top << 1))
    bits--;
  return bits;
}

static void read_rsa(View *view) {
  Bytes in = view->key, numbers, modulus, exponent;
  if (!der_take(&in, DER_SEQUENCE, &numbers) || in.size ||
      !der_take(&numbers, DER_INTEGER, &modulus) || !der_take(&numbers, DER_INTEGER, &exponent) ||
      numbers.size || !der_integer(modulus) || !der_integer(exponent) || (modulus.data[0] & 0x80) ||
      (exponent.data[0] & 0x80)) {
    fault(view, FAULT_MALFORMED);
    return;
  }
  unsigned bits = view->key_bits = integer_bits(modulus);
  if (bits < 2048)
    fault(view, FAULT_WEAK_KEY);
  else if (bits > 8192 || bits % 8 != 0) /* a check costs with the cube of the size */
    fault(view, FAULT_KEY_SIZE);
  /* An even exponent, or 1, is no RSA; a long one only costs the verifier. */
  if (integer_bits(exponent) < 2 || integer_bits(exponent) > 64 ||
      !(exponent.data[exponent.size - 1] & 1))
    fault(view, FAULT_WEAK_KEY);
}

static void read_ec(View *view, Bytes parameters) {
  Bytes curve;
  if (!der_take(&parameters, DER_OID, &curve) || parameters.size) {
    fault(view, FAULT_KEY_KIND); /* explicit parameters */
    return;
  }
  for (const Curve *known = curves; known->oid; known++)
    if (der_is(curve, known->oid, known->size)) {
      view->key_bits = known->bits;
      return;
    }
  fault(view, FAULT_KEY_KIND);
}

static bool read_key(View *view, Bytes spki) {
  Bytes algorithm, oid, bits;
  if (!der_take(&spki, DER_SEQUENCE, &algorithm) || !der_take(&spki, DER_BIT_STRING, &bits) ||
      spki.size || !der_bits(bits, &view->key) || !der_take(&algorithm, DER_OID, &oid))
    return false;
  if (der_is(oid, OID(RSA_ENCRYPTION)) || der_is(oid, OID(RSA_PSS)))
    read_rsa(view);
  else if (der_is(oid, OID(EC_PUBLIC_KEY)))
    read_ec(view, algorithm);
  else if (der_is(oid, OID(ED25519)))
    view->key_bits = 256;
  else if (der_is(oid, OID(ED448)))
    view->key_bits = 456;
  else if (oid.size == sizeof ML_DSA && memcmp(oid.data, OID(ML_DSA)) == 0 &&
           oid.data[oid.size - 1] >= 17 && oid.data[oid.size - 1] <= 19)
    view->key_bits = (unsigned)view->key.size * 8;
  else
    fault(view, FAULT_KEY_KIND);
  return true;
}

/* Names --------------------------------------------------------------------------------------- */

bool general_name_next(Bytes *in, unsigned *kind, Bytes *content) {
  unsigned tag;
  if (!der_next(in, &tag, content, NULL) || (tag & 0xc0) != 0x80) return false;
  *kind = tag & 0x1f;
  bool constructed = tag & 0x20;
  /* otherName, x400Address, directoryName (explicit: a CHOICE) and ediPartyName hold elements. */
  bool expected =
      *kind == NAME_OTHER || *kind == NAME_X400 || *kind == NAME_DIRECTORY || *kind == NAME_EDI;
  return *kind <= NAME_REGISTERED && constructed == expected;
}

static bool name_valid(Bytes name) {
  Bytes sets, set, pair, type, value;
  unsigned tag;
  if (!der_take(&name, DER_SEQUENCE, &sets)) return false;
  while (sets.size) {
    if (!der_take(&sets, DER_SET, &set) || set.size == 0) return false;
    while (set.size)
      if (!der_take(&set, DER_SEQUENCE, &pair) || !der_take(&pair, DER_OID, &type) ||
          !der_next(&pair, &tag, &value, NULL) || pair.size)
        return false;
  }
  return true;
}

static void read_names(View *view, Bytes value) {
  Bytes names, content;
  if (!der_take(&value, DER_SEQUENCE, &names) || value.size || names.size == 0) {
    fault(view, FAULT_BAD_NAMES);
    return;
  }
  Bytes in = names;
  size_t count = 0;
  while (in.size) {
    unsigned kind;
    if (!general_name_next(&in, &kind, &content) ||
        (kind == NAME_DIRECTORY && !name_valid(content))) {
      fault(view, FAULT_BAD_NAMES);
      return;
    }
    if (kind == NAME_DNS && content.size && memchr(content.data, '_', content.size))
      fault(view, FAULT_UNDERSCORE);
    count++;
  }
  if (count > MAX_NAMES) fault(view, FAULT_TOO_MANY_NAMES);
  view->names = names;
}

bool name_attribute(Bytes name, const char *oid, size_t size, Bytes *value, unsigned *tag) {
  Bytes sets, set, pair, type;
  if (!der_take(&name, DER_SEQUENCE, &sets)) return false;
  while (sets.size) {
    if (!der_take(&sets, DER_SET, &set)) return false;
    while (set.size) {
      if (!der_take(&set, DER_SEQUENCE, &pair) || !der_take(&pair, DER_OID, &type)) return false;
      if (der_is(type, oid, size)) return der_next(&pair, tag, value, NULL);
    }
  }
  return false;
}

bool address_text(Bytes address, char *text, size_t size) {
  if (address.size != 4 && address.size != 16) return false;
  return inet_ntop(address.size == 4 ? AF_INET : AF_INET6, address.data, text, (socklen_t)size);
}

bool view_self_issued(const View *view) {
  return bytes_equal(view->issuer, view->subject);
}

/* Extensions ---------------------------------------------------------------------------------- */

static bool read_basic(View *view, Bytes value) {
  Bytes fields, length;
  bool present;
  if (!der_take(&value, DER_SEQUENCE, &fields) || value.size || !der_boolean(&fields, &view->ca) ||
      !der_optional(&fields, DER_INTEGER, &length, &present) || fields.size)
    return false;
  view->has_basic = true;
  return !present || der_small(length, &view->path_length);
}

static bool read_usage(View *view, Bytes value) {
  Bytes bits;
  if (!der_take(&value, DER_BIT_STRING, &bits) || value.size || bits.size < 1 || bits.size > 3 ||
      bits.data[0] > 7)
    return false;
  view->has_usage = true;
  for (unsigned bit = 0; bit < (bits.size - 1) * 8; bit++)
    if (bits.data[1 + bit / 8] & (0x80 >> (bit % 8))) view->usage |= 1u << bit;
  return true;
}

static bool read_purposes(View *view, Bytes value) {
  static const struct {
    const char *oid;
    size_t size;
    Purpose purpose;
  } known[] = {
      {OID("\x2b\x06\x01\x05\x05\x07\x03\x01"), PURPOSE_SERVER},
      {OID("\x2b\x06\x01\x05\x05\x07\x03\x02"), PURPOSE_CLIENT},
      {OID("\x2b\x06\x01\x05\x05\x07\x03\x09"), PURPOSE_OCSP},
      {OID("\x55\x1d\x25\x00"), PURPOSE_ANY},
  };
  Bytes list, oid;
  if (!der_take(&value, DER_SEQUENCE, &list) || value.size) return false;
  view->has_purposes = true;
  if (list.size == 0) fault(view, FAULT_EMPTY_PURPOSES);
  while (list.size) {
    if (!der_take(&list, DER_OID, &oid) || oid.size == 0) return false;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
      if (der_is(oid, known[i].oid, known[i].size)) view->purposes |= known[i].purpose;
  }
  return true;
}

static bool read_subject_key(View *view, Bytes value) {
  return der_take(&value, DER_OCTET_STRING, &view->subject_key) && value.size == 0;
}

static bool read_authority_key(View *view, Bytes value) {
  Bytes fields, ignored;
  bool key, issuer, serial;
  if (!der_take(&value, DER_SEQUENCE, &fields) || value.size ||
      !der_optional(&fields, DER_CONTEXT | 0, &view->authority_key, &key) ||
      !der_optional(&fields, DER_CONSTRUCTED | 1, &ignored, &issuer) ||
      !der_optional(&fields, DER_CONTEXT | 2, &ignored, &serial) || fields.size)
    return false;
  view->has_authority = true;
  /* CA/Browser Forum 7.1.2.11.1: the key identifier, and nothing else */
  if (!key || issuer || serial) fault(view, FAULT_AUTHORITY_KEY);
  return true;
}

static bool read_access(View *view, Bytes value) {
  Bytes list, access, oid;
  if (!der_take(&value, DER_SEQUENCE, &list) || value.size || list.size == 0) return false;
  view->access = list;
  while (list.size) {
    unsigned kind;
    Bytes place;
    if (!der_take(&list, DER_SEQUENCE, &access) || !der_take(&access, DER_OID, &oid) ||
        !general_name_next(&access, &kind, &place) || access.size)
      return false;
  }
  return true;
}

static bool read_constraints(View *view, Bytes value) {
  bool dotted = false;
  view->constraints = value;
  if (!constraints_valid(value, &dotted)) fault(view, FAULT_BAD_CONSTRAINTS);
  if (dotted) fault(view, FAULT_DOTTED_CONSTRAINT);
  return true;
}

/* RFC 7633: a list of TLS extensions that the server must answer with; 5 is status_request, 17 its
 * second version. */
static bool read_features(View *view, Bytes value) {
  Bytes list, number;
  int feature;
  if (!der_take(&value, DER_SEQUENCE, &list) || value.size) return false;
  while (list.size) {
    if (!der_take(&list, DER_INTEGER, &number) || !der_small(number, &feature)) return false;
    if (feature == 5 || feature == 17) view->must_staple = true;
  }
  return true;
}

static bool read_no_check(View *view, Bytes value) {
  (void)value;
  view->no_check = true;
  return true;
}

static bool read_alternative_names(View *view, Bytes value) {
  read_names(view, value);
  return true;
}

static bool read_points(View *view, Bytes value) {
  view->points = value;
  return der_peek(&value) == DER_SEQUENCE;
}

static bool well_formed(View *view, Bytes value) {
  (void)view;
  unsigned tag;
  Bytes content;
  return der_next(&value, &tag, &content, NULL) && value.size == 0;
}

/* Whether an extension may, must or must not be critical. MAY_NOT is refused in every profile (as
 * GnuTLS or Go do), the other two by the strict one alone. */
typedef enum { MAY, MUST, MUST_NOT, MAY_NOT } Critical;

typedef struct {
  const char *oid;
  size_t size;
  bool (*read)(View *view, Bytes value);
  Critical critical;
} Extension;

static const Extension extensions[] = {
    {OID("\x55\x1d\x0e"), read_subject_key, MAY_NOT},
    {OID("\x55\x1d\x0f"), read_usage, MAY},
    {OID("\x55\x1d\x11"), read_alternative_names, MAY},
    {OID("\x55\x1d\x12"), well_formed, MUST_NOT}, /* issuer alternative name */
    {OID("\x55\x1d\x13"), read_basic, MAY},
    {OID("\x55\x1d\x1e"), read_constraints, MAY},
    {OID("\x55\x1d\x1f"), read_points, MAY}, /* CRL distribution points */
    {OID("\x55\x1d\x20"), policy_read_list, MAY},
    {OID("\x55\x1d\x21"), policy_read_mappings, MAY},
    {OID("\x55\x1d\x23"), read_authority_key, MAY_NOT},
    {OID("\x55\x1d\x24"), policy_read_constraints, MUST},
    {OID("\x55\x1d\x25"), read_purposes, MAY},
    {OID("\x55\x1d\x36"), policy_read_inhibit_any, MUST},
    {OID("\x2b\x06\x01\x05\x05\x07\x01\x01"), read_access, MAY_NOT},
    {OID("\x2b\x06\x01\x05\x05\x07\x01\x18"), read_features, MAY},
    {OID("\x2b\x06\x01\x05\x05\x07\x30\x01\x05"), read_no_check, MAY},
    {NULL, 0, NULL, MAY},
};

static void read_extension(View *view, Bytes oid, bool critical, Bytes value, uint32_t *seen) {
  for (const Extension *known = extensions; known->oid; known++) {
    if (!der_is(oid, known->oid, known->size)) continue;
    uint32_t bit = (uint32_t)1 << (known - extensions);
    if (*seen & bit) fault(view, FAULT_DUPLICATE_EXTENSION);
    *seen |= bit;
    if (!known->read(view, value)) fault(view, FAULT_BAD_EXTENSION);
    if (critical && known->critical == MAY_NOT) fault(view, FAULT_NEVER_CRITICAL);
    if (critical && known->critical == MUST_NOT) fault(view, FAULT_CRITICAL_WRONG);
    if (!critical && known->critical == MUST) fault(view, FAULT_NOT_CRITICAL);
    if (known->read == read_basic && !critical && view->ca) fault(view, FAULT_NOT_CRITICAL);
    if (known->read == read_purposes && critical) fault(view, FAULT_CRITICAL_PURPOSES);
    if (known->read == read_alternative_names) {
      bool empty = view->subject.size <= 2;
      if (empty && !critical) fault(view, FAULT_NOT_CRITICAL);
      if (!empty && critical) fault(view, FAULT_CRITICAL_WRONG);
    }
    return;
  }
  if (critical) {
    fault(view, FAULT_UNKNOWN_CRITICAL);
    view->unknown = oid;
  }
}

static bool read_extensions(View *view, Bytes list) {
  Bytes entry, oid, value, others[64];
  size_t count = 0;
  uint32_t seen = 0;
  if (list.size == 0) return false;
  while (list.size) {
    bool critical;
    if (!der_take(&list, DER_SEQUENCE, &entry) || !der_take(&entry, DER_OID, &oid) ||
        !der_boolean(&entry, &critical) || !der_take(&entry, DER_OCTET_STRING, &value) ||
        entry.size)
      return false;
    /* No certificate in use has a third as many. */
    if (count == sizeof others / sizeof *others) return false;
    for (size_t i = 0; i < count; i++)
      if (bytes_equal(others[i], oid)) fault(view, FAULT_DUPLICATE_EXTENSION);
    others[count++] = oid;
    read_extension(view, oid, critical, value, &seen);
  }
  return true;
}

/* The certificate ----------------------------------------------------------------------------- */

static void read_serial(View *view) {
  Bytes serial = view->serial;
  if (!der_integer(serial) || serial.size > 20 || (serial.size == 1 && serial.data[0] == 0))
    fault(view, FAULT_SERIAL);
  if (serial.data[0] & 0x80) fault(view, FAULT_NEGATIVE_SERIAL);
}

static bool read_tbs(View *view, Bytes tbs) {
  Bytes version, number, algorithm, dates, content;
  unsigned tag;
  bool present;
  int value = 0;
  if (!der_optional(&tbs, DER_CONSTRUCTED | 0, &version, &present)) return false;
  if (present &&
      (!der_take(&version, DER_INTEGER, &number) || version.size || !der_small(number, &value)))
    return false;
  view->version = value + 1;
  if (view->version != 3) fault(view, FAULT_VERSION);
  if (!der_take(&tbs, DER_INTEGER, &view->serial) || view->serial.size == 0) return false;
  read_serial(view);
  if (!der_next(&tbs, &tag, &content, &algorithm)) return false;
  if (!bytes_equal(algorithm, view->algorithm)) fault(view, FAULT_ALGORITHMS_DIFFER);
  if (!der_next(&tbs, &tag, &content, &view->issuer) || !name_valid(view->issuer)) return false;
  if (content.size == 0) fault(view, FAULT_EMPTY_ISSUER);
  if (!der_take(&tbs, DER_SEQUENCE, &dates)) return false;
  if (!der_take_time(&dates, &view->not_before) || !der_take_time(&dates, &view->not_after) ||
      dates.size)
    fault(view, FAULT_BAD_DATES);
  if (!der_next(&tbs, &tag, &content, &view->subject) || !name_valid(view->subject)) return false;
  if (der_peek(&tbs) != DER_SEQUENCE || !der_next(&tbs, &tag, &content, &view->spki) ||
      !read_key(view, content))
    return false;
  Bytes unique;
  if (!der_optional(&tbs, DER_CONTEXT | 1, &unique, &present) ||
      !der_optional(&tbs, DER_CONTEXT | 2, &unique, &present) ||
      !der_optional(&tbs, DER_CONSTRUCTED | 3, &content, &present))
    return false;
  if (present) {
    Bytes list;
    if (view->version != 3) fault(view, FAULT_VERSION);
    if (!der_take(&content, DER_SEQUENCE, &list) || content.size || !read_extensions(view, list))
      return false;
  }
  return tbs.size == 0;
}

void view_read(View *view, Bytes der) {
  Bytes in = der, certificate, content, bits, whole;
  unsigned tag;
  memset(view, 0, sizeof *view);
  view->der = der;
  view->path_length = view->require_policy = view->inhibit_mapping = view->inhibit_any = -1;
  if (!der_take(&in, DER_SEQUENCE, &certificate) || in.size ||
      der_peek(&certificate) != DER_SEQUENCE ||
      !der_next(&certificate, &tag, &content, &view->tbs)) {
    fault(view, FAULT_MALFORMED);
    return;
  }
  Bytes tbs = content;
  if (der_peek(&certificate) != DER_SEQUENCE || !der_next(&certificate, &tag, &content, &whole) ||
      !der_take(&certificate, DER_BIT_STRING, &bits) || certificate.size ||
      !der_bits(bits, &view->signature)) {
    fault(view, FAULT_MALFORMED);
    return;
  }
  view->algorithm = whole;
  gnutls_sign_algorithm_t algorithm;
  SignatureStrength strength = signature_algorithm(view->algorithm, &algorithm);
  if (strength == SIGNATURE_WEAK) fault(view, FAULT_WEAK_SIGNATURE);
  if (strength == SIGNATURE_UNKNOWN) fault(view, FAULT_UNKNOWN_SIGNATURE);
  if (!read_tbs(view, tbs)) fault(view, FAULT_MALFORMED);
}

gnutls_x509_crt_t view_crt(View *view) {
  if (view->crt) return view->crt;
  gnutls_datum_t datum = {(unsigned char *)view->der.data, (unsigned)view->der.size};
  gnutls_x509_crt_t crt;
  if (gnutls_x509_crt_init(&crt) < 0) return NULL;
  if (gnutls_x509_crt_import(crt, &datum, GNUTLS_X509_FMT_DER) < 0) {
    gnutls_x509_crt_deinit(crt);
    return NULL;
  }
  return view->crt = crt;
}

void view_free(View *view) {
  if (view->crt) gnutls_x509_crt_deinit(view->crt);
  view->crt = NULL;
}

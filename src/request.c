/* Certification requests (PKCS #10, RFC 2986): read and verified here, made by
 * lua/tlsconnect/issue.lua. */
#include "x509.h"

#include <string.h>

#define REQUEST_TYPE "tlsconnect.request"

typedef struct {
  gnutls_x509_crq_t crq;
  Bytes subject, spki, extensions; /* within der */
  size_t size;
  unsigned char der[];
} Request;

static Request *check(lua_State *L, int index) {
  Request *request = luaL_checkudata(L, index, REQUEST_TYPE);
  luaL_argcheck(L, request->crq, index, "the request is empty");
  return request;
}

static int request_gc(lua_State *L) {
  Request *request = luaL_checkudata(L, 1, REQUEST_TYPE);
  if (request->crq) gnutls_x509_crq_deinit(request->crq);
  request->crq = NULL;
  return 0;
}

/* The extensionRequest among the attributes (RFC 2985 5.4.2): SEQUENCE { OID, SET { Extensions } }
 */
static bool find_extensions(Request *r, Bytes attributes) {
  static const char wanted[] = "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e";
  Bytes one, oid, set;
  while (attributes.size > 0) {
    if (!der_take(&attributes, DER_SEQUENCE, &one) || !der_take(&one, DER_OID, &oid) ||
        !der_only(one, DER_SET, &set))
      return false;
    if (der_is(oid, wanted, sizeof wanted - 1) && !der_only(set, DER_SEQUENCE, &r->extensions))
      return false;
  }
  return true;
}

/* RFC 2986 4: finds the fields of CertificationRequestInfo. */
static bool locate(Request *r) {
  Bytes all = {r->der, r->size}, in, info, field;
  unsigned tag;
  return der_only(all, DER_SEQUENCE, &in) && der_take(&in, DER_SEQUENCE, &info) &&
         der_take(&info, DER_INTEGER, &field) && der_next(&info, &tag, NULL, &r->subject) &&
         tag == DER_SEQUENCE && der_next(&info, &tag, NULL, &r->spki) && tag == DER_SEQUENCE &&
         (info.size == 0 ||
          (der_only(info, DER_CONSTRUCTED, &field) && find_extensions(r, field))) &&
         der_take(&in, DER_SEQUENCE, &field) && der_only(in, DER_BIT_STRING, &field);
}

static int push(lua_State *L, Bytes der) {
  Request *r = core_new(L, REQUEST_TYPE, sizeof *r + der.size);
  r->size = der.size;
  memcpy(r->der, der.data, der.size);
  if (!locate(r)) return error_named(L, "bad_der", "the request is not well-formed DER");
  if (names_crowded(r->subject))
    return error_named(L, "too_large", "a name of more than %d parts", NAMES_MAX_ATTRIBUTES);
  gnutls_datum_t own = {r->der, (unsigned)r->size};
  int rc = gnutls_x509_crq_init(&r->crq);
  if (rc < 0) r->crq = NULL;
  if (rc >= 0) rc = gnutls_x509_crq_import(r->crq, &own, GNUTLS_X509_FMT_DER);
  if (rc < 0) return error_gnutls_as(L, "bad_der", rc);
  return 1;
}

/* request(text) -> the first request in PEM text, or the one in DER. */
static int request_read(lua_State *L) {
  Bytes text = x509_checkbytes(L, 1);
  Pem pem;
  int rc;
  if (text.size > 0 && text.data[0] == DER_SEQUENCE) return push(L, text);
  do {
    rc = pem_next(&text, &pem);
  } while (rc > 0 && !pem_is(&pem, "CERTIFICATE REQUEST") &&
           !pem_is(&pem, "NEW CERTIFICATE REQUEST"));
  if (rc < 0) return error_named(L, "bad_pem", "a PEM block has no end line");
  if (rc == 0) return error_named(L, "bad_pem", "no certificate request in the text");
  gnutls_datum_t *der = pem_decode(L, &pem);
  return der ? push(L, (Bytes){der->data, der->size}) : 3;
}

static int request_subject(lua_State *L) {
  return names_result(L, 2, check(L, 1)->subject);
}

static int request_names(lua_State *L) {
  return names_alternative(L, 2, check(L, 1)->extensions);
}

static int request_key(lua_State *L) {
  return publickey_push(L, check(L, 1)->spki);
}

static int request_pin(lua_State *L) {
  return publickey_pin(L, check(L, 1)->spki);
}

static int request_extensions(lua_State *L) {
  return extensions_push(L, check(L, 1)->extensions);
}

static int request_signature(lua_State *L) {
  int rc = gnutls_x509_crq_get_signature_algorithm(check(L, 1)->crq);
  publickey_pushsignature(L, rc < 0 ? GNUTLS_SIGN_UNKNOWN : (gnutls_sign_algorithm_t)rc);
  return 2;
}

/* verify() -> true when whoever made the request holds its key. */
static int request_verify(lua_State *L) {
  Request *r = check(L, 1);
  int bits;
  const char *curve;
  publickey_type(r->spki, &bits, &curve);
  if (bits > KEY_MAX_BITS) return error_named(L, "too_large", "a key of %d bits", bits);
  int rc = gnutls_x509_crq_verify(r->crq, 0);
  if (rc < 0) return error_gnutls_as(L, "bad_signature", rc);
  lua_pushboolean(L, 1);
  return 1;
}

static int request_pem(lua_State *L) {
  Request *r = check(L, 1);
  pem_push(L, "CERTIFICATE REQUEST", (Bytes){r->der, r->size});
  return 1;
}

static int request_der(lua_State *L) {
  Request *r = check(L, 1);
  der_pushbytes(L, (Bytes){r->der, r->size});
  return 1;
}

static int request_tostring(lua_State *L) {
  Request *r = luaL_checkudata(L, 1, REQUEST_TYPE);
  Bytes name = r->subject, content;
  lua_settop(L, 1);
  lua_pushliteral(L, "request ");
  if (r->crq && der_take(&name, DER_SEQUENCE, &content) && names_pushtext(L, content))
    lua_concat(L, 2);
  else
    lua_settop(L, 2);
  return 1;
}

static const luaL_Reg methods[] = {
    {"subject", request_subject},
    {"names", request_names},
    {"key", request_key},
    {"pin", request_pin},
    {"extensions", request_extensions},
    {"signature", request_signature},
    {"verify", request_verify},
    {"pem", request_pem},
    {"der", request_der},
    {NULL, NULL},
};
static const luaL_Reg meta[] = {
    {"__gc", request_gc}, {"__tostring", request_tostring}, {NULL, NULL}};
static const luaL_Reg functions[] = {{"request", request_read}, {NULL, NULL}};

void request_open(lua_State *L) {
  core_type(L, REQUEST_TYPE, methods, meta);
  luaL_setfuncs(L, functions, 0);
}

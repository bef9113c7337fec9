/* Certificates, as people and programs read them (RFC 5280). GnuTLS keeps its own copy for the
 * handshake; what is shown here is read from the bytes themselves, once, by der.c. */
#include "x509.h"

#include <stdio.h>
#include <string.h>

typedef struct {
  gnutls_x509_crt_t crt;                           /* NULL when it could not be made */
  Bytes serial, issuer, subject, spki, extensions; /* within der */
  Bytes not_before, not_after;
  unsigned not_before_tag, not_after_tag;
  int version;
  size_t size;
  unsigned char der[];
} Certificate;

static Certificate *check(lua_State *L, int index) {
  Certificate *certificate = luaL_checkudata(L, index, CERTIFICATE_TYPE);
  luaL_argcheck(L, certificate->crt, index, "the certificate is empty");
  return certificate;
}

gnutls_x509_crt_t certificate_check(lua_State *L, int index) {
  return check(L, index)->crt;
}

gnutls_x509_crt_t certificate_test(lua_State *L, int index) {
  Certificate *certificate = luaL_testudata(L, index, CERTIFICATE_TYPE);
  return certificate ? certificate->crt : NULL;
}

void certificate_fields(lua_State *L, int index, Bytes *subject, Bytes *issuer, Bytes *spki) {
  Certificate *certificate = check(L, index);
  *subject = certificate->subject;
  *issuer = certificate->issuer;
  *spki = certificate->spki;
}

static int certificate_gc(lua_State *L) {
  Certificate *certificate = luaL_checkudata(L, 1, CERTIFICATE_TYPE);
  if (certificate->crt) gnutls_x509_crt_deinit(certificate->crt);
  certificate->crt = NULL;
  return 0;
}

/* RFC 5280 4.1: finds the fields of TBSCertificate. */
static bool locate(Certificate *c) {
  Bytes all = {c->der, c->size}, in, tbs, field, validity;
  unsigned tag;
  if (!der_only(all, DER_SEQUENCE, &in) || !der_take(&in, DER_SEQUENCE, &tbs)) return false;
  c->version = 1;
  if (der_take(&tbs, DER_CONSTRUCTED, &field)) {
    int version;
    if (!der_only(field, DER_INTEGER, &field) || !der_small(field, &version)) return false;
    c->version = version + 1;
  }
  if (!der_take(&tbs, DER_INTEGER, &c->serial) || !der_take(&tbs, DER_SEQUENCE, &field) ||
      !der_next(&tbs, &tag, NULL, &c->issuer) || tag != DER_SEQUENCE ||
      !der_take(&tbs, DER_SEQUENCE, &validity) ||
      !der_next(&validity, &c->not_before_tag, &c->not_before, NULL) ||
      !der_next(&validity, &c->not_after_tag, &c->not_after, NULL) ||
      !der_next(&tbs, &tag, NULL, &c->subject) || tag != DER_SEQUENCE ||
      !der_next(&tbs, &tag, NULL, &c->spki) || tag != DER_SEQUENCE)
    return false;
  der_take(&tbs, DER_CONTEXT | 1, &field); /* issuerUniqueID, subjectUniqueID */
  der_take(&tbs, DER_CONTEXT | 2, &field);
  if (der_take(&tbs, DER_CONSTRUCTED | 3, &field) && !der_only(field, DER_SEQUENCE, &c->extensions))
    return false;
  return tbs.size == 0 && der_take(&in, DER_SEQUENCE, &field) &&
         der_take(&in, DER_BIT_STRING, &field) && in.size == 0;
}

gnutls_x509_crt_t certificate_push(lua_State *L, const gnutls_datum_t *der) {
  Certificate *c = core_new(L, CERTIFICATE_TYPE, sizeof *c + der->size);
  c->size = der->size;
  memcpy(c->der, der->data, der->size);
  if (!locate(c)) {
    lua_pop(L, 1);
    error_named(L, "bad_der", "the certificate is not well-formed DER");
    return NULL;
  }
  if (names_crowded(c->subject) || names_crowded(c->issuer)) {
    lua_pop(L, 1);
    error_named(L, "too_large", "a name of more than %d parts", NAMES_MAX_ATTRIBUTES);
    return NULL;
  }
  gnutls_datum_t own = {c->der, (unsigned)c->size};
  int rc = gnutls_x509_crt_init(&c->crt);
  if (rc < 0) c->crt = NULL;
  if (rc >= 0) rc = gnutls_x509_crt_import(c->crt, &own, GNUTLS_X509_FMT_DER);
  if (rc < 0) {
    lua_pop(L, 1);
    error_gnutls_as(L, "bad_der", rc);
    return NULL;
  }
  return c->crt;
}

/* Reading ------------------------------------------------------------------------------------- */

static bool is_pem(Bytes text) {
  return text.size > 0 && text.data[0] != DER_SEQUENCE;
}

/* Takes the next CERTIFICATE block. Pushes a certificate; or nil, message, cause and returns -1;
 * or returns 0 at the end of the text, `other` being a block of another kind that was met. */
static int next_certificate(lua_State *L, Bytes *text, Pem *other) {
  Pem pem;
  for (;;) {
    int rc = pem_next(text, &pem);
    if (rc < 0) {
      error_named(L, "bad_pem", "a PEM block has no end line");
      return -1;
    }
    if (rc == 0) return 0;
    if (pem_is(&pem, "CERTIFICATE") || pem_is(&pem, "X509 CERTIFICATE")) break;
    *other = pem;
  }
  gnutls_datum_t *der = pem_decode(L, &pem);
  if (!der) return -1;
  if (!certificate_push(L, der)) return -1;
  lua_remove(L, -2);
  return 1;
}

static int no_certificate(lua_State *L, Bytes text, const Pem *other) {
  luaL_Buffer buffer;
  if (text.size == 0) return error_named(L, "bad_pem", "no certificate: the text is empty");
  if (!other->label.data) return error_named(L, "bad_pem", "no certificate in the text");
  luaL_buffinit(L, &buffer);
  names_escape(&buffer, other->label, "");
  luaL_pushresult(&buffer);
  return error_named(L, "bad_pem", "no certificate in the text, but a %s", lua_tostring(L, -1));
}

static int push_der(lua_State *L, Bytes text) {
  gnutls_datum_t der = {(unsigned char *)text.data, (unsigned)text.size};
  return certificate_push(L, &der) ? 1 : 3;
}

/* certificate(text) -> the first certificate in PEM text, or the one in DER. */
static int certificate_read(lua_State *L) {
  Bytes text = x509_checkbytes(L, 1), rest = text;
  Pem other = {0};
  if (text.size > 0 && !is_pem(text)) return push_der(L, text);
  int rc = next_certificate(L, &rest, &other);
  if (rc == 0) return no_certificate(L, text, &other);
  return rc > 0 ? 1 : 3;
}

/* certificates(text) -> a list of all certificates in PEM text, or of the one in DER. */
static int certificate_list(lua_State *L) {
  Bytes text = x509_checkbytes(L, 1), rest = text;
  Pem other = {0};
  int count = 0, rc;
  lua_settop(L, 1);
  lua_newtable(L);
  if (text.size > 0 && !is_pem(text)) {
    if (push_der(L, text) != 1) return 3;
    lua_rawseti(L, 2, 1);
    return 1;
  }
  while ((rc = next_certificate(L, &rest, &other)) > 0)
    lua_rawseti(L, 2, ++count);
  if (rc < 0) {
    /* Which one it was is worth more than the list before it. */
    lua_pushinteger(L, count + 1);
    lua_setfield(L, -2, "certificate");
    return 3;
  }
  if (count == 0) return no_certificate(L, text, &other);
  return 1;
}

/* Methods ------------------------------------------------------------------------------------- */

static int certificate_subject(lua_State *L) {
  return names_result(L, 2, check(L, 1)->subject);
}

static int certificate_issuer(lua_State *L) {
  return names_result(L, 2, check(L, 1)->issuer);
}

static int certificate_serial(lua_State *L) {
  der_pushinteger(L, check(L, 1)->serial);
  return 1;
}

static int certificate_version(lua_State *L) {
  lua_pushinteger(L, check(L, 1)->version);
  return 1;
}

static int push_time(lua_State *L, unsigned tag, Bytes content) {
  double seconds;
  if (!der_time(tag, content, &seconds)) return error_named(L, "bad_der", "the date is broken");
  der_pushtime(L, seconds);
  return 1;
}

static int certificate_not_before(lua_State *L) {
  Certificate *c = check(L, 1);
  return push_time(L, c->not_before_tag, c->not_before);
}

static int certificate_not_after(lua_State *L) {
  Certificate *c = check(L, 1);
  return push_time(L, c->not_after_tag, c->not_after);
}

static int certificate_names(lua_State *L) {
  return names_alternative(L, 2, check(L, 1)->extensions);
}

static int certificate_key(lua_State *L) {
  return publickey_push(L, check(L, 1)->spki);
}

static int certificate_pin(lua_State *L) {
  return publickey_pin(L, check(L, 1)->spki);
}

static int certificate_signature(lua_State *L) {
  int rc = gnutls_x509_crt_get_signature_algorithm(check(L, 1)->crt);
  publickey_pushsignature(L, rc < 0 ? GNUTLS_SIGN_UNKNOWN : (gnutls_sign_algorithm_t)rc);
  return 2;
}

static int certificate_fingerprint(lua_State *L) {
  Certificate *c = check(L, 1);
  return publickey_fingerprint(L, 2, (Bytes){c->der, c->size});
}

static int certificate_extensions(lua_State *L) {
  return extensions_push(L, check(L, 1)->extensions);
}

static int certificate_pem(lua_State *L) {
  Certificate *c = check(L, 1);
  pem_push(L, "CERTIFICATE", (Bytes){c->der, c->size});
  return 1;
}

static int certificate_der(lua_State *L) {
  Certificate *c = check(L, 1);
  der_pushbytes(L, (Bytes){c->der, c->size});
  return 1;
}

static int certificate_eq(lua_State *L) {
  Certificate *a = luaL_testudata(L, 1, CERTIFICATE_TYPE);
  Certificate *b = luaL_testudata(L, 2, CERTIFICATE_TYPE);
  lua_pushboolean(L, a && b && a->size == b->size && memcmp(a->der, b->der, a->size) == 0);
  return 1;
}

/* Adds at most `limit` bytes of the string on top of the stack, which is popped. */
static void add_cut(lua_State *L, int line, size_t limit) {
  size_t size;
  const char *text = lua_tolstring(L, -1, &size);
  if (!text) text = "?", size = 1;
  if (size > limit) {
    while (limit > 0 && ((unsigned char)text[limit] & 0xc0) == 0x80)
      limit--; /* no half character */
    lua_pushlstring(L, text, limit);
    lua_pushliteral(L, "...");
    lua_concat(L, 2);
    lua_remove(L, -2);
  }
  lua_pushvalue(L, line);
  lua_insert(L, -2);
  lua_concat(L, 2);
  lua_replace(L, line);
}

static void add(lua_State *L, int line, const char *text) {
  lua_pushstring(L, text);
  add_cut(L, line, strlen(text));
}

static void add_name(lua_State *L, int line, Bytes name) {
  Bytes content;
  if (!der_take(&name, DER_SEQUENCE, &content) || !names_pushtext(L, content)) {
    lua_pushnil(L);
    lua_replace(L, -2);
  }
  add_cut(L, line, 120);
}

static void add_names(lua_State *L, int line, Bytes extensions) {
  enum { SHOWN = 3 };
  int list = lua_gettop(L) + 1;
  if (names_alternative(L, list, extensions) == 1) {
    int count = (int)lua_rawlen(L, list);
    for (int i = 1; i <= count && i <= SHOWN; i++) {
      add(L, line, i == 1 ? " for " : ", ");
      lua_rawgeti(L, list, i);
      lua_getfield(L, -1, "text");
      lua_remove(L, -2);
      add_cut(L, line, 80);
    }
    if (count > SHOWN) {
      lua_pushfstring(L, " and %d more", count - SHOWN);
      add_cut(L, line, 40);
    }
  }
  lua_settop(L, list - 1);
}

/* The date as DER writes it: YYMMDD... or YYYYMMDD... */
static void add_date(lua_State *L, int line, unsigned tag, Bytes content) {
  const char *p = (const char *)content.data;
  char date[32];
  double seconds;
  if (!der_time(tag, content, &seconds)) return;
  if (tag == DER_UTC_TIME)
    snprintf(date, sizeof date, ", until %s%.2s-%.2s-%.2s", p[0] < '5' ? "20" : "19", p, p + 2,
             p + 4);
  else
    snprintf(date, sizeof date, ", until %.4s-%.2s-%.2s", p, p + 4, p + 6);
  add(L, line, date);
}

/* One line: "certificate CN=a.test for a.test, 192.0.2.1, by CN=Test CA, until 2030-01-01, p256".
 */
static int certificate_tostring(lua_State *L) {
  Certificate *c = luaL_checkudata(L, 1, CERTIFICATE_TYPE);
  int bits;
  const char *curve;
  lua_settop(L, 1);
  lua_pushliteral(L, "certificate");
  if (!c->crt) return 1;
  if (c->subject.size > 2) {
    add(L, 2, " ");
    add_name(L, 2, c->subject);
  }
  add_names(L, 2, c->extensions);
  add(L, 2, ", by ");
  add_name(L, 2, c->issuer);
  add_date(L, 2, c->not_after_tag, c->not_after);
  const char *type = publickey_type(c->spki, &bits, &curve);
  add(L, 2, ", ");
  if (curve || strncmp(type, "ed", 2) == 0) {
    add(L, 2, curve ? curve : type);
  } else {
    lua_pushfstring(L, "%s %d", type, bits);
    add_cut(L, 2, 40);
  }
  return 1;
}

static const luaL_Reg methods[] = {
    {"subject", certificate_subject},
    {"issuer", certificate_issuer},
    {"serial", certificate_serial},
    {"version", certificate_version},
    {"not_before", certificate_not_before},
    {"not_after", certificate_not_after},
    {"names", certificate_names},
    {"key", certificate_key},
    {"pin", certificate_pin},
    {"signature", certificate_signature},
    {"fingerprint", certificate_fingerprint},
    {"extensions", certificate_extensions},
    {"pem", certificate_pem},
    {"der", certificate_der},
    {NULL, NULL},
};
static const luaL_Reg meta[] = {
    {"__gc", certificate_gc},
    {"__eq", certificate_eq},
    {"__tostring", certificate_tostring},
    {NULL, NULL},
};
static const luaL_Reg functions[] = {
    {"certificate", certificate_read},
    {"certificates", certificate_list},
    {NULL, NULL},
};

void certificate_open(lua_State *L) {
  core_type(L, CERTIFICATE_TYPE, methods, meta);
  luaL_setfuncs(L, functions, 0);
  names_open(L);
  publickey_open(L);
  extensions_open(L);
  request_open(L);
}

/* Revocation that is asked for: what a certificate says of whom to ask, what the question is made
 * of, and what an answer is worth. Lua fetches (lua/tlsconnect/trust/revocation.lua); every answer
 * is judged here, as a stapled one is. */
#include "trust.h"

#include <gnutls/pkcs7.h>

#define OID(bytes) bytes, sizeof(bytes) - 1

enum { MAX_PLACES = 8 }; /* of one kind, of one certificate */

/* The certificate in argument `index`, which stays there as long as the view is used. */
static void check_view(lua_State *L, int index, View *view) {
  view_read(view, x509_checkbytes(L, index));
  luaL_argcheck(L, !view_has(view, FAULT_MALFORMED), index, "a certificate (DER) expected");
}

/* Adds a URL to the list on top. */
static void add_place(lua_State *L, unsigned kind, Bytes place) {
  size_t count = lua_rawlen(L, -1);
  if (kind != NAME_URI || place.size == 0 || place.size > 2048 || count >= MAX_PLACES) return;
  der_pushbytes(L, place);
  lua_rawseti(L, -2, (int)count + 1);
}

/* The URLs of one kind of authority information access (RFC 5280 4.2.2.1), as a list. */
static void push_access(lua_State *L, const View *view, const char *method, size_t size) {
  Bytes list = view->access, access, oid, place;
  unsigned kind;
  lua_newtable(L);
  while (list.size) {
    if (!der_take(&list, DER_SEQUENCE, &access) || !der_take(&access, DER_OID, &oid) ||
        !general_name_next(&access, &kind, &place))
      return;
    if (der_is(oid, method, size)) add_place(L, kind, place);
  }
}

/* The URLs of the revocation lists that speak of all reasons and come from the issuer itself (RFC
 * 5280 4.2.1.13): no other list can say that a certificate is good. */
static void push_points(lua_State *L, const View *view) {
  Bytes points = view->points, list, entry, name, full, place;
  bool present;
  unsigned kind;
  lua_newtable(L);
  if (!points.data || !der_take(&points, DER_SEQUENCE, &list)) return;
  while (list.size && der_take(&list, DER_SEQUENCE, &entry)) {
    if (!der_optional(&entry, DER_CONSTRUCTED | 0, &name, &present) || !present) continue;
    if (entry.size || !der_take(&name, DER_CONSTRUCTED | 0, &full)) continue;
    while (full.size && general_name_next(&full, &kind, &place))
      add_place(L, kind, place);
  }
}

/* inquiry(subject, issuer): two certificates, DER. {ocsp={URL, ...}, crl={URL, ...}, subject=,
 * issuer=, issuer_name=, issuer_key=, serial=}: subject and issuer as people call them; the last
 * three are what RFC 6960's CertID is made of (the name whole, the other two as content). */
static int inquiry(lua_State *L) {
  View subject, issuer;
  check_view(L, 1, &subject);
  check_view(L, 2, &issuer);
  lua_createtable(L, 0, 7);
  judgement_set_name(L, "subject", subject.subject);
  judgement_set_name(L, "issuer", subject.issuer);
  push_access(L, &subject, OID("\x2b\x06\x01\x05\x05\x07\x30\x01"));
  lua_setfield(L, -2, "ocsp");
  push_points(L, &subject);
  lua_setfield(L, -2, "crl");
  der_pushbytes(L, subject.issuer);
  lua_setfield(L, -2, "issuer_name");
  der_pushbytes(L, issuer.key);
  lua_setfield(L, -2, "issuer_key");
  der_pushbytes(L, subject.serial);
  lua_setfield(L, -2, "serial");
  return 1;
}

/* issuer_places(certificate): the URLs that its issuer's certificate can be had from. */
static int issuer_places(lua_State *L) {
  View view;
  view_read(&view, x509_checkbytes(L, 1));
  push_access(L, &view, OID("\x2b\x06\x01\x05\x05\x07\x30\x02"));
  return 1;
}

static int push_found(lua_State *L, const Revocation *found) {
  static const char *const answers[] = {"unknown", "yes", "no"};
  lua_createtable(L, 0, 6);
  lua_pushstring(L, answers[found->answer]);
  lua_setfield(L, -2, "answer");
  lua_pushstring(L, found->code ? found->code : "good");
  lua_setfield(L, -2, "code");
  if (found->answer == REVOCATION_REVOKED) {
    der_pushtime(L, found->revoked_at);
    lua_setfield(L, -2, "at");
  }
  if (found->reason >= 0) {
    lua_pushinteger(L, found->reason);
    lua_setfield(L, -2, "reason_code");
  }
  if (found->this_update) {
    der_pushtime(L, found->this_update);
    lua_setfield(L, -2, "this_update");
  }
  if (found->next_update) {
    der_pushtime(L, found->next_update);
    lua_setfield(L, -2, "next_update");
  }
  return 1;
}

/* ocsp_answer(response, subject, issuer, time): {answer="yes"|"no"|"unknown", code=, at=,
 * reason_code=, this_update=, next_update=}, as a staple is judged. */
static int ocsp_answer(lua_State *L) {
  View subject, issuer;
  Revocation found;
  Bytes response = x509_checkbytes(L, 1);
  check_view(L, 2, &subject);
  check_view(L, 3, &issuer);
  revocation_ocsp(response, &subject, &issuer, luaL_checknumber(L, 4), &found);
  return push_found(L, &found);
}

/* crl_answer(list, subject, issuer, time, strict): the same of a revocation list (DER); nil when it
 * is another issuer's. */
static int crl_answer(lua_State *L) {
  View subject, issuer;
  Revocation found;
  Bytes list = x509_checkbytes(L, 1);
  check_view(L, 2, &subject);
  check_view(L, 3, &issuer);
  double time = luaL_checknumber(L, 4);
  if (!revocation_crl(list, &subject, &issuer, time, lua_toboolean(L, 5), &found)) return 0;
  return push_found(L, &found);
}

/* What GnuTLS holds of a PKCS #7 file while Lua may raise. */
#define PKCS7_TYPE "tlsconnect.pkcs7"

typedef struct {
  gnutls_pkcs7_t file;
  gnutls_datum_t entry;
} Pkcs7;

static int pkcs7_gc(lua_State *L) {
  Pkcs7 *pkcs7 = lua_touserdata(L, 1);
  if (pkcs7->file) gnutls_pkcs7_deinit(pkcs7->file);
  gnutls_free(pkcs7->entry.data);
  pkcs7->file = NULL;
  pkcs7->entry.data = NULL;
  return 0;
}

/* pkcs7_certificates(bytes): the certificates (DER) of a "certs-only" file, RFC 5272; none when it
 * is no such file. */
static int pkcs7_certificates(lua_State *L) {
  Bytes bytes = x509_checkbytes(L, 1);
  luaL_argcheck(L, bytes.size <= MAX_CHAIN_BYTES, 1, "too long");
  Pkcs7 *pkcs7 = core_new(L, PKCS7_TYPE, sizeof *pkcs7);
  gnutls_datum_t datum = {(unsigned char *)bytes.data, (unsigned)bytes.size};
  lua_newtable(L);
  if (gnutls_pkcs7_init(&pkcs7->file) < 0) return 1;
  if (gnutls_pkcs7_import(pkcs7->file, &datum, GNUTLS_X509_FMT_DER) < 0) return 1;
  int count = gnutls_pkcs7_get_crt_count(pkcs7->file);
  for (int i = 0; i < count && i < MAX_PLACES; i++) {
    if (gnutls_pkcs7_get_crt_raw2(pkcs7->file, (unsigned)i, &pkcs7->entry) < 0) continue;
    lua_pushlstring(L, (const char *)pkcs7->entry.data, pkcs7->entry.size);
    lua_rawseti(L, -2, (int)lua_rawlen(L, -2) + 1);
    gnutls_free(pkcs7->entry.data);
    pkcs7->entry.data = NULL;
  }
  return 1;
}

static const luaL_Reg no_methods[] = {{NULL, NULL}};
static const luaL_Reg pkcs7_meta[] = {{"__gc", pkcs7_gc}, {NULL, NULL}};
static const luaL_Reg functions[] = {{"inquiry", inquiry},
                                     {"issuer_places", issuer_places},
                                     {"ocsp_answer", ocsp_answer},
                                     {"crl_answer", crl_answer},
                                     {"pkcs7_certificates", pkcs7_certificates},
                                     {NULL, NULL}};

/* Adds its names to the core table, which is on top. */
void inquiry_open(lua_State *L) {
  core_type(L, PKCS7_TYPE, no_methods, pkcs7_meta);
  luaL_setfuncs(L, functions, 0);
}

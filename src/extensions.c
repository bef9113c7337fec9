/* Extensions of certificates, requests and revocation lists (RFC 5280 4.2, 5.2): all by name and
 * OID, as bytes, and the well-known ones as tables. */
#include "x509.h"

#include <string.h>

#define OID(bytes) bytes, sizeof(bytes) - 1

/* Pushes one value and returns true; or returns false, and the caller clears the stack. */
typedef bool (*Decoder)(lua_State *L, Bytes value);

/* The next Extension: SEQUENCE { OID, BOOLEAN DEFAULT FALSE, OCTET STRING }. */
static bool next(Bytes *in, Bytes *oid, bool *critical, Bytes *value) {
  Bytes one, flag;
  *critical = false;
  if (!der_take(in, DER_SEQUENCE, &one) || !der_take(&one, DER_OID, oid)) return false;
  if (der_take(&one, DER_BOOLEAN, &flag)) {
    if (flag.size != 1) return false;
    *critical = flag.data[0] != 0;
  }
  return der_take(&one, DER_OCTET_STRING, value) && one.size == 0;
}

bool extensions_find(Bytes extensions, const char *oid, size_t size, Bytes *value, bool *critical) {
  Bytes found;
  bool flag;
  while (extensions.size > 0 && next(&extensions, &found, &flag, value)) {
    if (!der_is(found, oid, size)) continue;
    if (critical) *critical = flag;
    return true;
  }
  return false;
}

/* Decoders ------------------------------------------------------------------------------------ */

static void set_small(lua_State *L, const char *field, int value) {
  lua_pushinteger(L, value);
  lua_setfield(L, -2, field);
}

/* 4.2.1.9: {ca=, path_length=} */
static bool basic_constraints(lua_State *L, Bytes value) {
  Bytes in, field;
  int length;
  if (!der_only(value, DER_SEQUENCE, &in)) return false;
  lua_createtable(L, 0, 2);
  bool ca = der_take(&in, DER_BOOLEAN, &field) && field.size == 1 && field.data[0] != 0;
  lua_pushboolean(L, ca);
  lua_setfield(L, -2, "ca");
  if (der_take(&in, DER_INTEGER, &field)) {
    if (!der_small(field, &length)) return false;
    set_small(L, "path_length", length);
  }
  return in.size == 0;
}

/* Adds a name to the list on top, and as a field: list[1] == "ca", list.ca == true. */
static void add_member(lua_State *L, const char *name) {
  lua_pushstring(L, name);
  lua_rawseti(L, -2, (int)lua_rawlen(L, -2) + 1);
  lua_pushboolean(L, 1);
  lua_setfield(L, -2, name);
}

/* A BIT STRING as the names of its bits. */
static bool bit_names(lua_State *L, Bytes content, const char *const *names, size_t count) {
  if (content.size == 0 || content.data[0] > 7) return false;
  lua_newtable(L);
  for (size_t i = 0; i < count && i / 8 + 1 < content.size; i++)
    if (names[i] && content.data[1 + i / 8] >> (7 - i % 8) & 1) add_member(L, names[i]);
  return true;
}

/* 4.2.1.3 */
static const char *const usage_names[] = {
    "digital_signature", "content_commitment", "key_encipherment",
    "data_encipherment", "key_agreement",      "certificate_sign",
    "crl_sign",          "encipher_only",      "decipher_only"};
enum { USAGES = sizeof usage_names / sizeof *usage_names };

static bool key_usage(lua_State *L, Bytes value) {
  Bytes content;
  return der_only(value, DER_BIT_STRING, &content) && bit_names(L, content, usage_names, USAGES);
}

/* 4.2.1.12; the short names are those of the option `purposes`. */
static const struct {
  const char *oid, *name;
} purposes[] = {
    {"1.3.6.1.5.5.7.3.1", "server"},
    {"1.3.6.1.5.5.7.3.2", "client"},
    {"1.3.6.1.5.5.7.3.3", "code_signing"},
    {"1.3.6.1.5.5.7.3.4", "email"},
    {"1.3.6.1.5.5.7.3.8", "time_stamping"},
    {"1.3.6.1.5.5.7.3.9", "ocsp_signing"},
    {"2.5.29.37.0", "any"},
};
enum { PURPOSES = sizeof purposes / sizeof *purposes };

static bool extended_key_usage(lua_State *L, Bytes value) {
  Bytes in, oid;
  if (!der_only(value, DER_SEQUENCE, &in)) return false;
  lua_newtable(L);
  while (in.size > 0) {
    if (!der_take(&in, DER_OID, &oid)) return false;
    der_pushoid(L, oid);
    const char *name = lua_tostring(L, -1);
    for (size_t i = 0; i < PURPOSES; i++)
      if (strcmp(purposes[i].oid, name) == 0) name = purposes[i].name;
    lua_insert(L, -2);
    add_member(L, name);
    lua_remove(L, -2);
  }
  return true;
}

static bool alternative_name(lua_State *L, Bytes value) {
  Bytes content;
  return der_only(value, DER_SEQUENCE, &content) && names_pushgeneral(L, content);
}

/* 4.2.2.1: a list of {method="ocsp" or "ca_issuers" or an OID, location=general name} */
static bool information_access(lua_State *L, Bytes value) {
  Bytes in, one, oid, content;
  unsigned tag;
  int count = 0;
  if (!der_only(value, DER_SEQUENCE, &in)) return false;
  lua_newtable(L);
  while (in.size > 0) {
    if (!der_take(&in, DER_SEQUENCE, &one) || !der_take(&one, DER_OID, &oid) ||
        !der_next(&one, &tag, &content, NULL))
      return false;
    lua_createtable(L, 0, 2);
    if (der_is(oid, OID("\x2b\x06\x01\x05\x05\x07\x30\x01")))
      lua_pushliteral(L, "ocsp");
    else if (der_is(oid, OID("\x2b\x06\x01\x05\x05\x07\x30\x02")))
      lua_pushliteral(L, "ca_issuers");
    else
      der_pushoid(L, oid);
    lua_setfield(L, -2, "method");
    if (!names_pushone(L, tag, content, false)) return false;
    lua_setfield(L, -2, "location");
    lua_rawseti(L, -2, ++count);
  }
  return true;
}

/* 4.2.1.13 */
static const char *const reason_names[] = {
    NULL,           "key_compromise",         "ca_compromise",    "affiliation_changed",
    "superseded",   "cessation_of_operation", "certificate_hold", "privilege_withdrawn",
    "aa_compromise"};

/* DistributionPointName: the full names; a name relative to the issuer as its bytes. */
static bool point_name(lua_State *L, Bytes in) {
  Bytes content;
  if (der_take(&in, DER_CONSTRUCTED | 0, &content)) {
    if (!names_pushgeneral(L, content)) return false;
    lua_setfield(L, -2, "names");
  } else if (der_take(&in, DER_CONSTRUCTED | 1, &content)) {
    der_pushbytes(L, content);
    lua_setfield(L, -2, "relative");
  }
  return in.size == 0;
}

/* A list of {names=, reasons=, issuer=} */
static bool distribution_points(lua_State *L, Bytes value) {
  Bytes in, one, field;
  int count = 0;
  if (!der_only(value, DER_SEQUENCE, &in)) return false;
  lua_newtable(L);
  while (in.size > 0) {
    if (!der_take(&in, DER_SEQUENCE, &one)) return false;
    lua_createtable(L, 0, 2);
    if (der_take(&one, DER_CONSTRUCTED | 0, &field) && !point_name(L, field)) return false;
    if (der_take(&one, DER_CONTEXT | 1, &field)) {
      if (!bit_names(L, field, reason_names, sizeof reason_names / sizeof *reason_names))
        return false;
      lua_setfield(L, -2, "reasons");
    }
    if (der_take(&one, DER_CONSTRUCTED | 2, &field)) {
      if (!names_pushgeneral(L, field)) return false;
      lua_setfield(L, -2, "issuer");
    }
    if (one.size > 0) return false;
    lua_rawseti(L, -2, ++count);
  }
  return true;
}

/* 5.2.5: {names=, user_only=, ca_only=, attribute_only=, indirect=, reasons=} */
static bool issuing_distribution_point(lua_State *L, Bytes value) {
  static const char *const flags[] = {NULL, "user_only", "ca_only",
                                      NULL, "indirect",  "attribute_only"};
  Bytes in, field;
  unsigned tag;
  if (!der_only(value, DER_SEQUENCE, &in)) return false;
  lua_newtable(L);
  while (in.size > 0) {
    if (!der_next(&in, &tag, &field, NULL)) return false;
    if (tag == (DER_CONSTRUCTED | 0)) {
      if (!point_name(L, field)) return false;
    } else if (tag == (DER_CONTEXT | 3)) {
      if (!bit_names(L, field, reason_names, sizeof reason_names / sizeof *reason_names))
        return false;
      lua_setfield(L, -2, "reasons");
    } else if (tag > DER_CONTEXT && tag <= (DER_CONTEXT | 5)) {
      lua_pushboolean(L, field.size == 1 && field.data[0] != 0);
      lua_setfield(L, -2, flags[tag & 7]);
    } else {
      return false;
    }
  }
  return true;
}

/* 4.2.1.4: a list of {oid=, cps={...}, notices= (count)} */
static bool certificate_policies(lua_State *L, Bytes value) {
  Bytes in, one, oid, qualifiers, qualifier, kind, text;
  int count = 0;
  if (!der_only(value, DER_SEQUENCE, &in)) return false;
  lua_newtable(L);
  while (in.size > 0) {
    int cps = 0, notices = 0;
    if (!der_take(&in, DER_SEQUENCE, &one) || !der_take(&one, DER_OID, &oid)) return false;
    lua_createtable(L, 0, 3);
    der_pushoid(L, oid);
    lua_setfield(L, -2, "oid");
    lua_newtable(L);
    if (der_take(&one, DER_SEQUENCE, &qualifiers)) {
      while (qualifiers.size > 0) {
        if (!der_take(&qualifiers, DER_SEQUENCE, &qualifier) ||
            !der_take(&qualifier, DER_OID, &kind))
          return false;
        if (der_is(kind, OID("\x2b\x06\x01\x05\x05\x07\x02\x01")) &&
            der_only(qualifier, DER_IA5_STRING, &text)) {
          der_pushbytes(L, text);
          lua_rawseti(L, -2, ++cps);
        } else {
          notices++;
        }
      }
    }
    lua_setfield(L, -2, "cps");
    set_small(L, "notices", notices);
    if (one.size > 0) return false;
    lua_rawseti(L, -2, ++count);
  }
  return true;
}

static bool subtrees(lua_State *L, Bytes in) {
  Bytes one, content;
  unsigned tag;
  int count = 0;
  lua_newtable(L);
  while (in.size > 0) {
    if (!der_take(&in, DER_SEQUENCE, &one) || !der_next(&one, &tag, &content, NULL) ||
        !names_pushone(L, tag, content, true))
      return false;
    lua_rawseti(L, -2, ++count);
  }
  return true;
}

/* 4.2.1.10: {permitted={...}, excluded={...}}, absent ones nil */
static bool name_constraints(lua_State *L, Bytes value) {
  Bytes in, field;
  if (!der_only(value, DER_SEQUENCE, &in)) return false;
  lua_newtable(L);
  if (der_take(&in, DER_CONSTRUCTED | 0, &field)) {
    if (!subtrees(L, field)) return false;
    lua_setfield(L, -2, "permitted");
  }
  if (der_take(&in, DER_CONSTRUCTED | 1, &field)) {
    if (!subtrees(L, field)) return false;
    lua_setfield(L, -2, "excluded");
  }
  return in.size == 0;
}

/* RFC 7633: a list of TLS extension numbers; must_staple when status_request (5) is among them */
static bool tls_feature(lua_State *L, Bytes value) {
  Bytes in, number;
  int feature, count = 0;
  if (!der_only(value, DER_SEQUENCE, &in)) return false;
  lua_newtable(L);
  while (in.size > 0) {
    if (!der_take(&in, DER_INTEGER, &number) || !der_small(number, &feature)) return false;
    lua_pushinteger(L, feature);
    lua_rawseti(L, -2, ++count);
    if (feature == 5) {
      lua_pushboolean(L, 1);
      lua_setfield(L, -2, "must_staple");
    }
  }
  return true;
}

static bool subject_key_id(lua_State *L, Bytes value) {
  Bytes content;
  if (!der_only(value, DER_OCTET_STRING, &content)) return false;
  der_pushhex(L, content);
  return true;
}

/* 4.2.1.1: {key= (hex), issuer={...}, serial= (hex)} */
static bool authority_key_id(lua_State *L, Bytes value) {
  Bytes in, field;
  if (!der_only(value, DER_SEQUENCE, &in)) return false;
  lua_newtable(L);
  if (der_take(&in, DER_CONTEXT | 0, &field)) {
    der_pushhex(L, field);
    lua_setfield(L, -2, "key");
  }
  if (der_take(&in, DER_CONSTRUCTED | 1, &field)) {
    if (!names_pushgeneral(L, field)) return false;
    lua_setfield(L, -2, "issuer");
  }
  if (der_take(&in, DER_CONTEXT | 2, &field)) {
    der_pushinteger(L, field);
    lua_setfield(L, -2, "serial");
  }
  return in.size == 0;
}

/* 4.2.1.11: {require_explicit_policy=, inhibit_policy_mapping=} */
static bool policy_constraints(lua_State *L, Bytes value) {
  Bytes in, field;
  int number;
  if (!der_only(value, DER_SEQUENCE, &in)) return false;
  lua_newtable(L);
  if (der_take(&in, DER_CONTEXT | 0, &field)) {
    if (!der_small(field, &number)) return false;
    set_small(L, "require_explicit_policy", number);
  }
  if (der_take(&in, DER_CONTEXT | 1, &field)) {
    if (!der_small(field, &number)) return false;
    set_small(L, "inhibit_policy_mapping", number);
  }
  return in.size == 0;
}

static bool integer(lua_State *L, Bytes value) {
  Bytes content;
  if (!der_only(value, DER_INTEGER, &content)) return false;
  der_pushinteger(L, content);
  return true;
}

/* RFC 6960 4.2.2.2.1 and RFC 6962 3.1: being there is all they say. */
static bool null(lua_State *L, Bytes value) {
  if (!der_only(value, DER_NULL, NULL)) return false;
  lua_pushboolean(L, 1);
  return true;
}

static const struct {
  const char *oid;
  size_t size;
  const char *name;
  Decoder decode; /* NULL: bytes only */
} known[] = {
    {OID("\x55\x1d\x13"), "basic_constraints", basic_constraints},
    {OID("\x55\x1d\x0f"), "key_usage", key_usage},
    {OID("\x55\x1d\x25"), "extended_key_usage", extended_key_usage},
    {OID("\x55\x1d\x11"), "subject_alternative_name", alternative_name},
    {OID("\x55\x1d\x12"), "issuer_alternative_name", alternative_name},
    {OID("\x55\x1d\x0e"), "subject_key_id", subject_key_id},
    {OID("\x55\x1d\x23"), "authority_key_id", authority_key_id},
    {OID("\x2b\x06\x01\x05\x05\x07\x01\x01"), "authority_information_access", information_access},
    {OID("\x2b\x06\x01\x05\x05\x07\x01\x0b"), "subject_information_access", information_access},
    {OID("\x55\x1d\x1f"), "crl_distribution_points", distribution_points},
    {OID("\x55\x1d\x2e"), "freshest_crl", distribution_points},
    {OID("\x55\x1d\x20"), "certificate_policies", certificate_policies},
    {OID("\x55\x1d\x21"), "policy_mappings", NULL},
    {OID("\x55\x1d\x24"), "policy_constraints", policy_constraints},
    {OID("\x55\x1d\x36"), "inhibit_any_policy", integer},
    {OID("\x55\x1d\x1e"), "name_constraints", name_constraints},
    {OID("\x55\x1d\x09"), "subject_directory_attributes", NULL},
    {OID("\x55\x1d\x10"), "private_key_usage_period", NULL},
    {OID("\x2b\x06\x01\x05\x05\x07\x01\x18"), "tls_feature", tls_feature},
    {OID("\x2b\x06\x01\x05\x05\x07\x30\x01\x05"), "ocsp_no_check", null},
    {OID("\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x02"), "signed_certificate_timestamps", NULL},
    {OID("\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x03"), "certificate_transparency_poison", null},
    {OID("\x60\x86\x48\x01\x86\xf8\x42\x01\x01"), "netscape_certificate_type", NULL},
    {OID("\x60\x86\x48\x01\x86\xf8\x42\x01\x0d"), "netscape_comment", NULL},
    {OID("\x2b\x06\x01\x04\x01\x82\x37\x14\x02"), "microsoft_template_name", NULL},
    {OID("\x2b\x06\x01\x04\x01\x82\x37\x15\x07"), "microsoft_template", NULL},
    {OID("\x55\x1d\x14"), "crl_number", integer},
    {OID("\x55\x1d\x1b"), "delta_crl_indicator", integer},
    {OID("\x55\x1d\x1c"), "issuing_distribution_point", issuing_distribution_point},
};
enum { KNOWN = sizeof known / sizeof *known };

/* Adds {oid=, name=, critical=, raw=, value=} to the list on top, and under its name. A known one
 * that does not decode has no value, and broken = true. */
static void add_extension(lua_State *L, int list, Bytes oid, bool critical, Bytes value) {
  lua_createtable(L, 0, 5);
  int entry = lua_gettop(L);
  der_pushoid(L, oid);
  lua_setfield(L, entry, "oid");
  lua_pushboolean(L, critical);
  lua_setfield(L, entry, "critical");
  der_pushbytes(L, value);
  lua_setfield(L, entry, "raw");
  for (size_t i = 0; i < KNOWN; i++) {
    if (!der_is(oid, known[i].oid, known[i].size)) continue;
    lua_pushstring(L, known[i].name);
    lua_setfield(L, entry, "name");
    if (known[i].decode) {
      bool decoded = known[i].decode(L, value);
      if (decoded)
        lua_setfield(L, entry, "value");
      else
        lua_pushboolean(L, 1), lua_setfield(L, entry, "broken");
    }
    lua_settop(L, entry);
    lua_pushvalue(L, entry);
    lua_setfield(L, list, known[i].name);
  }
  lua_rawseti(L, list, (int)lua_rawlen(L, list) + 1);
}

int extensions_push(lua_State *L, Bytes extensions) {
  Bytes oid, value;
  bool critical;
  luaL_checkstack(L, 24, "an extension");
  lua_newtable(L);
  int list = lua_gettop(L);
  while (extensions.size > 0) {
    if (!next(&extensions, &oid, &critical, &value))
      return error_named(L, "bad_der", "the extensions are broken");
    add_extension(L, list, oid, critical, value);
  }
  return 1;
}

/* For the writer of certificates: core.extension_oids and core.purposes, name to OID;
 * core.key_usages, name to bit. */
void extensions_open(lua_State *L) {
  lua_newtable(L);
  for (size_t i = 0; i < KNOWN; i++) {
    der_pushoid(L, (Bytes){(const unsigned char *)known[i].oid, known[i].size});
    lua_setfield(L, -2, known[i].name);
  }
  lua_setfield(L, -2, "extension_oids");
  lua_newtable(L);
  for (size_t i = 0; i < PURPOSES; i++) {
    lua_pushstring(L, purposes[i].oid);
    lua_setfield(L, -2, purposes[i].name);
  }
  lua_setfield(L, -2, "purposes");
  lua_newtable(L);
  for (int i = 0; i < USAGES; i++) {
    lua_pushinteger(L, i);
    lua_setfield(L, -2, usage_names[i]);
  }
  lua_setfield(L, -2, "key_usages");
}

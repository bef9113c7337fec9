/* Distinguished names (RFC 5280 4.1.2.4) and general names (4.2.1.6), as bytes for programs and as
 * escaped text for people. Text is made from bytes and never read back. */
#include "x509.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

/* Short names of attribute types: RFC 4519 and the IANA registry "LDAP Parameters"; below them
 * those of X.520, PKCS #9 and the CA/Browser Forum as OpenSSL spells them. */
static const struct {
  const char *oid, *name;
} attributes[] = {
    {"2.5.4.3", "CN"},
    {"2.5.4.6", "C"},
    {"2.5.4.7", "L"},
    {"2.5.4.8", "ST"},
    {"2.5.4.9", "STREET"},
    {"2.5.4.10", "O"},
    {"2.5.4.11", "OU"},
    {"0.9.2342.19200300.100.1.25", "DC"},
    {"0.9.2342.19200300.100.1.1", "UID"},
    {"2.5.4.4", "SN"},
    {"2.5.4.5", "serialNumber"},
    {"2.5.4.12", "title"},
    {"2.5.4.13", "description"},
    {"2.5.4.15", "businessCategory"},
    {"2.5.4.17", "postalCode"},
    {"2.5.4.20", "telephoneNumber"},
    {"2.5.4.41", "name"},
    {"2.5.4.42", "GN"},
    {"2.5.4.43", "initials"},
    {"2.5.4.44", "generationQualifier"},
    {"2.5.4.46", "dnQualifier"},
    {"2.5.4.65", "pseudonym"},
    {"2.5.4.97", "organizationIdentifier"},
    {"1.2.840.113549.1.9.1", "emailAddress"},
    {"1.2.840.113549.1.9.2", "unstructuredName"},
    {"1.3.6.1.4.1.311.60.2.1.1", "jurisdictionL"},
    {"1.3.6.1.4.1.311.60.2.1.2", "jurisdictionST"},
    {"1.3.6.1.4.1.311.60.2.1.3", "jurisdictionC"},
};

static const char *attribute_name(const char *oid) {
  for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++)
    if (strcmp(attributes[i].oid, oid) == 0) return attributes[i].name;
  return NULL;
}

/* Length of the UTF-8 sequence at `p` (RFC 3629), 0 when it is none. */
static size_t utf8(const unsigned char *p, size_t left, uint32_t *point) {
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  if (p[0] < 0x80) {
    *point = p[0];
    return 1;
  }
  size_t size = p[0] >> 5 == 6 ? 2 : p[0] >> 4 == 14 ? 3 : p[0] >> 3 == 30 ? 4 : 0;
  if (size == 0 || size > left) return 0;
  uint32_t value = p[0] & (0x7f >> size);
  for (size_t i = 1; i < size; i++) {
    if (p[i] >> 6 != 2) return 0;
    value = value << 6 | (p[i] & 0x3f);
  }
  if (value < least[size] || value > 0x10ffff || value >> 11 == 0x1b) return 0;
  *point = value;
  return size;
}

/* Characters that change how the text around them is shown, or cannot be seen. */
static bool deceives(uint32_t point) {
  return point < 0x20 || (point >= 0x7f && point < 0xa0) || point == 0xad || point == 0x61c ||
         (point >= 0x200b && point <= 0x200f) || (point >= 0x2028 && point <= 0x202e) ||
         (point >= 0x2060 && point <= 0x206f) || point == 0xfeff ||
         (point >= 0xfff9 && point <= 0xfffb) || (point >= 0xe0000 && point <= 0xe0fff);
}

void names_escape(luaL_Buffer *buffer, Bytes text, const char *special) {
  static const char hex[] = "0123456789ABCDEF";
  for (size_t i = 0; i < text.size;) {
    uint32_t point;
    size_t size = utf8(text.data + i, text.size - i, &point);
    if (size == 0 || deceives(point)) {
      for (size_t end = i + (size ? size : 1); i < end; i++) {
        luaL_addchar(buffer, '\\');
        luaL_addchar(buffer, hex[text.data[i] >> 4]);
        luaL_addchar(buffer, hex[text.data[i] & 15]);
      }
      continue;
    }
    if (size == 1 && strchr(special, (int)point)) luaL_addchar(buffer, '\\');
    luaL_addlstring(buffer, (const char *)text.data + i, size);
    i += size;
  }
}

/* Distinguished names ------------------------------------------------------------------------- */

static void add_utf8(luaL_Buffer *buffer, uint32_t point) {
  if (point > 0x10ffff || point >> 11 == 0x1b) point = 0xfffd;
  if (point < 0x80) {
    luaL_addchar(buffer, (char)point);
  } else if (point < 0x800) {
    luaL_addchar(buffer, (char)(0xc0 | point >> 6));
    luaL_addchar(buffer, (char)(0x80 | (point & 0x3f)));
  } else if (point < 0x10000) {
    luaL_addchar(buffer, (char)(0xe0 | point >> 12));
    luaL_addchar(buffer, (char)(0x80 | (point >> 6 & 0x3f)));
    luaL_addchar(buffer, (char)(0x80 | (point & 0x3f)));
  } else {
    luaL_addchar(buffer, (char)(0xf0 | point >> 18));
    luaL_addchar(buffer, (char)(0x80 | (point >> 12 & 0x3f)));
    luaL_addchar(buffer, (char)(0x80 | (point >> 6 & 0x3f)));
    luaL_addchar(buffer, (char)(0x80 | (point & 0x3f)));
  }
}

/* Pushes a DirectoryString, or another string type, as UTF-8; false and nothing when it is no
 * string. T.61 is read as Latin-1, which is what its writers meant. */
static bool push_string(lua_State *L, unsigned tag, Bytes content) {
  size_t width = tag == DER_BMP_STRING ? 2 : tag == DER_UNIVERSAL_STRING ? 4 : 1;
  luaL_Buffer buffer;
  switch (tag) {
  case DER_UTF8_STRING:
  case DER_PRINTABLE_STRING:
  case DER_IA5_STRING:
  case DER_VISIBLE_STRING:
  case DER_NUMERIC_STRING:
    der_pushbytes(L, content);
    return true;
  case DER_T61_STRING:
  case DER_BMP_STRING:
  case DER_UNIVERSAL_STRING:
    if (content.size % width != 0) return false;
    luaL_buffinit(L, &buffer);
    for (size_t i = 0; i < content.size; i += width) {
      uint32_t point = 0;
      for (size_t j = 0; j < width; j++)
        point = point << 8 | content.data[i + j];
      add_utf8(&buffer, point);
    }
    luaL_pushresult(&buffer);
    return true;
  default:
    return false;
  }
}

/* AttributeTypeAndValue, the content of its SEQUENCE. */
static bool attribute(Bytes in, Bytes *oid, unsigned *tag, Bytes *content, Bytes *whole) {
  return der_take(&in, DER_OID, oid) && oid->size > 0 && der_next(&in, tag, content, whole) &&
         in.size == 0;
}

/* Pushes "CN=a\, b". RFC 4514 2.4: a value that is no string, or of a type without a short name,
 * is "#" and its BER in hex. */
static bool push_attribute(lua_State *L, Bytes in) {
  Bytes oid, content, whole;
  unsigned tag;
  luaL_Buffer buffer;
  if (!attribute(in, &oid, &tag, &content, &whole)) return false;
  der_pushoid(L, oid);
  const char *name = attribute_name(lua_tostring(L, -1));
  if (!name || !push_string(L, tag, content)) {
    if (name) {
      lua_pop(L, 1);
      lua_pushstring(L, name);
    }
    lua_pushliteral(L, "=#");
    der_pushhex(L, whole);
    lua_concat(L, 3);
    return true;
  }
  Bytes text;
  text.data = (const unsigned char *)lua_tolstring(L, -1, &text.size);
  luaL_buffinit(L, &buffer);
  luaL_addstring(&buffer, name);
  luaL_addchar(&buffer, '=');
  /* A space at either end, and "#" in front, would be lost or misread. */
  if (text.size > 0 && (text.data[0] == ' ' || text.data[0] == '#')) {
    luaL_addchar(&buffer, '\\');
    luaL_addchar(&buffer, (char)text.data[0]);
    text.data++;
    text.size--;
  }
  bool space = text.size > 0 && text.data[text.size - 1] == ' ';
  if (space) text.size--;
  names_escape(&buffer, text, "\"+,;<>\\");
  if (space) luaL_addstring(&buffer, "\\ ");
  luaL_pushresult(&buffer);
  lua_replace(L, -3);
  lua_pop(L, 1);
  return true;
}

/* Pushes the pieces of one RelativeDistinguishedName joined with "+". */
static bool push_rdn(lua_State *L, Bytes in) {
  Bytes one;
  if (in.size == 0) return false;
  for (bool first = true; in.size > 0; first = false) {
    if (!der_take(&in, DER_SEQUENCE, &one)) return false;
    if (!first) lua_pushliteral(L, "+");
    if (!push_attribute(L, one)) return false;
    if (!first) lua_concat(L, 3);
  }
  return true;
}

/* RFC 4514 2.1: the last RDN comes first. They are counted, then put in their places from the end.
 */
bool names_pushtext(lua_State *L, Bytes name) {
  int top = lua_gettop(L);
  size_t count = 0;
  luaL_Buffer buffer;
  Bytes in = name, rdn;
  luaL_checkstack(L, 12, "a name");
  while (in.size > 0) {
    if (!der_take(&in, DER_SET, &rdn)) goto broken;
    count++;
  }
  lua_createtable(L, (int)count, 0);
  in = name;
  for (size_t i = count; i > 0; i--) {
    if (!der_take(&in, DER_SET, &rdn) || !push_rdn(L, rdn)) goto broken;
    lua_rawseti(L, top + 1, (int)i);
  }
  luaL_buffinit(L, &buffer);
  for (size_t i = 1; i <= count; i++) {
    if (i > 1) luaL_addchar(&buffer, ',');
    lua_rawgeti(L, top + 1, (int)i);
    luaL_addvalue(&buffer);
  }
  luaL_pushresult(&buffer);
  lua_replace(L, top + 1);
  return true;
broken:
  lua_settop(L, top);
  lua_pushnil(L);
  return false;
}

/* In the certificate's order: a list of {name=, oid=, value=, text=}; members of one RDN after its
 * first have joined = true. The first value of each kind is a field too: subject.CN. */
bool names_pushtable(lua_State *L, Bytes name) {
  int top = lua_gettop(L), count = 0;
  Bytes in = name, rdn, one, oid, content, whole;
  unsigned tag;
  luaL_checkstack(L, 12, "a name");
  lua_newtable(L);
  while (in.size > 0) {
    if (!der_take(&in, DER_SET, &rdn) || rdn.size == 0) goto broken;
    for (bool first = true; rdn.size > 0; first = false) {
      if (!der_take(&rdn, DER_SEQUENCE, &one) || !attribute(one, &oid, &tag, &content, &whole))
        goto broken;
      lua_createtable(L, 0, 4);
      der_pushoid(L, oid);
      const char *short_name = attribute_name(lua_tostring(L, -1));
      lua_setfield(L, -2, "oid");
      if (short_name) {
        lua_pushstring(L, short_name);
        lua_setfield(L, -2, "name");
      }
      if (push_string(L, tag, content)) {
        if (short_name) {
          lua_getfield(L, top + 1, short_name);
          if (lua_isnil(L, -1)) {
            lua_pushvalue(L, -2);
            lua_setfield(L, top + 1, short_name);
          }
          lua_pop(L, 1);
        }
        lua_setfield(L, -2, "value");
      } else {
        der_pushbytes(L, whole);
        lua_setfield(L, -2, "der");
      }
      if (!first) {
        lua_pushboolean(L, 1);
        lua_setfield(L, -2, "joined");
      }
      lua_rawseti(L, top + 1, ++count);
    }
  }
  return true;
broken:
  lua_settop(L, top);
  lua_pushnil(L);
  return false;
}

int names_result(lua_State *L, int index, Bytes name) {
  static const char *const forms[] = {"text", "table", "der", NULL};
  Bytes in = name, content = {NULL, 0};
  int form = luaL_checkoption(L, index, "text", forms);
  if (form == 2) {
    der_pushbytes(L, name);
    return 1;
  }
  if (der_take(&in, DER_SEQUENCE, &content) &&
      (form == 1 ? names_pushtable(L, content) : names_pushtext(L, content)))
    return 1;
  return error_named(L, "bad_der", "the distinguished name is broken");
}

bool names_crowded(Bytes name) {
  Bytes in, rdn;
  size_t count = 0;
  if (!der_take(&name, DER_SEQUENCE, &in)) return false;
  while (count <= NAMES_MAX_ATTRIBUTES && der_take(&in, DER_SET, &rdn))
    while (count <= NAMES_MAX_ATTRIBUTES && der_take(&rdn, DER_SEQUENCE, NULL))
      count++;
  return count > NAMES_MAX_ATTRIBUTES;
}

/* General names ------------------------------------------------------------------------------- */

enum { OTHER, EMAIL, DNS, X400, DN, EDI, URI, IP, REGISTERED_ID, KINDS };
static const char *const kinds[] = {"other", "email", "dns", "x400",          "dn",
                                    "edi",   "uri",   "ip",  "registered_id", NULL};

/* Pops a string into a field of the table below it; "text" becomes the same, escaped. */
static void set_string(lua_State *L, const char *field) {
  Bytes value;
  luaL_Buffer buffer;
  value.data = (const unsigned char *)lua_tolstring(L, -1, &value.size);
  luaL_buffinit(L, &buffer);
  names_escape(&buffer, value, "");
  luaL_pushresult(&buffer);
  lua_setfield(L, -3, "text");
  lua_setfield(L, -2, field);
}

/* Length of the mask's run of ones, -1 when others follow. */
static int prefix(const unsigned char *mask, size_t size) {
  int length = 0;
  for (size_t i = 0; i < size * 8; i++) {
    bool one = mask[i / 8] >> (7 - i % 8) & 1;
    if (one && length != (int)i) return -1;
    if (one) length++;
  }
  return length;
}

/* An address as text; with its mask as "10.0.0.0/8", or "/255.0.255.0" when it is no prefix. One of
 * no known length has no value, and its bytes as text in hex. */
static void set_address(lua_State *L, Bytes content, bool range) {
  char text[INET6_ADDRSTRLEN], mask[INET6_ADDRSTRLEN];
  size_t size = range ? content.size / 2 : content.size;
  int family = size == 4 ? AF_INET : AF_INET6;
  der_pushbytes(L, content);
  lua_setfield(L, -2, "raw");
  if ((size != 4 && size != 16) || (range && content.size % 2 != 0)) {
    lua_pushliteral(L, "#");
    der_pushhex(L, content);
    lua_concat(L, 2);
    lua_setfield(L, -2, "text");
    return;
  }
  inet_ntop(family, content.data, text, sizeof text);
  lua_pushstring(L, text);
  if (range) {
    int length = prefix(content.data + size, size);
    inet_ntop(family, content.data + size, mask, sizeof mask);
    if (length >= 0) snprintf(mask, sizeof mask, "%d", length);
    lua_pushfstring(L, "/%s", mask);
    lua_concat(L, 2);
  }
  set_string(L, "value");
}

/* OtherName: {oid=, value= (DER)}; `text` when it holds a string (UPN, SRV, SmtpUTF8Mailbox). */
static void set_other(lua_State *L, Bytes content) {
  Bytes oid, explicit, inner;
  unsigned tag;
  if (!der_take(&content, DER_OID, &oid) || !der_take(&content, DER_CONSTRUCTED, &explicit)) return;
  der_pushoid(L, oid);
  lua_setfield(L, -2, "oid");
  der_pushbytes(L, explicit);
  lua_setfield(L, -2, "value");
  if (der_next(&explicit, &tag, &inner, NULL) && push_string(L, tag, inner))
    set_string(L, "string");
}

bool names_pushone(lua_State *L, unsigned tag, Bytes content, bool ranges) {
  unsigned kind = tag & 0x1f;
  Bytes inner;
  luaL_checkstack(L, 16, "a name");
  if ((tag & 0xc0) != DER_CONTEXT || kind >= KINDS) return false;
  lua_createtable(L, 0, 4);
  lua_pushstring(L, kinds[kind]);
  lua_setfield(L, -2, "type");
  switch (kind) {
  case EMAIL:
  case DNS:
  case URI:
    der_pushbytes(L, content);
    set_string(L, "value");
    break;
  case IP:
    set_address(L, content, ranges);
    break;
  case REGISTERED_ID:
    der_pushoid(L, content);
    set_string(L, "value");
    break;
  case DN:
    if (!der_only(content, DER_SEQUENCE, &inner) || !names_pushtext(L, inner)) {
      lua_pop(L, 1);
      return false;
    }
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "text");
    lua_setfield(L, -2, "value");
    names_pushtable(L, inner);
    lua_setfield(L, -2, "dn");
    der_pushbytes(L, content);
    lua_setfield(L, -2, "raw");
    break;
  case OTHER:
    set_other(L, content);
    break;
  default: /* X400 and EDI: never met; their bytes */
    der_pushbytes(L, content);
    lua_setfield(L, -2, "value");
  }
  return true;
}

bool names_pushgeneral(lua_State *L, Bytes names) {
  int top = lua_gettop(L), count = 0;
  Bytes content;
  unsigned tag;
  lua_newtable(L);
  while (names.size > 0) {
    if (!der_next(&names, &tag, &content, NULL) || !names_pushone(L, tag, content, false)) {
      lua_settop(L, top);
      lua_pushnil(L);
      return false;
    }
    lua_rawseti(L, top + 1, ++count);
  }
  return true;
}

int names_alternative(lua_State *L, int index, Bytes extensions) {
  Bytes value, content;
  int top, count = 0;
  const char *kind = luaL_optstring(L, index, NULL);
  if (kind) luaL_checkoption(L, index, NULL, kinds);
  if (!extensions_find(extensions, "\x55\x1d\x11", 3, &value, NULL)) {
    lua_newtable(L);
    return 1;
  }
  if (!der_only(value, DER_SEQUENCE, &content) || !names_pushgeneral(L, content))
    return error_named(L, "bad_der", "the subject alternative names are broken");
  if (!kind) return 1;
  top = lua_gettop(L);
  lua_newtable(L);
  for (int i = 1;; i++) {
    lua_rawgeti(L, top, i);
    if (lua_isnil(L, -1)) break;
    lua_getfield(L, -1, "type");
    bool wanted = strcmp(lua_tostring(L, -1), kind) == 0;
    lua_getfield(L, -2, "value");
    if (wanted && !lua_isnil(L, -1)) {
      lua_rawseti(L, top + 1, ++count);
      lua_pop(L, 2);
    } else {
      lua_pop(L, 3);
    }
  }
  lua_pop(L, 1);
  return 1;
}

/* address_bytes(text): 4 or 16 bytes, as an iPAddress holds them; nothing when it is no address. */
static int address_bytes(lua_State *L) {
  unsigned char bytes[16];
  Bytes text = x509_checkbytes(L, 1);
  bool cut = strlen((const char *)text.data) != text.size;
  if (!cut && inet_pton(AF_INET, (const char *)text.data, bytes) == 1)
    der_pushbytes(L, (Bytes){bytes, 4});
  else if (!cut && inet_pton(AF_INET6, (const char *)text.data, bytes) == 1)
    der_pushbytes(L, (Bytes){bytes, 16});
  else
    return 0;
  return 1;
}

/* core.attributes: short name to OID, for the writer of names. */
void names_open(lua_State *L) {
  lua_newtable(L);
  for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
    lua_pushstring(L, attributes[i].oid);
    lua_setfield(L, -2, attributes[i].name);
  }
  lua_setfield(L, -2, "attributes");
  lua_pushcfunction(L, address_bytes);
  lua_setfield(L, -2, "address_bytes");
}

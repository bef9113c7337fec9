/* A strict reader of DER (X.690). It reads what a peer sent: no recursion, no allocation, and a
 * stretch of bytes is never left. */
#include "x509.h"

#include <stdio.h>
#include <string.h>

bool der_next(Bytes *in, unsigned *tag, Bytes *content, Bytes *whole) {
  const unsigned char *p = in->data;
  size_t left = in->size;
  if (left < 2 || (p[0] & 0x1f) == 0x1f) return false;
  size_t header = 2, size = p[1];
  if (size & 0x80) {
    size_t octets = size & 0x7f;
    if (octets == 0 || octets > 4 || left < 2 + octets) return false;
    size = 0;
    for (size_t i = 0; i < octets; i++)
      size = size << 8 | p[2 + i];
    if (size < 0x80 || size >> (8 * (octets - 1)) == 0) return false; /* not the shortest form */
    header += octets;
  }
  if (size > left - header) return false;
  if (tag) *tag = p[0];
  if (content) *content = (Bytes){p + header, size};
  if (whole) *whole = (Bytes){p, header + size};
  in->data = p + header + size;
  in->size = left - header - size;
  return true;
}

bool der_take(Bytes *in, unsigned tag, Bytes *content) {
  return in->size > 0 && in->data[0] == tag && der_next(in, NULL, content, NULL);
}

bool der_only(Bytes in, unsigned tag, Bytes *content) {
  return der_take(&in, tag, content) && in.size == 0;
}

bool der_small(Bytes content, int *value) {
  if (content.size == 0 || content.size > 4 || content.data[0] & 0x80) return false;
  if (content.size > 1 && content.data[0] == 0 && !(content.data[1] & 0x80)) return false;
  *value = 0;
  for (size_t i = 0; i < content.size; i++)
    *value = *value << 8 | content.data[i];
  return true;
}

bool der_is(Bytes content, const char *bytes, size_t size) {
  return content.size == size && memcmp(content.data, bytes, size) == 0;
}

bool bytes_equal(Bytes a, Bytes b) {
  return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

unsigned der_peek(const Bytes *in) {
  return in->size ? in->data[0] : 0;
}

bool der_optional(Bytes *in, unsigned tag, Bytes *content, bool *present) {
  *present = der_peek(in) == tag;
  return !*present || der_take(in, tag, content);
}

bool der_boolean(Bytes *in, bool *value) {
  Bytes content;
  bool present;
  *value = false;
  if (!der_optional(in, DER_BOOLEAN, &content, &present)) return false;
  if (!present) return true;
  if (content.size != 1 || (content.data[0] != 0 && content.data[0] != 0xff)) return false;
  *value = content.data[0] != 0;
  return true;
}

bool der_integer(Bytes content) {
  if (content.size == 0) return false;
  if (content.size == 1) return true;
  unsigned char first = content.data[0], second = content.data[1];
  return !(first == 0 && !(second & 0x80)) && !(first == 0xff && (second & 0x80));
}

bool der_bits(Bytes content, Bytes *bytes) {
  if (content.size < 1 || content.data[0] != 0) return false;
  *bytes = (Bytes){content.data + 1, content.size - 1};
  return true;
}

/* Reads `count` digits; -1 when one of them is none. */
static int digits(const unsigned char **p, int count) {
  int value = 0;
  for (; count > 0; count--, (*p)++) {
    if (**p < '0' || **p > '9') return -1;
    value = value * 10 + (**p - '0');
  }
  return value;
}

/* Days from 1970-01-01 to a date of the Gregorian calendar, which DER runs back without end. */
static double days(int year, int month, int day) {
  int y = month <= 2 ? year - 1 : year;
  int era = (y >= 0 ? y : y - 399) / 400;
  int of_era = y - era * 400;
  int of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return era * 146097.0 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

bool der_time(unsigned tag, Bytes content, double *seconds) {
  static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  int century = tag == DER_GENERALIZED_TIME ? 2 : 0;
  const unsigned char *p = content.data;
  if (tag != DER_UTC_TIME && tag != DER_GENERALIZED_TIME) return false;
  /* YYMMDDhhmmssZ; X.680 lets UTCTime omit the seconds, and some old roots do */
  bool brief = tag == DER_UTC_TIME && content.size == 11;
  if (!brief && content.size != (size_t)(13 + century)) return false;
  int year = digits(&p, 2 + century);
  int month = digits(&p, 2), day = digits(&p, 2);
  int hour = digits(&p, 2), minute = digits(&p, 2), second = brief ? 0 : digits(&p, 2);
  if (*p != 'Z' || year < 0 || hour < 0 || hour > 23 || minute < 0 || minute > 59) return false;
  if (month < 1 || month > 12 || second < 0 || second > 60) return false;
  if (tag == DER_UTC_TIME) year += year < 50 ? 2000 : 1900; /* RFC 5280 4.1.2.5.1 */
  bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
  if (day < 1 || day > lengths[month - 1] + (leap && month == 2)) return false;
  *seconds = days(year, month, day) * 86400 + hour * 3600 + minute * 60 + second;
  return true;
}

bool der_take_time(Bytes *in, double *seconds) {
  unsigned tag;
  Bytes content;
  return der_next(in, &tag, &content, NULL) && der_time(tag, content, seconds);
}

void der_pushtime(lua_State *L, double seconds) {
#if LUA_VERSION_NUM >= 503
  lua_pushinteger(L, (lua_Integer)seconds);
#else
  lua_pushnumber(L, seconds);
#endif
}

void der_pushbytes(lua_State *L, Bytes bytes) {
  lua_pushlstring(L, bytes.size ? (const char *)bytes.data : "", bytes.size);
}

static void add_hex(luaL_Buffer *buffer, Bytes bytes) {
  static const char hex[] = "0123456789abcdef";
  for (size_t i = 0; i < bytes.size; i++) {
    luaL_addchar(buffer, hex[bytes.data[i] >> 4]);
    luaL_addchar(buffer, hex[bytes.data[i] & 15]);
  }
}

void der_pushhex(lua_State *L, Bytes bytes) {
  luaL_Buffer buffer;
  luaL_buffinit(L, &buffer);
  add_hex(&buffer, bytes);
  luaL_pushresult(&buffer);
}

void der_pushinteger(lua_State *L, Bytes content) {
  luaL_Buffer buffer;
  luaL_buffinit(L, &buffer);
  if (content.size > 0 && content.data[0] & 0x80) {
    /* Two's complement: every byte after the last one that is not zero keeps its zero. */
    size_t last = content.size;
    while (last > 0 && content.data[last - 1] == 0)
      last--;
    luaL_addchar(&buffer, '-');
    for (size_t i = 0; i < content.size; i++) {
      unsigned char byte = content.data[i];
      byte = (unsigned char)(i + 1 < last ? ~byte : i + 1 == last ? -byte : 0);
      add_hex(&buffer, (Bytes){&byte, 1});
    }
  } else {
    if (content.size > 1 && content.data[0] == 0)
      content = (Bytes){content.data + 1, content.size - 1};
    add_hex(&buffer, content);
  }
  luaL_pushresult(&buffer);
}

/* An arc beyond 64 bits, or a broken one, shows the whole identifier as "#" and its bytes in hex.
 */
void der_pushoid(lua_State *L, Bytes content) {
  char number[48];
  uint64_t arc = 0;
  bool first = true, whole = false;
  int top = lua_gettop(L);
  luaL_Buffer buffer;
  luaL_buffinit(L, &buffer);
  for (size_t i = 0; i < content.size; i++) {
    if (arc >> 57 || (arc == 0 && content.data[i] == 0x80)) {
      whole = false;
      break;
    }
    arc = arc << 7 | (content.data[i] & 0x7f);
    whole = !(content.data[i] & 0x80);
    if (!whole) continue;
    unsigned long long value = arc;
    if (first) {
      unsigned root = arc < 40 ? 0 : arc < 80 ? 1 : 2;
      snprintf(number, sizeof number, "%u.%llu", root, value - 40 * root);
    } else {
      snprintf(number, sizeof number, ".%llu", value);
    }
    luaL_addstring(&buffer, number);
    first = false;
    arc = 0;
  }
  luaL_pushresult(&buffer);
  if (whole) return;
  lua_settop(L, top);
  lua_pushliteral(L, "#");
  der_pushhex(L, content);
  lua_concat(L, 2);
}

Bytes x509_checkbytes(lua_State *L, int index) {
  size_t size;
  luaL_checktype(L, index, LUA_TSTRING);
  const char *data = lua_tolstring(L, index, &size);
  luaL_argcheck(L, size < 1u << 30, index, "too long");
  return (Bytes){(const unsigned char *)data, size};
}

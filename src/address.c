/* IP addresses as text and back, and what kind of address one is. One strict reading for all:
 * four decimal numbers, or RFC 4291's forms with RFC 4007's zone; never inet_aton's short, octal or
 * hexadecimal forms, so that what a filter judged is what is dialled. */
#include "core.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

/* RFC 4007 section 11: text%zone. The system knows a zone by name or by number. */
static bool parse_zone(const char *zone, uint32_t *index) {
  if (!zone[0] || strlen(zone) >= IF_NAMESIZE) return false;
  for (const char *at = zone; *at; at++)
    if (*at <= ' ' || *at > '~' || strchr("%/\\\"[]", *at)) return false;
  if (zone[strspn(zone, "0123456789")] == '\0') {
    unsigned long number = strtoul(zone, NULL, 10);
    *index = (uint32_t)number;
    return number > 0 && number <= UINT32_MAX;
  }
  *index = if_nametoindex(zone);
  return *index != 0;
}

bool address_parse(const char *text, size_t size, uint16_t port, Address *address) {
  char copy[INET6_ADDRSTRLEN + IF_NAMESIZE + 1];
  memset(address, 0, sizeof *address);
  if (size == 0 || size >= sizeof copy || memchr(text, '\0', size)) return false;
  memcpy(copy, text, size);
  copy[size] = '\0';
  if (inet_pton(AF_INET, copy, &address->inet.sin_addr) == 1) {
    address->inet.sin_family = AF_INET;
    address->inet.sin_port = htons(port);
    address->length = sizeof address->inet;
    return true;
  }
  char *zone = strchr(copy, '%');
  if (zone) {
    *zone++ = '\0';
    if (!parse_zone(zone, &address->inet6.sin6_scope_id)) return false;
  }
  if (inet_pton(AF_INET6, copy, &address->inet6.sin6_addr) != 1) return false;
  address->inet6.sin6_family = AF_INET6;
  address->inet6.sin6_port = htons(port);
  address->length = sizeof address->inet6;
  return true;
}

void address_format(const Address *address, char text[ADDRESS_TEXT]) {
  text[0] = '\0';
  if (address->any.sa_family == AF_INET) {
    inet_ntop(AF_INET, &address->inet.sin_addr, text, ADDRESS_TEXT);
  } else if (address->any.sa_family == AF_INET6) {
    inet_ntop(AF_INET6, &address->inet6.sin6_addr, text, ADDRESS_TEXT);
    uint32_t scope = address->inet6.sin6_scope_id;
    char name[IF_NAMESIZE];
    size_t length = strlen(text);
    if (scope && if_indextoname(scope, name))
      snprintf(text + length, ADDRESS_TEXT - length, "%%%s", name);
    else if (scope)
      snprintf(text + length, ADDRESS_TEXT - length, "%%%u", (unsigned)scope);
  }
}

int address_push(lua_State *L, const Address *address) {
  char text[ADDRESS_TEXT];
  switch (address->any.sa_family) {
  case AF_INET:
  case AF_INET6:
    address_format(address, text);
    lua_pushstring(L, text);
    lua_pushinteger(L, ntohs(address->any.sa_family == AF_INET ? address->inet.sin_port
                                                               : address->inet6.sin6_port));
    lua_pushstring(L, address->any.sa_family == AF_INET ? "inet" : "inet6");
    return 3;
  case AF_UNIX: {
    size_t offset = offsetof(struct sockaddr_un, sun_path);
    size_t size = address->length > offset ? address->length - offset : 0;
    lua_pushlstring(L, address->local.sun_path, strnlen(address->local.sun_path, size));
    lua_pushnil(L);
    lua_pushliteral(L, "unix");
    return 3;
  }
  default:
    return error_named(L, "unsupported", "an address of an unknown family");
  }
}

/* literal(text) -> address, family, zone | nothing
 * The address in its canonical form (RFC 5952) without the zone; "inet" or "inet6"; the zone as it
 * was written, if any. Nothing when the text is not an IP address written in full. */
static int address_literal(lua_State *L) {
  size_t size;
  const char *text = luaL_checklstring(L, 1, &size);
  Address address;
  if (!address_parse(text, size, 0, &address)) return 0;
  const char *zone = memchr(text, '%', size);
  address.inet6.sin6_scope_id = 0; /* past the end of an IPv4 address */
  address_push(L, &address);
  lua_remove(L, -2); /* the port */
  if (!zone) return 2;
  lua_pushstring(L, zone + 1);
  return 3;
}

typedef struct {
  unsigned char prefix[16];
  unsigned char bits;
  signed char embedded; /* where an IPv4 address inside decides; -1: nowhere */
  const char *kind;
} Range;

/* IANA's IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890); the first match counts. */
static const Range inet_ranges[] = {
    {{0}, 8, -1, "unspecified"},
    {{10}, 8, -1, "private"},
    {{100, 64}, 10, -1, "shared"}, /* RFC 6598, carriers' NAT */
    {{127}, 8, -1, "loopback"},
    {{169, 254}, 16, -1, "link_local"},
    {{172, 16}, 12, -1, "private"},
    {{192, 0, 0}, 24, -1, "reserved"},
    {{192, 0, 2}, 24, -1, "documentation"},
    {{192, 88, 99}, 24, -1, "reserved"},
    {{192, 168}, 16, -1, "private"},
    {{198, 18}, 15, -1, "benchmark"},
    {{198, 51, 100}, 24, -1, "documentation"},
    {{203, 0, 113}, 24, -1, "documentation"},
    {{224}, 4, -1, "multicast"},
    {{255, 255, 255, 255}, 32, -1, "broadcast"},
    {{240}, 4, -1, "reserved"},
    {{0}, 0, -1, "public"},
};

static const Range inet6_ranges[] = {
    {{0}, 128, -1, "unspecified"},
    {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 128, -1, "loopback"},
    {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, 96, 12, NULL}, /* IPv4-mapped */
    {{0}, 96, -1, "reserved"},                                  /* IPv4-compatible, RFC 4291 */
    {{0, 0x64, 0xff, 0x9b}, 96, 12, NULL},                      /* RFC 6052, NAT64 */
    {{0, 0x64, 0xff, 0x9b, 0, 1}, 48, -1, "private"},           /* RFC 8215, local NAT64 */
    {{0x20, 0x01, 0x0d, 0xb8}, 32, -1, "documentation"},
    {{0x20, 0x01}, 23, -1, "reserved"},      /* Teredo, benchmarking, ORCHID */
    {{0x20, 0x02}, 16, 2, NULL},             /* 6to4 */
    {{0x3f, 0xff}, 20, -1, "documentation"}, /* RFC 9637 */
    {{0x20}, 3, -1, "public"},
    {{0xfc}, 7, -1, "private"},
    {{0xfe, 0x80}, 10, -1, "link_local"},
    {{0xfe, 0xc0}, 10, -1, "private"}, /* site-local, RFC 3879 */
    {{0xff}, 8, -1, "multicast"},
    {{0}, 0, -1, "reserved"},
};

static bool within(const unsigned char *address, const Range *range) {
  size_t whole = range->bits / 8, rest = range->bits % 8;
  if (memcmp(address, range->prefix, whole) != 0) return false;
  return rest == 0 || ((address[whole] ^ range->prefix[whole]) >> (8 - rest)) == 0;
}

static const char *kind_of(const unsigned char *address, const Range *range) {
  while (!within(address, range))
    range++;
  return range->embedded < 0 ? range->kind : kind_of(address + range->embedded, inet_ranges);
}

/* classify(address) -> "public", "private", "loopback", "link_local", "unspecified", "multicast",
 * "broadcast", "shared", "documentation", "benchmark" or "reserved"; nothing when it is no address.
 * An IPv4 address carried inside an IPv6 one (mapped, NAT64, 6to4) decides. */
static int address_classify(lua_State *L) {
  size_t size;
  const char *text = luaL_checklstring(L, 1, &size);
  Address address;
  if (!address_parse(text, size, 0, &address)) return 0;
  lua_pushstring(L, address.any.sa_family == AF_INET
                        ? kind_of((unsigned char *)&address.inet.sin_addr, inet_ranges)
                        : kind_of((unsigned char *)&address.inet6.sin6_addr, inet6_ranges));
  return 1;
}

static const luaL_Reg functions[] = {
    {"literal", address_literal}, {"classify", address_classify}, {NULL, NULL}};

void address_open(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
}

/* Hashes and base64 of plain strings, as HTTP wants them (authorization, digests). */
#include "core.h"

#include <gnutls/crypto.h>
#include <string.h>

typedef struct {
  const char *name;
  gnutls_digest_algorithm_t algorithm;
} Name;

/* The IANA registry "Hash Algorithms for HTTP Digest Authentication", and SHA-1 for WebSocket. */
static const Name algorithms[] = {{"MD5", GNUTLS_DIG_MD5},
                                  {"SHA-1", GNUTLS_DIG_SHA1},
                                  {"SHA-256", GNUTLS_DIG_SHA256},
                                  {"SHA-512", GNUTLS_DIG_SHA512},
                                  {NULL, GNUTLS_DIG_UNKNOWN}};

/* message_digest(name, data): the hash as raw bytes. nil, message, cause where the system's policy
 * has taken the algorithm away (MD5). */
static int digest_digest(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  size_t size;
  const char *data = luaL_checklstring(L, 2, &size);
  const Name *known = algorithms;
  while (known->name && strcmp(known->name, name) != 0)
    known++;
  luaL_argcheck(L, known->name, 1, "MD5, SHA-1, SHA-256 or SHA-512 expected");
  unsigned char hash[64];
  int rc = gnutls_hash_fast(known->algorithm, data, size, hash);
  if (rc < 0) return error_gnutls_as(L, "unsupported", rc);
  lua_pushlstring(L, (const char *)hash, (size_t)gnutls_hash_get_len(known->algorithm));
  return 1;
}

/* base64(data): as one line (RFC 4648 4). */
static int digest_base64(lua_State *L) {
  size_t size;
  const char *data = luaL_checklstring(L, 1, &size);
  gnutls_datum_t *text = core_datum(L);
  gnutls_datum_t input = {(unsigned char *)data, (unsigned)size};
  luaL_argcheck(L, size < 0x10000000, 1, "too long");
  if (size == 0) {
    lua_pushliteral(L, "");
    return 1;
  }
  int rc = gnutls_base64_encode2(&input, text);
  if (rc < 0) return error_gnutls(L, rc);
  lua_pushlstring(L, (const char *)text->data, text->size);
  return 1;
}

void digest_open(lua_State *L) {
  lua_pushcfunction(L, digest_digest);
  lua_setfield(L, -2, "message_digest");
  lua_pushcfunction(L, digest_base64);
  lua_setfield(L, -2, "base64");
}

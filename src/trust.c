/* What Lua sees of trust: a userdata that holds roots. Its judge(), in judgement.c, answers four
 * questions about a chain; lua/tlsconnect/trust.lua writes the sentences and decides what is
 * refused. */
#include "trust.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <string.h>

#define TRUST_TYPE "tlsconnect.trust"

enum { MOST_ALIKE = 16 }; /* roots of one subject name that are looked at */

Trust *trust_check(lua_State *L) {
  Trust *trust = luaL_checkudata(L, 1, TRUST_TYPE);
  if (!trust->store) luaL_error(L, "the trust is closed");
  return trust;
}

/* trust(): no roots at all. */
static int trust_new(lua_State *L) {
  Trust *trust = core_new(L, TRUST_TYPE, sizeof *trust);
  trust->store = store_new();
  return trust->store ? 1 : error_errno(L, ENOMEM);
}

static int trust_gc(lua_State *L) {
  Trust *trust = luaL_checkudata(L, 1, TRUST_TYPE);
  if (trust->busy) return 0;
  store_free(trust->store);
  trust->store = NULL;
  return 0;
}

int trust_added(lua_State *L, const Store *store, long count, const char *path) {
  if (count == -EBADMSG)
    return path ? error_named(L, "bad_pem", "%s: certificate %d in it is broken", path,
                              (int)store_broken(store))
                : error_named(L, "bad_pem", "broken PEM or certificate");
  if (count < 0) {
    int results = error_errno(L, (int)-count);
    if (path) {
      lua_pushstring(L, path);
      lua_setfield(L, -2, "path");
    }
    return results;
  }
  lua_pushinteger(L, (lua_Integer)count);
  return 1;
}

/* file(path, lazy), directory(path), text(PEM or DER, limits), system(): how many certificates were
 * added, or nil, message, cause. limits: name constraints (DER) for these roots. */
static int trust_file(lua_State *L) {
  const char *path = luaL_checkstring(L, 2);
  Store *store = trust_check(L)->store;
  return trust_added(L, store, store_file(store, path, lua_toboolean(L, 3)), path);
}

static int trust_directory(lua_State *L) {
  const char *path = luaL_checkstring(L, 2);
  Store *store = trust_check(L)->store;
  return trust_added(L, store, store_directory(store, path), path);
}

static int trust_text(lua_State *L) {
  Bytes limits = {NULL, 0};
  bool dotted;
  if (!lua_isnoneornil(L, 3)) limits = x509_checkbytes(L, 3);
  luaL_argcheck(L, !limits.data || constraints_valid(limits, &dotted), 3, "no name constraints");
  Trust *trust = trust_check(L);
  /* A finaliser inside a judgement, which looks at the limits that there are. */
  if (limits.data && trust->busy) return luaL_error(L, "the trust is in use");
  return trust_added(L, trust->store, store_text(trust->store, x509_checkbytes(L, 2), limits),
                     NULL);
}

static int trust_system(lua_State *L) {
  Store *store = trust_check(L)->store;
  return trust_added(L, store, store_system(store), NULL);
}

/* refresh(): reads files again that have changed. True, or nil, message, cause. */
static int trust_refresh(lua_State *L) {
  Trust *trust = trust_check(L);
  const char *path = NULL;
  int rc = trust->busy ? 0 : store_refresh(trust->store, &path);
  if (rc < 0) return trust_added(L, trust->store, rc, path);
  lua_pushboolean(L, 1);
  return 1;
}

/* state(): number of certificates, how many of them were read whole, generation. */
static int trust_state(lua_State *L) {
  Store *store = trust_check(L)->store;
  lua_pushinteger(L, (lua_Integer)store_count(store));
  lua_pushinteger(L, (lua_Integer)store_loaded(store));
  lua_pushinteger(L, (lua_Integer)store_generation(store));
  return 3;
}

/* The DER of the i-th root that is asked for, which lives until the store is refreshed. */
static Bytes root_at(lua_State *L, Store *store, size_t i) {
  View *views[MOST_ALIKE];
  if (lua_isnil(L, 2)) return store_at(store, i);
  size_t count = store_find(store, x509_checkbytes(L, 2), views, MOST_ALIKE);
  return i < count ? views[i]->der : (Bytes){NULL, 0};
}

/* Whatever allocates in Lua may run a finaliser, and that refresh this store: each root is copied
 * before, and looked for again after. 0, or -ENOMEM. */
static int push_roots(lua_State *L, Store *store) {
  int kept = 0;
  lua_newtable(L);
  gnutls_datum_t *copy = core_datum(L);
  for (size_t i = 0; i < (lua_isnil(L, 2) ? store_count(store) : MOST_ALIKE); i++) {
    Bytes der = root_at(L, store, i);
    if (!der.data && !lua_isnil(L, 2)) break;
    if (!der.data) continue; /* broken */
    gnutls_free(copy->data);
    copy->data = gnutls_malloc(der.size);
    if (!copy->data) return -ENOMEM;
    memcpy(copy->data, der.data, der.size);
    lua_pushlstring(L, (const char *)copy->data, der.size);
    lua_rawseti(L, 3, ++kept);
  }
  lua_pop(L, 1);
  return 0;
}

/* certificates(subject): the DER of every root, or of those with that subject name (DER), of files
 * as they are now. nil, message, cause when one cannot be read any more. */
static int trust_certificates(lua_State *L) {
  Trust *trust = trust_check(L);
  lua_settop(L, 2);
  for (int tries = 0;; tries++) {
    const char *path = NULL;
    int rc = trust->busy ? 0 : store_refresh(trust->store, &path);
    if (rc < 0) return trust_added(L, trust->store, rc, path);
    unsigned long before = store_generation(trust->store);
    lua_settop(L, 2);
    store_starved(trust->store);
    rc = push_roots(L, trust->store);
    if (store_starved(trust->store)) rc = -ENOMEM;
    if (rc < 0) return trust_added(L, trust->store, rc, NULL);
    bool same = before == store_generation(trust->store) && !store_stale(trust->store);
    if (same || trust->busy || tries == 3) return 1;
  }
}

/* Adds a string and its length to the hash, or its absence. */
static void hash_string(lua_State *L, gnutls_hash_hd_t hash, int index) {
  size_t size = (size_t)-1;
  const char *text = NULL;
  if (lua_type(L, index) == LUA_TSTRING) text = lua_tolstring(L, index, &size);
  gnutls_hash(hash, &size, sizeof size);
  if (text) gnutls_hash(hash, text, size);
}

/* digest(text, list, ...): SHA-256 of strings and lists of strings, each with its length, so that
 * no two different arguments give the same bytes. The key of what was verified a moment ago. */
static int trust_digest(lua_State *L) {
  gnutls_hash_hd_t hash;
  unsigned char digest[32];
  int count = lua_gettop(L);
  luaL_checkstack(L, 4, NULL);
  if (gnutls_hash_init(&hash, GNUTLS_DIG_SHA256) < 0) return luaL_error(L, "not enough memory");
  for (int i = 1; i <= count; i++) {
    if (!lua_istable(L, i)) {
      hash_string(L, hash, i);
      continue;
    }
    size_t length = lua_rawlen(L, i);
    gnutls_hash(hash, &length, sizeof length);
    for (size_t j = 1; j <= length; j++) {
      lua_rawgeti(L, i, (int)j);
      hash_string(L, hash, -1);
      lua_pop(L, 1);
    }
  }
  gnutls_hash_deinit(hash, digest);
  lua_pushlstring(L, (const char *)digest, sizeof digest);
  return 1;
}

/* hash(name, bytes): the raw digest. name: as GnuTLS knows it, "SHA1", "SHA256" ... */
static int trust_hash(lua_State *L) {
  unsigned char digest[64];
  gnutls_digest_algorithm_t algorithm = gnutls_digest_get_id(luaL_checkstring(L, 1));
  size_t size;
  const char *bytes = luaL_checklstring(L, 2, &size);
  unsigned length = gnutls_hash_get_len(algorithm);
  luaL_argcheck(L, length > 0 && length <= sizeof digest, 1, "an unknown hash");
  int rc = gnutls_hash_fast(algorithm, bytes, size, digest);
  if (rc < 0) return error_gnutls(L, rc);
  lua_pushlstring(L, (const char *)digest, length);
  return 1;
}

/* pem_decode(text, label): the DER of every block of that label (text that is DER already is one).
 * nil, message, cause when a block is broken. */
static int trust_decode(lua_State *L) {
  Bytes text = x509_checkbytes(L, 1);
  const char *label = luaL_checkstring(L, 2);
  lua_settop(L, 2);
  lua_newtable(L);
  if (der_peek(&text) == DER_SEQUENCE) {
    lua_pushvalue(L, 1);
    lua_rawseti(L, 3, 1);
    return 1;
  }
  Pem pem;
  int more, count = 0;
  while ((more = pem_next(&text, &pem)) > 0) {
    if (!pem_is(&pem, label)) continue;
    unsigned char *out = lua_newuserdata(L, pem.body.size);
    long got = base64_decode(pem.body, out);
    if (got <= 0) return error_named(L, "bad_pem", "broken PEM in block %d", count + 1);
    lua_pushlstring(L, (const char *)out, (size_t)got);
    lua_rawseti(L, 3, ++count);
    lua_pop(L, 1);
  }
  if (more < 0) return error_named(L, "bad_pem", "a PEM block without an end");
  return 1;
}

/* name_matches(presented, name): one dNSName of a certificate against a host name, RFC 9525. */
static int name_matches(lua_State *L) {
  Bytes presented, name;
  presented.data = (const unsigned char *)luaL_checklstring(L, 1, &presented.size);
  name.data = (const unsigned char *)luaL_checklstring(L, 2, &name.size);
  lua_pushboolean(L, hostname_dns_matches(presented, name));
  return 1;
}

static const luaL_Reg trust_methods[] = {{"file", trust_file},
                                         {"directory", trust_directory},
                                         {"text", trust_text},
                                         {"system", trust_system},
                                         {"refresh", trust_refresh},
                                         {"state", trust_state},
                                         {"certificates", trust_certificates},
                                         {"judge", judgement_judge},
                                         {NULL, NULL}};
static const luaL_Reg trust_meta[] = {{"__gc", trust_gc}, {NULL, NULL}};
static const luaL_Reg functions[] = {{"trust", trust_new},           {"pem_decode", trust_decode},
                                     {"digest", trust_digest},       {"hash", trust_hash},
                                     {"name_matches", name_matches}, {NULL, NULL}};

void trust_open(lua_State *L) {
  core_type(L, TRUST_TYPE, trust_methods, trust_meta);
  judgement_open(L);
  inquiry_open(L);
  luaL_setfuncs(L, functions, 0);
}

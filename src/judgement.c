/* One question about a chain, from Lua's table to the four answers in another. */
#include "trust.h"

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define JUDGEMENT_TYPE "tlsconnect.judgement"

enum { TEXT = 120, LISTED_NAMES = 5 };

/* What one judgement holds, so that a Lua error frees it. */
typedef struct {
  Trust *trust;
  View *chain;
  Path path;
} Judgement;

/* A list of strings in a field: pushes it, returns its length; -1 (nothing pushed): absent. */
static int list_field(lua_State *L, const char *field) {
  lua_getfield(L, 2, field);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    return -1;
  }
  if (!lua_istable(L, -1)) luaL_error(L, "option '%s': table expected", field);
  return (int)lua_rawlen(L, -1);
}

/* Entry i of the list on top; data NULL when it is no string. The list keeps the bytes alive. */
static Bytes list_entry(lua_State *L, int i) {
  Bytes slice = {NULL, 0};
  lua_rawgeti(L, -1, i);
  if (lua_type(L, -1) == LUA_TSTRING)
    slice.data = (const unsigned char *)lua_tolstring(L, -1, &slice.size);
  lua_pop(L, 1);
  return slice;
}

static void release(Judgement *judgement) {
  for (size_t i = 0; judgement->chain && i < judgement->path.count; i++)
    view_free(&judgement->chain[i]);
  free(judgement->chain);
  judgement->chain = NULL;
  path_free(&judgement->path);
  if (judgement->trust) judgement->trust->busy--;
  judgement->trust = NULL;
}

static int judgement_gc(lua_State *L) {
  release(lua_touserdata(L, 1));
  return 0;
}

/* Answers ------------------------------------------------------------------------------------- */

static void set_text(lua_State *L, const char *field, const char *text) {
  lua_pushstring(L, text);
  lua_setfield(L, -2, field);
}

static void set_number(lua_State *L, const char *field, double number) {
  lua_pushnumber(L, (lua_Number)number);
  lua_setfield(L, -2, field);
}

/* {answer=, code=}, on top of the stack. */
static void push_answer(lua_State *L, const char *answer, const char *code) {
  lua_createtable(L, 0, 6);
  set_text(L, "answer", answer);
  if (code) set_text(L, "code", code);
}

/* Pushes bytes that a peer chose as text for people, escaped, and cut when it is long. */
static void push_text(lua_State *L, Bytes bytes) {
  luaL_Buffer buffer;
  luaL_buffinit(L, &buffer);
  bool cut = bytes.size > TEXT;
  if (cut) bytes.size = TEXT;
  names_escape(&buffer, bytes, "");
  if (cut) luaL_addstring(&buffer, "...");
  luaL_pushresult(&buffer);
}

void judgement_set_name(lua_State *L, const char *field, Bytes name) {
  static const char *const types[] = {"\x55\x04\x03", "\x55\x04\x0a", "\x55\x04\x0b"};
  Bytes value = {NULL, 0};
  unsigned tag;
  for (size_t i = 0; i < sizeof types / sizeof *types && value.size == 0; i++)
    if (!name_attribute(name, types[i], 3, &value, &tag)) value.size = 0;
  if (value.size)
    push_text(L, value);
  else
    lua_pushstring(L, name.size > 2 ? "a name without CN, O or OU" : "an empty name");
  lua_setfield(L, -2, field);
}

/* Which certificate the answer is about: its place in the chain, if it was sent, and its names. */
static void set_certificate(lua_State *L, const Judgement *judgement, const View *view) {
  const View *chain = judgement->chain;
  if (view >= chain && view < chain + judgement->path.count) {
    lua_pushinteger(L, (lua_Integer)(view - chain) + 1);
    lua_setfield(L, -2, "certificate");
  }
  judgement_set_name(L, "subject", view->subject);
  judgement_set_name(L, "issuer", view->issuer);
}

static void push_issuer(lua_State *L, const Judgement *judgement) {
  const Path *path = &judgement->path;
  if (path->length) {
    push_answer(L, "yes", NULL);
    set_certificate(L, judgement, path->path[path->length - 1]);
    return;
  }
  Fault fault = path->problem.fault;
  push_answer(L, "no", fault_texts[fault].code);
  set_text(L, "text", fault_texts[fault].text);
  set_certificate(L, judgement, path->problem.view);
  if (fault == FAULT_UNTRUSTED_ROOT) set_text(L, "cause", "root");
  if (fault == FAULT_OTHER_KEY) set_text(L, "cause", "other_key");
  if (fault == FAULT_UNKNOWN_CRITICAL) {
    der_pushoid(L, path->problem.view->unknown);
    lua_setfield(L, -2, "extension");
  }
  if (path->problem.view->key_bits) set_number(L, "bits", path->problem.view->key_bits);
}

static void push_dates(lua_State *L, const Judgement *judgement) {
  const Path *path = &judgement->path;
  size_t count = path->length ? path->length : path->sent_count;
  for (size_t i = 0; i < count; i++) {
    const View *view = path->length ? path->path[i] : path->sent[i];
    bool late = path->time > view->not_after;
    if (view_has(view, FAULT_MALFORMED) || view_has(view, FAULT_BAD_DATES)) {
      push_answer(L, "unknown", "bad_certificate");
      return;
    }
    if (!late && path->time >= view->not_before) continue;
    push_answer(L, "no", late ? "expired" : "not_yet_valid");
    set_certificate(L, judgement, view);
    set_number(L, "at", (double)(late ? view->not_after : view->not_before));
    set_number(L, "now", (double)path->time);
    return;
  }
  push_answer(L, "yes", NULL);
}

/* The first few names of the certificate, for the sentence, and how many there are in all. */
static void set_names(lua_State *L, const View *view) {
  Bytes in = view->names, name;
  unsigned kind;
  int listed = 0;
  lua_Integer total = 0;
  char text[64];
  lua_createtable(L, LISTED_NAMES, 0);
  while (in.size && general_name_next(&in, &kind, &name)) {
    if (kind != NAME_DNS && kind != NAME_IP) continue;
    total++;
    if (listed == LISTED_NAMES) continue;
    if (kind == NAME_DNS)
      push_text(L, name);
    else if (address_text(name, text, sizeof text))
      lua_pushstring(L, text);
    else
      continue;
    lua_rawseti(L, -2, ++listed);
  }
  lua_setfield(L, -2, "names");
  lua_pushinteger(L, total);
  lua_setfield(L, -2, "total");
}

static void push_name(lua_State *L, const Judgement *judgement, const Reference *reference) {
  const View *leaf = &judgement->chain[0];
  if (!reference->dns.data && !reference->address_size) {
    push_answer(L, "unknown", "not_asked");
    return;
  }
  bool matches = !view_has(leaf, FAULT_BAD_NAMES) && !view_has(leaf, FAULT_MALFORMED) &&
                 hostname_matches(leaf, reference);
  push_answer(L, matches ? "yes" : "no", matches ? NULL : "name_mismatch");
  set_certificate(L, judgement, leaf);
  if (!matches) set_names(L, leaf);
}

static void set_revocation(lua_State *L, const Judgement *judgement, const Revocation *found,
                           const char *source, const View *view) {
  static const char *const answers[] = {"unknown", "yes", "no"};
  push_answer(L, answers[found->answer], found->code);
  set_text(L, "source", source);
  set_certificate(L, judgement, view);
  if (found->answer == REVOCATION_REVOKED) set_number(L, "at", (double)found->revoked_at);
  if (found->reason >= 0) set_number(L, "reason_code", (double)found->reason);
  if (found->this_update) set_number(L, "this_update", (double)found->this_update);
  if (found->next_update) set_number(L, "next_update", (double)found->next_update);
}

/* The staple that came with path[i], or data NULL. */
static Bytes staple_of(lua_State *L, const Judgement *judgement, const View *view, int staples) {
  size_t i = 0;
  while (i < judgement->path.count && &judgement->chain[i] != view)
    i++;
  if (staples <= 0 || i == judgement->path.count) return (Bytes){NULL, 0};
  return list_entry(L, (int)i + 1);
}

/* Without a path the question is still answered for the peer's own certificate, if the one that
 * issued it was sent. Returns how many certificates are to be asked about. */
static size_t revocable(const Path *path, View *const **list) {
  *list = path->length ? path->path : path->sent;
  if (path->length) return path->length - 1;
  if (path->sent_count < 2) return 0;
  const View *leaf = path->sent[0], *issuer = path->sent[1];
  return signature_valid(issuer->spki, leaf->algorithm, leaf->tbs, leaf->signature);
}

static void push_revocation(lua_State *L, const Judgement *judgement) {
  const Path *path = &judgement->path;
  View *const *list;
  size_t count = revocable(path, &list);
  const View *leaf = &judgement->chain[0];
  Revocation best = {REVOCATION_UNKNOWN, "no_answer", 0, -1, 0, 0};
  const char *source = "none";
  const View *about = leaf;
  bool given = false, unusable = false;
  int staples = list_field(L, "staples");
  for (size_t i = 0; i < count && best.answer != REVOCATION_REVOKED; i++) {
    Bytes staple = staple_of(L, judgement, list[i], staples);
    if (!staple.data) continue;
    Revocation found;
    revocation_ocsp(staple, list[i], list[i + 1], path->time, &found);
    if (i == 0) given = true;
    if (i == 0 || found.answer == REVOCATION_REVOKED) {
      best = found;
      source = "staple";
      about = list[i];
    }
  }
  if (staples >= 0) lua_pop(L, 1);
  bool stapled = best.answer == REVOCATION_GOOD;
  int crls = list_field(L, "crls");
  for (size_t i = 0; i < count && best.answer != REVOCATION_REVOKED; i++)
    for (int j = 1; j <= crls && best.answer != REVOCATION_REVOKED; j++) {
      Bytes crl = list_entry(L, j);
      Revocation found;
      if (!crl.data || !revocation_crl(crl, list[i], list[i + 1], path->time, path->strict, &found))
        continue;
      /* The user handed this list in to be obeyed: where it can't be used, that is said. */
      bool better = found.answer == REVOCATION_REVOKED ||
                    (i == 0 && (best.answer == REVOCATION_UNKNOWN || stapled));
      if (i == 0) unusable = found.answer == REVOCATION_UNKNOWN && best.answer != REVOCATION_GOOD;
      if (!better || (stapled && found.answer == REVOCATION_UNKNOWN)) continue;
      best = found;
      source = "crl";
      about = list[i];
      stapled = false;
    }
  if (crls >= 0) lua_pop(L, 1);
  set_revocation(L, judgement, &best, source, about);
  lua_pushboolean(L, leaf->must_staple);
  lua_setfield(L, -2, "must_staple");
  lua_pushboolean(L, given);
  lua_setfield(L, -2, "stapled");
  lua_pushboolean(L, unusable);
  lua_setfield(L, -2, "unusable_crl");
}

/* judge ---------------------------------------------------------------------------------------- */

static void read_reference(lua_State *L, Reference *reference) {
  size_t size;
  const char *name = core_optstring(L, 2, "name", &size);
  *reference = (Reference){.address_size = 0};
  if (name) reference->dns = (Bytes){(const unsigned char *)name, size};
  const char *ip = core_optstring(L, 2, "ip", NULL);
  if (!ip) return;
  if (inet_pton(AF_INET, ip, reference->address) == 1)
    reference->address_size = 4;
  else if (inet_pton(AF_INET6, ip, reference->address) == 1)
    reference->address_size = 16;
  else
    luaL_error(L, "option 'ip': an address expected");
}

static void read_terms(lua_State *L, Path *path) {
  const char *purpose = core_optstring(L, 2, "purpose", NULL);
  double time = core_optnumber(L, 2, "time", 0);
  double depth = core_optnumber(L, 2, "max_depth", MAX_DEPTH);
  if (!(time > -1e15 && time < 1e15)) luaL_error(L, "option 'time': out of range");
  path->purpose = purpose && strcmp(purpose, "client") == 0 ? PURPOSE_CLIENT : PURPOSE_SERVER;
  path->time = floor(time);
  path->strict = core_optboolean(L, 2, "strict");
  path->max_depth = depth >= 0 && depth < MAX_DEPTH ? (int)depth : MAX_DEPTH;
}

/* The chain's certificates; false, with an error pushed, when they are too many or too large. */
static int read_chain(lua_State *L, Judgement *judgement) {
  int count = list_field(L, "chain");
  if (count < 0) return luaL_error(L, "option 'chain': a list of certificates expected");
  if (count == 0) return error_named(L, "no_certificate", "no certificate");
  if (count > MAX_CHAIN)
    return error_named(L, "too_complex", "%d certificates, where at most %d are read", count,
                       MAX_CHAIN);
  size_t total = 0;
  for (int i = 1; i <= count; i++) {
    Bytes der = list_entry(L, i);
    if (!der.data) return luaL_error(L, "option 'chain': strings expected");
    total += der.size;
  }
  if (total > MAX_CHAIN_BYTES)
    return error_named(L, "too_complex", "certificates of %.0f bytes, where at most %d are read",
                       (double)total, MAX_CHAIN_BYTES);
  judgement->chain = calloc((size_t)count, sizeof(View));
  if (!judgement->chain) return error_errno(L, ENOMEM);
  judgement->path.chain = judgement->chain;
  judgement->path.count = (size_t)count;
  for (int i = 1; i <= count; i++)
    view_read(&judgement->chain[i - 1], list_entry(L, i));
  lua_pop(L, 1);
  return 0;
}

static void set_path(lua_State *L, const Judgement *judgement) {
  const Path *path = &judgement->path;
  double until = HUGE_VAL;
  lua_createtable(L, (int)path->length, 0);
  for (size_t i = 0; i < path->length; i++) {
    const View *view = path->path[i];
    if (view->not_after < until) until = view->not_after;
    der_pushbytes(L, view->der);
    lua_rawseti(L, -2, (int)i + 1);
  }
  lua_setfield(L, -2, "path_der");
  set_number(L, "until", until);
  lua_pushinteger(L, (lua_Integer)path->signatures);
  lua_setfield(L, -2, "signatures");
  lua_pushinteger(L, (lua_Integer)path->steps);
  lua_setfield(L, -2, "steps");
}

/* judge{chain={DER, ...}, name=, ip=, purpose="server"|"client", time=, strict=, max_depth=,
 * staples={DER or false, ...}, crls={DER, ...}, remember=}: a table of four answers, or nil,
 * message, cause when the chain is too large to be judged, or a file of roots cannot be read. */
int judgement_judge(lua_State *L) {
  Trust *trust = trust_check(L);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  Judgement *judgement = core_new(L, JUDGEMENT_TYPE, sizeof *judgement);
  Path *path = &judgement->path;
  Reference reference;
  read_reference(L, &reference);
  read_terms(L, path);
  bool remember = core_optboolean(L, 2, "remember");
  path->store = trust->store;
  int failed = read_chain(L, judgement);
  if (failed) return failed;
  judgement->trust = trust;
  trust->busy++;
  store_starved(trust->store);
  for (int tries = 0; !path_find(path); tries++) {
    if (store_starved(trust->store)) {
      release(judgement);
      return trust_added(L, trust->store, -ENOMEM, NULL);
    }
    if (!store_stale(trust->store) || trust->busy > 1 || tries == 3) break;
    /* A file changed while it was read. What was found of it goes with the refresh. */
    const char *file = NULL;
    path_reset(path);
    int rc = store_refresh(trust->store, &file);
    if (rc < 0) {
      release(judgement);
      return trust_added(L, trust->store, rc, file);
    }
  }
  lua_createtable(L, 0, 9);
  push_issuer(L, judgement);
  lua_setfield(L, -2, "issuer");
  push_dates(L, judgement);
  lua_setfield(L, -2, "dates");
  push_revocation(L, judgement);
  lua_setfield(L, -2, "revocation");
  push_name(L, judgement, &reference);
  lua_setfield(L, -2, "name");
  set_path(L, judgement);
  /* Not inside another judgement, whose path may hold what would be forgotten. */
  if (remember && trust->busy == 1)
    for (size_t i = 1; i + 1 < path->length; i++)
      store_remember(trust->store, path->path[i]->der);
  release(judgement); /* now, not when the collector comes */
  return 1;
}

static const luaL_Reg no_methods[] = {{NULL, NULL}};
static const luaL_Reg judgement_meta[] = {{"__gc", judgement_gc}, {NULL, NULL}};

void judgement_open(lua_State *L) {
  core_type(L, JUDGEMENT_TYPE, no_methods, judgement_meta);
}

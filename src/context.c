/* Context userdata: the credentials, priorities and choices that many sessions share. */
#include "session.h"

#include <stdlib.h>
#include <string.h>

#define CONTEXT_TYPE "tlsconnect.context"

/* DESIGN.md: TLS 1.2 and 1.3. Put before the program's own text, which may add to it. */
#define VERSIONS "-VERS-TLS1.1:-VERS-TLS1.0"

typedef struct {
  Credentials *credentials;
} Context;

void credentials_release(Credentials *credentials) {
  if (!credentials || --credentials->references > 0) return;
  if (credentials->certificates) gnutls_certificate_free_credentials(credentials->certificates);
  if (credentials->server) gnutls_certificate_free_credentials(credentials->server);
  for (size_t i = 0; i < credentials->identity_count; i++)
    identity_free(credentials->identities[i]);
  free(credentials->identities);
  if (credentials->priority) gnutls_priority_deinit(credentials->priority);
  tickets_wipe_key(credentials);
  early_release(credentials->early);
  free(credentials->alpn.data);
  free(credentials);
}

static Credentials *check_context(lua_State *L, int index) {
  Context *context = luaL_checkudata(L, index, CONTEXT_TYPE);
  luaL_argcheck(L, context->credentials, index, "the context is closed");
  return context->credentials;
}

static int context_gc(lua_State *L) {
  Context *context = lua_touserdata(L, 1);
  credentials_release(context->credentials);
  context->credentials = NULL;
  return 0;
}

static int succeed(lua_State *L) {
  lua_pushboolean(L, 1);
  return 1;
}

/* Pushes the priority string: the program's text after GnuTLS's default, or, when it begins with a
 * keyword (NORMAL, SECURE256, @SYSTEM ...), in its place. `whole` tells which; after the `first`
 * bytes of the program's text stand `added` bytes of ours. */
static const char *push_priority(lua_State *L, const char *text, bool *whole, size_t *first,
                                 size_t *added) {
  *whole = text[0] && !strchr("+-!%", text[0]);
  *added = sizeof VERSIONS; /* with its colon */
  if (!*whole) {
    const char *order = priority_order();
    *first = 0;
    if (order[0]) *added += strlen(order) + 1;
    return lua_pushfstring(L, "%s%s%s%s%s", VERSIONS, order[0] ? ":" : "", order,
                           text[0] ? ":" : "", text);
  }
  *first = strcspn(text, ":");
  lua_pushlstring(L, text, *first);
  return lua_pushfstring(L, "%s:%s%s", lua_tostring(L, -1), VERSIONS, text + *first);
}

/* c:priority(text): GnuTLS's default priorities, which follow the system's crypto policy, with
 * `text` appended ("-VERS-TLS1.2:-CIPHER-ALL:+AES-256-GCM"); nil: the default alone. True, or nil,
 * message, cause (bad_priority) that names where the text goes wrong. */
static int context_priority(lua_State *L) {
  Credentials *credentials = check_context(L, 1);
  size_t size;
  const char *text = luaL_optlstring(L, 2, "", &size);
  luaL_argcheck(L, strlen(text) == size, 2, "the priority string holds a NUL");
  bool whole;
  size_t first, added;
  const char *string = push_priority(L, text, &whole, &first, &added), *wrong = NULL;
  gnutls_priority_t priority = NULL;
  int rc = whole
               ? gnutls_priority_init(&priority, string, &wrong)
               : gnutls_priority_init2(&priority, string, &wrong, GNUTLS_PRIORITY_INIT_DEF_APPEND);
  if (rc == GNUTLS_E_MEMORY_ERROR) return error_gnutls(L, rc);
  if (rc < 0) {
    size_t position = wrong && wrong >= string ? (size_t)(wrong - string) : 0;
    /* Back to a place in the program's own text. */
    if (position > first) position = position - first > added ? position - added : first;
    if (position > size) position = size;
    return error_named(L, "bad_priority", "the priority string \"%.200s\" goes wrong at \"%.100s\"",
                       text, text + position);
  }
  if (credentials->priority) gnutls_priority_deinit(credentials->priority);
  credentials->priority = priority;
  return succeed(L);
}

/* c:certificate(list, key, staple): the chain to show, leaf first, with its private key and, on a
 * server, an OCSP response in DER. A server may have several: the peer's server name chooses. */
static int context_certificate(lua_State *L) {
  Credentials *credentials = check_context(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  gnutls_x509_privkey_t key = key_check(L, 3);
  gnutls_datum_t staple = {NULL, 0};
  size_t size = 0;
  staple.data = (unsigned char *)luaL_optlstring(L, 4, NULL, &size);
  staple.size = (unsigned)size;
  size_t count = lua_rawlen(L, 2);
  luaL_argcheck(L, count > 0, 2, "the list of certificates is empty");
  luaL_argcheck(L, count <= MAX_OWN_CHAIN, 2, "more than 16 certificates");
  gnutls_x509_crt_t chain[MAX_OWN_CHAIN];
  for (size_t i = 0; i < count; i++) {
    lua_rawgeti(L, 2, (int)i + 1);
    chain[i] = certificate_test(L, -1);
    luaL_argcheck(L, chain[i], 2, "a list of certificates expected");
    lua_pop(L, 1);
  }
  gnutls_certificate_credentials_t own = credentials->certificates;
  int index = gnutls_certificate_set_x509_key(own, chain, (int)count, key);
  if (index < 0) return error_gnutls(L, index);
  int rc = identity_add(credentials, chain, (unsigned)count, key);
  if (rc < 0) return error_gnutls(L, rc);
  if (staple.data) {
    rc = gnutls_certificate_set_ocsp_status_request_mem(own, &staple, (unsigned)index,
                                                        GNUTLS_X509_FMT_DER);
    if (rc < 0) return error_gnutls_as(L, rc == GNUTLS_E_MEMORY_ERROR ? "memory" : "bad_der", rc);
    rc = identity_staple(credentials, staple,
                         gnutls_certificate_get_ocsp_expiration(own, (unsigned)index, 0, 0));
    if (rc < 0) return error_gnutls(L, rc);
  }
  return succeed(L);
}

/* Packs the list of protocol names at `index` as RFC 7301 has it, in a userdata left on the stack.
 */
static gnutls_datum_t pack_alpn(lua_State *L, int index) {
  luaL_checktype(L, index, LUA_TTABLE);
  size_t count = lua_rawlen(L, index), total = 0, size;
  for (size_t i = 1; i <= count; i++) {
    lua_rawgeti(L, index, (int)i);
    luaL_argcheck(L, lua_type(L, -1) == LUA_TSTRING, index, "a list of protocol names expected");
    lua_tolstring(L, -1, &size);
    luaL_argcheck(L, size > 0 && size <= 255, index, "a protocol name has 1 to 255 bytes");
    total += size + 1;
    lua_pop(L, 1);
  }
  /* GnuTLS keeps at most so many (MAX_ALPN_PROTOCOLS). */
  luaL_argcheck(L, count <= 8, index, "more than 8 protocols");
  unsigned char *packed = lua_newuserdata(L, total + 1);
  gnutls_datum_t result = {packed, (unsigned)total};
  for (size_t i = 1; i <= count; i++) {
    lua_rawgeti(L, index, (int)i);
    const char *name = lua_tolstring(L, -1, &size);
    *packed++ = (unsigned char)size;
    memcpy(packed, name, size);
    packed += size;
    lua_pop(L, 1);
  }
  return result;
}

/* c:alpn(list, mandatory): the protocols offered (client) or spoken (server), best first. When
 * mandatory, a handshake that agrees on none fails; a server still serves clients that offer none
 * (RFC 7301 3.2). */
static int context_alpn(lua_State *L) {
  Credentials *credentials = check_context(L, 1);
  gnutls_datum_t packed = pack_alpn(L, 2);
  unsigned char *copy = NULL;
  if (packed.size) {
    copy = malloc(packed.size);
    if (!copy) return error_gnutls(L, GNUTLS_E_MEMORY_ERROR);
    memcpy(copy, packed.data, packed.size);
  }
  free(credentials->alpn.data);
  credentials->alpn.data = copy;
  credentials->alpn.size = packed.size;
  credentials->alpn_mandatory = lua_toboolean(L, 3);
  return succeed(L);
}

static int set_alpn(gnutls_session_t tls, gnutls_datum_t packed, bool mandatory) {
  gnutls_datum_t names[8];
  unsigned count = 0;
  for (unsigned at = 0; at < packed.size; at += names[count++].size + 1) {
    names[count].data = packed.data + at + 1;
    names[count].size = packed.data[at];
  }
  if (!count) return 0;
  return gnutls_alpn_set_protocols(tls, names, count, mandatory ? GNUTLS_ALPN_MANDATORY : 0);
}

/* c:client_certificates("ignore"|"request"|"require", cas): what a server asks of its clients; the
 * names of the certificates in the list `cas` are sent along, so that a client can choose. */
static int context_client_certificates(lua_State *L) {
  static const char *const modes[] = {"ignore", "request", "require", NULL};
  Credentials *credentials = check_context(L, 1);
  int mode = luaL_checkoption(L, 2, NULL, modes);
  if (!lua_isnoneornil(L, 3)) {
    luaL_checktype(L, 3, LUA_TTABLE);
    size_t count = lua_rawlen(L, 3);
    gnutls_certificate_credentials_t server;
    int made = identity_credentials(credentials, &server);
    if (made < 0) return error_gnutls(L, made);
    for (size_t i = 1; i <= count; i++) {
      lua_rawgeti(L, 3, (int)i);
      gnutls_x509_crt_t ca = certificate_test(L, -1);
      luaL_argcheck(L, ca, 3, "a list of certificates expected");
      int rc = gnutls_certificate_set_x509_trust(server, &ca, 1);
      lua_pop(L, 1);
      if (rc < 0) return error_gnutls(L, rc);
    }
  }
  credentials->client_certificates = (gnutls_certificate_request_t)mode;
  return succeed(L);
}

/* c:tickets(on): whether a server gives tickets (it does by default). c:tickets(key): with this
 * key, of 64 bytes, so that several processes take each other's. c:tickets(context): as that one
 * does, with its key. */
static int context_tickets(lua_State *L) {
  Credentials *credentials = check_context(L, 1);
  int rc = 0;
  if (lua_type(L, 2) == LUA_TBOOLEAN) {
    credentials->no_tickets = !lua_toboolean(L, 2);
  } else if (lua_type(L, 2) == LUA_TSTRING) {
    size_t size;
    const char *key = lua_tolstring(L, 2, &size);
    rc = tickets_copy_key(credentials, key, size);
    luaL_argcheck(L, rc != GNUTLS_E_INVALID_REQUEST, 2, "a key of 64 bytes expected");
    credentials->no_tickets = false;
  } else {
    Credentials *other = check_context(L, 2);
    rc = tickets_make_key(other);
    if (rc >= 0 && other != credentials)
      rc = tickets_copy_key(credentials, other->ticket_key.data, other->ticket_key.size);
    credentials->no_tickets = other->no_tickets;
    if (credentials->early && other->early && other != credentials) {
      early_release(credentials->early);
      credentials->early = early_share(other->early);
    }
  }
  return rc < 0 ? error_gnutls(L, rc) : succeed(L);
}

/* c:early_data(): a server takes early data from clients that take a session up again: each flight
 * once, in the process that made this call. */
static int context_early_data(lua_State *L) {
  Credentials *credentials = check_context(L, 1);
  int rc = credentials->early ? 0 : early_new(&credentials->early);
  return rc < 0 ? error_gnutls(L, rc) : succeed(L);
}

static int set_client(lua_State *L, gnutls_session_t tls, int options) {
  size_t size;
  const char *name = core_optstring(L, options, "server_name", &size);
  int rc = name ? gnutls_server_name_set(tls, GNUTLS_NAME_DNS, name, size) : 0;
  return rc < 0 ? rc : 0;
}

static int set_server(gnutls_session_t tls, Credentials *credentials) {
  gnutls_certificate_server_set_request(tls, credentials->client_certificates);
  return credentials->no_tickets ? 0 : tickets_make_key(credentials);
}

/* c:session(role, options): a session that has not begun. role: "client" or "server". options:
 * socket= a socket, or session= an outer session, or memory=true; server_name= (client; a name,
 * never an address); alpn= a list in place of the context's, alpn_mandatory=; ticket= what an
 * earlier session's ticket() gave; trace=true keeps the messages' bytes; keylog=true keeps the
 * secrets for keylog(); post_handshake_auth=true; false_start=true: see first();
 * words_follow=true: the program sends at once when the handshake is complete. */
static int context_session(lua_State *L) {
  static const char *const roles[] = {"client", "server", NULL};
  Credentials *credentials = check_context(L, 1);
  bool server = luaL_checkoption(L, 2, NULL, roles) == 1;
  luaL_checktype(L, 3, LUA_TTABLE);
  lua_settop(L, 3);
  gnutls_datum_t alpn = credentials->alpn;
  bool mandatory = credentials->alpn_mandatory;
  lua_getfield(L, 3, "alpn"); /* 4 */
  if (!lua_isnil(L, 4)) {
    alpn = pack_alpn(L, 4);
    mandatory = core_optboolean(L, 3, "alpn_mandatory");
  }
  int failed = session_new(L, credentials, server, 3);
  if (failed) return failed;
  early_serve(session_get(L, -1));
  session_get(L, -1)->alpn_mandatory = mandatory && !server;
  gnutls_session_t tls = session_check(L, -1);
  gnutls_certificate_credentials_t own = credentials->certificates;
  int rc = server ? identity_credentials(credentials, &own) : 0;
  if (rc >= 0) rc = gnutls_credentials_set(tls, GNUTLS_CRD_CERTIFICATE, own);
  if (rc >= 0) rc = gnutls_priority_set(tls, credentials->priority);
  if (rc >= 0) rc = set_alpn(tls, alpn, mandatory);
  if (rc >= 0) rc = server ? set_server(tls, credentials) : set_client(L, tls, 3);
  if (rc < 0) return error_gnutls(L, rc);
  return 1;
}

/* core.context() */
static int context_new(lua_State *L) {
  Context *context = core_new(L, CONTEXT_TYPE, sizeof *context);
  Credentials *credentials = calloc(1, sizeof *credentials);
  if (!credentials) return error_gnutls(L, GNUTLS_E_MEMORY_ERROR);
  credentials->references = 1;
  context->credentials = credentials;
  int rc = gnutls_certificate_allocate_credentials(&credentials->certificates);
  if (rc < 0) return error_gnutls(L, rc);
  gnutls_certificate_set_verify_limits(credentials->certificates, MAX_KEY_BITS, MAX_OWN_CHAIN);
  gnutls_certificate_set_flags(credentials->certificates, GNUTLS_CERTIFICATE_API_V2);
  lua_pushcfunction(L, context_priority);
  lua_pushvalue(L, -2);
  lua_call(L, 1, 3);
  if (!lua_toboolean(L, -3)) return 3;
  lua_pop(L, 3);
  return 1;
}

static const luaL_Reg methods[] = {
    {"priority", context_priority}, {"certificate", context_certificate},
    {"alpn", context_alpn},         {"client_certificates", context_client_certificates},
    {"tickets", context_tickets},   {"early_data", context_early_data},
    {"session", context_session},   {NULL, NULL},
};
static const luaL_Reg meta[] = {{"__gc", context_gc}, {NULL, NULL}};

void context_open(lua_State *L) {
  core_type(L, CONTEXT_TYPE, methods, meta);
  lua_pushcfunction(L, context_new);
  lua_setfield(L, -2, "context");
  priority_open(L);
}

/* What a session tells: the parameters agreed on, the peer's certificates, tickets, and the keys
 * that it exports. */
#include "session.h"

#include <gnutls/crypto.h>
#include <string.h>

/* RFC 8446 7.1: HKDF-Expand-Label gives at most 255 times the hash, of 32 bytes at least. */
#define EXPORT_LIMIT (255 * 32)

static void set_string(lua_State *L, const char *field, const char *value) {
  if (!value) return;
  lua_pushstring(L, value);
  lua_setfield(L, -2, field);
}

static void set_boolean(lua_State *L, const char *field, bool value) {
  lua_pushboolean(L, value);
  lua_setfield(L, -2, field);
}

static void set_number(lua_State *L, const char *field, double value) {
  lua_pushnumber(L, value);
  lua_setfield(L, -2, field);
}

static bool is_tls13(gnutls_session_t tls) {
  return gnutls_protocol_get_version(tls) >= GNUTLS_TLS1_3;
}

/* Pushes what GnuTLS gave as a string, and wipes it: no secret waits for the collector. */
static int give(lua_State *L, gnutls_datum_t *datum) {
  lua_pushlstring(L, (char *)datum->data, datum->size);
  gnutls_memset(datum->data, 0, datum->size);
  gnutls_free(datum->data);
  datum->data = NULL;
  datum->size = 0;
  return 1;
}

/* Refuses before the handshake is complete, when GnuTLS would give zeros or old values. */
static Session *check_done(lua_State *L, int *results) {
  Session *session = session_open_one(L, 1, results);
  if (!session || session->state == STATE_OPEN) return session;
  *results = error_named(L, "not_ready", "the handshake is not complete");
  return NULL;
}

/* info()
 * ------------------------------------------------------------------------------------------- */

/* IANA has the names of suites without the GnuTLS prefix. */
static void push_suite(lua_State *L, gnutls_session_t tls) {
#if GNUTLS_VERSION_NUMBER >= 0x030704
  const char *name = gnutls_ciphersuite_get(tls);
#else
  const char *name =
      gnutls_cipher_suite_get_name(gnutls_kx_get(tls), gnutls_cipher_get(tls), gnutls_mac_get(tls));
#endif
  if (name && strncmp(name, "GNUTLS_", 7) == 0) name += 7;
  if (!name || strncmp(name, "TLS_", 4) == 0)
    lua_pushstring(L, name);
  else
    lua_pushfstring(L, "TLS_%s", name);
  lua_setfield(L, -2, "suite");
}

static const char *version_name(gnutls_protocol_t version) {
  switch (version) {
  case GNUTLS_TLS1_0:
    return "TLS1.0";
  case GNUTLS_TLS1_1:
    return "TLS1.1";
  case GNUTLS_TLS1_2:
    return "TLS1.2";
  case GNUTLS_TLS1_3:
    return "TLS1.3";
  default:
    return NULL;
  }
}

static const char *signature_name(int algorithm) {
  return algorithm > 0 ? gnutls_sign_get_name((gnutls_sign_algorithm_t)algorithm) : NULL;
}

static void push_server_name(lua_State *L, gnutls_session_t tls) {
  char name[256];
  size_t size = sizeof name;
  unsigned type;
  if (gnutls_server_name_get(tls, name, &size, &type, 0) < 0) return;
  lua_pushlstring(L, name, strnlen(name, size));
  lua_setfield(L, -2, "server_name");
}

static void push_alpn(lua_State *L, gnutls_session_t tls) {
  gnutls_datum_t chosen;
  if (gnutls_alpn_get_selected_protocol(tls, &chosen) < 0) return;
  lua_pushlstring(L, (char *)chosen.data, chosen.size);
  lua_setfield(L, -2, "alpn");
}

/* s:info(): version, cipher, suite (IANA's name), mac, prf, kx, group, signature (the server's),
 * client_signature, alpn, server_name (on a server), resumed, extended_master_secret (true in 1.3,
 * which has its property), safe_renegotiation, encrypt_then_mac, false_start, early_data. */
static int info_info(lua_State *L) {
  int results;
  Session *session = check_done(L, &results);
  if (!session) return results;
  gnutls_session_t tls = session->tls;
  unsigned flags = gnutls_session_get_flags(tls);
  lua_createtable(L, 0, 16);
  set_string(L, "version", version_name(gnutls_protocol_get_version(tls)));
  set_string(L, "cipher", gnutls_cipher_get_name(gnutls_cipher_get(tls)));
  set_string(L, "mac", gnutls_mac_get_name(gnutls_mac_get(tls)));
  set_string(L, "prf", gnutls_digest_get_name(gnutls_prf_hash_get(tls)));
  set_string(L, "kx", gnutls_kx_get_name(gnutls_kx_get(tls)));
  set_string(L, "group", gnutls_group_get_name(gnutls_group_get(tls)));
  set_string(L, "signature", signature_name(gnutls_sign_algorithm_get(tls)));
  set_string(L, "client_signature", signature_name(gnutls_sign_algorithm_get_client(tls)));
  push_suite(L, tls);
  push_alpn(L, tls);
  if (session->server) push_server_name(L, tls);
  set_boolean(L, "resumed", gnutls_session_is_resumed(tls) != 0);
  set_boolean(L, "extended_master_secret",
              is_tls13(tls) || (flags & GNUTLS_SFLAGS_EXT_MASTER_SECRET));
  set_boolean(L, "safe_renegotiation", is_tls13(tls) || (flags & GNUTLS_SFLAGS_SAFE_RENEGOTIATION));
  set_boolean(L, "encrypt_then_mac", flags & GNUTLS_SFLAGS_ETM);
  set_boolean(L, "false_start", flags & GNUTLS_SFLAGS_FALSE_START);
  set_boolean(L, "early_data", flags & GNUTLS_SFLAGS_EARLY_DATA);
  return 1;
}

/* s:counters(): of the data, not of what carried it. */
static int info_counters(lua_State *L) {
  Session *session = session_get(L, 1);
  lua_createtable(L, 0, 8);
  set_number(L, "bytes_in", (double)session->bytes_in);
  set_number(L, "bytes_out", (double)session->bytes_out);
  set_number(L, "records_in", (double)session->records_in);
  set_number(L, "records_out", (double)session->records_out);
  set_number(L, "tickets", session->tickets);
  set_number(L, "key_updates", session->key_updates);
  set_boolean(L, "close_sent", session->close_sent);
  set_boolean(L, "close_received", session->close_received);
  return 1;
}

/* s:resumed(): whether this handshake took up an earlier session: then no verify callback ran. */
static int info_resumed(lua_State *L) {
  Session *session = session_get(L, 1);
  lua_pushboolean(L, session->tls && gnutls_session_is_resumed(session->tls));
  return 1;
}

/* s:verified(): whether verdict(true) was given in this very handshake. */
static int info_verified(lua_State *L) {
  Session *session = session_get(L, 1);
  lua_pushboolean(L, session->state == STATE_OPEN && session->verdict == VERDICT_GOOD);
  return 1;
}

/* s:peer_certificates(): the peer's chain as it was sent, DER strings, leaf first; empty: none. */
static int info_peer_certificates(lua_State *L) {
  int results;
  Session *session = session_open_one(L, 1, &results);
  if (!session) return results;
  unsigned count = 0;
  const gnutls_datum_t *chain = NULL;
  if (gnutls_certificate_type_get2(session->tls, GNUTLS_CTYPE_PEERS) == GNUTLS_CRT_X509)
    chain = gnutls_certificate_get_peers(session->tls, &count);
  lua_createtable(L, chain ? (int)count : 0, 0);
  for (unsigned i = 0; chain && i < count; i++) {
    lua_pushlstring(L, (const char *)chain[i].data, chain[i].size);
    lua_rawseti(L, -2, (int)i + 1);
  }
  return 1;
}

/* s:staples(): for each certificate of the chain the OCSP response stapled to it, DER, or false. */
static int info_staples(lua_State *L) {
  int results;
  Session *session = session_open_one(L, 1, &results);
  if (!session) return results;
  unsigned count = 0;
  gnutls_certificate_get_peers(session->tls, &count);
  lua_createtable(L, (int)count, 0);
  for (unsigned i = 0; i < count; i++) {
    gnutls_datum_t staple;
    if (gnutls_ocsp_status_request_get2(session->tls, i, &staple) >= 0)
      lua_pushlstring(L, (char *)staple.data, staple.size);
    else
      lua_pushboolean(L, 0);
    lua_rawseti(L, -2, (int)i + 1);
  }
  return 1;
}

/* s:ticket(): what a later session takes as its `ticket` option, and the seconds that the peer
 * gives it (nil where it does not say), and the bytes of early data that it allows; nil while there
 * is none. A secret. Under TLS 1.3 GnuTLS would give a stub of 4 bytes before the peer's ticket has
 * come. */
static int info_ticket(lua_State *L) {
  int results;
  Session *session = check_done(L, &results);
  if (!session) return results;
  unsigned char id[GNUTLS_MAX_SESSION_ID_SIZE];
  size_t size = sizeof id;
  bool there = gnutls_session_get_flags(session->tls) & GNUTLS_SFLAGS_SESSION_TICKET;
  if (!there && !is_tls13(session->tls)) /* RFC 5246 7.4.1.3: an id to resume by, or none */
    there = gnutls_session_get_id(session->tls, id, &size) >= 0 && size > 0;
  if (session->server || !there) {
    lua_pushnil(L);
    return 1;
  }
  gnutls_datum_t *data = core_datum(L);
  int rc = gnutls_session_get_data2(session->tls, data);
  if (rc < 0) return error_gnutls(L, rc);
  give(L, data);
  /* RFC 5077 3.3: in TLS 1.2 0 says nothing. In TLS 1.3 it says that the ticket is of no use. */
  if (session->ticket_life || (is_tls13(session->tls) && session->tickets))
    lua_pushnumber(L, session->ticket_life);
  else
    lua_pushnil(L);
  lua_pushnumber(L, session->early_limit);
  return 3;
}

/* Exported keys ------------------------------------------------------------------------------- */

/* RFC 7627 5.4, RFC 9266: without it two sessions of TLS 1.2 may share their keys. */
static bool keys_are_unique(gnutls_session_t tls) {
  return is_tls13(tls) || (gnutls_session_get_flags(tls) & GNUTLS_SFLAGS_EXT_MASTER_SECRET);
}

static int error_not_unique(lua_State *L) {
  return error_named(L, "not_available",
                     "the session has no extended master secret: its keys may not be its own");
}

static int push_exported(lua_State *L, gnutls_session_t tls, const char *label, size_t label_size,
                         const char *context, size_t context_size, size_t length) {
  gnutls_datum_t *key = core_datum(L); /* wiped when it is collected */
  key->data = gnutls_malloc(length);
  if (!key->data) return error_gnutls(L, GNUTLS_E_MEMORY_ERROR);
  key->size = (unsigned)length;
  int rc =
      gnutls_prf_rfc5705(tls, label_size, label, context_size, context, length, (char *)key->data);
  if (rc < 0) return error_gnutls(L, rc);
  return give(L, key);
}

/* s:export(label, context, length): `length` bytes of keying material (RFC 5705, RFC 8446 7.5).
 * context: a string, or nil for none, which TLS 1.2 tells from an empty one. Nil, message, cause
 * before the handshake is complete, for more than 8160 bytes, and in TLS 1.2 without the extended
 * master secret. */
static int info_export(lua_State *L) {
  size_t label_size, context_size = 0;
  const char *label = luaL_checklstring(L, 2, &label_size);
  const char *context = luaL_optlstring(L, 3, NULL, &context_size);
  lua_Number length = luaL_checknumber(L, 4);
  int results;
  Session *session = check_done(L, &results);
  if (!session) return results;
  luaL_argcheck(L, length >= 1, 4, "a positive number of bytes expected");
  if (length > EXPORT_LIMIT) return error_named(L, "too_long", "more than 8160 bytes");
  if (!keys_are_unique(session->tls)) return error_not_unique(L);
  return push_exported(L, session->tls, label, label_size, context, context_size, (size_t)length);
}

/* s:channel_binding(kind): "tls-exporter" (RFC 9266), "tls-server-end-point" or "tls-unique" (RFC
 * 5929; TLS 1.2 only), as raw bytes. */
static int info_channel_binding(lua_State *L) {
  static const char *const kinds[] = {"tls-exporter", "tls-server-end-point", "tls-unique", NULL};
  static const char label[] = "EXPORTER-Channel-Binding";
  int kind = luaL_checkoption(L, 2, NULL, kinds), results;
  Session *session = check_done(L, &results);
  if (!session) return results;
  if (kind != 1 && !keys_are_unique(session->tls)) return error_not_unique(L);
  if (kind == 0) return push_exported(L, session->tls, label, sizeof label - 1, "", 0, 32);
  if (kind == 2 && is_tls13(session->tls))
    return error_named(L, "not_available", "TLS 1.3 has no tls-unique: use tls-exporter");
  gnutls_datum_t *binding = core_datum(L);
  int rc = gnutls_session_channel_binding(
      session->tls, kind == 1 ? GNUTLS_CB_TLS_SERVER_END_POINT : GNUTLS_CB_TLS_UNIQUE, binding);
  if (rc < 0) return error_gnutls(L, rc);
  return give(L, binding);
}

const luaL_Reg info_methods[] = {
    {"info", info_info},
    {"counters", info_counters},
    {"resumed", info_resumed},
    {"verified", info_verified},
    {"peer_certificates", info_peer_certificates},
    {"staples", info_staples},
    {"ticket", info_ticket},
    {"export", info_export},
    {"channel_binding", info_channel_binding},
    {NULL, NULL},
};

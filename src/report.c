/* How a session's failures are told: the code, the awaited message, the step, the alert. */
#include "session.h"

#include <stdio.h>
#include <string.h>

typedef struct {
  int number;
  const char *name;
  const char *code;    /* of the error when the peer sends it */
  const char *meaning; /* completes "the peer ..." */
} Alert;

/* https://www.iana.org/assignments/tls-parameters: TLS Alerts; names as registered. */
static const Alert alerts[] = {
    {0, "close_notify", "closed", "closed the connection"},
    {10, "unexpected_message", "alert", "did not expect our message"},
    {20, "bad_record_mac", "alert", "could not decrypt our record"},
    {21, "decryption_failed", "alert", "could not decrypt our record"},
    {22, "record_overflow", "alert", "found our record too long"},
    {30, "decompression_failure", "alert", "could not decompress our message"},
    {40, "handshake_failure", "alert", "refused the handshake"},
    {41, "no_certificate", "alert", "has no certificate"},
    {42, "bad_certificate", "certificate_rejected", "found our certificate bad"},
    {43, "unsupported_certificate", "certificate_rejected", "does not support our certificate"},
    {44, "certificate_revoked", "certificate_rejected", "found our certificate revoked"},
    {45, "certificate_expired", "certificate_rejected", "found our certificate expired"},
    {46, "certificate_unknown", "certificate_rejected", "did not accept our certificate"},
    {47, "illegal_parameter", "alert", "found a value in our handshake illegal"},
    {48, "unknown_ca", "certificate_rejected", "does not know the issuer of our certificate"},
    {49, "access_denied", "access_denied", "denied us access"},
    {50, "decode_error", "alert", "could not decode our message"},
    {51, "decrypt_error", "alert", "found a signature or Finished of ours wrong"},
    {52, "too_many_cids_requested", "alert", "was asked for too many connection ids"},
    {60, "export_restriction", "alert", "found an export restriction broken"},
    {70, "protocol_version", "version_refused", "speaks none of the versions of TLS we allow"},
    {71, "insufficient_security", "no_common_parameters", "wants stronger parameters than ours"},
    {80, "internal_error", "alert", "had an internal error"},
    {86, "inappropriate_fallback", "downgrade", "could have spoken a newer version of TLS"},
    {90, "user_canceled", "alert", "gave the handshake up"},
    {100, "no_renegotiation", "renegotiation_refused", "refused to negotiate again"},
    {109, "missing_extension", "alert", "missed an extension in our message"},
    {110, "unsupported_extension", "alert", "did not ask for an extension we sent"},
    {111, "certificate_unobtainable", "alert", "could not fetch our certificate"},
    {112, "unrecognized_name", "unrecognized_name", "does not serve the name we asked for"},
    {113, "bad_certificate_status_response", "certificate_rejected",
     "found our certificate's status response bad"},
    {114, "bad_certificate_hash_value", "certificate_rejected",
     "found our certificate's hash wrong"},
    {115, "unknown_psk_identity", "alert", "does not know our pre-shared key"},
    {116, "certificate_required", "certificate_required", "requires a client certificate"},
    {117, "general_error", "alert", "had an error"},
    {120, "no_application_protocol", "no_common_alpn",
     "speaks none of the application protocols we offered"},
    {121, "ech_required", "alert", "requires an encrypted ClientHello"},
    {-1, NULL, NULL, NULL},
};

int report_alert_number(const char *name) {
  const Alert *alert = alerts;
  while (alert->name && strcmp(alert->name, name) != 0)
    alert++;
  return alert->number;
}

static const Alert *find_alert(int number) {
  const Alert *alert = alerts;
  while (alert->name && alert->number != number)
    alert++;
  return alert;
}

const char *report_alert_name(int number) {
  return find_alert(number)->name;
}

static void set_string(lua_State *L, const char *field, const char *value) {
  lua_pushstring(L, value);
  lua_setfield(L, -2, field);
}

/* Gives the cause on top of the stack another code. */
static void set_code(lua_State *L, const char *code) {
  set_string(L, "code", code);
}

/* Printable ASCII as it is, all else as \xNN: for messages that quote a peer. */
static void escape(char *to, size_t room, const unsigned char *bytes, size_t size) {
  char *end = to + room - 5;
  for (size_t i = 0; i < size && to < end; i++) {
    if (bytes[i] >= 32 && bytes[i] < 127 && bytes[i] != '"' && bytes[i] != '\\')
      *to++ = (char)bytes[i];
    else
      to += snprintf(to, 5, "\\x%02x", bytes[i]);
  }
  *to = 0;
}

/* RFC 8446 5.1: a record begins with its type, 20 to 24, and a version whose first byte is 3. */
static bool speaks_tls(const Handshake *handshake) {
  const unsigned char *first = handshake->first;
  if (handshake->first_size == 0) return true; /* it said nothing: no judgement */
  return first[0] >= 20 && first[0] <= 24 && (handshake->first_size < 2 || first[1] == 3);
}

static int report_not_tls(lua_State *L, Session *session, Failure failure) {
  char text[4 * sizeof session->handshake->first + 8];
  transport_first_bytes(session);
  const Handshake *handshake = session->handshake;
  escape(text, sizeof text, handshake->first, handshake->first_size);
  error_named(L, "not_tls", "the peer speaks no TLS: its first bytes are \"%s\"", text);
  lua_pushlstring(L, (const char *)handshake->first, handshake->first_size);
  lua_setfield(L, -2, "first_bytes");
  lua_pushinteger(L, failure.gnutls);
  lua_setfield(L, -2, "gnutls");
  return 3;
}

static int report_alert(lua_State *L, Session *session, Failure failure, const char *at) {
  int number = gnutls_alert_get(session->tls);
  const Alert *alert = find_alert(number);
  if (!alert->name) {
    error_named(L, "alert", "the peer sent alert %d, which no standard names", number);
    lua_pushfstring(L, "%d", number);
  } else {
    const char *code = alert->code;
    /* RFC 8446 4.1.1, RFC 5246 7.2.2: refused on sight of our hello means nothing in common. */
    if (number == GNUTLS_A_HANDSHAKE_FAILURE && at && strcmp(at, "ServerHello") == 0)
      code = "no_common_parameters";
    error_named(L, code, "the peer %s (alert %s)", alert->meaning, alert->name);
    lua_pushstring(L, alert->name);
  }
  lua_setfield(L, -2, "alert");
  lua_pushinteger(L, failure.gnutls);
  lua_setfield(L, -2, "gnutls");
  return 3;
}

static int report_alpn(lua_State *L, const Handshake *handshake) {
  char text[256];
  if (handshake->alpn_size == 0)
    return error_named(L, "no_common_alpn", "the peer agreed on no application protocol");
  escape(text, sizeof text, (const unsigned char *)handshake->refused_alpn, handshake->alpn_size);
  error_named(L, "no_common_alpn", "the peer chose the protocol \"%s\", which was not offered",
              text);
  lua_pushlstring(L, handshake->refused_alpn, handshake->alpn_size);
  lua_setfield(L, -2, "alpn");
  return 3;
}

/* The codes that GnuTLS's numbers have in error.c, where a handshake knows better. */
static int report_handshake(lua_State *L, Session *session, Failure failure) {
  const Handshake *handshake = session->handshake;
  switch (failure.gnutls) {
  case GNUTLS_E_PREMATURE_TERMINATION:
  case GNUTLS_E_SESSION_EOF:
    error_named(L, "closed", "the peer closed the connection");
    if (failure.gnutls == GNUTLS_E_SESSION_EOF) set_string(L, "alert", "close_notify");
    break;
  case GNUTLS_E_CERTIFICATE_ERROR:
    if (handshake->too_many)
      error_named(L, "too_many_certificates", "the peer sent more than 16 certificates");
    else
      error_named(L, "certificate_refused", "the peer's certificate was refused");
    break;
  case GNUTLS_E_NO_APPLICATION_PROTOCOL:
    report_alpn(L, handshake);
    break;
  case GNUTLS_E_WARNING_ALERT_RECEIVED:
    error_named(L, "protocol_error", "the peer sends warnings in place of its handshake");
    break;
  case GNUTLS_E_RECEIVED_ILLEGAL_PARAMETER:
    error_gnutls(L, failure.gnutls);
    if (!handshake->downgraded) break;
    lua_pop(L, 3);
    error_named(L, "downgrade", "something on the way made the peer speak an older version of TLS");
    break;
  case GNUTLS_E_UNEXPECTED_PACKET:
  case GNUTLS_E_UNEXPECTED_PACKET_LENGTH:
    error_gnutls(L, failure.gnutls);
    set_code(L, "protocol_error");
    break;
  default:
    return error_gnutls(L, failure.gnutls);
  }
  lua_pushinteger(L, failure.gnutls);
  lua_setfield(L, -2, "gnutls");
  return 3;
}

/* Whether the peer fell silent, gave up or sent what is no handshake message: then the failure is
 * about the message that was awaited, else about the one that had just come. */
static bool while_waiting(const Session *session, Failure failure) {
  if (failure.system || session->last_in < 0) return true;
  switch (failure.gnutls) {
  case GNUTLS_E_PREMATURE_TERMINATION:
  case GNUTLS_E_SESSION_EOF:
  case GNUTLS_E_PUSH_ERROR:
  case GNUTLS_E_PULL_ERROR:
  case GNUTLS_E_FATAL_ALERT_RECEIVED:
  case GNUTLS_E_WARNING_ALERT_RECEIVED:
  case GNUTLS_E_DECRYPTION_FAILED:
  case GNUTLS_E_RECORD_OVERFLOW:
  case GNUTLS_E_UNEXPECTED_PACKET:
  case GNUTLS_E_UNEXPECTED_HANDSHAKE_PACKET:
  case GNUTLS_E_HANDSHAKE_TOO_LARGE:
    return true;
  default:
    return false;
  }
}

static const char *find_message(const Session *session, Failure failure, const char **step) {
  if (session->verdict == VERDICT_BAD) {
    *step = "verify";
    return trace_message_name(GNUTLS_HANDSHAKE_CERTIFICATE_PKT, NULL);
  }
  /* RFC 7301 3.2: the ServerHello's part, though only the end makes it sure. */
  if (failure.gnutls == GNUTLS_E_NO_APPLICATION_PROTOCOL && !session->server)
    return trace_message_name(GNUTLS_HANDSHAKE_SERVER_HELLO, step);
  if (while_waiting(session, failure)) return trace_awaited(session, step);
  return trace_message_name(session->last_in, step);
}

int report_failure(lua_State *L, Session *session, Failure failure) {
  const char *at = NULL, *step = "data";
  if (session->handshake) at = find_message(session, failure, &step);
  if (session->outer_failed && session->link.outer->tls) {
    Session *outer = session->link.outer;
    report_failure(L, outer,
                   outer->read_failure.gnutls ? outer->read_failure : outer->write_failure);
  } else if (session->flooded)
    error_named(L, "protocol_error", "the peer sends too much that is no data");
  else if (session->handshake && session->last_in < 0 && !speaks_tls(session->handshake))
    report_not_tls(L, session, failure);
  else if (failure.system)
    error_errno(L, failure.system);
  else if (failure.gnutls == GNUTLS_E_FATAL_ALERT_RECEIVED)
    report_alert(L, session, failure, at);
  else if (session->handshake)
    report_handshake(L, session, failure);
  else if (failure.gnutls == GNUTLS_E_PREMATURE_TERMINATION)
    error_named(L, "truncated", "the peer ended the connection without close_notify");
  else {
    error_gnutls(L, failure.gnutls);
    if (failure.gnutls == GNUTLS_E_UNEXPECTED_PACKET ||
        failure.gnutls == GNUTLS_E_UNEXPECTED_PACKET_LENGTH)
      set_code(L, "protocol_error");
  }
  if (at) {
    set_string(L, "at", at);
    lua_pushboolean(L, while_waiting(session, failure));
    lua_setfield(L, -2, "awaited");
  }
  set_string(L, "step", step);
  return 3;
}

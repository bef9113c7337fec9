/* The only place that turns GnuTLS, errno and EAI codes into errors. The core says what happened
 * (a cause); lua/tlsconnect/error.lua adds the step and the host and writes the sentence. */
#include "core.h"

#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct {
  int number;
  const char *code;
} Name;

/* The codes are part of the API: err.code, and the README's table. */
static const Name errno_names[] = {
    {ECONNREFUSED, "refused"},
    {ECONNRESET, "reset"},
    {EPIPE, "reset"},
    {ECONNABORTED, "reset"},
    {ENETUNREACH, "unreachable"},
    {EHOSTUNREACH, "unreachable"},
    {ENETDOWN, "unreachable"},
    {EHOSTDOWN, "unreachable"},
    {EADDRNOTAVAIL, "address_not_available"},
    {EADDRINUSE, "address_in_use"},
    {ETIMEDOUT, "timeout"},
    {EACCES, "permission"},
    {EPERM, "permission"},
    {ENOENT, "not_found"},
    {EMFILE, "too_many_files"},
    {ENFILE, "too_many_files"},
    {EBADF, "closed"},
    {ENOTCONN, "closed"},
    {ENOMEM, "memory"},
    {ENOBUFS, "memory"},
    {EAFNOSUPPORT, "unsupported"},
    {0, NULL},
};

static const Name gai_names[] = {
    {EAI_NONAME, "unknown_host"},
#ifdef EAI_NODATA
    {EAI_NODATA, "no_address"},
#endif
#ifdef EAI_ADDRFAMILY
    {EAI_ADDRFAMILY, "no_address"},
#endif
    {EAI_AGAIN, "lookup_failed"},
    {EAI_FAIL, "lookup_failed"},
    {EAI_FAMILY, "unsupported"},
    {EAI_MEMORY, "memory"},
    {0, NULL},
};

static const Name gnutls_names[] = {
    {GNUTLS_E_PREMATURE_TERMINATION, "truncated"},
    {GNUTLS_E_SESSION_EOF, "closed"},
    {GNUTLS_E_INVALID_SESSION, "closed"},
    {GNUTLS_E_FATAL_ALERT_RECEIVED, "alert"},
    {GNUTLS_E_UNEXPECTED_PACKET, "not_tls"},
    {GNUTLS_E_UNEXPECTED_PACKET_LENGTH, "not_tls"},
    {GNUTLS_E_UNSUPPORTED_VERSION_PACKET, "version_refused"},
    {GNUTLS_E_NO_CIPHER_SUITES, "no_common_suite"},
    {GNUTLS_E_INSUFFICIENT_CREDENTIALS, "no_credentials"},
    {GNUTLS_E_NO_COMMON_KEY_SHARE, "no_common_group"},
    {GNUTLS_E_NO_APPLICATION_PROTOCOL, "no_common_alpn"},
    {GNUTLS_E_UNKNOWN_CIPHER_SUITE, "no_common_suite"},
    {GNUTLS_E_INAPPROPRIATE_FALLBACK, "downgrade"},
    {GNUTLS_E_CERTIFICATE_REQUIRED, "certificate_required"},
    {GNUTLS_E_NO_CERTIFICATE_FOUND, "no_certificate"},
    {GNUTLS_E_CERTIFICATE_ERROR, "certificate_refused"},
    {GNUTLS_E_CERTIFICATE_KEY_MISMATCH, "key_mismatch"},
    {GNUTLS_E_DECRYPTION_FAILED, "bad_record"},
    {GNUTLS_E_MAC_VERIFY_FAILED, "wrong_password"},
    {GNUTLS_E_BASE64_DECODING_ERROR, "bad_pem"},
    {GNUTLS_E_BASE64_UNEXPECTED_HEADER_ERROR, "bad_pem"},
    {GNUTLS_E_ASN1_DER_ERROR, "bad_der"},
    {GNUTLS_E_ASN1_TAG_ERROR, "bad_der"},
    {GNUTLS_E_ASN1_DER_OVERFLOW, "bad_der"},
    {GNUTLS_E_FILE_ERROR, "unreadable_file"},
    {GNUTLS_E_MEMORY_ERROR, "memory"},
    {GNUTLS_E_UNSAFE_RENEGOTIATION_DENIED, "renegotiation_refused"},
    {GNUTLS_E_REHANDSHAKE, "renegotiation_refused"},
    {GNUTLS_E_TOO_MANY_EMPTY_PACKETS, "protocol_error"},
    {GNUTLS_E_TOO_MANY_HANDSHAKE_PACKETS, "protocol_error"},
    {GNUTLS_E_UNEXPECTED_HANDSHAKE_PACKET, "protocol_error"},
    {GNUTLS_E_RECEIVED_ILLEGAL_PARAMETER, "protocol_error"},
    {GNUTLS_E_RECORD_OVERFLOW, "protocol_error"},
    {GNUTLS_E_HANDSHAKE_TOO_LARGE, "protocol_error"},
    {GNUTLS_E_PK_SIG_VERIFY_FAILED, "bad_signature"},
    {GNUTLS_E_DH_PRIME_UNACCEPTABLE, "weak_group"},
    {0, NULL},
};

static const char *find(const Name *names, int number, const char *fallback) {
  for (; names->code; names++)
    if (names->number == number) return names->code;
  return fallback;
}

static void set_number(lua_State *L, const char *field, int number) {
  lua_pushinteger(L, number);
  lua_setfield(L, -2, field);
}

/* Pushes nil, message, {code=, message=}; leaves the table on top to be added to. */
static void push(lua_State *L, const char *code, const char *message) {
  lua_pushnil(L);
  lua_pushstring(L, message);
  lua_createtable(L, 0, 4);
  lua_pushstring(L, code);
  lua_setfield(L, -2, "code");
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, "message");
}

int error_gnutls(lua_State *L, int number) {
  push(L, find(gnutls_names, number, "tls"), gnutls_strerror(number));
  set_number(L, "gnutls", number);
  return 3;
}

int error_gnutls_as(lua_State *L, const char *code, int number) {
  push(L, number == GNUTLS_E_MEMORY_ERROR ? "memory" : code, gnutls_strerror(number));
  set_number(L, "gnutls", number);
  return 3;
}

int error_errno(lua_State *L, int number) {
  char text[128];
  /* strerror_r has two types; the message is in the buffer, or is what came back. */
#if defined(__GLIBC__) && defined(_GNU_SOURCE)
  const char *message = strerror_r(number, text, sizeof text);
#else
  const char *message = text;
  if (strerror_r(number, text, sizeof text) != 0) snprintf(text, sizeof text, "errno %d", number);
#endif
  push(L, find(errno_names, number, "system"), message);
  set_number(L, "errno", number);
  return 3;
}

int error_gai(lua_State *L, int number, int system_error) {
  if (number == EAI_SYSTEM) return error_errno(L, system_error);
  push(L, find(gai_names, number, "lookup_failed"), gai_strerror(number));
  set_number(L, "gai", number);
  return 3;
}

int error_named(lua_State *L, const char *code, const char *format, ...) {
  char message[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  push(L, code, message);
  return 3;
}

int error_want(lua_State *L, bool write) {
  lua_pushnil(L);
  if (write)
    lua_pushliteral(L, "want_write");
  else
    lua_pushliteral(L, "want_read");
  return 2;
}

/* strerror(number): the system's words for an errno. */
static int error_strerror(lua_State *L) {
  error_errno(L, (int)luaL_checkinteger(L, 1));
  lua_pop(L, 1);
  return 1;
}

void error_open(lua_State *L) {
  lua_pushcfunction(L, error_strerror);
  lua_setfield(L, -2, "strerror");
}

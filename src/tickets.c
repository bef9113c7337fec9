/* The tickets that a server gives, by which its clients take sessions up again. They are sealed by
 * a key of the server name that was asked for: RFC 6066 3 forbids a server to resume a session
 * under another name, and what a name stands for (its certificate, what the program behind it
 * allows) must not be had by the ticket of another. GnuTLS 3.7.9 looks at the name in its own cache
 * of sessions, and never in a ticket. */
#include "session.h"

#include <gnutls/crypto.h>
#include <string.h>

/* Says what the key is made from; another form of it is another number. */
#define LABEL "tlsconnect tickets 1"

enum { SERVER_NAME = 0, ALPN = 16 }; /* of the IANA registry of extensions */

int tickets_make_key(Credentials *credentials) {
  if (credentials->ticket_key.data) return 0;
  return gnutls_session_ticket_key_generate(&credentials->ticket_key);
}

void tickets_wipe_key(Credentials *credentials) {
  gnutls_datum_t *key = &credentials->ticket_key;
  if (key->data) {
    gnutls_memset(key->data, 0, key->size);
    gnutls_free(key->data);
  }
  *key = (gnutls_datum_t){NULL, 0};
}

int tickets_copy_key(Credentials *credentials, const void *key, size_t size) {
  tickets_wipe_key(credentials);
  int rc = tickets_make_key(credentials); /* for GnuTLS's own allocation */
  if (rc < 0) return rc;
  if (size != credentials->ticket_key.size) return GNUTLS_E_INVALID_REQUEST;
  memcpy(credentials->ticket_key.data, key, size);
  return 0;
}

typedef struct {
  gnutls_hmac_hd_t hmac;
  bool early;
} Binding;

/* Adds the name as it stands in the extension: a client writes it the same each time. Where early
 * data is taken, it is to be of the protocol that was agreed on when the ticket was given (RFC 8446
 * 4.2.10): what a client offers decides on that, and GnuTLS 3.7.9 does not look. */
static int add_extension(void *context, unsigned id, const unsigned char *data, unsigned size) {
  Binding *binding = context;
  if (id != SERVER_NAME && !(id == ALPN && binding->early)) return 0;
  unsigned char begin[3] = {(unsigned char)id, (unsigned char)(size >> 8), (unsigned char)size};
  int rc = gnutls_hmac(binding->hmac, begin, sizeof begin);
  return rc < 0 ? rc : gnutls_hmac(binding->hmac, data, size);
}

/* The key of a ClientHello. What a client had to show is in it too: listeners that share a key may
 * ask for different things, and one that asks for a certificate does so in a full handshake. */
static int derive(const Credentials *credentials, const gnutls_datum_t *hello,
                  unsigned char key[TICKET_KEY_SIZE]) {
  Binding binding = {.early = credentials->early};
  int rc = gnutls_hmac_init(&binding.hmac, GNUTLS_MAC_SHA512, credentials->ticket_key.data,
                            credentials->ticket_key.size);
  if (rc < 0) return rc;
  unsigned char mode = (unsigned char)credentials->client_certificates;
  rc = gnutls_hmac(binding.hmac, LABEL, sizeof LABEL);
  if (rc >= 0) rc = gnutls_hmac(binding.hmac, &mode, 1);
  if (rc >= 0)
    rc = gnutls_ext_raw_parse(&binding, add_extension, hello, GNUTLS_EXT_RAW_FLAG_TLS_CLIENT_HELLO);
  gnutls_hmac_deinit(binding.hmac, key);
  return rc;
}

/* Called in the hook, before GnuTLS looks into the ClientHello. */
int tickets_see_hello(Session *session, const gnutls_datum_t *hello) {
  const Credentials *credentials = session->credentials;
  Handshake *handshake = session->handshake;
  unsigned char key[TICKET_KEY_SIZE];
  if (credentials->no_tickets) return 0;
  int rc = derive(credentials, hello, key);
  if (rc == GNUTLS_E_MEMORY_ERROR) return rc;
  if (rc < 0) return 0; /* GnuTLS will say what is wrong with it */
  if (!handshake->has_ticket_key) {
    gnutls_datum_t datum = {key, sizeof key};
    rc = gnutls_session_ticket_enable_server(session->tls, &datum);
    memcpy(handshake->ticket_key, key, sizeof key);
    handshake->has_ticket_key = true;
  } else if (gnutls_memcmp(handshake->ticket_key, key, sizeof key) != 0) {
    /* RFC 8446 4.1.2: after HelloRetryRequest the client asks for the same. */
    rc = GNUTLS_E_RECEIVED_ILLEGAL_PARAMETER;
  }
  gnutls_memset(key, 0, sizeof key);
  return rc;
}

/* The bench's client on raw OpenSSL, with one context for all connections. */
#include <openssl/err.h>
#include <openssl/ssl.h>

struct Connection {
  SSL *tls;
  int fd;
};

#include "client.h"

static SSL_CTX *context;
static SSL_SESSION *session;

static int new_session(SSL *tls, SSL_SESSION *given) {
  (void)tls;
  if (session) SSL_SESSION_free(session);
  session = given;
  return 1;
}

static void library_setup(void) {
  context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
  if (SSL_CTX_load_verify_locations(context, ca_file, NULL) != 1) fail("roots");
  SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384");
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(context, new_session);
}

static Connection *library_open(int fd, bool resume) {
  Connection *connection = calloc(1, sizeof *connection);
  connection->fd = fd;
  connection->tls = SSL_new(context);
  SSL_set_tlsext_host_name(connection->tls, NAME);
  SSL_set1_host(connection->tls, NAME);
  SSL_set_fd(connection->tls, fd);
  if (resume) SSL_set_session(connection->tls, session);
  if (SSL_connect(connection->tls) != 1) fail("handshake");
  return connection;
}

static void library_close(Connection *connection) {
  SSL_shutdown(connection->tls);
  SSL_free(connection->tls);
  close(connection->fd);
  free(connection);
}

static ssize_t library_read(Connection *connection, void *buffer, size_t size) {
  return SSL_read(connection->tls, buffer, (int)size);
}

static void library_write(Connection *connection, const void *data, size_t size) {
  if (SSL_write(connection->tls, data, (int)size) != (int)size) fail("write");
}

/* OpenSSL gathers nothing: a program fills a buffer of its own. */
static void library_gather(Connection *connection, bool begin) {
  (void)connection;
  (void)begin;
}

static int library_fd(const Connection *connection) {
  return connection->fd;
}

static void library_roots(const char *file) {
  X509_STORE *store = X509_STORE_new();
  if (X509_STORE_load_file(store, file) != 1) fail("roots");
}

static void library_keep(Connection *connection) {
  (void)connection; /* new_session has it */
}

static bool library_resumed(Connection *connection) {
  return SSL_session_reused(connection->tls);
}

/* The bench's client on raw GnuTLS, used as well as it can be: credentials and priorities made
 * once, X25519 alone in the first flight, AES-128-GCM first. */
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdint.h>
#include <sys/uio.h>

#define TUNED

enum { AHEAD = 262144 };

struct Connection {
  gnutls_session_t tls;
  int fd;
  char *ahead; /* what the kernel had beyond what GnuTLS asked for */
  size_t start, end;
};

#include "client.h"

static gnutls_certificate_credentials_t credentials;
static gnutls_priority_t priority;
static gnutls_datum_t session;

static void library_setup(void) {
  gnutls_certificate_allocate_credentials(&credentials);
  if (gnutls_certificate_set_x509_trust_file(credentials, ca_file, GNUTLS_X509_FMT_PEM) < 1)
    fail("roots");
  if (gnutls_priority_init2(&priority,
                            "-VERS-TLS1.1:-VERS-TLS1.0:-GROUP-ALL:+GROUP-X25519:+GROUP-SECP256R1:"
                            "-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305",
                            NULL, GNUTLS_PRIORITY_INIT_DEF_APPEND) < 0)
    fail("priorities");
}

static Connection *library_open(int fd, bool resume) {
  Connection *connection = calloc(1, sizeof *connection);
  connection->fd = fd;
  gnutls_init(&connection->tls, GNUTLS_CLIENT | GNUTLS_KEY_SHARE_TOP | GNUTLS_NO_SIGNAL);
  gnutls_priority_set(connection->tls, priority);
  gnutls_credentials_set(connection->tls, GNUTLS_CRD_CERTIFICATE, credentials);
  gnutls_server_name_set(connection->tls, GNUTLS_NAME_DNS, NAME, sizeof NAME - 1);
  gnutls_session_set_verify_cert(connection->tls, NAME, 0);
  gnutls_transport_set_int(connection->tls, fd);
  if (resume) gnutls_session_set_data(connection->tls, session.data, session.size);
  int rc;
  do
    rc = gnutls_handshake(connection->tls);
  while (rc < 0 && !gnutls_error_is_fatal(rc));
  if (rc < 0) fail(gnutls_strerror(rc));
  return connection;
}

static ssize_t pull(gnutls_transport_ptr_t pointer, void *data, size_t size) {
  Connection *connection = pointer;
  size_t part = connection->end - connection->start;
  if (part > size) part = size;
  memcpy(data, connection->ahead + connection->start, part);
  connection->start += part;
  if (part == size) return (ssize_t)size;
  struct iovec pieces[2] = {{(char *)data + part, size - part}, {connection->ahead, AHEAD}};
  ssize_t got = readv(connection->fd, pieces, 2);
  if (got <= 0) return got;
  connection->start = connection->end = 0;
  if ((size_t)got <= size - part) return (ssize_t)part + got;
  connection->end = (size_t)got - (size - part);
  return (ssize_t)size;
}

static void library_tune(Connection *connection) {
  connection->ahead = malloc(AHEAD);
  if (!connection->ahead) fail("memory");
  gnutls_transport_set_pull_function(connection->tls, pull);
  gnutls_transport_set_ptr2(connection->tls, connection, (void *)(intptr_t)connection->fd);
}

static void library_close(Connection *connection) {
  gnutls_bye(connection->tls, GNUTLS_SHUT_WR);
  gnutls_deinit(connection->tls);
  close(connection->fd);
  free(connection->ahead);
  free(connection);
}

static ssize_t library_read(Connection *connection, void *buffer, size_t size) {
  ssize_t rc;
  do
    rc = gnutls_record_recv(connection->tls, buffer, size);
  while (rc == GNUTLS_E_AGAIN || rc == GNUTLS_E_INTERRUPTED);
  return rc;
}

static void library_write(Connection *connection, const void *data, size_t size) {
  const char *bytes = data;
  while (size) {
    ssize_t rc = gnutls_record_send(connection->tls, bytes, size);
    if (rc < 0) fail("send");
    bytes += rc;
    size -= (size_t)rc;
  }
}

static void library_gather(Connection *connection, bool begin) {
  if (begin)
    gnutls_record_cork(connection->tls);
  else if (gnutls_record_uncork(connection->tls, GNUTLS_RECORD_WAIT) < 0)
    fail("uncork");
}

static int library_fd(const Connection *connection) {
  return connection->fd;
}

static void library_roots(const char *file) {
  gnutls_x509_trust_list_t list;
  gnutls_x509_trust_list_init(&list, 0);
  if (gnutls_x509_trust_list_add_trust_file(list, file, NULL, GNUTLS_X509_FMT_PEM, 0, 0) < 1)
    fail("roots");
}

static void library_keep(Connection *connection) {
  if (!(gnutls_session_get_flags(connection->tls) & GNUTLS_SFLAGS_SESSION_TICKET))
    fail("no ticket");
  gnutls_free(session.data);
  if (gnutls_session_get_data2(connection->tls, &session) < 0) fail("no session");
}

static bool library_resumed(Connection *connection) {
  return gnutls_session_is_resumed(connection->tls);
}

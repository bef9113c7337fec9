/* A careful client on GnuTLS alone, to stand beside ours: verifies with GnuTLS's one call, with a
 * name, a purpose, a security profile and revocation lists; and with a limit of depth,
 * which that call does not have. Reads cases from standard input as
 * spec/corpus/plain.lua writes them, and prints "1" or "0" for each: taken or not. */
#include <arpa/inet.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROOTS, CHAIN, CRLS, TEXTS };
static const char *const sections[TEXTS] = {"roots", "chain", "crls"};

typedef struct {
  time_t time;
  char host[512], ip[64], purpose[64];
  int depth; /* intermediates; -1: no limit */
  char *text[TEXTS];
  size_t size[TEXTS];
} Case;

static time_t now;

static time_t clock_of_case(time_t *t) {
  if (t) *t = now;
  return now;
}

static void die(const char *what) {
  fprintf(stderr, "plain: %s\n", what);
  exit(2);
}

static gnutls_datum_t datum(Case *one, int section) {
  return (gnutls_datum_t){(unsigned char *)(one->text[section] ? one->text[section] : ""),
                          (unsigned)one->size[section]};
}

/* Intermediates that are not self-issued, as RFC 5280 counts them. */
static int depth(gnutls_x509_crt_t const *chain, unsigned count) {
  int found = 0;
  for (unsigned i = 1; i < count; i++) {
    gnutls_datum_t subject, issuer;
    if (gnutls_x509_crt_get_raw_dn(chain[i], &subject) < 0) continue;
    if (gnutls_x509_crt_get_raw_issuer_dn(chain[i], &issuer) >= 0) {
      found += subject.size != issuer.size || memcmp(subject.data, issuer.data, issuer.size) != 0;
      gnutls_free(issuer.data);
    }
    gnutls_free(subject.data);
  }
  return found;
}

/* What is broken cannot be read, and is refused. */
static int judge(Case *one) {
  gnutls_x509_trust_list_t trust;
  gnutls_x509_crt_t *roots = NULL, *chain = NULL;
  gnutls_x509_crl_t *crls = NULL;
  unsigned root_count = 0, count = 0, crl_count = 0, status = 0;
  gnutls_datum_t text = datum(one, CHAIN);
  int taken = 0;
  now = one->time;
  if (gnutls_x509_trust_list_init(&trust, 0) < 0) die("no memory");
  if (gnutls_x509_crt_list_import2(&chain, &count, &text, GNUTLS_X509_FMT_PEM, 0) < 0) goto done;
  text = datum(one, ROOTS);
  if (gnutls_x509_crt_list_import2(&roots, &root_count, &text, GNUTLS_X509_FMT_PEM, 0) < 0)
    goto done;
  gnutls_x509_trust_list_add_cas(trust, roots, root_count, 0);
  if (one->size[CRLS]) {
    text = datum(one, CRLS);
    if (gnutls_x509_crl_list_import2(&crls, &crl_count, &text, GNUTLS_X509_FMT_PEM, 0) < 0)
      goto done;
    if (gnutls_x509_trust_list_add_crls(trust, crls, crl_count, GNUTLS_TL_VERIFY_CRL, 0) <
        (int)crl_count)
      goto done;
  }
  unsigned char address[16];
  gnutls_typed_vdata_st asked[2];
  unsigned questions = 0;
  memset(asked, 0, sizeof asked);
  if (one->host[0]) {
    asked[questions].type = GNUTLS_DT_DNS_HOSTNAME;
    asked[questions++].data = (unsigned char *)one->host;
  } else if (one->ip[0]) {
    int four = inet_pton(AF_INET, one->ip, address) == 1;
    if (!four && inet_pton(AF_INET6, one->ip, address) != 1) goto done;
    asked[questions].type = GNUTLS_DT_IP_ADDRESS;
    asked[questions].data = address;
    asked[questions++].size = four ? 4 : 16;
  }
  asked[questions].type = GNUTLS_DT_KEY_PURPOSE_OID;
  asked[questions++].data =
      (unsigned char *)(strcmp(one->purpose, "client") == 0 ? GNUTLS_KP_TLS_WWW_CLIENT
                                                            : GNUTLS_KP_TLS_WWW_SERVER);
  int rc = gnutls_x509_trust_list_verify_crt2(trust, chain, count, asked, questions,
                                              GNUTLS_PROFILE_TO_VFLAGS(GNUTLS_PROFILE_MEDIUM),
                                              &status, NULL);
  taken = rc == 0 && status == 0 && (one->depth < 0 || depth(chain, count) <= one->depth);
done:
  for (unsigned i = 0; i < count; i++)
    gnutls_x509_crt_deinit(chain[i]);
  gnutls_free(chain);
  gnutls_free(roots);
  gnutls_free(crls);
  gnutls_x509_trust_list_deinit(trust, 1);
  return taken;
}

static void append(Case *one, int section, const char *line, size_t size) {
  char *bigger = realloc(one->text[section], one->size[section] + size + 1);
  if (!bigger) die("no memory");
  memcpy(bigger + one->size[section], line, size + 1);
  one->text[section] = bigger;
  one->size[section] += size;
}

int main(void) {
  static const Case none = {.depth = -1};
  Case one = none;
  char *line = NULL;
  size_t room = 0;
  ssize_t size;
  int section = -1;
  gnutls_global_set_time_function(clock_of_case);
  while ((size = getline(&line, &room, stdin)) > 0) {
    long long number;
    int found = 0;
    for (int i = 0; i < TEXTS; i++)
      if (strncmp(line, sections[i], strlen(sections[i])) == 0) section = i, found = 1;
    if (found) continue;
    if (strcmp(line, "end\n") == 0) {
      printf("%d\n", judge(&one));
      for (int i = 0; i < TEXTS; i++)
        free(one.text[i]);
      one = none;
      section = -1;
    } else if (section >= 0) {
      append(&one, section, line, (size_t)size);
    } else if (sscanf(line, "time %lld", &number) == 1) {
      one.time = (time_t)number;
    } else if (sscanf(line, "depth %d", &one.depth) != 1 &&
               sscanf(line, "host %511s", one.host) != 1 && sscanf(line, "ip %63s", one.ip) != 1 &&
               sscanf(line, "purpose %63s", one.purpose) != 1) {
      die(line);
    }
  }
  free(line);
  return 0;
}

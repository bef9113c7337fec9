/* PEM blocks (RFC 7468) in text that may hold anything else beside them. */
#include "x509.h"

#include <string.h>

static const char begin_line[] = "-----BEGIN ", end_line[] = "-----END ", dashes[] = "-----";

/* What is looked for begins with a dash, of which base64 has none: memchr() goes over a body many
 * bytes at a time. */
static const unsigned char *search(const unsigned char *data, const unsigned char *end,
                                   const char *what, size_t size) {
  while ((size_t)(end - data) >= size) {
    const unsigned char *p = memchr(data, '-', (size_t)(end - data) - size + 1);
    if (!p) return NULL;
    if (p[size - 1] == (unsigned char)what[size - 1] && memcmp(p, what, size) == 0) return p;
    data = p + 1;
  }
  return NULL;
}

/* A line may be indented, as it is in a program's own text. */
static bool starts_line(const unsigned char *start, const unsigned char *p) {
  return p == start || strchr("\n\r\t ", p[-1]) != NULL;
}

int pem_next(Bytes *text, Pem *pem) {
  if (text->size == 0) return 0;
  const unsigned char *end = text->data + text->size, *p = text->data, *label, *label_end;
  for (;;) {
    p = search(p, end, begin_line, sizeof begin_line - 1);
    if (!p) {
      *text = (Bytes){end, 0};
      return 0;
    }
    label = p + sizeof begin_line - 1;
    if (starts_line(text->data, p)) break;
    p = label;
  }
  size_t room = (size_t)(end - label) < 64 ? (size_t)(end - label) : 64;
  label_end = search(label, label + room, dashes, sizeof dashes - 1);
  if (!label_end) return -1;
  pem->label = (Bytes){label, (size_t)(label_end - label)};

  char last[sizeof end_line + 64 + sizeof dashes];
  size_t size = sizeof end_line - 1;
  memcpy(last, end_line, size);
  memcpy(last + size, label, pem->label.size);
  size += pem->label.size;
  memcpy(last + size, dashes, sizeof dashes - 1);
  size += sizeof dashes - 1;
  const unsigned char *body = label_end + sizeof dashes - 1;
  const unsigned char *body_end = search(body, end, last, size);
  if (!body_end) return -1;
  pem->body = (Bytes){body, (size_t)(body_end - body)};
  pem->block = (Bytes){p, (size_t)(body_end + size - p)};
  *text = (Bytes){body_end + size, (size_t)(end - body_end) - size};
  return 1;
}

/* A line that begins a block may be cut at the end: all but one of its bytes, and the one before
 * it. When those are a whole such line it stood where none may, and no other is begun in it. */
void pem_keep(Bytes *text) {
  size_t size = sizeof begin_line - 1;
  const unsigned char *end = text->data + text->size;
  if (text->size < size) return;
  if (memcmp(end - size, begin_line, size) == 0) size = 0;
  *text = (Bytes){end - size, size};
}

bool pem_is(const Pem *pem, const char *label) {
  return der_is(pem->label, label, strlen(label));
}

gnutls_datum_t *pem_decode(lua_State *L, const Pem *pem) {
  gnutls_datum_t body = {(unsigned char *)pem->body.data, (unsigned)pem->body.size};
  gnutls_datum_t *der = core_datum(L);
  int rc = gnutls_base64_decode2(&body, der);
  if (rc == GNUTLS_E_MEMORY_ERROR) {
    error_gnutls(L, rc);
    return NULL;
  }
  if (rc < 0 || der->size == 0) {
    error_named(L, "bad_pem", "the base64 between the PEM lines is broken");
    return NULL;
  }
  return der;
}

void pem_pushbase64(lua_State *L, Bytes bytes) {
  gnutls_datum_t raw = {(unsigned char *)bytes.data, (unsigned)bytes.size};
  gnutls_datum_t *text = core_datum(L);
  if (gnutls_base64_encode2(&raw, text) < 0) luaL_error(L, "not enough memory");
  lua_pushlstring(L, (const char *)text->data, text->size);
  lua_remove(L, -2);
}

void pem_push(lua_State *L, const char *label, Bytes der) {
  gnutls_datum_t raw = {(unsigned char *)der.data, (unsigned)der.size};
  gnutls_datum_t *text = core_datum(L);
  if (gnutls_pem_base64_encode2(label, &raw, text) < 0) luaL_error(L, "not enough memory");
  lua_pushlstring(L, (const char *)text->data, text->size);
  lua_remove(L, -2);
}

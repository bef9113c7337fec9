/* PEM blocks (RFC 7468) in text that may hold anything else beside them. */
#include "x509.h"

#include <string.h>

static const char begin_line[] = "-----BEGIN ", end_line[] = "-----END ", dashes[] = "-----";

static const unsigned char *search(const unsigned char *data, const unsigned char *end,
                                   const char *what, size_t size) {
  return data < end ? memmem(data, (size_t)(end - data), what, size) : NULL;
}

/* A line may be indented, as it is in a program's own text. */
static bool starts_line(const unsigned char *start, const unsigned char *p) {
  return p == start || strchr("\n\r\t ", p[-1]) != NULL;
}

int pem_next(Bytes *text, Pem *pem) {
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

/* Host names: one spelling for each host, before anything looks at it. UTS 46 and RFC 5891 by
 * GnuTLS's libidn2, with checks of what that lets through. */
#include "core.h"

#include <string.h>

enum { LABEL = 63 /* RFC 1035 2.3.4 */ };

static bool is_digit(char byte) {
  return byte >= '0' && byte <= '9';
}

static bool is_name_byte(char byte) {
  return is_digit(byte) || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
         byte == '-' || byte == '_';
}

static size_t span(const char *text, size_t size, const char *set) {
  size_t count = 0;
  while (count < size && text[count] && strchr(set, text[count]))
    count++;
  return count;
}

/* WHATWG URL, "ends in a number": inet_aton and some resolvers read such a name as an address in
 * its short, octal or hexadecimal form. No top-level domain looks so. */
static bool is_number(const char *label, size_t size) {
  if (span(label, size, "0123456789") == size) return true;
  return size >= 2 && label[0] == '0' && (label[1] == 'x' || label[1] == 'X') &&
         span(label + 2, size - 2, "0123456789abcdefABCDEF") == size - 2;
}

const char *idna_fault(const char *name, size_t size) {
  if (size == 0) return "the name is empty";
  if (size > IDNA_MAX) return "the name is longer than 253 bytes";
  const char *end = name + size, *label = name;
  for (;;) {
    const char *at = label;
    while (at < end && is_name_byte(*at))
      at++;
    if (at < end && *at != '.') return "the name holds a character that no host name has";
    if (at == label) return "the name has an empty label";
    if (at - label > LABEL) return "the name has a label longer than 63 bytes";
    if (at == end) break;
    label = at + 1;
  }
  return is_number(label, (size_t)(end - label)) ? "the name ends in a number" : NULL;
}

/* Calls GnuTLS's mapping with a result that the collector frees. Leaves it on the stack. */
static const gnutls_datum_t *
mapped_by(lua_State *L, int (*map)(const char *, unsigned, gnutls_datum_t *, unsigned),
          const char *text, size_t size, int *error) {
  gnutls_datum_t *mapped = core_datum(L);
  *error = map(text, (unsigned)size, mapped, 0);
  return mapped;
}

static bool is_ascii(const char *text, size_t size) {
  for (size_t i = 0; i < size; i++)
    if ((unsigned char)text[i] >= 0x80) return false;
  return true;
}

/* UTS 46 ignores these: what cannot be seen may disappear, and leaves the one name that is seen. */
static bool is_ignorable(const unsigned char *text, size_t size) {
  uint32_t point = 0;
  if (size == 2) point = (uint32_t)(text[0] & 0x1f) << 6 | (text[1] & 0x3f);
  if (size == 3)
    point = (uint32_t)(text[0] & 0x0f) << 12 | (uint32_t)(text[1] & 0x3f) << 6 | (text[2] & 0x3f);
  return point == 0xad || point == 0x34f || (point >= 0x180b && point <= 0x180d) ||
         point == 0x200b || point == 0x2060 || point == 0x2064 ||
         (point >= 0xfe00 && point <= 0xfe0f) || point == 0xfeff;
}

/* libidn2 leaves out what UTS 46 forbids beside STD3's letters, such as a full-width slash, and the
 * rest would be another host's name. Tells by mapping each character between two others. */
static bool loses_character(lua_State *L, const char *label, size_t size) {
  for (size_t i = 0; i < size;) {
    size_t length = 1;
    while (i + length < size && ((unsigned char)label[i + length] & 0xc0) == 0x80)
      length++;
    if (length > 1 && length <= 4 && !is_ignorable((const unsigned char *)label + i, length)) {
      char probe[6] = "a";
      memcpy(probe + 1, label + i, length);
      probe[length + 1] = 'a';
      int error;
      const gnutls_datum_t *mapped = mapped_by(L, gnutls_idna_map, probe, length + 2, &error);
      bool lost = error >= 0 && mapped->size == 2;
      lua_pop(L, 1);
      if (lost) return true;
    }
    i += length;
  }
  return false;
}

/* RFC 5891: a label with other than ASCII letters becomes its A-label. Adds it to the buffer that
 * has room for LABEL bytes; returns what is wrong, or NULL. */
static const char *map_label(lua_State *L, const char *label, size_t size, char *out,
                             size_t *written) {
  static const char *const fault = "the name has a label that is no valid international one";
  int error;
  if (memchr(label, '_', size) || loses_character(L, label, size)) return fault;
  const gnutls_datum_t *mapped = mapped_by(L, gnutls_idna_map, label, size, &error);
  const char *result = NULL;
  if (error == GNUTLS_E_UNIMPLEMENTED_FEATURE)
    result = "this GnuTLS was built without international names";
  else if (error < 0 || mapped->size == 0 || memchr(mapped->data, '.', mapped->size) ||
           !is_ascii((char *)mapped->data, mapped->size))
    result = fault;
  else if (mapped->size > LABEL)
    result = "the name has a label longer than 63 bytes";
  else
    memcpy(out, mapped->data, *written = mapped->size);
  lua_pop(L, 1);
  return result;
}

/* An A-label must be the one that its own Unicode form has: there is one spelling for a host. */
static const char *check_a_label(lua_State *L, const char *label, size_t size) {
  int error, again = 0;
  const gnutls_datum_t *unicode = mapped_by(L, gnutls_idna_reverse_map, label, size, &error);
  bool good = error == GNUTLS_E_UNIMPLEMENTED_FEATURE;
  if (error >= 0 && !is_ascii((char *)unicode->data, unicode->size)) {
    const gnutls_datum_t *mapped =
        mapped_by(L, gnutls_idna_map, (char *)unicode->data, unicode->size, &again);
    good = again >= 0 && mapped->size == size && memcmp(mapped->data, label, size) == 0;
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return good ? NULL : "the name has an xn-- label that stands for nothing";
}

/* The length of a label separator at `text`: RFC 3490's ideographic and full-width dots, too. */
static size_t separator(const char *text, size_t left) {
  if (*text == '.') return 1;
  if (left >= 3 && (memcmp(text, "\xe3\x80\x82", 3) == 0 || memcmp(text, "\xef\xbc\x8e", 3) == 0 ||
                    memcmp(text, "\xef\xbd\xa1", 3) == 0))
    return 3;
  return 0;
}

/* to_ascii(name) -> the one spelling of that host: A-labels, lower case, no dot at the end
 * The code of what is refused is "bad_host". UTS 46 and RFC 5891, on UTF-8. */
static int idna_to_ascii(lua_State *L) {
  size_t size;
  const char *name = luaL_checklstring(L, 1, &size);
  char out[IDNA_MAX + 1 + LABEL + 1];
  size_t length = 0, start = 0;
  const char *fault = NULL;
  while (start < size && !fault) {
    size_t end = start, dot = 0, written = 0;
    while (end < size && (dot = separator(name + end, size - end)) == 0)
      end++;
    const char *label = name + start;
    size_t label_size = end - start;
    char *to = out + length;
    if (label_size > 4 * LABEL + 4)
      fault = "the name has a label longer than 63 bytes";
    else if (!is_ascii(label, label_size))
      for (size_t i = 0; i < label_size && !fault; i++) {
        bool plain = (unsigned char)label[i] >= 0x80 || is_name_byte(label[i]);
        if (!plain) fault = "the name holds a character that no host name has";
      }
    else if (label_size > LABEL)
      fault = "the name has a label longer than 63 bytes";
    else
      memcpy(to, label, written = label_size);
    if (!fault && !is_ascii(label, label_size))
      fault = map_label(L, label, label_size, to, &written);
    for (size_t i = 0; i < written; i++)
      if (to[i] >= 'A' && to[i] <= 'Z') to[i] = (char)(to[i] - 'A' + 'a');
    if (!fault && written >= 4 && memcmp(to, "xn--", 4) == 0) fault = check_a_label(L, to, written);
    length += written;
    start = end + dot;
    if (dot && start < size && !fault) out[length++] = '.';
    if (length > IDNA_MAX && !fault) fault = "the name is longer than 253 bytes";
    if (dot && written == 0 && !fault) fault = "the name has an empty label";
  }
  if (!fault) fault = idna_fault(out, length);
  if (fault) return error_named(L, "bad_host", "%s", fault);
  lua_pushlstring(L, out, length);
  return 1;
}

void idna_open(lua_State *L) {
  lua_pushcfunction(L, idna_to_ascii);
  lua_setfield(L, -2, "to_ascii");
}

/* RFC 9525: whether a certificate stands for a DNS name or an address. */
#include "trust.h"

#include <string.h>

static unsigned char lower(unsigned char c) {
  return c >= 'A' && c <= 'Z' ? (unsigned char)(c | 0x20) : c;
}

static bool same(Bytes a, Bytes b) {
  if (a.size != b.size) return false;
  for (size_t i = 0; i < a.size; i++)
    if (lower(a.data[i]) != lower(b.data[i])) return false;
  return true;
}

static Bytes after_first_label(Bytes name) {
  const unsigned char *dot = memchr(name.data, '.', name.size);
  if (!dot) return (Bytes){name.data + name.size, 0};
  size_t skip = (size_t)(dot - name.data) + 1;
  return (Bytes){name.data + skip, name.size - skip};
}

bool hostname_valid(Bytes name, bool wildcard) {
  if (wildcard && name.size > 2 && name.data[0] == '*' && name.data[1] == '.') {
    name.data += 2;
    name.size -= 2;
  }
  if (name.size == 0 || name.size > 253) return false;
  size_t label = 0;
  for (size_t i = 0; i <= name.size; i++) {
    if (i == name.size || name.data[i] == '.') {
      if (label == 0 || label > 63) return false;
      if (name.data[i - 1] == '-' || name.data[i - label] == '-') return false;
      label = 0;
      continue;
    }
    unsigned char c = lower(name.data[i]);
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_')) return false;
    label++;
  }
  return true;
}

/* What registries call the second level below a country: "*.co.uk" would stand for a whole
 * country's companies. The public suffix list knows all of them; these are the common ones. */
static bool registry_label(Bytes label) {
  static const char *const labels[] = {
      "ac",  "asn", "co", "com", "edu", "gob", "gouv", "gov", "go",  "id",     "ltd", "me",
      "mil", "mod", "ne", "net", "nhs", "nom", "or",   "org", "plc", "police", "sch", "school"};
  for (size_t i = 0; i < sizeof labels / sizeof *labels; i++)
    if (same(label, (Bytes){(const unsigned char *)labels[i], strlen(labels[i])})) return true;
  return false;
}

/* A wildcard must leave at least two labels, and not only a country's registry. */
static bool too_wide(Bytes base) {
  Bytes top = after_first_label(base);
  if (top.size == 0) return true;
  if (memchr(top.data, '.', top.size) || top.size != 2) return false;
  return registry_label((Bytes){base.data, base.size - top.size - 1});
}

bool hostname_dns_matches(Bytes presented, Bytes reference) {
  if (!hostname_valid(presented, true) || reference.size == 0 || reference.data[0] == '.')
    return false;
  if (presented.data[0] != '*') return same(presented, reference);
  Bytes base = after_first_label(presented);
  Bytes rest = after_first_label(reference);
  return rest.size > 0 && !too_wide(base) && same(base, rest);
}

bool hostname_covers(Bytes presented, Bytes name) {
  if (presented.size < 2 || presented.data[0] != '*' || presented.data[1] != '.')
    return same(presented, name);
  Bytes rest = after_first_label(name);
  return rest.size > 0 && same(after_first_label(presented), rest);
}

bool hostname_matches(const View *view, const Reference *reference) {
  Bytes in = view->names, content;
  unsigned kind;
  while (in.size && general_name_next(&in, &kind, &content)) {
    if (reference->dns.data) {
      if (kind == NAME_DNS && hostname_dns_matches(content, reference->dns)) return true;
    } else if (kind == NAME_IP && content.size == reference->address_size &&
               memcmp(content.data, reference->address, content.size) == 0) {
      return true;
    }
  }
  return false;
}

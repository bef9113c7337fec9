/* Name constraints, RFC 5280 4.2.1.10: each issuer of a path may say which names the certificates
 * below it may carry. All sets hold together; a name that cannot be judged is refused. */
#include "trust.h"

#include <string.h>

static unsigned char lower(unsigned char c) {
  return c >= 'A' && c <= 'Z' ? (unsigned char)(c | 0x20) : c;
}

static bool same(const unsigned char *a, const unsigned char *b, size_t size) {
  for (size_t i = 0; i < size; i++)
    if (lower(a[i]) != lower(b[i])) return false;
  return true;
}

/* `name` is `domain` or ends in "." domain. The empty domain holds every name. */
static bool within(Bytes name, Bytes domain) {
  if (domain.size && domain.data[0] == '.') {
    domain.data++;
    domain.size--;
    if (name.size <= domain.size) return false; /* a leading dot asks for one label more */
  }
  if (domain.size == 0) return true;
  if (name.size < domain.size) return false;
  size_t skip = name.size - domain.size;
  return same(name.data + skip, domain.data, domain.size) &&
         (skip == 0 || name.data[skip - 1] == '.');
}

static bool exactly(Bytes a, Bytes b) {
  return a.size == b.size && same(a.data, b.data, a.size);
}

/* Names of each kind: does `name` lie in `subtree`? `broken` is set when the name is none of its
 * kind, so that it cannot be judged. */

static bool dns_within(Bytes name, Bytes subtree, bool excluded, bool *broken) {
  if (!hostname_valid(name, true)) {
    *broken = true;
    return false;
  }
  if (name.data[0] != '*') return within(name, subtree);
  Bytes base = {name.data + 2, name.size - 2};
  if (within(base, subtree)) return true;
  if (!excluded) return false;
  /* "*.example.com" also stands for "bar.example.com": an excluded one label below is met. */
  if (subtree.size && subtree.data[0] == '.') return false;
  const unsigned char *dot = memchr(subtree.data, '.', subtree.size);
  if (!dot) return false;
  size_t skip = (size_t)(dot - subtree.data) + 1;
  return exactly(base, (Bytes){subtree.data + skip, subtree.size - skip});
}

static bool email_split(Bytes address, Bytes *local, Bytes *host) {
  const unsigned char *at = memchr(address.data, '@', address.size);
  if (!at) return false;
  *local = (Bytes){address.data, (size_t)(at - address.data)};
  *host = (Bytes){at + 1, address.size - local->size - 1};
  return local->size && hostname_valid(*host, false);
}

static bool email_within(Bytes name, Bytes subtree, bool *broken) {
  Bytes local, host, wanted_local, wanted_host;
  if (!name.size || !email_split(name, &local, &host)) {
    *broken = true;
    return false;
  }
  if (email_split(subtree, &wanted_local, &wanted_host))
    return bytes_equal(local, wanted_local) && exactly(host, wanted_host);
  if (subtree.size && subtree.data[0] == '.') return within(host, subtree);
  return subtree.size == 0 || exactly(host, subtree);
}

/* The host of scheme://user@host:port/path, RFC 3986. */
static bool uri_host(Bytes uri, Bytes *host) {
  const unsigned char *p = uri.data, *end = uri.data + uri.size;
  while (p < end && *p != ':' && *p != '/' && *p != '?' && *p != '#')
    p++;
  if (end - p < 3 || p[0] != ':' || p[1] != '/' || p[2] != '/') return false;
  const unsigned char *start = p + 3, *stop = start;
  while (stop < end && *stop != '/' && *stop != '?' && *stop != '#')
    stop++;
  for (p = start; p < stop; p++)
    if (*p == '@') start = p + 1;
  for (p = start; p < stop && *p != ':'; p++)
    if (*p == '[') return false; /* an address, which a URI constraint cannot judge */
  *host = (Bytes){start, (size_t)(p - start)};
  if (!hostname_valid(*host, false)) return false;
  for (size_t i = host->size; i-- > 0 && host->data[i] != '.';)
    if (host->data[i] < '0' || host->data[i] > '9') return true;
  return false; /* its last label is a number: an IPv4 address */
}

static bool uri_within(Bytes name, Bytes subtree, bool *broken) {
  Bytes host;
  if (!uri_host(name, &host)) {
    *broken = true;
    return false;
  }
  if (subtree.size && subtree.data[0] == '.') return within(host, subtree);
  return subtree.size == 0 || exactly(host, subtree);
}

static bool ip_within(Bytes name, Bytes subtree, bool *broken) {
  if (name.size != 4 && name.size != 16) {
    *broken = true;
    return false;
  }
  if (subtree.size != name.size * 2) return false;
  for (size_t i = 0; i < name.size; i++)
    if ((name.data[i] ^ subtree.data[i]) & subtree.data[name.size + i]) return false;
  return true;
}

/* Directory names: the subtree's RDNs are the first ones of the name. Strings are compared as RFC
 * 5280 7.1 asks: any string type, letters of any case, runs of spaces as one. */
static bool next_letter(Bytes *in, bool start, unsigned char *c) {
  bool space = false;
  while (in->size && in->data[0] == ' ') {
    space = true;
    in->data++;
    in->size--;
  }
  if (in->size == 0) return false;
  if (space && !start) {
    *c = ' ';
    return true;
  }
  *c = lower(in->data[0]);
  in->data++;
  in->size--;
  return true;
}

static bool is_text(unsigned tag) {
  return tag == DER_UTF8_STRING || tag == DER_PRINTABLE_STRING || tag == DER_IA5_STRING ||
         tag == DER_T61_STRING;
}

static bool same_text(Bytes a, Bytes b) {
  for (bool start = true;; start = false) {
    unsigned char x = 0, y = 0;
    bool more = next_letter(&a, start, &x);
    if (more != next_letter(&b, start, &y)) return false;
    if (!more) return true;
    if (x != y) return false;
  }
}

static bool same_value(unsigned tag, Bytes a, unsigned other, Bytes b) {
  if (is_text(tag) && is_text(other)) return same_text(a, b);
  return tag == other && bytes_equal(a, b);
}

/* Two RDNs, SETs of one or more attributes; DER has sorted them, but not by folded value. */
static bool same_set(Bytes a, Bytes b) {
  size_t in_a = 0, in_b = 0;
  Bytes pair, type, value, other_type, other_value;
  unsigned tag, other;
  for (Bytes rest = b; rest.size; in_b++)
    if (!der_take(&rest, DER_SEQUENCE, &pair)) return false;
  while (a.size) {
    if (!der_take(&a, DER_SEQUENCE, &pair) || !der_take(&pair, DER_OID, &type) ||
        !der_next(&pair, &tag, &value, NULL))
      return false;
    bool found = false;
    for (Bytes rest = b; rest.size && !found;) {
      if (!der_take(&rest, DER_SEQUENCE, &pair) || !der_take(&pair, DER_OID, &other_type) ||
          !der_next(&pair, &other, &other_value, NULL))
        return false;
      found = bytes_equal(type, other_type) && same_value(tag, value, other, other_value);
    }
    if (!found) return false;
    in_a++;
  }
  return in_a == in_b;
}

static bool directory_within(Bytes name, Bytes subtree, bool *broken) {
  Bytes names, subtrees, set, wanted;
  if (!der_take(&name, DER_SEQUENCE, &names) || !der_take(&subtree, DER_SEQUENCE, &subtrees)) {
    *broken = true;
    return false;
  }
  while (subtrees.size) {
    if (!der_take(&subtrees, DER_SET, &wanted) || !der_take(&names, DER_SET, &set)) return false;
    if (!same_set(set, wanted)) return false;
  }
  return true;
}

static bool lies_within(unsigned kind, Bytes name, Bytes subtree, bool excluded, bool *broken) {
  switch (kind) {
  case NAME_DNS:
    return dns_within(name, subtree, excluded, broken);
  case NAME_EMAIL:
    return email_within(name, subtree, broken);
  case NAME_URI:
    return uri_within(name, subtree, broken);
  case NAME_IP:
    return ip_within(name, subtree, broken);
  case NAME_DIRECTORY:
    return directory_within(name, subtree, broken);
  default:
    *broken = true; /* a kind whose constraints are not known here */
    return false;
  }
}

/* The extension ------------------------------------------------------------------------------- */

typedef struct {
  Bytes permitted, excluded; /* lists of GeneralSubtree; size 0: none */
} Subtrees;

static bool subtrees_read(Bytes constraints, Subtrees *subtrees) {
  Bytes fields;
  bool permitted, excluded;
  *subtrees = (Subtrees){{NULL, 0}, {NULL, 0}};
  if (!der_take(&constraints, DER_SEQUENCE, &fields) || constraints.size ||
      !der_optional(&fields, (DER_CONSTRUCTED | 0), &subtrees->permitted, &permitted) ||
      !der_optional(&fields, (DER_CONSTRUCTED | 1), &subtrees->excluded, &excluded) || fields.size)
    return false;
  return (permitted || excluded) && (!permitted || subtrees->permitted.size) &&
         (!excluded || subtrees->excluded.size);
}

static bool subtree_next(Bytes *list, unsigned *kind, Bytes *base) {
  Bytes subtree;
  /* minimum is 0 and maximum is absent: RFC 5280 */
  return der_take(list, DER_SEQUENCE, &subtree) && general_name_next(&subtree, kind, base) &&
         subtree.size == 0;
}

static bool mask_valid(Bytes subtree) {
  if (subtree.size != 8 && subtree.size != 32) return false;
  bool ended = false;
  for (size_t i = subtree.size / 2; i < subtree.size; i++)
    for (unsigned bit = 0x80; bit; bit >>= 1) {
      bool set = subtree.data[i] & bit;
      if (set && ended) return false;
      if (!set) ended = true;
    }
  return true;
}

static bool subtree_valid(unsigned kind, Bytes base, bool *dotted) {
  Bytes local, host;
  Bytes undotted = base;
  if (base.size && base.data[0] == '.') undotted = (Bytes){base.data + 1, base.size - 1};
  switch (kind) {
  case NAME_DNS:
    if (undotted.size != base.size) *dotted = true;
    return base.size == 0 || hostname_valid(undotted, false);
  case NAME_EMAIL:
    return base.size == 0 || hostname_valid(undotted, false) || email_split(base, &local, &host);
  case NAME_URI:
    return base.size == 0 || hostname_valid(undotted, false);
  case NAME_IP:
    return mask_valid(base);
  case NAME_DIRECTORY:
    return der_peek(&base) == DER_SEQUENCE;
  default:
    return true;
  }
}

static bool list_valid(Bytes list, size_t *count, bool *dotted) {
  while (list.size) {
    unsigned kind;
    Bytes base;
    if (!subtree_next(&list, &kind, &base) || !subtree_valid(kind, base, dotted) ||
        ++*count > MAX_CONSTRAINTS)
      return false;
  }
  return true;
}

bool constraints_valid(Bytes constraints, bool *dotted) {
  Subtrees subtrees;
  size_t count = 0;
  return subtrees_read(constraints, &subtrees) && list_valid(subtrees.permitted, &count, dotted) &&
         list_valid(subtrees.excluded, &count, dotted);
}

static bool list_plain(Bytes list) {
  unsigned kind;
  Bytes base;
  while (list.size && subtree_next(&list, &kind, &base))
    if (kind != NAME_DNS && kind != NAME_EMAIL && kind != NAME_URI && kind != NAME_IP &&
        kind != NAME_DIRECTORY)
      return false;
  return true;
}

bool constraints_plain(Bytes constraints) {
  Subtrees subtrees;
  return subtrees_read(constraints, &subtrees) && list_plain(subtrees.permitted) &&
         list_plain(subtrees.excluded);
}

/* A path -------------------------------------------------------------------------------------- */

/* Judges one name against one issuer's subtrees; `work` counts comparisons. */
static Fault check_name(const Subtrees *subtrees, unsigned kind, Bytes name, size_t *work) {
  Bytes list = subtrees->excluded, base;
  unsigned of;
  bool broken = false, limited = false, permitted = false;
  while (list.size && subtree_next(&list, &of, &base)) {
    if (++*work > MAX_COMPARISONS) return FAULT_TOO_MANY_NAMES;
    if (of == kind && (lies_within(kind, name, base, true, &broken) || broken))
      return FAULT_CONSTRAINED;
  }
  list = subtrees->permitted;
  while (list.size && !permitted && subtree_next(&list, &of, &base)) {
    if (++*work > MAX_COMPARISONS) return FAULT_TOO_MANY_NAMES;
    if (of != kind) continue;
    limited = true;
    permitted = lies_within(kind, name, base, false, &broken);
    if (broken) return FAULT_CONSTRAINED;
  }
  return limited && !permitted ? FAULT_CONSTRAINED : FAULT_NONE;
}

static Fault check_certificate(const Subtrees *subtrees, const View *view, size_t *work) {
  Bytes in = view->names, name, email;
  unsigned kind, tag;
  Fault fault;
  while (in.size && general_name_next(&in, &kind, &name))
    if ((fault = check_name(subtrees, kind, name, work)) != FAULT_NONE) return fault;
  if (view->subject.size > 2 &&
      (fault = check_name(subtrees, NAME_DIRECTORY, view->subject, work)) != FAULT_NONE)
    return fault;
  /* emailAddress in the subject, as certificates without a SAN have it */
  if (!view->names.data &&
      name_attribute(view->subject, "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01", 9, &email, &tag))
    return check_name(subtrees, NAME_EMAIL, email, work);
  return FAULT_NONE;
}

/* One set of constraints over path[0 .. count-1]. */
static Fault check_set(Bytes constraints, View *const *path, size_t count, size_t *which,
                       size_t *work) {
  Subtrees subtrees;
  *which = count;
  if (!subtrees_read(constraints, &subtrees)) return FAULT_BAD_CONSTRAINTS;
  for (size_t i = 0; i < count; i++) {
    if (i > 0 && view_self_issued(path[i])) continue; /* a CA's change of keys */
    *which = i;
    Fault fault = check_certificate(&subtrees, path[i], work);
    if (fault != FAULT_NONE) return fault;
  }
  return FAULT_NONE;
}

Fault constraints_check(View *const *path, size_t count, size_t *which) {
  size_t work = 0;
  Fault fault = FAULT_NONE;
  /* What the anchor's owner here allows it holds for a peer that is the anchor itself, too. */
  if (path[count - 1]->limits.data)
    fault = check_set(path[count - 1]->limits, path, count > 1 ? count - 1 : 1, which, &work);
  for (size_t issuer = count; fault == FAULT_NONE && issuer-- > 1;)
    if (path[issuer]->constraints.data)
      fault = check_set(path[issuer]->constraints, path, issuer, which, &work);
  return fault;
}

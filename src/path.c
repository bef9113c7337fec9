/* The search for a path from the peer's certificate to an anchor, RFC 4158: depth first over the
 * certificates that were sent, those remembered and the roots. What costs little (names, key
 * identifiers, usages, lengths, purposes, constraints) is judged before any signature; signatures
 * are tried only on a path that is whole, from the anchor down, each at most once, and no more than
 * MAX_SIGNATURES of them: a peer's certificates that lead to no anchor cost none at all. */
#include "trust.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_REMEMBERED = 64, MAX_POOL = MAX_CHAIN + MAX_REMEMBERED, MAX_ANCHORS = 16, FAR = 255 };

typedef struct {
  const View *child, *issuer;
  bool valid;
} Edge;

/* A certificate that may stand between the leaf and an anchor. */
typedef struct {
  View *view;
  unsigned char distance; /* steps to an anchor by names alone; FAR: none */
  bool used;
} Node;

struct PathMemo {
  uint64_t strict_faults;

  Edge edges[MAX_SIGNATURES];
  size_t edge_count;
  Node pool[MAX_POOL];
  size_t pool_count;
  bool ignore_dates;
  int rank; /* of path->problem */
};

/* The better a path was before it failed, the more its failure says. */
enum { RANK_NONE, RANK_UNKNOWN, RANK_WORK, RANK_ROLE, RANK_SIGNATURE, RANK_WHOLE, RANK_LEAF };

static void blame(Path *path, int rank, Fault fault, const View *view) {
  if (rank <= path->memo->rank) return;
  path->memo->rank = rank;
  path->problem = (Problem){fault, view};
}

/* Roles --------------------------------------------------------------------------------------- */

#define BIT(name) ((uint64_t)1 << FAULT_##name)

/* An anchor's signature says nothing, and its serial number has long been what it is. */
#define ANCHOR_PARDONS                                                                             \
  (BIT(WEAK_SIGNATURE) | BIT(UNKNOWN_SIGNATURE) | BIT(SERIAL) | BIT(NEGATIVE_SERIAL))

static uint64_t strict_faults(void) {
  uint64_t mask = 0;
  for (int i = 1; i < FAULT_COUNT; i++)
    if (fault_texts[i].strict) mask |= (uint64_t)1 << i;
  return mask;
}

/* The first fault that matters in this profile; of faults.h's order. */
static Fault first(const Path *path, uint64_t faults) {
  if (!path->strict) faults &= ~path->memo->strict_faults;
  for (int i = 1; i < FAULT_COUNT; i++)
    if (faults >> i & 1) return (Fault)i;
  return FAULT_NONE;
}

/* Whether a common name means an address: digits and dots, a colon, or hexadecimal. */
static bool like_address(Bytes name) {
  bool digits = true;
  for (size_t i = 0; i < name.size; i++) {
    if (name.data[i] == ':') return true;
    if (name.data[i] != '.' && (name.data[i] < '0' || name.data[i] > '9')) digits = false;
  }
  return digits || (name.size > 2 && name.data[0] == '0' && (name.data[1] | 0x20) == 'x');
}

/* CA/Browser Forum 7.1.4.3: a common name is a copy of one of the names. Only one that looks like a
 * host or an address is asked; the domain that the names lie in is let pass. */
static bool common_name_listed(const View *view) {
  Bytes common, in = view->names, name;
  unsigned tag, kind;
  if (!name_attribute(view->subject, "\x55\x04\x03", 3, &common, &tag)) return true;
  bool address = like_address(common), hosts = false;
  if (!address && !memchr(common.data, '.', common.size)) return true;
  while (in.size && general_name_next(&in, &kind, &name)) {
    char text[64];
    if (kind == NAME_IP && address && address_text(name, text, sizeof text) &&
        der_is(common, text, strlen(text)))
      return true;
    if (kind != NAME_DNS) continue;
    hosts = true;
    if (address || name.size < common.size) continue;
    size_t skip = name.size - common.size;
    if (memcmp(name.data + skip, common.data, common.size) == 0 &&
        (skip == 0 || name.data[skip - 1] == '.'))
      return true;
  }
  return !address && !hosts;
}

static uint64_t pedantry(const View *view, bool anchor) {
  uint64_t faults = 0;
  bool root = anchor && view_self_issued(view);
  if (!anchor && !view->authority_key.data) faults |= BIT(NO_AUTHORITY_KEY);
  if (root && view->has_authority && view->authority_key.data && view->subject_key.data &&
      !bytes_equal(view->authority_key, view->subject_key))
    faults |= BIT(AUTHORITY_KEY);
  return faults;
}

static Fault leaf_fault(const Path *path, const View *view, bool trusted) {
  uint64_t faults = view->faults;
  if (trusted) faults &= ~ANCHOR_PARDONS;
  if (view->has_purposes && !(view->purposes & (path->purpose | PURPOSE_ANY)))
    faults |= BIT(LEAF_PURPOSE);
  /* RFC 8446 4.4.2.2 and the key exchanges of RFC 5246: one of the three */
  if (view->has_usage &&
      !(view->usage & (USAGE_SIGNATURE | USAGE_KEY_ENCIPHERMENT | USAGE_KEY_AGREEMENT)) &&
      !view->ca)
    faults |= BIT(LEAF_USAGE);
  if (path->strict) {
    faults |= pedantry(view, false);
    if (view->has_purposes && view->purposes & PURPOSE_ANY) faults |= BIT(ANY_PURPOSE);
    if (view->constraints.data) faults |= BIT(LEAF_CONSTRAINTS);
    if (view->has_usage && view->usage & USAGE_CERT_SIGN && !view->ca) faults |= BIT(LEAF_CA);
    if (view->ca && view->has_usage && !(view->usage & USAGE_CERT_SIGN)) faults |= BIT(LEAF_CA);
    if (path->purpose == PURPOSE_SERVER && !common_name_listed(view)) faults |= BIT(COMMON_NAME);
  }
  return first(path, faults);
}

static Fault issuer_fault(const Path *path, const View *view, bool anchor) {
  uint64_t faults = view->faults & ~BIT(CRITICAL_PURPOSES);
  if (anchor) faults &= ~ANCHOR_PARDONS;
  /* A root that its owner trusts may lack basic constraints; one that denies being a CA is none. */
  if (view->has_basic ? !view->ca : !anchor) faults |= BIT(NOT_CA);
  if (view->has_usage && !(view->usage & USAGE_CERT_SIGN)) faults |= BIT(CA_USAGE);
  if (view->has_purposes && !(view->purposes & (path->purpose | PURPOSE_ANY)))
    faults |= BIT(CA_PURPOSE);
  if (view->subject.size <= 2) faults |= BIT(CA_SUBJECT);
  if (path->strict) {
    faults |= pedantry(view, anchor);
    if (!view->subject_key.data) faults |= BIT(NO_SUBJECT_KEY);
    if (!view->has_basic) faults |= BIT(NO_BASIC);
    if (anchor && view_self_issued(view) && view->has_purposes) faults |= BIT(ROOT_PURPOSES);
  }
  return first(path, faults);
}

static bool dated(const Path *path, const View *view) {
  return path->memo->ignore_dates ||
         (path->time >= view->not_before && path->time <= view->not_after);
}

static bool names_issuer(const View *child, const View *issuer) {
  if (!bytes_equal(child->issuer, issuer->subject)) return false;
  /* Key identifiers tell apart CAs of one name; where both are there they must agree. */
  return !child->authority_key.data || !issuer->subject_key.data ||
         bytes_equal(child->authority_key, issuer->subject_key);
}

static bool names_key(const View *child, const View *issuer) {
  return child->authority_key.data && issuer->subject_key.data;
}

/* Intermediates of path[1 .. count-1] that are not self-issued. */
static long logical(const Path *path, size_t count) {
  long found = 0;
  for (size_t i = 1; i < count; i++)
    found += !view_self_issued(path->path[i]);
  return found;
}

/* May `issuer` stand above path[0 .. count-1]? */
static bool may_issue(Path *path, size_t count, const View *issuer, bool anchor) {
  const View *child = path->path[count - 1];
  if (!names_issuer(child, issuer) || !dated(path, issuer)) return false;
  Fault fault = issuer_fault(path, issuer, anchor);
  if (fault == FAULT_NONE && issuer->path_length >= 0 && logical(path, count) > issuer->path_length)
    fault = FAULT_PATH_LENGTH;
  if (fault == FAULT_NONE) return true;
  blame(path, RANK_ROLE, fault, issuer);
  return false;
}

/* Signatures ---------------------------------------------------------------------------------- */

/* 1: good, 0: bad, -1: not known and no budget left to find out */
static int signature(Path *path, const View *child, const View *issuer) {
  struct PathMemo *memo = path->memo;
  for (size_t i = 0; i < memo->edge_count; i++)
    if (memo->edges[i].child == child && memo->edges[i].issuer == issuer)
      return memo->edges[i].valid;
  if (path->signatures >= MAX_SIGNATURES || memo->edge_count == MAX_SIGNATURES) return -1;
  path->signatures++;
  bool valid = signature_valid(issuer->spki, child->algorithm, child->tbs, child->signature);
  memo->edges[memo->edge_count++] = (Edge){child, issuer, valid};
  return valid;
}

static bool known_bad(const Path *path, const View *child, const View *issuer) {
  const struct PathMemo *memo = path->memo;
  for (size_t i = 0; i < memo->edge_count; i++)
    if (memo->edges[i].child == child && memo->edges[i].issuer == issuer)
      return !memo->edges[i].valid;
  return false;
}

/* Hands GnuTLS the path below its anchor, and the anchor alone as trusted. */
static int ask_gnutls(Path *path, unsigned *status) {
  gnutls_x509_crt_t list[MAX_DEPTH + 2];
  for (size_t i = 0; i < path->length; i++)
    if (!(list[i] = view_crt(path->path[i]))) return (int)i;
  path->signatures += path->length - 1;
  unsigned flags = GNUTLS_VERIFY_DISABLE_TIME_CHECKS | GNUTLS_VERIFY_DISABLE_CRL_CHECKS |
                   GNUTLS_PROFILE_TO_VFLAGS(GNUTLS_PROFILE_MEDIUM);
  /* GnuTLS does not know what policy.c has judged; view.c has refused what neither does. */
  if (policy_ruled(path->path, path->length)) flags |= GNUTLS_VERIFY_IGNORE_UNKNOWN_CRIT_EXTENSIONS;
  int rc = gnutls_x509_crt_list_verify(list, (unsigned)path->length - 1, &list[path->length - 1], 1,
                                       NULL, 0, flags, status);
  if (rc < 0) *status = GNUTLS_CERT_INVALID;
  return -1;
}

/* Every signature of the path, from the anchor down, so that no key but a trusted one is used. */
static bool signatures_good(Path *path) {
  for (size_t i = path->length - 1; i-- > 0;) {
    int valid = signature(path, path->path[i], path->path[i + 1]);
    if (valid < 0) blame(path, RANK_WORK, FAULT_TOO_MUCH_WORK, path->path[0]);
    if (valid == 0) blame(path, RANK_SIGNATURE, FAULT_BAD_SIGNATURE, path->path[i]);
    if (valid <= 0) return false;
  }
  return true;
}

/* Which of the path's certificates have name constraints: none, some, or some of kinds that GnuTLS
 * does not know. */
typedef enum { FREE, CONSTRAINED, CONSTRAINED_ODDLY } Constrained;

static Constrained constrained(const Path *path) {
  Constrained found = FREE;
  for (size_t i = 1; i < path->length; i++) {
    if (!path->path[i]->constraints.data) continue;
    if (!constraints_plain(path->path[i]->constraints)) return CONSTRAINED_ODDLY;
    found = CONSTRAINED;
  }
  return found;
}

/* The path is whole: is it good? */
static bool whole_is_good(Path *path, size_t length) {
  path->length = length;
  size_t which = 0;
  Fault fault = constraints_check(path->path, length, &which);
  if (fault == FAULT_NONE) fault = policy_check(path->path, length, &which);
  if (fault != FAULT_NONE) {
    blame(path, RANK_WHOLE, fault, path->path[which]);
    return false;
  }
  /* GnuTLS 3.7 and 3.8 read constraints before they check a signature, and lose memory over kinds
   * that they do not know: no peer's constraints reach them unsigned, and those kinds never. */
  Constrained kind = constrained(path);
  if (kind != FREE && !signatures_good(path)) return false;
  if (kind == CONSTRAINED_ODDLY) return true;
  if (path->signatures + length - 1 > MAX_SIGNATURES) {
    blame(path, RANK_WORK, FAULT_TOO_MUCH_WORK, path->path[0]);
    return false;
  }
  unsigned status = 0;
  int unread = ask_gnutls(path, &status);
  if (unread >= 0) {
    blame(path, RANK_WHOLE, FAULT_REFUSED, path->path[unread]);
    return false;
  }
  if (status == 0) return true;
  /* Which signature, or what else? */
  if (!signatures_good(path)) return false;
  /* Every signature is good. GnuTLS counts self-issued certificates against a path length, and
   * takes constraints more coarsely: both were judged above as RFC 5280 asks. Its word on anything
   * else stands. */
  unsigned coarse = GNUTLS_CERT_INVALID | GNUTLS_CERT_SIGNER_CONSTRAINTS_FAILURE;
  if ((status & ~coarse) == 0 && (status & GNUTLS_CERT_SIGNER_CONSTRAINTS_FAILURE)) return true;
  blame(path, RANK_WHOLE, FAULT_REFUSED, path->path[0]);
  return false;
}

/* Search -------------------------------------------------------------------------------------- */

/* The same CA again (name and key) would only make the path longer. */
static bool in_path(const Path *path, size_t count, const View *view) {
  for (size_t i = 0; i < count; i++)
    if (path->path[i] == view || (bytes_equal(path->path[i]->subject, view->subject) &&
                                  bytes_equal(path->path[i]->spki, view->spki)))
      return true;
  return false;
}

static bool extend(Path *path, size_t count);

static bool try_anchors(Path *path, size_t count, View *const *anchors, size_t found, bool keyed) {
  const View *child = path->path[count - 1];
  for (size_t i = 0; i < found; i++) {
    if (names_key(child, anchors[i]) != keyed || known_bad(path, child, anchors[i])) continue;
    if (!may_issue(path, count, anchors[i], true)) continue;
    long depth = logical(path, count);
    if (depth > path->max_depth) {
      blame(path, RANK_WHOLE, FAULT_TOO_DEEP, path->path[0]);
      continue;
    }
    path->path[count] = anchors[i];
    if (whole_is_good(path, count + 1)) return true;
  }
  return false;
}

static bool try_pool(Path *path, size_t count, unsigned distance, bool keyed) {
  struct PathMemo *memo = path->memo;
  const View *child = path->path[count - 1];
  for (size_t i = 0; i < memo->pool_count; i++) {
    Node *node = &memo->pool[i];
    if (node->used || node->distance != distance || names_key(child, node->view) != keyed ||
        !bytes_equal(child->issuer, node->view->subject))
      continue;
    if (++path->steps > MAX_STEPS) {
      blame(path, RANK_WORK, FAULT_TOO_MUCH_WORK, path->path[0]);
      return false;
    }
    if (known_bad(path, child, node->view) || in_path(path, count, node->view) ||
        !may_issue(path, count, node->view, false))
      continue;
    if (count > MAX_DEPTH) {
      blame(path, RANK_ROLE, FAULT_TOO_DEEP, path->path[0]);
      return false;
    }
    node->used = true;
    path->path[count] = node->view;
    bool found = extend(path, count + 1);
    node->used = false;
    if (found) return true;
    if (path->steps > MAX_STEPS) return false;
  }
  return false;
}

/* path[0 .. count-1] is a way up: go on from its last. */
static bool extend(Path *path, size_t count) {
  View *anchors[MAX_ANCHORS];
  size_t found = store_find(path->store, path->path[count - 1]->issuer, anchors, MAX_ANCHORS);
  if (try_anchors(path, count, anchors, found, true) ||
      try_anchors(path, count, anchors, found, false))
    return true;
  unsigned farthest = 0;
  for (size_t i = 0; i < path->memo->pool_count; i++)
    if (path->memo->pool[i].distance != FAR && path->memo->pool[i].distance > farthest)
      farthest = path->memo->pool[i].distance;
  for (unsigned distance = 1; distance <= farthest; distance++)
    if (try_pool(path, count, distance, true) || try_pool(path, count, distance, false))
      return true;
  return false;
}

/* How far each certificate is from an anchor, going by names: those that lead to none are never
 * tried. */
static void measure(Path *path) {
  struct PathMemo *memo = path->memo;
  View *anchor[1];
  for (size_t i = 0; i < memo->pool_count; i++)
    memo->pool[i].distance =
        store_find(path->store, memo->pool[i].view->issuer, anchor, 1) ? 1 : FAR;
  for (unsigned distance = 1; distance <= MAX_DEPTH; distance++) {
    bool more = false;
    for (size_t i = 0; i < memo->pool_count; i++) {
      if (memo->pool[i].distance != distance) continue;
      for (size_t j = 0; j < memo->pool_count; j++)
        if (memo->pool[j].distance == FAR &&
            bytes_equal(memo->pool[j].view->issuer, memo->pool[i].view->subject)) {
          memo->pool[j].distance = (unsigned char)(distance + 1);
          more = true;
        }
    }
    if (!more) break;
  }
}

static void add_node(struct PathMemo *memo, View *view) {
  if (view_has(view, FAULT_MALFORMED) && view->subject.size == 0) return;
  memo->pool[memo->pool_count++] = (Node){view, FAR, false};
}

/* No path: what was sent above the leaf, by name. Blames the last one that was reached. */
static void explain(Path *path) {
  View *top = &path->chain[0];
  bool seen[MAX_CHAIN] = {true};
  path->sent_count = 0;
  for (size_t steps = 0; steps < path->count; steps++) {
    if (path->sent_count < MAX_DEPTH + 2) path->sent[path->sent_count++] = top;
    size_t next = path->count;
    for (size_t i = 1; i < path->count && next == path->count; i++)
      if (!seen[i] && names_issuer(top, &path->chain[i])) next = i;
    if (next == path->count) break;
    seen[next] = true;
    top = &path->chain[next];
  }
  Fault fault = FAULT_UNKNOWN_ISSUER;
  View *same_name[1];
  if (store_find(path->store, top->issuer, same_name, 1))
    fault = FAULT_OTHER_KEY;
  else if (view_self_issued(top))
    fault = top == &path->chain[0] ? FAULT_SELF_SIGNED : FAULT_UNTRUSTED_ROOT;
  blame(path, RANK_UNKNOWN, fault, top);
}

bool path_find(Path *path) {
  View *leaf = &path->chain[0], *found[MAX_ANCHORS];
  struct PathMemo *memo = path->memo = calloc(1, sizeof *memo);
  path->length = 0;
  if (!memo) {
    path->problem = (Problem){FAULT_TOO_MUCH_WORK, leaf};
    return false;
  }
  memo->strict_faults = strict_faults();
  /* The peer's own certificate may be what is trusted. */
  bool trusted = false;
  size_t count = store_find(path->store, leaf->subject, found, MAX_ANCHORS);
  for (size_t i = 0; i < count; i++) {
    if (!bytes_equal(found[i]->der, leaf->der)) continue;
    trusted = true;
    leaf->limits = found[i]->limits;
  }
  Fault fault = leaf_fault(path, leaf, trusted);
  if (fault != FAULT_NONE) {
    blame(path, RANK_LEAF, fault, leaf);
    explain(path);
    return false;
  }
  path->path[0] = leaf;
  if (trusted) {
    size_t which;
    fault = constraints_check(path->path, 1, &which);
    path->length = fault == FAULT_NONE;
    if (fault == FAULT_NONE) return true;
    blame(path, RANK_LEAF, fault, leaf);
    explain(path);
    return false;
  }
  for (size_t i = 1; i < path->count; i++)
    add_node(memo, &path->chain[i]);
  View *remembered[MAX_REMEMBERED];
  size_t known = store_remembered(path->store, remembered, MAX_REMEMBERED);
  for (size_t i = 0; i < known; i++)
    add_node(memo, remembered[i]);
  measure(path);
  /* Paths whose every certificate is in date first; if there is none, one that is not answers the
   * question of the issuer, and the dates are another. */
  for (int pass = 0; pass < 2; pass++) {
    memo->ignore_dates = pass == 1;
    path->steps = 0;
    if (extend(path, 1)) return true;
  }
  explain(path);
  path->length = 0;
  return false;
}

void path_reset(Path *path) {
  path_free(path);
  path->problem = (Problem){FAULT_NONE, NULL};
  path->length = path->sent_count = path->steps = path->signatures = 0;
}

void path_free(Path *path) {
  free(path->memo);
  path->memo = NULL;
}

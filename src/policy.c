/* Certificate policies, RFC 5280 6.1, for a user who accepts any policy. What policies there are
 * then decides only where a CA asks for it (requireExplicitPolicy): a certificate must come out
 * with at least one policy that every CA above it has vouched for.
 *
 * Of the RFC's tree nothing but its lowest level is asked for, so only that is kept, as a set: the
 * tree has a node for each way that leads to a policy, and grows with the power of the depth
 * (CVE-2023-0464); the set does not. */
#include "trust.h"

enum { POLICIES = 256, NEVER = MAX_CHAIN + 1 };

#define OID(bytes) bytes, sizeof(bytes) - 1

static bool is_any(Bytes policy) {
  return der_is(policy, OID("\x55\x1d\x20\x00"));
}

/* The extensions ------------------------------------------------------------------------------ */

/* The next policy of a list, whose qualifiers are none of our affair. */
static bool policy_next(Bytes *list, Bytes *policy) {
  Bytes one, qualifiers;
  bool present;
  return der_take(list, DER_SEQUENCE, &one) && der_take(&one, DER_OID, policy) && policy->size &&
         der_optional(&one, DER_SEQUENCE, &qualifiers, &present) && one.size == 0;
}

static bool mapping_next(Bytes *list, Bytes *from, Bytes *to) {
  Bytes one;
  return der_take(list, DER_SEQUENCE, &one) && der_take(&one, DER_OID, from) &&
         der_take(&one, DER_OID, to) && from->size && to->size && one.size == 0;
}

bool policy_read_list(View *view, Bytes value) {
  Bytes list, policy;
  if (!der_take(&value, DER_SEQUENCE, &list) || value.size || list.size == 0) return false;
  view->policies = list;
  while (list.size)
    if (!policy_next(&list, &policy)) return false;
  return true;
}

bool policy_read_mappings(View *view, Bytes value) {
  Bytes list, from, to;
  if (!der_take(&value, DER_SEQUENCE, &list) || value.size || list.size == 0) return false;
  view->mappings = list;
  while (list.size) /* 6.1.4 (a): the any policy is never mapped */
    if (!mapping_next(&list, &from, &to) || is_any(from) || is_any(to)) return false;
  return true;
}

/* How many certificates further down a rule begins to hold; beyond any chain's length: never. */
static bool skip_count(Bytes number, int *skip) {
  if (!der_integer(number) || (number.data[0] & 0x80)) return false;
  int value;
  *skip = der_small(number, &value) && value < NEVER ? value : NEVER;
  return true;
}

bool policy_read_constraints(View *view, Bytes value) {
  Bytes fields, require, inhibit;
  bool required, inhibited;
  if (!der_take(&value, DER_SEQUENCE, &fields) || value.size ||
      !der_optional(&fields, DER_CONTEXT | 0, &require, &required) ||
      !der_optional(&fields, DER_CONTEXT | 1, &inhibit, &inhibited) || fields.size)
    return false;
  return (required || inhibited) && (!required || skip_count(require, &view->require_policy)) &&
         (!inhibited || skip_count(inhibit, &view->inhibit_mapping));
}

bool policy_read_inhibit_any(View *view, Bytes value) {
  Bytes number;
  return der_take(&value, DER_INTEGER, &number) && value.size == 0 &&
         skip_count(number, &view->inhibit_any);
}

/* A path -------------------------------------------------------------------------------------- */

/* The policies that the next certificate down may have. */
typedef struct {
  Bytes list[POLICIES];
  size_t count;
  bool any; /* any at all */
} Set;

typedef struct {
  Set now, next;
  int explicit_in, mapping_in, any_in; /* 6.1.2 (d), (e), (f) */
  size_t work;                         /* comparisons */
  bool crowded;
} Policies;

static bool has(Policies *state, const Set *set, Bytes policy) {
  for (size_t i = 0; i < set->count; i++) {
    state->work++;
    if (bytes_equal(set->list[i], policy)) return true;
  }
  if (state->work > MAX_COMPARISONS) state->crowded = true;
  return false;
}

static void add(Policies *state, Set *set, Bytes policy) {
  if (state->crowded || has(state, set, policy)) return;
  if (set->count == POLICIES)
    state->crowded = true;
  else
    set->list[set->count++] = policy;
}

static bool is_empty(const Set *set) {
  return set->count == 0 && !set->any;
}

/* 6.1.3 (d), (e): which of what was allowed does the certificate have? */
static void narrow(Policies *state, const View *view, bool last) {
  Bytes list = view->policies, policy;
  bool any = false;
  Set *next = &state->next;
  next->count = 0;
  next->any = false;
  while (list.size && !state->crowded && policy_next(&list, &policy)) {
    if (is_any(policy))
      any = true;
    else if (state->now.any || has(state, &state->now, policy))
      add(state, next, policy);
  }
  if (any && (state->any_in > 0 || (!last && view_self_issued(view)))) {
    for (size_t i = 0; i < state->now.count; i++)
      add(state, next, state->now.list[i]);
    next->any = state->now.any;
  }
  state->now = *next;
}

/* 6.1.4 (b): policies of the issuer's world become those of the subject's. */
static void map(Policies *state, const View *view) {
  Bytes list = view->mappings, from, to;
  Set *next = &state->next;
  next->count = 0;
  next->any = state->now.any;
  for (size_t i = 0; i < state->now.count && !state->crowded; i++) {
    bool mapped = false;
    for (Bytes rest = list; rest.size && !mapped && mapping_next(&rest, &from, &to);) {
      mapped = bytes_equal(from, state->now.list[i]);
      if (++state->work > MAX_COMPARISONS) state->crowded = true;
    }
    if (!mapped) add(state, next, state->now.list[i]);
  }
  while (state->mapping_in > 0 && list.size && !state->crowded && mapping_next(&list, &from, &to))
    if (state->now.any || has(state, &state->now, from)) add(state, next, to);
  state->now = *next;
}

static void lower(int *count, int limit) {
  if (limit >= 0 && limit < *count) *count = limit;
}

static void step(int *count) {
  if (*count > 0) --*count;
}

/* 6.1.4 (b), (h), (i), (j) */
static void descend(Policies *state, const View *view) {
  if (view->mappings.size) map(state, view);
  if (!view_self_issued(view)) {
    step(&state->explicit_in);
    step(&state->mapping_in);
    step(&state->any_in);
  }
  lower(&state->explicit_in, view->require_policy);
  lower(&state->mapping_in, view->inhibit_mapping);
  lower(&state->any_in, view->inhibit_any);
}

bool policy_ruled(View *const *path, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (path[i]->mappings.size || path[i]->require_policy >= 0 || path[i]->inhibit_mapping >= 0 ||
        path[i]->inhibit_any >= 0)
      return true;
  return false;
}

Fault policy_check(View *const *path, size_t count, size_t *which) {
  bool asked = false;
  for (size_t i = 0; i + 1 < count; i++)
    asked = asked || path[i]->require_policy >= 0;
  if (!asked) return FAULT_NONE;
  Policies state = {.explicit_in = NEVER, .mapping_in = NEVER, .any_in = NEVER, .now.any = true};
  for (size_t i = count - 1; i-- > 0;) { /* the anchor is no part of this, 6.1 */
    *which = i;
    narrow(&state, path[i], i == 0);
    if (state.explicit_in == 0 && is_empty(&state.now)) return FAULT_NO_POLICY;
    if (i > 0) descend(&state, path[i]);
    if (state.crowded) return FAULT_TOO_MANY_POLICIES;
  }
  /* 6.1.5 (a), (b) */
  step(&state.explicit_in);
  if (path[0]->require_policy == 0) state.explicit_in = 0;
  return state.explicit_in == 0 && is_empty(&state.now) ? FAULT_NO_POLICY : FAULT_NONE;
}

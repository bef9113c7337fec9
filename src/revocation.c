/* Stapled OCSP responses (RFC 6960) and CRLs (RFC 5280 section 5 and 6.3), read strictly and
 * judged here: who signed, for which certificate, how fresh, and what it says. Only a plain "good"
 * or "revoked" from the right signer counts; all else is an unknown with a code that says why. */
#include "trust.h"

#include <gnutls/crypto.h>
#include <string.h>

#define OID(bytes) bytes, sizeof(bytes) - 1

/* Clocks differ: an answer may come from this many seconds in the future. */
enum { SKEW = 300, MAX_SIGNERS = 8 };

static void unknown(Revocation *result, const char *code) {
  if (result->answer != REVOCATION_UNKNOWN) return;
  result->code = code;
}

static bool hash_matches(gnutls_digest_algorithm_t algorithm, Bytes data, Bytes expected) {
  unsigned char digest[64];
  return gnutls_hash_get_len(algorithm) == expected.size && expected.size <= sizeof digest &&
         gnutls_hash_fast(algorithm, data.data, data.size, digest) >= 0 &&
         memcmp(digest, expected.data, expected.size) == 0;
}

static gnutls_digest_algorithm_t hash_algorithm(Bytes fields) {
  static const struct {
    const char *oid;
    size_t size;
    gnutls_digest_algorithm_t algorithm;
  } known[] = {
      {OID("\x2b\x0e\x03\x02\x1a"), GNUTLS_DIG_SHA1},
      {OID("\x60\x86\x48\x01\x65\x03\x04\x02\x01"), GNUTLS_DIG_SHA256},
      {OID("\x60\x86\x48\x01\x65\x03\x04\x02\x02"), GNUTLS_DIG_SHA384},
      {OID("\x60\x86\x48\x01\x65\x03\x04\x02\x03"), GNUTLS_DIG_SHA512},
  };
  Bytes oid;
  if (!der_take(&fields, DER_OID, &oid)) return GNUTLS_DIG_UNKNOWN;
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (der_is(oid, known[i].oid, known[i].size)) return known[i].algorithm;
  return GNUTLS_DIG_UNKNOWN;
}

/* Extensions of a response, a CRL or an entry: true when each is well formed and none of the
 * critical ones is unknown. `known` may be NULL. */
typedef bool (*extension_reader)(void *owner, Bytes oid, bool critical, Bytes value);

static bool read_extensions(Bytes list, extension_reader known, void *owner) {
  Bytes entry, oid, value;
  while (list.size) {
    bool critical;
    if (!der_take(&list, DER_SEQUENCE, &entry) || !der_take(&entry, DER_OID, &oid) ||
        !der_boolean(&entry, &critical) || !der_take(&entry, DER_OCTET_STRING, &value) ||
        entry.size)
      return false;
    if (known ? !known(owner, oid, critical, value) : critical) return false;
  }
  return true;
}

static bool reason_reader(void *owner, Bytes oid, bool critical, Bytes value) {
  Bytes reason;
  if (der_is(oid, OID("\x55\x1d\x15")))
    return der_take(&value, DER_ENUMERATED, &reason) && der_small(reason, owner);
  return !critical;
}

/* OCSP ---------------------------------------------------------------------------------------- */

typedef struct {
  Bytes tbs, algorithm, signature, certificates; /* certificates: size 0: none */
  Bytes responder, responses;
  bool by_key;
  double produced;
} Response;

static bool read_tbs(Bytes tbs, Response *response) {
  Bytes content, version;
  unsigned tag;
  bool present;
  int number = 0;
  if (!der_optional(&tbs, DER_CONSTRUCTED | 0, &content, &present) ||
      (present && (!der_take(&content, DER_INTEGER, &version) || !der_small(version, &number))) ||
      number != 0 || !der_next(&tbs, &tag, &response->responder, NULL))
    return false;
  if (tag != (DER_CONSTRUCTED | 1) && tag != (DER_CONSTRUCTED | 2)) return false;
  response->by_key = tag == (DER_CONSTRUCTED | 2);
  if (response->by_key) {
    content = response->responder;
    if (!der_take(&content, DER_OCTET_STRING, &response->responder) || content.size) return false;
  }
  if (der_peek(&tbs) != DER_GENERALIZED_TIME || !der_take_time(&tbs, &response->produced) ||
      !der_take(&tbs, DER_SEQUENCE, &response->responses) ||
      !der_optional(&tbs, DER_CONSTRUCTED | 1, &content, &present) || tbs.size)
    return false;
  Bytes list;
  return !present || (der_take(&content, DER_SEQUENCE, &list) && content.size == 0 &&
                      read_extensions(list, NULL, NULL));
}

/* NULL, or the code of what is wrong. */
static const char *read_response(Bytes in, Response *response) {
  Bytes fields, status, outer, content, type, octets, basic, bits, tbs;
  unsigned tag;
  bool present;
  int number;
  if (in.size > MAX_STAPLE_BYTES || !der_take(&in, DER_SEQUENCE, &fields) || in.size ||
      !der_take(&fields, DER_ENUMERATED, &status) || !der_small(status, &number))
    return "bad_response";
  if (number != 0) return "responder_error";
  if (!der_take(&fields, DER_CONSTRUCTED | 0, &outer) || fields.size ||
      !der_take(&outer, DER_SEQUENCE, &content) || outer.size ||
      !der_take(&content, DER_OID, &type) ||
      !der_is(type, OID("\x2b\x06\x01\x05\x05\x07\x30\x01\x01")) ||
      !der_take(&content, DER_OCTET_STRING, &octets) || content.size ||
      !der_take(&octets, DER_SEQUENCE, &basic) || octets.size)
    return "bad_response";
  if (der_peek(&basic) != DER_SEQUENCE || !der_next(&basic, &tag, &tbs, &response->tbs) ||
      der_peek(&basic) != DER_SEQUENCE || !der_next(&basic, &tag, &content, &response->algorithm) ||
      !der_take(&basic, DER_BIT_STRING, &bits) || !der_bits(bits, &response->signature) ||
      !der_optional(&basic, DER_CONSTRUCTED | 0, &content, &present) || basic.size)
    return "bad_response";
  response->certificates = (Bytes){NULL, 0};
  if (present && (!der_take(&content, DER_SEQUENCE, &response->certificates) || content.size))
    return "bad_response";
  return read_tbs(tbs, response) ? NULL : "bad_response";
}

static bool is_responder(const Response *response, const View *view) {
  return response->by_key ? hash_matches(GNUTLS_DIG_SHA1, view->key, response->responder)
                          : bytes_equal(response->responder, view->subject);
}

static bool signed_by(const Response *response, const View *signer) {
  return signature_valid(signer->spki, response->algorithm, response->tbs, response->signature);
}

/* RFC 6960 4.2.2.2: a responder that the issuer itself has named for this, in date. */
static bool may_answer(const View *signer, const View *issuer, double time) {
  for (int i = 1; i < FAULT_COUNT; i++)
    if (view_has(signer, (Fault)i) && !fault_texts[i].strict) return false;
  return bytes_equal(signer->issuer, issuer->subject) && (signer->purposes & PURPOSE_OCSP) &&
         (!signer->has_usage || signer->usage & USAGE_SIGNATURE) && time >= signer->not_before &&
         time <= signer->not_after &&
         signature_valid(issuer->spki, signer->algorithm, signer->tbs, signer->signature);
}

static bool signer_good(const Response *response, const View *issuer, double time) {
  if (is_responder(response, issuer) && signed_by(response, issuer)) return true;
  Bytes list = response->certificates, content, whole;
  unsigned tag;
  for (int i = 0; i < MAX_SIGNERS && der_next(&list, &tag, &content, &whole); i++) {
    View signer;
    view_read(&signer, whole);
    if (view_has(&signer, FAULT_MALFORMED) || !is_responder(response, &signer)) continue;
    if (may_answer(&signer, issuer, time) && signed_by(response, &signer)) return true;
  }
  return false;
}

/* Is the entry about the certificate? Hashes of the issuer's name and key, and the serial. */
static bool is_about(Bytes id, const View *subject, const View *issuer) {
  Bytes algorithm, name, key, serial;
  if (!der_take(&id, DER_SEQUENCE, &algorithm) || !der_take(&id, DER_OCTET_STRING, &name) ||
      !der_take(&id, DER_OCTET_STRING, &key) || !der_take(&id, DER_INTEGER, &serial) || id.size)
    return false;
  gnutls_digest_algorithm_t hash = hash_algorithm(algorithm);
  return hash != GNUTLS_DIG_UNKNOWN && bytes_equal(serial, subject->serial) &&
         hash_matches(hash, subject->issuer, name) && hash_matches(hash, issuer->key, key);
}

typedef struct {
  double this_update, next_update, revoked_at;
  bool has_next;
  unsigned status; /* tag: [0] good, [1] revoked, [2] unknown */
  int reason;
} Entry;

static bool read_entry(Bytes in, Bytes *id, Entry *entry) {
  Bytes status, content, list, reason;
  bool present;
  *entry = (Entry){.reason = -1};
  if (!der_take(&in, DER_SEQUENCE, id) || !der_next(&in, &entry->status, &status, NULL))
    return false;
  if (entry->status == (DER_CONSTRUCTED | 1)) {
    if (der_peek(&status) != DER_GENERALIZED_TIME || !der_take_time(&status, &entry->revoked_at) ||
        !der_optional(&status, DER_CONSTRUCTED | 0, &content, &present) || status.size ||
        (present &&
         (!der_take(&content, DER_ENUMERATED, &reason) || !der_small(reason, &entry->reason))))
      return false;
  } else if ((entry->status != (DER_CONTEXT | 0) && entry->status != (DER_CONTEXT | 2)) ||
             status.size) {
    return false;
  }
  if (der_peek(&in) != DER_GENERALIZED_TIME || !der_take_time(&in, &entry->this_update) ||
      !der_optional(&in, DER_CONSTRUCTED | 0, &content, &entry->has_next))
    return false;
  if (entry->has_next && (der_peek(&content) != DER_GENERALIZED_TIME ||
                          !der_take_time(&content, &entry->next_update) || content.size))
    return false;
  if (!der_optional(&in, DER_CONSTRUCTED | 1, &content, &present) || in.size) return false;
  return !present || (der_take(&content, DER_SEQUENCE, &list) && content.size == 0 &&
                      read_extensions(list, NULL, NULL));
}

/* A revocation is for good, however old the word of it; "good" has to be fresh. An answer without
 * an end is taken as out of date at once (RFC 6960 2.4: newer ones are always available). */
static void weigh(const Entry *entry, double time, Revocation *result) {
  if (entry->status == (DER_CONSTRUCTED | 1)) {
    *result = (Revocation){REVOCATION_REVOKED, "revoked",          entry->revoked_at,
                           entry->reason,      entry->this_update, entry->next_update};
    return;
  }
  if (result->answer != REVOCATION_UNKNOWN) return;
  result->this_update = entry->this_update;
  result->next_update = entry->next_update;
  if (entry->status == (DER_CONTEXT | 2)) {
    unknown(result, "status_unknown");
  } else if (entry->this_update > time + SKEW) {
    unknown(result, "not_yet_valid");
  } else if (!entry->has_next || entry->next_update + SKEW < time ||
             entry->next_update < entry->this_update) {
    unknown(result, "stale");
  } else {
    result->answer = REVOCATION_GOOD;
    result->code = NULL;
  }
}

void revocation_ocsp(Bytes bytes, const View *subject, const View *issuer, double time,
                     Revocation *result) {
  Response response;
  *result = (Revocation){REVOCATION_UNKNOWN, NULL, 0, -1, 0, 0};
  const char *code = read_response(bytes, &response);
  if (code) {
    unknown(result, code);
    return;
  }
  Revocation found = {REVOCATION_UNKNOWN, "wrong_certificate", 0, -1, 0, 0};
  Bytes list = response.responses, single, id;
  for (int i = 0; list.size; i++) {
    Entry entry;
    if (i == MAX_STAPLE_ENTRIES || !der_take(&list, DER_SEQUENCE, &single) ||
        !read_entry(single, &id, &entry)) {
      unknown(result, "bad_response");
      return;
    }
    if (is_about(id, subject, issuer)) weigh(&entry, time, &found);
  }
  /* The signature last: it costs most, and none is needed for an answer about something else. */
  if (found.answer == REVOCATION_UNKNOWN && strcmp(found.code, "wrong_certificate") == 0)
    unknown(result, found.code);
  else if (!signer_good(&response, issuer, time))
    unknown(result, "bad_signer");
  else
    *result = found;
}

/* CRLs ---------------------------------------------------------------------------------------- */

typedef struct {
  bool number, number_critical, delta, has_scope;
  Bytes scope; /* IssuingDistributionPoint */
} CrlExtensions;

static bool crl_reader(void *owner, Bytes oid, bool critical, Bytes value) {
  CrlExtensions *found = owner;
  if (der_is(oid, OID("\x55\x1d\x14"))) {
    found->number = true;
    found->number_critical = critical;
    return true;
  }
  if (der_is(oid, OID("\x55\x1d\x1b"))) {
    found->delta = true;
    return true;
  }
  if (der_is(oid, OID("\x55\x1d\x1c"))) {
    found->has_scope = true;
    return der_take(&value, DER_SEQUENCE, &found->scope) && value.size == 0;
  }
  return !critical;
}

/* Does one of the certificate's distribution points, for all reasons, bear the name of the CRL's?
 */
static bool same_point(const View *subject, Bytes point) {
  Bytes wanted, points = subject->points, list, entry, name, full, content, whole, other;
  unsigned tag, other_tag;
  bool present;
  if (!der_take(&point, DER_CONSTRUCTED | 0, &wanted)) return false;
  if (!points.data || !der_take(&points, DER_SEQUENCE, &list)) return false;
  while (list.size && der_take(&list, DER_SEQUENCE, &entry)) {
    if (!der_optional(&entry, DER_CONSTRUCTED | 0, &name, &present) || !present) continue;
    if (entry.size || !der_take(&name, DER_CONSTRUCTED | 0, &full)) continue;
    while (full.size && der_next(&full, &tag, &content, &whole))
      for (Bytes rest = wanted; rest.size && der_next(&rest, &other_tag, &content, &other);)
        if (bytes_equal(whole, other)) return true;
  }
  return false;
}

/* May the CRL's silence about the certificate mean that it is good? */
static bool covers(const CrlExtensions *extensions, const View *subject, bool *indirect) {
  Bytes scope = extensions->scope, point, reasons, flag;
  bool has_point, users = false, authorities = false, some, attributes = false, present;
  *indirect = false;
  if (!extensions->has_scope) return !extensions->delta;
  if (!der_optional(&scope, DER_CONSTRUCTED | 0, &point, &has_point)) return false;
  bool *const flags[] = {&users, &authorities, NULL, indirect, &attributes};
  some = false;
  for (unsigned i = 0; i < 5; i++) {
    if (!der_optional(&scope, DER_CONTEXT | (i + 1), i == 2 ? &reasons : &flag, &present))
      return false;
    if (!present) continue;
    if (i == 2)
      some = true;
    else
      *flags[i] = flag.size == 1 && flag.data[0] != 0;
  }
  if (scope.size || some || attributes || *indirect || extensions->delta) return false;
  if ((users && subject->ca) || (authorities && !subject->ca)) return false;
  return !has_point || same_point(subject, point);
}

/* Looks for the serial. False when an entry is broken or speaks of another issuer. */
static bool search(Bytes list, const View *subject, Revocation *result, bool *listed) {
  Bytes entry, serial, extensions;
  double when;
  *listed = false;
  while (list.size) {
    bool present;
    int reason = -1;
    if (!der_take(&list, DER_SEQUENCE, &entry) || !der_take(&entry, DER_INTEGER, &serial) ||
        !der_take_time(&entry, &when) ||
        !der_optional(&entry, DER_SEQUENCE, &extensions, &present) || entry.size ||
        (present && !read_extensions(extensions, reason_reader, &reason)))
      return false;
    if (!bytes_equal(serial, subject->serial)) continue;
    if (reason == 8) continue; /* removeFromCRL */
    *listed = true;
    result->revoked_at = when;
    result->reason = reason;
  }
  return true;
}

bool revocation_crl(Bytes crl, const View *subject, const View *issuer, double time, bool strict,
                    Revocation *result) {
  Bytes fields, tbs_content, tbs, algorithm, inner, bits, signature, name, number, content;
  Bytes entries = {NULL, 0}, extensions;
  unsigned tag;
  bool present;
  double this_update, next_update = 0;
  *result = (Revocation){REVOCATION_UNKNOWN, "bad_crl", 0, -1, 0, 0};
  if (!der_take(&crl, DER_SEQUENCE, &fields) || crl.size || der_peek(&fields) != DER_SEQUENCE ||
      !der_next(&fields, &tag, &tbs_content, &tbs) || der_peek(&fields) != DER_SEQUENCE ||
      !der_next(&fields, &tag, &content, &algorithm) || !der_take(&fields, DER_BIT_STRING, &bits) ||
      fields.size || !der_bits(bits, &signature) ||
      !der_optional(&tbs_content, DER_INTEGER, &number, &present) ||
      der_peek(&tbs_content) != DER_SEQUENCE || !der_next(&tbs_content, &tag, &content, &inner) ||
      der_peek(&tbs_content) != DER_SEQUENCE || !der_next(&tbs_content, &tag, &content, &name))
    return false;
  if (!bytes_equal(name, subject->issuer)) return false;
  if (!bytes_equal(inner, algorithm) || !der_take_time(&tbs_content, &this_update)) return true;
  unsigned next = der_peek(&tbs_content);
  bool has_next = next == DER_UTC_TIME || next == DER_GENERALIZED_TIME;
  if ((has_next && !der_take_time(&tbs_content, &next_update)) ||
      !der_optional(&tbs_content, DER_SEQUENCE, &entries, &present) ||
      !der_optional(&tbs_content, DER_CONSTRUCTED | 0, &content, &present) || tbs_content.size)
    return true;
  CrlExtensions found = {0};
  if (present && (!der_take(&content, DER_SEQUENCE, &extensions) || content.size ||
                  !read_extensions(extensions, crl_reader, &found)))
    return true;
  if (found.number_critical || (strict && !found.number)) return true;
  if (issuer->has_usage && !(issuer->usage & USAGE_CRL_SIGN)) {
    result->code = "bad_signer";
    return true;
  }
  bool indirect, listed;
  Revocation revoked = {REVOCATION_REVOKED, "revoked", 0, -1, this_update, next_update};
  bool covered = covers(&found, subject, &indirect);
  if (!search(entries, subject, &revoked, &listed)) return true;
  if (!signature_valid(issuer->spki, algorithm, tbs, signature)) {
    result->code = "bad_signer";
    return true;
  }
  result->this_update = this_update;
  result->next_update = next_update;
  if (listed && !indirect)
    *result = revoked;
  else if (this_update > time + SKEW)
    result->code = "not_yet_valid";
  else if (!has_next || next_update + SKEW < time)
    result->code = "stale";
  else if (!covered)
    result->code = "partial_crl";
  else
    *result = (Revocation){REVOCATION_GOOD, NULL, 0, -1, this_update, next_update};
  return true;
}

/* FAULT(name, code, strict, text): everything one certificate can be refused for. The code is part
 * of the API (err.code). The text follows the certificate's name in a sentence. No include guard:
 * read several times. */
FAULT(MALFORMED, "bad_certificate", false, "is not a well-formed certificate")
FAULT(VERSION, "bad_certificate", false, "is not an X.509 version 3 certificate")
FAULT(ALGORITHMS_DIFFER, "bad_certificate", false, "names two different signature algorithms")
FAULT(DUPLICATE_EXTENSION, "bad_certificate", false, "has the same extension twice")
FAULT(UNKNOWN_CRITICAL, "unknown_critical", false,
      "has a critical extension that is not known here")
FAULT(NEVER_CRITICAL, "bad_certificate", false,
      "has an extension marked critical that never may be")
FAULT(NEGATIVE_SERIAL, "bad_certificate", false, "has a negative serial number")
FAULT(BAD_EXTENSION, "bad_certificate", false, "has a malformed extension")
FAULT(BAD_NAMES, "bad_certificate", false, "has malformed subject alternative names")
FAULT(TOO_MANY_NAMES, "too_complex", false, "has too many names to check")
FAULT(BAD_CONSTRAINTS, "bad_certificate", false, "has malformed name constraints")
FAULT(EMPTY_PURPOSES, "wrong_purpose", false, "has an empty list of purposes")
FAULT(EMPTY_ISSUER, "bad_certificate", false, "has an empty issuer name")
FAULT(BAD_DATES, "bad_certificate", false, "has malformed dates")
FAULT(WEAK_KEY, "weak_key", false, "has a key that is too weak")
FAULT(KEY_SIZE, "weak_key", false, "has a key of a size that is not accepted")
FAULT(KEY_KIND, "weak_key", false, "has a key of a kind that is not accepted")
FAULT(WEAK_SIGNATURE, "weak_signature", false, "is signed with a broken algorithm (SHA-1 or older)")
FAULT(UNKNOWN_SIGNATURE, "weak_signature", false,
      "is signed with an algorithm that is not accepted")
/* In the role of the peer's own certificate */
FAULT(LEAF_PURPOSE, "wrong_purpose", false, "was not issued for this purpose")
FAULT(LEAF_USAGE, "wrong_purpose", false, "has a key that may not be used for TLS")
/* In the role of an issuer */
FAULT(NOT_CA, "not_a_ca", false, "is not a certificate authority, and may not issue certificates")
FAULT(CA_USAGE, "not_a_ca", false, "has a key that may not sign certificates")
FAULT(CA_PURPOSE, "wrong_purpose", false, "may not issue certificates for this purpose")
FAULT(CA_SUBJECT, "bad_certificate", false, "is an issuer without a name")
FAULT(PATH_LENGTH, "path_too_long", false, "allows fewer certificates below it than there are")
/* Of the path */
FAULT(SELF_SIGNED, "self_signed", false, "is self-signed")
FAULT(UNTRUSTED_ROOT, "unknown_issuer", false, "is a root that is not trusted")
FAULT(OTHER_KEY, "unknown_issuer", false, "has an issuer that is not trusted")
FAULT(UNKNOWN_ISSUER, "unknown_issuer", false, "has an issuer that is not trusted")
FAULT(BAD_SIGNATURE, "wrong_issuer", false, "carries a signature that its issuer did not make")
FAULT(TOO_DEEP, "path_too_long", false, "is too far from a trusted root")
FAULT(TOO_MUCH_WORK, "too_complex", false, "has too many possible issuers to try them all")
FAULT(CONSTRAINED, "name_not_permitted", false,
      "has a name that an issuer above it may not vouch for")
FAULT(NO_POLICY, "no_policy", false,
      "has no certificate policy of those that an issuer above it demands")
FAULT(TOO_MANY_POLICIES, "too_complex", false, "has too many certificate policies to check")
FAULT(REFUSED, "bad_certificate", false, "is refused by GnuTLS")
/* The strict profile: RFC 5280 and the CA/Browser Forum to the letter */
FAULT(SERIAL, "pedantic", true, "has a serial number that is zero or too long")
FAULT(CRITICAL_WRONG, "pedantic", true, "has an extension marked critical that must not be")
FAULT(NOT_CRITICAL, "pedantic", true, "has an extension that must be marked critical")
FAULT(NO_AUTHORITY_KEY, "pedantic", true, "does not identify its issuer's key")
FAULT(AUTHORITY_KEY, "pedantic", true, "identifies its issuer's key in a way that is not allowed")
FAULT(NO_SUBJECT_KEY, "pedantic", true, "is an issuer without a key identifier")
FAULT(NO_BASIC, "pedantic", true, "is an issuer without basic constraints")
FAULT(DOTTED_CONSTRAINT, "pedantic", true, "has a name constraint that begins with a dot")
FAULT(UNDERSCORE, "pedantic", true, "has a DNS name with an underscore")
FAULT(ANY_PURPOSE, "pedantic", true, "is good for any purpose")
FAULT(CRITICAL_PURPOSES, "pedantic", true, "has a critical list of purposes")
FAULT(ROOT_PURPOSES, "pedantic", true, "is a root with a list of purposes")
FAULT(LEAF_CONSTRAINTS, "pedantic", true, "has name constraints but is no issuer")
FAULT(LEAF_CA, "pedantic", true, "is an issuer, not a server")
FAULT(COMMON_NAME, "pedantic", true, "has a common name that is none of its names")

-- Cases of x509-limbo that are answered otherwise than it expects, each with the reason. All are chains
-- taken that it wants refused; none is a good chain refused.
local profile = "a rule of RFC 5280 or the CA/Browser Forum that real sites break: refused by the strict profile"
local names = "CA/Browser Forum on common names, which are not looked at by default: refused by the strict profile"
local twin = "another case wants a chain with the same property taken"

local default = {
  ["crl::crlnumber-missing"] = profile,
  ["rfc5280::aki::leaf-missing-aki"] = profile,
  ["rfc5280::aki::intermediate-missing-aki"] = profile,
  ["rfc5280::nc::invalid-dnsname-leading-period"] = profile,
  ["rfc5280::nc::not-allowed-in-ee-noncritical"] = profile,
  ["rfc5280::nc::not-allowed-in-ee-critical"] = profile,
  ["rfc5280::pc::ica-noncritical-pc"] = profile,
  ["rfc5280::san::noncritical-with-empty-subject"] = profile,
  ["rfc5280::san::underscore-dns"] = profile,
  ["rfc5280::serial::too-long"] = profile,
  ["rfc5280::serial::zero"] = profile,
  ["rfc5280::serial::negative"] = "a negative serial number of the very certificate that the program trusts: refused "
    .. "by the strict profile, and of every other certificate by default",
  ["rfc5280::ski::root-missing-ski"] = profile,
  ["rfc5280::ski::intermediate-missing-ski"] = profile,
  ["rfc5280::root-missing-basic-constraints"] = profile,
  ["rfc5280::root-non-critical-basic-constraints"] = profile,
  ["rfc5280::leaf-ku-keycertsign"] = profile,
  ["webpki::aki::root-with-aki-missing-keyidentifier"] = profile,
  ["webpki::aki::root-with-aki-authoritycertissuer"] = profile,
  ["webpki::aki::root-with-aki-authoritycertserialnumber"] = profile,
  ["webpki::aki::root-with-aki-all-fields"] = profile,
  ["webpki::aki::root-with-aki-ski-mismatch"] = profile,
  ["webpki::cn::ipv4-hex-mismatch"] = names,
  ["webpki::cn::ipv4-leading-zeros-mismatch"] = names,
  ["webpki::cn::ipv6-uppercase-mismatch"] = names,
  ["webpki::cn::ipv6-uncompressed-mismatch"] = names,
  ["webpki::cn::ipv6-non-rfc5952-mismatch"] = names,
  ["webpki::cn::punycode-not-in-san"] = names,
  ["webpki::cn::utf8-vs-punycode-mismatch"] = names,
  ["webpki::cn::not-in-san"] = names,
  ["webpki::cn::case-mismatch"] = names,
  ["webpki::eku::ee-anyeku"] = profile,
  ["webpki::eku::ee-critical-eku"] = profile,
  ["webpki::eku::root-has-eku"] = profile,
  ["webpki::san::public-suffix-private-namespace-wildcard-san"] =
    "this very name is in the real certificate of Amazon's S3: refused by the strict profile",
  ["webpki::san::san-critical-with-nonempty-subject"] = profile,
  ["webpki::ee-basicconstraints-ca"] = profile,
}

local strict = {
  ["rfc5280::aki::cross-signed-root-missing-aki"] = twin .. " (cve::cve-2024-0567)",
  ["rfc5280::nc::permitted-dns-match-noncritical"] = twin .. " (webpki::nc::permitted-dns-match-noncritical)",
  ["webpki::eku::ee-without-eku"] = twin .. " (rfc5280::eku::ee-without-eku)",
  ["webpki::ca-as-leaf"] = twin .. " (rfc5280::ca-as-leaf)",
}

for id, reason in pairs(strict) do default[id] = reason end

return { default = default, strict = strict }

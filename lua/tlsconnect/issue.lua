-- Making certificates, requests and revocation lists (RFC 5280, RFC 2986): enough for a program to
-- run its own small CA. The functions here are reached as tlsconnect.certificate.issue and so on:
-- see certificate.lua.
local core = require "tlsconnect.core"
local der = require "tlsconnect.der"
local errors = require "tlsconnect.error"
local extensions = require "tlsconnect.issue.extensions"
local names = require "tlsconnect.issue.names"
local options = require "tlsconnect.options"

local M = {}

-- The options ---------------------------------------------------------------------------------

local shared = "issue request revocation_list"

options.add {
  { "subject", "string|table",
    "whom the certificate is for: RFC 4514 text (\"CN=a.test,O=Company\"), {CN=, O=, ...}, or a list"
      .. " of {name=, value=} in the order of the certificate",
    default = "none; required for a CA", on = "issue request" },
  { "names", "table",
    "alternative names: \"a.test\", \"*.a.test\", \"192.0.2.1\", \"ada@a.test\", \"https://a.test/\", or"
      .. " {dns=}, {ip=}, {email=}, {uri=}, {dn=}, {registered_id=}, {other=OID, value=DER}",
    on = "issue request" },
  { "key", "key", "the key that the certificate is for", on = "issue request" },
  { "request", "request|string",
    "a request in place of `key`: gives the key, and subject and names where these are not given",
    on = "issue" },
  { "issuer", "certificate", "the certificate of the CA", default = "none: self-signed",
    on = "issue revocation_list" },
  { "issuer_key", "key", "the key of the CA", on = "issue revocation_list" },
  { "not_before", "number", "when it begins to be good, seconds since the epoch", unit = "s",
    default = "an hour ago", on = "issue" },
  { "not_after", "number", "when it ends; math.huge: never", unit = "s",
    default = "90 days later (10 years for a CA), and not after the issuer's end", on = "issue" },
  { "serial", "string|number", "hexadecimal digits, or a number", default = "16 random bytes", on = "issue" },
  { "ca", "boolean", "may issue certificates", default = "false", on = "issue" },
  { "path_length", "number", "how many CAs may stand below this one", min = 0, default = "any", on = "issue" },
  { "usages", "table|boolean",
    "key usages, as `extensions()` names them; false: none",
    default = "what the kind of key and `ca` ask for", of = "string", on = "issue request" },
  { "purposes", "table|boolean",
    "extended key usages: server, client, code_signing, email, time_stamping, ocsp_signing, any, or"
      .. " OIDs; false: none",
    default = "server and client; none for a CA", of = "string", on = "issue request" },
  { "must_staple", "boolean", "demands a stapled OCSP answer (RFC 7633)", default = "false",
    on = "issue request" },
  { "ocsp_no_check", "boolean", "an OCSP signer that is not to be checked itself (RFC 6960 4.2.2.2.1)",
    default = "false", on = "issue" },
  { "name_constraints", "table",
    "names that certificates below a CA may or may not have", on = "issue", fields = {
      { "permitted", "table", "a list as `names`, addresses with a prefix: \"10.0.0.0/8\"" },
      { "excluded", "table", "the same" },
    } },
  { "ocsp", "string|table", "URL, or URLs, of OCSP responders", of = "string", on = "issue" },
  { "issuer_urls", "string|table", "where the issuer's certificate is", of = "string", on = "issue" },
  { "crl_urls", "string|table", "where the revocation list is", of = "string", on = "issue" },
  { "policies", "table", "OIDs of certificate policies", of = "string", on = "issue" },
  { "key_ids", "boolean", "subject and authority key identifiers", default = "true", on = "issue" },
  { "extensions", "table",
    "more of them, or others in the place of those of the same OID: a list of"
      .. " {oid=, value=DER, critical=}", of = "table", on = shared, fields_of = {
      { "oid", "string", "a dotted OID, or a name as in `extensions()`" },
      { "value", "string", "its content in DER" },
      { "critical", "boolean", "false by default" },
    } },
  { "hash", "string", "of the signature: \"SHA256\"", default = "as strong as the key", on = shared },
  { "revoked", "table",
    "what is revoked: serials (hexadecimal), certificates, or {serial=, time=, reason=}",
    on = "revocation_list" },
  { "this_update", "number", "when the list was made", unit = "s", default = "now", on = "revocation_list" },
  { "next_update", "number|boolean", "when the next one comes; false: it does not say", unit = "s",
    default = "7 days later", on = "revocation_list" },
  { "number", "number", "of this list; each is higher than the one before", min = 0,
    default = "the time", on = "revocation_list" },
}

local bad = names.bad

-- Turns a function of the checked options into one that checks them, and raises what is wrong with
-- their values where certificate.issue and the like, which call it, are called.
local function checked(where, build)
  return function(given)
    given = options.check(where, given, 1)
    local ok, a, b, c = pcall(build, given)
    if ok then return a, b, c end
    if names.is_bad(a) then error(("bad option '%s' to %s (%s)"):format(a.option, where, a.problem), 3) end
    error(a, 0)
  end
end

local function fail(code, message)
  return errors.fail(errors.new { step = "setup", code = code, message = message })
end

local function failed(_, _, cause)
  return errors.fail(errors.from(cause, { step = "setup", message = cause.message }))
end

-- Signing -------------------------------------------------------------------------------------

local hash_oids = {
  SHA256 = "2.16.840.1.101.3.4.2.1", SHA384 = "2.16.840.1.101.3.4.2.2", SHA512 = "2.16.840.1.101.3.4.2.3",
}
local salts = { SHA256 = 32, SHA384 = 48, SHA512 = 64 }

-- RFC 4055 3.1
local function pss_parameters(hash)
  local algorithm = der.sequence(der.oid(hash_oids[hash]), der.null())
  local mask = der.sequence(der.oid("1.2.840.113549.1.1.8"), algorithm)
  return der.sequence(der.explicit(0, algorithm), der.explicit(1, mask),
    der.explicit(2, der.integer(salts[hash])))
end

-- AlgorithmIdentifier of a signature by this key. nil, message, cause when it cannot sign so.
local function signature_algorithm(key, hash)
  if hash and key:type():find("^ed") then bad("hash", "an EdDSA key has its own") end
  local ok, name, oid, cause = pcall(key.algorithm, key, hash)
  if not ok then bad("hash", ("'%s' is none that is known"):format(hash)) end
  if not name then return nil, oid, cause end
  local parameters
  local pss = name:match("^RSA%-PSS.*(SHA%d+)")
  if pss then
    parameters = pss_parameters(pss)
  elseif key:type() == "rsa" then
    parameters = der.null() -- RFC 4055 5
  end
  return der.sequence(der.oid(oid), parameters)
end

-- SEQUENCE { tbs, algorithm, signature }
local function sign(key, hash, algorithm, tbs)
  local signature, message, cause = key:sign(tbs, hash)
  if not signature then return nil, message, cause end
  return der.sequence(tbs, algorithm, der.bits(signature))
end

local function check_time(seconds, option)
  if seconds == math.huge then seconds = 253402300799 end -- RFC 5280 4.1.2.5: no known end
  local time = seconds == seconds and seconds > -math.huge and der.time(seconds)
  if not time then bad(option, "a time between the years 0 and 9999 expected") end
  return time
end

local function serial_of(value, option)
  if type(value) == "number" then
    if value < 0 or value ~= math.floor(value) or value >= 2 ^ 53 then bad(option, "a whole number expected") end
    return der.integer(value)
  end
  local digits = value:gsub("[:%s]", "")
  if not digits:find("^%x+$") then bad(option, "hexadecimal digits expected") end
  if #digits % 2 == 1 then digits = "0" .. digits end
  if #digits > 40 then bad(option, "at most 20 bytes expected (RFC 5280 4.1.2.2)") end
  return der.unsigned(names.from_hex(digits))
end

-- Positive, 128 random bits, and never with a zero in front that a reader might drop.
local function random_serial()
  return der.unsigned("\1" .. core.random(16))
end

-- Who signs: the issuer's certificate and its key, which must belong together. Without an issuer,
-- the subject's own key. Or nil, message, err.
local function signer_of(given)
  local issuer, issuer_key = given.issuer, given.issuer_key
  if issuer and not issuer_key then bad("issuer_key", "the issuer's key expected") end
  if issuer_key and not issuer then bad("issuer", "the certificate of issuer_key expected") end
  if issuer and issuer:pin() ~= issuer_key:pin() then
    return fail("key_mismatch", "issuer_key does not belong to the issuer's certificate")
  end
  return { certificate = issuer, key = issuer_key or given.key }
end

-- Certificates --------------------------------------------------------------------------------

-- The request that a certificate is made from, verified; or nil, message, err.
local function read_request(given)
  local request, ok, message, cause
  if type(given.request) == "string" then
    request, message, cause = core.request(given.request)
    if not request then return failed(nil, message, cause) end
  else
    request = given.request
  end
  ok, message, cause = request:verify()
  if not ok then return failed(nil, message, cause) end
  return request
end

local function dates(given, issuer)
  local not_before = given.not_before or os.time() - 3600
  local not_after = given.not_after
  if not not_after then
    not_after = not_before + (given.ca and 3650 or 90) * 86400
    local limit = issuer and issuer:not_after()
    if limit and limit < not_after and limit > not_before then not_after = limit end
  end
  if not_after < not_before then bad("not_after", "it is before not_before") end
  return der.sequence(check_time(not_before, "not_before"), check_time(not_after, "not_after"))
end

-- The subjectAltName's value, from the options or else as the request has it; nil when there is none.
local function alternative_names(given, request)
  if given.names then
    local encoded = {}
    for i, name in ipairs(given.names) do encoded[i] = names.general(name, "names") end
    return #encoded > 0 and der.sequence_of(encoded) or nil
  end
  local requested = request and request:extensions()
  requested = requested and requested.subject_alternative_name
  return requested and not requested.broken and requested.raw or nil
end

local function certificate_extensions(given, key, issuer, alternative, anonymous)
  local list = extensions.new()
  extensions.add_constraints(list, given)
  extensions.add_usages(list, given, extensions.fitting_usages(given, key.type))
  extensions.add_purposes(list, given, not given.ca and { "server", "client" })
  extensions.add_key_ids(list, given, key, issuer)
  -- RFC 5280 4.2.1.6: critical when it is all that names the subject
  if alternative then list:add("subject_alternative_name", alternative, anonymous) end
  extensions.add_name_constraints(list, given)
  extensions.add_crl_points(list, given)
  extensions.add_access(list, given)
  extensions.add_policies(list, given)
  extensions.add_must_staple(list, given)
  if given.ocsp_no_check then list:add("ocsp_no_check", der.null()) end
  list:add_given(given)
  return list:der()
end

--- issue(options) -> certificate | nil, message, err
M.issue = checked("issue", function(given)
  local own_key = given.key
  local request, signer, message, err
  if (own_key ~= nil) == (given.request ~= nil) then bad("key", "either a key or a request expected") end
  if given.request then
    request, message, err = read_request(given)
    if not request then return nil, message, err end
    if not given.issuer then bad("issuer", "a request is signed by an issuer") end
  end
  signer, message, err = signer_of(given)
  if not signer then return nil, message, err end
  local issuer = signer.certificate
  local public = names.public_key(request or own_key)
  local subject = given.subject and names.distinguished(given.subject, "subject")
    or request and request:subject("der") or der.sequence()
  local anonymous = subject == der.sequence()
  if given.ca and anonymous then bad("subject", "a CA has one") end
  local alternative = alternative_names(given, request)

  local algorithm, reason, cause = signature_algorithm(signer.key, given.hash)
  if not algorithm then return failed(nil, reason, cause) end
  local tbs = der.sequence(
    der.explicit(0, der.integer(2)), -- version 3
    given.serial and serial_of(given.serial, "serial") or random_serial(),
    algorithm,
    issuer and issuer:subject("der") or subject,
    dates(given, issuer),
    subject,
    public.der,
    der.explicit(3, certificate_extensions(given, public, issuer, alternative, anonymous)))
  local bytes
  bytes, reason, cause = sign(signer.key, given.hash, algorithm, tbs)
  if not bytes then return failed(nil, reason, cause) end
  local certificate
  certificate, reason, cause = core.certificate(bytes)
  if not certificate then return failed(nil, reason, cause) end
  return certificate
end)

-- Requests ------------------------------------------------------------------------------------

--- request(options) -> request | nil, message, err
M.request = checked("request", function(given)
  local key = given.key
  if not key then bad("key", "a key expected") end
  local list = extensions.new()
  extensions.add_usages(list, given, false)
  extensions.add_purposes(list, given, false)
  local alternative = alternative_names(given)
  if alternative then list:add("subject_alternative_name", alternative) end
  extensions.add_must_staple(list, given)
  list:add_given(given)
  -- RFC 2985 5.4.2: extensionRequest
  local attributes = ""
  if #list.order > 0 then
    attributes = der.sequence(der.oid("1.2.840.113549.1.9.14"), der.set_of { list:der() })
  end
  local algorithm, message, cause = signature_algorithm(key, given.hash)
  if not algorithm then return failed(nil, message, cause) end
  local info = der.sequence(
    der.integer(0),
    given.subject and names.distinguished(given.subject, "subject") or der.sequence(),
    key:public("der"),
    der.explicit(0, attributes))
  local bytes
  bytes, message, cause = sign(key, given.hash, algorithm, info)
  if not bytes then return failed(nil, message, cause) end
  local request
  request, message, cause = core.request(bytes)
  if not request then return failed(nil, message, cause) end
  return request
end)

-- Revocation lists ----------------------------------------------------------------------------

-- RFC 5280 5.3.1
local reasons = {
  unspecified = 0, key_compromise = 1, ca_compromise = 2, affiliation_changed = 3, superseded = 4,
  cessation_of_operation = 5, certificate_hold = 6, remove_from_crl = 8, privilege_withdrawn = 9,
  aa_compromise = 10,
}

local function revoked_entry(one, option, now)
  local entry = one
  if type(one) ~= "table" then entry = { serial = one } end
  local serial = entry.serial
  if options.is("certificate", serial) then serial = serial:serial() end
  if type(serial) ~= "string" and type(serial) ~= "number" then
    bad(option, "a serial number or a certificate expected")
  end
  local details
  if entry.reason then
    local number = reasons[entry.reason]
    if not number then bad(option, ("'%s' is none of %s"):format(tostring(entry.reason), names.known(reasons))) end
    details = der.sequence(extensions.one("2.5.29.21", false, der.element(0x0a, string.char(number))))
  end
  if entry.time and type(entry.time) ~= "number" then bad(option, "a time in seconds expected") end
  return der.sequence(serial_of(serial, option), check_time(entry.time or now, option), details)
end

--- revocation_list(options) -> PEM text, DER | nil, message, err
M.revocation_list = checked("revocation_list", function(given)
  if not given.issuer then bad("issuer", "a certificate expected") end
  local signer, message, err = signer_of(given)
  if not signer then return nil, message, err end
  local now = given.this_update or os.time()
  local next_update = given.next_update
  if next_update == nil or next_update == true then next_update = now + 7 * 86400 end
  local entries = {}
  for i, one in ipairs(given.revoked or {}) do
    entries[i] = revoked_entry(one, ("revoked[%d]"):format(i), now)
  end
  local list = extensions.new()
  local id = extensions.key_id(signer.certificate)
  if id then list:add("authority_key_id", der.sequence(der.implicit(0, names.from_hex(id)))) end
  list:add("crl_number", serial_of(given.number or os.time(), "number"))
  list:add_given(given)
  local algorithm, reason, cause = signature_algorithm(signer.key, given.hash)
  if not algorithm then return failed(nil, reason, cause) end
  local parts = {
    der.integer(1), -- version 2
    algorithm,
    signer.certificate:subject("der"),
    check_time(now, "this_update"),
  }
  if next_update then parts[#parts + 1] = check_time(next_update, "next_update") end
  -- RFC 5280 5.1.2.6: absent when nothing is revoked
  if #entries > 0 then parts[#parts + 1] = der.sequence_of(entries) end
  parts[#parts + 1] = der.explicit(0, list:der())
  local bytes
  bytes, reason, cause = sign(signer.key, given.hash, algorithm, der.sequence_of(parts))
  if not bytes then return failed(nil, reason, cause) end
  return core.pem("X509 CRL", bytes), bytes
end)

return M

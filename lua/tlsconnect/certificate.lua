-- tlsconnect.certificate: certificates that are read, and made. The module is called itself:
--
--   certificate(text) -> certificate                    the first in PEM text, or the one in DER
--   certificate.list(text) -> {certificate, ...}        all in PEM text (a chain, a bundle of roots)
--   certificate.issue(options) -> certificate           self-signed, or by an `issuer`
--   certificate.request(text) -> request                a PKCS #10 request that somebody sent
--   certificate.request(options) -> request             one's own
--   certificate.revocation_list(options) -> PEM, DER    a CRL
--
-- Each returns nil, message, err when the text is broken (bad_pem, bad_der); err.certificate is
-- then which one of a list. PEM text may hold anything between its blocks; blocks of other kinds,
-- such as a key beside its chain, are passed over. Options: issue.lua.
--
-- Methods of a certificate (RFC 5280):
--   subject(form), issuer(form)  RFC 4514 text, in which what is not plain is \HH; "table": a list
--                       {name="CN", oid=, value=bytes} with the fields CN, O, ... of the first of each;
--                       "der": bytes
--   serial()            lower-case hexadecimal
--   not_before(), not_after()  seconds since the epoch
--   names(type)         all alternative names: a list of {type=, value=, text=}. type is "dns", "ip",
--                       "email", "uri", "dn", "registered_id", "other", "x400" or "edi"; value the bytes
--                       (of ip, dn and registered_id text; of other DER, beside its oid); text is for
--                       people, escaped. An ip or dn also has its bytes in raw; an ip of odd length
--                       only these. With a type: the list of its values alone
--   key()               {type="rsa", "ec", "ed25519", ...; bits=; curve="p256"; pin=; oid=; id=; der=}
--   pin()               base64 of the SHA-256 of the public key (RFC 7469)
--   signature()         "ECDSA-SHA256", "SHA256"; "unknown" for one that GnuTLS does not know
--   fingerprint(hash)   hexadecimal; "sha256" by default
--   extensions()        a list of {oid=, name=, critical=, raw=bytes, value=}, each also under its name:
--                       extensions().basic_constraints.value.ca. The values: extensions.c. A known one
--                       that is malformed has broken = true and no value
--   version(), pem(), der(), ==, tostring
-- A request has subject, names, key, pin, extensions, signature, pem, der, and verify(): true when its
-- sender holds the key.
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"

local M = {}

local function check_text(value, name)
  if type(value) ~= "string" then
    error(("bad argument #1 to '%s' (PEM or DER text expected, got %s)"):format(name, type(value)), 3)
  end
end

local function result(value, message, cause)
  if value then return value end
  return errors.fail(errors.from(cause, { step = "setup", message = message }))
end

function M.list(text)
  check_text(text, "list")
  return result(core.certificates(text))
end

function M.issue(options)
  local made, message, err = require("tlsconnect.issue").issue(options)
  return made, message, err -- no tail call: errors are raised where this was called
end

function M.request(given)
  if type(given) == "table" then
    local made, message, err = require("tlsconnect.issue").request(given)
    return made, message, err
  end
  check_text(given, "request")
  return result(core.request(given))
end

function M.revocation_list(options)
  local made, message, err = require("tlsconnect.issue").revocation_list(options)
  return made, message, err -- no tail call: errors are raised where this was called
end

return setmetatable(M, {
  __call = function(_, text)
    check_text(text, "certificate")
    return result(core.certificate(text))
  end,
})

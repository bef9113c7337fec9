-- tlsconnect.key: private keys, read and made. The module is called itself:
--
--   key(text, password) -> key             the first in PEM text, or the one in DER: PKCS #8, plain or
--                                          encrypted, PKCS #1, SEC 1
--   key(text, password) -> key, chain, others   of PKCS #12: the certificate of the key and those above
--                                          it; then the certificates that are not among these
--   key.generate(type, bits) -> key        "p256" (default), "p384", "p521", "ed25519", "ed448", or "rsa"
--                                          with 1024 to 8192 bits (default 3072), which takes a while
--
-- Each returns nil, message, err: bad_pem, bad_der, bad_key (its numbers do not fit together),
-- password_required, wrong_password, unsupported, too_large, no_key.
--
-- Methods: type() as key().type of a certificate, bits(), curve(), pin(); public(form): the public key as
-- "pem" (default) or "der"; pem(password), der(password): PKCS #8, with a password encrypted with
-- AES-256; algorithm(hash), sign(data, hash): a signature and what it is called; ==: the same public key;
-- tostring: never the secret.
-- The text of a key is a Lua string, which stays in memory until it is collected: GnuTLS's copy is wiped.
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"

local M = {}

local function result(value, message, cause, ...)
  if value then return value, message, cause, ... end
  return errors.fail(errors.from(cause, { step = "setup", message = message }))
end

function M.generate(kind, bits)
  return result(core.generate_key(kind, bits))
end

return setmetatable(M, {
  __call = function(_, text, password)
    if type(text) ~= "string" then
      error(("bad argument #1 to 'key' (PEM or DER text expected, got %s)"):format(type(text)), 2)
    end
    if password ~= nil and type(password) ~= "string" then
      error(("bad argument #2 to 'key' (string expected, got %s)"):format(type(password)), 2)
    end
    return result(core.key(text, password))
  end,
})

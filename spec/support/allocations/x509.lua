-- Run by alloc_fail with the paths of a chain, its key and its root: certificates, keys and requests, read
-- and made.
local core = require "tlsconnect.core"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"
require "tlsconnect.issue"

return function(chain, key, root)
  local list = assert(tlsconnect.certificate.list(tmp.read(chain)))
  for _, certificate in ipairs(list) do
    certificate:subject("table")
    certificate:issuer()
    certificate:names()
    certificate:extensions()
    certificate:key()
    certificate:pin()
    certificate:fingerprint()
    assert(tlsconnect.certificate(certificate:der()) == certificate)
  end
  local own = assert(tlsconnect.key(tmp.read(key)))
  assert(own:pin() == list[1]:pin())
  local made = assert(tlsconnect.certificate.issue {
    subject = "CN=a.test", names = { "a.test", "127.0.0.1" }, key = own })
  assert(made:pin() == own:pin())
  assert(tlsconnect.certificate.request { subject = "CN=a.test", key = own })
  assert(not tlsconnect.certificate("-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n"))
  assert(core.certificate(tmp.read(root)))
end

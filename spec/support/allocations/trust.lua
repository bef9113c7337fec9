-- Run by alloc_fail with the paths of a chain, its key, its root, another certificate and a CRL: chains
-- are judged.
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

return function(chain, _, root, other, crl)
  local trust = assert(tlsconnect.trust { ca_file = root })
  assert(trust:verify(tmp.read(chain), { name = "a.test" }))
  assert(trust:verify(tmp.read(chain), { ip = "127.0.0.1", crls = tmp.read(crl) }))
  local ok, _, err = trust:verify(tmp.read(chain), { name = "b.test" })
  assert(not ok and err.code == "name_mismatch")
  ok, _, err = trust:verify(tmp.read(other), { name = "a.test" })
  assert(not ok and err.code)
end

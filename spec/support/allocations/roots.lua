-- Run by alloc_fail with the paths of a chain, its key, its root, another certificate and a CRL: roots are found in
-- files, or the memory is missing; never is one missing that is there.
local core = require "tlsconnect.core"
local tmp = require "spec.support.tmp"

local PROBLEM = 11 -- of alloc_fail

local function expect(found, cause)
  if found then return true end
  if cause and cause.code == "memory" then error(cause) end
  io.stderr:write("a root that is there was not found\n")
  os.exit(PROBLEM)
end

return function(chain, _, root)
  local ders = assert(core.pem_decode(tmp.read(chain), "CERTIFICATE"))
  local subject = assert(core.certificate(ders[#ders])):issuer("der")
  for _, lazy in ipairs { true, false } do
    local store = core.trust()
    local count, _, cause = store:file(root, lazy)
    expect(count == 1, cause)
    count, _, cause = store:file(root, lazy) -- the same again: it is compared
    expect(count == (lazy and 1 or 0), cause)
    local found
    found, _, cause = store:certificates(subject)
    expect(found and #found == 1, cause)
    found, _, cause = store:certificates()
    expect(found and found[1], cause)
    store = core.trust()
    assert(store:file(root, lazy))
    found, _, cause = store:judge { chain = ders, purpose = "server", time = os.time() }
    expect(found and (found.issuer.answer == "yes" or found.issuer.code ~= "unknown_issuer"), cause)
  end
end

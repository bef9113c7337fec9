-- Hostile bytes in a chain that is verified: refused, whatever they are.
local chains = require "spec.support.chains"
local der = require "tlsconnect.der"
local errors = require "tlsconnect.error"
local soak = require "spec.support.soak"
local trust = require "tlsconnect.trust"

local function key(label) return chains.key("p256", nil, label) end

local root = chains.certificate { subject = "Root", ca = true, key = key("root") }
-- Every extension that verification reads is in one of the two.
local A, B = der.oid "1.2.3.1", der.oid "1.2.3.2"
local access = der.sequence(der.sequence(der.oid "1.3.6.1.5.5.7.48.2", chains.general { "uri", "http://ca.test/" }))
local middle = chains.certificate { subject = "Middle", ca = true, issuer = root, key = key("middle"), path_length = 1,
  purposes = { "server", "client" },
  constraints = chains.constraints({ "test", { "ip", ("\0"):rep(8) } }, { "b.test" }),
  extensions = {
    { "2.5.29.32", false, der.sequence(der.sequence(A)) }, { "2.5.29.33", true, der.sequence(der.sequence(A, B)) },
    { "2.5.29.36", true, der.sequence(der.element(0x80, "\0"), der.element(0x81, "\1")) },
    { "2.5.29.54", true, der.integer(1) }, { "access", false, access },
  } }
local leaf = chains.certificate { issuer = middle, names = { "a.test", "*.a.test", { "ip", "\127\0\0\1" } },
  extensions = {
    { "2.5.29.32", false, der.sequence(der.sequence(B)) }, { "access", false, access },
    { "points", false, der.sequence(der.sequence(der.element(0xa0, der.element(0xa0,
      chains.general { "uri", "http://crl.test/" })))) },
  } }

describe("broken certificates", function()
  local chain = chains.chain(leaf, middle)

  it("are good before they are broken", function()
    assert.is_true((trust.new({ ca = root.pem }):verify(chain, { name = "a.test" })))
  end)

  it("cut at every byte are refused", function()
    for place = 1, 2 do
      for size = 0, #chain[place] - 1 do
        local cut = { chain[1], chain[2] }
        cut[place] = chain[place]:sub(1, size)
        if size == 0 then cut[place] = "\48" end
        local ok = trust.new({ ca = root.pem }):verify(cut, { name = "a.test", time = os.time() })
        assert.is_nil(ok)
      end
    end
  end)

  local seed = 20261124
  local function random(n)
    seed = (seed * 16807) % 2147483647
    return seed % n + 1
  end

  -- With another byte somewhere: nil where that is the one that was there.
  local function changed(bytes)
    local at, byte = random(#bytes), random(256) - 1
    if bytes:byte(at) == byte then return nil end
    return bytes:sub(1, at - 1) .. string.char(byte) .. bytes:sub(at + 1), at, byte
  end

  it("mutated before they were signed are judged, whatever they say", function()
    local fresh, taken = trust.new({ ca = root.pem }), 0
    for _ = 1, soak(10000, 1000) do
      local place = random(2)
      local certificate = place == 1 and leaf or middle
      local tbs = changed(certificate.tbs)
      if tbs then
        local given = { chain[1], chain[2] }
        given[place] = chains.signed_again(certificate, tbs)
        local ok, message, err = fresh:verify(given, { name = "a.test", time = os.time() })
        if ok then
          taken = taken + 1
        else
          assert.is_truthy(errors.known[err.code], err.code)
          assert.is_true(#message < 600)
        end
      end
    end
    assert.is_true(taken > 10) -- a serial number, a date or a character more or less
  end)

  it("with mutated bytes are refused, wherever they are: ten thousand where there is time", function()
    local fresh = trust.new({ ca = root.pem })
    for _ = 1, soak(10000, 2000) do
      local place = random(2)
      local broken, at, byte = changed(chain[place])
      if broken then
        local mutated = { chain[1], chain[2] }
        mutated[place] = broken
        local ok = fresh:verify(mutated, { name = "a.test", time = os.time() })
        assert.is_nil(ok, ("byte %d of certificate %d set to %d is taken"):format(at, place, byte))
      end
    end
  end)
end)

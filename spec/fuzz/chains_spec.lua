-- Hostile bytes in a chain that is verified: refused, whatever they are.
local chains = require "spec.support.chains"
local trust = require "tlsconnect.trust"

local function key(label) return chains.key("p256", nil, label) end

local root = chains.certificate { subject = "Root", ca = true, key = key("root") }
local middle = chains.certificate { subject = "Middle", ca = true, issuer = root, key = key("middle") }
local leaf = chains.certificate { issuer = middle, names = { "a.test" } }

describe("broken certificates", function()
  local chain = chains.chain(leaf, middle)

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

  it("with ten thousand mutated bytes are refused, unless the bytes are where nothing is signed", function()
    local seed, fresh = 20261124, trust.new({ ca = root.pem })
    local function random(n)
      seed = (seed * 16807) % 2147483647
      return seed % n + 1
    end
    for _ = 1, 10000 do
      local place = random(2)
      local at, byte = random(#chain[place]), random(256) - 1
      local original = chain[place]
      if original:byte(at) ~= byte then
        local mutated = { chain[1], chain[2] }
        mutated[place] = original:sub(1, at - 1) .. string.char(byte) .. original:sub(at + 1)
        local ok = fresh:verify(mutated, { name = "a.test", time = os.time() })
        assert.is_nil(ok, ("byte %d of certificate %d set to %d is taken"):format(at, place, byte))
      end
    end
  end)
end)

-- Handshakes of both roles and versions with bytes changed on the way: each ends in a known failure, or waits.
local errors = require "tlsconnect.error"
local pki = require "spec.support.pki"
local sessions = require "spec.support.sessions"
local soak = require "spec.support.soak"

local seed = 20261124
local function random(n)
  seed = (seed * 16807) % 2147483647
  return seed % n + 1
end

local changes = {
  function(bytes, at) return bytes:sub(1, at - 1) .. string.char(random(256) - 1) .. bytes:sub(at + 1) end,
  function(bytes, at) return bytes:sub(1, at - 1) .. bytes:sub(at + random(8)) end,
  function(bytes, at) return bytes:sub(1, at - 1) .. string.char(random(256) - 1) .. bytes:sub(at) end,
  function(bytes, at) return bytes:sub(1, at) end,
  function(bytes) return bytes .. bytes end,
}

describe("mutated handshakes", function()
  it("end in a failure that has a name, or wait, and never let changed bytes of a message pass", function()
    local site = pki.shared():issue { name = "a.test" }
    local server = sessions.context { certificate = site, ask = "request" }
    local clients = {}
    for i, priority in ipairs { "-VERS-TLS1.3", "-VERS-TLS1.2" } do
      clients[i] = sessions.context { priority = priority, certificate = site }
    end
    local failed = 0
    for round = 1, soak(10000, 300) do
      local side, number = random(2) == 1 and "client" or "server", random(5)
      local changed
      local pair = sessions.pair { client_context = clients[random(2)], server_context = server,
        tamper = function(from, record, count)
          if from ~= side or count ~= number or record == "" then return record end
          local result = changes[random(#changes)](record, random(#record))
          -- What stands in a record's header beside its length is nobody's word.
          changed = result:sub(4) ~= record:sub(4) and record:byte() == 22
          return result
        end }
      local both = { pair:handshake() }
      for i = 1, 2 do
        local cause = both[i].cause
        if cause then
          failed = failed + 1
          assert.is_table(errors.known[cause.code], ("round %d: %s"):format(round, tostring(cause.code)))
          assert.is_string(both[i].message)
        end
      end
      assert.is_false(changed and both[1].ok and both[2].ok or false, "round " .. round)
      pair.client:close()
      pair.server:close()
    end
    assert.is_true(failed > soak(5000, 100), tostring(failed))
  end)
end)

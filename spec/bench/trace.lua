-- What a trace costs: CPU time of a whole handshake (both ends, in this process) with the trace off, kept
-- and delivered, interleaved, medians; and the recorder's own part when it is off.
--
--   eval "$(make -s env)"; lua5.4 spec/bench/trace.lua [rounds]
package.path = "./?.lua;" .. package.path
local scheduler = require "spec.support.scheduler"
local tlsconnect = require "tlsconnect"
local recorder_of = require("tlsconnect.trace").recorder

local rounds = tonumber(arg[1]) or 300

local function median(list)
  table.sort(list)
  return list[math.ceil(#list / 2)]
end

local function credentials()
  local ca_key, key = tlsconnect.key.generate("p256"), tlsconnect.key.generate("p256")
  local ca = assert(tlsconnect.certificate.issue { subject = "CN=A CA", key = ca_key, ca = true })
  local certificate = assert(tlsconnect.certificate.issue {
    names = { "a.test" }, key = key, issuer = ca, issuer_key = ca_key })
  return ca, certificate, key
end

-- CPU seconds of one connection, opened and closed.
local function measure(port, context, wait, trace)
  local began = os.clock()
  local opened = assert(tlsconnect.connect("127.0.0.1", port,
    { server_name = "a.test", context = context, wait = wait, trace = trace }))
  opened:close()
  return os.clock() - began
end

local ways = {
  { "off", nil }, { "off again", nil }, { "kept", true }, { "delivered", function() end },
}

scheduler.run(function(spawn, wait)
  local ca, certificate, key = credentials()
  local listener = assert(tlsconnect.listen("127.0.0.1", 0, { certificate = certificate, key = key, wait = wait }))
  local _, port = listener:address()
  spawn(function()
    for _ = 1, rounds * #ways + 10 do
      local peer = assert(listener:accept())
      if peer:handshake() then peer:receive("*a") end
      peer:close()
    end
    listener:close()
  end)
  local context = assert(tlsconnect.context { ca = ca })
  for _ = 1, 10 do measure(port, context, wait, true) end
  local times = {}
  for i = 1, rounds do
    for n = 1, #ways do
      local way = ways[(i + n) % #ways + 1]
      times[way] = times[way] or {}
      table.insert(times[way], measure(port, context, wait, way[2]))
    end
  end
  local base
  for _, way in ipairs(ways) do
    local value = median(times[way])
    base = base or value
    print(("trace %-10s %8.1f us of CPU a handshake, %.3f of off"):format(way[1], value * 1e6, value / base))
  end
  return true
end)

-- The recorder by itself: made, told of two steps, and filled from a session's marks.
local marks = { start = 1, client_hello = 1.1, server_hello = 2, certificate = 2.1, key_exchange = 2.2, verify = 2.3,
                verified = 2.4, finished_in = 2.5, finished_out = 2.6, done = 2.7 }
local session = { marks = function() return marks end }
local function work()
  local recorder = recorder_of(nil)
  recorder:start("dns")
  recorder:finish("dns")
  recorder:start("tcp")
  recorder:finish("tcp")
  recorder:handshake(session)
  return recorder
end
local count = 100000
collectgarbage()
local began = os.clock()
for _ = 1, count do work() end
local each = (os.clock() - began) / count
collectgarbage()
collectgarbage("stop")
local kept = {}
for i = 1, 1000 do kept[i] = true end
local before = collectgarbage("count")
for i = 1, 1000 do kept[i] = work() end
print(("recorder, off: %.2f us and %.0f bytes a connection"):format(each * 1e6,
  (collectgarbage("count") - before) * 1024 / #kept))

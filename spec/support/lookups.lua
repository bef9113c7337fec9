-- Name servers of a spec's own making, to be given as the `lookup` of resolve.lua and dial.lua:
--   local names = lookups.new { inet = { "127.0.0.1" }, inet6 = { after = 0.01, "::1" } }
--   dial.tcp("a.test", port, { lookup = names.lookup, wait = names.wait })
-- An answer is a list of addresses, or {code =, message =}; `after` is how many seconds later it comes
-- (false: never); absent is "unknown_host". The answers come while wait() waits. names.asked lists
-- what was looked up, names.timeouts counts the waits that ran out.
local core = require "tlsconnect.core"
local sockets = require "spec.support.sockets"

local M = {}

local Lookup = {}
Lookup.__index = Lookup

function Lookup:getfd()
  return self.bell and self.bell:getfd() or -1
end

function Lookup:result()
  if not self.rung then return nil, "want_read" end
  if self.answer.code then return nil, self.answer.message or self.answer.code, self.answer end
  return self.answer
end

function Lookup:close()
  if self.bell then
    self.bell:close()
    self.hand:close()
    self.bell = nil
    self.names.open = self.names.open - 1
  end
end

local function ring(lookup)
  lookup.rung = true
  lookup.hand:write("!")
  sockets.readable(lookup.bell)
end

function M.new(answers)
  local names = { asked = {}, open = 0, timeouts = 0, waits = 0, answers = answers }
  local pending = {}

  function names.lookup(name, family)
    names.asked[#names.asked + 1] = name .. " " .. family
    local answer = names.answers[family] or { code = "unknown_host" }
    local lookup = setmetatable({ answer = answer, names = names }, Lookup)
    lookup.bell, lookup.hand = sockets.pair()
    names.open = names.open + 1
    if answer.after == nil then
      ring(lookup)
    elseif answer.after then
      lookup.time = core.now() + answer.after
      pending[#pending + 1] = lookup
    end
    return lookup
  end

  -- Rings what is due; returns when the next one is.
  local function due()
    local soonest
    for _, lookup in ipairs(pending) do
      if lookup.bell and not lookup.rung then
        if lookup.time <= core.now() then
          ring(lookup)
        elseif not soonest or lookup.time < soonest then
          soonest = lookup.time
        end
      end
    end
    return soonest
  end

  function names.wait(fd, events, deadline)
    names.waits = names.waits + 1
    while true do
      local soonest = due()
      local wake = deadline
      if soonest and (not wake or soonest < wake) then wake = soonest end
      local ok, message, cause = core.poll(fd, events, wake)
      if ok or message ~= "timeout" then return ok, message, cause end
      if deadline and core.now() >= deadline then
        names.timeouts = names.timeouts + 1
        return nil, "timeout"
      end
    end
  end

  return names
end

--- In core.lookup's place: a look-up that the system can answer anywhere, whatever name is asked for.
function M.system(_, family)
  return core.lookup("localhost", family)
end

return M

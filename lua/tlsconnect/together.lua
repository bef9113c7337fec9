-- Several calls at once where only one wait is allowed: each runs in a coroutine of its own, and all that
-- they wait for is watched through one poller, so that the caller's `wait` sees a single descriptor.
local core = require "tlsconnect.core"

local together = {}

-- How far before its deadline a wait may say "timeout": some loops count in coarse ticks.
local EARLY = 0.05

-- Goes on with a call. It ends, or waits for a descriptor.
local function resume(calls, call, ...)
  call.fd = nil
  local ok, fd, events, deadline = coroutine.resume(call.thread, ...)
  if not ok then error(fd, 0) end
  if coroutine.status(call.thread) == "dead" then
    calls.left = calls.left - 1
    return
  end
  if calls.gone then return resume(calls, call, nil, calls.gone) end
  local added, _, cause = calls.poller:add(fd, events)
  if not added then return resume(calls, call, nil, cause.message) end
  call.fd, call.deadline = fd, deadline
  calls.waiting[fd] = call
end

local function wake(calls, call, ...)
  calls.poller:remove(call.fd)
  calls.waiting[call.fd] = nil
  return resume(calls, call, ...)
end

-- Those whose descriptors have news go on.
local function look(calls)
  for _, fd in ipairs(calls.poller:ready() or {}) do
    local call = calls.waiting[fd]
    if call then wake(calls, call, true) end
  end
end

-- Those whose time is over go on with that.
local function expire(calls, list)
  local time = core.now()
  for _, call in ipairs(list) do
    if call.fd and call.deadline and call.deadline <= time then wake(calls, call, nil, "timeout") end
  end
end

-- Waits for any of them.
local function pause(calls, list)
  local deadline
  for _, call in ipairs(list) do
    if call.fd and call.deadline and (not deadline or call.deadline < deadline) then deadline = call.deadline end
  end
  local ok, message = calls.wait(calls.poller:getfd(), "r", deadline)
  if ok then return look(calls) end
  if message == "timeout" and deadline and core.now() >= deadline - EARLY then return expire(calls, list) end
  -- The caller gives up: so does every call.
  calls.gone = message or "timeout"
  for _, call in ipairs(list) do
    if call.fd then wake(calls, call, nil, calls.gone) end
  end
end

--- Runs functions at the same time, until all have ended. Each is called with a `wait` of its own, and
-- stores what it finds where the caller looks for it. wait: the one that is really waited with.
-- True, or nil, message, cause when not even a poller can be had.
function together.run(functions, wait)
  if #functions == 0 then return true end
  local poller, message, cause = core.poller()
  if not poller then return nil, message, cause end
  local calls = { poller = poller, wait = wait, waiting = {}, left = #functions }
  local list = {}
  for i, f in ipairs(functions) do
    list[i] = { thread = coroutine.create(f) }
  end
  for _, call in ipairs(list) do resume(calls, call, coroutine.yield) end
  while calls.left > 0 do pause(calls, list) end
  poller:close()
  return true
end

return together

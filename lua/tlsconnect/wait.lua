-- The one place that waits. Everything in tlsconnect that has to wait calls one function:
--
--   wait(fd, events, deadline)
--
-- fd is an integer descriptor, events "r", "w" or "rw", deadline a time on tlsconnect.now()'s clock
-- or nil for none. It returns true when the descriptor is ready (an error on it counts as ready: the
-- next call fetches it), nil, "timeout" when the deadline has come, or nil, message to give up.
-- The default is poll(2), which blocks the thread. A loop's own wait yields instead, and the
-- same calls run on that loop: replace it for the process (tlsconnect.wait = f), for a context
-- (tlsconnect.context { wait = f }) or for a call ({ wait = f }).
local core = require "tlsconnect.core"

local waiter = { default = core.poll, now = core.now }

local current = core.poll

--- The wait of the process as it is at the time of the call.
function waiter.wait(fd, events, deadline)
  return current(fd, events, deadline)
end

--- Replaces the wait of the process; nil puts poll(2) back.
function waiter.set(f)
  if f ~= nil and type(f) ~= "function" then
    error("bad value for 'wait' (function expected, got " .. type(f) .. ")", 3)
  end
  current = f or core.poll
end

--- What tlsconnect.wait reads as.
function waiter.get()
  return current
end

--- The wait that a call uses: its own option, else its context's, else the process's.
function waiter.of(options, context)
  return options and options.wait or context and context.wait or waiter.wait
end

--- Waits for so many seconds, by a wait function (default: the process's). True; or nil, message when that
-- function gave up.
function waiter.sleep(seconds, wait)
  -- A poller with nothing in it is a descriptor that is never ready.
  local nothing, message = core.poller()
  if not nothing then return nil, message end
  local deadline = core.now() + seconds
  local ok, why
  repeat
    ok, why = (wait or current)(nothing:getfd(), "r", deadline)
  until not ok or core.now() >= deadline
  nothing:close()
  if ok or why == "timeout" then return true end
  return nil, why
end

return waiter

-- Step 2, tcp, over a Unix socket: dial.lua's other half.
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local waiter = require "tlsconnect.wait"

local now = core.now

local function earliest(a, b)
  if a and b then return a < b and a or b end
  return a or b
end

-- Seconds between tries while a Unix listener's queue is full: the system gives nothing to wait on.
local RETRY = 0.01

local function unix_error(path, cause)
  return errors.fail(errors.from(cause, { step = "tcp", host = path }))
end

-- Dials until the queue has room. True, or nil, message, err.
local function enter_queue(path, socket, poller, terms)
  local wait, deadline = terms.wait or waiter.wait, earliest(terms.deadline, terms.tcp_deadline)
  while true do
    local ok, message, cause = socket:connect(path)
    if ok then return true end
    local fd, events, wake = socket:getfd(), "w", deadline
    if message ~= "want_write" then
      if cause.code ~= "backlog_full" then return unix_error(path, cause) end
      fd, events, wake = poller:getfd(), "r", earliest(deadline, now() + RETRY) -- it watches nothing: a pause
    end
    ok, message = wait(fd, events, wake)
    if not ok and (message ~= "timeout" or wake == deadline) then
      return errors.waited(message, { step = "tcp", host = path, doing = "connecting" })
    end
  end
end

local function connect_unix(path, terms)
  local poller, _, cause = core.poller()
  if not poller then return unix_error(path, cause) end
  local socket
  socket, _, cause = core.socket("unix")
  local ok, message, err
  if socket then
    ok, message, err = enter_queue(path, socket, poller, terms)
    if not ok then socket:close() end
  else
    ok, message, err = unix_error(path, cause)
  end
  poller:close()
  if not ok then return nil, message, err end
  return socket
end

--- terms: deadline, tcp_deadline, wait, recorder, allow_address (a function is asked with the path and "unix";
-- "public" allows none). A connected socket, and the tcp step's fields; or nil, message, err.
return function(path, terms)
  local recorder, allow = terms.recorder, terms.allow_address
  if recorder then recorder:start("tcp") end
  local socket, message, err
  if allow ~= nil and (allow == "public" or not allow(path, "unix", path)) then
    socket, message, err = unix_error(path, { code = "address_refused" })
  else
    socket, message, err = connect_unix(path, terms)
  end
  if not socket then
    if recorder then recorder:fail("tcp", err) end
    return nil, message, err
  end
  local fields = { path = path, family = "unix", attempts = {} }
  if recorder then recorder:finish("tcp", fields) end
  return socket, fields
end

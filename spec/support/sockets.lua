-- Plain sockets for specs: pairs, listeners, listeners that answer nobody, and what is open.
local core = require "tlsconnect.core"
local process = require "spec.support.process"

local M = {}

process.sleep(0) -- it keeps a descriptor from its first call on

--- A listener on a loopback address (default 127.0.0.1) and port (default: a free one).
-- Returns it, its address and its port.
function M.listener(address, port, backlog)
  address = address or "127.0.0.1"
  local listener = assert(core.socket(address:find(":", 1, true) and "inet6" or "inet"))
  assert(listener:set("reuseaddr", true))
  assert(listener:bind(address, port or 0))
  assert(listener:listen(backlog))
  return listener, listener:local_address()
end

--- Takes the next connection, waiting for it.
function M.accept(listener)
  assert(core.poll(listener:getfd(), "r", core.now() + 30))
  return assert(listener:accept())
end

--- Connects to an address.
function M.connect(address, port)
  local socket = assert(core.socket(address:find(":", 1, true) and "inet6" or "inet"))
  local ok, message, cause = socket:connect(address, port)
  while not ok and message == "want_write" do
    assert(core.poll(socket:getfd(), "w", core.now() + 30))
    ok, message, cause = socket:finish_connect()
  end
  assert(ok, message)
  return socket, cause
end

--- Two sockets that are connected to each other.
function M.pair()
  local listener, address, port = M.listener()
  local here = M.connect(address, port)
  local there = M.accept(listener)
  listener:close()
  here:set("nodelay", true)
  there:set("nodelay", true)
  return here, there
end

--- A listener whose queue is full: the system drops what else wants to connect (its SYNs go unanswered).
-- Returns it, its address, its port, and the connections that fill it: keep them.
function M.swallower(address, port)
  local listener
  listener, address, port = M.listener(address, port, 0)
  local fill = {}
  for i = 1, 16 do
    fill[i] = assert(core.socket("inet"))
    fill[i]:connect(address, port)
    if i > 1 and not core.poll(fill[i]:getfd(), "w", core.now() + 0.05) then break end
  end
  return listener, address, port, fill
end

--- Waits until a socket has something to read.
function M.readable(socket)
  assert(core.poll(socket:getfd(), "r", core.now() + 30))
end

--- Reads, waiting as long as it takes; what read() gives.
function M.read(socket, ...)
  while true do
    local data, message, cause = socket:read(...)
    if data or message ~= "want_read" then return data, message, cause end
    M.readable(socket)
  end
end

--- How many descriptors below 1024 this process has open, those of garbage too.
function M.still_open()
  local count = 0
  for fd = 0, 1023 do
    local file = io.open("/proc/self/fdinfo/" .. fd)
    if file then
      file:close()
      count = count + 1
    end
  end
  return count
end

--- The same, garbage not counted.
function M.open_descriptors()
  collectgarbage()
  collectgarbage()
  return M.still_open()
end

--- Whether no more descriptors are open than `most`; waits a while for a helper thread to close its own.
function M.at_most_open(most)
  return process.eventually(function() return M.open_descriptors() <= most end, 10) or false
end

--- From /proc/self/fdinfo: a descriptor's status flags, O_CLOEXEC among them.
function M.flags(fd)
  local file = assert(io.open("/proc/self/fdinfo/" .. fd))
  local flags = tonumber(file:read("*a"):match("flags:%s+(%d+)"), 8)
  file:close()
  return flags
end

return M

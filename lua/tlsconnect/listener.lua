-- TLS servers: a listener accepts TCP connections; each makes its own handshake, when it is first used.
local core = require "tlsconnect.core"
local accepted = require("tlsconnect.connection.accepted").accepted
local contexts = require "tlsconnect.context"
local errors = require "tlsconnect.error"
local late = require "tlsconnect.late"
local waiter = require "tlsconnect.wait"

-- Who listens may then leave its files behind (chroot), or have no descriptor left: what the connections that it
-- accepts would load late is loaded now.
for _, name in ipairs { "judge.conditions", "keylog", "stream.bodies", "stream.gathering", "stream.views",
  "trace.shown", "trust.reason" } do late.load("tlsconnect." .. name) end

local listener = {}

local Listener = {}
Listener.__index = Listener
Listener.__name = "tlsconnect.listener"

local BACKLOG = 128

local running = coroutine.running

local function failed(cause, host, port)
  return errors.fail(errors.from(cause, { step = "tcp", host = host, port = port }))
end

-- Binds a socket. The socket, or nil, message, cause.
local function bind(family, address, port, backlog)
  local socket, message, cause = core.socket(family)
  if not socket then return nil, message, cause end
  local ok
  if family ~= "unix" then socket:set("reuseaddr", true) end
  if address == "::" then socket:set("v6only", false) end
  ok, message, cause = socket:bind(address, port)
  if ok then ok, message, cause = socket:listen(backlog) end
  if ok then return socket end
  socket:close()
  return nil, message, cause
end

-- The socket for an address as listen takes it.
local function open(address, port, backlog)
  if address == "*" then
    local socket = bind("inet6", "::", port, backlog)
    if socket then return socket end
    return bind("inet", "0.0.0.0", port, backlog)
  end
  if address:find("/", 1, true) then return bind("unix", address, nil, backlog) end
  local ip, family = core.literal(address:match("^%[(.*)%]$") or address)
  if not ip then
    return nil, nil, { code = "bad_host", message = "an address is needed, or \"*\" for all of them" }
  end
  return bind(family, ip, port, backlog)
end

--- Listens for TLS connections.
-- address: an IP address, "*" for all of this machine's, or the path of a Unix socket (with a slash in
-- it); port: 0 for a free one; options: those of listen. certificate and key are needed; more
-- `certificates` are chosen by the name that the client asks for. A client must show a certificate when
-- roots (ca_file, ca_path, ca or trust) are given, or as `client_certificate` says.
-- A listener, or nil, message, err.
function listener.listen(address, port, options)
  local context, message, err = contexts.of(options, "listen")
  if not context then return nil, message, err end
  if not context.has_certificate then
    return errors.fail(errors.new { step = "setup", code = "no_credentials",
      message = "a listener needs the options 'certificate' and 'key'" })
  end
  local socket, _, cause = open(address, port, options.backlog or BACKLOG)
  if not socket then return failed(cause, address, port) end
  return setmetatable({ socket = socket, context = context, options = options, host = address,
    port = port, waiter = waiter.of(options, context.given), waiting = {} }, Listener)
end

-- Whether another coroutine waits in accept: one that is dead, or is the one that runs now, left its wait by an
-- error.
local function awaited(self)
  local own = running() or true
  for task in pairs(self.waiting) do
    if task ~= own and not (type(task) == "thread" and coroutine.status(task) == "dead") then return true end
  end
  return false
end

--- Waits for a connection. timeout: seconds, nil for no limit, 0 to look without waiting.
-- It returns as soon as TCP has connected: the handshake is made by the connection's first send or
-- receive, or by its handshake(), in the coroutine that calls it, so that a client that is slow or
-- speaks no TLS holds up nobody else and is no error of the listener. A connection, or nil, message, err.
function Listener:accept(timeout)
  if timeout ~= nil and (type(timeout) ~= "number" or timeout ~= timeout) then
    error("bad argument #1 to 'accept' (a number of seconds or nil expected)", 2)
  end
  local deadline = timeout and core.now() + timeout
  while true do
    if self.closed then return failed({ code = "closed" }, self.host, self.port) end
    local socket, want, cause = self.socket:accept()
    if socket then return accepted(socket, self.context, self.options) end
    if want ~= "want_read" then return failed(cause, self.host, self.port) end
    if timeout == 0 then return failed({ code = "timeout" }, self.host, self.port) end
    local own = running() or true
    self.waiting[own] = true
    local ok, message = self.waiter(self.socket:getfd(), "r", deadline)
    self.waiting[own] = nil
    if self.closed then
      if not awaited(self) then self.socket:close() end
    elseif not ok then
      return errors.waited(message, { step = "tcp", host = self.host, port = self.port })
    end
  end
end

--- The descriptor to wait on, -1 after close.
function Listener:getfd()
  return self.closed and -1 or self.socket:getfd()
end

--- The address and the port that it listens on, and the family (of a Unix socket the path, nil, "unix"); or nil,
-- message, err.
function Listener:address()
  local address, port, family = self.socket:local_address()
  if not address then return failed(family, self.host, self.port) end
  return address, port, family
end

-- cqueues polls any object that has these three.
Listener.pollfd = Listener.getfd

function Listener:events() -- luacheck: ignore 212
  return "r"
end

function Listener:timeout() -- luacheck: ignore 212
  return nil
end

--- Reads the files of its options again: certificates, keys, staple and roots. Connections accepted from now on go
-- by what is there; sessions can still be taken up. When something is wrong with them, all stays as it
-- was. True, or nil, message, err.
function Listener:reload()
  local context, message, err = contexts.again(self.context)
  if not context then return nil, message, err end
  self.context = context
  return true
end

--- Stops listening; connections that were accepted live on. A coroutine that waits in accept gets
-- "closed". Returns true.
function Listener:close()
  if self.closed then return true end
  self.closed = true
  if awaited(self) then
    -- Wakes whoever waits; the descriptor is freed when that one has left.
    self.socket:shutdown("both")
  else
    self.socket:close()
  end
  return true
end

Listener.__close = Listener.close

function Listener:__tostring()
  return ("tlsconnect listener: %s"):format(errors.peer(self.host, self.port))
end

return listener

-- tlsconnect: verified TLS connections and HTTPS, over GnuTLS.
--
--   local tlsconnect = require "tlsconnect"
--
--   tlsconnect.connect(host, port, options)     a verified connection: connection.lua, stream.lua
--   tlsconnect.wrap(socket, options)            TLS over a stream that exists
--   tlsconnect.listen(address, port, options)   a server: listener.lua
--   tlsconnect.resolve(host, options)           addresses of a name: resolve.lua
--   tlsconnect.context(options)                 what many connections share: context.lua
--   tlsconnect.trust(options)                   whom to trust, and whether a chain is good: trust.lua
--   tlsconnect.certificate, tlsconnect.key      what people read and make
--   tlsconnect.https                            get, post, request, client: https.lua
--   tlsconnect.wait                             the one place that waits; assign to replace it: wait.lua
--   tlsconnect.loop()                           an event loop, where the program has none: loop.lua
--   tlsconnect.now()                            seconds on the monotonic clock that deadlines use
--   tlsconnect.features                         what was found when it was built and started
--
-- A wrong argument raises an error that names it. Whatever the world can do wrong returns nil, message,
-- err: see error.lua. The options are listed in options.lua.
local core = require "tlsconnect.core"
local options = require "tlsconnect.options"
local waiter = require "tlsconnect.wait"

local tlsconnect = {
  _VERSION = "tlsconnect 0.1",
  now = core.now,
}

local function check_host(host, name, what)
  if type(host) ~= "string" then
    error(("bad argument #1 to '%s' (%s expected, got %s)"):format(name, what, type(host)), 3)
  end
end

local function check_port(port, name, least)
  if type(port) == "string" then port = tonumber(port) end
  if type(port) ~= "number" or port ~= math.floor(port) or port < least or port > 65535 then
    error(("bad argument #2 to '%s' (a port, %d to 65535, expected)"):format(name, least), 3)
  end
  return port
end

--- Connects to a host and verifies it. host: a name or an IP address (string); port: 1 to 65535; options:
-- a table, see options.lua. A path with a slash in it, and no port, is a Unix socket's. A connection, or nil,
-- message, err.
function tlsconnect.connect(host, port, given)
  check_host(host, "connect", "a host")
  if port ~= nil or not host:find("/", 1, true) then port = check_port(port, "connect", 1) end
  given = options.check("connect", given)
  local connection, message, err = require("tlsconnect.connection").open(host, port, given)
  return connection, message, err -- no tail call: errors are raised where this was called
end

--- Makes TLS of a stream that exists: an integer descriptor, a LuaSocket socket or a connection, which is
-- taken over. A connection, or nil, message, err. See connection/wrap.lua.
function tlsconnect.wrap(socket, given)
  given = options.check("wrap", given)
  local connection, message, err = require("tlsconnect.connection.wrap")(socket, given)
  return connection, message, err
end

--- Listens for TLS connections. address: an IP address or "*"; port: 0 for a free one; options need
-- certificate and key. A listener, or nil, message, err. See listener.listen.
function tlsconnect.listen(address, port, given)
  check_host(address, "listen", "an address")
  if port ~= nil or not address:find("/", 1, true) then port = check_port(port, "listen", 0) end
  given = options.check("listen", given)
  local listener, message, err = require("tlsconnect.listener").listen(address, port, given)
  return listener, message, err
end

--- What many connections share. A context, or nil, message, err. See context.new.
function tlsconnect.context(given)
  given = options.check("context", given)
  return require("tlsconnect.context").new(given)
end

-- The rest is loaded when it is first used.
local lazy = {
  https = function() return require "tlsconnect.https" end,
  resolve = function() return require("tlsconnect.resolve").resolve end,
  loop = function() return require("tlsconnect.loop").new end,
  trust = function() return require("tlsconnect.trust").new end,
  certificate = function() return require "tlsconnect.certificate" end,
  key = function() return require "tlsconnect.key" end,
  -- gnutls: its version; post_quantum: whether it has the hybrid key exchange X25519MLKEM768; codings: of
  -- bodies, those that can be decoded.
  features = function()
    local features = { gnutls = core.gnutls, post_quantum = core.has_group("X25519-MLKEM768"),
      suffixes = require("tlsconnect.optional").suffixes ~= nil, codings = {} }
    for _, name in ipairs(core.codings) do features.codings[name] = true end
    return features
  end,
}

return setmetatable(tlsconnect, {
  __index = function(self, name)
    if name == "wait" then return waiter.get() end
    local load = lazy[name]
    if not load then return nil end
    local value = load()
    rawset(self, name, value)
    return value
  end,
  __newindex = function(self, name, value)
    if name == "wait" then
      waiter.set(value)
    else
      rawset(self, name, value)
    end
  end,
})

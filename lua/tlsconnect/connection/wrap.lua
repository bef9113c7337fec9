-- A connection over a stream that exists: STARTTLS, a socket made elsewhere, TLS in TLS.
local connection = require "tlsconnect.connection"
local contexts = require "tlsconnect.context"
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local Connection = require "tlsconnect.stream"

local identify, new, ride, secure = connection.identify, connection.new, connection.ride, connection.secure
local settings = connection.settings

local function early_bytes(host, port)
  -- Whoever can write to the stream before it is encrypted could slip in what is then taken for the
  -- peer's encrypted words (CVE-2021-22947).
  return errors.fail(errors.new { step = "client_hello", code = "plaintext_before_tls",
    host = host, port = port })
end

local function usable(thing)
  local kind = type(thing)
  if kind ~= "userdata" and kind ~= "table" then return false end
  local ok, getfd, setfd = pcall(function() return thing.getfd, thing.setfd end)
  return ok and getfd and setfd
end

-- Takes a descriptor, or a socket with getfd and setfd. A socket, or nil, message, err.
local function take_over(thing, name)
  local fd = thing
  if type(thing) ~= "number" then
    if not usable(thing) then
      error("bad argument #1 to 'wrap' (a descriptor, a connection, or a socket with getfd and setfd"
        .. " expected, got a " .. type(thing) .. ")", 4)
    end
    if thing.dirty and thing:dirty() then return early_bytes(name) end
    fd = thing:getfd()
  end
  if type(fd) ~= "number" or fd < 0 or fd ~= math.floor(fd) then
    error("bad argument #1 to 'wrap' (the socket is closed)", 4)
  end
  local socket, _, cause = core.adopt(fd)
  if not socket then
    return errors.fail(errors.from(cause, { step = "tcp", host = name }))
  end
  if type(thing) ~= "number" then thing:setfd(-1) end
  socket:set("nodelay", true)
  return socket
end

--- Makes TLS of a stream that exists (STARTTLS, a socket made elsewhere, TLS in TLS).
-- thing: a descriptor (an integer) or a socket with getfd and setfd (LuaSocket's): it is taken over,
-- the socket's own descriptor becomes -1, and close() closes it; or a connection: in clear it is
-- taken over too, one with TLS carries the new one inside.
-- options: those of wrap. A client needs server_name, the name that the certificate must have, unless
-- that is skipped. A connection, or nil, message, err; a stream that was taken over is closed then.
return function(thing, options)
  local role = options.role or "client"
  local context, message, err = contexts.of(options, "wrap")
  if not context then return nil, message, err end
  local call = settings(options, context, role)
  local name = options.server_name
  call.peer = {}
  if role == "client" then
    if name then
      call.peer, message, err = identify(name)
      if not call.peer then return nil, message, err end
    elseif not (call.terms.insecure_skip_verify or call.terms.insecure_skip_name) then
      error("bad option 'server_name' to wrap (the name that the certificate must have is needed)", 3)
    end
  else
    if not context.has_certificate then
      error("bad option 'certificate' to wrap (a server needs one)", 3)
    end
  end

  local self
  if getmetatable(thing) == Connection then
    if not thing.stream then error("bad argument #1 to 'wrap' (the connection is closed)", 3) end
    name = name or thing.host
    if thing:dirty() then
      thing:close()
      return early_bytes(name, thing.port)
    end
    self = ride(call, thing, name, thing.port)
  else
    local socket
    socket, message, err = take_over(thing, name)
    if not socket then return nil, message, err end
    local address, port = Connection._ends(socket, "peer_address")
    self = new(call, { host = name or address, port = port, socket = socket, fd = socket:getfd() })
  end
  return secure(self, call)
end

-- Connections that a listener has accepted, and their handshake.
local connection = require "tlsconnect.connection"
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local Connection = require "tlsconnect.stream"

local earlier, new, secure, settings = connection.earlier, connection.new, connection.secure, connection.settings
local TIMEOUT, now = connection.TIMEOUT, core.now

local M = {}

--- A connection that a listener has accepted: its handshake is made by handshake(), or by the first
-- call that needs it.
function M.accepted(socket, context, options)
  local call = settings(options, context, "server")
  call.peer = {}
  local address, port = Connection._ends(socket, "peer_address")
  socket:set("nodelay", true)
  return new(call, { host = address, port = port, socket = socket, fd = socket:getfd(), begin = call })
end

-- The handshake of an accepted connection, or what is left of it: as secure().
local function shake(self, early)
  local call = self.begin
  if self.closed or not call then
    return errors.fail(errors.new { step = "client_hello", code = "closed",
      host = self.host, port = self.port })
  end
  if self.session and not self.half then return Connection._occupied(self, "reader") end
  call.deadline = earlier(self.deadline, now() + (call.timeout or TIMEOUT))
  self.half = nil
  return secure(self, call, early)
end

--- Makes the handshake of an accepted connection, in the time that `timeouts.handshake` or `timeout` of
-- the listener allow (60 seconds by default), counted from this call. Not needed: the first send or
-- receive does it. True, or nil, message, err; the connection is closed then.
function Connection:handshake()
  if self.stream then return true end
  local ok, message, err = shake(self)
  if not ok then return nil, message, err end
  return true
end

--- What the client of an accepted connection says as early data (0-RTT), while its handshake is not complete: it may
-- be a recording, sent again by somebody else, so act only on what does no harm when it is done twice (RFC 8470).
-- The listener takes early data only with the option `early_data`, each flight once. What early() has not handed out,
-- receive() does, after the handshake: then it is the client's word, and no recording.
-- Data as it comes; nil when there is none, or no more: the handshake is complete; or nil, message, err.
function Connection:early()
  if self.stream then return nil end
  local data, message, err = shake(self, true)
  if type(data) == "string" then return data end
  return nil, message, err
end

return M

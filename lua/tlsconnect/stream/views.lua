-- What a connection tells about itself: see stream.lua.
local core = require "tlsconnect.core"
local Connection = require "tlsconnect.stream"

local ends, failed, named = Connection._ends, Connection._failed, Connection._named

--- What was agreed on: version, cipher, suite, group, signature, alpn, resumed, server_name, ... and
-- the addresses of both ends; those alone for a connection in clear. nil before the handshake.
function Connection:info()
  if not self.stream then return nil end
  local info = self.session and self.session:info() or {}
  info.host, info.port = self.host, self.port
  local socket = self:_socket()
  if socket then
    info.local_address, info.local_port = ends(socket, "local_address")
    info.remote_address, info.remote_port, info.family = ends(socket, "peer_address")
  end
  return info
end

--- The certificates that the peer sent, its own first; nil where it sent none.
function Connection:peer_chain()
  local ders = self.stream and self.session and self.session:peer_certificates()
  if not ders or #ders == 0 then return nil end
  local chain = {}
  for i, der in ipairs(ders) do
    local certificate, _, cause = core.certificate(der)
    if not certificate then return failed(self, cause, "verify") end
    chain[i] = certificate
  end
  return chain
end

--- The peer's own certificate, or nil where it sent none.
function Connection:peer_certificate()
  local ders = self.stream and self.session and self.session:peer_certificates()
  if not ders or #ders == 0 then return nil end
  local certificate, _, cause = core.certificate(ders[1])
  if not certificate then return failed(self, cause, "verify") end
  return certificate
end

--- The ten steps as a list: {step =, started =, elapsed =, ok =, ...} each, as trace.lua tells. What was
-- seen in each step is there when the option `trace` was given, else only the times.
function Connection:trace()
  local recorder = self:_recorder()
  if self.stream and self.session then recorder:traffic(self.session) end
  return recorder:steps()
end

--- Key material for another protocol (RFC 5705, RFC 8446 7.5). label: string; context: string or nil;
-- length: bytes. A string, or nil, message, err.
function Connection:export(label, binding, length)
  if not (self.stream and self.session) then return named(self, "closed") end
  local key, _, cause = self.session:export(label, binding, length)
  if not key then return failed(self, cause) end
  return key
end

--- A channel binding (RFC 5929, RFC 9266). kind: "tls-exporter", "tls-server-end-point" or "tls-unique".
-- A string, or nil, message, err.
function Connection:channel_binding(kind)
  if not (self.stream and self.session) then return named(self, "closed") end
  local binding, _, cause = self.session:channel_binding(kind)
  if not binding then return failed(self, cause) end
  return binding
end

return Connection

-- Back to clear: a method of a connection, see stream.lua.
local Connection = require "tlsconnect.stream"
local errors = require "tlsconnect.error"

local deadline_of, failed, named, occupied = Connection._deadline_of, Connection._failed, Connection._named,
  Connection._occupied
local pause = Connection._pause

-- nil, message, err: there is data that nobody has read.
local function unread(self)
  return errors.fail(errors.new { step = "close", code = "unread_data", host = self.host, port = self.port,
    message = errors.peer(self.host, self.port) .. " sent data that is to be read before TLS can end" })
end

-- Takes in what comes until the peer's close_notify, and none of its data. True, or nil, message, err.
local function until_close_notify(self, deadline)
  if self.reader then return occupied(self, "reader") end
  self.still = nil
  while true do
    local ended, want, cause = self.session:read("a", 0)
    if ended then return true end
    if want ~= "want_read" and want ~= "want_write" then
      if cause.code == "too_long" then return unread(self) end
      return failed(self, cause, "close")
    end
    local ok, message, err = pause(self, "reader", want, deadline, "close", "waiting for close_notify")
    if not ok then return nil, message, err end
  end
end

-- A connection in clear on the same socket, which begins with what came behind the peer's close_notify.
-- Or nil, message, err.
local function in_clear(self)
  local ok, _, cause = self.session:hand_back()
  if not ok then return failed(self, cause, "close") end
  local socket = self:_socket()
  return setmetatable({ host = self.host, port = self.port, socket = socket, stream = socket, fd = self.fd,
    limit = self.limit, deadline = self.deadline, waiter = rawget(self, "waiter"), recorder = self:_recorder(),
    born = self.born }, Connection)
end

--- Ends TLS and goes on without it, as FTP's CCC does (RFC 4217 12.3): sends what setvbuf holds back and
-- close_notify, waits for the peer's within the timeout and the deadline (RFC 8446 6.1: each side ends its own
-- direction), and gives back the connection below: of TLS in TLS the outer connection; else one in clear on the
-- same socket, with the same timeout, whose first bytes are those that came behind the peer's close_notify. This
-- connection is closed then.
-- What goes in clear anybody on the way can read, change and say: it is for protocols in which both sides know
-- when TLS ends.
-- The connection, or nil, message, err; then it is as it was, but for what has been sent: unwrap() again goes on.
-- Code "unread_data": the peer has sent data before its close_notify; receive() gives it, until it says "closed".
-- "timeout"; "truncated": the peer ended the stream without close_notify, which is no end that can be believed;
-- "in_clear": there is no TLS to end.
function Connection:unwrap()
  if not self.stream then return named(self, "closed", "close") end
  if not self.session then
    return failed(self, { code = "in_clear", message = "the connection is in clear" }, "close")
  end
  if self.reader then return occupied(self, "reader") end
  if self:buffered() > 0 then return unread(self) end
  local deadline = deadline_of(self)
  local ok, message, err = self:shutdown("send")
  if ok then ok, message, err = until_close_notify(self, deadline) end
  if not ok then return nil, message, err end
  self:keep_session()
  local recorder = self.recorder
  local below = self.under
  if not below then
    below, message, err = in_clear(self)
    if not below then return nil, message, err end
  end
  if recorder and recorder.tracing then recorder:traffic(self.session, true) end
  self.session:close()
  self.closed, self.stream, self.session, self.socket, self.under, self.fd = true, nil, nil, nil, nil, -1
  return below
end

return Connection

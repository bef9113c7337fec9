-- Core sessions for the specs: pairs over memory, whose bytes a spec may change on the way, and single
-- ones over a socket.
--
--   local pair = sessions.pair { tamper = function(from, record, number) return record end }
--   local client, server = pair:handshake()       -- { ok, message, cause } of each
--   pair.client, pair.server                      -- the sessions
--   pair:pump()                                   -- moves what is there
local core = require "tlsconnect.core"
local pki = require "spec.support.pki"
local tmp = require "spec.support.tmp"

local M = {}

local Pair = {}
Pair.__index = Pair

--- The records of a string of bytes, each with its header; what is no whole record comes last.
function M.records(bytes)
  local list, at = {}, 1
  while at <= #bytes do
    local size = #bytes - at >= 4 and bytes:byte(at + 3) * 256 + bytes:byte(at + 4) or #bytes
    list[#list + 1] = bytes:sub(at, at + 4 + size)
    at = at + 5 + size
  end
  return list
end

--- A record of TLS 1.2's form.
function M.record(kind, body)
  return string.char(kind, 3, 3, math.floor(#body / 256), #body % 256) .. body
end

--- A handshake message with its header of 4 bytes.
function M.message(kind, body)
  return string.char(kind, math.floor(#body / 65536), math.floor(#body / 256) % 256, #body % 256) .. body
end

--- Gives a context the certificate of spec.support.pki and its key.
function M.certify(context, certificate)
  local list = {}
  for pem in tmp.read(certificate.chain):gmatch("%-+BEGIN.-END CERTIFICATE%-+\n") do
    list[#list + 1] = assert(core.certificate(pem))
  end
  assert(context:certificate(list, assert(core.key(tmp.read(certificate.key)))))
  return context
end

--- A context. options: certificate = of spec.support.pki, priority = text, alpn = list, mandatory =
-- boolean, ask = "request" | "require", tickets = false or a key.
function M.context(options)
  local context = assert(core.context())
  if options.priority then assert(context:priority(options.priority)) end
  if options.certificate then M.certify(context, options.certificate) end
  if options.alpn then assert(context:alpn(options.alpn, options.mandatory)) end
  if options.ask then assert(context:client_certificates(options.ask)) end
  if options.tickets ~= nil then assert(context:tickets(options.tickets)) end
  return context
end

local function copy(from, to)
  for name, value in pairs(from or {}) do to[name] = value end
  return to
end

--- Two sessions over memory. options: client, server = those of context(); client_session,
-- server_session = those of c:session(); client_context, server_context = contexts to use; tamper =
-- function(from, record, number) that returns the bytes to pass on; whole = true: it gets all bytes
-- of a turn at once; nameless = true: the client asks for no name; verdict = what the client says of
-- the server's chain (true), or a function of the session that returns it; verdict_alert.
function M.pair(options)
  options = options or {}
  local pair = setmetatable({ tamper = options.tamper, whole = options.whole, verdict = options.verdict,
    verdict_alert = options.verdict_alert, count = { client = 0, server = 0 } }, Pair)
  pair.client_context = options.client_context or M.context(options.client or {})
  local server = copy(options.server, {})
  if server.certificate == nil then server.certificate = pki.shared():issue { name = "a.test" } end
  pair.server_context = options.server_context or M.context(server)
  pair.client = assert(pair.client_context:session("client",
    copy(options.client_session, { memory = true, server_name = not options.nameless and "a.test" or nil })))
  pair.server = assert(pair.server_context:session("server", copy(options.server_session, { memory = true })))
  return pair
end

--- Moves one side's bytes to the other. Returns how many there were.
function Pair:move(from, to)
  local bytes = self[from]:drain()
  if bytes == "" then return 0 end
  for _, record in ipairs(self.whole and { bytes } or M.records(bytes)) do
    self.count[from] = self.count[from] + 1
    if self.tamper then record = self.tamper(from, record, self.count[from]) end
    if record == false then
      self[to]:feed(nil)
    elseif record then
      self[to]:feed(record)
    end
  end
  return #bytes
end

function Pair:pump()
  return self:move("client", "server") + self:move("server", "client")
end

function Pair:step(side, results)
  if results[side] then return end
  local ok, message, cause = self[side]:handshake()
  if message == "want_verify" then
    local verdict = side ~= "client" or self.verdict
    if type(verdict) == "function" then verdict = verdict(self[side]) end
    if verdict == false then
      self[side]:verdict(false, self.verdict_alert)
    else
      self[side]:verdict(true)
    end
    return self:step(side, results)
  end
  if ok or cause then results[side] = { ok = ok, message = message, cause = cause } end
end

--- Drives both handshakes until each is over or waits for what will not come. Returns the two
-- results; ok is nil and message "want_read" on a side that still waits.
function Pair:handshake()
  local results = {}
  repeat
    self:step("client", results)
    local moved = self:move("client", "server")
    self:step("server", results)
    moved = moved + self:move("server", "client")
  until moved == 0
  self:step("client", results)
  self:step("server", results)
  local waiting = { message = "want_read" }
  return results.client or waiting, results.server or waiting
end

--- A pair whose handshake is done.
function M.connected(options)
  local pair = M.pair(options)
  local client, server = pair:handshake()
  assert(client.ok, client.message)
  assert(server.ok, server.message)
  return pair
end

--- A socket connected to a peer on loopback.
function M.dial(peer)
  local socket = assert(core.socket("inet"))
  local ok, want = socket:connect(peer.host or "127.0.0.1", peer.port)
  while not ok and want == "want_write" do
    assert(core.poll(socket:getfd(), "w", core.now() + 30))
    ok, want = socket:finish_connect()
  end
  assert(ok, want)
  socket:set("nodelay", true)
  return socket
end

--- Two sockets connected to each other over loopback.
function M.sockets()
  local listener = assert(core.socket("inet"))
  assert(listener:bind("127.0.0.1", 0))
  assert(listener:listen(1))
  local _, port = listener:local_address()
  local near = M.dial { port = port }
  assert(core.poll(listener:getfd(), "r", core.now() + 30))
  local far = assert(listener:accept())
  far:set("nodelay", true)
  listener:close()
  return near, far
end

--- Drives the handshakes of pair.client and pair.server over sockets until both are done.
function M.both(pair)
  local deadline, done = core.now() + 30, {}
  repeat
    assert(core.now() < deadline, "the handshakes do not end")
    for _, side in ipairs { "client", "server" } do
      local ok, message, cause = pair[side]:handshake()
      if message == "want_verify" then pair[side]:verdict(true) end
      assert(not cause, message)
      done[side] = ok
    end
  until done.client and done.server
  return pair
end

--- Calls a method until it has its answer, waiting in between; says "good" of every chain.
function M.finish(session, socket, method, ...)
  while true do
    local a, b, c, d = session[method](session, ...)
    if b == "want_verify" then
      session:verdict(true)
    elseif b == "want_read" or b == "want_write" then
      assert(core.poll(socket:getfd(), session:want(), core.now() + 30))
    else
      return a, b, c, d
    end
  end
end

--- A client session over a socket to a peer, not begun. Returns session, socket.
function M.client(peer, options, session_options)
  local socket = M.dial(peer)
  local context = M.context(options or {})
  return assert(context:session("client", copy(session_options, { socket = socket, server_name = "a.test" }))),
    socket
end

return M

-- STARTTLS: a few words in clear, and then TLS on the same stream. Each protocol is a small link; what
-- they have in common stands here.
--
--   local starttls = require "tlsconnect.starttls"
--   local connection, message, err = starttls.connect("mail.example.org", 25, "smtp", options)
--
-- It never goes on in clear: a server that does not offer TLS, or refuses it, is an error
-- (starttls_refused). Nothing that was read in clear is served after: bytes behind the server's
-- go-ahead are an error too (plaintext_before_tls), because whoever can inject them could slip in
-- what is then taken for the server's (CVE-2021-22946, CVE-2021-22947 and their kin).

local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"

local starttls = {}

-- Name to its usual port; each has a file starttls/NAME.lua.
starttls.ports = {
  smtp = 25, imap = 143, pop3 = 110, xmpp = 5222, ftp = 21, postgres = 5432, ldap = 389,
}

local LINE, LINES = 4096, 100
local TIMEOUT = 60

-- What a link speaks through: {host, say(bytes), line(), exactly(count), until_(pattern), refuse(words)}. All
-- raise nothing and give nil once something has failed; `problem` then holds message and err.
local Talk = {}
Talk.__index = Talk

local function failed(self, message, err)
  self.problem = self.problem or { message, err }
  return nil
end

--- Gives up: the server does not offer TLS, or said no. words: what it said, or nil.
function Talk:refuse(words)
  local err = errors.new {
    step = "client_hello", code = "starttls_refused", host = self.host, port = self.port,
    message = ("%s does not offer TLS by %s%s"):format(errors.peer(self.host, self.port), self.protocol,
      words and words ~= "" and (': it says "%s"'):format(errors.escape(words, 100)) or ""),
  }
  return failed(self, err.message, err)
end

function Talk:say(bytes)
  if self.problem then return nil end
  local ok, message, _, err = self.plain:send(bytes)
  if not ok then return failed(self, message, err) end
  return true
end

--- The next line without its end.
function Talk:line()
  if self.problem then return nil end
  self.lines = (self.lines or 0) + 1
  if self.lines > LINES then return self:refuse("too many lines") end
  local line, message, err = self.plain:read("l", LINE)
  if not line then return failed(self, message, err) end
  return line
end

--- So many bytes.
function Talk:exactly(count)
  if self.problem then return nil end
  local data, message, err = self.plain:read(count)
  if not data then return failed(self, message, err) end
  return data
end

--- Everything up to the end of a match of the pattern, and no byte more. Byte by byte, as nothing else
-- says where it ends; at most `limit` bytes.
function Talk:through(pattern, limit)
  local bytes = {}
  while not self.problem do
    local byte = self:exactly(1)
    if not byte then return nil end
    bytes[#bytes + 1] = byte
    if byte == ">" then
      local text = table.concat(bytes)
      if text:find(pattern) then return text end
    end
    if #bytes >= limit then return self:refuse(table.concat(bytes)) end
  end
  return nil
end

--- A reply of SMTP's and FTP's kind: the code, and its lines (without codes).
function Talk:reply()
  local list = {}
  while true do
    local line = self:line()
    if not line then return nil end
    local code, more, words = line:match("^(%d%d%d)([ -]?)(.*)$")
    if not code then return self:refuse(line) end
    list[#list + 1] = words
    if more ~= "-" then return code, list end
  end
end

--- Speaks a protocol until the server says that TLS may begin. plain: a connection in clear.
-- True, or nil, message, err.
function starttls.negotiate(plain, protocol, host)
  local link = require("tlsconnect.starttls." .. protocol)
  local talk = setmetatable({ plain = plain, protocol = protocol, host = host or plain.host, port = plain.port },
    Talk)
  link(talk)
  if talk.problem then return nil, talk.problem[1], talk.problem[2] end
  return true
end

--- Connects in clear, asks for TLS, and makes it. options: those of tlsconnect.connect. A connection, or nil,
-- message, err.
function starttls.connect(host, port, protocol, options)
  if not starttls.ports[protocol] then
    error("bad argument #3 to 'connect' (no such protocol: " .. tostring(protocol) .. ")", 2)
  end
  local connection = require "tlsconnect.connection"
  local deadline = core.now() + (options.timeout or TIMEOUT)
  local given = {}
  for name, value in pairs(options) do given[name] = value end
  given.tls = false
  local plain, message, err = connection.open(host, port or starttls.ports[protocol], given)
  if not plain then return nil, message, err end
  local recorder, begun = plain.recorder, core.now()
  plain:setdeadline(deadline)
  local ok
  ok, message, err = starttls.negotiate(plain, protocol, host)
  if not ok then
    plain:close()
    if err.code ~= "starttls_refused" then
      err = errors.new { step = "client_hello", code = err.code, host = host, port = plain.port,
        cause = err.cause, errno = err.errno, doing = "waiting for the go-ahead of STARTTLS (" .. protocol .. ")" }
      message = err.message
    end
    recorder:fail(err.step, err)
    if recorder.tracing then err.trace = recorder:steps() end
    return nil, message, err
  end
  recorder:add("tcp", { starttls = { protocol = protocol, elapsed = core.now() - begun } })
  given.tls = nil
  given.recorder = recorder
  given.server_name = options.server_name or host
  given.timeout = math.max(0, deadline - core.now())
  local secured
  secured, message, err = require("tlsconnect.connection.wrap")(plain, given)
  if not secured then
    if not err.trace then
      recorder:fail(err.step, err)
      if recorder.tracing then err.trace = recorder:steps() end
    end
    return nil, message, err
  end
  secured:settimeout(options.timeout)
  return secured
end

return starttls

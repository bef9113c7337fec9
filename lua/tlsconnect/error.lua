-- Errors as a program and a person meet them. The core says what happened (a cause); here the step,
-- the host and the sentence are added. Every function that the world can fail returns
-- `nil, message, err`: see errors.fail.
local late = require "tlsconnect.late"

local errors = {}

-- Codes of failures after which the same call may well work when it is made again.
errors.again = {
  lookup_failed = true, too_many_lookups = true, forked = true, refused = true, unreachable = true,
  all_failed = true, too_many_files = true, reset = true, closed = true, truncated = true, timeout = true,
}

-- The sentences, where the core's own words ({cause}) are not the best. {peer} is host:port, {host} the
-- host; {while} is " while waiting for ...", or empty.
local sentences = {
  bad_host = "{host} is not a host name: {cause}",
  unknown_host = "{host}: no such host",
  no_address = "{host} has no address{family}",
  lookup_failed = "{host}: the name look-up failed: {cause}",
  refused = "{peer} refused the connection",
  unreachable = "{peer} cannot be reached: {cause}",
  address_refused = "{host}: none of its addresses is allowed",
  address_not_available = "{peer}: the address is not one of this machine's",
  address_in_use = "{peer}: the address is already in use",
  too_many_files = "{peer}: no descriptor left: {cause}",
  reset = "connection reset by {peer}{while}",
  closed = "{peer} closed the connection{while}",
  truncated = "{peer} ended the connection without close_notify{while}: data may be missing",
  timeout = "{peer}: time is over{while}",
  plaintext_before_tls = "{peer} sent bytes in clear before the TLS handshake",
  not_tls = "{peer} does not speak TLS{first}",
  version_refused = "{peer} and this side allow no common version of TLS{alert}",
  no_common_suite = "{peer} and this side allow no common cipher suite{alert}",
  no_common_group = "{peer} and this side allow no common key exchange group{alert}",
  no_common_parameters = "{peer} and this side allow no common version, cipher suite or group{alert}",
  no_certificate = "{peer} sent no certificate",
  bad_signature = "{peer} does not hold the key of its certificate: its signature is wrong",
  weak_group = "{peer} uses a Diffie-Hellman prime that is too small",
  bad_record = "{peer} sent a record that was forged or damaged",
  renegotiation_refused = "{peer} wanted to renegotiate, which is refused",
  busy = "{peer}: another coroutine is in the middle of the same call",
  abandoned = "{peer}: an earlier call was left half-way, so the connection cannot go on",
  memory = "{peer}: out of memory",
}

-- Where LuaSocket has a word, programs compare with it: it is the whole message, and the sentence is in
-- err.detail. Only the clean end of a stream that was open is "closed": one that is reset, truncated, or
-- ended in the middle of the handshake never is.
local function word(err)
  if err.code == "timeout" then return "timeout" end
  if err.code == "closed" and (err.step == "data" or err.step == "close" or err.step == "tcp") then
    return "closed"
  end
  return nil
end

-- What the first bytes of a peer that is no TLS server show.
local greetings = {
  { "^HTTP/", "an HTTP server" },
  { "^SSH%-", "an SSH server" },
  { "^220[ %-]", "an SMTP or FTP server (STARTTLS?)" },
  { "^%* OK", "an IMAP server (STARTTLS?)" },
  { "^%+OK", "a POP3 server (STLS?)" },
  { "^<", "XML or HTML" },
}

local escapes = { ["\r"] = "\\r", ["\n"] = "\\n", ["\t"] = "\\t", ["\\"] = "\\\\", ['"'] = '\\"' }

--- Bytes of a peer as printable ASCII: everything else becomes \xNN, so that none of it reaches a
-- terminal or a log raw. Cut after `limit` bytes (default 64), with "..." then.
function errors.escape(bytes, limit)
  limit = limit or 64
  local text = bytes:sub(1, limit):gsub('[%c"\\\127-\255]', function(byte)
    return escapes[byte] or ("\\x%02X"):format(byte:byte())
  end)
  return #bytes > limit and text .. "..." or text
end

--- "example.org:443", "[::1]:443", or "the peer" when nothing is known.
function errors.peer(host, port)
  if not host then return "the peer" end
  host = errors.escape(host, 255)
  if not port then return host end
  if host:find(":", 1, true) then host = "[" .. host .. "]" end
  return ("%s:%d"):format(host, port)
end

local parts = {
  peer = function(err) return errors.peer(err.host, err.port) end,
  host = function(err) return err.host and errors.escape(err.host, 255) or "the host" end,
  cause = function(err) return err.cause and errors.escape(err.cause, 300) or "unknown reason" end,
  rest = function(err) return errors.escape(err.cause:match("^the peer( .*)"), 300) end,
  family = function(err)
    local names = { inet = " of IPv4", inet6 = " of IPv6" }
    return names[err.family] or ""
  end,
  alert = function(err) return err.alert and (" (alert %s)"):format(err.alert) or "" end,
  first = function(err)
    local bytes = err.first_bytes
    if not bytes or bytes == "" then return "" end
    local kind = ""
    for _, greeting in ipairs(greetings) do
      if bytes:find(greeting[1]) then kind = ", it looks like " .. greeting[2] break end
    end
    return ('%s: its first bytes are "%s"'):format(kind, errors.escape(bytes, 32))
  end,
  ["while"] = function(err) return err.doing and " while " .. err.doing or "" end,
}

local function sentence(err)
  local template = sentences[err.code]
  if not template then
    -- The core calls the peer "the peer"; here it has a name.
    template = err.cause and err.cause:find("^the peer ") and "{peer}{rest}{while}"
      or err.cause and "{peer}: {cause}{while}" or "{peer}: {code}{while}"
  end
  return (template:gsub("{(%w+)}", function(name)
    if parts[name] then return parts[name](err) end
    return tostring(err[name])
  end))
end

local meta = {
  __name = "tlsconnect.error",
  __tostring = function(err) return err.message end,
}

--- Whether a value is an error made here.
function errors.is(value)
  return getmetatable(value) == meta
end

--- Makes an error of the fields given (the table itself becomes the error).
-- code (string, of errors.codes) and step (one of the ten, "proxy", "http" or "setup"); host, port,
-- alert, errno, gnutls, first_bytes, certificate, attempts, ... as they are known; message: the
-- line a person reads, made from the code when absent; doing: "waiting for ServerHello".
-- Adds detail (that line, also where message is one of LuaSocket's words) and retryable.
function errors.new(err)
  err.detail = err.detail or err.message or sentence(err)
  err.message = word(err) or err.message or err.detail
  if err.retryable == nil then
    err.retryable = errors.again[err.code] or false
  end
  return setmetatable(err, meta)
end

--- An error from a cause of the core ({code=, message=, gnutls=, errno=, alert=, at=, ...}) and what
-- the caller knows: {step=, host=, port=, doing=, ...}. What the core knows of step and doing wins.
function errors.from(cause, context)
  if errors.is(cause) then return cause end
  local err = {}
  for key, value in pairs(context) do err[key] = value end
  for key, value in pairs(cause) do
    if key ~= "message" and key ~= "at" then err[key] = value end
  end
  err.cause = cause.message
  if cause.at then
    err.at = cause.at
    -- `awaited`: the peer was silent; else, unless it sent an alert, the message itself was at fault.
    err.doing = (cause.awaited == false and not cause.alert and "reading " or "waiting for ") .. cause.at
  end
  return errors.new(err)
end

--- The three results of a function that failed: nil, message, err.
function errors.fail(err)
  return nil, err.message, err
end

--- What a wait that did not return true means: nil, message, err. `context` as in errors.from.
function errors.waited(message, context)
  local err = {}
  for key, value in pairs(context) do err[key] = value end
  if message == "timeout" or message == nil then
    err.code = "timeout"
  else
    err.code, err.message = "cancelled", tostring(message)
  end
  return errors.fail(errors.new(err))
end

-- `codes` is the list of all, `known` the same by code: error/codes.lua.
return setmetatable(errors, { __index = function(_, name)
  if name == "codes" or name == "known" then return late.load("tlsconnect.error.codes")[name] end
end })

--- HTTP/1.1 on the wire, as a client meets it: reads an answer's head, decides how its body is framed
-- (RFC 9112 6.3), reads that body. Whatever two readers could read differently is refused.

local errors = require "tlsconnect.error"
local headers = require "tlsconnect.https.headers"
local waiter = require "tlsconnect.wait"

local byte, find, format, gmatch, lower, match =
  string.byte, string.find, string.format, string.gmatch, string.lower, string.match

local now, value = waiter.now, headers.value

local M = {}

local token = "[%w!#$%%&'*+%-.^_`|~]+"
M.token = "^" .. token .. "$"

-- A piece of what the peer sent, as a message may hold it.
local function shown(text)
  return '"' .. errors.escape(text) .. '"'
end
M.shown = shown

--- nil, message, err for an answer that breaks the protocol, or a limit. `at`: whose answer, { host =,
-- port = } (a parsed URL is one); the rest as for string.format.
function M.refuse(at, code, ...)
  return errors.fail(errors.new {
    step = "http", code = code, host = at.host, port = at.port,
    message = errors.peer(at.host, at.port) .. " " .. format(...),
  })
end
local refuse = M.refuse

--- Parses an answer's head, from its status line through the empty line. Lines may end in LF alone
-- (RFC 9112 2.2); a CR elsewhere, a NUL, a folded line, a space before the colon are refused.
-- @return { status = number, reason, version = 0.9 | 1.0 | 1.1, headers }, or nil, code, message
function M.parse_head(head, max_headers)
  if find(head, "\0", 1, true) then return nil, "bad_header", "sent a head with a NUL byte in it" end
  local major, minor, status, rest, position = match(head, "^HTTP/(%d)%.(%d) (%d%d%d)([^\r\n]*)\r?\n()")
  if not major or (rest ~= "" and byte(rest) ~= 32) then
    return nil, "not_http", "does not answer in HTTP: " .. shown(match(head, "^[^\r\n]*"))
  end
  if not (major == "1" or major == "0" and minor == "9") then
    return nil, "not_http", "answered in an unknown version: HTTP/" .. major .. "." .. minor
  end
  local fields, line = headers.parse(head, position, max_headers)
  if not fields then
    if line then return nil, "bad_header", "sent a malformed header line: " .. shown(line) end
    return nil, "too_long", format("sent more than %d header lines", max_headers)
  end
  return {
    status = tonumber(status), reason = rest == " OK" and "OK" or match(rest, "^ *(.-)$"),
    version = major == "0" and 0.9 or minor == "0" and 1.0 or 1.1, headers = fields,
  }
end

-- The one length that every Content-Length says (RFC 9112 6.3: "42, 42" is 42), below 2^53; nil when
-- they are anything else.
local function content_length(fields, first)
  if #first < 16 and find(first, "^%d+$") then return tonumber(first, 10) end
  local length
  for _, said in ipairs(fields:list("content-length")) do
    for member in gmatch(said .. ",", "([^,]*),") do
      local digits = match(member, "^[ \t]*(%d+)[ \t]*$")
      digits = digits and match(digits, "^0*(%d+)$") -- of "000" the last stays
      if not digits or #digits > 16 then return nil end
      local number = tonumber(digits, 10)
      if number >= 9007199254740992 or length and number ~= length then return nil end
      length = number
    end
  end
  return length
end

local registered = { compress = true, deflate = true, gzip = true, identity = true, ["x-compress"] = true,
  ["x-gzip"] = true }

-- How Transfer-Encoding frames the body: "chunked", or "close" when chunked is not the last coding. A
-- name outside the registry ("xchunked") is a reader's chance to disagree with another.
local function transfer_coding(fields)
  local values = fields:list("transfer-encoding")
  if #values > 1 then return nil end
  local codings, last = 0, nil
  for member in gmatch(values[1] .. ",", "([^,]*),") do
    last = lower(match(member, "^[ \t]*([^ \t]*)") or "")
    if not find(member, "^[ \t]*[^ \t]+[ \t]*$") then return nil end
    if last ~= "chunked" and not registered[last] then return nil end
    codings = codings + 1
    if codings > 4 then return nil end
  end
  return last == "chunked" and "chunked" or "close"
end

--- How an answer's body is framed: "none", "length" (and the number), "chunked" or "close"; nil, message
-- when that cannot be said.
function M.framing(answer, method)
  local status, fields = answer.status, answer.headers
  if method == "HEAD" or status == 204 or status == 304 then return "none" end
  local coded, length = value(fields, "transfer-encoding"), value(fields, "content-length")
  if coded then
    if length then return nil, "sent both Transfer-Encoding and Content-Length" end
    if answer.version < 1.1 then return nil, "sent a Transfer-Encoding in an HTTP/1.0 answer" end
    local kind = transfer_coding(fields)
    if kind then return kind end
    return nil, "sent a Transfer-Encoding that is not understood: " .. shown(coded)
  end
  if length then
    local number = content_length(fields, length)
    if number then return "length", number end
    return nil, "sent a Content-Length that is not one number: " .. shown(length)
  end
  return "close"
end

--- True when the connection may carry another request after this answer (RFC 9112 9.3).
function M.persistent(answer)
  local option = value(answer.headers, "connection")
  if option and option ~= "keep-alive" then
    option = "," .. string.gsub(lower(option), "[ \t]", "") .. ","
    if find(option, ",close,", 1, true) then return false end
    if answer.version < 1.1 then return find(option, ",keep-alive,", 1, true) ~= nil end
    return true
  end
  return answer.version >= 1.1 or option ~= nil
end

--- Reads from the connection. The time that a pause may last begins anew whenever something has come.
-- @param wait seconds
function M.read(connection, what, most, wait, deadline)
  local last = now() + wait
  connection:setdeadline(deadline and deadline < last and deadline or last)
  local had = connection:buffered()
  while true do
    local data, message, err = connection:read(what, most)
    if data or not err or err.code ~= "timeout" then return data, message, err end
    local has, time = connection:buffered(), now()
    if has == had or deadline and time >= deadline then return nil, message, err end
    had, last = has, time + wait
    connection:setdeadline(deadline and deadline < last and deadline or last)
  end
end

local max_interim = 20

--- Reads the head of the final answer, past the interim ones.
-- @param connection a connection
-- @param at whose answer, as for refuse()
-- @param limits { max_head = bytes (summed over interim answers), max_headers = lines, first_byte = seconds that
--   a pause may last, deadline = the time that nothing passes, or nil }
-- @param on_interim called with each interim answer; when it returns true, reading stops there
-- @return the answer, as parse_head() gives it, or nil, message, err
function M.read_head(connection, at, limits, on_interim)
  local left = limits.max_head
  for _ = 1, max_interim do
    local head, message, err = M.read(connection, "head", left, limits.first_byte, limits.deadline)
    if not head then
      if err and err.code == "too_long" then
        return refuse(at, "too_long", "sent a head longer than %d bytes", limits.max_head)
      end
      if err and (err.code == "closed" or err.code == "truncated") then
        return refuse(at, err.code, "closed the connection before the answer's head was complete")
      end
      return nil, message, err
    end
    left = left - #head
    local answer, code, problem = M.parse_head(head, limits.max_headers)
    if not answer then return refuse(at, code, "%s", problem) end
    local status = answer.status
    if status == 101 then
      return refuse(at, "bad_status", "switched protocols (101) without being asked")
    end
    if status < 100 or status >= 200 then return answer end
    if on_interim and on_interim(answer) then return answer end
  end
  return refuse(at, "bad_status", "sent more than %d interim answers", max_interim)
end

return M

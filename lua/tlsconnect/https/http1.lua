--- HTTP/1.1 on the wire, as a client meets it: reads answers' heads. What a head may look like, and how it frames
-- its body (RFC 9112 6.3), the core knows (head.c). Whatever two readers could read differently is refused.

local errors = require "tlsconnect.error"
local waiter = require "tlsconnect.wait"

local format, now = string.format, waiter.now

local M = {}

M.token = "^[%w!#$%%&'*+%-.^_`|~]+$"

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

--- Sets the time that each pause of the peer may last from now on, and the time that nothing passes.
-- @param wait seconds
-- @param deadline a time, or nil
function M.pace(connection, wait, deadline)
  if connection.limit ~= wait then connection:settimeout(wait) end
  if connection.deadline ~= deadline then connection:setdeadline(deadline) end
end
local pace = M.pace

-- The rest of a read that got an error: the time that a pause may last begins anew whenever something has come.
local function read_on(connection, deadline, had, err, ...)
  while true do
    local has = connection:buffered()
    if err.code ~= "timeout" or has == had or deadline and now() >= deadline then
      return nil, err.message, err
    end
    had = has
    local data, second, third, fourth, fifth, sixth = connection:read(...)
    if data ~= nil then return data, second, third, fourth, fifth, sixth end
    err = third
  end
end

--- Reads from the connection: what, most and the rest as for connection:read(). The time that a pause may last
-- begins anew whenever something has come.
-- @param wait seconds
function M.read(connection, what, most, wait, deadline)
  pace(connection, wait, deadline)
  local had = connection:buffered()
  local data, _, err = connection:read(what, most)
  if data then return data end
  return read_on(connection, deadline, had, err, what, most)
end

local max_interim = 20

-- nil, message, err for a head that did not come.
local function no_head(at, limits, message, err)
  local code = err and err.code
  if code == "too_long" then
    return refuse(at, code, "sent a head longer than %d bytes", limits.max_head)
  elseif code == "closed" or code == "truncated" then
    return refuse(at, code, "closed the connection before the answer's head was complete")
  end
  return nil, message, err
end

-- Reads on until the head of the final answer, past the interim ones. The last six: what the first read gave.
local function final(connection, at, limits, max_body, on_interim, answer, kind, length, keep, more, body)
  local left, deadline, had, count = limits.max_head, limits.deadline, 0, 0
  while true do
    if answer == nil and length and length.code == "timeout" then
      answer, kind, length, keep, more, body =
        read_on(connection, deadline, had, length, "answer", left, limits.max_headers, max_body)
    end
    if answer == nil then return no_head(at, limits, kind, length) end
    if not answer then -- code, message, and what is shown of it
      return refuse(at, kind, "%s", keep and length .. shown(keep) or length)
    end
    local status = answer.status
    if status >= 200 or status < 100 then
      if kind == false and keep then length = length .. shown(keep) end
      return answer, kind, length, keep, more, body
    elseif status == 101 then
      return refuse(at, "bad_status", "switched protocols (101) without being asked")
    elseif on_interim and on_interim(answer) then
      return answer
    end
    count = count + 1
    if count == max_interim then return refuse(at, "bad_status", "sent more than %d interim answers", max_interim) end
    left, had = left - length, connection:buffered()
    answer, kind, length, keep, more, body = connection:read("answer", left, limits.max_headers, max_body)
  end
end

--- Reads the head of the final answer, past the interim ones.
-- @param connection a connection
-- @param at whose answer, as for refuse()
-- @param limits { max_head = bytes (summed over interim answers), max_headers = lines, first_byte = seconds that
--   a pause may last, deadline = the time that nothing passes, or nil }
-- @param max_body so many bytes of a body are read, too, where all of them are here already; nil: none
-- @param on_interim called with each interim answer; when it returns true, reading stops there
-- @return the answer { status = number, reason, version = 0.9 | 1.0 | 1.1, headers }; how its body is framed
--   ("none", "length", "chunked", "close", or false where that cannot be said), its length (or what is wrong),
--   whether the connection may carry another request, whether a field asks for more than to be handed out, and
--   the body; or nil, message, err
function M.read_head(connection, at, limits, max_body, on_interim)
  pace(connection, limits.first_byte, limits.deadline)
  return final(connection, at, limits, max_body, on_interim,
    connection:read("answer", limits.max_head, limits.max_headers, max_body))
end

--- Sends a request that has no body on an idle connection, and reads the head of its answer, as read_head() does. Where
-- something has come meanwhile nothing is sent: code "closed".
function M.ask(connection, bytes, at, limits, max_body)
  local wait, deadline = limits.first_byte, limits.deadline
  if connection.limit ~= wait or connection.deadline ~= deadline then pace(connection, wait, deadline) end
  local answer, kind, length, keep, more, body =
    connection:ask(bytes, limits.max_head, limits.max_headers, max_body)
  if answer and kind and answer.status >= 200 then return answer, kind, length, keep, more, body end
  return final(connection, at, limits, max_body, nil, answer, kind, length, keep, more, body)
end

return M

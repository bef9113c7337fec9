--- The body of a request: sent as long as the peer takes it and has not refused it. Loaded when a request has one.
-- The option `upload_progress` hears of each piece that has left.

local errors = require "tlsconnect.error"
local http1 = require "tlsconnect.https.http1"
local waiter = require "tlsconnect.wait"

local format, sub = string.format, string.sub
local now, pace = waiter.now, http1.pace

local M = {}

local FIRST_WRITE = 16384 -- a TLS record: what leaves together with the head
local PIECE = 65536
local SLICE = 262144 -- between two of them an early answer is looked for
local WAITING = 1048576 -- what an answer that began before its request had ended may fill meanwhile

local function bad_body(request, ...)
  local url = request.url
  return errors.fail(errors.new {
    step = "http", code = "bad_body", host = url.host, port = url.port,
    message = errors.peer(url.host, url.port) .. ": " .. format(...),
  })
end

-- A file's bytes from where it stands to its end.
local function file_length(file)
  local here = file:seek()
  local size = here and file:seek("end")
  if not size then return nil end
  file:seek("set", here)
  return size - here, here
end

--- What a request's body is: its length where it is known, and whether it can be sent again.
function M.take(request, body)
  local kind = type(body)
  request.body = body
  if kind == "string" then
    request.length = #body
    request.replayable = true
  elseif io.type(body) == "file" then
    request.length, request.offset = file_length(body)
    request.replayable = request.length ~= nil
  elseif kind == "table" then -- a body that content.lua made: { length =, open = function() -> source }
    request.length, request.replayable = body.length, true
  elseif kind ~= "function" then
    error("bad option 'body' (string, function or open file expected, got "
      .. (io.type(body) or kind) .. ")", 0)
  end
end

-- The source of a body: function() that returns the next piece, or nil [, error].
local function source(request)
  local body = request.body
  if type(body) == "function" then return body end
  if type(body) == "string" then
    local at = 1
    return function()
      local data = sub(body, at, at + PIECE - 1)
      at = at + PIECE
      return data ~= "" and data or nil
    end
  end
  if type(body) == "table" then return body.open() end
  return function() return body:read(PIECE) end
end

local function stop_there() return true end

-- Sends what is small. True, or nil, message, err.
local function send(connection, data, limits)
  pace(connection, limits.idle, limits.deadline)
  local sent, message, _, err = connection:send(data)
  if sent then return true end
  return nil, message, err
end

-- What the peer says before it has all: true when the rest may be sent, as the answer is an interim one or a
-- success (a server that answers while it reads); nil, "answered" when it wants no more (RFC 9112 9.5). The
-- answer is request.answered: what read_head() gave. Or nil, message, err.
local function hear(request, connection, limits)
  local answer, kind, length, keep, more = http1.read_head(connection, request.url, limits, nil, stop_there)
  if not answer then return nil, kind, length end
  if answer.status < 100 or answer.status >= 200 then
    request.answered = { answer, kind, length, keep, more }
    if answer.status < 200 or answer.status >= 300 then return nil, "answered" end
    return true
  end
  request.interim = (request.interim or 0) + 1
  if request.interim > 20 then
    return http1.refuse(request.url, "bad_status", "sent more than %d interim answers", 20)
  end
  return true
end

-- Sends bytes, as long as the peer takes some now and then, and does not refuse them. Results as of send().
local function offer(request, connection, data, first, limits)
  local deadline = limits.deadline
  while first <= #data do
    pace(connection, limits.idle, deadline)
    local sent, message, reached, err = connection:offer(data, first, first + SLICE - 1,
      request.answered and WAITING)
    if sent then
      first = sent + 1
    elseif not err and request.answered then -- it has ended, or talks and does not read
      return nil, "answered"
    elseif not err then
      local ok
      ok, message, err = hear(request, connection, limits)
      if not ok then return nil, message, err end
      first = reached + 1
    elseif err.code == "timeout" and reached >= first and not (deadline and now() >= deadline) then
      first = reached + 1
    elseif request.answered and err.code == "timeout" then -- it has answered, and takes no more
      return nil, "answered"
    else
      return nil, message, err
    end
  end
  return true
end

-- Sends the head, and waits a second for the word to go on (RFC 9110 10.1.1). Results as of send().
local function expect(request, connection, head, limits)
  local ok, message, err = send(connection, head, limits)
  if not ok then return nil, message, err end
  ok, message, err = hear(request, connection,
    { max_head = limits.max_head, max_headers = limits.max_headers, first_byte = 1, deadline = limits.deadline })
  if ok or not err or err.code ~= "timeout" or limits.deadline and now() >= limits.deadline then
    return ok, message, err
  end
  return true
end

-- Sends what a source gives; the head leaves with the first piece.
local function send_pieces(request, connection, head, limits)
  local next_piece = source(request)
  local sent = 0
  while true do
    local data, problem = next_piece()
    if data == nil then
      if problem then return bad_body(request, "the request body failed: %s", tostring(problem)) end
      break
    end
    if type(data) ~= "string" then
      error("the request body gave a " .. type(data) .. " (string expected)", 0)
    end
    if data ~= "" then
      sent = sent + #data
      if request.length and sent > request.length then break end
      if request.chunked then data = format("%x\r\n", #data) .. data .. "\r\n" end
      local ok, message, err = offer(request, connection, head .. data, 1, limits)
      if not ok then return nil, message, err end
      head = ""
      if limits.uploaded then limits.uploaded(sent, request.length) end
    end
  end
  if request.length and sent ~= request.length then
    return bad_body(request, "the request body does not have the %.0f bytes that were announced",
      request.length)
  end
  if request.chunked then head = head .. "0\r\n\r\n" end
  return offer(request, connection, head, 1, limits)
end

--- Sends a request with its body. The head and a small body leave in one write.
-- @param limits { idle, deadline, ... }: those of http1.read_head() and body.new(); uploaded = function(bytes of
--   the body that have left, bytes in all or nil), or nil
-- @return true, with request.answered (what read_head() gave) when an answer came already; nil, "answered" when the
--   peer answered (request.answered) and wants no more; or nil, message, err
function M.send(request, connection, limits)
  local head, body = request:head(), request.body
  request.started, request.answered = true, nil
  local ok, message, err = true, nil, nil
  if request.expects then
    ok, message, err = expect(request, connection, head, limits)
    if not ok then return nil, message, err end
    head = ""
  end
  if type(body) ~= "string" or limits.uploaded then
    if request.offset then body:seek("set", request.offset) end
    return send_pieces(request, connection, head, limits)
  end
  local room = FIRST_WRITE - #head
  if #body <= room then return send(connection, head .. body, limits) end
  if room < 0 then room = 0 end
  if head ~= "" then ok, message, err = send(connection, head .. sub(body, 1, room), limits) else room = 0 end
  if not ok then return nil, message, err end
  return offer(request, connection, body, room + 1, limits)
end

return M

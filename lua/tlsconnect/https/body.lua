--- The body of an answer, read as it is framed: in pieces, or whole. It is at its end only when the
-- framing says so, or, where nothing frames it, when the peer closes as TLS wants it (close_notify).

local http1 = require "tlsconnect.https.http1"
local now = require("tlsconnect.wait").now

local find, match = string.find, string.match
local refuse = http1.refuse

local Body = { pours = true } -- read() takes a file
Body.__index = Body

local M = {}

local max_chunk_line = 4096 -- size and extensions of one chunk
local max_extensions = 65536 -- extensions of all chunks
local piece = 65536

--- @param connection a connection whose answer's head was read
-- @param at whose answer, as for http1.refuse()
-- @param kind, length as http1.read_head() says
-- @param limits { max_head = bytes of trailers, max_headers = lines of them, idle = seconds that each pause may
--   last, deadline = the time that nothing passes, or nil }
function M.new(connection, at, kind, length, limits)
  return setmetatable({
    connection = connection, at = at, kind = kind, length = length, left = length or 0, limits = limits,
    received = 0, extensions = 0, done = kind == "none" or kind == "length" and length == 0,
  }, Body)
end

-- As get() of "some", into an open file: how many bytes, or nil, message, err, bytes.
local function into(self, file, most)
  local limits = self.limits
  local last = now() + limits.idle
  self.connection:setdeadline(limits.deadline and limits.deadline < last and limits.deadline or last)
  return self.connection:pour(file, most)
end

function Body:get(what, most)
  local limits = self.limits
  return http1.read(self.connection, what, most, limits.idle, limits.deadline)
end

-- nil, message, err for a read that failed: an end before the end is a truncation, whoever made it.
function Body:failure(message, err)
  self.failed = true
  local code = err and err.code
  local received = self.received + (self.left > 0 and self.connection:buffered() or 0)
  if code == "closed" or code == "truncated" then
    if self.length then
      return refuse(self.at, "truncated", "ended the connection after %.0f of %.0f bytes of the body",
        received, self.length)
    elseif self.kind == "chunked" then
      return refuse(self.at, "truncated", "ended the connection within a chunked body, after %.0f bytes",
        received)
    end
    return refuse(self.at, "truncated",
      "ended the connection without close_notify, after %.0f bytes of a body that nothing else ends",
      received)
  elseif code == "too_long" then
    return refuse(self.at, "too_long", "sent a line between chunks that is too long")
  end
  return nil, message, err
end

function Body:refuse(...)
  self.failed = true
  return refuse(self.at, ...)
end

-- RFC 9112 7.1: chunk-size [ chunk-ext ] CRLF, and nothing that tonumber() would forgive.
local function parse_chunk_line(line)
  local digits, extensions = match(line, "^(%x+)([^\r\n]*)\r\n$")
  if not digits or #digits > 16 then return nil end
  local size = tonumber(digits, 16)
  -- 16 digits wrap round where integers have 64 bits
  if size < 0 or size >= 9007199254740992 then return nil end
  if extensions ~= "" then
    if not find(extensions, "^[ \t]*;") or find(extensions, "[%z\1-\8\10-\31\127]") then return nil end
    if find(extensions, '"', 1, true) then
      local bare = string.gsub(string.gsub(extensions, "\\.", ""), '"[^"]*"', "")
      if find(bare, '"', 1, true) then return nil end
    end
  end
  return size, #extensions
end

-- Trailer fields are checked like header fields, and dropped: nothing here asked for them.
function Body:trailers()
  local left = self.limits.max_head
  for _ = 0, self.limits.max_headers do
    local line, message, err = self:get("L", left)
    if not line then return self:failure(message, err) end
    if line == "\r\n" then
      self.done = true
      return true
    end
    local text = match(line, "^[%w!#$%%&'*+%-.^_`|~]+:([^\r\n]*)\r\n$")
    if not text or find(text, "\0", 1, true) then
      return self:refuse("bad_header", "sent a malformed trailer line: %s", http1.shown(line))
    end
    left = left - #line
    if left <= 0 then break end
  end
  return self:refuse("too_long", "sent trailers that are too long")
end

-- Opens the next chunk: true, or nil, message, err. At the last one, reads the trailers. The end of the one before
-- is read now, not with its data, which need not wait for it.
function Body:chunk()
  local line, message, err
  if self.opened then
    line, message, err = self:chunk_end()
    if not line then return nil, message, err end
  end
  line, message, err = self:get("L", max_chunk_line)
  if not line then return self:failure(message, err) end
  local size, extensions = parse_chunk_line(line)
  if not size then return self:refuse("bad_chunk", "sent a malformed chunk size: %s", http1.shown(line)) end
  self.extensions = self.extensions + extensions
  if self.extensions > max_extensions then
    return self:refuse("too_long", "sent more than %d bytes of chunk extensions", max_extensions)
  end
  if size == 0 then return self:trailers() end
  self.left, self.opened = size, true
  return true
end

function Body:chunk_end()
  local after, message, err = self:get(2)
  if not after then return self:failure(message, err) end
  if after ~= "\r\n" then
    return self:refuse("bad_chunk", "sent a chunk that does not end where its size says: %s",
      http1.shown(after))
  end
  return true
end

--- The next piece, of 1 to `limit` bytes; with `file`, an open one, it is written there.
-- @return string, or the number of bytes written; nil at the end of the body; nil, message, err
function Body:read(limit, file)
  if self.done then return nil end
  if self.failed then return self:refuse("closed", "was given up after an error") end
  limit = limit or piece
  local kind = self.kind
  if kind == "chunked" and self.left == 0 then
    local ok, message, err = self:chunk()
    if not ok then return nil, message, err end
    if self.done then return nil end
  end
  if kind ~= "close" and self.left < limit then limit = self.left end
  local data, message, err, written
  if file then
    data, message, err, written = into(self, file, limit)
  else
    data, message, err = self:get("some", limit)
  end
  local size = file and (data or written) or data and #data or 0
  self.received = self.received + size
  if kind ~= "close" then self.left = self.left - size end
  if not data then
    if kind == "close" and err and err.code == "closed" then
      self.done = true
      return size > 0 and size or nil
    end
    return self:failure(message, err)
  end
  if kind == "close" then return data end
  if self.left == 0 and kind == "length" then self.done = true end
  return data
end

function Body:too_long(max)
  return self:refuse("too_long", "sent a body longer than %.0f bytes", max)
end

-- Collects pieces. Many small ones are joined now and then: a table and a string header for each
-- byte would be what a peer makes of its budget.
function M.collector()
  local blocks, pieces, n = {}, {}, 0
  local function add(data)
    n = n + 1
    pieces[n] = data
    if n == 512 then
      blocks[#blocks + 1] = table.concat(pieces)
      pieces, n = {}, 0
    end
  end
  local function result()
    if not blocks[1] then return pieces[2] and table.concat(pieces) or pieces[1] or "" end
    blocks[#blocks + 1] = table.concat(pieces)
    return table.concat(blocks)
  end
  return add, result
end

-- The whole of a chunked body, chunk by chunk.
function Body:all_chunks(max)
  local add, result = M.collector()
  while true do
    local ok, message, err = self:chunk()
    if not ok then return nil, message, err end
    if self.done then return result() end
    local size = self.left
    if self.received + size > max then return self:too_long(max) end
    local data
    data, message, err = self:get(size)
    if not data then return self:failure(message, err) end
    self.received = self.received + size
    self.left = 0
    add(data)
  end
end

--- The whole body.
-- @param max the most bytes it may have
-- @return string, or nil, message, err
function Body:all(max)
  if self.done then return "" end
  if self.received > 0 then return self:rest(max) end
  if self.kind == "chunked" then return self:all_chunks(max) end
  if self.kind == "length" then
    if self.length > max then return self:too_long(max) end
    local data, message, err = self:get(self.length)
    if not data then return self:failure(message, err) end
    self.received, self.left, self.done = self.length, 0, true
    return data
  end
  return self:rest(max)
end

--- What is left of the body, read piece by piece.
function Body:rest(max)
  local add, result = M.collector()
  local size = 0
  while true do
    local data, message, err = self:read(piece)
    if not data then
      if err then return nil, message, err end
      return result()
    end
    size = size + #data
    if size > max then return self:too_long(max) end
    add(data)
  end
end

return M

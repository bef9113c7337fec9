--- An answer whose body is read as it comes (the option `stream`): nothing piles up here, and a slow
-- reader slows the sender.
--
--     local page = assert(https.get(url, { stream = true }))
--     for line in page:lines() do ... end        -- or page:chunks(), page:read(n), page:read "a"
--     page:close()                               -- when it is not read to its end
--
-- The connection goes back to the pool when the body has been read to its end.

local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local http1 = require "tlsconnect.https.http1"

local find, sub = string.find, string.sub

local M = {}

local PIECE = 65536
local POURED = 1024 * 1024 -- written before `progress` hears of it
local MAX_LINE = 1024 * 1024

local Source = {}
Source.__index = Source

-- The connection is not needed any more.
function Source:stop()
  local finish = self.finish
  self.ended, self.finish = true, nil
  if finish then finish(self.problem) end
end

-- Gives the rest of the body up. nil, message, err, now and for each later read.
function Source:refuse(code, ...)
  local at = self.reader and self.reader.at or {}
  self.problem = select(3, http1.refuse(at, code, ...))
  self:stop()
  return errors.fail(self.problem)
end

-- The next piece of the body as it comes. A string; nil at the end; nil, message, err.
function Source:piece(limit)
  if self.kept ~= "" then
    local data = self.kept
    self.kept = ""
    if limit and #data > limit then
      self.kept = sub(data, limit + 1)
      data = sub(data, 1, limit)
    end
    return data
  end
  if self.ended then
    if self.problem then return errors.fail(self.problem) end
    return nil
  end
  return self:advance(limit or PIECE)
end

-- Reads on: a string, or with `file` the number of bytes written there; nil at the end; nil, message, err.
function Source:advance(limit, file)
  local data, message, err = self.reader:read(limit, file)
  if not data then
    self.problem = err
    self:stop()
    return nil, message, err
  end
  self.received = self.received + (file and data or #data)
  if self.observe then self.observe(self.received, self.length) end
  return data
end

-- nil, message, err of a file that does not take the body. The connection is of no use any more.
local function unwritable(self, reason, errno)
  local at = self.reader and self.reader.at or {}
  self.problem = errors.new { step = "data", code = "unwritable_file", host = at.host, port = at.port, errno = errno,
    cause = reason, message = "the file cannot be written: " .. reason }
  self:stop()
  return errors.fail(self.problem)
end

-- The rest of the body, into an open file: from C where nothing is to be decoded and the file is no pipe.
-- True, or nil, message, err.
function Source:pour(file)
  local direct = self.reader and self.reader.pours and core.pourable(file)
  while true do
    local data, message, err
    if direct and self.kept == "" and not self.ended then
      data, message, err = self:advance(POURED, file)
    else
      data, message, err = self:piece()
      if data then
        local ok, reason, number = file:write(data)
        if not ok then return unwritable(self, reason, type(number) == "table" and number.errno or number) end
      end
    end
    if err then return nil, message, err end
    if not data then break end
  end
  if io.type(file) then
    local ok, reason, number = file:flush()
    if not ok then return unwritable(self, reason, number) end
  end
  return true
end

-- Exactly n bytes; fewer only at the end of the body.
function Source:exactly(n)
  local pieces, size = {}, 0
  while size < n do
    local data, message, err = self:piece(n - size)
    if not data then
      if err then return nil, message, err end
      break
    end
    size = size + #data
    pieces[#pieces + 1] = data
  end
  if size == 0 and n > 0 then return nil end
  return table.concat(pieces)
end

-- A line, without its end ("l") or with it ("L"). The last one may lack it.
function Source:line(with_end)
  local pieces, size = {}, 0
  while true do
    local data, message, err = self:piece()
    if not data then
      if err then return nil, message, err end
      if size == 0 then return nil end
      return table.concat(pieces)
    end
    local stop = find(data, "\n", 1, true)
    if stop then
      self.kept = sub(data, stop + 1)
      data = sub(data, 1, stop)
    end
    size = size + #data
    if size > MAX_LINE then
      return self:refuse("too_long", "sent a line longer than %d bytes", MAX_LINE)
    end
    pieces[#pieces + 1] = data
    if stop then
      local line = table.concat(pieces)
      if with_end then return line end
      return sub(line, 1, sub(line, -2, -2) == "\r" and -3 or -2)
    end
  end
end

-- All that is left.
function Source:rest(max)
  local pieces, size = {}, 0
  while true do
    local data, message, err = self:piece()
    if not data then
      if err then return nil, message, err end
      return table.concat(pieces)
    end
    size = size + #data
    if size > max then
      return self:refuse("too_long", "sent a body longer than %.0f bytes", max)
    end
    pieces[#pieces + 1] = data
  end
end

-- A body that is in memory reads the same way.
local function source_of(response)
  local source = response.source
  if not source then
    source = setmetatable({ kept = response.body, received = 0, ended = true }, Source)
    response.source = source
  end
  return source
end

--- What is left of the body, into an open file (Lua's, or core.file). True, or nil, message, err.
function M.pour(response, file)
  return source_of(response):pour(file)
end

--- Reads from the body. what: a number (so many bytes; fewer only at the end), "l" or "L" (a line, of 1
-- MiB at most, without or with its end), "a" (all that is left), or nothing: what comes next, whatever
-- its size. A string; nil at the end ("" for "a"); or nil, message, err.
function M.read(response, what)
  local source = source_of(response)
  if what == nil then return source:piece() end
  if type(what) == "number" and what >= 0 then return source:exactly(what) end
  if what == "l" or what == "L" or what == "*l" or what == "*L" then
    return source:line(what == "L" or what == "*L")
  end
  if what == "a" or what == "*a" then return source:rest(source.max or math.huge) end
  error("bad argument #1 to 'read' (a size, 'l', 'L' or 'a' expected)", 2)
end

-- Hands the body to the option `sink` as it comes, or collects it where only `progress` was asked for.
local function pour(response, sink, max)
  local source = response.source
  if not sink then
    local body, message, err = source:rest(max)
    if not body then return nil, message, err end
    response.body = body
    return response
  end
  if type(sink) == "userdata" then
    local ok, message, err = source:pour(sink)
    if not ok then return nil, message, err end
    return response
  end
  while true do
    local data, message, err = source:piece()
    if err then return nil, message, err end
    -- As LTN12's sinks: nil says that this was the end; nil as a result, that it takes no more.
    local ok, reason = sink(data, response)
    if data == nil then return response end
    if not ok then
      local at = source.reader.at
      source.problem = errors.new { step = "data", code = "cancelled", host = at.host, port = at.port,
        message = reason and tostring(reason) or "the sink takes no more" }
      source:stop()
      return errors.fail(source.problem)
    end
  end
end

--- Gives an answer the body that a reader (https/body.lua) reads, as the options stream, sink and progress
-- want it: progress(bytes so far, bytes in all or nil) is called with each piece.
-- @param finish called once, when the connection is no longer needed
-- @return the answer, or nil, message, err
function M.attach(response, reader, finish, given, max)
  local source = setmetatable({
    reader = reader, finish = finish, observe = given.progress, kept = "", received = 0,
    length = reader.length, max = max,
  }, Source)
  response.source = source
  if reader.done then source:stop() end
  if given.stream then return response end
  return pour(response, given.sink, max)
end

-- An iterator may not take half for the whole: an error is raised, as io.lines does.
local function iterate(next_one)
  return function()
    local data, _, err = next_one()
    if err then error(err, 0) end
    return data
  end
end

--- An iterator over the body's lines, without their ends. Raises the error (a table) when the body does
-- not come to its end. On Lua 5.1 an iterator cannot yield: where `wait` yields, call read("l").
function M.lines(response)
  local source = source_of(response)
  return iterate(function() return source:line(false) end)
end

--- An iterator over the body's bytes as they come, size (default 65,536) at most at a time. Raises as
-- lines() does.
function M.chunks(response, size)
  local source = source_of(response)
  return iterate(function() return source:piece(size or PIECE) end)
end

--- Gives up what is left of the body. Returns true.
function M.close(response)
  local source = response.source
  response.closed = true
  if source and not source.ended then
    source:refuse("closed", "was given up here")
  end
  return true
end

return M

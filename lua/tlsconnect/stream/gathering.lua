-- Sends that are gathered until there is a record full of them: Connection:setvbuf, in stream.lua.
local Connection = require "tlsconnect.stream"
local core = require "tlsconnect.core"

local now, text_of = core.now, Connection._text_of

local M = {}

-- A full record (RFC 8446 5.1), the default of setvbuf.
local RECORD = 16384

--- Takes all of what is gathered as one string.
function M.text(gathered)
  local text = table.concat(gathered, "", 1, gathered.count)
  for i = gathered.count, 2, -1 do gathered[i] = nil end
  gathered[1], gathered.count = text, 1
  return text
end

-- Sends the first `size` bytes of it. True, or nil, message, err; what has not left stays gathered.
local function send_first(self, size)
  local gathered = self.gathered
  local text = M.text(gathered)
  local done, message, last, err = Connection.send(self, text, 1, size)
  last = done or last
  if last == #text then
    gathered[1], gathered.count, gathered.size = nil, 0, 0
  else
    gathered[1], gathered.size = text:sub(last + 1), #text - last
  end
  if done then return true end
  return nil, message, err
end

--- As Connection:flush(), where something is gathered.
function M.flush(self)
  return send_first(self, self.gathered.size)
end

-- send() while sends are gathered.
local function gather(self, data, i, j)
  if type(data) ~= "string" then data = text_of(data) end
  local last = #data
  if i or j then
    if j and j < 0 then j = last + j + 1 end
    last = j and j < last and j or last
    data = data:sub(i or 1, last)
  end
  local gathered = self.gathered
  local count, size = gathered.count + 1, gathered.size + #data
  gathered[count], gathered.count, gathered.size = data, count, size
  if size < gathered.limit then return last end
  local ok, message, err = send_first(self, size - size % gathered.limit)
  if not ok then return nil, message, last, err end
  return last
end

-- read() while sends are gathered: what the peer is to answer must have left.
local function flush_and_read(self, ...)
  if self.gathered.size > 0 then
    local ok, message, err = self:flush()
    if not ok then return nil, message, err end
  end
  return Connection.read(self, ...)
end

--- As Connection:setvbuf(), with arguments that are right.
function M.set(self, mode, size)
  local ok, message, err = self:flush()
  if not ok then return nil, message, err end
  if mode == "no" then
    self.gathered, self.send, self.read = nil, nil, nil
  else
    self.gathered = { count = 0, size = 0, limit = size or RECORD }
    self.send, self.read = gather, flush_and_read
  end
  return true
end

-- Before the end: sends what was gathered, waiting no longer than close() does.
function M.finish(self, limit)
  local deadline, last = self.deadline, now() + limit
  self.deadline = deadline and deadline < last and deadline or last
  self:flush()
  self.deadline = deadline
end

return M

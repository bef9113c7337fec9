-- Reads numbers and vectors from the bytes of a handshake message, within bounds. What does not fit
-- stops the parse: the reader throws a table, which Reader.run catches; nothing else is thrown.

local Reader = {}
Reader.__index = Reader

local byte, sub = string.byte, string.sub

-- data: the whole message; first to last: the bytes this reader may see (1-based, inclusive).
local function make(data, first, last)
  return setmetatable({ data = data, position = first, last = last }, Reader)
end

--- A reader over all of `data`.
function Reader.new(data) return make(data, 1, #data) end

--- Stops the parse: what is wrong, at the reader's place or at `position`.
function Reader:stop(what, position)
  error({ malformed = what, offset = (position or self.position) - 1 }, 0)
end

function Reader:left() return self.last - self.position + 1 end

local function need(self, count, what)
  if self.last - self.position + 1 < count then
    self:stop((what or "it") .. " is cut short: " .. count .. " bytes wanted, " .. self:left() .. " left")
  end
end

function Reader:u8(what)
  need(self, 1, what)
  local a = byte(self.data, self.position)
  self.position = self.position + 1
  return a
end

function Reader:u16(what)
  need(self, 2, what)
  local a, b = byte(self.data, self.position, self.position + 1)
  self.position = self.position + 2
  return a * 256 + b
end

function Reader:u24(what)
  need(self, 3, what)
  local a, b, c = byte(self.data, self.position, self.position + 2)
  self.position = self.position + 3
  return (a * 256 + b) * 256 + c
end

function Reader:u32(what)
  need(self, 4, what)
  local a, b, c, d = byte(self.data, self.position, self.position + 3)
  self.position = self.position + 4
  return ((a * 256 + b) * 256 + c) * 256 + d
end

--- `count` bytes as a string.
function Reader:bytes(count, what)
  need(self, count, what)
  local from = self.position
  self.position = from + count
  return sub(self.data, from, from + count - 1)
end

function Reader:rest() return self:bytes(self:left()) end

local lengths = { Reader.u8, Reader.u16, Reader.u24 }

--- A vector with its length in 1, 2 or 3 bytes: a reader over its inside.
function Reader:vector(width, what)
  local size = lengths[width](self, what)
  need(self, size, what)
  local from = self.position
  self.position = from + size
  return make(self.data, from, from + size - 1)
end

--- The inside of a vector as a string.
function Reader:opaque(width, what)
  return self:vector(width, what):rest()
end

--- Items until the end: at most `cap` are kept, the rest are read and counted.
-- Returns the list and how many were left out (nil: none).
function Reader:list(cap, item, ...)
  local result, count = {}, 0
  while self:left() > 0 do
    local before = self.position
    local value = item(self, ...)
    if self.position == before then self:stop("an empty item") end
    count = count + 1
    if count <= cap then result[count] = value end
  end
  return result, count > cap and count - cap or nil
end

--- Nothing may be left.
function Reader:done(what)
  if self:left() > 0 then
    self:stop(self:left() .. " bytes too many" .. (what and " after " .. what or ""))
  end
end

--- Calls f(...), which reads. True, or nil, what is wrong, and the offset of the byte (from 0).
function Reader.run(f, ...)
  local ok, problem = pcall(f, ...)
  if ok then return true end
  if type(problem) == "table" and problem.malformed then return nil, problem.malformed, problem.offset end
  error(problem, 0)
end

--- Bytes as lower-case hexadecimal digits.
function Reader.hex(bytes)
  return (bytes:gsub(".", function(c) return ("%02x"):format(byte(c)) end))
end

return Reader

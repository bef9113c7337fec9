-- A connection without a network: it hands out bytes that were written before, and keeps what is sent.
-- It reads as connection:read(what, limit) does.
--
--   local fake = fakes.connection("HTTP/1.1 200 OK\r\n...", "closed")
--   fakes.serve({ replies, ... })      answers connection.open(), one reply for each connection

local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"

local M = {}

local Fake = {}
Fake.__index = Fake

local function ended(self)
  if self.at_end == "timeout" then return errors.fail(errors.new { step = "data", code = "timeout" }) end
  return errors.fail(errors.new { step = "data", code = self.at_end, host = self.host, port = self.port })
end

local function take(self, n)
  local data = self.bytes:sub(1, n)
  self.bytes = self.bytes:sub(n + 1)
  return data
end

local function too_long()
  return errors.fail(errors.new { step = "data", code = "too_long" })
end

-- The head that the bytes begin with, and what it says of the body; as the core's read("answer") does.
local function read_answer(self, limit, fields, body)
  local head, message, err = self:read("head", limit)
  if not head then return nil, message, err end
  local found, kind, length, keep, more = core.head(head, fields)
  local here = found and kind == "length" and length <= (body or 0) and length <= #self.bytes
    and not found.headers["content-encoding"]
  return found, kind, length, keep, more, here and take(self, length) or nil
end

-- Bytes come in portions where the fake was told so, and "some" gives one portion.
function Fake:read(what, limit, fields, body)
  if what == "answer" then return read_answer(self, limit, fields, body) end
  self.reads = self.reads + 1
  local bytes = self.bytes
  if type(what) == "number" then
    if limit and what > limit then return too_long() end
    if #bytes >= what then return take(self, what) end
    return ended(self)
  elseif what == "some" then
    if bytes == "" then return ended(self) end
    return take(self, math.min(limit or #bytes, self.portion or #bytes, #bytes))
  elseif what == "L" then
    local stop = bytes:find("\n", 1, true)
    if stop and limit and stop - 2 > limit or not stop and limit and #bytes > limit + 1 then return too_long() end
    if stop then return take(self, stop) end
    return ended(self)
  elseif what == "head" then
    local position, stop = 1, nil
    while true do
      local line_end = bytes:find("\n", position, true)
      if not line_end then break end
      local line = bytes:sub(position, line_end)
      if line == "\n" or line == "\r\n" then stop = line_end break end
      position = line_end + 1
    end
    if limit and (stop or #bytes) > limit then return too_long() end
    if stop then return take(self, stop) end
    return ended(self)
  end
  error("the fake does not read " .. tostring(what))
end

function Fake:pour(file, most)
  local data, message, err = self:read("some", most)
  if not data then return nil, message, err, 0 end
  file:write(data)
  return #data
end

function Fake:send(data, i, j)
  if self.send_fails then
    local _, message, err = errors.fail(errors.new { step = "data", code = self.send_fails })
    return nil, message, 0, err
  end
  local part = data:sub(i or 1, j or -1)
  self.sent[#self.sent + 1] = part
  if self.on_send then self:on_send(part) end
  return (i or 1) + #part - 1
end

function Fake:ask(data, limit, fields, body)
  if not self:quiet() then return errors.fail(errors.new { step = "data", code = "closed" }) end
  local sent, message, _, err = self:send(data)
  if not sent then return nil, message, err end
  return self:read("answer", limit, fields, body)
end

--- Like send; a reply that has come before (answered = true) is heard first.
function Fake:offer(data, i, j)
  if self.bytes ~= "" then return nil, "answered", (i or 1) - 1 end
  return self:send(data, i, math.min(j or #data, #data))
end

function Fake:buffered() return #self.bytes end
function Fake:written() return table.concat(self.sent) end
function Fake:setdeadline(deadline) self.deadline = deadline return true end
function Fake:settimeout(limit) self.limit = limit return true end
function Fake:quiet() return not self.closed and self.bytes == "" and self.at_end == "timeout" end
function Fake:close() self.closed = true return true end

--- A connection that has these bytes to give. at_end: what comes behind them: "closed" (default),
-- "truncated", "reset" or "timeout" (it stays open).
function M.connection(bytes, at_end)
  return setmetatable({ bytes = bytes or "", at_end = at_end or "closed", sent = {}, reads = 0,
    host = "a.test", port = 80 }, Fake)
end

--- Makes connection.open() answer from a script: each reply opens one connection, and is given after a
-- request was sent on it. A reply is the bytes, or { bytes for each request, ..., at_end = , send_fails = }.
-- Returns the list of the connections opened: { host, port, options, connection }, and a function that
-- puts the real module back.
function M.serve(replies)
  local real = require "tlsconnect.connection"
  local open = real.open
  local opened = {}
  function real.open(host, port, options)
    local reply = replies[#opened + 1]
    if reply == nil then error("one connection more than the spec has answers for", 0) end
    if type(reply) == "string" then reply = { reply } end
    local fake = M.connection("", reply.at_end or "timeout")
    fake.host, fake.port, fake.send_fails = host, port, reply.send_fails
    local turn = 0
    local seen = ""
    -- A request is over where its head and its body are.
    local function answer(_, data)
      seen = seen .. data
      while true do
        local head, rest = seen:match("^(.-\r\n\r\n)(.*)$")
        if not head then return end
        local length = head:lower():match("\r\ncontent%-length: (%d+)\r\n")
        if head:lower():find("\r\ntransfer-encoding: chunked\r\n", 1, true) then
          local stop = rest:match("0\r\n\r\n()")
          if not stop then return end
          length = stop - 1
        end
        length = tonumber(length or 0)
        if #rest < length then return end
        seen = rest:sub(length + 1)
        turn = turn + 1
        fake.bytes = fake.bytes .. (reply[turn] or "")
      end
    end
    if fake.send_fails or reply.early then
      fake.bytes = reply[1]
      turn = 1
    end
    fake.on_send = answer
    opened[#opened + 1] = { host = host, port = port, options = options, connection = fake }
    if reply.refuse then return errors.fail(errors.new { step = "tcp", code = reply.refuse, host = host }) end
    return fake
  end
  return opened, function() real.open = open end
end

return M

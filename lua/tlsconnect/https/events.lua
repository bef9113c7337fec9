--- Server-sent events (the HTML standard, 9.2), read as they come:
--
--     local page = assert(https.get(url, { stream = true, headers = { Accept = "text/event-stream" } }))
--     for event in page:events() do print(event.event, event.data, event.id) end

local errors = require "tlsconnect.error"

local byte, find, match, sub = string.byte, string.find, string.match, string.sub

local M = {}

local LIMIT = 1024 * 1024 -- bytes of one line, and of one event's data

local Reader = {}
Reader.__index = Reader

function Reader:too_long(what)
  self.response:close()
  return errors.fail(errors.new { step = "http", code = "too_long",
    message = ("%s sent %s of more than %d bytes"):format(self.response.url, what, LIMIT) })
end

-- The next line, ended by CR LF, LF or CR. nil at the end (a line without an end is dropped, as the standard
-- has it); nil, message, err.
function Reader:line()
  local pieces, size = {}, 0
  while true do
    local text, position = self.text, self.position
    if self.after_cr and position <= #text then
      -- The LF of a CR LF that was cut between two pieces.
      if byte(text, position) == 10 then position = position + 1 end
      self.after_cr = false
    end
    local stop = find(text, "[\r\n]", position)
    local part = sub(text, position, (stop or 0) - 1)
    size = size + #part
    if size > LIMIT then return self:too_long "a line" end
    pieces[#pieces + 1] = part
    if stop then
      self.after_cr = byte(text, stop) == 13
      self.position = stop + 1
      return table.concat(pieces)
    end
    local data, message, err = self.response:read()
    if not data then return nil, message, err end
    self.text, self.position = data, 1
  end
end

-- The next event; nil at the end; nil, message, err.
function Reader:event()
  local data, count, size = {}, 0, 0
  local kind, retry
  while true do
    local line, message, err = self:line()
    if not line then return nil, message, err end
    if self.first then
      self.first = false
      line = line:gsub("^\239\187\191", "")
    end
    if line == "" then
      if count > 0 then
        return { event = kind or "message", data = table.concat(data, "\n"), id = self.id, retry = retry }
      end
      kind = nil
    else
      local name, value = match(line, "^([^:]*):? ?(.*)$")
      if name == "data" then
        size = size + #value + 1
        if size > LIMIT then return self:too_long "an event" end
        count = count + 1
        data[count] = value
      elseif name == "event" then
        kind = value ~= "" and value or nil
      elseif name == "id" and not find(value, "\0", 1, true) then
        self.id = value
      elseif name == "retry" and find(value, "^%d+$") and #value < 10 then
        retry = tonumber(value) / 1000
      end
    end
  end
end

local readers = setmetatable({}, { __mode = "k" })

local function reader_of(response)
  local reader = readers[response]
  if not reader then
    reader = setmetatable({ text = "", position = 1, first = true }, Reader)
    readers[response] = reader
  end
  reader.response = response
  return reader
end

--- The next event: { event = "message" or its name, data =, id = the last id seen, retry = seconds }; nil at
-- the end of the stream; nil, message, err.
function M.event(response)
  local reader = reader_of(response)
  local event, message, err = reader:event()
  reader.response = nil
  return event, message, err
end

--- An iterator over the events. Raises the error (a table) when the stream does not come to its end. On Lua
-- 5.1 an iterator cannot yield: where `wait` yields, call event().
function M.events(response)
  return function()
    local event, _, err = M.event(response)
    if err then error(err, 0) end
    return event
  end
end

return M

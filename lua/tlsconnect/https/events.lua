--- Server-sent events (the HTML standard, 9.2), read as they come:
--
--     local page = assert(https.get(url, { stream = true, headers = { Accept = "text/event-stream" } }))
--     for event in page:events() do print(event.event, event.data, event.id) end
--
-- With the option `reconnect` the events go on when the stream ends or breaks off, as a browser's EventSource
-- does: it asks again after the time that the server said (`retry`, else 3 seconds), twice as long after each try
-- that failed, and says which event was the last one (Last-Event-ID). That ends with an answer of 204, one that
-- is no event stream, an error that trying again cannot mend, `close()`, or the option `timeout`, which then runs
-- over all of it.
--
--     local page = assert(https.get(url, { reconnect = true }))

local errors = require "tlsconnect.error"
local http1 = require "tlsconnect.https.http1"
local waiter = require "tlsconnect.wait"
local with = require "tlsconnect.https.with"

local byte, find, lower, match, sub = string.byte, string.find, string.lower, string.match, string.sub
local now = waiter.now

local M = {}

local LIMIT = 1024 * 1024 -- bytes of one line, and of one event's data
-- Seconds before it is asked again: where the server said nothing, at least, whatever it said, and at most after
-- tries that failed.
local PAUSE, SHORTEST, LONGEST = 3, 0.1, 60
local LONGEST_ID = 4096 -- bytes; a longer one is not sent back

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
      -- Only what was whole counts: an id whose event was cut off is not said back.
      self.last_id = self.id
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
        self.pause = retry
      end
    end
  end
end

-- Begins to read another stream. Browsers keep the id that was last, too.
local function begin(reader)
  reader.text, reader.position, reader.first, reader.after_cr = "", 1, true, false
  reader.id = reader.last_id
end

local readers = setmetatable({}, { __mode = "k" })

local function reader_of(response)
  local reader = readers[response]
  if not reader then
    reader = setmetatable({}, Reader)
    begin(reader)
    readers[response] = reader
  end
  reader.response = response
  return reader
end

-- Going on ----------------------------------------------------------------------------------------

-- nil, message, err for an answer that is no event stream; else true.
local function fit(response)
  local kind = lower(match(response.headers["content-type"] or "", "^[^; \t]*"))
  if response.status == 200 and kind == "text/event-stream" then return true end
  local at = require("tlsconnect.https.url").parse(response.url)
  return http1.refuse(at, "no_events", "answered %d with %s in place of an event stream", response.status,
    kind == "" and "no type" or http1.shown(kind))
end

-- The headers of a request for events.
local function headers_of(given, id)
  local headers, named = {}, {}
  for name, value in pairs(given.headers or {}) do
    headers[name] = value
    named[lower(type(name) == "number" and value[1] or name)] = true
  end
  if not named.accept then headers.Accept = "text/event-stream" end
  if not named["cache-control"] then headers["Cache-Control"] = "no-store" end
  -- It is the server's own word: one that could not stand in a header is left out.
  if id and id ~= "" and #id <= LONGEST_ID and not find(id, "[%z\1-\31\127]") and not find(id, "^ ")
    and not find(id, " $") then
    headers["Last-Event-ID"] = id
  end
  return headers
end

--- A request with the option `reconnect`.
-- @param ask function(options) that sends the request
-- @param given the options
-- @return the answer, whatever it is, its body to be read as it comes; or nil, message, err
function M.open(ask, given)
  for _, name in ipairs { "body", "form", "json", "multipart", "sink", "save" } do
    if given[name] ~= nil then error("bad option '" .. name .. "' (it cannot be beside 'reconnect')", 0) end
  end
  local plan = { given = given, deadline = given.timeout and now() + given.timeout }
  function plan.ask(id)
    return ask(with(given, { reconnect = false, stream = true, headers = headers_of(given, id),
      timeout = plan.deadline and math.max(0, plan.deadline - now()) }))
  end
  local response, message, err = plan.ask()
  if not response then return nil, message, err end
  response.reconnects = plan
  return response
end

-- Asks again until there is a stream. True; nil when there will be no more; or nil, message, err.
local function again(response, reader, plan)
  local pause, given = math.max(SHORTEST, reader.pause or PAUSE), plan.given
  while true do
    if plan.deadline and now() + pause >= plan.deadline then
      return errors.waited("timeout", { step = "http", doing = "waiting to ask for events again" })
    end
    local ok, why = waiter.sleep(pause, waiter.of(given, given.context and given.context.given))
    if not ok then return errors.waited(why, { step = "http" }) end
    if response.closed then return nil end
    local fresh, message, err = plan.ask(reader.last_id)
    if fresh then
      local good
      good, message, err = fit(fresh)
      if good then
        response.source = fresh.source
        begin(reader)
        return true
      end
      fresh:close()
      if fresh.status == 204 then return nil end
      return nil, message, err
    end
    if not err.retryable then return nil, message, err end
    pause = math.max(pause, math.min(pause * 2, LONGEST))
  end
end

-- The next event of a stream that goes on.
local function lasting_event(response, reader)
  local plan = response.reconnects
  if not plan.begun then
    local ok, message, err = fit(response)
    if response.status == 204 then return nil end
    if not ok then
      response:close()
      return nil, message, err
    end
    plan.begun = true
  end
  while true do
    local event, message, err = reader:event()
    if event then return event end
    if response.closed or err and not err.retryable then return nil, message, err end
    local ok
    ok, message, err = again(response, reader, plan)
    if not ok then return nil, message, err end
  end
end

--- The next event: { event = "message" or its name, data =, id = the last id seen, retry = seconds }; nil at
-- the end of the stream; nil, message, err.
function M.event(response)
  local reader = reader_of(response)
  local event, message, err
  if response.reconnects then
    event, message, err = lasting_event(response, reader)
  else
    event, message, err = reader:event()
  end
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

-- The recorder: when each of the ten steps began and ended, and, when a trace is wanted, what was seen.
--
-- Every connection has one. With no trace wanted it is one small table of numbers, and nothing is
-- allocated after it is made. Whoever does a step tells it: start, then finish or fail. Fields that
-- cost something to collect are only collected when `recorder.tracing` is true.

local core = require "tlsconnect.core"
local steps = require "tlsconnect.steps"

local index, count = steps.index, #steps

local trace = {}
local Recorder = {}
Recorder.__index = Recorder

--- A recorder.
-- option: nil or false: the steps' times only; true: keep everything for steps(); a function: keep it,
-- and call function(event) as things happen, always from Lua and never from inside a GnuTLS call.
-- An event is a table {event = "start" | "finish" | "fail" | "message" | another name, step = one of the
-- ten, time = seconds since the first step began, ...}; "finish" carries the step's fields, "fail" its error,
-- "message" a parsed handshake message. What the function raises goes to the caller of the connection.
function trace.recorder(option)
  if option ~= nil and type(option) ~= "boolean" and type(option) ~= "function" then
    error("option 'trace': boolean or function expected, got " .. type(option), 2)
  end
  -- Slots 1 to 10: when the step began; 11 to 20: when it ended; false: it did not.
  local recorder = setmetatable({
    false, false, false, false, false, false, false, false, false, false,
    false, false, false, false, false, false, false, false, false, false,
  }, Recorder)
  if option then
    recorder.tracing = true
    recorder.fields = {}
    if option ~= true then recorder.deliver = option end
  end
  return recorder
end

local function slot(step)
  return index[step] or error("no such step: " .. tostring(step), 3)
end

--- The time that all times of the trace count from: when the first step began (nil: none has).
function Recorder:origin()
  local first
  for i = 1, count do
    local started = self[i]
    if started and (not first or started < first) then first = started end
  end
  return first
end

local function send(recorder, event, step, time, fields)
  local copy = {}
  if fields then
    for name, value in pairs(fields) do copy[name] = value end
  end
  copy.event, copy.step, copy.time = event, step, time - (recorder:origin() or time)
  recorder.deliver(copy)
end

--- The step began, at `time` (default: now). A step that begins again, after a retry, keeps its first time.
function Recorder:start(step, time)
  local i = slot(step)
  if self[i] then return end
  time = time or core.now()
  self[i] = time
  if self.deliver then send(self, "start", step, time) end
end

--- Adds fields to a step; only when tracing.
function Recorder:add(step, fields)
  if not (self.tracing and fields) then return end
  slot(step)
  local kept = self.fields[step]
  if not kept then
    kept = {}
    self.fields[step] = kept
  end
  for name, value in pairs(fields) do kept[name] = value end
end

--- The step ended well, at `time`. `fields` are kept when tracing; do not build them otherwise.
function Recorder:finish(step, fields, time)
  local i = slot(step)
  time = time or core.now()
  if not self[i] then self[i] = time end
  self[i + count] = time
  if not self.tracing then return end
  self:add(step, fields)
  if self.deliver then send(self, "finish", step, time, fields) end
end

--- The step failed with `err` (an error of tlsconnect/error.lua, or any table with code and message).
-- An error of no step ("setup", "proxy", "http") is kept, and no row of steps() shows it.
function Recorder:fail(step, err, time)
  local i = index[step]
  time = time or core.now()
  if i then
    if not self[i] then self[i] = time end
    self[i + count] = time
  end
  self.failed = step
  if not self.tracing then return end
  -- A copy: the error holds the trace, and a circle would make neither printable.
  local seen = {}
  if type(err) == "table" then
    for name, value in pairs(err) do
      local kind = type(value)
      if kind == "string" or kind == "number" or kind == "boolean" then seen[name] = value end
    end
  else
    seen.message = tostring(err)
  end
  self.failure = seen
  if self.deliver then send(self, "fail", step, time, { error = seen }) end
end

--- Something happened within a step: an attempt, an answer. Delivered to the trace function only; what
-- the finished step shows of it comes with finish().
function Recorder:event(event, step, fields, time)
  slot(step)
  if self.deliver then send(self, event, step, time or core.now(), fields) end
end

--- How long each step that has ended took: {dns = seconds, tcp = seconds, ...}.
function Recorder:timings()
  local result = {}
  for i = 1, count do
    local started, ended = self[i], self[i + count]
    if started and ended then result[steps[i]] = ended - started end
  end
  return result
end

--- The ten steps in order: {step =, started =, elapsed =, ok =, ...fields}. Times are seconds, `started`
-- from the first step's beginning. A step that was never reached has neither started nor ok; one still
-- going on has no elapsed and no ok; a failed one has ok = false and error = {code =, message =, ...}.
function Recorder:steps()
  local first = self:origin()
  local result = {}
  for i = 1, count do
    local name = steps[i]
    local row = {}
    local fields = self.fields and self.fields[name]
    if fields then
      for field, value in pairs(fields) do row[field] = value end
    end
    row.step = name
    local started, ended = self[i], self[i + count]
    if started then
      row.started = started - first
      if ended then
        row.elapsed = ended - started
        row.ok = self.failed ~= name
      end
    end
    if self.failed == name then
      row.ok = false
      row.error = self.failure
    end
    result[i] = row
  end
  return result
end

-- Times of steps 3 to 8 from the session's marks. In TLS 1.3 the certificate's signature comes after the
-- verdict, in 1.2 before the client's answer; either way key_exchange begins where the chain was there
-- and judged, so that the steps follow each other and their times add up.
local function times(recorder, marks, role)
  local function span(step, from, to)
    if not from then return end
    local i = index[step]
    if not recorder[i] then recorder[i] = from end
    if to and not recorder[i + count] and recorder.failed ~= step then
      recorder[i + count] = to < recorder[i] and recorder[i] or to
    end
  end
  local hello = marks.server_hello and (marks.certificate or marks.server_hello)
  span("client_hello", marks.start, marks.client_hello)
  span("server_hello", marks.client_hello, hello)
  span("verify", marks.verify, marks.verified)
  local judged = hello
  if role ~= "server" and marks.verified and hello and marks.verified > hello then judged = marks.verified end
  local keys = marks.key_exchange
  if judged and marks.done and (not keys or keys < judged) then keys = judged end
  span("key_exchange", judged, keys)
  local first_finished = marks.finished_in
  if marks.finished_out and (not first_finished or marks.finished_out < first_finished) then
    first_finished = marks.finished_out
  end
  if first_finished and keys and first_finished < keys then first_finished = keys end
  span("session_keys", keys, first_finished or marks.done)
  span("finished", first_finished, marks.done)
end

--- Takes the session's handshake messages as they come, when tracing: call it after each
-- session:handshake(), and before the trace is shown. role: "client" (default) or "server".
function Recorder:messages(session, role)
  if not self.tracing then return end
  require("tlsconnect.trace.handshake").collect(self, session, role or "client")
end

--- Fills steps 3 to 8 from the session's marks and, when tracing, from its messages. Call it once, when
-- the handshake has ended, well or badly. role: "client" (default) or "server".
function Recorder:handshake(session, role)
  times(self, session:marks(), role)
  if not self.tracing then return end
  require("tlsconnect.trace.handshake").fill(self, session, role or "client")
end

--- Fills steps 9 and 10 from session:counters(), when tracing.
function Recorder:traffic(counters)
  if not self.tracing then return end
  self:add("data", {
    bytes_in = counters.bytes_in, bytes_out = counters.bytes_out,
    records_in = counters.records_in, records_out = counters.records_out,
    tickets = counters.tickets, key_updates = counters.key_updates,
  })
  self:add("close", { sent = counters.close_sent, received = counters.close_received })
end

return trace

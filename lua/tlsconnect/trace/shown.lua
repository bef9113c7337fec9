-- The trace that a program asked for: methods of trace.lua's recorder that are called where one is wanted, and the ten
-- steps as they are shown.
local core = require "tlsconnect.core"
local steps = require "tlsconnect.steps"
local trace = require "tlsconnect.trace"

local Recorder, slot, times = trace.Recorder, trace.slot, trace.times

local index, count, now = steps.index, #steps, core.now

--- The time that all times of the trace count from: when the first step began (nil: none has).
function Recorder:origin()
  local first
  for i = 1, count do
    local started = self[i]
    if started and (not first or started < first) then first = started end
  end
  return first
end

-- Tells the trace function.
function Recorder:_tell(event, step, time, fields)
  if event == "start" or event == "finish" or event == "fail" then
    local key = event == "start" and step or step .. " ended"
    if self.announced[key] then return end
    self.announced[key] = true
  end
  local copy = {}
  if fields then
    for name, value in pairs(fields) do copy[name] = value end
  end
  copy.event, copy.step, copy.time = event, step, time - (self:origin() or time)
  copy.host, copy.port = self.host, self.port
  self.deliver(copy)
end

-- What is kept of a failure.
function Recorder:_keep_failure(step, err, time)
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
  if index[step] and type(err) == "table" and err.attempts then self:add(step, { attempts = err.attempts }) end
  if self.deliver then self:_tell("fail", step, time, { error = seen }) end
end

--- Something happened within a step: an attempt, an answer. Delivered to the trace function only; what
-- the finished step shows of it comes with finish().
function Recorder:event(event, step, fields, time)
  slot(step)
  if self.deliver then self:_tell(event, step, time or now(), fields) end
end

-- Reads the messages that came. Left until somebody asks, so that it takes no time of the handshake's.
local function digest(recorder)
  if recorder.raw[1] or recorder.told then
    require("tlsconnect.trace.handshake").digest(recorder)
  end
end

-- Tells the trace function of steps whose times came from the session's marks.
local function announce(recorder, from, to)
  for i = from, to do
    local step = steps[i]
    if recorder[i] then recorder:_tell("start", step, recorder[i]) end
    if recorder[i + count] and recorder.failed ~= step then
      recorder:_tell("finish", step, recorder[i + count], recorder.fields[step])
    end
  end
end

--- Takes the session's handshake messages as they come, when tracing: call it after each
-- session:handshake(). role: "client" (default) or "server".
function Recorder:messages(session, role)
  if not self.tracing then return end
  if role then self.role = role end
  local raw, new = self.raw, session:messages()
  for i = 1, #new do raw[#raw + 1] = new[i] end
  if self.deliver then
    times(self, session:marks(), true)
    digest(self)
    announce(self, index.client_hello, index.server_hello)
  end
end

-- What is kept of a handshake that has ended.
function Recorder:_keep_handshake(session, role)
  self.told = { info = session:info() or {}, resumed = session:resumed() and true or false }
  self:messages(session, role)
  if self.deliver then announce(self, index.client_hello, index.finished) end
end

--- The ten steps in order: {step =, started =, elapsed =, ok =, ...fields}. Times are seconds, `started`
-- from the first step's beginning. A step that was never reached has neither started nor ok; one still
-- going on has no elapsed and no ok; a failed one has ok = false and error = {code =, message =, ...}.
function Recorder:steps()
  if self.tracing then digest(self) end
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

--- Fills steps 9 and 10 from what the session has counted, when tracing: how much went each way, when it
-- began and how it ended. Call it before the trace is shown, and once more, with `ended`, before the
-- session is freed.
function Recorder:traffic(session, ended)
  if not self.tracing then return end
  local time = now()
  self:messages(session)
  local marks, counters = session:marks(), session:counters()
  if not marks.done then return end
  local from = self:origin() or marks.start
  local function at(mark) return mark and mark - from end
  local first = marks.data_in
  self:add("data", {
    bytes_in = counters.bytes_in, bytes_out = counters.bytes_out,
    records_in = counters.records_in, records_out = counters.records_out,
    tickets = counters.tickets, key_updates = counters.key_updates,
    first_sent = at(marks.data_out), first_received = at(first),
    -- From the first byte asked to the first byte answered.
    first_byte = first and marks.data_out and first > marks.data_out and first - marks.data_out or nil,
  })
  local out, into = marks.close_out, marks.close_in
  self:add("close", { sent = out ~= nil, received = into ~= nil })
  local own, other = "client", "server"
  if self.role == "server" then own, other = other, own end
  local begun = out or into
  if begun then
    if out and into and into < out then begun = into end
    self:add("close", { first = begun == out and own or other })
  elseif not ended then
    return
  end
  self:finish("data", nil, begun or time)
  self:start("close", begun or time)
  if ended then self:finish("close", nil, time) end
end

return Recorder

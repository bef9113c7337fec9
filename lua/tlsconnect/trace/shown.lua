-- The ten steps as they are shown: methods of trace.lua's recorder.
local core = require "tlsconnect.core"
local steps = require "tlsconnect.steps"
local trace = require "tlsconnect.trace"

local Recorder, digest = trace.Recorder, trace.digest

local count = #steps

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
  local now = core.now()
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
  self:finish("data", nil, begun or now)
  self:start("close", begun or now)
  if ended then self:finish("close", nil, now) end
end

return Recorder

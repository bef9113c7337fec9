-- The recorder: when each of the ten steps began and ended, and, when a trace is wanted, what was seen.
--
-- Every connection has one until its handshake is complete. With no trace wanted it is one small table of
-- numbers, nothing is allocated after it is made, and then the session keeps the times. Whoever does a step
-- tells it: start, then finish or fail. Fields that cost something to collect are only collected when
-- `recorder.tracing` is true.

local core = require "tlsconnect.core"
local late = require "tlsconnect.late"
local steps = require "tlsconnect.steps"

local index, count, now = steps.index, #steps, core.now

local trace = {}
local Recorder = {}
Recorder.__index = Recorder

--- A recorder.
-- option: nil or false: the steps' times only; true: keep everything for steps(); a function: keep it,
-- and call function(event) as things happen, always from Lua and never from inside a GnuTLS call.
-- An event is a table {event = "start" | "finish" | "fail" | "message" | another name, step = one of the
-- ten, time = seconds since the first step began, host =, port = (the peer's, as far as they are known: one
-- function may be told of many connections), ...}; "finish" carries the step's fields, "fail" its error,
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
    recorder.raw = {} -- handshake messages that nobody has read yet
    late.load "tlsconnect.trace.shown" -- an error wants its steps even where no descriptor is left to read it with
    if option ~= true then
      recorder.deliver = option
      recorder.announced = {}
      require "tlsconnect.trace.handshake" -- now, and not in the middle of what is timed
    end
  end
  return recorder
end

local function slot(step)
  return index[step] or error("no such step: " .. tostring(step), 3)
end

--- Whom the connection is with, and which side this is: "client" (default) or "server". When tracing.
function Recorder:peer(host, port, role)
  if not self.tracing then return end
  self.host, self.port, self.role = host, port, role or self.role
end

--- The step began, at `time` (default: now). A step that begins again, after a retry, keeps its first time.
function Recorder:start(step, time)
  local i = index[step] or slot(step)
  if self[i] then return end
  time = time or now()
  self[i] = time
  if self.deliver then self:_tell("start", step, time) end
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
  local i = index[step] or slot(step)
  time = time or now()
  if not self[i] then self[i] = time end
  self[i + count] = time
  if not self.tracing then return end
  self:add(step, fields)
  if self.deliver then self:_tell("finish", step, time, fields) end
end

--- The step failed with `err` (an error of tlsconnect/error.lua, or any table with code and message).
-- An error of no step ("setup", "proxy", "http") is kept, and no row of steps() shows it.
function Recorder:fail(step, err, time)
  local i = index[step]
  time = time or now()
  if i then
    if not self[i] then self[i] = time end
    self[i + count] = time
  end
  self.failed = step
  if self.tracing then self:_keep_failure(step, err, time) end
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

-- Times of steps 3 to 8 from the session's marks, so that they follow each other and add up. GnuTLS
-- checks the peer's signature before it asks for the verdict on its chain, so key_exchange comes
-- before verify in time; what is left until the first Finished makes the keys. Where nobody was
-- asked (a resumed session, an RSA key exchange's second half) it is all key_exchange.
-- When the server had shown itself, when the first Finished came or left, and when key_exchange and session_keys
-- began and ended.
local function turns(marks)
  local hello, first, last = marks.certificate or marks.server_hello, marks.finished_in, marks.finished_out
  if last and (not first or last < first) then first = last end
  local keys, asked = marks.key_exchange, marks.verify
  if asked and keys and keys <= asked then return hello, first, hello, asked, marks.verified, first end
  if hello and (keys or first) then return hello, first, marks.verified or hello, first or keys, first, first end
  return hello, first
end

-- hellos: only steps 3 and 4, while the handshake goes on.
local function times(recorder, marks, hellos)
  local function span(step, from, to)
    if not from then return end
    local i = index[step]
    if not recorder[i] then recorder[i] = from end
    if to and not recorder[i + count] and recorder.failed ~= step then
      recorder[i + count] = to < recorder[i] and recorder[i] or to
    end
  end
  local hello, first, keys, keys_ended, made, made_ended = turns(marks)
  span("dns", marks.dns, marks.dns_ended)
  span("tcp", marks.tcp, marks.tcp_ended)
  span("client_hello", marks.start, marks.client_hello)
  span("server_hello", marks.client_hello, hello)
  if hellos then return end
  span("verify", marks.judging or marks.verify, marks.judged or marks.verified)
  span("key_exchange", keys, keys_ended)
  span("session_keys", made, made_ended)
  span("finished", first, marks.done)
  span("data", marks.done)
end

--- Fills steps 3 to 8 from the session's marks and, when tracing, from its messages. Call it once, when
-- the handshake has ended, well or badly. role: "client" (default) or "server".
function Recorder:handshake(session, role)
  times(self, session:marks())
  if self.tracing then self:_keep_handshake(session, role) end
end

local dns, tcp, verify = index.dns, index.tcp, index.verify

--- Leaves the times of a handshake that is complete to its session, where no trace is wanted: trace.of() has them.
function Recorder:leave(session)
  session:tell(self[dns], self[dns + count], self[tcp], self[tcp + count], self[verify], self[verify + count])
end

--- The recorder that was left to a session.
function trace.of(session)
  local recorder = trace.recorder()
  times(recorder, session:marks())
  return recorder
end

local function lasted(from, to)
  if not (from and to) then return nil end
  return to > from and to - from or 0
end

--- What timings() of that recorder gives, without making it.
function trace.timings(session)
  local marks = session:marks()
  local hello, first, keys, keys_ended, made, made_ended = turns(marks)
  return {
    dns = lasted(marks.dns, marks.dns_ended), tcp = lasted(marks.tcp, marks.tcp_ended),
    client_hello = lasted(marks.start, marks.client_hello), server_hello = lasted(marks.client_hello, hello),
    verify = lasted(marks.judging or marks.verify, marks.judged or marks.verified),
    key_exchange = lasted(keys, keys_ended), session_keys = lasted(made, made_ended),
    finished = lasted(first, marks.done),
    first_byte = nil, data = nil, total = nil, -- room for what a request adds
  }
end

--- Fills step 5 from the four answers (trust:judge's verification, or what an error has of it), when
-- tracing.
function Recorder:verification(answers)
  if not (self.tracing and answers) then return end
  self:add("verify", require("tlsconnect.trace.verification").fields(answers))
end

-- What trace/shown.lua stands on.
trace.Recorder, trace.slot, trace.times = Recorder, slot, times

-- What is done only where a trace is wanted.
late.methods(Recorder, "tlsconnect.trace.shown",
  "origin event messages steps traffic _tell _keep_failure _keep_handshake")

return trace

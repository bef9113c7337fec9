-- What the reports share: a trace as the tool shows it.
--
-- A report is {host =, port =, steps = the ten rows, err = nil or the error, verified = true, false or nil,
-- elapsed = seconds, now = seconds since the epoch, shown = function that makes a peer's text harmless}.

local steps = require "tlsconnect.steps"
local summary = require "tlsconnect.cli.summary"
local text = require "tlsconnect.cli.text"

local report = {}

--- The end of the last step, in seconds from the start.
function report.elapsed(rows)
  local last = 0
  for _, row in ipairs(rows) do
    if row.started then last = math.max(last, row.started + (row.elapsed or 0)) end
  end
  return last
end

--- The end of the handshake: of the last step before `data` that has one.
function report.handshake_elapsed(rows)
  local last = 0
  for i = 1, steps.index.finished do
    local row = rows[i]
    if row.started then last = math.max(last, row.started + (row.elapsed or 0)) end
  end
  return last
end

--- The parts of the head line: "TLS 1.3", "verified", "41.8 ms", "2 round trips after TCP".
function report.head(given)
  local rows, parts = given.steps, {}
  local server, finished = rows[steps.index.server_hello], rows[steps.index.finished]
  if server.version then parts[#parts + 1] = summary.version(server.version) end
  if given.err then
    parts[#parts + 1] = "FAILED in " .. (given.err.step or "an unknown step")
  elseif given.verified then
    parts[#parts + 1] = "verified"
  else
    parts[#parts + 1] = "NOT VERIFIED"
  end
  parts[#parts + 1] = text.duration(report.elapsed(rows), true)
  if finished.round_trips then
    parts[#parts + 1] = text.count(finished.round_trips, "round trip") .. " after TCP"
  end
  return parts
end

--- Every handshake message in the order of time: {type =, from =, time =, size =}.
function report.messages(rows)
  local result = {}
  for _, row in ipairs(rows) do
    for _, message in ipairs(row.messages or {}) do
      result[#result + 1] = { type = message.type, from = message.from, time = message.time,
                              size = message.size, malformed = message.malformed, order = #result }
    end
  end
  table.sort(result, function(a, b)
    if a.time ~= b.time then return a.time < b.time end
    return a.order < b.order
  end)
  return result
end

return report

--- Trying again (the option `retries`): what failed for reasons that pass, and answers that say so, for requests
-- that may be made twice. Between two tries it waits, longer each time and never for quite the same time, or as
-- long as the server says (Retry-After, RFC 9110 10.2.3).
--
--     https.get(url, { retries = 3 })
--     https.get(url, { retries = { count = 5, pause = 0.2, longest = 60, statuses = { 500, 503 } } })

local encoding = require "tlsconnect.encoding"
local waiter = require "tlsconnect.wait"
local with = require "tlsconnect.https.with"

local now = waiter.now

local M = {}

local PAUSE, LONGEST = 0.5, 30 -- seconds

-- Answers that say "not now" (RFC 6585 4, RFC 9110 15.6).
local passing = { [429] = true, [502] = true, [503] = true, [504] = true }

local idempotent = { GET = true, HEAD = true, PUT = true, DELETE = true, OPTIONS = true, TRACE = true }

-- Seconds from now that Retry-After says: a number, or a date (RFC 9110 5.6.7).
local function retry_after(response)
  local said = response.headers["retry-after"]
  if not said then return nil end
  local seconds = said:match("^%d+$")
  if seconds then return #seconds <= 9 and tonumber(seconds) or math.huge end
  local time = require("tlsconnect.https.set_cookie").date(said)
  return time and math.max(0, time - os.time())
end

-- Half of the pause for sure, the other half by chance, twice as much each time.
local function backoff(try, pause, longest)
  local chance = tonumber(encoding.random(3), 16) / 0xFFFFFF
  return math.min(longest, pause * 2 ^ (try - 1)) * (0.5 + chance / 2)
end

local function set_of(list)
  local set = {}
  for _, status in ipairs(list) do set[status] = true end
  return set
end

-- Whether the request can be made again: its method allows it, its body is still there, and nothing of the
-- answer was handed out.
local function repeatable(method, given, poured)
  if poured.started or not idempotent[method] then return false end
  local kind = type(given.body)
  return kind == "nil" or kind == "string" or kind == "userdata"
end

-- How long to wait before another try, or nil when there is none.
local function pause_before(try, plan, response, err)
  if try > plan.count then return nil end
  if not response then return err.retryable and backoff(try, plan.pause, plan.longest) or nil end
  if not plan.statuses[response.status] then return nil end
  local said = retry_after(response)
  if not said then return backoff(try, plan.pause, plan.longest) end
  -- Asking sooner than one is told to would be rude, waiting for an hour of no use.
  return said <= plan.longest and said or nil
end

--- Makes a request, and makes it again as the option `retries` says. The time of the option `timeout` runs over
-- all of it.
-- @param ask function(options) that makes it once
-- @param method its method, in capitals
-- @param given the options
-- @return an answer, with `tries`; or nil, message, err
function M.perform(ask, method, given)
  local wanted = given.retries
  local plan = type(wanted) == "number" and { count = wanted } or with(wanted, {})
  plan.count = plan.count or 3
  plan.pause, plan.longest = plan.pause or PAUSE, plan.longest or LONGEST
  plan.statuses = plan.statuses and set_of(plan.statuses) or passing
  local deadline = given.timeout and now() + given.timeout
  local poured = {}
  local sink, file, began = given.sink, nil, nil
  if type(sink) == "userdata" then
    file, began = sink, sink:seek() or -1
  elseif sink then
    sink = function(data, answer)
      poured.started = true
      return given.sink(data, answer)
    end
  end
  local start = type(given.body) == "userdata" and given.body:seek() or nil
  local try = 1
  while true do
    local left = deadline and math.max(0, deadline - now())
    local response, message, err = ask(with(given, { retries = false, timeout = left, sink = sink }))
    if file then poured.started = file:seek() ~= began end
    local pause = repeatable(method, given, poured) and pause_before(try, plan, response, err)
    if not pause or deadline and now() + pause >= deadline then
      if response then response.tries = try end
      return response, message, err
    end
    if response then response:close() end
    local ok, why = waiter.sleep(pause, waiter.of(given, given.context and given.context.given))
    if not ok then return nil, why, err end
    if start then given.body:seek("set", start) end
    try = try + 1
  end
end

return M

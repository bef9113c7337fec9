-- The race of RFC 8305 (Happy Eyeballs) over a host's addresses: dial.lua's other half.
-- It begins while the look-ups of step 1 are still going on, so both are watched here, through one
-- poller: `wait` sees a single descriptor.
local core = require "tlsconnect.core"
local dial = require "tlsconnect.dial"
local errors = require "tlsconnect.error"
local resolve = require "tlsconnect.resolve"
local waiter = require "tlsconnect.wait"

local all_failed, allowed, earliest, fail, lose = dial.all_failed, dial.allowed, dial.earliest, dial.fail, dial.lose
local set_out, stopped, tell, won, EARLY = dial.set_out, dial.stopped, dial.tell, dial.won, dial.EARLY
local now = core.now

local M = {}

-- RFC 8305 sections 3 and 5: seconds that a first IPv4 answer waits for the IPv6 one, and that an attempt
-- is alone before the next one joins it.
local RESOLUTION_DELAY = 0.05
local ATTEMPT_DELAY = 0.25
-- A name may have any number of addresses; so many are dialled.
local ATTEMPTS = 16

local other = { inet = "inet6", inet6 = "inet" }

-- Attempts -----------------------------------------------------------------------------------------

local function win(race, attempt)
  race.poller:remove(attempt.socket:getfd())
  race.dialled[attempt.socket:getfd()] = nil
  won(race, attempt)
end

local function start(race, address, family)
  local attempt = { address = address, port = race.port, family = family, started = now() - race.started }
  race.attempts[#race.attempts + 1] = attempt
  race.last_family = family
  tell(race, "attempt", attempt)
  if not allowed(race, attempt) then
    fail(race, attempt, { code = "address_refused", message = "not allowed" })
    return
  end
  race.dials = race.dials + 1
  local _
  local ok, message, cause = set_out(race, attempt)
  if ok then return win(race, attempt) end
  if message == "want_write" then
    ok, _, cause = race.poller:add(attempt.socket:getfd(), "w")
  end
  if not ok then return fail(race, attempt, cause) end
  race.dialled[attempt.socket:getfd()] = attempt
  race.running = race.running + 1
  race.next_start = now() + ATTEMPT_DELAY
end

-- Looks at every attempt that the poller says has news.
local function look(race)
  local news = {}
  local count, message, cause = race.poller:ready(news)
  if not count then return nil, message, cause end
  for i = 1, 2 * count, 2 do
    local attempt = race.dialled[news[i]]
    if attempt then
      local ok
      ok, message, cause = attempt.socket:finish_connect()
      if ok then
        win(race, attempt)
        return true
      elseif message ~= "want_write" then
        fail(race, attempt, cause)
      end
    end
  end
  return true
end

-- Addresses ----------------------------------------------------------------------------------------

-- Queues the addresses that have come, each once.
local function queue_answers(race)
  for _, family in ipairs(race.query.families) do
    local answer = race.query.answers[family]
    if answer and not race.queued[family] then
      race.queued[family] = true
      race.answered[family] = now()
      if race.recorder and race.recorder.deliver then
        race.recorder:event("answer", "dns",
          { family = family, addresses = answer.addresses or {}, error = answer.error })
      end
      for _, address in ipairs(answer.addresses or {}) do
        if not race.seen[address] then
          race.seen[address] = true
          table.insert(race.queue[family], address)
        end
      end
    end
  end
end

-- The next address, the families in turns (RFC 8305 section 4); nil when there is none.
local function next_address(race)
  if race.dials >= ATTEMPTS then return nil end
  local family = other[race.last_family or "inet"]
  for _ = 1, 2 do
    local list = race.queue[family]
    local position = race.position[family]
    if list[position] then
      race.position[family] = position + 1
      return list[position], family
    end
    family = other[family]
  end
  return nil
end

local function has_address(race)
  if race.dials >= ATTEMPTS then return false end
  return race.queue.inet[race.position.inet] ~= nil or race.queue.inet6[race.position.inet6] ~= nil
end

-- When the next attempt may start; nil when nothing is there to start.
local function next_time(race)
  if not has_address(race) then return nil end
  if not race.last_family then
    -- RFC 8305 section 3: IPv4 alone waits a little for IPv6.
    local pending = race.query.lookups.inet6 and race.query.answers.inet6 == nil
    if pending then return race.answered.inet + RESOLUTION_DELAY end
    return now()
  end
  return race.next_start or now()
end

-- The race -----------------------------------------------------------------------------------------

-- Starts whatever may start by now. Returns when to look again.
local function start_due(race)
  while not race.winner do
    local at = next_time(race)
    if not at or at > now() then return at end
    if not race.last_family then
      local terms = race.terms
      race.tcp_deadline = terms.tcp_limit and now() + terms.tcp_limit or terms.tcp_deadline
      if race.recorder then
        race.recorder:finish("dns", race.recorder.tracing and race.query:fields())
        race.recorder:start("tcp")
      end
    end
    start(race, next_address(race))
  end
end

-- Waits for news until `wake`. True, or nil, message when it is over.
local function pause(race, wake)
  local deadline = earliest(race.terms.deadline, race.tcp_deadline)
  if not race.last_family then deadline = earliest(deadline, race.terms.dns_deadline) end
  wake = earliest(wake, deadline)
  local ok, message = race.wait(race.poller:getfd(), "r", wake)
  if ok then return true end
  if message ~= "timeout" then return nil, message end
  local time = now()
  if not wake or time < wake - EARLY then return nil, "timeout" end
  if deadline and time >= deadline then
    -- Time for the look-up is over; the family that has answered goes on alone.
    local only_dns = not race.last_family and has_address(race) and
      not (race.terms.deadline and time >= race.terms.deadline)
    if not only_dns then return nil, "timeout" end
    race.query:close("timeout")
  end
  return true
end

--- Runs until an attempt has won. True, or nil, message, err.
function M.run(race)
  local query = race.query
  query:watch(race.poller)
  while true do
    local answered = query:collect(race.poller)
    queue_answers(race)
    if answered and not query:found() then return query:failure() end
    local wake = start_due(race)
    if race.winner then return true end
    if race.running == 0 and not has_address(race) and answered then return all_failed(race) end
    local ok, message = pause(race, wake)
    if not ok then return stopped(race, message) end
    local _, cause
    ok, _, cause = look(race)
    if not ok then
      return errors.fail(errors.from(cause, { step = "tcp", host = race.host, port = race.port }))
    end
    if race.winner then return true end
  end
end

--- Frees all but the winner.
function M.close(race)
  for _, attempt in ipairs(race.attempts) do
    if attempt.socket and attempt ~= race.winner then lose(race, attempt, "closed as loser") end
  end
  race.query:close()
  race.poller:close()
end

--- A race that has begun with its look-ups, or nil, message, err.
function M.enter(host, port, family, terms)
  local query, message, err = resolve.query(host, { family = family, port = port, lookup = terms.lookup })
  if not query then return nil, message, err end
  local poller, _, cause = core.poller()
  if not poller then
    query:close()
    return query:_fail(cause)
  end
  return {
    host = query.host, port = port, terms = terms, recorder = terms.recorder, wait = terms.wait or waiter.wait,
    query = query, poller = poller, started = query.started,
    answered = {}, queued = {}, seen = {},
    queue = { inet = {}, inet6 = {} }, position = { inet = 1, inet6 = 1 },
    attempts = {}, dialled = {}, running = 0, dials = 0,
  }
end

return M

-- Step 2, tcp: one connected socket out of a host's addresses, by the race of dial/race.lua, or to the one
-- address that the host is.
--
-- A wait that raises, or whose coroutine is dropped, leaves the look-ups and sockets to the collector.
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local late = require "tlsconnect.late"
local waiter = require "tlsconnect.wait"

local now = core.now

local dial = {}

-- How far before its deadline a wait may say "timeout": some loops count in coarse ticks. Earlier
-- than that it means that the caller gives up.
local EARLY = 0.05

local none = {} -- dialled by nobody

--- The address that a host is already, its family ("inet" or "inet6"), and the host without brackets; nil for
-- a name.
function dial.literal(host)
  local inside = host:match("^%[(.*)%]$")
  local address, family, zone = core.literal(inside or host)
  if not address or inside and family == "inet" then return nil end
  if zone then address = address .. "%" .. zone end
  return address, family, inside or host
end

local function earliest(a, b)
  if a and b then return a < b and a or b end
  return a or b
end

-- Attempts -----------------------------------------------------------------------------------------

-- Tells the trace function of an attempt: "attempt" when it begins, "attempt_ended" with its result.
local function tell(race, event, attempt)
  local recorder = race.recorder
  if not (recorder and recorder.deliver) then return end
  recorder:event(event, "tcp", {
    address = attempt.address, family = attempt.family, result = attempt.result, code = attempt.code,
  })
end

-- Ends an attempt that has not won.
local function lose(race, attempt, result, cause)
  attempt.result = result
  attempt.elapsed = now() - race.started - attempt.started
  if cause then attempt.code, attempt.message, attempt.errno = cause.code, cause.message, cause.errno end
  local socket = attempt.socket
  attempt.socket = nil
  if socket then
    if race.dialled[socket:getfd()] == attempt then
      race.dialled[socket:getfd()] = nil
      race.running = race.running - 1
      race.poller:remove(socket:getfd())
    end
    socket:close()
  end
  tell(race, "attempt_ended", attempt)
end

-- RFC 8305 section 5: the next one need not wait when one has failed.
local function fail(race, attempt, cause)
  lose(race, attempt, cause.code, cause)
  race.next_start = nil
end

local function won(race, attempt)
  attempt.result, attempt.ok = "won", true
  attempt.elapsed = now() - race.started - attempt.started
  race.winner = attempt
  tell(race, "attempt_ended", attempt)
end

-- Whether the caller lets this very address be dialled.
local function allowed(race, attempt)
  local allow = race.terms.allow_address
  if allow == nil then return true end
  if allow == "public" then return core.classify(attempt.address) == "public" end
  return allow(attempt.address, attempt.family, race.host, race.port)
end

-- A socket on its way. True when it has arrived, nil, "want_write", or nil, message, cause.
local function set_out(race, attempt)
  local socket, message, cause = core.socket(attempt.family)
  if not socket then return nil, message, cause end
  attempt.socket = socket
  -- Nagle would hold the handshake's last flight back.
  local ok = true
  socket:set("nodelay", true)
  if race.terms.local_address then
    ok, message, cause = socket:bind(race.terms.local_address, 0)
  end
  if not ok then return nil, message, cause end
  return socket:connect(attempt.address, race.port)
end

-- How it ends --------------------------------------------------------------------------------------

-- A route that is missing altogether (no IPv6 here) tells nothing when another address was reached.
local no_route = { unreachable = true, unsupported = true, address_refused = true }

-- One code for all attempts: theirs when they agree, leaving out those that had no route.
local function common_code(attempts)
  local code, mixed
  for _, strict in ipairs { true, false } do
    for _, attempt in ipairs(attempts) do
      if attempt.code and not (strict and no_route[attempt.code]) then
        mixed = mixed or (code and code ~= attempt.code)
        code = attempt.code
      end
    end
    if code then break end
  end
  return mixed and "all_failed" or code
end

local verbs = {
  refused = "refused the connection", timeout = "did not answer in time", unreachable = "cannot be reached",
  address_refused = "has no address that is allowed",
}

-- " (address: what became of it; ...)"; nothing where the host was the address and all is said.
local function list_attempts(race)
  local attempts, list = race.attempts, {}
  local first = attempts[1]
  if #attempts == 1 and first.address == race.host and verbs[first.code] then return "" end
  for i, attempt in ipairs(attempts) do
    list[i] = attempt.address .. ": " .. (attempt.message or attempt.result or "given up")
    if i == 8 and #attempts > 9 then
      list[i + 1] = ("and %d more"):format(#attempts - i)
      break
    end
  end
  return " (" .. table.concat(list, "; ") .. ")"
end

-- What the caller may keep of an attempt: no socket.
local function report(race)
  for _, attempt in ipairs(race.attempts) do attempt.socket = nil end
  return race.attempts
end

local function all_failed(race)
  local attempts = report(race)
  local code = common_code(attempts)
  local err = { step = "tcp", code = code, host = race.host, port = race.port, attempts = attempts }
  for _, attempt in ipairs(attempts) do
    if attempt.code == code then err.errno = attempt.errno end
  end
  local verb = verbs[code] or "cannot be connected to"
  err.detail = errors.peer(race.host, race.port) .. " " .. verb .. list_attempts(race)
  -- errors.new keeps LuaSocket's word where the code has one
  err.message = err.detail
  return errors.fail(errors.new(err))
end

-- The time of the whole call, of the look-up, or of the race was over; or the wait gave up.
local function stopped(race, message)
  local step = race.last_family and "tcp" or "dns"
  for _, attempt in ipairs(race.attempts) do
    if attempt.socket then
      local cause = message == "timeout" and { code = "timeout", message = "no answer" } or nil
      lose(race, attempt, message == "timeout" and "timeout" or "given up", cause)
    end
  end
  if step == "dns" and message == "timeout" then return race.query:timed_out() end
  local context = { step = step, host = race.host, port = race.port }
  if step == "tcp" then
    context.attempts = report(race)
    if message == "timeout" then
      context.detail = errors.peer(race.host, race.port) .. " did not answer in time" ..
        list_attempts(race)
    end
  end
  return errors.waited(message, context)
end

-- To an address -----------------------------------------------------------------------------------

local function tcp_fields(race)
  local socket, winner = race.winner.socket, race.winner
  local local_address, local_port = socket:local_address()
  local index
  for i, attempt in ipairs(race.attempts) do
    if attempt == winner then index = i end
  end
  return {
    attempts = report(race), winner = index, address = winner.address, port = winner.port,
    family = winner.family, remote_address = winner.address, local_address = local_address,
    local_port = local_port,
  }
end

-- The host is an address: no race, and no poller to watch one with. True, or nil, message, err.
local function alone(race, address, family)
  local recorder, terms = race.recorder, race.terms
  if recorder then
    if recorder.deliver then recorder:event("answer", "dns", { family = family, addresses = { address } }) end
    recorder:finish("dns", recorder.tracing and late.load("tlsconnect.resolve").query(race.host, terms):fields())
    recorder:start("tcp")
  end
  local deadline = earliest(terms.deadline, terms.tcp_limit and now() + terms.tcp_limit or terms.tcp_deadline)
  local attempt = { address = address, port = race.port, family = family, started = now() - race.started,
    socket = nil }
  race.attempts[1] = attempt
  local told = not recorder or recorder.tracing
  if told then tell(race, "attempt", attempt) end
  if terms.allow_address ~= nil and not allowed(race, attempt) then
    fail(race, attempt, { code = "address_refused", message = "not allowed" })
    return all_failed(race)
  end
  local ok, message, cause = set_out(race, attempt)
  while not ok do
    if message ~= "want_write" then
      fail(race, attempt, cause)
      return all_failed(race)
    end
    ok, message = race.wait(attempt.socket:getfd(), "w", deadline)
    if not ok then
      local time = now()
      local coarse = message == "timeout" and deadline and time < deadline and time >= deadline - EARLY
      if not coarse then return stopped(race, message) end
    end
    ok, message, cause = attempt.socket:finish_connect()
  end
  race.winner = attempt
  if told then won(race, attempt) end
  return true
end

-- One family only, when the caller asks for it or the local address leaves no other.
local function only_family(host, port, terms)
  local here = terms.local_address
  if not here then return terms.family end
  local address, family = core.literal(here)
  if not address or terms.family and terms.family ~= family then
    return errors.fail(errors.new {
      step = "tcp", code = "address_not_available", host = host, port = port,
      message = ("local address '%s' is %s"):format(errors.escape(here),
        address and "of the other family" or "not an IP address"),
    })
  end
  return family
end

--- Connects to a host: look-up and race. The step "dns" ends where the first attempt begins.
-- host: a name, or an IP address with or without brackets; port: a number.
-- terms, each optional: deadline (of it all), dns_deadline, tcp_deadline (times on core.now's clock);
-- tcp_limit (seconds from the first attempt on, in tcp_deadline's place); family ("inet" or "inet6");
-- local_address (an IP address of this machine); allow_address ("public", or function(address, family,
-- host, port) that returns whether this address may be dialled); wait; recorder; lookup (in
-- core.lookup's place).
-- A connected socket with TCP_NODELAY set, and the tcp step's fields (unless a recorder does not keep them);
-- or nil, message, err, where err.attempts lists {address=, port=, started=, elapsed=, result=, code=, message=}
-- of each attempt.
function dial.tcp(host, port, terms)
  local recorder = terms.recorder
  if recorder then recorder:start("dns") end
  local family, message, err = only_family(host, port, terms)
  if err then
    if recorder then recorder:fail("dns", err) end
    return nil, message, err
  end
  local address, kind, shown = dial.literal(host)
  local race, ok
  if address and (family or kind) == kind then
    race = {
      host = shown, port = port, terms = terms, recorder = recorder, wait = terms.wait or waiter.wait,
      started = now(), attempts = {}, dialled = none, last_family = kind, winner = nil,
    }
    ok, message, err = alone(race, address, kind)
  else
    local many = late.load "tlsconnect.dial.race"
    race, message, err = many.enter(host, port, family, terms)
    if race then
      ok, message, err = many.run(race)
      many.close(race)
      if recorder and recorder.tracing then recorder:add("dns", race.query:fields()) end -- with what came late
    end
  end
  if not ok then
    if recorder then recorder:fail(race and race.last_family and "tcp" or "dns", err) end
    return nil, message, err
  end
  local socket = race.winner.socket
  local fields = (not recorder or recorder.tracing) and tcp_fields(race) or nil
  if recorder then recorder:finish("tcp", fields) end
  return socket, fields
end

-- What the race has in common with a single attempt.
dial.allowed, dial.earliest, dial.fail, dial.lose, dial.set_out, dial.tell, dial.won = allowed, earliest, fail, lose,
  set_out, tell, won
dial.all_failed, dial.stopped, dial.EARLY = all_failed, stopped, EARLY

--- Connects to a Unix socket: see dial/unix.lua.
function dial.unix(path, terms)
  return require("tlsconnect.dial.unix")(path, terms)
end

return dial

-- Step 1, dns: a host to its addresses. IPv4 and IPv6 are asked for at once and answer each in its own
-- time; an address and localhost need no look-up. The look-ups themselves are the core's (getaddrinfo on
-- threads).
local core = require "tlsconnect.core"
local dial = require "tlsconnect.dial"
local errors = require "tlsconnect.error"
local options = require "tlsconnect.options"
local waiter = require "tlsconnect.wait"

local now = core.now

local resolve = {}

-- RFC 6724 puts IPv6 first where both do.
local FAMILIES = { "inet6", "inet" }

-- RFC 6761 6.3: localhost and the names below it are this machine, whatever a name server would say.
local LOOPBACK = { inet6 = "::1", inet = "127.0.0.1" }

-- Whether this machine has the address; one without IPv6 does not have ::1.
local function is_here(family)
  local socket = core.socket(family)
  if not socket then return false end
  local here = socket:bind(LOOPBACK[family], 0) ~= nil
  socket:close()
  return here
end

-- A question under way -----------------------------------------------------------------------------

local Query = {}
Query.__index = Query

--- Begins to look a host up.
-- host: a name (ASCII or UTF-8), or an IP address with or without brackets, which is its own answer.
-- terms: family ("inet" or "inet6": the only one wanted), port (for errors), lookup (in core.lookup's
-- place). A query, or nil, message, err. query.answers[family] comes to be {addresses=, elapsed=,
-- error=}; query.families lists the families asked for.
function resolve.query(host, terms)
  local query = { host = host, port = terms.port, started = now(), lookups = {}, answers = {} }
  setmetatable(query, Query)
  local address, family, shown = dial.literal(host)
  if address then
    query.host = shown
    query.literal, query.ascii, query.families = true, address, { family }
    if terms.family and terms.family ~= family then
      return query:_fail { code = "no_address", family = terms.family }
    end
    query.answers[family] = { addresses = { address }, elapsed = 0 }
    return query
  end
  local _, cause
  query.ascii, _, cause = core.to_ascii(host)
  if not query.ascii then return query:_fail(cause) end
  query.families = terms.family and { terms.family } or FAMILIES
  query.family = terms.family
  if query.ascii == "localhost" or query.ascii:find("%.localhost$") then
    query:_loopback()
    return query
  end
  for _, each in ipairs(query.families) do
    local lookup
    lookup, _, cause = (terms.lookup or core.lookup)(query.ascii, each)
    query.lookups[each] = lookup
    if not lookup then query.answers[each] = { elapsed = 0, cause = cause, error = cause.code } end
  end
  return query
end

function Query:_loopback()
  self.loopback = true
  for _, family in ipairs(self.families) do
    if family == "inet" or self.family or is_here(family) then
      self.answers[family] = { addresses = { LOOPBACK[family] }, elapsed = 0 }
    else
      self.answers[family] = { elapsed = 0, cause = { code = "no_address" }, error = "no_address" }
    end
  end
end

function Query:_fail(cause)
  return errors.fail(errors.from(cause, { step = "dns", host = self.host, port = self.port }))
end

--- Has a poller watch for the answers.
function Query:watch(poller)
  for family, lookup in pairs(self.lookups) do
    local ok, _, cause = poller:add(lookup:getfd(), "r")
    if not ok then
      self.answers[family] = { elapsed = now() - self.started, cause = cause, error = cause.code }
      self.lookups[family] = nil
      lookup:close()
    end
  end
end

--- Takes what has been answered by now. Returns true when every family has been.
function Query:collect(poller)
  for _, family in ipairs(self.families) do
    local lookup = self.lookups[family]
    if lookup then
      local addresses, message, cause = lookup:result()
      if addresses and not addresses[1] then addresses, cause = nil, { code = "no_address" } end
      if addresses or message ~= "want_read" then
        self.lookups[family] = nil
        self.answers[family] = {
          addresses = addresses, elapsed = now() - self.started, cause = cause, error = cause and cause.code,
        }
        poller:remove(lookup:getfd())
        lookup:close()
      end
    end
  end
  return next(self.lookups) == nil
end

--- Whether any family has an address.
function Query:found()
  for _, answer in pairs(self.answers) do
    if answer.addresses then return true end
  end
  return false
end

--- Gives up what is not answered yet; `reason` is what the trace then says of it.
function Query:close(reason)
  for family, lookup in pairs(self.lookups) do
    lookup:close()
    self.answers[family] = { elapsed = now() - self.started, error = reason or "given up" }
  end
  self.lookups = {}
end

-- When no family has an address, the failure that says most about why.
local telling = { unknown_host = 1, no_address = 2, lookup_failed = 3 }

--- The error of a query that has ended without any address: nil, message, err.
function Query:failure()
  local worst
  for _, family in ipairs(self.families) do
    local cause = self.answers[family] and self.answers[family].cause
    if cause and (not worst or (telling[cause.code] or 4) > (telling[worst.code] or 4)) then worst = cause end
  end
  if not worst then return self:timed_out() end
  local err = {}
  for name, value in pairs(worst) do err[name] = value end
  err.family = self.family
  return self:_fail(err)
end

--- The error of a query that got no answer in time: nil, message, err.
function Query:timed_out()
  return errors.fail(errors.new {
    step = "dns", code = "timeout", host = self.host, port = self.port, doing = "looking up its addresses",
  })
end

--- What the trace shows of the step.
function Query:fields()
  local fields = {
    name = self.host, ascii = self.ascii, literal = self.literal or false, loopback = self.loopback,
    addresses = {}, families = {},
  }
  for i, family in ipairs(self.families) do
    local answer = self.answers[family] or { error = "no answer yet" }
    local row = {
      family = family, addresses = answer.addresses, elapsed = answer.elapsed, error = answer.error,
    }
    fields[family], fields.families[i] = row, row
    for _, address in ipairs(answer.addresses or {}) do fields.addresses[#fields.addresses + 1] = address end
  end
  return fields
end

-- All at once --------------------------------------------------------------------------------------

-- IPv6 and IPv4 in turns, each address once: the order in which they would be dialled.
local function interleave(query)
  local list, seen, index, left = {}, {}, 1, true
  while left do
    left = false
    for _, family in ipairs(query.families) do
      local address = (query.answers[family] and query.answers[family].addresses or {})[index]
      if address then
        left = true
        if not seen[address] then list[#list + 1] = address end
        seen[address] = true
      end
    end
    index = index + 1
  end
  return list
end

local function wait_for_answers(query, wait, deadline)
  local poller, _, cause = core.poller()
  if not poller then return query:_fail(cause) end
  query:watch(poller)
  while not query:collect(poller) do
    local ok, message = wait(poller:getfd(), "r", deadline)
    if not ok then
      query:collect(poller)
      query:close("timeout")
      poller:close()
      if message ~= "timeout" then
        return errors.waited(message, { step = "dns", host = query.host, port = query.port })
      end
      if query:found() then return true end
      return query:timed_out()
    end
  end
  poller:close()
  return true
end

--- The addresses of a host: a list of strings in the order in which they would be dialled, and the
-- details {name=, ascii=, literal=, loopback= (true: not looked up), inet={addresses=, elapsed=, error=}, inet6=...}.
-- terms: family; wait and deadline (as wait.lua has them); recorder; lookup (in core.lookup's place).
-- When time is over, the family that has answered is enough. Or nil, message, err (step "dns").
function resolve.addresses(host, terms)
  local recorder = terms.recorder
  if recorder then recorder:start("dns") end
  local query, message, err = resolve.query(host, terms)
  local ok = query
  if query and next(query.lookups) then
    ok, message, err = wait_for_answers(query, terms.wait or waiter.wait, terms.deadline)
    if ok and not query:found() then ok, message, err = query:failure() end
  end
  if not ok then
    if recorder then recorder:fail("dns", err) end
    return nil, message, err
  end
  local fields = query:fields()
  if recorder then recorder:finish("dns", fields) end
  return interleave(query), fields
end

--- tlsconnect.resolve(host, options): the same for a program. options: timeout (seconds for the whole
-- call), family ("inet" or "inet6"), wait.
function resolve.resolve(host, given)
  if type(host) ~= "string" then
    error("bad argument #1 to 'resolve' (a host expected, got " .. type(host) .. ")", 2)
  end
  given = options.check("resolve", given)
  return resolve.addresses(host, {
    family = given.family, wait = waiter.of(given),
    deadline = given.timeout and now() + given.timeout,
  })
end

return resolve

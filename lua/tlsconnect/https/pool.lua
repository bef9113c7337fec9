--- Idle connections, kept for the next request to the same place under the same terms. The key says
-- all that a connection stands for: origin, and every option that had a say in how it was made.

local describe = require "tlsconnect.describe"
local waiter = require "tlsconnect.wait"

local now = waiter.now

local Pool = {}
Pool.__index = Pool

local M = {}

-- The options of a connection that leave no trace in it: these alone are not part of the key.
-- The way there is given apart.
local passing = { timeout = true, timeouts = true, proxy = true }

--- The key of a connection to an origin, made with these options. route: the proxy on the way (proxy.of()),
-- or nil.
function M.key(origin, given, route)
  local key = route and origin .. "|by=" .. describe.value(route) or origin
  local more = next(given) and describe.options(given, passing)
  return more and key .. "|" .. more or key
end

--- A pool. limits: { idle = seconds an idle connection is kept, idle_per_host = so many of one key,
-- idle_total = so many in all }.
function M.new(limits)
  return setmetatable({ idle = {}, count = 0, sweep_at = 0, life = limits.idle, per_key = limits.idle_per_host,
    total = limits.idle_total }, Pool)
end

-- The idle connections of one key are a list, the one used last at its end; idle_until of each says until when it is
-- kept. An empty list stays until the next sweep.

-- Takes the i-th out of its list.
local function remove(self, list, i)
  self.count = self.count - 1
  return table.remove(list, i)
end

-- To close may take its time, and others use the pool meanwhile: nothing is closed in the middle of a loop
-- over it.
local function close_all(connections)
  for _, connection in ipairs(connections) do connection:close() end
end

-- Closes what has been idle for too long.
function Pool:sweep(time)
  self.sweep_at = time + self.life / 2
  local over = {}
  for key, list in pairs(self.idle) do
    for i = #list, 1, -1 do
      if list[i].idle_until <= time then over[#over + 1] = remove(self, list, i) end
    end
    if not list[1] then self.idle[key] = nil end
  end
  close_all(over)
end

-- Takes out the one whose time is over first.
local function oldest(self)
  local found
  for _, list in pairs(self.idle) do
    if list[1] and (not found or list[1].idle_until < found[1].idle_until) then found = list end
  end
  return found and remove(self, found, 1)
end

--- An idle connection of that key, the one used last; nil when there is none. One on which something has
-- come since (an answer that nobody asked for, its end) is closed instead.
-- @param time the present one, where it is known
-- @param unheard true: whether something has come is not looked at; connection:ask() will
function Pool:take(key, time, unheard)
  time = time or now()
  local list = self.idle[key]
  while list do
    local last = #list
    local connection = list[last]
    if not connection then return nil end
    list[last] = nil
    self.count = self.count - 1
    if connection.idle_until > time and (unheard or connection:quiet()) then return connection end
    connection:close()
  end
  return nil
end

--- Keeps a connection whose last answer was read to its end. seconds: how long the server said that it
-- would keep it, or nil. time: the present one, where it is known.
function Pool:give(key, connection, seconds, time)
  local life, list, count = self.life, self.idle[key], self.count
  time = time or now()
  if time >= self.sweep_at then
    self:sweep(time)
    list, count = self.idle[key], self.count
  end
  if seconds and seconds < life then life = seconds end
  if life <= 0 or self.total < 1 then return connection:close() end
  if not list then
    list = {}
    self.idle[key] = list
  end
  local last, surplus = #list, nil
  if last >= self.per_key then
    surplus = remove(self, list, 1)
    last, count = last - 1, count - 1
  elseif count >= self.total then
    surplus = oldest(self)
    last, count = #list, count - 1
  end
  connection.idle_until = time + life
  list[last + 1] = connection
  self.count = count + 1
  if surplus then surplus:close() end
end

--- Closes all that is idle.
function Pool:close()
  local idle, all = self.idle, {}
  self.idle, self.count = {}, 0
  for _, list in pairs(idle) do
    for _, connection in ipairs(list) do all[#all + 1] = connection end
  end
  close_all(all)
end

return M

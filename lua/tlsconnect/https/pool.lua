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
  return setmetatable({ limits = limits, idle = {}, count = 0, sweep_at = 0 }, Pool)
end

-- A list of idle connections of one key stands flat: connection, since when it is idle, until when it is kept;
-- the one used last at the end. An empty list stays until the next sweep.

-- Takes the connection that begins at `i` out of its list.
local function remove(self, list, i)
  local connection = table.remove(list, i)
  table.remove(list, i)
  table.remove(list, i)
  self.count = self.count - 1
  return connection
end

-- To close may take its time, and others use the pool meanwhile: nothing is closed in the middle of a loop
-- over it.
local function close_all(connections)
  for _, connection in ipairs(connections) do connection:close() end
end

-- Closes what has been idle for too long.
function Pool:sweep(time)
  self.sweep_at = time + self.limits.idle / 2
  local over = {}
  for key, list in pairs(self.idle) do
    for i = #list - 2, 1, -3 do
      if list[i + 2] <= time then over[#over + 1] = remove(self, list, i) end
    end
    if not list[1] then self.idle[key] = nil end
  end
  close_all(over)
end

-- Takes out the one that has been idle longest.
local function oldest(self)
  local found
  for _, list in pairs(self.idle) do
    if list[1] and (not found or list[2] < found[2]) then found = list end
  end
  return found and remove(self, found, 1)
end

--- An idle connection of that key, the one used last; nil when there is none. One on which something has
-- come since (an answer that nobody asked for, its end) is closed instead. time: the present one, where it is known.
function Pool:take(key, time)
  time = time or now()
  local list = self.idle[key]
  while list do
    local last = #list
    if last == 0 then return nil end
    local connection, till = list[last - 2], list[last]
    list[last], list[last - 1], list[last - 2] = nil, nil, nil
    self.count = self.count - 1
    if till > time and connection:quiet() then return connection end
    connection:close()
  end
  return nil
end

--- Keeps a connection whose last answer was read to its end. seconds: how long the server said that it
-- would keep it, or nil. time: the present one, where it is known.
function Pool:give(key, connection, seconds, time)
  local limits = self.limits
  time = time or now()
  if time >= self.sweep_at then self:sweep(time) end
  local life = limits.idle
  if seconds and seconds < life then life = seconds end
  if life <= 0 or limits.idle_total < 1 then return connection:close() end
  local list = self.idle[key]
  if not list then
    list = {}
    self.idle[key] = list
  end
  local surplus
  if #list >= 3 * limits.idle_per_host then
    surplus = remove(self, list, 1)
  elseif self.count >= limits.idle_total then
    surplus = oldest(self)
  end
  local last = #list
  list[last + 1], list[last + 2], list[last + 3] = connection, time, time + life
  self.count = self.count + 1
  if surplus then surplus:close() end
end

--- Closes all that is idle.
function Pool:close()
  local idle, all = self.idle, {}
  self.idle, self.count = {}, 0
  for _, list in pairs(idle) do
    for i = 1, #list, 3 do all[#all + 1] = list[i] end
  end
  close_all(all)
end

return M

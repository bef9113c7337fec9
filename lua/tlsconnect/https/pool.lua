--- Idle connections, kept for the next request to the same place under the same terms. The key says
-- all that a connection stands for: origin, and every option that had a say in how it was made.

local describe = require "tlsconnect.describe"
local options = require "tlsconnect.options"
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
  local more = next(given) and describe.options(given, options.of("connect"), passing)
  return more and key .. "|" .. more or key
end

--- A pool. limits: { idle = seconds an idle connection is kept, idle_per_host = so many of one key,
-- idle_total = so many in all }.
function M.new(limits)
  return setmetatable({ limits = limits, idle = {}, count = 0, sweep_at = 0 }, Pool)
end

local function remove(self, key, list, i)
  local entry = table.remove(list, i)
  self.count = self.count - 1
  if #list == 0 then self.idle[key] = nil end
  return entry.connection
end

-- Closes what has been idle for too long.
function Pool:sweep(time)
  for key, list in pairs(self.idle) do
    for i = #list, 1, -1 do
      if list[i].until_ <= time then remove(self, key, list, i):close() end
    end
  end
  self.sweep_at = time + self.limits.idle / 2
end

-- Makes room for one more.
local function drop_oldest(self)
  local oldest_key, oldest
  for key, list in pairs(self.idle) do
    if not oldest or list[1].since < oldest.since then oldest_key, oldest = key, list[1] end
  end
  if oldest_key then remove(self, oldest_key, self.idle[oldest_key], 1):close() end
end

--- An idle connection of that key, the one used last; nil when there is none. One on which something has
-- come since (an answer that nobody asked for, its end) is closed instead.
function Pool:take(key)
  local list = self.idle[key]
  while list and list[1] do
    local entry = list[#list]
    local connection = remove(self, key, list, #list)
    if entry.until_ > now() and connection:quiet() then return connection end
    connection:close()
  end
  return nil
end

--- Keeps a connection whose last answer was read to its end. seconds: how long the server said that it
-- would keep it, or nil.
function Pool:give(key, connection, seconds)
  local limits, time = self.limits, now()
  if time >= self.sweep_at then self:sweep(time) end
  local life = limits.idle
  if seconds and seconds < life then life = seconds end
  if life <= 0 or limits.idle_total < 1 then return connection:close() end
  local list = self.idle[key]
  if list and #list >= limits.idle_per_host then
    remove(self, key, list, 1):close()
    list = self.idle[key]
  elseif self.count >= limits.idle_total then
    drop_oldest(self)
    list = self.idle[key]
  end
  if not list then
    list = {}
    self.idle[key] = list
  end
  list[#list + 1] = { connection = connection, since = time, until_ = time + life }
  self.count = self.count + 1
end

--- Closes all that is idle.
function Pool:close()
  local idle = self.idle
  self.idle, self.count = {}, 0
  for _, list in pairs(idle) do
    for _, entry in ipairs(list) do entry.connection:close() end
  end
end

return M

-- Many connections in one thread: coroutines that wait through one poller. What `serve` runs on, and an
-- example of how little a loop needs to drive this library.

local core = require "tlsconnect.core"

local loop = {}

local Loop = {}
Loop.__index = Loop

-- Seconds that it sleeps at most, so that Ctrl-C is noticed while nothing happens.
local NAP = 0.5

function loop.new()
  return setmetatable({ poller = core.poller(), waiting = {}, ready = {}, count = 0 }, Loop)
end

--- Runs f(...) as a task, now, until it waits.
function Loop:spawn(f, ...)
  self.count = self.count + 1
  self:resume(coroutine.create(function(...)
    f(...)
    self.count = self.count - 1
  end), ...)
end

-- An error in a task is the program's: it goes to whoever runs the loop.
function Loop:resume(task, ...) -- luacheck: ignore 212
  local ok, problem = coroutine.resume(task, ...)
  if not ok then error(problem, 0) end
end

--- The `wait` of the tasks: see wait.lua.
function Loop:wait(fd, events, deadline)
  self.waiting[fd] = { task = coroutine.running(), deadline = deadline }
  self.poller:add(fd, events)
  local ok, message = coroutine.yield()
  return ok, message
end

--- Lets the other tasks go on for so many seconds.
function Loop:sleep(seconds)
  self.waiting[{}] = { task = coroutine.running(), deadline = core.now() + seconds }
  coroutine.yield()
end

local function wake(self, fd, ok, message)
  local entry = self.waiting[fd]
  if not entry then return end
  self.waiting[fd] = nil
  if type(fd) == "number" then self.poller:remove(fd) end
  self:resume(entry.task, ok, message)
end

--- Runs until no task is left.
function Loop:run()
  while self.count > 0 do
    local soonest = core.now() + NAP
    for _, entry in pairs(self.waiting) do
      if entry.deadline and entry.deadline < soonest then soonest = entry.deadline end
    end
    core.poll(self.poller:getfd(), "r", soonest)
    for _, fd in ipairs(self.poller:ready()) do wake(self, fd, true) end
    local now, late = core.now(), {}
    for fd, entry in pairs(self.waiting) do
      if entry.deadline and entry.deadline <= now then late[#late + 1] = fd end
    end
    for _, fd in ipairs(late) do wake(self, fd, nil, "timeout") end
  end
end

return loop

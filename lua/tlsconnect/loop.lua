-- A small event loop, for programs that have none: coroutines that wait through one poller (poller.c).
--
--   local loop = tlsconnect.loop()
--   tlsconnect.wait = loop.wait
--   for _, url in ipairs(urls) do
--     loop:spawn(function() print(url, tlsconnect.https.get(url)) end)
--   end
--   loop:run()
--
-- A wait costs no table and, where the same coroutine waits for the same socket again, no system call: the
-- poller keeps a socket's registration. Nobody's deadline is looked at before the first of them has come.
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local timers = require "tlsconnect.timers"
local waiter = require "tlsconnect.wait"

local loops = {}

local Loop = {}
Loop.__index = Loop

-- What a coroutine yields that waits here. What else one yields is between it and who resumes it.
local PARKED = {}

-- How far before its deadline an outer wait may say "timeout": some loops count in coarse ticks.
local EARLY = 0.05

local now, running, yield, resume = core.now, coroutine.running, coroutine.yield, coroutine.resume

-- A task is a coroutine that waits here, or has:
--   thread, spawned      the coroutine; whether this loop made it
--   fd, events, deadline what it waits for. fd is false while it does not wait, and -1 while it sleeps
--   next                 another task that waits for the same descriptor
--   why                  what ended its wait, where it is not ready
--   due, place           as a timer (timers.lua). It is due no later than its deadline, and mostly long before: one
--                        that waits again and again, for ten seconds each time, is moved once in ten seconds

local function task_of(self, thread)
  local task = self.tasks[thread]
  if not task then
    -- There is room for every task in `woken`: what the poller has told once is not lost for want of memory.
    local size = self.size + 1
    self.woken[size] = self.woken[size] or false
    task = { thread = thread, fd = false }
    self.tasks[thread], self.size = task, size
  end
  return task
end

-- Takes a task from among those that wait for its descriptor.
local function unlink(self, task)
  local fd, waiting = task.fd, self.waiting
  local one = waiting[fd]
  if one == task then
    waiting[fd] = task.next
  elseif one then
    while one.next ~= task do one = one.next end
    one.next = task.next
  end
  task.fd, task.next = false, nil
end

-- The `wait` of a loop.
local function wait_of(self)
  local poller, waiting, tasks = self.poller, self.waiting, self.tasks
  local once = poller.once
  return function(fd, events, deadline)
    local thread, main = running()
    if main or not thread then return core.poll(fd, events, deadline) end
    if self.gone then return nil, self.gone end
    local ok, message = once(poller, fd, events)
    if not ok then return nil, message end
    local task = tasks[thread] or task_of(self, thread)
    if deadline then
      local due = task.due
      if not due or due > deadline then timers.set(self.timers, task, deadline) end
    end
    if task.fd then unlink(self, task) end -- somebody else has resumed it in its last wait
    local other = waiting[fd]
    if other then task.next = other end
    task.fd, task.events, task.deadline = fd, events, deadline
    waiting[fd] = task
    return yield(PARKED)
  end
end

-- Forgets a task that has ended.
local function drop(self, task)
  if self.tasks[task.thread] ~= task then return end
  if task.spawned then self.count = self.count - 1 end
  self.tasks[task.thread], self.size = nil, self.size - 1
  if task.fd then unlink(self, task) end
  timers.remove(self.timers, task)
end

-- A coroutine came back, and does not wait here again.
local function left(self, task, ok, state)
  if ok and coroutine.status(task.thread) ~= "dead" then return end
  drop(self, task)
  if not ok then error(state, 0) end -- it is the program's, and goes to whoever runs the loop
end

-- A task whose wait is over goes on when all that is known by now has been noted: what one task closes, and the next
-- one opens under the same number, is not taken for what there is news of.
--
-- A call may lack the memory for its frame. So a task is taken out of its wait in one go, and whatever fails, run()
-- can be called again, and finds each task in `waiting` or in `woken`, or dead.

-- Ends the waits for a descriptor that is ready.
local function look(self, fd, ready)
  local waiting, woken = self.waiting, self.woken
  local task, before = waiting[fd], nil
  while task do
    local following, events = task.next, task.events
    if events == ready or events == "rw" or ready == "rw" then
      if before then before.next = following else waiting[fd] = following end
      local last = self.last + 1
      woken[last], self.last = task, last
      task.fd, task.next = false, nil
    else
      before = task
    end
    task = following
  end
end

-- Ends a wait for another reason.
local function give_up(self, task, why)
  unlink(self, task)
  local last = self.last + 1
  self.woken[last], self.last = task, last
  task.why = why
end

local function expire(self)
  local heap, time = self.timers, now()
  local task = heap[1]
  while task and task.due <= time do
    local deadline = task.fd and task.deadline
    if deadline and deadline > time then
      timers.set(heap, task, deadline)
    else
      if deadline then give_up(self, task, "timeout") end
      timers.remove(heap, task)
    end
    task = heap[1]
  end
end

-- Waits for the first news: self.news, as far as self.told.
local function pause(self)
  local first, outer, poller = self.timers[1], self.outer, self.poller
  local deadline = first and first.due
  if outer then
    local ok, why = outer(poller:getfd(), "r", deadline)
    if not ok and not (why == "timeout" and deadline and now() >= deadline - EARLY) then
      self.gone = why or "timeout"
      for _, task in pairs(self.tasks) do
        if task.fd then give_up(self, task, self.gone) end
      end
    end
    deadline = 0
  end
  local count, message = poller:ready(self.news, deadline or math.huge)
  if not count then error(message, 0) end
  self.told = 2 * count
end

-- Those whose waits are over go on.
local function go_on(self)
  local woken = self.woken
  for i = 1, self.last do
    local task = woken[i]
    if task then -- else it has gone on, before another one raised an error
      local ok, state
      if task.why then
        ok, state = resume(task.thread, nil, task.why)
        task.why = nil
      else
        ok, state = resume(task.thread, true)
      end
      woken[i] = false
      if state ~= PARKED then left(self, task, ok, state) end
    end
  end
  self.last = 0
end

--- Runs f(...) as a task, now, until it waits for the first time.
function Loop:spawn(f, ...)
  local task = task_of(self, coroutine.create(f))
  task.spawned = true
  self.count = self.count + 1
  local ok, state = resume(task.thread, ...)
  if state ~= PARKED then left(self, task, ok, state) end
end

--- Lets the other tasks go on for so many seconds. True; or nil, message.
function Loop:sleep(seconds)
  local thread, main = running()
  if main or not thread then return waiter.sleep(seconds, waiter.default) end
  if self.gone then return nil, self.gone end
  local task, deadline = task_of(self, thread), now() + seconds
  timers.set(self.timers, task, deadline)
  task.fd, task.deadline = -1, deadline
  local ok, why = yield(PARKED)
  if ok or why == "timeout" then return true end
  return nil, why
end

--- Runs until every task that was spawned has ended. An error in one of them is raised here; run() may be called
-- again after it. Not to be called in a task.
function Loop:run()
  for thread, task in pairs(self.tasks) do
    if coroutine.status(thread) == "dead" then drop(self, task) end
  end
  local news, waiting, woken = self.news, self.waiting, self.woken
  while true do
    for i = 1, self.told, 2 do
      local fd, ready = news[i], news[i + 1]
      local task = waiting[fd]
      if task and task.events == ready and not task.next then -- look() in short
        local last = self.last + 1
        woken[last], self.last = task, last
        task.fd, waiting[fd] = false, nil
      else
        look(self, fd, ready)
      end
    end
    self.told = 0
    if self.timers[1] then expire(self) end
    go_on(self)
    if self.count == 0 then return end
    pause(self)
  end
end

--- Frees its descriptor. Tasks that wait are left where they are.
function Loop:close()
  return self.poller:close()
end

Loop.__close = Loop.close

--- A loop. `wait` of it is a function for tlsconnect.wait, or for the option: called in a coroutine, it lets the
-- others go on; outside of one it blocks. `count`: how many spawned tasks have not ended.
-- outer: the wait function by which the loop itself waits, where it is one task of another loop; what makes that
-- one give up ends every wait in here. nil: it blocks the thread.
-- Or nil, message, err where no descriptor is left.
function loops.new(outer)
  local poller, _, cause = core.poller()
  if not poller then return errors.fail(errors.from(cause, { step = "setup" })) end
  local self = setmetatable({
    poller = poller, outer = outer, count = 0, size = 0, tasks = {}, timers = {},
    waiting = {}, -- tasks by descriptor
    news = {}, told = 0, -- what poller:ready() fills, and how much of it is news
    woken = {}, last = 0, -- tasks that go on next, and how many
    gone = false, -- why the outer wait gave up
  }, Loop)
  self.wait = wait_of(self)
  return self
end

return loops

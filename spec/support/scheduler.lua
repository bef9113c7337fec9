-- A small coroutine scheduler that stands on wait(fd, events, deadline) alone, as a program's own
-- event loop would:
--
--   scheduler.run(function(spawn, wait, sleep, join)
--     local task = spawn(function() return tlsconnect.connect(host, port, { wait = wait }) end)
--     local connection, message = join(task)
--   end)
--
-- run() returns what the function returns, once every task has ended. An error in a task ends the run
-- and is raised from it, as is a run in which every task waits for another.
local core = require "tlsconnect.core"

local M = {}

--- Takes a task off what it waits for.
local function forget(loop, task)
  loop.timed[task] = nil
  local fd = task.fd
  if not fd then return end
  local tasks = loop.waiting[fd]
  for i = #tasks, 1, -1 do
    if tasks[i] == task then table.remove(tasks, i) end
  end
  if not tasks[1] then loop.waiting[fd] = nil end
  task.fd = nil
end

local function ready(loop, task, ...)
  forget(loop, task)
  task.n, task.results = select("#", ...), { ... }
  loop.ready[#loop.ready + 1] = task
end

local function pack(...)
  return { n = select("#", ...), ... }
end

local unpack = table.unpack or unpack

local function resume(loop, task)
  local results = pack(coroutine.resume(task.coroutine, unpack(task.results, 1, task.n)))
  if not results[1] then
    local err = results[2]
    if type(err) == "string" then err = debug.traceback(task.coroutine, err) end
    error(err, 0)
  end
  if coroutine.status(task.coroutine) == "dead" then
    task.done, task.n, task.results = true, results.n - 1, { unpack(results, 2, results.n) }
    loop.tasks = loop.tasks - 1
    loop.of[task.coroutine] = nil
    for _, waiter in ipairs(task.waiters) do ready(loop, waiter, unpack(task.results, 1, task.n)) end
  end
end

local function turn(loop)
  local batch = loop.ready
  loop.ready = {}
  for _, task in ipairs(batch) do resume(loop, task) end
  if loop.ready[1] or loop.tasks == 0 then return end
  local deadline
  for _, time in pairs(loop.timed) do
    if not deadline or time < deadline then deadline = time end
  end
  if not deadline and not next(loop.waiting) then error("every task waits for another one", 0) end
  local news = {}
  for i = 1, 2 * loop.poller:ready(news, deadline or math.huge), 2 do
    for _, task in ipairs({ unpack(loop.waiting[news[i]] or {}) }) do ready(loop, task, true) end
  end
  local now = core.now()
  local late = {}
  for task, time in pairs(loop.timed) do
    if time <= now then late[#late + 1] = task end
  end
  for _, task in ipairs(late) do ready(loop, task, nil, "timeout") end
end

--- Runs a function and the tasks that it spawns. It is called with
--   spawn(f, ...) -> task        starts f in a task of its own
--   wait(fd, events, deadline)   as tlsconnect's wait
--   sleep(seconds)
--   join(task) -> its results    waits for its end
function M.run(main)
  local loop = { poller = assert(core.poller()), waiting = {}, timed = {}, ready = {}, tasks = 0, of = {} }

  local function spawn(f, ...)
    local task = { waiters = {}, n = select("#", ...), results = { ... } }
    task.coroutine = coroutine.create(f)
    loop.of[task.coroutine] = task
    loop.tasks = loop.tasks + 1
    loop.ready[#loop.ready + 1] = task
    return task
  end

  local function wait(fd, events, deadline)
    local task = assert(loop.of[coroutine.running()], "wait called outside the scheduler's tasks")
    assert(loop.poller:once(fd, events)) -- which also tells of a socket that another task has closed
    task.fd = fd
    loop.waiting[fd] = loop.waiting[fd] or {}
    table.insert(loop.waiting[fd], task)
    if deadline and deadline < math.huge then loop.timed[task] = deadline end
    return coroutine.yield()
  end

  local function sleep(seconds)
    local task = assert(loop.of[coroutine.running()], "sleep called outside the scheduler's tasks")
    loop.timed[task] = core.now() + seconds
    coroutine.yield()
  end

  local function join(task)
    if not task.done then
      local me = loop.of[coroutine.running()]
      table.insert(task.waiters, me)
      coroutine.yield()
    end
    return unpack(task.results, 1, task.n)
  end

  local first = spawn(main, spawn, wait, sleep, join)
  local ok, err = pcall(function()
    while loop.tasks > 0 do turn(loop) end
  end)
  loop.poller:close()
  if not ok then error(err, 0) end
  return unpack(first.results, 1, first.n)
end

return M

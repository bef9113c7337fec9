-- Run by alloc_fail: tasks that wait for what is there, and for time. Each of them ends, with an error or without.
return function()
  local core, loops = require "tlsconnect.core", require "tlsconnect.loop"
  local listener, here = assert(core.socket("inet")), assert(core.socket("inet"))
  assert(listener:bind("127.0.0.1", 0))
  assert(listener:listen())
  here:connect(listener:local_address())
  core.poll(here:getfd(), "w", core.now() + 30)
  local loop = assert(loops.new())
  local ended, failed = 0, nil
  local function task(wait)
    return function()
      wait()
      wait()
      ended = ended + 1
    end
  end
  local waits = {
    function() assert(loop.wait(here:getfd(), "w")) end,
    function() assert(loop.wait(here:getfd(), "rw", core.now() + 3600)) end,
    function() assert(loop.wait(listener:getfd(), "r", core.now() + 3600)) end,
    function() assert(loop.wait(loop.bell:getfd(), "r")) end,
    function() assert(loop:sleep(0.001)) end,
    function() assert(select(2, loop.wait(here:getfd(), "r", core.now())) == "timeout") end,
  }
  loop.bell = assert(core.poller())
  assert(loop.bell:add(here:getfd(), "w"))
  for _, wait in ipairs(waits) do
    local ok, problem = pcall(loop.spawn, loop, task(wait))
    if not ok then failed = problem end
  end
  local ok, problem
  for _ = 1, 20 do -- where one allocation fails, the tasks go on; where none succeeds any more, not
    ok, problem = pcall(loop.run, loop)
    if ok then break end
    failed = problem
  end
  assert(not ok or loop.count == 0 and next(loop.tasks) == nil and not loop.timers[1])
  assert(failed or ended == #waits)
  loop:close()
  if failed then error(failed, 0) end
end

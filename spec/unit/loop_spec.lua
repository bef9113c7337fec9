-- The event loop for programs that have none.
local core = require "tlsconnect.core"
local sockets = require "spec.support.sockets"
local tlsconnect = require "tlsconnect"

describe("a loop", function()
  local loop
  before_each(function() loop = assert(tlsconnect.loop()) end)
  after_each(function() loop:close() end)

  -- A pair of sockets; what is written to `there` can be read from `here`.
  local function pair()
    local here, there = sockets.pair()
    return { here = here, there = there, fd = here:getfd() }
  end

  it("lets every task go on when its own descriptor is ready", function()
    local said, pairs_of = {}, {}
    for i = 1, 300 do
      pairs_of[i] = pair()
      loop:spawn(function(name)
        assert(loop.wait(pairs_of[i].fd, "r", core.now() + 60))
        said[#said + 1] = name .. pairs_of[i].here:read(1)
      end, i)
    end
    assert.equal(300, loop.count)
    loop:spawn(function()
      for i = 1, 300 do
        pairs_of[i].there:write("x")
        if i % 100 == 0 then loop:sleep(0) end
      end
    end)
    loop:run()
    assert.equal(0, loop.count)
    table.sort(said)
    assert.equal(300, #said)
    assert.equal("100x", said[1])
    assert.equal(nil, next(loop.tasks))
    assert.equal(nil, next(loop.timers))
    assert.equal(nil, next(loop.waiting))
  end)

  it("has two tasks wait for one descriptor, to read and to write", function()
    local here, there = sockets.pair()
    local fd, order = here:getfd(), {}
    loop:spawn(function()
      assert.is_true(loop.wait(fd, "r"))
      order[#order + 1] = "read " .. here:read(1)
      assert.is_true(loop.wait(fd, "r"))
      order[#order + 1] = "read " .. here:read(1)
    end)
    loop:spawn(function()
      assert.is_true(loop.wait(fd, "w"))
      order[#order + 1] = "write"
      there:write("a")
      loop:sleep(0.01)
      assert.is_true(loop.wait(fd, "w"))
      order[#order + 1] = "write"
      there:write("b")
    end)
    loop:run()
    assert.same({ "write", "read a", "write", "read b" }, order)
  end)

  it("wakes every task that waits for the same, and those that wait for either", function()
    local here, there = sockets.pair()
    local fd, woken = here:getfd(), {}
    for i, events in ipairs { "r", "rw", "r", "w" } do
      loop:spawn(function()
        assert.is_true(loop.wait(fd, events))
        woken[i] = true
        if i == 4 then there:write("x") end
      end)
    end
    loop:run()
    assert.same({ true, true, true, true }, woken)
  end)

  it("ends a wait at its deadline, the earliest first, and only that one", function()
    local one = pair()
    local order = {}
    local start = core.now()
    for i, seconds in ipairs { 0.09, 0.03, 0.06 } do
      loop:spawn(function()
        local ok, why = loop.wait(one.fd, "r", start + seconds)
        assert.is_true(core.now() >= start + seconds)
        order[#order + 1] = ("%d %s %s"):format(i, tostring(ok), why)
      end)
    end
    loop:spawn(function()
      assert.same({ nil, "timeout" }, { loop.wait(one.fd, "r", start - 1) })
      assert.is_true(loop.wait(one.fd, "w", start - 1)) -- ready all the same
      assert.is_true(loop:sleep(0.15))
      one.there:write("x")
    end)
    loop:spawn(function()
      local ok = loop.wait(one.fd, "r", start + 3600)
      order[#order + 1] = tostring(ok)
    end)
    loop:run()
    assert.same({ "2 nil timeout", "3 nil timeout", "1 nil timeout", "true" }, order)
  end)

  it("goes by the deadline of the wait that is, not by an earlier one's", function()
    local one = pair()
    loop:spawn(function()
      one.there:write("a")
      assert.is_true(loop.wait(one.fd, "r", core.now() + 0.05))
      assert.equal("a", one.here:read(1))
      assert.is_true(loop.wait(one.fd, "r"))
      assert.equal("b", one.here:read(1))
      local start = core.now()
      assert.same({ nil, "timeout" }, { loop.wait(one.fd, "r", start + 0.1) })
      assert.is_true(core.now() - start >= 0.1)
    end)
    loop:spawn(function()
      loop:sleep(0.15)
      one.there:write("b")
    end)
    loop:run()
  end)

  it("tells the waits for a socket that is closed by another task", function()
    local one, other = pair(), pair()
    local answers = {}
    loop:spawn(function() answers[1] = loop.wait(one.fd, "r") end)
    loop:spawn(function() answers[2] = loop.wait(one.fd, "r", core.now() + 3600) end)
    loop:spawn(function()
      other.there:write("x")
      assert.is_true(loop.wait(other.fd, "r"))
      one.here:close()
    end)
    loop:run()
    assert.same({ true, true }, answers)
  end)

  it("does not take a number for what it was before it was closed", function()
    local one, other = pair(), pair()
    one.there:write("x")
    other.there:write("x")
    sockets.readable(one.here)
    sockets.readable(other.here)
    local again
    -- Both are ready at once; whoever goes on first closes the other's, and opens that number anew.
    local function first(mine, theirs)
      return function()
        assert.is_true(loop.wait(mine.fd, "r"))
        if again then return end
        theirs.here:close()
        repeat again = assert(core.socket("inet")) until again:getfd() >= theirs.fd
        local address, port = select(2, sockets.listener())
        again:connect(address, port)
        assert.equal(theirs.fd, again:getfd())
        assert.same({ nil, "timeout" }, { loop.wait(again:getfd(), "r", core.now() + 0.05) })
      end
    end
    loop:spawn(first(one, other))
    loop:spawn(first(other, one))
    loop:run()
    assert.truthy(again)
    again:close()
  end)

  it("raises a task's error where it is run, and goes on with the others", function()
    local one, done = pair(), 0
    one.there:write("x")
    for i = 1, 3 do
      loop:spawn(function()
        assert.is_true(loop.wait(one.fd, "r"))
        if i == 2 then error({ "mine" }) end
        done = done + 1
      end)
    end
    local ok, problem = pcall(loop.run, loop)
    assert.same({ false, { "mine" } }, { ok, problem })
    assert.equal(2 - done, loop.count)
    loop:run()
    assert.equal(2, done)
    assert.has_error(function() loop:spawn(function() error("at once", 0) end) end, "at once")
    assert.equal(0, loop.count)
    assert.equal(nil, next(loop.tasks))
  end)

  it("holds nothing of a task that has ended", function()
    local seen = setmetatable({}, { __mode = "k" })
    for _ = 1, 20 do
      local one = pair()
      one.there:write("x")
      loop:spawn(function()
        local large = { one }
        seen[large] = true
        assert.is_true(loop.wait(one.fd, "r", core.now() + 3600))
        loop:sleep(0)
        return large
      end)
    end
    loop:run()
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(seen))
    assert.is_nil(next(loop.timers))
  end)

  it("blocks outside of a task, and takes in coroutines that it has not made", function()
    local one = pair()
    assert.same({ nil, "timeout" }, { loop.wait(one.fd, "r", core.now() + 0.01) })
    assert.is_true(loop:sleep(0.01))
    local done
    local own = coroutine.create(function()
      local ok = loop.wait(one.fd, "r", core.now() + 60)
      coroutine.yield() -- to whoever resumes it
      done = ok and loop.wait(one.fd, "w")
    end)
    coroutine.resume(own)
    loop:spawn(function()
      one.there:write("x")
      while coroutine.status(own) == "suspended" and not loop.idle do
        loop:sleep(0.02)
        loop.idle = true
      end
      coroutine.resume(own)
      loop:sleep(0.02)
    end)
    loop:run()
    assert.is_true(done)
    assert.is_nil(next(loop.tasks))
  end)

  it("says what a descriptor has that cannot be watched", function()
    loop:spawn(function()
      local ok, message = loop.wait(100000, "r")
      assert.is_nil(ok)
      assert.is_string(message)
    end)
    loop:run()
    loop:close()
    loop:spawn(function()
      local ok, message = loop.wait(0, "r")
      assert.is_nil(ok)
      assert.equal("closed", message)
    end)
    assert.equal(0, loop.count)
  end)

  it("runs in a task of another one, until that gives up", function()
    local one = pair()
    local answers = {}
    local function outer(fd, events, deadline)
      local ok, why = loop.wait(fd, events, deadline)
      if answers.enough then return nil, "enough" end
      return ok, why
    end
    loop:spawn(function()
      local inner = assert(tlsconnect.loop(outer))
      inner:spawn(function()
        answers.late = select(2, inner.wait(one.fd, "r", core.now() + 0.02))
        answers.ready = inner.wait(one.fd, "r", core.now() + 60)
        answers.enough = true
        one.here:read(1)
        answers.ended = select(2, inner.wait(one.fd, "r", core.now() + 0.05))
        answers.after = select(2, inner.wait(one.fd, "w"))
        answers.slept = select(2, inner:sleep(1))
      end)
      inner:spawn(function() answers.sleeper = select(2, inner:sleep(3600)) end)
      inner:run()
      inner:close()
    end)
    loop:spawn(function()
      loop:sleep(0.1)
      one.there:write("x")
    end)
    loop:run()
    assert.same({ late = "timeout", ready = true, enough = true, ended = "enough", after = "enough",
      slept = "enough", sleeper = "enough" }, answers)
  end)

  it("makes no table and no system call to wait again", function()
    if not io.open("/proc/self/fdinfo/0") then return pending("needs /proc") end
    local one = pair()
    one.there:write("x")
    sockets.readable(one.here)
    local grown
    loop:spawn(function()
      local function times(n)
        for _ = 1, n do assert(loop.wait(one.fd, "r", core.now() + 3600)) end
      end
      times(10)
      collectgarbage()
      collectgarbage("stop")
      local before = collectgarbage("count")
      times(1000)
      grown = collectgarbage("count") - before
      collectgarbage("restart")
    end)
    loop:run()
    assert.is_true(grown * 1024 < 1000 * 16, ("%.1f KB"):format(grown))
    local set = io.open("/proc/self/fdinfo/" .. loop.poller:getfd()):read("*a")
    assert.truthy(set:find(("tfd:%%s+%d "):format(one.fd)), set) -- still watched, with nobody who waits
    one.here:close()
    set = io.open("/proc/self/fdinfo/" .. loop.poller:getfd()):read("*a")
    assert.falsy(set:find("tfd:", 1, true), set)
  end)
end)

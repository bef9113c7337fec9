-- Many descriptors watched through one.
local child = require "spec.support.child"
local core = require "tlsconnect.core"
local sockets = require "spec.support.sockets"

-- The descriptors that are ready, in a list of their own.
local function ready(poller)
  local list, fds = {}, {}
  for i = 1, assert(poller:ready(list)) do fds[i] = list[2 * i - 1] end
  return fds
end

local function fails(code, ok, message, cause)
  assert.is_nil(ok)
  assert.is_string(message)
  assert.equal(code, cause.code)
end

-- For what runs in a process of its own: pair(), two sockets that are connected.
local pair_of_sockets = [[
local core = require "tlsconnect.core"
local function pair()
  local listener = core.socket("inet")
  listener:bind("127.0.0.1", 0)
  listener:listen()
  local here = core.socket("inet")
  here:connect(listener:local_address())
  core.poll(here:getfd(), "w", core.now() + 30)
  return here, assert(listener:accept())
end
]]

describe("a poller", function()
  local poller
  before_each(function() poller = assert(core.poller()) end)
  after_each(function() poller:close() end)

  -- Whether its own descriptor is readable now.
  local function rings()
    return core.poll(poller:getfd(), "r", core.now()) == true
  end

  it("is readable when one of its descriptors is ready, and says which", function()
    local here, there = sockets.pair()
    local other = sockets.pair()
    assert.is_true(poller:add(here:getfd(), "r"))
    assert.is_true(poller:add(other:getfd(), "r"))
    assert.is_false(rings())
    assert.same({}, ready(poller))
    there:write("x")
    assert.is_true(core.poll(poller:getfd(), "r", core.now() + 30))
    assert.same({ here:getfd() }, ready(poller))
    assert.same({ here:getfd() }, ready(poller))
    assert.equal("x", here:read(1))
    assert.same({}, ready(poller))
    assert.is_false(rings())
  end)

  it("watches for what was asked last", function()
    local here, there = sockets.pair()
    assert.is_true(poller:add(here:getfd(), "w"))
    assert.same({ here:getfd() }, ready(poller))
    assert.is_true(poller:add(here:getfd(), "r"))
    assert.same({}, ready(poller))
    there:write("x")
    sockets.readable(here)
    assert.is_true(poller:add(here:getfd(), "rw"))
    assert.same({ here:getfd() }, ready(poller))
    assert.is_true(poller:remove(here:getfd()))
    assert.is_true(poller:remove(here:getfd()))
    assert.same({}, ready(poller))
  end)

  it("counts a hang-up and an error as ready", function()
    local here, there = sockets.pair()
    poller:add(here:getfd(), "r")
    there:close()
    assert.is_true(core.poll(poller:getfd(), "r", core.now() + 30))
    assert.same({ here:getfd() }, ready(poller))
    local listener, address, port = sockets.listener()
    listener:close()
    poller:remove(here:getfd())
    local client = core.socket("inet")
    client:connect(address, port)
    poller:add(client:getfd(), "w")
    assert.is_true(core.poll(poller:getfd(), "r", core.now() + 30))
    assert.same({ client:getfd() }, ready(poller))
  end)

  it("can be watched by another one", function()
    local outer = core.poller()
    local here, there = sockets.pair()
    assert.is_true(poller:add(here:getfd(), "r"))
    assert.is_true(outer:add(poller:getfd(), "r"))
    assert.same({}, ready(outer))
    there:write("x")
    assert.is_true(core.poll(outer:getfd(), "r", core.now() + 30))
    assert.same({ poller:getfd() }, ready(outer))
  end)

  it("tells of more at a time as its list grows, of 256 at most, and of all in turn", function()
    local kept, list, counts, seen, count = {}, {}, {}, {}, 0
    for i = 1, 300 do
      kept[i] = sockets.pair()
      assert.is_true(poller:add(kept[i]:getfd(), "w"))
    end
    for round = 1, 10 do
      counts[round] = poller:ready(list)
      for i = 1, 2 * counts[round], 2 do
        assert.equal("w", list[i + 1])
        if not seen[list[i]] then count = count + 1 end
        seen[list[i]] = true
      end
    end
    assert.same({ 8, 16, 32, 64, 128, 256, 256, 256, 256, 256 }, counts)
    assert.equal(300, count)
    assert.equal(300, #kept)
  end)

  it("says what each is ready for, twice over what the list holds", function()
    local list = { "old", nil, "old" }
    local here, there = sockets.pair()
    poller:add(here:getfd(), "rw")
    assert.equal(1, poller:ready(list))
    assert.same({ here:getfd(), "w" }, { list[1], list[2] })
    there:write("x")
    sockets.readable(here)
    assert.equal(1, poller:ready(list))
    assert.same({ here:getfd(), "rw" }, { list[1], list[2] })
    assert.has_error(function() poller:ready() end)
    assert.has_error(function() poller:ready(list, 0 / 0) end)
  end)

  it("waits until a deadline, and not longer than until the first is ready", function()
    local list = {}
    local here, there = sockets.pair()
    poller:add(here:getfd(), "r")
    local start = core.now()
    assert.equal(0, poller:ready(list, start + 0.05))
    assert.is_true(core.now() - start >= 0.05)
    there:write("x")
    assert.equal(1, poller:ready(list, math.huge))
    assert.equal(here:getfd(), list[1])
  end)

  it("comes back to the program after a signal", function()
    local result = child.run([[
      local core = require "tlsconnect.core"
      local poller, list = core.poller(), {}
      debug.sethook() -- Ctrl-C sets one
      os.execute("(sleep 0.2; kill -INT " .. io.open("/proc/self/stat"):read("*n") .. ") &")
      print(pcall(function() return poller:ready(list, core.now() + 3600) end))
    ]])
    assert.truthy((result.out .. result.err):find("interrupted!", 1, true), result.out .. result.err)
  end)

  describe("asked once", function()
    local here, there, list
    before_each(function()
      here, there = sockets.pair()
      list = {}
    end)

    -- What it tells in one round, as "r", "w", "rw" or "" for nothing; of one descriptor.
    local function told(fd)
      local text = ""
      for i = 1, 2 * assert(poller:ready(list)), 2 do
        assert.equal(fd or here:getfd(), list[i])
        text = text .. list[i + 1]
      end
      return text
    end

    it("tells once, and again when asked again", function()
      assert.is_true(poller:once(here:getfd(), "r"))
      assert.equal("", told())
      there:write("x")
      sockets.readable(here)
      assert.equal("r", told())
      assert.equal("", told())
      assert.is_false(rings())
      assert.is_true(poller:once(here:getfd(), "r"))
      assert.is_true(rings())
      assert.equal("r", told())
      assert.equal("x", here:read(1))
      assert.is_true(poller:once(here:getfd(), "r"))
      assert.equal("", told())
    end)

    it("has one wait to read and another to write", function()
      assert.is_true(poller:once(here:getfd(), "r"))
      assert.is_true(poller:once(here:getfd(), "w"))
      assert.equal("w", told())
      assert.equal("", told())
      there:write("x")
      sockets.readable(here)
      assert.is_true(poller:once(here:getfd(), "w"))
      assert.equal("rw", told())
      assert.equal("", told())
      assert.is_true(poller:once(here:getfd(), "w"))
      assert.is_true(poller:once(here:getfd(), "r"))
      there:close()
      assert.equal("rw", told())
    end)

    it("does so with what is not a core socket", function()
      local inner = core.poller()
      assert.is_true(inner:add(here:getfd(), "r"))
      local fd = inner:getfd()
      assert.is_true(poller:once(fd, "r"))
      assert.equal("", told(fd))
      there:write("x")
      sockets.readable(here)
      assert.equal("r", told(fd))
      assert.equal("", told(fd))
      assert.is_true(poller:once(fd, "r"))
      assert.equal("r", told(fd))
      inner:close()
    end)

    it("watches a number anew that was closed, and is another's", function()
      local made = {}
      -- Something new under that number.
      local function under(fd, make)
        local one
        repeat
          one = assert(make())
          made[#made + 1] = one
        until one:getfd() == fd
        return one
      end
      local function socket() return core.socket("inet") end
      local fd = here:getfd()
      for _ = 1, 3 do
        local unconnected = fd ~= here:getfd() and under(fd, socket) or here
        assert.is_true(poller:once(fd, "w"))
        assert.is_true(told(fd) ~= "")
        unconnected:close()
        local inner = under(fd, core.poller) -- not a socket
        assert.is_true(poller:once(fd, "r"))
        assert.equal("", told(fd))
        inner:add(there:getfd(), "w")
        assert.equal("r", told(fd))
        assert.is_true(poller:once(fd, "r"))
        inner:close()
        local other = under(fd, core.poller)
        assert.is_true(poller:once(fd, "r"))
        assert.equal("", told(fd))
        other:add(there:getfd(), "w")
        assert.equal("r", told(fd))
        other:close()
      end
      for _, one in ipairs(made) do one:close() end
    end)

    it("says that a socket was closed meanwhile", function()
      local fd = here:getfd()
      assert.is_true(poller:once(fd, "r"))
      here:close()
      assert.equal(1, poller:ready(list, math.huge))
      assert.same({ fd, "rw" }, { list[1], list[2] })
      assert.equal(0, poller:ready(list))
      local other = there:getfd()
      assert.is_true(poller:once(other, "r"))
      assert.equal(other, there:detach())
      assert.equal("rw", told(other))
      assert.is_true(poller:once(other, "r")) -- a descriptor like any other now
      there = core.adopt(other)
      assert.is_true(poller:remove(other))
      assert.equal("", told(other))
    end)

    it("keeps nothing of a socket that was closed while another process has it, too", function()
      local result = child.run(pair_of_sockets .. [[
        local here, there = pair()
        local poller, list, fd = core.poller(), {}, here:getfd()
        poller:once(fd, "r")
        local gate = core.socket("inet")
        gate:bind("127.0.0.1", 0)
        gate:listen()
        if os.getenv("SPEC_FORK") == "child" then
          -- The parent's end closes gate: until then the socket has two owners.
          core.poll(gate:getfd(), "r", core.now() + 30)
          os.exit(0)
        end
        here:close()
        assert(poller:ready(list) == 1 and list[1] == fd and list[2] == "rw")
        local again
        repeat again = assert(core.socket("inet")) until again:getfd() >= fd
        assert(again:getfd() == fd)
        poller:once(fd, "r")
        assert(poller:ready(list) == 1) -- not connected: a hang-up
        there:write("x")
        for _ = 1, 3 do assert(poller:ready(list, core.now() + 0.05) == 0) end
        local bell = core.socket("inet")
        bell:connect(gate:local_address())
        print(os.getenv("SPEC_WAIT"))
      ]], { shim = true })
      assert.equal("", result.err)
      assert.equal("exit 0\n", result.out)
    end)
  end)

  it("refuses a descriptor that is not open, and arguments that are wrong", function()
    fails("closed", poller:add(100000, "r"))
    assert.has_error(function() poller:add(-1, "r") end)
    assert.has_error(function() poller:add(0, "x") end)
    assert.has_error(function() poller:add("r") end)
    assert.is_true(poller:remove(-1))
    assert.is_true(poller:remove(100000))
  end)

  it("takes a number again that was closed without a word", function()
    local here = sockets.pair()
    local fd = here:getfd()
    poller:add(fd, "w")
    here:close()
    local again, there
    repeat again, there = sockets.pair() until again:getfd() == fd or there:getfd() == fd or fd < again:getfd()
    local reused = again:getfd() == fd and again or there
    assert.is_true(poller:add(reused:getfd(), "w"))
    assert.same({ reused:getfd() }, ready(poller))
  end)

  it("is closed once, by hand or by the collector", function()
    assert.is_true(poller:close())
    assert.is_true(poller:close())
    assert.equal(-1, poller:getfd())
    fails("closed", poller:ready({}))
    fails("closed", poller:add(1, "r"))
    fails("closed", poller:remove(1))
    local before = sockets.open_descriptors()
    for _ = 1, 200 do assert(core.poller()) end
    -- a register of this function may keep the last ones
    assert.is_true(sockets.at_most_open(before + 2))
  end)

  it("Z4 is the child's own after a fork: what one changes, the other does not see", function()
    local result = child.run(pair_of_sockets .. [[
      local function first(poller)
        local list = {}
        return poller:ready(list) == 1 and list[1]
      end
      local here, there = pair()
      local outer, inner = core.poller(), core.poller()
      assert(outer:add(inner:getfd(), "r"))
      assert(inner:add(here:getfd(), "r"))
      local fd = inner:getfd()
      local side = os.getenv("SPEC_FORK")
      if side == "child" then
        assert(inner:getfd() == fd)
        there:write("x")
        assert(core.poll(outer:getfd(), "r", core.now() + 30))
        assert(first(outer) == fd and first(inner) == here:getfd())
        inner:remove(here:getfd())
        assert(inner:ready({}) == 0 and outer:ready({}) == 0)
        io.stdout:write("child\n")
        io.stdout:close()
        os.exit(0)
      end
      print(os.getenv("SPEC_WAIT"))
      print(core.poll(outer:getfd(), "r", core.now() + 30), outer:ready({}), first(inner) == here:getfd())
    ]], { shim = true })
    assert.equal("", result.err)
    assert.equal("child\nexit 0\ntrue\t1\ttrue\n", result.out)
  end)
end)

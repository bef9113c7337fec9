-- Many descriptors watched through one.
local child = require "spec.support.child"
local core = require "tlsconnect.core"
local sockets = require "spec.support.sockets"

local function fails(code, ok, message, cause)
  assert.is_nil(ok)
  assert.is_string(message)
  assert.equal(code, cause.code)
end

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
    assert.same({}, poller:ready())
    there:write("x")
    assert.is_true(core.poll(poller:getfd(), "r", core.now() + 30))
    assert.same({ here:getfd() }, poller:ready())
    assert.same({ here:getfd() }, poller:ready())
    assert.equal("x", here:read(1))
    assert.same({}, poller:ready())
    assert.is_false(rings())
  end)

  it("watches for what was asked last", function()
    local here, there = sockets.pair()
    assert.is_true(poller:add(here:getfd(), "w"))
    assert.same({ here:getfd() }, poller:ready())
    assert.is_true(poller:add(here:getfd(), "r"))
    assert.same({}, poller:ready())
    there:write("x")
    sockets.readable(here)
    assert.is_true(poller:add(here:getfd(), "rw"))
    assert.same({ here:getfd() }, poller:ready())
    assert.is_true(poller:remove(here:getfd()))
    assert.is_true(poller:remove(here:getfd()))
    assert.same({}, poller:ready())
  end)

  it("counts a hang-up and an error as ready", function()
    local here, there = sockets.pair()
    poller:add(here:getfd(), "r")
    there:close()
    assert.is_true(core.poll(poller:getfd(), "r", core.now() + 30))
    assert.same({ here:getfd() }, poller:ready())
    local listener, address, port = sockets.listener()
    listener:close()
    poller:remove(here:getfd())
    local client = core.socket("inet")
    client:connect(address, port)
    poller:add(client:getfd(), "w")
    assert.is_true(core.poll(poller:getfd(), "r", core.now() + 30))
    assert.same({ client:getfd() }, poller:ready())
  end)

  it("can be watched by another one", function()
    local outer = core.poller()
    local here, there = sockets.pair()
    assert.is_true(poller:add(here:getfd(), "r"))
    assert.is_true(outer:add(poller:getfd(), "r"))
    assert.same({}, outer:ready())
    there:write("x")
    assert.is_true(core.poll(outer:getfd(), "r", core.now() + 30))
    assert.same({ poller:getfd() }, outer:ready())
  end)

  it("gives at most 64 at a time, and all of them in turn", function()
    local kept, seen, count = {}, {}, 0
    for i = 1, 150 do
      local here, there = sockets.pair()
      kept[i] = { here, there }
      poller:add(here:getfd(), "w")
    end
    for _ = 1, 20 do
      local ready = poller:ready()
      assert.equal(64, #ready)
      for _, fd in ipairs(ready) do
        if not seen[fd] then count = count + 1 end
        seen[fd] = true
      end
    end
    assert.equal(150, count)
    assert.equal(150, #kept)
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
    assert.same({ reused:getfd() }, poller:ready())
  end)

  it("is closed once, by hand or by the collector", function()
    assert.is_true(poller:close())
    assert.is_true(poller:close())
    assert.equal(-1, poller:getfd())
    fails("closed", poller:ready())
    fails("closed", poller:add(1, "r"))
    fails("closed", poller:remove(1))
    local before = sockets.open_descriptors()
    for _ = 1, 200 do assert(core.poller()) end
    -- a register of this function may keep the last ones
    assert.is_true(sockets.at_most_open(before + 2))
  end)

  it("Z4 is the child's own after a fork: what one changes, the other does not see", function()
    local result = child.run([[
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
        assert(outer:ready()[1] == fd and inner:ready()[1] == here:getfd())
        inner:remove(here:getfd())
        assert(#inner:ready() == 0 and #outer:ready() == 0)
        io.stdout:write("child\n")
        io.stdout:close()
        os.exit(0)
      end
      print(os.getenv("SPEC_WAIT"))
      print(core.poll(outer:getfd(), "r", core.now() + 30), #outer:ready(), inner:ready()[1] == here:getfd())
    ]], { shim = true })
    assert.equal("", result.err)
    assert.equal("child\nexit 0\ntrue\t1\ttrue\n", result.out)
  end)
end)

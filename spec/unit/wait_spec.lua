local core = require "tlsconnect.core"
local tlsconnect = require "tlsconnect"
local waiter = require "tlsconnect.wait"

describe("wait", function()
  after_each(function() tlsconnect.wait = nil end)

  -- A pair of connected sockets.
  local function pair()
    local server = assert(core.socket("inet"))
    assert(server:bind("127.0.0.1", 0))
    assert(server:listen(1))
    local _, port = server:local_address()
    local client = assert(core.socket("inet"))
    client:connect("127.0.0.1", port)
    assert(core.poll(server:getfd(), "r", core.now() + 60))
    local accepted = assert(server:accept())
    server:close()
    assert(core.poll(client:getfd(), "w", core.now() + 60))
    assert(client:finish_connect())
    return client, accepted
  end

  it("says true when there is something to read", function()
    local a, b = pair()
    assert.same({ nil, "timeout" }, { tlsconnect.wait(a:getfd(), "r", core.now()) })
    assert.equal(1, b:write("x", 1, 1))
    assert.is_true(tlsconnect.wait(a:getfd(), "r", core.now() + 60))
    assert.is_true(tlsconnect.wait(a:getfd(), "rw"))
    a:close() b:close()
  end)

  it("never waits for a descriptor that is closed", function()
    for _, fd in ipairs { -1, -2147483648, 2147483647 } do
      local ready, message, cause = tlsconnect.wait(fd, "r")
      assert.same({ nil, "closed" }, { ready, cause.code }, message)
    end
  end)

  it("comes back at the deadline, not before", function()
    local a, b = pair()
    local start = core.now()
    assert.same({ nil, "timeout" }, { tlsconnect.wait(a:getfd(), "r", start + 0.05) })
    assert.is_true(core.now() >= start + 0.05)
    a:close() b:close()
  end)

  it("counts an end and an error as ready", function()
    local a, b = pair()
    b:close()
    assert.is_true(tlsconnect.wait(a:getfd(), "r"))
    a:close()
  end)

  it("is replaced for the process by assignment, and put back by nil", function()
    local default = tlsconnect.wait
    local calls = {}
    local function mine(...)
      calls[#calls + 1] = { ... }
      return true
    end
    tlsconnect.wait = mine
    assert.equal(mine, tlsconnect.wait)
    assert.is_true(waiter.wait(7, "r", 5))
    assert.same({ { 7, "r", 5 } }, calls)
    tlsconnect.wait = nil
    assert.equal(default, tlsconnect.wait)
  end)

  it("takes only a function", function()
    assert.has_error(function() tlsconnect.wait = 5 end)
    local _, message = pcall(function() tlsconnect.wait = "x" end)
    assert.truthy(message:find("bad value for 'wait' (function expected, got string)", 1, true), message)
  end)

  it("is the call's own, else the context's, else the process's", function()
    local function call() end
    local function context() end
    assert.equal(call, waiter.of({ wait = call }, { wait = context }))
    assert.equal(context, waiter.of({}, { wait = context }))
    assert.equal(waiter.wait, waiter.of({}, {}))
    assert.equal(waiter.wait, waiter.of())
  end)
end)

-- Step 1: a host to its addresses, with name servers made for the occasion.
local core = require "tlsconnect.core"
local lookups = require "spec.support.lookups"
local resolve = require "tlsconnect.resolve"
local scheduler = require "spec.support.scheduler"
local trace = require "tlsconnect.trace"
local waiter = require "tlsconnect.wait"

local function ask(names, host, terms)
  terms = terms or {}
  terms.lookup, terms.wait = names.lookup, terms.wait or names.wait
  return resolve.addresses(host or "a.test", terms)
end

local function fails(code, addresses, message, err)
  assert.is_nil(addresses)
  assert.equal(message, err.message)
  assert.same({ code, "dns" }, { err.code, err.step })
  return err
end

describe("resolving", function()
  it("asks for both families and gives them in turns", function()
    local names = lookups.new { inet = { "127.0.0.1", "127.0.0.2", "127.0.0.3" }, inet6 = { "::1", after = 0.01 } }
    local addresses, details = ask(names, "A.test.")
    assert.same({ "::1", "127.0.0.1", "127.0.0.2", "127.0.0.3" }, addresses)
    assert.same({ "a.test inet6", "a.test inet" }, names.asked)
    assert.equal("A.test.", details.name)
    assert.equal("a.test", details.ascii)
    assert.is_false(details.literal)
    assert.same({ "::1", after = 0.01 }, details.inet6.addresses)
    assert.is_true(details.inet6.elapsed >= 0.01)
    assert.equal(0, names.open)
  end)

  it("asks for one family alone when told", function()
    local names = lookups.new { inet = { "127.0.0.1" }, inet6 = { "::1" } }
    assert.same({ "127.0.0.1" }, (ask(names, "a.test", { family = "inet" })))
    assert.same({ "a.test inet" }, names.asked)
  end)

  it("takes an address as its own answer, with brackets or without, and asks nobody", function()
    local names = lookups.new {}
    assert.same({ "127.0.0.1" }, (ask(names, "127.0.0.1")))
    assert.same({ "::1" }, (ask(names, "0::1")))
    assert.same({ "::1" }, (ask(names, "[::1]")))
    assert.same({ "fe80::1%lo" }, (ask(names, "fe80::1%lo")))
    assert.is_true(select(2, ask(names, "::1")).literal)
    local err = fails("no_address", ask(names, "127.0.0.1", { family = "inet6" }))
    assert.equal("127.0.0.1 has no address of IPv6", err.message)
    assert.same({}, names.asked)
  end)

  it("D1 refuses a host with odd bytes before anybody is asked, and escapes it", function()
    local names = lookups.new { inet = { "127.0.0.1" } }
    for _, host in ipairs { "good.test\0.evil", "good.test\r\nX-Evil: 1", "a b", "", "[127.0.0.1]", "[a.test]" } do
      local err = fails("bad_host", ask(names, host))
      assert.is_nil(err.message:find("%c"))
      assert.is_false(err.retryable)
    end
    assert.same({}, names.asked)
  end)

  it("gives the one family that has an address", function()
    local names = lookups.new { inet = { "127.0.0.1" }, inet6 = { code = "lookup_failed" } }
    local addresses, details = ask(names)
    assert.same({ "127.0.0.1" }, addresses)
    assert.equal("lookup_failed", details.inet6.error)
  end)

  it("names the failure that tells most", function()
    local function code(inet, inet6)
      local names = lookups.new { inet = { code = inet }, inet6 = { code = inet6 } }
      local _, _, err = ask(names)
      assert.equal("a.test", err.host)
      assert.equal(0, names.open)
      return err.code
    end
    assert.equal("unknown_host", code("unknown_host", "unknown_host"))
    assert.equal("no_address", code("no_address", "unknown_host"))
    assert.equal("no_address", code("unknown_host", "no_address"))
    assert.equal("lookup_failed", code("lookup_failed", "no_address"))
    assert.equal("forked", code("lookup_failed", "forked"))
    assert.equal("no_address", (fails("no_address", ask(lookups.new { inet = {}, inet6 = {} }))).code)
    assert.equal("a.test: no such host", (fails("unknown_host", ask(lookups.new {}))).message)
  end)

  it("keeps the deadline, and then what one family has answered is enough", function()
    local names = lookups.new { inet = { "127.0.0.1" }, inet6 = { after = false } }
    local addresses, details = ask(names, "a.test", { deadline = core.now() + 0.05 })
    assert.same({ "127.0.0.1" }, addresses)
    assert.equal("timeout", details.inet6.error)
    assert.equal(0, names.open)
    names = lookups.new { inet = { after = false }, inet6 = { after = false } }
    local err = fails("timeout", ask(names, "a.test", { deadline = core.now() + 0.05 }))
    assert.equal("timeout", err.message)
    assert.matches("a.test.*looking up", err.detail)
    assert.is_true(err.retryable)
    assert.equal(0, names.open)
  end)

  it("stops when the wait gives up, with its words", function()
    local names = lookups.new { inet = { after = false } }
    local err = fails("cancelled", ask(names, "a.test", { wait = function() return nil, "enough" end }))
    assert.equal("enough", err.message)
    assert.equal(0, names.open)
  end)

  it("D2 gives an address that is repeated 5,000 times once", function()
    local many = {}
    for i = 1, 5000 do many[i] = "127.0.0.1" end
    assert.same({ "127.0.0.1" }, (ask(lookups.new { inet = many })))
  end)

  it("tells the recorder", function()
    local recorder = trace.recorder(true)
    ask(lookups.new { inet = { "127.0.0.1" } }, "a.test", { recorder = recorder })
    local step = recorder:steps()[1]
    assert.same({ "dns", true, "a.test" }, { step.step, step.ok, step.ascii })
    assert.same({ "127.0.0.1" }, step.addresses)
    assert.equal("unknown_host", step.families[1].error)
    assert.is_number(step.elapsed)
    recorder = trace.recorder(true)
    ask(lookups.new {}, "a.test", { recorder = recorder })
    step = recorder:steps()[1]
    assert.same({ false, "unknown_host" }, { step.ok, step.error.code })
  end)
end)

describe("localhost", function()
  it("is this machine, and is not looked up", function()
    local function never() error("looked up") end
    for _, name in ipairs { "localhost", "LocalHost.", "a.b.localhost", "LOCALHOST" } do
      local addresses, details = ask({ lookup = never }, name)
      assert.equal("127.0.0.1", addresses[#addresses])
      for i = 1, #addresses - 1 do assert.equal("::1", addresses[i]) end
      assert.is_true(details.loopback)
      assert.is_false(details.literal)
      assert.same({ "::1" }, (ask({ lookup = never }, name, { family = "inet6" })))
      assert.same({ "127.0.0.1" }, (ask({ lookup = never }, name, { family = "inet" })))
    end
    assert.same({ "127.0.0.1" }, (assert(resolve.resolve("localhost", { family = "inet", timeout = 0 }))))
  end)

  it("is no part of longer labels", function()
    local names = lookups.new { inet = { "192.0.2.1" } }
    for _, name in ipairs { "notlocalhost", "localhost.test" } do
      local addresses, details = ask(names, name)
      assert.same({ "192.0.2.1" }, addresses)
      assert.is_nil(details.loopback)
    end
  end)
end)

describe("tlsconnect.resolve", function()
  it("asks the system", function()
    local addresses = assert(resolve.addresses("a.test",
      { deadline = core.now() + 60, family = "inet", lookup = lookups.system }))
    assert.same({ "127.0.0.1" }, addresses)
    local none, message, err = resolve.resolve("a b", { timeout = 60 })
    assert.is_nil(none)
    assert.equal(message, tostring(err))
    assert.same({ "dns", "bad_host" }, { err.step, err.code })
  end)

  it("waits by the wait that is given, else by the process's", function()
    local calls = 0
    local function wait(...)
      calls = calls + 1
      return core.poll(...)
    end
    local tries = 0
    repeat -- an answer that is there at once is not waited for
      tries = tries + 1
      assert(resolve.addresses("a.test", { wait = wait, family = "inet", lookup = lookups.system }))
    until calls > 0 or tries == 1000
    assert.is_true(calls > 0)
    calls = 0
    waiter.set(wait)
    local silent = lookups.new { inet = { after = false } }
    local _, _, err = resolve.addresses("a.test", { lookup = silent.lookup, deadline = core.now() + 0.01 })
    waiter.set(nil)
    fails("timeout", nil, err.message, err)
    assert.equal(1, calls)
  end)

  it("runs many look-ups at once on a loop", function()
    local done = 0
    scheduler.run(function(spawn, wait)
      for _ = 1, 50 do
        spawn(function()
          assert(resolve.addresses("a.test", { wait = wait, family = "inet", lookup = lookups.system }))
          done = done + 1
        end)
      end
    end)
    assert.equal(50, done)
  end)

  it("raises on wrong arguments, and names them", function()
    assert.error_matches(function() resolve.resolve() end, "#1.*host expected")
    assert.error_matches(function() resolve.resolve("a", { family = "inet4" }) end, "family")
    assert.error_matches(function() resolve.resolve("a", { timeuot = 1 }) end, "did you mean 'timeout'")
    assert.error_matches(function() resolve.resolve("a", { timeout = -1 }) end, "timeout")
  end)
end)

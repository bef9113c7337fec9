-- Step 2: the race over a host's addresses, on loopback: 127.0.0.x are hosts of their own, a full queue
-- swallows SYNs, a port that nobody listens on refuses.
local child = require "spec.support.child"
local core = require "tlsconnect.core"
local dial = require "tlsconnect.dial"
local lookups = require "spec.support.lookups"
local ports = require "spec.support.ports"
local scheduler = require "spec.support.scheduler"
local sockets = require "spec.support.sockets"
local tmp = require "spec.support.tmp"
local trace = require "tlsconnect.trace"

local function dialling(names, port, terms)
  terms = terms or {}
  terms.lookup, terms.wait = names.lookup, terms.wait or names.wait
  return dial.tcp("a.test", port, terms)
end

local function fails(step, code, socket, message, err)
  assert.is_nil(socket)
  assert.equal(message, err.message)
  assert.same({ step, code }, { err.step, err.code })
  return err
end

local function addresses_of(attempts)
  local list = {}
  for i, attempt in ipairs(attempts) do list[i] = attempt.address end
  return list
end

-- Listeners with full queues at 127.0.0.2 and up, all on one port.
local function swallowers(count)
  local port = ports.free()
  local kept = {}
  for i = 1, count do kept[i] = { sockets.swallower("127.0.0." .. i + 1, port) } end
  return port, kept
end

describe("dialling", function()
  it("gives a connected socket, and what became of each attempt", function()
    local listener, _, port = sockets.listener()
    local names = lookups.new { inet = { "127.0.0.1" } }
    local socket, fields = dialling(names, port, { deadline = core.now() + 60 })
    local peer = sockets.accept(listener)
    assert.equal(4, socket:write("over"))
    assert.equal("over", sockets.read(peer, 4))
    assert.same({ "127.0.0.1", port, "inet" }, { fields.address, fields.port, fields.family })
    assert.same({ socket:local_address() }, { fields.local_address, fields.local_port, "inet" })
    assert.equal(1, fields.winner)
    local attempt = fields.attempts[1]
    assert.same({ "127.0.0.1", port, "won" }, { attempt.address, attempt.port, attempt.result })
    assert.is_true(attempt.elapsed >= 0 and attempt.started >= 0)
    assert.is_nil(attempt.socket)
    assert.equal(0, names.open)
  end)

  it("dials an address without asking anybody", function()
    local names = lookups.new {}
    for address in pairs { ["127.0.0.1"] = true, ["::1"] = true } do
      local listener, _, port = sockets.listener(address)
      assert(dial.tcp(address, port, { lookup = names.lookup }))
      assert.is_truthy(sockets.accept(listener))
    end
    local listener, _, port = sockets.listener("::1")
    assert(dial.tcp("[::1]", port, {}))
    assert.is_truthy(sockets.accept(listener))
    assert.same({}, names.asked)
  end)

  it("waits for an address on its own socket, and makes no poller", function()
    local listener, _, port = sockets.listener()
    local poller, asked = core.poller, {}
    core.poller = function() error "a poller" end
    local ok, socket = pcall(dial.tcp, "127.0.0.1", port, { wait = function(fd, events, deadline)
      asked[#asked + 1] = { fd, events }
      return core.poll(fd, events, deadline)
    end })
    core.poller = poller
    assert(ok, socket)
    assert.is_true(#asked <= 1)
    if asked[1] then assert.same({ socket:getfd(), "w" }, asked[1]) end
    assert.is_truthy(sockets.accept(listener))
  end)

  it("tells what became of an address that refuses, is silent, or is not let through", function()
    local err = fails("tcp", "refused", dial.tcp("127.0.0.1", ports.free(), { deadline = core.now() + 60 }))
    assert.same({ "127.0.0.1" }, addresses_of(err.attempts))
    local port, kept = swallowers(1)
    assert.equal(1, #kept)
    fails("tcp", "timeout", dial.tcp("127.0.0.2", port, { deadline = core.now() + 0.05 }))
    fails("tcp", "address_refused", dial.tcp("127.0.0.1", port, { allow_address = "public" }))
    fails("dns", "no_address", dial.tcp("127.0.0.1", port, { family = "inet6" }))
  end)

  it("asks for both families at once, and goes on with the system's own answer", function()
    local listener, _, port = sockets.listener()
    local socket = assert(dial.tcp("b.test", port,
      { family = "inet", deadline = core.now() + 60, lookup = lookups.system }))
    assert.equal("127.0.0.1", (socket:peer_address()))
    assert.is_truthy(sockets.accept(listener))
    local names = lookups.new { inet = { "127.0.0.1" } }
    assert(dialling(names, port))
    assert.same({ "a.test inet6", "a.test inet" }, names.asked)
  end)

  it("prefers IPv6 when both are there, or when it comes within 50 ms", function()
    local listener, _, port = sockets.listener("::1")
    for _, after in ipairs { 0, 0.01 } do
      local names = lookups.new { inet = { "127.0.0.9" }, inet6 = { "::1", after = after > 0 and after or nil } }
      local _, fields = assert(dialling(names, port))
      assert.same({ "::1" }, addresses_of(fields.attempts))
      sockets.accept(listener)
    end
  end)

  it("waits 50 ms for IPv6 and no longer", function()
    local listener, _, port = sockets.listener()
    local names = lookups.new { inet = { "127.0.0.1" }, inet6 = { after = false } }
    local _, fields = assert(dialling(names, port))
    assert.is_true(fields.attempts[1].started >= 0.05)
    assert.equal(1, names.timeouts)
    assert.equal(0, names.open)
    assert.is_truthy(sockets.accept(listener))
  end)

  it("does not wait for IPv4 when IPv6 is there", function()
    local listener, _, port = sockets.listener("::1")
    local names = lookups.new { inet = { after = false }, inet6 = { "::1" } }
    assert(dialling(names, port))
    assert.equal(0, names.timeouts)
    assert.equal(0, names.open)
    assert.is_truthy(sockets.accept(listener))
  end)

  it("tries the families in turns, the next at once when one fails", function()
    local port = ports.free()
    local names = lookups.new { inet = { "127.0.0.1", "127.0.0.2", "127.0.0.3" }, inet6 = { "::1" } }
    local err = fails("tcp", "refused", dialling(names, port, { deadline = core.now() + 60 }))
    assert.same({ "::1", "127.0.0.1", "127.0.0.2", "127.0.0.3" }, addresses_of(err.attempts))
    for _, attempt in ipairs(err.attempts) do assert.equal("refused", attempt.code) end
    assert.equal(0, names.timeouts)
    assert.matches("^a%.test:%d+ refused the connection %(::1: .*; 127%.0%.0%.1: .*127%.0%.0%.3: ", err.message)
    assert.is_true(err.retryable)
    assert.same({ "a.test", port }, { err.host, err.port })
  end)

  it("takes in the addresses that come while it runs", function()
    local port, kept = swallowers(1)
    local listener = sockets.listener("::1", port)
    local names = lookups.new { inet = { "127.0.0.2" }, inet6 = { "::1", after = 0.1 } }
    local recorder = trace.recorder(true)
    local _, fields = assert(dialling(names, port, { recorder = recorder }))
    assert.same({ "127.0.0.2", "::1" }, addresses_of(fields.attempts))
    assert.equal("::1", recorder:steps()[1].inet6.addresses[1])
    assert.is_truthy(sockets.accept(listener))
    assert.equal(1, #kept)
  end)

  it("waits for the other family when the first one's addresses have all failed", function()
    local listener, _, port = sockets.listener("::1")
    local names = lookups.new { inet = { "127.0.0.9" }, inet6 = { "::1", after = 0.2 } }
    local _, fields = assert(dialling(names, port))
    assert.same({ "127.0.0.9", "::1" }, addresses_of(fields.attempts))
    assert.is_truthy(sockets.accept(listener))
  end)

  it("T1 gets past addresses that swallow SYNs, 250 ms apart, and closes the losers", function()
    local port, kept = swallowers(3)
    local listener = sockets.listener("127.0.0.5", port)
    local names = lookups.new { inet = { "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5" } }
    local before = sockets.open_descriptors()
    local socket, fields = dialling(names, port, { deadline = core.now() + 60 })
    assert.equal("127.0.0.5", (socket:peer_address()))
    local attempts = fields.attempts
    assert.equal(4, #attempts)
    for i = 1, 3 do
      assert.equal("closed as loser", attempts[i].result)
      assert.is_true(attempts[i + 1].started - attempts[i].started >= 0.25)
    end
    assert.equal(4, fields.winner)
    assert.is_true(sockets.at_most_open(before + 1))
    socket:close()
    assert.is_truthy(sockets.accept(listener))
    assert.equal(3, #kept)
  end)

  it("T1 closes every attempt when the time is over, and lists them", function()
    local port, kept = swallowers(2)
    local names = lookups.new { inet = { "127.0.0.2", "127.0.0.3" } }
    local before = sockets.open_descriptors()
    local err = fails("tcp", "timeout", dialling(names, port, { deadline = core.now() + 0.4 }))
    assert.is_true(sockets.at_most_open(before))
    assert.equal("timeout", err.message)
    assert.matches("a%.test:%d+ did not answer in time %(127%.0%.0%.2: .*127%.0%.0%.3: ", err.detail)
    assert.same({ "127.0.0.2", "127.0.0.3" }, addresses_of(err.attempts))
    assert.equal("timeout", err.attempts[2].code)
    assert.equal(2, #kept)
  end)

  it("T2 counts an attempt that finds no descriptor as failed, and the first may still win", function()
    local port, kept = swallowers(1)
    kept[1][1]:close()
    kept[1] = nil
    local result = child.run(([[
      local core = require "tlsconnect.core"
      local dial = require "tlsconnect.dial"
      local listener = core.socket("inet")
      listener:set("reuseaddr", true)
      assert(listener:bind("127.0.0.2", %d))
      assert(listener:listen(0))
      local fill = {}
      for i = 1, 3 do
        fill[i] = core.socket("inet")
        fill[i]:connect("127.0.0.2", %d)
        core.poll(fill[i]:getfd(), "w", core.now() + 0.1)
      end
      -- The answers of a look-up that needs no descriptor of its own.
      local list = { "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5" }
      local function lookup()
        return { getfd = function() return listener:getfd() end, result = function() return list end,
          close = function() end }
      end
      local many, waits = {}, 0
      local function wait(fd, events, deadline)
        waits = waits + 1
        -- Room in the queue: the SYN that the system sends again gets through.
        if waits == 2 then assert(listener:listen(16)) end
        return core.poll(fd, events, deadline)
      end
      local socket = core.socket("inet")
      while socket do
        many[#many + 1] = socket
        socket = core.socket("inet")
      end
      many[#many]:close()
      many[#many - 1]:close()
      local fields, err
      socket, fields, err = dial.tcp("a.test", %d, { lookup = lookup, wait = wait, family = "inet",
        deadline = core.now() + 60 })
      assert(socket, err and err.detail)
      for i, attempt in ipairs(fields.attempts) do
        io.write(attempt.address, " ", attempt.code or attempt.result, "\n")
      end
      print(waits < 20)
    ]]):format(port, port, port), { files = 60 })
    assert.equal("", result.err)
    assert.equal("127.0.0.2 won\n" .. "127.0.0.3 too_many_files\n127.0.0.4 too_many_files\n" ..
      "127.0.0.5 too_many_files\ntrue\n", result.out)
  end)

  it("D2 dials at most 16 of thousands of addresses, each once, and keeps the deadline", function()
    local port = ports.free()
    local many, twice = {}, {}
    for i = 1, 5000 do
      many[i] = ("127.%d.%d.1"):format(math.floor(i / 250), i % 250)
      twice[i] = "127.0.0.1"
    end
    local err = fails("tcp", "refused", dialling(lookups.new { inet = many }, port))
    assert.equal(16, #err.attempts)
    assert.is_true(#err.message < 1000)
    assert.matches("and 8 more%)$", err.message)
    err = fails("tcp", "refused", dialling(lookups.new { inet = twice }, port))
    assert.same({ "127.0.0.1" }, addresses_of(err.attempts))
    local kept
    port, kept = swallowers(1)
    table.insert(many, 1, "127.0.0.2")
    local time = core.now()
    fails("tcp", "timeout", dialling(lookups.new { inet = { "127.0.0.2" } }, port, { deadline = time + 0.3 }))
    assert.is_true(core.now() >= time + 0.3)
    assert.equal(1, #kept)
  end)

  it("D3 dials no address that is not public when only those are allowed", function()
    local listener, _, port = sockets.listener()
    local hostile = { "0.0.0.0", "127.0.0.1", "169.254.169.254", "10.0.0.1", "100.64.0.1" }
    local hostile6 = { "::", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fe80::1%lo", "fd00::1" }
    local names = lookups.new { inet = hostile, inet6 = hostile6 }
    local err = fails("tcp", "address_refused", dialling(names, port, { allow_address = "public" }))
    assert.equal(#hostile + #hostile6, #err.attempts)
    for _, attempt in ipairs(err.attempts) do assert.equal("address_refused", attempt.code) end
    assert.matches("no address that is allowed", err.message)
    for _, host in ipairs { "127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0" } do
      fails("tcp", "address_refused", dial.tcp(host, port, { allow_address = "public" }))
    end
    assert.same({ nil, "want_read" }, { listener:accept() })
  end)

  it("D4 judges the very address that it dials, at each look-up", function()
    local listener, _, port = sockets.listener()
    local names = lookups.new { inet = { "127.0.0.1" } }
    local judged = {}
    local function allow(address, family, host, to)
      judged[#judged + 1] = ("%s %s %s %d"):format(address, family, host, to)
      return address == "127.0.0.1"
    end
    local socket = assert(dialling(names, port, { allow_address = allow }))
    assert.equal("127.0.0.1", (socket:peer_address()))
    assert.is_truthy(sockets.accept(listener))
    -- The next answer is another one.
    names.answers = { inet = { "127.0.0.2" } }
    local err = fails("tcp", "address_refused", dialling(names, port, { allow_address = allow }))
    assert.same({ "127.0.0.2" }, addresses_of(err.attempts))
    assert.same({ "127.0.0.1 inet a.test " .. port, "127.0.0.2 inet a.test " .. port }, judged)
    assert.equal(4, #names.asked)
    -- One that is allowed is reached past those that are not.
    names.answers = { inet = { "127.0.0.2", "127.0.0.1" } }
    local _, fields = assert(dialling(names, port, { allow_address = allow }))
    assert.same({ "address_refused", "won" }, { fields.attempts[1].result, fields.attempts[2].result })
  end)

  it("D5 reads a host in one way only", function()
    local listener, _, port = sockets.listener()
    for _, host in ipairs { "127.1", "0x7f.1", "2130706433", "0177.0.0.1", "127.0.0.1.", "[127.0.0.1]" } do
      fails("dns", "bad_host", dial.tcp(host, port, {}))
    end
    assert.same({ nil, "want_read" }, { listener:accept() })
  end)

  it("T5 counts a connection to itself as refused", function()
    -- Every port is free to be the socket's own: the one it asks for is the one it has.
    local probe = core.socket("inet")
    assert(probe:bind("127.0.0.1", 0))
    local _, port = probe:local_address()
    probe:close()
    local err = fails("tcp", "refused", dial.tcp("127.0.0.1", port, { deadline = core.now() + 60 }))
    assert.equal(("127.0.0.1:%d refused the connection"):format(port), err.message)
  end)

  it("has one code for all attempts, or says that they differ", function()
    local port, kept = swallowers(1)
    local names = lookups.new { inet = { "255.255.255.255", "127.0.0.1" } }
    -- A route that is missing says nothing beside a refusal.
    local err = fails("tcp", "refused", dialling(names, port))
    assert.same({ "unreachable", "refused" }, { err.attempts[1].code, err.attempts[2].code })
    names = lookups.new { inet = { "255.255.255.255" } }
    err = fails("tcp", "unreachable", dialling(names, port))
    assert.matches("^a.test:%d+ cannot be reached %(255.255.255.255: ", err.message)
    assert.is_number(err.errno)
    names = lookups.new { inet = { "255.255.255.255" } }
    fails("tcp", "unreachable", dialling(names, port, {
      allow_address = function(address) return address == "255.255.255.255" end,
    }))
    -- Two that differ: refused, and not an address of this machine.
    local limited = child.run(([[
      local core = require "tlsconnect.core"
      local dial = require "tlsconnect.dial"
      local list = { "127.0.0.1", "127.0.0.3" }
      local many, bell = {}, core.poller()
      local function lookup()
        return { getfd = function() return bell:getfd() end, result = function() return list end,
          close = function() end }
      end
      local function allow(address)
        if address == "127.0.0.3" then
          local socket = core.socket("inet")
          while socket do
            many[#many + 1] = socket
            socket = core.socket("inet")
          end
        end
        return true
      end
      local _, message, err = dial.tcp("a.test", %d,
        { lookup = lookup, family = "inet", allow_address = allow })
      print(err.code, #err.attempts, message)
    ]]):format(port), { files = 40 })
    assert.equal("", limited.err)
    assert.matches("^all_failed\t2\ta%.test:%d+ cannot be connected to %(127%.0%.0%.1: .*; 127%.0%.0%.3: ", limited.out)
    assert.equal(1, #kept)
  end)

  it("keeps the time for each step", function()
    local function never() return lookups.new { inet = { after = false }, inet6 = { after = false } } end
    local soon = core.now() + 0.05
    for _, terms in ipairs { { deadline = soon }, { dns_deadline = soon, deadline = soon + 60 } } do
      local names = never()
      local err = fails("dns", "timeout", dialling(names, 1, terms))
      assert.equal("timeout", err.message)
      assert.matches("looking up", err.detail)
      assert.equal(0, names.open)
    end
    local port, kept = swallowers(1)
    for _, terms in ipairs { { tcp_limit = 0.05 }, { tcp_deadline = core.now() + 0.3 },
      { tcp_limit = 0.05, deadline = core.now() + 60 }, { tcp_limit = 60, deadline = core.now() + 0.3 } } do
      fails("tcp", "timeout", dialling(lookups.new { inet = { "127.0.0.2" } }, port, terms))
    end
    -- The limit of the race begins with the race.
    local names = lookups.new { inet = { "127.0.0.2", after = 0.2 } }
    local time = core.now()
    fails("tcp", "timeout", dialling(names, port, { tcp_limit = 0.1 }))
    assert.is_true(core.now() - time >= 0.3)
    assert.equal(1, #kept)
  end)

  it("goes on with one family when the other's look-up runs out of time", function()
    local listener, _, port = sockets.listener()
    local names = lookups.new { inet = { "127.0.0.1" }, inet6 = { after = false } }
    local recorder = trace.recorder(true)
    assert(dialling(names, port, { dns_deadline = core.now() + 0.01, recorder = recorder }))
    assert.is_truthy(sockets.accept(listener))
    assert.equal("timeout", recorder:steps()[1].inet6.error)
    assert.equal(0, names.open)
  end)

  it("keeps to the family that is asked for, and to the local address's", function()
    local listener, _, port = sockets.listener()
    local names = lookups.new { inet = { "127.0.0.1" }, inet6 = { "::1" } }
    assert(dialling(names, port, { family = "inet" }))
    local socket = assert(dialling(names, port, { local_address = "127.0.0.7" }))
    assert.equal("127.0.0.7", (socket:local_address()))
    assert.same({ "a.test inet", "a.test inet" }, names.asked)
    sockets.accept(listener)
    assert.equal("127.0.0.7", (sockets.accept(listener):peer_address()))
    fails("dns", "no_address", dial.tcp("::1", port, { family = "inet" }))
    fails("tcp", "address_not_available", dial.tcp("127.0.0.1", port, { local_address = "192.0.2.77" }))
    fails("tcp", "address_not_available", dial.tcp("127.0.0.1", port, { local_address = "::1", family = "inet" }))
    fails("tcp", "address_not_available", dial.tcp("127.0.0.1", port, { local_address = "localhost" }))
  end)

  it("sets TCP_NODELAY, so that no small write waits for an acknowledgement", function()
    local listener, _, port = sockets.listener()
    local socket = assert(dial.tcp("127.0.0.1", port, {}))
    local peer = sockets.accept(listener)
    for _ = 1, 5 do
      for _ = 1, 3 do assert.equal(1, socket:write("x")) end
      assert.equal("xxx", sockets.read(peer, 3))
      assert.equal(1, peer:write("y"))
      assert.equal("y", sockets.read(socket, 1))
    end
  end)
end)

describe("a wait that ends the race", function()
  local port, kept, names
  before_each(function()
    port, kept = swallowers(2)
    names = lookups.new { inet = { "127.0.0.2", "127.0.0.3" } }
  end)
  after_each(function() assert.equal(2, #kept) end)

  -- A wait that works so many times, and then does something else.
  local function works(times, what)
    return function(...)
      times = times - 1
      if times < 0 then return what(...) end
      return names.wait(...)
    end
  end

  it("by giving up: everything is closed at once, and its words are the message", function()
    local before = sockets.open_descriptors()
    local wait = works(1, function() return nil, "enough" end)
    local err = fails("tcp", "cancelled", dialling(names, port, { wait = wait }))
    assert.equal("enough", err.message)
    assert.equal(2, #err.attempts)
    assert.equal("given up", err.attempts[1].result)
    assert.is_true(sockets.at_most_open(before))
    names = lookups.new { inet = { after = false } }
    fails("dns", "cancelled", dialling(names, port, { wait = function() return nil, "enough" end }))
    assert.equal(0, names.open)
  end)

  it("by saying that time is over long before it is: it is not asked for ever", function()
    local calls = 0
    local function wait()
      calls = calls + 1
      return nil, "timeout"
    end
    fails("tcp", "timeout", dialling(names, port, { wait = wait, deadline = core.now() + 1000 }))
    fails("tcp", "timeout", dial.tcp("127.0.0.2", port, { wait = wait }))
    assert.equal(2, calls)
  end)

  it("Z5 by raising: the descriptors are the collector's", function()
    local function raise() error("stop here", 0) end
    dialling(lookups.new { inet = { "127.0.0.2" } }, port, { deadline = core.now() })
    local before = sockets.open_descriptors()
    for _ = 1, 6 do
      local ok, message = pcall(dial.tcp, "127.0.0.2", port, { wait = raise })
      assert.same({ false, "stop here" }, { ok, message })
      ok, message = pcall(dialling, names, port, { wait = works(1, raise) })
      assert.same({ false, "stop here" }, { ok, message })
      -- unless the answer is there at once
      pcall(dial.tcp, "a.test", port, { family = "inet", wait = raise, lookup = lookups.system })
      ok = pcall(dial.tcp, "127.0.0.2", port, { allow_address = raise })
      assert.is_false(ok)
    end
    assert.is_true(sockets.at_most_open(before + 6)) -- what registers still hold
  end)

  it("Z5 by never coming back: the descriptors are the collector's", function()
    local before = sockets.open_descriptors()
    for _ = 1, 6 do
      local thread = coroutine.create(function()
        return dialling(names, port, { wait = works(1, coroutine.yield) })
      end)
      local ok, fd, events = coroutine.resume(thread)
      assert.is_true(ok)
      assert.is_number(fd)
      assert.equal("r", events)
      thread = coroutine.create(function()
        return dial.tcp("a.test", port, { family = "inet", wait = coroutine.yield, lookup = lookups.system })
      end)
      assert.is_true((coroutine.resume(thread)))
    end
    assert.is_true(sockets.at_most_open(before + 10)) -- what registers still hold
  end)
end)

describe("dialling on a loop", function()
  it("holds nobody up: 100 at once, while one look-up and one race never end", function()
    local listener, _, port = sockets.listener()
    local dead_port, kept = swallowers(1)
    local silent = lookups.new { inet = { after = false }, inet6 = { after = false } }
    local done, order = 0, {}
    scheduler.run(function(spawn, wait, sleep, join)
      local late = core.now() + 1.5
      local stuck = {
        spawn(function()
          fails("dns", "timeout", dial.tcp("a.test", port, { lookup = silent.lookup, wait = wait, deadline = late }))
          order[#order + 1] = "dns"
        end),
        spawn(function()
          fails("tcp", "timeout", dial.tcp("127.0.0.2", dead_port, { wait = wait, deadline = late }))
          order[#order + 1] = "tcp"
        end),
      }
      local tasks = {}
      for i = 1, 100 do
        tasks[i] = spawn(function()
          local host = i % 2 == 0 and "a.test" or "127.0.0.1"
          local socket = assert(dial.tcp(host, port, { family = "inet", wait = wait, lookup = lookups.system }))
          socket:close()
          done = done + 1
        end)
      end
      spawn(function()
        for _ = 1, 100 do
          while not listener:accept() do assert(wait(listener:getfd(), "r")) end
        end
      end)
      for _, task in ipairs(tasks) do join(task) end
      order[#order + 1] = "all"
      for _, task in ipairs(stuck) do join(task) end
      sleep(0)
    end)
    assert.equal(100, done)
    assert.equal("all", order[1])
    assert.equal(3, #order)
    assert.equal(1, #kept)
  end)
end)

describe("the recorder", function()
  it("sees both steps, with their fields", function()
    local listener, _, port = sockets.listener()
    local recorder = trace.recorder(true)
    local names = lookups.new { inet = { "127.0.0.9", "127.0.0.1" } }
    assert(dialling(names, port, { recorder = recorder }))
    local dns, tcp = recorder:steps()[1], recorder:steps()[2]
    assert.is_true(dns.ok and tcp.ok)
    assert.same({ "a.test", "a.test", false }, { dns.name, dns.ascii, dns.literal })
    assert.equal("unknown_host", dns.inet6.error)
    assert.equal(2, tcp.winner)
    assert.same({ "refused", "won" }, { tcp.attempts[1].result, tcp.attempts[2].result })
    assert.same({ "127.0.0.1", port }, { tcp.address, tcp.port })
    assert.is_number(recorder:timings().dns)
    assert.is_number(recorder:timings().tcp)
    assert.is_truthy(sockets.accept(listener))
    recorder = trace.recorder(true)
    dial.tcp("::1", port, { recorder = recorder, family = "inet6" })
    assert.is_true(recorder:steps()[1].literal)
    assert.same({ false, "refused" }, { recorder:steps()[2].ok, recorder:steps()[2].error.code })
  end)

  it("sees where it failed", function()
    local recorder = trace.recorder(true)
    dialling(lookups.new {}, 1, { recorder = recorder })
    assert.same({ false, "unknown_host" }, { recorder:steps()[1].ok, recorder:steps()[1].error.code })
    assert.is_nil(recorder:steps()[2].ok)
    recorder = trace.recorder()
    fails("dns", "bad_host", dial.tcp("a b", 1, { recorder = recorder }))
    assert.is_number(recorder:timings().dns)
  end)
end)

describe("dialling a Unix socket", function()
  local function listener(backlog)
    local path = tmp.path("s")
    local socket = core.socket("unix")
    assert(socket:bind(path))
    assert(socket:listen(backlog))
    return socket, path
  end

  it("connects, and tells the recorder", function()
    local server, path = listener()
    local recorder = trace.recorder(true)
    local socket, fields = dial.unix(path, { recorder = recorder })
    assert.equal(2, socket:write("hi"))
    assert.equal("hi", sockets.read(sockets.accept(server), 2))
    assert.equal(path, fields.path)
    assert.same({ true, path }, { recorder:steps()[2].ok, recorder:steps()[2].path })
  end)

  it("names what fails", function()
    local err = fails("tcp", "not_found", dial.unix("/nonexistent/socket", {}))
    assert.matches("/nonexistent/socket", err.message)
    fails("tcp", "bad_path", dial.unix("/tmp/a\0b", {}))
    local server, path = listener()
    server:close()
    local recorder = trace.recorder(true)
    fails("tcp", "refused", dial.unix(path, { recorder = recorder }))
    assert.is_false(recorder:steps()[2].ok)
  end)

  it("waits while the listener's queue is full, until its time is over", function()
    local server, path = listener(0)
    local kept = {}
    repeat
      kept[#kept + 1] = core.socket("unix")
    until not kept[#kept]:connect(path)
    local before = sockets.open_descriptors()
    local err = fails("tcp", "timeout", dial.unix(path, { deadline = core.now() + 0.05 }))
    assert.equal("timeout", err.message)
    fails("tcp", "cancelled", dial.unix(path, { wait = function() return nil, "enough" end }))
    assert.is_true(sockets.at_most_open(before))
    local waits = 0
    local function wait(...)
      waits = waits + 1
      if waits == 3 then assert(server:accept()) end
      return core.poll(...)
    end
    assert.is_truthy((dial.unix(path, { wait = wait })))
    assert.is_true(waits >= 3)
  end)

  it("is not public, and is allowed or not by its path", function()
    local server, path = listener()
    fails("tcp", "address_refused", dial.unix(path, { allow_address = "public" }))
    fails("tcp", "address_refused", dial.unix(path, { allow_address = function() return false end }))
    local asked
    assert(dial.unix(path, { allow_address = function(...)
      asked = { ... }
      return true
    end }))
    assert.same({ path, "unix", path }, asked)
    assert.is_truthy(sockets.accept(server))
  end)
end)

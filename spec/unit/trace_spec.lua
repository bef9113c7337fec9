local trace = require "tlsconnect.trace"
local steps = require "tlsconnect.steps"

describe("the ten steps", function()
  it("are ten, in order, each with its index and its line of help", function()
    assert.equal(10, #steps)
    for i = 1, 10 do
      assert.equal(i, steps.index[steps[i]])
      assert.is_string(steps.about[steps[i]])
    end
    assert.equal("dns", steps[1])
    assert.equal("close", steps[10])
  end)
end)

describe("a recorder", function()
  it("that traces nothing keeps the times of the steps and allocates no table", function()
    local r = trace.recorder()
    r:start("dns", 10)
    r:finish("dns", nil, 10.5)
    r:start("tcp", 10.5)
    assert.is_nil(r.tracing)
    assert.same({ dns = 0.5 }, r:timings())
    for _, value in pairs(r) do assert.is_not_equal("table", type(value)) end
    local rows = r:steps()
    assert.equal(10, #rows)
    assert.same({ step = "dns", started = 0, elapsed = 0.5, ok = true }, rows[1])
    assert.same({ step = "tcp", started = 0.5 }, rows[2])
    assert.same({ step = "close" }, rows[10])
  end)

  it("takes the time from the monotonic clock when none is given", function()
    local r = trace.recorder(false)
    r:start("dns")
    r:finish("dns")
    local took = r:timings().dns
    assert.is_true(took >= 0 and took < 60)
  end)

  it("keeps the fields of each step when tracing, and only then", function()
    for _, option in ipairs { true, false } do
      local r = trace.recorder(option)
      r:start("tcp", 1)
      r:add("tcp", { local_address = "127.0.0.1" })
      r:finish("tcp", { attempts = { { address = "127.0.0.1", ok = true } } }, 2)
      local row = r:steps()[2]
      assert.equal(1, row.elapsed)
      assert.equal(option and "127.0.0.1" or nil, row.local_address)
      assert.same(option and { { address = "127.0.0.1", ok = true } } or nil, row.attempts)
    end
  end)

  it("names the step that failed and copies what the error says, without a circle", function()
    local r = trace.recorder(true)
    local err = { code = "refused", message = "refused by a.test:443", errno = 111 }
    err.trace = { err }
    r:start("dns", 1)
    r:finish("dns", nil, 2)
    r:start("tcp", 2)
    r:fail("tcp", err, 3)
    local rows = r:steps()
    assert.is_true(rows[1].ok)
    assert.is_false(rows[2].ok)
    assert.equal(1, rows[2].elapsed)
    assert.same({ code = "refused", message = "refused by a.test:443", errno = 111 }, rows[2].error)
    assert.is_nil(rows[3].ok)
  end)

  it("delivers each event as it happens", function()
    local events = {}
    local r = trace.recorder(function(event) events[#events + 1] = event end)
    r:start("dns", 100)
    r:event("answer", "dns", { family = "inet", addresses = { "192.0.2.1" } }, 100.25)
    assert.equal(2, #events)
    r:finish("dns", { name = "a.test" }, 100.5)
    r:start("tcp", 100.5)
    r:fail("tcp", { code = "refused", message = "refused" }, 101)
    assert.same({ event = "start", step = "dns", time = 0 }, events[1])
    assert.same({ event = "answer", step = "dns", time = 0.25, family = "inet",
                  addresses = { "192.0.2.1" } }, events[2])
    assert.same({ event = "finish", step = "dns", time = 0.5, name = "a.test" }, events[3])
    assert.same({ event = "fail", step = "tcp", time = 1,
                  error = { code = "refused", message = "refused" } }, events[5])
    assert.equal("a.test", r:steps()[1].name)
  end)

  it("says in each event whom it is about", function()
    local events = {}
    local r = trace.recorder(function(event) events[#events + 1] = event end)
    r:peer("a.test", 443, "server")
    r:start("client_hello", 1)
    assert.same({ event = "start", step = "client_hello", time = 0, host = "a.test", port = 443 }, events[1])
    local plain = trace.recorder()
    plain:peer("a.test", 443, "client")
    assert.is_nil(rawget(plain, "host"))
  end)

  it("refuses a wrong option and an unknown step by name", function()
    assert.has_error(function() trace.recorder(7) end,
      "option 'trace': boolean or function expected, got number")
    assert.has_error(function() trace.recorder():start("tls") end, "no such step: tls")
  end)

  it("keeps a step's first beginning and its last end", function()
    local r = trace.recorder()
    r:start("tcp", 1)
    r:start("tcp", 5)
    r:finish("tcp", nil, 6)
    assert.same({ tcp = 5 }, r:timings())
  end)

  local function session(marks) return { marks = function() return marks end } end

  it("reads steps 3 to 8 from a session's marks, and they add up", function()
    local r = trace.recorder()
    -- The signature is checked before the chain is judged: so GnuTLS calls.
    r:handshake(session { start = 1, client_hello = 1.5, server_hello = 3, certificate = 3.25,
                          key_exchange = 3.5, verify = 3.75, verified = 4,
                          finished_in = 5, finished_out = 5.25, done = 5.5 })
    assert.same({ client_hello = 0.5, server_hello = 1.75, key_exchange = 0.5, verify = 0.25,
                  session_keys = 1, finished = 0.5 }, r:timings())
    assert.equal(4.5, r:steps()[9].started)
  end)

  it("reads an RSA key exchange, whose second half comes after the verdict", function()
    local r = trace.recorder()
    r:handshake(session { start = 1, client_hello = 2, server_hello = 3, certificate = 3, verify = 3.5,
                          verified = 4, key_exchange = 4.5, finished_out = 5, finished_in = 6, done = 6 })
    assert.same({ client_hello = 1, server_hello = 1, verify = 0.5, key_exchange = 1, session_keys = 0,
                  finished = 1 }, r:timings())
  end)

  it("reads a resumed session, which shows no certificate", function()
    local r = trace.recorder()
    r:handshake(session { start = 1, client_hello = 2, server_hello = 4,
                          finished_in = 5, finished_out = 6, done = 6 })
    assert.same({ client_hello = 1, server_hello = 2, key_exchange = 1, session_keys = 0,
                  finished = 1 }, r:timings())
  end)

  it("is left to a session, and read from it again", function()
    local told
    local r = trace.recorder()
    r:start("dns", 1) r:finish("dns", nil, 2) r:start("tcp", 2) r:finish("tcp", nil, 4)
    r:leave { tell = function(_, ...) told = { ... } end }
    assert.same({ 1, 2, 2, 4, false, false }, told)
    local again = trace.of(session { dns = 1, dns_ended = 2, tcp = 2, tcp_ended = 4, start = 4, client_hello = 5,
      server_hello = 6, finished_in = 7, finished_out = 7, done = 8, judging = 8, judged = 9, verify = 3,
      verified = 3 })
    assert.same({ dns = 1, tcp = 2, client_hello = 1, server_hello = 1, verify = 1, key_exchange = 4,
      session_keys = 0,
      finished = 1 }, again:timings())
    assert.equal(1, again:origin())
  end)

  it("leaves out what a broken handshake never reached", function()
    local r = trace.recorder()
    r:handshake(session { start = 1, client_hello = 2 })
    r:fail("server_hello", { code = "closed", message = "closed" }, 4)
    local rows = r:steps()
    assert.equal(1, rows[3].elapsed)
    assert.is_false(rows[4].ok)
    assert.equal(2, rows[4].elapsed)
    for i = 5, 10 do assert.is_nil(rows[i].ok) end
  end)
end)

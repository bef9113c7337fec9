-- Early data (0-RTT): what a server takes, and never twice; what a client gives away, and to whom.
local child = require "spec.support.child"
local core = require "tlsconnect.core"
local pki = require "spec.support.pki"
local scheduler = require "spec.support.scheduler"
local sessions = require "spec.support.sessions"
local sockets = require "spec.support.sockets"
local tlsconnect = require "tlsconnect"

local authority = pki.shared()
local site = authority:issue { name = "a.test" }

local function early_context(options)
  local context = sessions.certify(sessions.context(options or {}), site)
  assert(context:early_data())
  return context
end

-- A ticket of a server that takes early data.
local function ticket_of(client_context, server_context, options)
  local pair = sessions.connected { client_context = client_context, server_context = server_context,
    client_session = options }
  pair.server:write("x")
  pair:pump()
  pair.client:read(1)
  return pair.client:ticket()
end

-- A pair whose client says `text` as early data.
local function early_pair(client_context, server_context, ticket, text, options)
  local given = { ticket = ticket }
  for name, value in pairs(options or {}) do given[name] = value end
  local pair = sessions.pair { client_context = client_context, server_context = server_context,
    client_session = given }
  assert(pair.client:first(text, true))
  return pair
end

describe("early data of a session", function()
  local client, server
  before_each(function()
    client, server = sessions.context {}, early_context()
  end)

  it("is handed out before the handshake is complete by early() alone, and once", function()
    local ticket, _, limit = ticket_of(client, server)
    assert.equal(16384, limit)
    local pair = early_pair(client, server, ticket, "hello")
    pair.client:handshake()
    pair:move("client", "server")
    assert.same({ nil, "want_read" }, { pair.server:handshake() })
    assert.equal("not_ready", (select(3, pair.server:read("some"))).code)
    assert.equal("hello", pair.server:early())
    assert.equal("", pair.server:early())
    local a, b = pair:handshake()
    assert.is_true(a.ok and b.ok)
    assert.equal("early", pair.client:first_sent())
    pair.client:write("more")
    pair:pump()
    assert.equal("more", pair.server:read("some"))
    assert.equal(9, pair.server:counters().bytes_in)
  end)

  it("is read after the handshake where nobody asked for it before", function()
    local pair = early_pair(client, server, (ticket_of(client, server)), "hello ")
    local a, b = pair:handshake()
    assert.is_true(a.ok and b.ok)
    pair.client:write("world")
    pair:pump()
    assert.equal("hello world", pair.server:read(11))
    assert.equal("", pair.server:early())
  end)

  it("is refused by default, and costs no connection", function()
    local plain = sessions.certify(sessions.context {}, site)
    local _, _, limit = ticket_of(client, plain)
    assert.equal(0, limit)
    local pair = early_pair(client, plain, (ticket_of(client, plain)), "hello")
    local a, b = pair:handshake()
    assert.is_true(a.ok and b.ok)
    assert.is_true(pair.client:resumed())
    assert.is_nil(pair.client:first_sent())
    pair.client:write("late")
    pair:pump()
    assert.equal("late", pair.server:read("some"))
  end)

  it("K8 is taken once: a flight that is sent again is refused whole, whatever comes between", function()
    local pair = early_pair(client, server, (ticket_of(client, server)), "hello")
    pair.client:handshake()
    local flight = pair.client:drain()
    local taken = 0
    for i = 1, 200 do
      local replayed = assert(server:session("server", { memory = true }))
      replayed:feed(flight)
      assert.same({ nil, "want_read" }, { replayed:handshake() })
      if replayed:early() ~= "" then taken = taken + 1 end
      assert.equal(i == 1 and 1 or taken, taken)
      if i % 50 == 0 then
        -- Others are taken meanwhile, and do not push it out.
        local other = early_pair(client, server, (ticket_of(client, server)), "other")
        assert.is_true(other:handshake().ok)
        assert.equal("early", other.client:first_sent())
      end
    end
    assert.equal(1, taken)
  end)

  it("K8 is not taken by a context that did not see the first flight", function()
    -- reload() makes a context with the same ticket key: it goes on with the memory of the old one.
    local pair = early_pair(client, server, (ticket_of(client, server)), "hello")
    pair.client:handshake()
    local flight = pair.client:drain()
    local first = assert(server:session("server", { memory = true }))
    first:feed(flight)
    first:handshake()
    assert.equal("hello", first:early())
    local reloaded = early_context()
    assert(reloaded:tickets(server))
    local second = assert(reloaded:session("server", { memory = true }))
    second:feed(flight)
    assert.same({ nil, "want_read" }, { second:handshake() })
    assert.equal("", second:early())
    local fresh = early_pair(client, reloaded, (ticket_of(client, server)), "hello")
    fresh:handshake()
    assert.equal("early", fresh.client:first_sent())
  end)

  it("K8 is not taken by the child of a fork, which does not know what its parent takes", function()
    local result = child.run(([[
      local sessions = require "spec.support.sessions"
      local client = sessions.context {}
      local server = sessions.certify(sessions.context {}, { chain = %q, key = %q })
      assert(server:early_data())
      local pair = sessions.connected { client_context = client, server_context = server }
      pair.server:write("x")
      pair:pump()
      pair.client:read(1)
      local talker = assert(client:session("client", { memory = true, server_name = "a.test",
        ticket = (pair.client:ticket()) }))
      assert(talker:first("hello", true))
      talker:handshake()
      local flight = talker:drain()
      local side = os.getenv("SPEC_FORK")
      local taker = assert(server:session("server", { memory = true }))
      taker:feed(flight)
      assert(select(2, taker:handshake()) == "want_read")
      local early = taker:early()
      if side == "child" then
        io.stdout:write("child took '" .. early .. "'\n")
        io.stdout:close()
        os.exit(0, true)
      end
      print(os.getenv("SPEC_WAIT"))
      print("parent took '" .. early .. "'")
    ]]):format(site.chain, site.key), { shim = true })
    assert.equal("", result.err)
    assert.equal("child took ''\nexit 0\nparent took 'hello'\n", result.out)
  end)

  it("K8 is refused where the memory of this stretch is full, and costs no connection", function()
    local result = child.run(([[
      local sessions = require "spec.support.sessions"
      local client = sessions.context {}
      local server = sessions.certify(sessions.context {}, { chain = %q, key = %q })
      assert(server:early_data())
      local function new_ticket()
        local pair = sessions.connected { client_context = client, server_context = server }
        pair.server:write("x")
        pair:pump()
        pair.client:read(1)
        return (pair.client:ticket())
      end
      local ticket
      -- Whether the first words of a new client are taken as early data.
      local function taken()
        local talker = assert(client:session("client", { memory = true, server_name = "a.test", ticket = ticket }))
        assert(talker:first("hello", true))
        talker:handshake()
        local taker = assert(server:session("server", { memory = true }))
        taker:feed(talker:drain())
        assert(select(2, taker:handshake()) == "want_read")
        local early = taker:early()
        local flight = taker:drain()
        if early == "" then
          -- The handshake goes on, and the words are said after it.
          talker:feed(flight)
          assert(talker:handshake() and not talker:first_sent())
          talker:write("late")
          taker:feed(talker:drain())
          assert(taker:handshake())
          assert(taker:read("some") == "late")
        end
        talker:close()
        taker:close()
        return early == "hello"
      end
      os.getenv("SPEC_CLOCK") -- the recording changes by the clock
      ticket = new_ticket()
      local count = 0
      while count < 20000 and taken() do count = count + 1 end
      print(count)
      for _ = 1, 3 do assert(not taken()) end
      os.getenv("SPEC_CLOCK")
      ticket = new_ticket()
      print(taken())
    ]]):format(site.chain, site.key), { shim = true, timeout = 600 })
    assert.equal("", result.err)
    assert.equal("16384\ntrue\n", result.out)
  end)

  it("is of the protocol that the ticket is of", function()
    local many = early_context { alpn = { "h2", "http/1.1" } }
    local ticket = ticket_of(client, many, { alpn = { "h2", "http/1.1" } })
    local same = early_pair(client, many, ticket, "hello", { alpn = { "h2", "http/1.1" } })
    same:handshake()
    assert.equal("early", same.client:first_sent())
    local other = early_pair(client, many, ticket, "hello", { alpn = { "http/1.1" } })
    assert.is_true(other:handshake().ok)
    assert.is_nil(other.client:first_sent())
  end)

  it("that is longer than one flight is not sent", function()
    local pair = sessions.pair { client_context = client, server_context = server,
      client_session = { ticket = (ticket_of(client, server)) } }
    local ok, _, cause = pair.client:first(("x"):rep(8193), true)
    assert.is_nil(ok)
    assert.equal("too_long", cause.code)
    assert.has_error(function() pair.server:first("x") end)
  end)

  it("ends a handshake with HelloRetryRequest, to be made once more without", function()
    local picky = early_context { priority = "-GROUP-ALL:+GROUP-SECP384R1" }
    local ticket = ticket_of(client, picky)
    local pair = early_pair(client, picky, ticket, "hello")
    local a = pair:handshake()
    assert.is_nil(a.ok)
    assert.equal("HelloRetryRequest", a.cause.at)
  end)
end)

describe("a listener with early_data", function()
  local function listen(wait, options)
    options = options or {}
    options.certificate, options.key, options.wait, options.timeout = site.chain, site.key, wait, 30
    if options.early_data == nil then options.early_data = true end
    local listener = assert(tlsconnect.listen("127.0.0.1", 0, options))
    return listener, (select(2, listener:address()))
  end

  -- Answers each line with one, and notes what came early. Ends with the listener.
  local function serve(spawn, listener, seen)
    return spawn(function()
      while true do
        local peer = listener:accept()
        if not peer then return end
        spawn(function()
          local line = peer:early()
          if line then seen[#seen + 1] = line end
          line = line or peer:receive("*L")
          if line then peer:send("got " .. line) end
          peer:receive()
          peer:close()
        end)
      end
    end)
  end

  local function visit(port, wait, context, text, options)
    local given = { context = context, server_name = "a.test", wait = wait, timeout = 30, early_data = text }
    for name, value in pairs(options or {}) do given[name] = value end
    local client, message, err = tlsconnect.connect("127.0.0.1", port, given)
    if not client then return nil, message, err end
    local answer = assert(client:receive())
    local info = client:info()
    client:close()
    return answer, info
  end

  it("hands it out before the handshake, and the client's words arrive once, early or late", function()
    scheduler.run(function(spawn, wait)
      local seen = {}
      local listener, port = listen(wait)
      serve(spawn, listener, seen)
      local context = assert(tlsconnect.context { ca_file = authority.ca_file })
      assert.equal("got one", (visit(port, wait, context, "one\n")))
      local answer, info = visit(port, wait, context, "two\n")
      assert.same({ "got two", true, true }, { answer, info.early_data, info.resumed })
      -- It comes before or with the end of the handshake.
      assert.is_true(#seen <= 1 and (seen[1] or "two\n") == "two\n")
      listener:close()
      -- A listener that takes none, with the same tickets' client.
      listener, port = listen(wait, { early_data = false })
      serve(spawn, listener, seen)
      for _ = 1, 2 do
        answer, info = visit(port, wait, context, "three\n")
        assert.same({ "got three", false }, { answer, info.early_data })
      end
      assert.is_true(#seen <= 1)
      listener:close()
    end)
  end)

  it("K8 answers a recorded flight that is sent once more with nothing", function()
    scheduler.run(function(spawn, wait)
      local seen = {}
      local listener, port = listen(wait)
      serve(spawn, listener, seen)
      local context = assert(tlsconnect.context { ca_file = authority.ca_file })
      local kept
      local store = context:sessions()
      local give = store.give
      store.give = function(self, key, data, ...)
        kept = data
        return give(self, key, data, ...)
      end
      visit(port, wait, context, "one\n")
      local client = assert(sessions.context {}:session("client", { memory = true, server_name = "a.test",
        ticket = kept }))
      assert(client:first("pay\n", true))
      client:handshake()
      local flight = client:drain()
      for _ = 1, 4 do
        local socket = sockets.connect("127.0.0.1", port)
        assert(socket:write(flight))
        assert(wait(socket:getfd(), "r", core.now() + 30)) -- the server's flight: it has looked at all of ours
        socket:close()
      end
      local count = 0
      for _, text in ipairs(seen) do if text == "pay\n" then count = count + 1 end end
      assert.equal(1, count)
      assert.is_true(visit(port, wait, context, "two\n") == "got two")
      listener:close()
    end)
  end)

  it("K8 gets no early data before what its client remembers has been judged anew", function()
    scheduler.run(function(spawn, wait)
      local seen, asked = {}, {}
      local listener, port = listen(wait)
      serve(spawn, listener, seen)
      local good = true
      local context = assert(tlsconnect.context { ca_file = authority.ca_file })
      local options = { verify = function(_, info)
        asked[#asked + 1] = info.resumed
        return good or nil, "no more"
      end }
      assert(visit(port, wait, context, "one\n", options))
      assert(visit(port, wait, context, "two\n", options))
      good = false
      local ok, _, err = visit(port, wait, context, "secret\n", options)
      assert.is_nil(ok)
      assert.equal("verify_refused", err.code)
      assert.same({ false, true, true, false }, asked)
      good = true
      assert(visit(port, wait, context, "three\n", options))
      for _, text in ipairs(seen) do assert.not_equal("secret\n", text) end
      -- The time is one of the things that are looked at.
      assert(visit(port, wait, context, "four\n"))
      ok, _, err = visit(port, wait, context, "secret\n", { verify_time = os.time() + 10 * 365 * 86400 })
      assert.is_nil(ok)
      assert.equal("expired", err.code)
      for _, text in ipairs(seen) do assert.not_equal("secret\n", text) end
      listener:close()
    end)
  end)

  it("shares no key with other processes", function()
    assert.error_matches(function() listen(nil, { tickets = ("k"):rep(64) }) end, "bad option 'early_data' .*process")
    assert.error_matches(function() listen(nil, { tickets = false }) end, "bad option 'early_data' .*'tickets'")
  end)
end)

describe("early data that was taken", function()
  it("is of the protocol that was agreed on, or the connection fails (RFC 8446 4.2.10)", function()
    local early = require "tlsconnect.early"
    local function deliver(agreed)
      local session = { first_sent = function() return "early" end, info = function() return { alpn = agreed } end }
      return early.deliver({ session = session, host = "a.test", port = 443 }, { offered = { alpn = "http/1.1" } })
    end
    assert.is_true((deliver("http/1.1")))
    for _, agreed in ipairs { "h2", false } do
      local ok, message, err = deliver(agreed or nil)
      assert.is_nil(ok)
      assert.same({ "finished", "early_protocol" }, { err.step, err.code })
      assert.equal("a.test:443 took early data, and agreed on another protocol for it", message)
    end
  end)
end)

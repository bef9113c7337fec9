local core = require "tlsconnect.core"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local sessions = require "spec.support.sessions"

local authority = pki.shared()
local site = authority:issue { name = "a.test" }
local tls12, tls13 = "-VERS-TLS1.3", "-VERS-TLS1.2"

local function code_of(_, _, cause)
  return cause and cause.code
end

--- A session inside another: both pairs over memory, or over the pair `under`, whose bytes `pump` moves. Returns
-- inner and outer pair.
local function nested(options)
  options = options or {}
  local outer = options.under or sessions.connected(options)
  local inner = setmetatable({}, { __index = sessions.pair() })
  inner.client = assert(sessions.context({}):session("client", { session = outer.client, server_name = "a.test" }))
  inner.server = assert(sessions.context({ certificate = site }):session("server", { session = outer.server }))
  for _ = 1, 10 do
    for _, side in ipairs { "client", "server" } do
      local _, text = inner[side]:handshake()
      if text == "want_verify" then inner[side]:verdict(true) end
    end
    if options.pump then options.pump() else outer:pump() end
  end
  assert(inner.client:handshake())
  assert(inner.server:handshake())
  return inner, outer
end

describe("TLS in TLS", function()
  it("carries data through both sessions", function()
    for _, priority in ipairs { tls12, tls13 } do
      local inner, outer = nested { client = { priority = priority } }
      local long = ("abcdefgh"):rep(20000)
      assert.equal(#long, inner.client:write(long))
      outer:pump()
      assert.equal(long, inner.server:read(#long))
      assert.equal("want_read", select(2, inner.client:read("l")))
      assert.equal("r", inner.client:want())
      assert.is_true(inner.client:close_notify())
      outer:pump()
      assert.equal("closed", code_of(inner.server:read("l")))
      assert.equal("want_read", select(2, outer.server:read("l"))) -- the outer one lives on
    end
  end)

  it("A5 is truncated when the outer session ends well and the inner one only stops", function()
    local inner, outer = nested()
    inner.server:write("half")
    outer.server:close_notify()
    outer:pump()
    local data, _, cause = inner.client:read("a")
    assert.is_nil(data)
    assert.equal("truncated", cause.code)
    assert.equal("half", inner.client:take())
  end)

  it("A5 is truncated when the outer session is", function()
    local inner, outer = nested()
    outer.client:feed(nil)
    assert.equal("truncated", code_of(inner.client:read("a")))
  end)

  it("starts with what the program left unread in the outer session", function()
    local outer = sessions.connected()
    outer.server:write("HTTP/1.1 200 OK\r\n\r\n")
    local probe = sessions.pair()
    probe.client:handshake() -- its ClientHello stands for the first bytes of the tunnel
    outer.server:write(probe.client:drain())
    outer:pump()
    assert.equal("HTTP/1.1 200 OK\r\n\r\n", outer.client:read("head"))
    local inner = sessions.context({ certificate = site }):session("server", { session = outer.client })
    assert.equal("want_read", select(2, inner:handshake()))
    assert.equal("Finished", (inner:awaiting()))
  end)

  it("survives its outer session, in any order", function()
    local inner, outer = nested()
    outer.client:close()
    assert.equal("closed", code_of(inner.client:read("l")))
    assert.equal("closed", code_of(inner.client:write("x")))
    inner, outer = nested()
    outer.client = nil
    collectgarbage() collectgarbage()
    assert.equal(5, inner.client:write("still"))
    assert.has_error(function() sessions.context({}):session("client", { session = 5 }) end)
    assert.equal("closed", code_of(sessions.context({}):session("client", { session = (function()
      local session = sessions.pair().client
      session:close()
      return session
    end)() })))
  end)

  it("may be three deep, and the one in the middle may end first", function()
    local middle, bottom = nested()
    local top = nested({ under = middle, pump = function() bottom:pump() end })
    local record = ("x"):rep(16384)
    top.server:write(record .. record)
    bottom:pump()
    assert.equal("x", top.client:read(1))
    assert.equal(16383 + 10, #top.client:read(16383 + 10)) -- the rest of the second one is left in GnuTLS
    assert.is_true(top.client:pending() > 0)
    middle.client:close()
    assert.equal(16374, #top.client:read(16374))
    assert.equal("closed", code_of(top.client:read(1)))
  end)

  it("tells of what waits in the session below, which no wait on the descriptor sees", function()
    local inner, outer = nested()
    assert.is_true(outer.server:cork())
    inner.server:write("one")
    inner.server:write("two")
    assert.is_true(outer.server:uncork()) -- both in one record of the outer session
    outer:pump()
    assert.equal(0, inner.client:pending())
    assert.equal("one", inner.client:read(3))
    assert.is_true(inner.client:pending() > 0)
    assert.equal("two", inner.client:read(3))
    assert.equal(0, inner.client:pending())
  end)

  it("waits for what the socket at the bottom waits for", function()
    local near, far = sessions.sockets()
    local outer = { client = sessions.context({}):session("client", { socket = near }),
      server = sessions.context({ certificate = site }):session("server", { socket = far }) }
    sessions.both(outer)
    local inner = { client = sessions.context({}):session("client", { session = outer.client }),
      server = sessions.context({ certificate = site }):session("server", { session = outer.server }) }
    assert.equal("want_read", select(2, inner.client:handshake()))
    assert.equal("r", inner.client:want())
    sessions.both(inner)
    local data, sent, received, blocked = ("0123456789abcdef"):rep(500000), 0, {}, false
    local total = 0
    while total < #data do
      if sent < #data then
        local last, want, at = inner.client:write(data, sent + 1)
        sent = last or at
        if not last and inner.client:want() == "w" then
          assert.equal("want_write", want)
          blocked = true
        end
      end
      local piece = blocked and inner.server:read("some", 1000000) -- until then nobody reads
      if piece then received[#received + 1], total = piece, total + #piece end
    end
    assert.is_true(data == table.concat(received))
    assert.equal("want_read", select(2, inner.server:read("some")))
    assert.equal("r", outer.server:want())
  end)
end)

describe("the memory transport", function()
  it("takes bytes one by one", function()
    local pair = sessions.pair { whole = true, tamper = function(_, bytes) return bytes end }
    local function trickle(from, to)
      for byte in pair[from]:drain():gmatch(".") do
        pair[to]:feed(byte)
        local _, want = pair[to]:handshake()
        if want == "want_verify" then pair[to]:verdict(true) end
      end
    end
    pair.client:handshake()
    for _ = 1, 5 do trickle("client", "server") trickle("server", "client") end
    assert.is_true(pair.client:handshake())
    assert.is_true(pair.server:handshake())
  end)

  it("has no end until it is told so", function()
    local pair = sessions.pair()
    pair.client:handshake()
    assert.equal("want_read", select(2, pair.client:handshake()))
    pair.client:feed(nil)
    assert.equal("closed", code_of(pair.client:handshake()))
    assert.equal("", sessions.pair().client:drain())
    local server = peers.openssl_server { cert = site }
    local session = sessions.client(server)
    assert.has_error(function() session:feed("x") end)
    assert.has_error(function() session:drain() end)
  end)
end)

describe("sockets and sessions", function()
  it("may be collected in any order", function()
    local server = peers.openssl_server { cert = site, mode = "-rev" }
    for _, first in ipairs { "socket", "session" } do
      local things = {}
      things.session, things.socket = sessions.client(server)
      assert.is_true(sessions.finish(things.session, things.socket, "handshake"))
      local fd = things.socket:getfd()
      things[first] = nil
      collectgarbage() collectgarbage()
      if first == "socket" then
        assert.equal(2, things.session:write("x\n"))
        assert(core.poll(fd, "r", core.now() + 30))
      end
      things.socket, things.session = nil, nil
      collectgarbage() collectgarbage()
      assert.equal("closed", code_of(core.poll(fd, "r", core.now())))
    end
  end)

  it("give each other: a session has its socket's descriptor, until it is closed", function()
    local session, socket = sessions.client(peers.openssl_server { cert = site, mode = "-rev" })
    local fd = socket:getfd()
    socket = nil -- luacheck: ignore 311
    collectgarbage() collectgarbage()
    local again = session:socket()
    assert.equal(fd, again:getfd())
    assert.is_truthy(again:peer_address())
    session:close()
    assert.is_nil(session:socket())
    assert.equal(fd, again:getfd())
    assert.is_true(again:close())
    assert.equal("closed", code_of(again:peer_address()))
    assert.is_nil(sessions.pair().client:socket())
  end)

  -- A client's session over a socket, complete, and a server's over memory. sent(): what has left on the socket.
  -- behind: what the server says at once behind its Finished.
  local function complete(options, behind)
    local near, far = sessions.sockets()
    options.socket, options.server_name = near, "a.test"
    local client = assert(sessions.context({ priority = options.priority }):session("client", options))
    local context = sessions.context { certificate = site, tickets = false }
    local server = assert(context:session("server", { memory = true }))
    local function sent() return far:read("some", 65536) or far:take() end
    local pair = { client = client, server = server, near = near, far = far, sent = sent, writes = {} }
    for _ = 1, 4 do
      local done, want = client:handshake()
      if want == "want_verify" then
        client:verdict(true)
        done, want = client:handshake()
      end
      if done then return pair end
      assert.equal("want_read", want)
      local words = sent()
      pair.writes[#pair.writes + 1] = words
      server:feed(words)
      server:handshake()
      words = server:drain()
      if words ~= "" then assert(far:write(words .. (behind or ""))) end
      assert(core.poll(near:getfd(), "r", core.now() + 30))
    end
    error("the handshake does not end")
  end

  local function kinds(bytes)
    local list = {}
    for i, record in ipairs(sessions.records(bytes)) do list[i] = record:byte() end
    return table.concat(list, " ")
  end

  it("send what ends a client's handshake in one go", function()
    assert.equal("20 23", kinds(complete({ priority = tls13 }).sent()))
    assert.equal("22 20 22", kinds(complete({ priority = tls12 }).writes[2]))
  end)

  it("send the first words in one go with what ends the handshake, where they are to follow", function()
    local pair = complete { priority = tls13, words_follow = true }
    assert.is_nil((pair.far:read("some", 1)))
    assert.equal(5, pair.client:write("hello"))
    local words = pair.sent()
    assert.equal("20 23 23", kinds(words))
    pair.server:feed(words)
    assert.is_true(pair.server:handshake())
    assert.equal("hello", pair.server:read(5))
  end)

  it("hold back nothing that they then wait for", function()
    local pair = complete { priority = tls13, words_follow = true }
    assert.equal("want_read", select(2, pair.client:read("l")))
    pair.server:feed(pair.sent())
    assert.is_true(pair.server:handshake())
    pair.server:write("welcome\n")
    assert(pair.far:write(pair.server:drain()))
    assert.equal("welcome", sessions.finish(pair.client, pair.near, "read", "l"))
  end)

  it("send what they held back before they say good-bye", function()
    local pair = complete { priority = tls13, words_follow = true }
    assert.is_true(pair.client:close_notify(false))
    pair.server:feed(pair.sent())
    assert.is_true(pair.server:handshake())
    assert.equal("closed", code_of(pair.server:read("l")))
  end)

  it("leave what comes behind the handshake where a wait sees it", function()
    local pair = complete({ priority = tls13 }, sessions.record(23, ("x"):rep(40)))
    assert.equal(0, pair.client:pending())
    assert.is_true(core.poll(pair.near:getfd(), "r", core.now()))
    assert.equal("bad_record", code_of(pair.client:read("l")))
  end)

  it("tell of a record without a body behind the handshake", function()
    local pair = complete({ priority = tls13 }, sessions.record(23, ""))
    assert.is_true(pair.client:pending() > 0)
    local _, want, cause = pair.client:read("l")
    assert.is_true(want == "want_read" or cause ~= nil)
  end)
end)

local core = require "tlsconnect.core"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local sessions = require "spec.support.sessions"

local authority = pki.shared()
local site = authority:issue { name = "a.test" }
local tls12, tls13 = "-VERS-TLS1.3", "-VERS-TLS1.2"
local record, message = sessions.record, sessions.message

--- A client that has sent its ClientHello, and gets these bytes and then, unless told, no more.
local function answered(bytes, open, options)
  local pair = sessions.pair(options)
  pair.client:handshake()
  pair.client:drain()
  pair.client:feed(bytes)
  if not open then pair.client:feed(nil) end
  local ok, text, cause = pair.client:handshake()
  assert.is_nil(ok)
  return cause, text, pair.client
end

--- A part of a string in place of another, byte for byte.
local function replace(text, old, new)
  local from, to = text:find(old, 1, true)
  return from and text:sub(1, from - 1) .. new .. text:sub(to + 1) or text
end

local function code_of(_, _, cause)
  return cause and cause.code
end

describe("a peer that speaks no TLS", function()
  it("S4 is named, with its first bytes", function()
    for _, bytes in ipairs {
      "HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n", "220 mail.test ESMTP\r\n",
      "x", "\0\0\0\0\0\0\0\0\0",
    } do
      local cause, text = answered(bytes)
      assert.equal("not_tls", cause.code)
      assert.equal(bytes, cause.first_bytes)
      assert.equal("ServerHello", cause.at)
      assert.equal("server_hello", cause.step)
      assert.is_nil(text:find("[\r\n%z]"))
    end
    local cause, text = answered("HTTP/1.1 200 OK\r\n" .. ("x"):rep(500))
    assert.equal(64, #cause.first_bytes)
    assert.matches('speaks no TLS: its first bytes are "HTTP/1.1 200 OK\\x0d\\x0axxx', text, 1, true)
  end)

  it("S4 is named over a socket, and a server names such a client", function()
    local peer = peers.raw [[ peer:send("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n") peer:drain() ]]
    local session, socket = sessions.client(peer)
    local _, _, cause = sessions.finish(session, socket, "handshake")
    assert.equal("not_tls", cause.code)
    assert.equal("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", cause.first_bytes)

    local pair = sessions.pair()
    pair.server:feed("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    _, _, cause = pair.server:handshake()
    assert.equal("not_tls", cause.code)
    assert.equal("ClientHello", cause.at)
    assert.equal("client_hello", cause.step)
  end)
end)

describe("an older version", function()
  it("S5 of TLS is refused: 1.1 by a ServerHello", function()
    local hello = "\3\2" .. ("r"):rep(32) .. "\0" .. "\192\19" .. "\0"
    local cause, _, client = answered(record(22, message(2, hello)))
    assert.equal("version_refused", cause.code)
    assert.equal("ServerHello", cause.at)
    assert.matches("\21\3.\0\2\2\70$", client:drain()) -- fatal protocol_version
  end)

  it("S5 forced from outside is known by the downgrade mark", function()
    local pair = sessions.pair { tamper = function(from, bytes)
      -- supported_versions (RFC 8446 4.2.1): 1.3 made unknown on its way to the server
      if from == "client" then bytes = replace(bytes, "\0\43\0\5\4\3\4\3\3", "\0\43\0\5\4\3\9\3\3") end
      return bytes
    end }
    local client = pair:handshake()
    assert.equal("downgrade", client.cause.code)
    assert.equal("ServerHello", client.cause.at)
    assert.equal("downgrade", code_of(pair.client:handshake())) -- no second, weaker try
  end)
end)

describe("ALPN", function()
  it("S6 is refused when the server picks what was not offered, and its bytes are shown", function()
    for _, mandatory in ipairs { true, false } do
      local pair = sessions.pair { client = { priority = tls12, alpn = { "h2" }, mandatory = mandatory },
        server = { alpn = { "h2" } },
        tamper = function(from, bytes)
          if from == "server" then bytes = replace(bytes, "\0\3\2h2", "\0\3\2\n2") end
          return bytes
        end }
      local client = pair:handshake()
      assert.equal("no_common_alpn", client.cause.code)
      assert.equal("\n2", client.cause.alpn)
      assert.matches('the protocol "\\x0a2", which was not offered', client.message, 1, true)
    end
  end)

  it("S6 is refused when the server picks none though one is demanded", function()
    for _, priority in ipairs { tls12, tls13 } do
      local pair = sessions.pair { client = { priority = priority, alpn = { "h2" }, mandatory = true } }
      local client, server = pair:handshake()
      assert.equal("no_common_alpn", client.cause.code)
      assert.equal("the peer agreed on no application protocol", client.message)
      assert.is_nil(pair.client:handshake())
      assert.equal("no_common_alpn", code_of(pair.client:write("GET /")))
      assert.is_true(server.ok == nil or code_of(pair.server:read("l")) == "no_common_alpn")
    end
  end)

  it("S6 is refused by a server that speaks none of what is offered, and not asked of who offers nothing", function()
    for _, priority in ipairs { tls12, tls13 } do
      local spoken = { alpn = { "h2" }, mandatory = true }
      local client, server = sessions.pair({ client = { priority = priority, alpn = { "h3" } },
        server = spoken }):handshake()
      assert.same({ "no_common_alpn", "no_application_protocol" }, { client.cause.code, client.cause.alert })
      assert.equal("no_common_alpn", server.cause.code)
      local pair = sessions.connected { client = { priority = priority }, server = spoken }
      assert.is_nil(pair.server:info().alpn)
      pair = sessions.connected { client = { priority = priority, alpn = { "h3", "h2" } }, server = spoken }
      assert.equal("h2", pair.server:info().alpn)
    end
  end)

  it("may find nothing where it is not demanded", function()
    local pair = sessions.connected { client = { alpn = { "h2" } } }
    assert.is_nil(pair.client:info().alpn)
  end)
end)

--- Ends the peer's stream after each of its records in turn, and collects what was awaited.
local function stop_at_each(side, priority, stop)
  local seen = {}
  for after = 0, 20 do
    local pair = sessions.pair { client = { priority = priority }, tamper = function(from, bytes, number)
      if from == side then return bytes end
      if number == after + 1 then return stop end
      return number <= after and bytes or nil
    end }
    if after == 0 and side == "server" then pair.server:feed(stop or nil) end
    local client, server = pair:handshake()
    local result = side == "client" and client or server
    if result.ok then return seen, pair end
    seen[#seen + 1] = result.cause.at
    assert.equal("closed", result.cause.code, result.message)
    assert.is_string(result.cause.step)
    assert.equal("closed", code_of(pair[side]:handshake()))
  end
  error("the handshake never ends")
end

describe("a peer that stops", function()
  it("S7 with FIN at each message is told by what was awaited", function()
    assert.same({ "ServerHello", "EncryptedExtensions", "EncryptedExtensions", "Certificate", "CertificateVerify",
      "Finished" }, (stop_at_each("client", tls13, false)))
    assert.same({ "ServerHello", "Certificate", "ServerKeyExchange", "ServerHelloDone", "Finished", "Finished",
      "Finished" }, (stop_at_each("client", tls12, false)))
    assert.same({ "ClientHello", "Finished", "Finished" }, (stop_at_each("server", tls13, false)))
    assert.same({ "ClientHello", "ClientKeyExchange", "Finished", "Finished" }, (stop_at_each("server", tls12, false)))
  end)

  it("S7 with close_notify in place of ServerHello is told so", function()
    local cause = answered(record(21, "\1\0"), true)
    assert.equal("closed", cause.code)
    assert.equal("close_notify", cause.alert)
    assert.equal("ServerHello", cause.at)
  end)

  it("S7 with a reset says so and what was awaited", function()
    local server = peers.openssl_server { cert = site, mode = "-rev" }
    for version, cases in pairs {
      [tls12] = { [0] = "ServerHello", "Certificate", "ServerKeyExchange", "ServerHelloDone" },
      [tls13] = { [0] = "ServerHello", "EncryptedExtensions" },
    } do
      for after, at in pairs(cases) do
        for act, code in pairs { reset = "reset", close = "closed" } do
          local relay = peers.relay { to = server, after = after, act = act }
          local session, socket = sessions.client(relay, { priority = version })
          local ok, _, cause = sessions.finish(session, socket, "handshake")
          assert.is_nil(ok)
          -- What has not been read may be turned into a reset by the kernel.
          assert.is_true(cause.code == code or cause.code == "reset", cause.code)
          assert.equal(at, cause.at)
          if cause.code == "reset" then assert.is_number(cause.errno) end
          session:close() socket:close()
        end
      end
    end
  end)

  it("tells a reset from a truncation once data flow", function()
    local server = peers.openssl_server { cert = site, mode = "-rev" }
    for act, code in pairs { reset = "reset", close = "truncated" } do
      local relay = peers.relay { to = server, record = ([[
        if from == "client" and record:byte() == 23 then
          seen = (seen or 0) + 1
          if seen == 2 then relay:%s() end
        end
        return record]]):format(act) }
      local session, socket = sessions.client(relay, { priority = tls12 })
      assert.is_true(sessions.finish(session, socket, "handshake"))
      sessions.finish(session, socket, "write", "abc\n")
      assert.equal("cba", sessions.finish(session, socket, "read", "l"))
      sessions.finish(session, socket, "write", "last\n")
      local _, _, cause = sessions.finish(session, socket, "read", "l")
      assert.equal(code, cause.code)
      assert.equal("data", cause.step)
      session:close() socket:close()
    end
  end)
end)

describe("floods", function()
  it("S8 of warnings in place of a ServerHello end early", function()
    local cause = answered(record(21, "\1\112"):rep(10000))
    assert.equal("protocol_error", cause.code)
    assert.equal("ServerHello", cause.at)
  end)

  it("S8 of empty records in place of a ServerHello end early", function()
    assert.equal("protocol_error", answered(record(22, ""):rep(10000)).code)
    assert.equal("protocol_error", answered(record(23, ""):rep(10000)).code)
    assert.equal("protocol_error", answered(record(20, "\1"):rep(10000)).code)
  end)

  it("S8 of warnings after the handshake of TLS 1.2 end, too", function()
    local pair = sessions.connected { client = { priority = tls12 } }
    -- In the clear where they must not be: refused at the first.
    pair.client:feed(record(21, "\1\112"):rep(10000))
    assert.equal("bad_record", code_of(pair.client:read("l")))
  end)

  it("S8 of change_cipher_spec in TLS 1.3 are bounded", function()
    local pair = sessions.pair { tamper = function(from, bytes, number)
      if from == "server" and number == 1 then return bytes .. record(20, "\1"):rep(10000) end
      return bytes
    end }
    local client = pair:handshake()
    assert.equal("protocol_error", client.cause.code)
  end)

  it("K3 of KeyUpdates are bounded", function()
    local pair = sessions.connected { client = { priority = tls13 } }
    for _ = 1, 1000 do assert.is_true(pair.server:update_keys(true)) end
    pair:pump()
    local _, _, cause = pair.client:read("l")
    assert.equal("protocol_error", cause.code)
    assert.is_true(pair.client:counters().key_updates < 100)
  end)

  it("K3 of KeyUpdates over a socket leave other coroutines their turn", function()
    local server = peers.openssl_server { cert = site, mode = false }
    local session, socket = sessions.client(server, { priority = tls13 })
    assert.is_true(sessions.finish(session, socket, "handshake"))
    for i = 1, 4 do
      server:command("K\n") -- asks for one in return
      while session:counters().key_updates < i do
        assert(core.poll(socket:getfd(), "r", core.now() + 30))
        assert.equal("want_read", select(2, session:read("l")))
      end
    end
    server:command("done\n")
    assert.equal("done", sessions.finish(session, socket, "read", "l"))
    assert.equal(5, sessions.finish(session, socket, "write", "back\n"))
    assert.equal(4, session:counters().key_updates)
  end)

  it("K7 of tickets are read over, and cost no memory", function()
    local pair = sessions.connected { client = { priority = tls13 } }
    for _ = 1, 1000 do assert.is_true(pair.server:send_tickets(1)) end
    pair.server:write("data\n")
    pair:pump()
    assert.equal("data", pair.client:read("l"))
    assert.is_true(pair.client:counters().tickets >= 1000)
    assert.is_string(pair.client:ticket())
    for _ = 1, 5000 do assert.is_true(pair.server:send_tickets(1)) end
    pair:pump()
    assert.equal("protocol_error", code_of(pair.client:read("l")))
  end)
end)

describe("a handshake message", function()
  it("S9 that straddles a change of keys is refused", function()
    -- The start of EncryptedExtensions in the clear, and a whole one.
    for extra, code in pairs { ["\8\0"] = "bad_record", ["\8\0\0\2\0\0"] = "protocol_error" } do
      local pair = sessions.pair { client = { priority = tls13 }, tamper = function(from, bytes, number)
        if from ~= "server" or number ~= 1 then return bytes end
        return record(22, bytes:sub(6) .. extra)
      end }
      local client = pair:handshake()
      assert.is_nil(client.ok)
      assert.equal(code, client.cause.code)
      assert.equal("EncryptedExtensions", client.cause.at)
    end
    -- Behind the ClientHello a Finished in the clear.
    local pair = sessions.pair { client = { priority = tls13 }, tamper = function(from, bytes, number)
      if from ~= "client" or number ~= 1 then return bytes end
      return record(22, bytes:sub(6) .. message(20, ("f"):rep(48)))
    end }
    local _, server = pair:handshake()
    assert.equal("protocol_error", server.cause.code)
    assert.equal("Finished", server.cause.at)
    -- Before the change of TLS 1.2 the Finished that belongs behind it.
    pair = sessions.pair { client = { priority = tls12 }, tamper = function(from, bytes)
      if from ~= "client" or bytes:byte(6) ~= 16 then return bytes end
      return record(22, bytes:sub(6) .. message(20, ("f"):rep(12)))
    end }
    _, server = pair:handshake()
    assert.equal("protocol_error", server.cause.code)
  end)

  it("S10 of 16 MB is not gathered up", function()
    local cause = answered(record(22, "\2\255\255\255" .. ("x"):rep(16000)) ..
      record(22, ("x"):rep(16000)):rep(1000))
    assert.equal("protocol_error", cause.code)
    local pair = sessions.pair { client = { priority = tls12 }, tamper = function(from, bytes)
      if from == "server" and bytes:byte(6) == 11 then
        return record(22, "\11\255\255\255" .. ("x"):rep(16000)) .. record(22, ("x"):rep(16000)):rep(1000)
      end
      return bytes
    end }
    local client = pair:handshake()
    assert.equal("protocol_error", client.cause.code)
    assert.equal("Certificate", client.cause.at)
  end)

  --- A client's result when the server's Certificate message is another one.
  local function with_certificates(body)
    local pair = sessions.pair { client = { priority = tls12 }, tamper = function(from, bytes)
      if from == "server" and bytes:byte(6) == 11 then
        local all = message(11, body)
        local list = {}
        for at = 1, #all, 16000 do list[#list + 1] = record(22, all:sub(at, at + 15999)) end
        return table.concat(list)
      end
      return bytes
    end }
    return (pair:handshake())
  end

  local function list_of(count, der)
    local function size(n) return string.char(math.floor(n / 65536), math.floor(n / 256) % 256, n % 256) end
    local entries = (size(#der) .. der):rep(count)
    return size(#entries) .. entries
  end

  it("S10 with no certificate is refused", function()
    local client = with_certificates(list_of(0, ""))
    assert.equal("no_certificate", client.cause.code)
    assert.equal("Certificate", client.cause.at)
  end)

  it("S10 with 1,000 certificates is refused before one is parsed", function()
    for _, der in ipairs { "x", pki.der(site.cert):sub(1, 100) } do
      local client = with_certificates(list_of(1000, der))
      assert.equal("too_many_certificates", client.cause.code)
      assert.equal("Certificate", client.cause.at)
      assert.equal("server_hello", client.cause.step)
    end
    assert.equal("too_many_certificates", with_certificates(list_of(17, pki.der(site.cert))).cause.code)
    assert.not_equal("too_many_certificates", with_certificates(list_of(16, "x")).cause.code)
  end)
end)

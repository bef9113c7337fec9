local core = require "tlsconnect.core"
local pki = require "spec.support.pki"
local sessions = require "spec.support.sessions"

local authority = pki.shared()
local site = authority:issue { name = "a.test" }
local tls12, tls13 = "-VERS-TLS1.3", "-VERS-TLS1.2"

local function code_of(_, _, cause)
  return cause and cause.code
end

describe("a handshake over memory", function()
  it("agrees on parameters and tells them", function()
    local pair = sessions.connected { client = { alpn = { "h2", "http/1.1" } }, server = { alpn = { "http/1.1" } } }
    for _, side in ipairs { "client", "server" } do
      local info = pair[side]:info()
      assert.equal("TLS1.3", info.version)
      assert.matches("^TLS_AES_%d+_GCM_SHA%d+$", info.suite)
      assert.equal("http/1.1", info.alpn)
      assert.is_false(info.resumed)
      assert.is_true(info.extended_master_secret)
      assert.equal("ECDSA-SECP256R1-SHA256", info.signature)
      assert.is_string(info.group)
    end
    assert.equal("a.test", pair.server:info().server_name)
    assert.same({ pki.der(site.cert) }, pair.client:peer_certificates())
    assert.same({ false }, pair.client:staples())
  end)

  it("names the suite of TLS 1.2 as IANA does", function()
    local pair = sessions.connected { client = { priority = tls12 .. ":-CIPHER-ALL:+AES-128-GCM" } }
    assert.equal("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", pair.client:info().suite)
  end)

  it("pauses for the verdict on the server's chain", function()
    for _, priority in ipairs { tls12, tls13 } do
      local pair = sessions.pair { client = { priority = priority } }
      local client, server = pair.client, pair.server
      assert.same({ "ClientHello", "client_hello" }, { client:awaiting() })
      assert.equal("want_read", select(2, client:handshake()))
      assert.same({ "ServerHello", "server_hello" }, { client:awaiting() })
      pair:pump() server:handshake() pair:pump()
      assert.equal("want_verify", select(2, client:handshake()))
      assert.equal("want_verify", select(2, client:handshake()))
      assert.same({ "Certificate", "verify" }, { client:awaiting() })
      assert.equal(pki.der(site.cert), client:peer_certificates()[1])
      assert.is_false(client:verified())
      client:verdict(true)
      assert.has_error(function() client:verdict(true) end)
      local c, s = pair:handshake()
      assert.is_true(c.ok and s.ok)
      assert.is_true(client:verified())
      assert.is_nil(client:awaiting())
      assert.is_true(client:handshake())
    end
  end)

  it("sends the alert of a bad verdict", function()
    for _, priority in ipairs { tls12, tls13 } do
      local pair = sessions.pair { client = { priority = priority }, verdict = false, verdict_alert = "unknown_ca" }
      local client, server = pair:handshake()
      assert.equal("certificate_refused", client.cause.code)
      assert.equal("verify", client.cause.step)
      assert.equal("Certificate", client.cause.at)
      assert.equal("certificate_rejected", server.cause.code)
      assert.equal("unknown_ca", server.cause.alert)
      assert.is_false(pair.client:verified())
      assert.equal("certificate_refused", code_of(pair.client:handshake()))
      assert.equal("certificate_refused", code_of(pair.client:read(1)))
    end
    assert.has_error(function() sessions.pair().client:verdict(false, "no_such_alert") end)
  end)

  it("marks its moments, in order", function()
    for _, priority in ipairs { tls12, tls13 } do
      local before = core.now()
      local marks = sessions.connected({ client = { priority = priority } }).client:marks()
      local last = before - 1e-4
      for _, name in ipairs { "start", "client_hello", "server_hello", "certificate", "verify", "verified", "done" } do
        assert.is_number(marks[name], name)
        assert.is_true(marks[name] >= last - 1e-5, name)
        last = marks[name]
      end
      assert.is_number(marks.key_exchange)
      assert.is_number(marks.finished_in)
      assert.is_number(marks.finished_out)
    end
    assert.same({}, sessions.pair().client:marks())
  end)

  it("keeps times that it is told, to the microsecond", function()
    local client = sessions.connected().client
    local start = client:marks().start
    client:tell(start - 100, start - 3, start - 2.5e-6, start, false, start + 1e9)
    local marks = client:marks()
    assert.is_nil(marks.judging)
    for name, after in pairs { dns = -100, dns_ended = -3, tcp = -2e-6, tcp_ended = 0, judged = 2147.483646 } do
      assert.is_true(math.abs(marks[name] - start - after) < 1e-6, name)
    end
    client:close()
    assert.same(marks, client:marks())
    client:tell()
    assert.is_nil(client:marks().dns)
    assert.has_error(function() client:tell("x") end)
  end)

  it("keeps its messages when it is told to, and hands them out once", function()
    local pair = sessions.connected { client = { priority = tls13 }, client_session = { trace = true } }
    local names = {}
    local list = pair.client:messages()
    for i, message in ipairs(list) do
      names[i] = (message.incoming and "<" or ">") .. message.name
      assert.is_number(message.time)
    end
    assert.equal(">ClientHello <ServerHello <EncryptedExtensions <Certificate <CertificateVerify <Finished >Finished",
      table.concat(names, " "))
    assert.equal("\3\3", list[1].bytes:sub(1, 2))
    assert.is_truthy(list[1].bytes:find("a.test", 1, true))
    assert.equal(0, list.lost)
    assert.equal(0, #pair.client:messages())
    assert.equal(0, #pair.server:messages())
  end)

  it("logs its keys only when it is told to", function()
    local pair = sessions.connected { client_session = { keylog = true } }
    assert.equal("not_asked", code_of(pair.server:keylog()))
    local lines = pair.client:keylog()
    assert.matches("\nCLIENT_TRAFFIC_SECRET_0 %x+ %x+\n", lines)
    assert.equal("", pair.client:keylog())
  end)

  it("does not let data through before it is complete", function()
    local pair = sessions.pair()
    assert.equal("not_ready", code_of(pair.client:read("l")))
    local _, _, cause, last = pair.client:write("secret")
    assert.equal("not_ready", cause.code)
    assert.equal(0, last)
    assert.equal("not_ready", code_of(pair.client:close_notify()))
    assert.equal("not_ready", code_of(pair.client:info()))
    assert.equal("", pair.client:drain())
  end)
end)

describe("a session", function()
  it("carries data both ways, counts it, and closes in good order", function()
    for _, priority in ipairs { tls12, tls13 } do
      local pair = sessions.connected { client = { priority = priority } }
      local client, server = pair.client, pair.server
      assert.equal(12, client:write("hello\nworld\n"))
      pair:pump()
      assert.equal("hello", server:read("l"))
      assert.equal(6, server:pending())
      assert.equal("world\n", server:read("L"))
      assert.equal("want_read", select(2, server:read("l")))
      local long = ("0123456789abcdef"):rep(10000)
      assert.equal(160000, server:write(long))
      pair:pump()
      assert.equal(long, client:read(160000))
      local counters = client:counters()
      assert.equal(160000, counters.bytes_in)
      assert.equal(12, counters.bytes_out)
      assert.equal(10, counters.records_in)
      assert.is_true(client:close_notify())
      pair:pump()
      assert.equal("closed", code_of(server:read("l")))
      assert.equal("", server:read("a"))
      assert.equal(4, server:write("late"))
      assert.is_true(server:close_notify(true))
      pair:pump()
      assert.is_true(client:close_notify(true))
      assert.is_true(client:counters().close_received)
    end
  end)

  it("writes a part of a string, as string.sub counts", function()
    local pair = sessions.connected()
    local client, server = pair.client, pair.server
    assert.equal(4, client:write("abcdef", 3, 4))
    assert.equal(6, client:write("abcdef", -1))
    assert.equal(0, client:write(""))
    assert.equal(4, client:write("abcdef", 5, 3))
    pair:pump()
    assert.equal("cdf", server:read(3))
    assert.equal(2, server:counters().records_in)
  end)

  it("gathers what is written while it is corked", function()
    local pair = sessions.connected()
    assert.is_true(pair.client:cork())
    for i = 1, 100 do assert.equal(2, pair.client:write(("%02d"):format(i % 100))) end
    assert.equal("", pair.client:drain())
    assert.is_true(pair.client:uncork())
    pair:pump()
    assert.equal(200, #pair.server:read(200))
    assert.equal(1, pair.server:counters().records_in)
  end)

  it("tells a truncated stream from a closed one", function()
    local pair = sessions.connected()
    pair.client:write("half")
    pair:pump()
    pair.server:feed(nil)
    local data, message, cause = pair.server:read("a")
    assert.is_nil(data)
    assert.equal("truncated", cause.code)
    assert.equal("the peer ended the connection without close_notify", message)
    assert.equal("half", pair.server:take())
    assert.equal("truncated", code_of(pair.server:read("a")))
  end)

  it("says that it is closed once it is", function()
    local pair = sessions.connected()
    local client = pair.client
    assert.is_true(client:close())
    assert.is_true(client:close())
    for _, method in ipairs { "handshake", "info", "ticket", "close_notify", "cork", "peer_certificates", "drain" } do
      assert.equal("closed", code_of(client[method](client)), method)
    end
    assert.equal("closed", code_of(client:read("l")))
    assert.equal("closed", code_of(client:write("x")))
    assert.equal("closed", code_of(client:feed("x")))
    assert.equal(0, client:pending())
    assert.same({}, client:messages())
  end)

  it("updates its keys under way", function()
    local pair = sessions.connected { client = { priority = tls13 } }
    assert.is_true(pair.client:update_keys(true))
    pair.client:write("after")
    pair:pump()
    assert.equal("after", pair.server:read(5))
    pair.server:write("answer")
    pair:pump()
    assert.equal("answer", pair.client:read(6))
    assert.is_true(pair.server:update_keys(true))
    local long = ("0123456789"):rep(20000)
    pair:pump()
    assert.equal("want_read", select(2, pair.client:read("l")))
    assert.equal(#long, pair.client:write(long)) -- the answer to the update goes before it
    pair:pump()
    assert.is_true(long == pair.server:read(#long))
    assert.is_true(pair.server:update_keys())
    assert.equal(2, pair.server:counters().key_updates)
    assert.equal(2, pair.client:counters().key_updates)
    pair = sessions.connected { client = { priority = tls12 } }
    assert.equal("unsupported", code_of(pair.client:update_keys()))
  end)

  it("gives a ticket only once there is one, and resumes by it", function()
    for _, priority in ipairs { tls12, tls13 } do
      local pair = sessions.connected { client = { priority = priority } }
      if priority == tls13 then assert.is_nil(pair.client:ticket()) end
      pair.server:write("x")
      pair:pump()
      assert.equal("x", pair.client:read(1))
      local ticket = pair.client:ticket()
      assert.is_true(#ticket > 100)
      local again = sessions.pair { client_context = pair.client_context, server_context = pair.server_context,
        client_session = { ticket = ticket } }
      again.verdict = error -- must not be asked for
      local client, server = again:handshake()
      assert.is_true(client.ok and server.ok)
      assert.is_true(again.client:resumed())
      assert.is_true(again.client:info().resumed)
      assert.is_false(again.client:verified())
      assert.equal(pki.der(site.cert), again.client:peer_certificates()[1])
      -- Another server does not know the ticket, a broken one is nothing: a full handshake follows.
      for _, bad in ipairs { ticket, "junk", "" } do
        local full = sessions.connected { client_context = pair.client_context, client_session = { ticket = bad } }
        assert.is_false(full.client:resumed())
        assert.is_true(full.client:verified())
      end
    end
  end)

  it("takes no harm from a ticket that was cut", function()
    for _, priority in ipairs { tls12, tls13 } do
      local pair = sessions.connected { client = { priority = priority } }
      pair.server:write("x") pair:pump() pair.client:read(1)
      local ticket = pair.client:ticket()
      for size = 1, #ticket - 1, 7 do
        local again = sessions.pair { client_context = pair.client_context, server_context = pair.server_context,
          client_session = { ticket = ticket:sub(1, size) } }
        local client, server = again:handshake()
        assert.is_true(client.ok and server.ok)
        assert.is_false(again.client:resumed())
        assert.is_true(again.client:verified())
      end
    end
  end)

  it("gives no tickets when it shall not", function()
    local pair = sessions.connected { server = { tickets = false } }
    pair.server:write("x")
    pair:pump()
    pair.client:read(1)
    assert.is_nil(pair.client:ticket())
    assert.equal(0, pair.client:counters().tickets)
  end)

  it("resumes at another server with the same ticket key", function()
    local key = ("k"):rep(64)
    local pair = sessions.connected { server = { tickets = key } }
    pair.server:write("x") pair:pump() pair.client:read(1)
    local again = sessions.connected { server = { tickets = key }, client_session = { ticket = pair.client:ticket() } }
    assert.is_true(again.client:resumed())
  end)

  it("exports keys, the same on both sides", function()
    for _, priority in ipairs { tls12, tls13 } do
      local pair = sessions.connected { client = { priority = priority } }
      local client, server = pair.client, pair.server
      local key = client:export("EXPORTER-test", "context", 40)
      assert.equal(40, #key)
      assert.equal(key, server:export("EXPORTER-test", "context", 40))
      assert.not_equal(key, server:export("EXPORTER-test", "other", 40))
      for _, kind in ipairs { "tls-exporter", "tls-server-end-point" } do
        assert.equal(32, #client:channel_binding(kind))
        assert.equal(client:channel_binding(kind), server:channel_binding(kind))
      end
      assert.equal(client:export("EXPORTER-Channel-Binding", "", 32), client:channel_binding("tls-exporter"))
    end
  end)

  it("has a tls-unique in TLS 1.2 only", function()
    local pair = sessions.connected { client = { priority = tls12 } }
    assert.equal(12, #pair.client:channel_binding("tls-unique"))
    assert.equal(pair.client:channel_binding("tls-unique"), pair.server:channel_binding("tls-unique"))
    pair = sessions.connected { client = { priority = tls13 } }
    assert.equal("not_available", code_of(pair.client:channel_binding("tls-unique")))
    assert.has_error(function() pair.client:channel_binding("tls-whatever") end)
  end)

  it("K2 exports no key before the handshake is complete, and none that is too long", function()
    local pair = sessions.pair()
    assert.equal("not_ready", code_of(pair.client:export("x", nil, 32)))
    assert.equal("not_ready", code_of(pair.client:channel_binding("tls-exporter")))
    pair.client:handshake()
    assert.equal("not_ready", code_of(pair.client:export("x", nil, 32)))
    pair:handshake()
    assert.equal("too_long", code_of(pair.client:export("x", nil, 8161)))
    assert.equal("too_long", code_of(pair.client:export("x", nil, 2 ^ 31)))
    assert.equal(8160, #pair.client:export("x", nil, 8160))
    assert.has_error(function() pair.client:export("x", nil, 0) end)
    assert.has_error(function() pair.client:export("x", nil, -1) end)
  end)

  it("K2 exports nothing in TLS 1.2 without the extended master secret", function()
    local pair = sessions.connected { client = { priority = tls12 .. ":%NO_SESSION_HASH" } }
    assert.is_false(pair.client:info().extended_master_secret)
    assert.equal("not_available", code_of(pair.client:export("x", nil, 32)))
    assert.equal("not_available", code_of(pair.client:channel_binding("tls-exporter")))
    assert.equal("not_available", code_of(pair.client:channel_binding("tls-unique")))
    assert.equal(32, #pair.client:channel_binding("tls-server-end-point"))
  end)
end)

describe("alerts", function()
  it("come with their names and with codes that a program can tell apart", function()
    local pair = sessions.pair { client = { alpn = { "h2" } }, server = { alpn = { "h3" }, mandatory = true } }
    local client, server = pair:handshake()
    assert.equal("no_common_alpn", client.cause.code)
    assert.equal("no_application_protocol", client.cause.alert)
    assert.equal("no_common_alpn", server.cause.code)

    client, server = sessions.pair({ client = { priority = tls12 }, server = { priority = tls13 } }):handshake()
    assert.equal("version_refused", client.cause.code)
    assert.equal("protocol_version", client.cause.alert)
    assert.equal("server_hello", client.cause.step)
    assert.equal("version_refused", server.cause.code)

    client, server = sessions.pair({ client = { priority = "-CIPHER-ALL:+AES-128-GCM" },
      server = { priority = "-CIPHER-ALL:+AES-256-GCM" } }):handshake()
    assert.equal("no_common_parameters", client.cause.code)
    assert.equal("handshake_failure", client.cause.alert)
    assert.equal("no_common_suite", server.cause.code)

    client = sessions.pair({ client = { priority = "-GROUP-ALL:+GROUP-X25519" },
      server = { priority = "-GROUP-ALL:+GROUP-SECP384R1" } }):handshake()
    assert.equal("no_common_parameters", client.cause.code)
  end)

  it("are understood whatever they are, by number too", function()
    local expected = {
      [0] = "closed", [10] = "alert", [40] = "no_common_parameters", [42] = "certificate_rejected",
      [48] = "certificate_rejected", [49] = "access_denied", [70] = "version_refused", [80] = "alert",
      [86] = "downgrade", [112] = "unrecognized_name", [116] = "certificate_required", [120] = "no_common_alpn",
      [200] = "alert",
    }
    for number, code in pairs(expected) do
      local pair = sessions.pair()
      pair.client:handshake()
      pair.client:feed(sessions.record(21, string.char(number == 0 and 1 or 2, number)))
      local ok, message, cause = pair.client:handshake()
      assert.is_nil(ok)
      assert.equal(code, cause.code, "alert " .. number)
      assert.equal("ServerHello", cause.at)
      assert.equal("server_hello", cause.step)
      assert.is_string(cause.alert)
      assert.matches("^the peer ", message)
      assert.equal("", pair.client:drain():sub(400), "no answer to an alert")
    end
  end)

  it("tell the server that sent the wrong thing", function()
    local pair = sessions.pair { tamper = function(from, record, number)
      if from == "server" and number == 1 then return sessions.record(22, sessions.message(2, "nonsense")) end
      return record
    end }
    local client, server = pair:handshake()
    assert.equal("protocol_error", client.cause.code)
    assert.equal("ServerHello", client.cause.at)
    assert.is_nil(server.ok)
  end)
end)

describe("a program", function()
  it("Z2 may begin a handshake in a coroutine that is collected", function()
    for _, priority in ipairs { tls12, tls13 } do
      local pair = sessions.pair { client = { priority = priority } }
      for _ = 1, 10 do
        local finished
        coroutine.wrap(function()
          local client, server = { pair.client:handshake() }, { pair.server:handshake() }
          if client[2] == "want_verify" then pair.client:verdict(true) end
          pair:pump()
          finished = client[1] and server[1]
          coroutine.yield()
        end)()
        collectgarbage() collectgarbage()
        if finished then break end
      end
      assert.is_true(pair.client:handshake())
      coroutine.wrap(function() pair.client:write("hello") coroutine.yield() end)()
      collectgarbage() collectgarbage()
      pair:pump()
      assert.equal("hello", pair.server:read(5))
    end
  end)
end)

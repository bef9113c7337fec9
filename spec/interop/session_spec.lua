local core = require "tlsconnect.core"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local process = require "spec.support.process"
local sessions = require "spec.support.sessions"

local authority = pki.shared()
local site = authority:issue { name = "a.test" }
local tls12, tls13 = "-VERS-TLS1.3", "-VERS-TLS1.2"

local function code_of(_, _, cause)
  return cause and cause.code
end

describe("a session over a socket", function()
  it("talks to openssl s_server in both versions", function()
    local server = peers.openssl_server { cert = site, mode = "-rev" }
    for version, priority in pairs { ["TLS1.2"] = tls12, ["TLS1.3"] = tls13 } do
      local session, socket = sessions.client(server, { priority = priority })
      assert.is_true(sessions.finish(session, socket, "handshake"))
      assert.equal(version, session:info().version)
      assert.equal(6, sessions.finish(session, socket, "write", "abcde\n"))
      assert.equal("edcba", sessions.finish(session, socket, "read", "l"))
      assert.is_string(session:ticket())
      assert.is_true(sessions.finish(session, socket, "close_notify"))
      session:close()
      socket:close()
    end
  end)

  it("talks to gnutls-serv, a megabyte there and back", function()
    local server = peers.gnutls_server { cert = site, mode = "--echo" }
    local session, socket = sessions.client(server)
    assert.is_true(sessions.finish(session, socket, "handshake"))
    local block, total = ("x"):rep(9999) .. "\n", 0
    for _ = 1, 100 do
      assert.equal(#block, sessions.finish(session, socket, "write", block))
      local back = sessions.finish(session, socket, "read", #block)
      assert.equal(block, back)
      total = total + #back
    end
    assert.equal(total, session:counters().bytes_in)
  end)

  it("writes more than the socket takes, and counts each byte once", function()
    local socket, accepted = sessions.sockets()
    local client = sessions.context({}):session("client", { socket = socket })
    local server = sessions.context({ certificate = site }):session("server", { socket = accepted })
    sessions.both { client = client, server = server }
    local parts = {}
    for i = 1, 400000 do parts[i] = ("%06d\n"):format(i) end
    local data, at, received, blocked = table.concat(parts), 0, {}, 0
    while at < #data or client:pending() > 0 or #table.concat(received) < #data do
      if at < #data then
        local last, want, third = client:write(data, at + 1)
        assert(last or want == "want_write", want)
        at = last or third
        if not last then blocked = blocked + 1 end
      end
      local piece = server:read("some", 1000000)
      if piece then received[#received + 1] = piece end
    end
    assert.equal(data, table.concat(received))
    assert.equal(#data, client:counters().bytes_out)
    assert.equal(#data, server:counters().bytes_in)
    assert.is_true(blocked > 0)
    client:close() server:close() socket:close() accepted:close()
  end)

  it("says closed when the socket was closed under it", function()
    local server = peers.openssl_server { cert = site, mode = "-rev" }
    local session, socket = sessions.client(server)
    assert.is_true(sessions.finish(session, socket, "handshake"))
    socket:close()
    assert.equal("closed", code_of(session:read("l")))
    assert.equal("closed", code_of(session:write("x")))
  end)

  it("understands what openssl s_server stops for", function()
    local server = peers.openssl_server { cert = site, client_ca = authority.ca_file, mode = "-rev" }
    local session, socket = sessions.client(server, { priority = tls12 })
    local _, _, cause = sessions.finish(session, socket, "handshake")
    assert.equal("data" == cause.step and "certificate_required" or "no_common_parameters",
      cause.code == "alert" and "no_common_parameters" or cause.code)
    assert.is_string(cause.alert)
    session, socket = sessions.client(server, { priority = tls13 })
    assert.is_true(sessions.finish(session, socket, "handshake"))
    _, _, cause = sessions.finish(session, socket, "read", "l")
    assert.equal("certificate_required", cause.code)
  end)

  it("serves openssl s_client and gnutls-cli", function()
    local listener = assert(core.socket("inet"))
    assert(listener:bind("127.0.0.1", 0))
    assert(listener:listen(5))
    local _, port = listener:local_address()
    local context = sessions.context { certificate = site }
    local commands = {
      "printf 'question\\n' | openssl s_client -quiet -verify_return_error -CAfile %s -connect 127.0.0.1:%d" ..
        " -servername a.test -ign_eof 2>&1",
      "printf 'question\\n' | gnutls-cli --x509cafile %s -p %d --sni-hostname a.test --verify-hostname a.test" ..
        " --logfile /dev/null 127.0.0.1 2>&1",
    }
    for _, command in ipairs(commands) do
      local pipe = assert(io.popen(command:format(authority.ca_file, port)))
      assert(core.poll(listener:getfd(), "r", core.now() + 30))
      local socket = assert(listener:accept())
      local session = context:session("server", { socket = socket })
      assert.is_true(sessions.finish(session, socket, "handshake"))
      assert.equal("question", sessions.finish(session, socket, "read", "l"))
      sessions.finish(session, socket, "write", "the answer\n")
      sessions.finish(session, socket, "close_notify")
      socket:shutdown("send")
      assert.matches("the answer\n", pipe:read("*a"))
      pipe:close()
      session:close() socket:close()
    end
    listener:close()
  end)

  it("shows its certificate after the handshake, when it is told that it may", function()
    local server = peers.openssl_server { cert = site, mode = false, version = "tls1_3",
      arguments = { "-CAfile", authority.ca_file } }
    local client = { certificate = authority:issue { name = "someone", purpose = "client" } }
    local session, socket = sessions.client(server, client, { post_handshake_auth = true })
    assert.is_true(sessions.finish(session, socket, "handshake"))
    server:command("c\n")
    while not server:output():find("CN = someone", 1, true) do
      assert.equal("want_read", select(2, session:read("l")))
      core.poll(socket:getfd(), "r", core.now() + 0.1)
    end
    server:command("done\n")
    assert.equal("done", sessions.finish(session, socket, "read", "l"))
    session:close() socket:close()

    session, socket = sessions.client(server, client)
    assert.is_true(sessions.finish(session, socket, "handshake"))
    server:command("c\n") -- not allowed: the client did not offer it
    assert.is_truthy(process.eventually(function()
      return server:output():find("extension not received", 1, true)
    end))
  end)

  it("A2 refuses to negotiate again in mid-stream", function()
    local server = peers.openssl_server { cert = site, mode = false, version = "tls1_2" }
    local session, socket = sessions.client(server)
    assert.is_true(sessions.finish(session, socket, "handshake"))
    server:command("R\n") -- asks for a new handshake and a certificate
    local data, _, cause = sessions.finish(session, socket, "read", "l")
    assert.is_nil(data)
    assert.equal("renegotiation_refused", cause.code)
    assert.is_truthy(process.eventually(function() return server:output():find("no renegotiation") end))
  end)

  it("K1 that lets in suites without certificates gets no handshake by them", function()
    local server = peers.gnutls_server { cert = site, priority = "NORMAL:-KX-ALL:+ANON-ECDH:+ANON-DH:-VERS-TLS1.3" }
    local session, socket = sessions.client(server, { priority = "+ANON-ECDH:+ANON-DH:+PSK:+ECDHE-PSK" })
    local ok, _, cause = sessions.finish(session, socket, "handshake")
    assert.is_nil(ok)
    assert.equal("no_common_parameters", cause.code)
    assert.is_false(session:verified())
    session, socket = sessions.client(server, { priority = "-KX-ALL:+ANON-ECDH:-VERS-TLS1.3" })
    assert.is_nil((sessions.finish(session, socket, "handshake")))
    assert.is_false(session:verified())
    assert.same({}, session:peer_certificates())
  end)

  it("Z3 is not killed by SIGPIPE when the peer is gone", function()
    local peer = peers.relay { to = peers.openssl_server { cert = site, mode = "-rev" }, record = [[
      if from == "client" and record:byte() == 23 then
        seen = (seen or 0) + 1
        if seen == 2 then relay:reset() end
      end
      return record]] }
    local session, socket = sessions.client(peer, { priority = tls12 })
    assert.is_true(sessions.finish(session, socket, "handshake"))
    local written, code = 0
    repeat
      local _, _, cause = sessions.finish(session, socket, "write", "0123456789\n")
      written = written + 1
      code = cause and cause.code
      process.sleep(0.01)
    until code or written > 1000
    assert.equal("reset", code)
    local _, _, cause = session:close_notify()
    assert.equal("reset", cause.code)
  end)
end)

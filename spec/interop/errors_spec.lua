-- What can go wrong, provoked with real peers: each has its code, its step, and a message that a person
-- understands and that names the host.
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local ports = require "spec.support.ports"
local run = require "spec.support.run"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

local authority = pki.shared()
local site = authority:issue { name = "a.test" }

local function options(more)
  local given = { server_name = "a.test", ca_file = authority.ca_file, timeout = 60 }
  for name, value in pairs(more or {}) do given[name] = value end
  return given
end

-- What connect fails with: its code, its step, its message and the error.
local function failure(host, port, given)
  local connection, message, err = tlsconnect.connect(host, port, given)
  assert.is_nil(connection, "it connected")
  assert.equal(tostring(err), message)
  local row = errors.known[err.code]
  assert.is_table(row, "not in the table: " .. tostring(err.code))
  assert.truthy((" " .. row[2] .. " "):find(" " .. err.step .. " ", 1, true) or row[2] == "any",
    ("%s at %s is not in the table"):format(err.code, err.step))
  assert.is_nil(err.detail:find("[^ -~]"), err.detail)
  return err.code, err.step, err.detail, err
end

-- The same for a peer and a name.
local function failing(server, more)
  return failure(server.host, server.port, options(more))
end

local function names_peer(text, server)
  assert.truthy(text:find(server.host .. ":" .. server.port, 1, true), text)
end

describe("the errors of dns and tcp", function()
  it("name a host that does not exist", function()
    local code, step, message = failure("no-such-host.invalid", 443)
    assert.truthy(({ unknown_host = 1, lookup_failed = 1 })[code], code)
    assert.equal("dns", step)
    assert.truthy(message:find("no-such-host.invalid", 1, true), message)
  end)

  it("name a look-up that never answers", function()
    local real, bell = core.lookup, assert(core.socket("inet"))
    assert(bell:bind("127.0.0.1", 0))
    assert(bell:listen(1))
    core.lookup = function()
      return { getfd = function() return bell:getfd() end, close = function() end,
        result = function() return nil, "want_read" end }
    end
    local ok, message = pcall(function()
      local code, step, detail = failure("slow.test", 443, { timeout = 0.05 })
      assert.same({ "timeout", "dns" }, { code, step })
      assert.truthy(detail:find("slow.test", 1, true), detail)
      code, step = failure("slow.test", 443, { timeouts = { dns = 0.05 } })
      assert.same({ "timeout", "dns" }, { code, step })
    end)
    core.lookup = real
    bell:close()
    assert.is_true(ok, message)
  end)

  it("name a port that nobody listens on", function()
    local port = ports.free()
    local code, step, message, err = failure("127.0.0.1", port)
    assert.same({ "refused", "tcp" }, { code, step })
    assert.equal(("127.0.0.1:%d refused the connection"):format(port), message)
    assert.is_true(err.retryable)
    assert.is_number(err.errno)
  end)

  it("name an address that cannot be reached", function()
    -- TCP has no multicast.
    local code, step, message = failure("224.0.0.1", 443)
    assert.same({ "unreachable", "tcp" }, { code, step })
    assert.truthy(message:find("224.0.0.1:443", 1, true), message)
  end)

  it("list every attempt when all the addresses fail", function()
    local port = ports.free()
    local _, step, _, err = failure("localhost", port)
    assert.equal("tcp", step)
    assert.truthy(#err.attempts >= 1)
    for _, attempt in ipairs(err.attempts) do
      assert.is_string(attempt.address)
      assert.equal("refused", attempt.code)
    end
  end)

  it("name an attempt that is never answered", function()
    local listener = assert(core.socket("inet"))
    assert(listener:bind("127.0.0.1", 0))
    assert(listener:listen(0))
    local _, port = listener:local_address()
    -- The queue is full after a few, and the kernel drops what comes then.
    local filling = {}
    for i = 1, 3 do
      filling[i] = assert(core.socket("inet"))
      filling[i]:connect("127.0.0.1", port)
    end
    local code, step, message = failure("127.0.0.1", port, { timeouts = { tcp = 0.1 } })
    assert.same({ "timeout", "tcp" }, { code, step })
    assert.truthy(message:find("127.0.0.1:" .. port, 1, true), message)
    listener:close()
  end)

  it("name a bad host", function()
    local code, step = failure("a b", 443)
    assert.same({ "bad_host", "dns" }, { code, step })
  end)
end)

describe("the errors of the hellos", function()
  it("S4 show the first bytes of a server that speaks no TLS", function()
    local server = peers.nginx {}
    local code, step, message, err = failing(server)
    assert.same({ "not_tls", "server_hello" }, { code, step })
    names_peer(message, server)
    assert.truthy(message:find("HTTP server", 1, true), message)
    assert.truthy(err.first_bytes:find("^HTTP/1.1 400"), err.first_bytes)
    server = peers.raw [[ peer:send("SSH-2.0-OpenSSH_9.2 \27[31m\r\n") peer:drain() ]]
    code, step, message = failing(server)
    assert.same({ "not_tls", "server_hello" }, { code, step })
    assert.truthy(message:find("SSH server", 1, true), message)
    assert.truthy(message:find("\\x1B[31m\\r\\n", 1, true), message)
    server = peers.raw [[ peer:send("220 mail.test ESMTP\r\n") peer:drain() ]]
    assert.equal("not_tls", (failing(server)))
  end)

  it("S5 name a server whose versions are refused, and try no weaker one", function()
    local server = peers.openssl_server { cert = site, version = "tls1_2" }
    local code, step, message = failing(server, { min_version = "TLS1.3" })
    assert.same({ "version_refused", "server_hello" }, { code, step })
    names_peer(message, server)
    server:stop()
    server = peers.openssl_server { cert = site, version = "tls1_3" }
    assert.equal("version_refused", (failing(server, { max_version = "TLS1.2" })))
    server:stop()
    server = peers.openssl_server { cert = site, version = "tls1_1", arguments = { "-cipher", "ALL:@SECLEVEL=0" } }
    code = failing(server)
    assert.equal("version_refused", code)
    local count = select(2, server:output():gsub("ERROR\n", ""))
    assert.is_true(count <= 1, "it tried again")
  end)

  it("name a server with no suite in common", function()
    local server = peers.openssl_server { cert = site, version = "tls1_2",
      arguments = { "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305" } }
    local code, step, message = failing(server, { priority = "-CHACHA20-POLY1305" })
    assert.truthy(({ no_common_parameters = 1, no_common_suite = 1 })[code], code)
    assert.equal("server_hello", step)
    names_peer(message, server)
  end)

  it("name a server with no group in common", function()
    local server = peers.openssl_server { cert = site, version = "tls1_3", arguments = { "-groups", "P-521" } }
    local code, step = failing(server, { priority = "-GROUP-ALL:+GROUP-X25519" })
    assert.truthy(({ no_common_parameters = 1, no_common_group = 1 })[code], code)
    assert.equal("server_hello", step)
  end)

  it("name a server whose Diffie-Hellman prime is too small", function()
    local small = tmp.file([[
-----BEGIN DH PARAMETERS-----
MEYCQQC8ayrr88c8yJGNYhUHlHjkQdUP+ZQ08QZPc4jWAslKDchYT7wwbK7Btug4
lDN4IqcbCD0mJ9UVtqM3PGAUqKZ/AgEC
-----END DH PARAMETERS-----
]], "small.pem")
    local server = peers.gnutls_server { cert = authority:issue { name = "a.test", key = "rsa2048" },
      priority = "NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+DHE-RSA:-GROUP-ALL", arguments = { "--dhparams", small } }
    local code, step, message = failing(server, { priority = "-GROUP-FFDHE2048:-GROUP-FFDHE3072:-GROUP-FFDHE4096"
      .. ":-GROUP-FFDHE6144:-GROUP-FFDHE8192" })
    assert.same({ "weak_group", "key_exchange" }, { code, step })
    names_peer(message, server)
  end)

  it("name a server that does not know the name", function()
    local server = peers.openssl_server { cert = site, arguments = { "-servername", "b.test", "-servername_fatal",
      "-cert2", site.cert, "-key2", site.key } }
    local code, step, message, err = failing(server)
    assert.same({ "unrecognized_name", "unrecognized_name" }, { code, err.alert })
    assert.equal("server_hello", step)
    names_peer(message, server)
  end)
end)

describe("the errors of verify", function()
  local function judged(cert, more, server_options)
    local server_given = { cert = cert }
    for name, value in pairs(server_options or {}) do server_given[name] = value end
    local server = peers.openssl_server(server_given)
    local code, step, message, err = failing(server, more)
    assert.equal("verify", step)
    assert.truthy(message:find("a.test", 1, true), message)
    assert.is_table(err.verification)
    assert.equal(server.port, err.port)
    server:stop()
    return code, message, err
  end

  local day = 86400

  it("name a certificate that has expired, and since when", function()
    local code, message, err = judged(authority:issue { name = "a.test", not_before = -10 * day, not_after = -3 * day })
    assert.equal("expired", code)
    assert.truthy(message:find("3 days ago", 1, true), message)
    assert.equal(1, err.certificate)
    assert.equal("yes", err.verification.issuer.answer)
    assert.equal("yes", err.verification.name.answer)
  end)

  it("name a certificate that is not yet valid", function()
    assert.equal("not_yet_valid", (judged(authority:issue { name = "a.test", not_before = 3 * day,
      not_after = 10 * day })))
  end)

  it("name a certificate that is for another name, and for which", function()
    local code, message = judged(authority:issue { name = { "b.test", "c.test" } })
    assert.equal("name_mismatch", code)
    assert.truthy(message:find("b.test", 1, true), message)
  end)

  it("name a certificate of an unknown issuer", function()
    local code, message = judged(pki.new():issue { name = "a.test" })
    assert.equal("unknown_issuer", code)
    assert.truthy(message:find("not trusted", 1, true), message)
  end)

  it("name a self-signed certificate", function()
    local key, cert = tmp.path("self.key"), tmp.path("self.pem")
    run.check { "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
      "-keyout", key, "-out", cert, "-subj", "/CN=a.test", "-addext", "subjectAltName=DNS:a.test", "-days", "2" }
    assert.equal("self_signed", (judged({ cert = cert, chain = cert, key = key })))
  end)

  it("name a certificate that is for another purpose", function()
    assert.equal("wrong_purpose", (judged(authority:issue { name = "a.test", purpose = "client" })))
  end)

  it("name a key that is too weak", function()
    local code, message = judged(authority:issue { name = "a.test", key = "rsa1024" }, nil,
      { arguments = { "-cipher", "DEFAULT:@SECLEVEL=0" } })
    assert.equal("weak_key", code)
    assert.truthy(message:find("1024", 1, true), message)
  end)

  it("name a certificate that is revoked, by the staple", function()
    local cert = authority:issue { name = { "a.test", "revoked.test" } }
    authority:revoke(cert)
    local staple = authority:staple(cert)
    local code, message = judged(cert, nil, { staple = staple })
    assert.equal("revoked", code)
    assert.truthy(message:find("revoked", 1, true), message)
  end)

  it("go quiet one by one, as each insecure_skip_ option says", function()
    local cases = {
      { "insecure_skip_dates", authority:issue { name = "a.test", not_before = -10 * day, not_after = -3 * day } },
      { "insecure_skip_name", authority:issue { name = "b.test" } },
      { "insecure_skip_issuer", pki.new():issue { name = "a.test" } },
    }
    for _, case in ipairs(cases) do
      local server = peers.openssl_server { cert = case[2] }
      for _, option in ipairs { case[1], "insecure_skip_verify" } do
        local connection = assert(tlsconnect.connect(server.host, server.port, options { [option] = true }))
        connection:close()
      end
      for _, other in ipairs(cases) do
        if other[1] ~= case[1] then assert.equal("verify", (select(2, failing(server, { [other[1]] = true })))) end
      end
      server:stop()
    end
  end)

  it("say that the roots cannot be read", function()
    local code, step, message = failure("127.0.0.1", 1, { ca_file = "/nonexistent/roots.pem" })
    assert.same({ "unreadable_file", "setup" }, { code, step })
    assert.truthy(message:find("/nonexistent/roots.pem", 1, true), message)
    code, step = failure("127.0.0.1", 1, { ca_file = tmp.file("nothing", "roots.pem") })
    assert.same({ "bad_pem", "setup" }, { code, step })
  end)
end)

describe("the errors of a broken handshake", function()
  -- The records that a server sends until its Finished is through.
  local function walk(version, act)
    local server = peers.openssl_server { cert = site, mode = "-rev", version = version }
    local seen, after = {}, 0
    while true do
      local relay = peers.relay { to = server, after = after, act = act }
      local connection, message, err = tlsconnect.connect(relay.host, relay.port, options())
      relay:stop()
      if connection then
        connection:close()
        break
      end
      seen[#seen + 1] = { code = err.code, step = err.step, detail = err.detail, at = err.at, relay = relay,
        message = message }
      after = after + 1
      assert.is_true(after < 20, "no end")
    end
    server:stop()
    return seen
  end

  it("S7 name the message that a peer ended or reset in place of, and its step", function()
    for _, version in ipairs { "tls1_2", "tls1_3" } do
      for act, code in pairs { finish = "closed", reset = "reset" } do
        local seen = walk(version, act)
        assert.is_true(#seen >= 2, "too few records")
        for _, one in ipairs(seen) do
          assert.equal(code, one.code, one.message)
          assert.truthy(one.at, one.detail)
          assert.truthy(one.detail:find("while waiting for " .. one.at, 1, true), one.detail)
          names_peer(one.detail, one.relay)
          assert.not_equal("data", one.step)
          -- A stream that was never open has not "closed".
          assert.not_equal("closed", one.message)
        end
        assert.equal("ServerHello", seen[1].at)
        assert.equal("server_hello", seen[1].step)
        -- A reset throws away what had come before it.
        if act == "finish" then assert.same({ "Finished", "finished" }, { seen[#seen].at, seen[#seen].step }) end
      end
    end
  end)

  it("S7 name close_notify as the alert that it is", function()
    local server = peers.raw [[ peer:read(5) peer:send("\21\3\3\0\2\1\0") peer:drain() ]]
    local code, step, message = failing(server)
    assert.equal("server_hello", step)
    assert.truthy(({ closed = 1, alert = 1, protocol_error = 1 })[code], code)
    names_peer(message, server)
  end)

  it("name each alert", function()
    local alerts = {
      [10] = { "unexpected_message", "alert" }, [20] = { "bad_record_mac", "alert" },
      [40] = { "handshake_failure", "no_common_parameters" }, [42] = { "bad_certificate", "certificate_rejected" },
      [45] = { "certificate_expired", "certificate_rejected" }, [47] = { "illegal_parameter", "alert" },
      [48] = { "unknown_ca", "certificate_rejected" }, [49] = { "access_denied", "access_denied" },
      [50] = { "decode_error", "alert" }, [51] = { "decrypt_error", "alert" },
      [70] = { "protocol_version", "version_refused" }, [71] = { "insufficient_security", "no_common_parameters" },
      [80] = { "internal_error", "alert" }, [86] = { "inappropriate_fallback", "downgrade" },
      [109] = { "missing_extension", "alert" }, [110] = { "unsupported_extension", "alert" },
      [112] = { "unrecognized_name", "unrecognized_name" }, [116] = { "certificate_required", "certificate_required" },
      [120] = { "no_application_protocol", "no_common_alpn" },
    }
    for number, expected in pairs(alerts) do
      local server = peers.raw(([[ peer:read(5) peer:send("\21\3\3\0\2\2\%d") peer:finish() ]]):format(number))
      local connection, message, err = tlsconnect.connect(server.host, server.port, options())
      assert.is_nil(connection)
      assert.equal(expected[2], err.code)
      assert.equal(expected[1], err.alert)
      assert.truthy(message:find(expected[1], 1, true), message)
      names_peer(message, server)
      server:stop()
    end
  end)

  it("show an alert that no standard names", function()
    local server = peers.raw [[ peer:read(5) peer:send("\21\3\3\0\2\2\200") peer:finish() ]]
    local code, _, message = failing(server)
    assert.equal("alert", code)
    assert.truthy(message:find("200", 1, true), message)
  end)

  it("name a server that wants a client certificate, when it says so", function()
    for _, version in ipairs { "tls1_2", "tls1_3" } do
      local server = peers.openssl_server { cert = site, client_ca = authority.ca_file, version = version,
        mode = "-rev" }
      local connection, message, err = tlsconnect.connect(server.host, server.port, options())
      if connection then
        -- TLS 1.3: only the first read tells.
        local _
        _, message, _, err = connection:receive()
        connection:close()
      end
      assert.truthy(({ certificate_required = 1, no_common_parameters = 1, alert = 1 })[err.code], message)
      names_peer(message, server)
      server:stop()
    end
  end)
end)

describe("the time is over", function()
  -- The code, step and message of a call within a time that is over in that step: more of it where a busy
  -- machine did not come so far.
  local function over_in(expected, fail)
    local code, step, message
    for _, seconds in ipairs { 0.2, 1, 5 } do
      code, step, message = fail(seconds)
      if step == expected then break end
    end
    assert.same({ "timeout", expected }, { code, step }, message)
    return message
  end

  it("T3 for a peer that drips, by one deadline over the whole call", function()
    local server = peers.raw [[
      peer:read(5)
      -- A ServerHello that begins well, and comes byte by byte.
      peer:drip("\22\3\3\0\122\2\0\0\118\3\3" .. ("x"):rep(100), 0.05)
      peer:stall()
    ]]
    local message = over_in("server_hello", function(seconds)
      local start = core.now()
      local code, step, detail = failing(server, { timeout = seconds })
      assert.is_true(core.now() - start >= seconds)
      assert.is_true(core.now() - start < seconds + 5, "each byte began a new limit")
      return code, step, detail
    end)
    names_peer(message, server)
  end)

  it("S3 for the handshake: an error, never a connection left as if secured", function()
    local server = peers.raw [[ peer:stall() ]]
    local message = over_in("server_hello", function(seconds)
      return failing(server, { timeouts = { handshake = seconds } })
    end)
    assert.truthy(message:find("while waiting for ServerHello", 1, true), message)
    local plain = assert(require("tlsconnect.connection").open(server.host, server.port, { tls = false }))
    local none, _, err = tlsconnect.wrap(plain, options { timeout = 0.1 })
    assert.is_nil(none)
    assert.equal("timeout", err.code)
    assert.same({ nil, "closed" }, { (function(a, b) return a, b end)(plain:send("secret")) })
  end)

  it("in verify, while the program's own trust waits", function()
    local server = peers.openssl_server { cert = site }
    local bell = assert(core.socket("inet"))
    assert(bell:bind("127.0.0.1", 0))
    assert(bell:listen(1))
    local slow = assert(tlsconnect.trust { ca_file = authority.ca_file })
    function slow.judge(_, _, terms)
      local _, message = terms.wait(bell:getfd(), "r", terms.deadline)
      return errors.waited(message, { step = "verify" })
    end
    local context = assert(tlsconnect.context { trust = slow })
    over_in("verify", function(seconds)
      return failure(server.host, server.port, { context = context, server_name = "a.test", timeout = seconds })
    end)
    bell:close()
  end)

  it("in key_exchange and in finished, of TLS 1.2", function()
    local server = peers.openssl_server { cert = site, version = "tls1_2", mode = "-rev" }
    -- Records of this server: ServerHello, Certificate, ServerKeyExchange, ServerHelloDone, ...
    for after, expected in pairs { [0] = "server_hello", [2] = "key_exchange", [4] = "finished" } do
      local relay = peers.relay { to = server, after = after, act = "stall" }
      over_in(expected, function(seconds) return failure(relay.host, relay.port, options { timeout = seconds }) end)
      relay:stop()
    end
  end)

  it("in data and in close", function()
    local server = peers.raw [[ peer:stall() ]]
    local quiet = peers.openssl_server { cert = site, mode = false }
    local connection = assert(tlsconnect.connect(quiet.host, quiet.port, options()))
    connection:settimeout(0.05)
    local _, message, _, err = connection:receive()
    assert.same({ "timeout", "timeout", "data" }, { message, err.code, err.step })
    connection:close()
    -- A peer that does not read, until no more can be sent: not even good-bye.
    local relay = peers.relay { to = quiet, record = [[
      if from == "client" and record:byte(1) == 23 and number > 3 then relay:stall() end return record ]] }
    connection = assert(tlsconnect.connect(relay.host, relay.port, options()))
    connection:settimeout(0.2)
    local block = ("x"):rep(1024 * 1024)
    local last
    repeat last, _, _, err = connection:send(block) until not last
    assert.same({ "timeout", "data" }, { err.code, err.step })
    -- Whatever room the kernel still finds.
    local full = 0
    connection:settimeout(0)
    while full < 20 do
      local _, _, sent = connection:send(block)
      full = sent == 0 and full + 1 or 0
      core.poll(connection:getfd(), "r", core.now() + 0.01)
    end
    connection:settimeout(0.2)
    local ok
    ok, message, err = connection:shutdown("send")
    assert.is_nil(ok)
    assert.same({ "timeout", "timeout", "close" }, { message, err.code, err.step })
    local start = core.now()
    connection:close()
    assert.is_true(core.now() - start < 8)
    server:stop()
  end)
end)

describe("the errors of data", function()
  it("A4 name the end of data without close_notify, and keep what came", function()
    local server = peers.openssl_server { cert = site, mode = "-rev" }
    -- The close_notify of the server does not pass.
    local relay = peers.relay { to = server, record = [[
      if from == "client" and number > 5 then relay:finish() end
      return record
    ]] }
    for _, pattern in ipairs { "*a", "*l" } do
      local connection = assert(tlsconnect.connect(relay.host, relay.port, options { max_version = "TLS1.2" }))
      connection:send("abc\n")
      assert.equal("cb", connection:receive(2))
      connection:send("more\n")
      local data, message, partial, err = connection:receive(pattern)
      if pattern == "*l" then
        assert.equal("a", data)
        data, message, partial, err = connection:receive(pattern)
        assert.equal("", partial)
      else
        assert.equal("a\n", partial)
      end
      assert.is_nil(data)
      assert.same({ "truncated", "data" }, { err.code, err.step })
      names_peer(message, relay)
      assert.truthy(message:find("may be missing", 1, true), message)
      connection:close()
    end
  end)

  it("A4 stop a loop over the lines, which never takes half for the whole", function()
    local server = peers.openssl_server { cert = site, mode = "-rev" }
    local relay = peers.relay { to = server, record = [[
      if from == "client" and number > 5 then relay:finish() end
      return record
    ]] }
    local connection = assert(tlsconnect.connect(relay.host, relay.port, options { max_version = "TLS1.2" }))
    connection:send("abc\n")
    assert.equal("cba", connection:receive())
    connection:send("more\n")
    local ok, err = pcall(function()
      for line in connection:lines() do assert.is_nil(line) end
    end)
    assert.is_false(ok)
    assert.equal("truncated", err.code)
    connection:close()
  end)

  it("name a record that was changed on the way", function()
    local server = peers.openssl_server { cert = site, mode = "-rev" }
    local relay = peers.relay { to = server, record = [[
      if from == "server" and record:byte(1) == 23 and #record < 40 then
        return record:sub(1, -2) .. string.char((record:byte(-1) + 1) % 256)
      end
      return record
    ]] }
    local connection = assert(tlsconnect.connect(relay.host, relay.port, options { max_version = "TLS1.2" }))
    connection:send("abc\n")
    local data, message, _, err = connection:receive()
    assert.is_nil(data)
    assert.equal("bad_record", err.code)
    names_peer(message, relay)
    connection:close()
  end)

  it("name a connection that is reset", function()
    local server = peers.openssl_server { cert = site, mode = "-rev" }
    local relay = peers.relay { to = server, record = [[
      if from == "client" and number > 5 then relay:reset() end
      return record
    ]] }
    local connection = assert(tlsconnect.connect(relay.host, relay.port, options { max_version = "TLS1.2" }))
    connection:send("abc\n")
    assert.equal("cba", connection:receive())
    connection:send("more\n")
    local data, message, _, err = connection:receive()
    assert.is_nil(data)
    assert.same({ "reset", "data" }, { err.code, err.step })
    names_peer(message, relay)
    assert.not_equal("closed", message)
    connection:close()
  end)
end)

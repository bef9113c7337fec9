local core = require "tlsconnect.core"
local pki = require "spec.support.pki"
local scheduler = require "spec.support.scheduler"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

local authority = pki.shared()
local site = authority:issue { name = "a.test" }

local function listen(wait, options, address)
  options = options or {}
  options.certificate, options.key, options.wait = options.certificate or site.chain, options.key or site.key, wait
  local listener = assert(tlsconnect.listen(address or "127.0.0.1", 0, options))
  local _, port = listener:address()
  return listener, port
end

local function connect(port, wait, options)
  options = options or {}
  options.server_name = options.server_name or "a.test"
  if not options.context then options.ca_file = authority.ca_file end
  options.wait, options.timeout = wait, options.timeout or 60
  local host = options.host or "127.0.0.1"
  options.host = nil
  return tlsconnect.connect(host, port, options)
end

-- A TCP connection that says nothing by itself.
local function raw(port, wait)
  local socket = assert(core.socket("inet"))
  local ok, want = socket:connect("127.0.0.1", port)
  if not ok then
    assert(want == "want_write", want)
    wait(socket:getfd(), "w")
    assert(socket:finish_connect())
  end
  return socket
end

describe("listener", function()
  it("accepts, and makes the handshake when the connection is first used", function()
    scheduler.run(function(spawn, wait, _, join)
      local listener, port = listen(wait)
      local server = spawn(function()
        local peer = assert(listener:accept())
        assert.is_nil(peer:info())
        assert.truthy(tostring(peer):find("new", 1, true))
        assert.equal("hello", peer:receive())
        assert.equal("TLS1.3", peer:info().version)
        peer:send("hello too\n")
        peer:close()
      end)
      local client = assert(connect(port, wait))
      client:send("hello\n")
      assert.equal("hello too", client:receive())
      assert.same({ nil, "closed" }, { (select(1, client:receive())), (select(2, client:receive())) })
      client:close()
      join(server)
      listener:close()
    end)
  end)

  it("says where it listens", function()
    local listener, port = listen()
    local address, same, family = listener:address()
    assert.same({ "127.0.0.1", port, "inet" }, { address, same, family })
    assert.is_true(port > 0)
    assert.is_true(listener:getfd() >= 0)
    assert.equal(listener:getfd(), listener:pollfd())
    assert.equal("r", listener:events())
    assert.truthy(tostring(listener):find("127.0.0.1", 1, true))
    listener:close()
    assert.equal(-1, listener:getfd())
  end)

  it("looks without waiting, or for so long", function()
    local listener = listen()
    local none, message, err = listener:accept(0)
    assert.same({ message = "timeout", code = "timeout", step = "tcp" },
      { none = none, message = message, code = err.code, step = err.step })
    local start = core.now()
    none, message = listener:accept(0.05)
    assert.same({ message = "timeout" }, { none = none, message = message })
    assert.is_true(core.now() - start >= 0.05)
    listener:close()
  end)

  it("Z5 frees its descriptor also when the wait of an accept has raised", function()
    local raise = true
    local listener = listen(function(...)
      if raise then error("enough") end
      return core.poll(...)
    end)
    local task = coroutine.create(function() listener:accept() end)
    assert.is_false(coroutine.resume(task))
    assert.is_false(pcall(listener.accept, listener))
    raise = false
    assert.equal("timeout", select(2, listener:accept(0.01)))
    local fd = listener:getfd()
    assert.is_true(listener:close())
    assert.equal("closed", select(3, core.poll(fd, "r", core.now())).code)
  end)

  it("names a wrong argument of accept, and has no address once closed", function()
    local listener = listen()
    local ok, message = pcall(function() listener:accept("soon") end)
    assert.is_false(ok)
    assert.truthy(message:find("bad argument #1 to 'accept' (a number of seconds or nil expected)", 1, true), message)
    listener:close()
    local address, _, err = listener:address()
    assert.is_nil(address)
    assert.equal("closed", err.code)
  end)

  it("knows no address of a client that has reset its connection before it was accepted", function()
    local listener, port = listen()
    local socket = raw(port, core.poll)
    assert.is_true(socket:set("reset", true))
    socket:close()
    local peer = assert(listener:accept(60))
    assert.is_nil(peer.port)
    local line, message, _, err = peer:receive()
    assert.is_nil(line)
    assert.equal("reset", err.code)
    assert.is_nil(message:find("endpoint", 1, true), message)
    listener:close()
  end)

  it("gives closed to a coroutine that waits in accept", function()
    scheduler.run(function(spawn, wait, sleep, join)
      local listener = listen(wait)
      local waiting = spawn(function()
        local peer, message, err = listener:accept()
        return peer, message, err and err.code
      end)
      sleep(0.01)
      assert.is_true(listener:close())
      assert.is_true(listener:close())
      assert.same({ n = 3, nil, "closed", "closed" }, { n = select("#", join(waiting)), join(waiting) })
      local peer, message = listener:accept()
      assert.same({ message = "closed" }, { peer = peer, message = message })
    end)
  end)

  it("is not harmed by a client that speaks no TLS, nor by one that leaves", function()
    scheduler.run(function(spawn, wait, _, join)
      local listener, port = listen(wait)
      local server = spawn(function()
        local failures = {}
        for i = 1, 2 do
          local peer = assert(listener:accept())
          local ok, message, err = peer:handshake()
          assert.is_nil(ok)
          assert.is_string(message)
          failures[i] = err.code
          assert.equal(-1, peer:getfd())
        end
        local peer = assert(listener:accept())
        assert.equal("hello", peer:receive())
        peer:close()
        return failures
      end)
      local http = raw(port, wait)
      http:write("GET / HTTP/1.1\r\n\r\n", 1, -1)
      local gone = raw(port, wait)
      gone:close()
      local client = assert(connect(port, wait))
      client:send("hello\n")
      assert.same({ "not_tls", "closed" }, join(server))
      client:close()
      http:close()
      listener:close()
    end)
  end)

  it("lets no slow client hold up another one", function()
    scheduler.run(function(spawn, wait, _, join)
      local listener, port = listen(wait, { timeout = 1 })
      local slow
      local function serve(peer)
        local line, message, _, err = peer:receive()
        if not line then return message, err.step end
        peer:send(line .. "\n")
        peer:close()
        return line
      end
      local server = spawn(function()
        slow = spawn(serve, assert(listener:accept()))
        join(spawn(serve, assert(listener:accept())))
      end)
      local silent = raw(port, wait)
      local client = assert(connect(port, wait))
      client:send("quick\n")
      assert.equal("quick", client:receive())
      join(server)
      local message, step = join(slow)
      assert.same({ "timeout", "client_hello" }, { message, step })
      client:close()
      silent:close()
      listener:close()
    end)
  end)

  it("chooses among several certificates by the name that the client asks for", function()
    local second, third = authority:issue { name = "b.test" }, authority:issue { name = "c.test" }
    scheduler.run(function(spawn, wait)
      local listener, port = listen(wait, { certificates = {
        { certificate = second.chain, key = second.key }, { certificate = third.chain, key = third.key },
      } })
      spawn(function()
        for _ = 1, 4 do
          local peer = assert(listener:accept())
          peer:handshake()
          peer:close()
        end
        listener:close()
      end)
      for name, expected in pairs { ["a.test"] = site, ["b.test"] = second, ["c.test"] = third } do
        local client = assert(connect(port, wait, { server_name = name }))
        local pem = client:peer_certificate():pem()
        assert.equal(assert(core.certificate(tmp.read(expected.cert))):pem(), pem)
        client:close()
      end
      -- A name that it does not have: the first certificate, which is then refused by the client.
      local client, _, err = connect(port, wait, { server_name = "other.test" })
      assert.is_nil(client)
      assert.equal("name_mismatch", err.code)
    end)
  end)

  it("demands a certificate of the client where roots are given", function()
    local user = authority:issue { name = "user.test", purpose = "client" }
    local stranger = pki.new():issue { name = "user.test", purpose = "client" }
    scheduler.run(function(spawn, wait, _, join)
      local listener, port = listen(wait, { ca_file = authority.ca_file })
      local server = spawn(function()
        local results = {}
        for i = 1, 3 do
          local peer = assert(listener:accept())
          local ok, _, err = peer:handshake()
          results[i] = ok and peer:peer_certificate():subject() ~= nil or err.code
          if ok then peer:send("welcome\n") end
          peer:close()
        end
        return results
      end)
      local client = assert(connect(port, wait, { certificate = user.chain, key = user.key }))
      assert.equal("welcome", client:receive())
      client:close()
      for _, own in ipairs { {}, { certificate = stranger.chain, key = stranger.key } } do
        -- TLS 1.3: the server refuses after the client's handshake is over.
        local refused, _, err = connect(port, wait, own)
        if refused then
          local line
          line, _, _, err = refused:receive()
          assert.is_nil(line)
          refused:close()
        end
        local expected = { certificate_required = true, certificate_rejected = true }
        assert.is_true(expected[err.code], err.code)
      end
      local results = join(server)
      assert.is_true(results[1])
      assert.truthy(({ certificate_required = 1, no_certificate = 1 })[results[2]], results[2])
      assert.equal("unknown_issuer", results[3])
      listener:close()
    end)
  end)

  it("asks for a certificate and takes none, when told to request one", function()
    local user = authority:issue { name = "user.test", purpose = "client" }
    scheduler.run(function(spawn, wait, _, join)
      local listener, port = listen(wait, { ca_file = authority.ca_file, client_certificate = "request" })
      local server = spawn(function()
        local results = {}
        for i = 1, 2 do
          local peer = assert(listener:accept())
          assert(peer:handshake())
          results[i] = peer:peer_certificate() ~= nil
          assert.equal(results[i], peer:verification() ~= nil)
          peer:send("welcome\n")
          peer:close()
        end
        return results
      end)
      for _, own in ipairs { { certificate = user.chain, key = user.key }, {} } do
        local client = assert(connect(port, wait, own))
        assert.equal("welcome", client:receive())
        client:close()
      end
      assert.same({ true, false }, join(server))
      listener:close()
    end)
  end)

  it("listens on every address, on IPv6, and on a Unix socket", function()
    scheduler.run(function(spawn, wait, _, join)
      for _, case in ipairs { { "*", "127.0.0.1" }, { "::1", "::1" }, { "[::1]", "[::1]" } } do
        local listener, port = listen(wait, nil, case[1])
        local server = spawn(function()
          local peer = assert(listener:accept())
          peer:send("x\n")
          peer:close()
        end)
        local client = assert(connect(port, wait, { host = case[2] }))
        assert.equal("x", client:receive())
        client:close()
        join(server)
        listener:close()
      end
      local path = tmp.path("socket")
      local listener = assert(tlsconnect.listen(path, nil, { certificate = site.chain, key = site.key, wait = wait }))
      local server = spawn(function()
        local peer = assert(listener:accept())
        peer:send("x\n")
        peer:close()
      end)
      local client = assert(tlsconnect.connect(path, nil, { server_name = "a.test", ca_file = authority.ca_file,
        wait = wait, trace = true }))
      assert.same({ "unix", path }, { client:info().family, client:info().remote_address })
      assert.same({ path = path, family = "unix", ok = true },
        { path = client:trace()[2].path, family = client:trace()[2].family, ok = client:trace()[2].ok })
      assert.equal("x", client:receive())
      client:close()
      join(server)
      listener:close()
    end)
  end)

  it("is reached by a Unix socket in a host's place, whose name is still verified", function()
    local path = tmp.path("socket")
    local listener
    scheduler.run(function(spawn, wait)
      listener = assert(tlsconnect.listen(path, nil, { certificate = site.chain, key = site.key, wait = wait }))
      spawn(function()
        for _ = 1, 2 do
          local peer = assert(listener:accept(60))
          local request = peer:read("head")
          if request then
            assert.truthy(request:find("\r\nHost: a.test\r\n", 1, true))
            peer:send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
          end
          peer:close()
        end
      end)
      local given = { unix_socket = path, ca_file = authority.ca_file, wait = wait, keep_alive = false }
      assert.equal("hi", assert(tlsconnect.https.get("https://a.test/", given)).body)
      local answer, _, err = tlsconnect.https.get("https://b.test/", given)
      assert.is_nil(answer)
      assert.equal("name_mismatch", err.code)
    end)
    listener:close()
    local refused, message, err, _ = tlsconnect.connect(path, nil, { server_name = "a.test" })
    assert.is_nil(refused)
    assert.same({ "refused", "tcp" }, { err.code, err.step })
    assert.truthy(message:find(path, 1, true), message)
    refused, _, err = tlsconnect.connect("a.test", 443, { unix_socket = path, allow_address = "public" })
    assert.is_nil(refused)
    assert.equal("address_refused", err.code)
    local ok, problem = pcall(function() tlsconnect.connect(path) end)
    assert.is_false(ok)
    assert.truthy(problem:find("listener_spec.lua:%d+: bad option 'server_name' to connect"), problem)
  end)

  it("says why it cannot listen", function()
    local listener, port = listen()
    local function why(address, at, options)
      local none, message, err = tlsconnect.listen(address, at, options or { certificate = site.chain, key = site.key })
      assert.is_nil(none)
      assert.equal(tostring(err), message)
      return err.code, message
    end
    local code, message = why("127.0.0.1", port)
    assert.equal("address_in_use", code)
    assert.truthy(message:find("127.0.0.1:" .. port, 1, true))
    assert.equal("address_not_available", (why("192.0.2.1", 0)))
    assert.equal("bad_host", (why("localhost", 0)))
    assert.equal("no_credentials", (why("127.0.0.1", 0, {})))
    assert.equal("no_credentials", (why("127.0.0.1", 0, { certificate = site.cert })))
    listener:close()
  end)

  it("refuses wrong arguments, and names them", function()
    local function message_of(...)
      local arguments = { n = select("#", ...), ... }
      local ok, message = pcall(function()
        tlsconnect.listen(arguments[1], arguments[2], arguments[3])
      end)
      assert.is_false(ok)
      return message
    end
    assert.truthy(message_of(5):find("bad argument #1 to 'listen'", 1, true))
    assert.truthy(message_of("127.0.0.1", "x"):find("bad argument #2 to 'listen'", 1, true))
    assert.truthy(message_of("127.0.0.1", 70000):find("bad argument #2 to 'listen'", 1, true))
    assert.truthy(message_of("127.0.0.1", 0, { certificat = 1 }):find("did you mean 'certificate'?", 1, true))
    local _, message = pcall(tlsconnect.listen, "127.0.0.1", 0, { certificate = site.chain, key = site.key,
      client_certificate = "require" })
    assert.truthy(message:find("bad option 'client_certificate'", 1, true), message)
  end)

  -- What a client sees of a listener that greets it: the connection's info, verification and certificate.
  local function greeted(listener, port, wait, spawn, options)
    spawn(function()
      local peer = assert(listener:accept())
      peer:send("x\n")
      peer:receive()
      peer:close()
    end)
    local client = assert(connect(port, wait, options))
    assert.equal("x", client:receive())
    local seen = { info = client:info(), verification = client:verification(), pem = client:peer_certificate():pem() }
    client:close()
    return seen
  end

  -- The certificate that a client sees which knows nothing of any session before.
  local function shown(listener, port, wait, spawn)
    local context = assert(tlsconnect.context { ca_file = authority.ca_file })
    return greeted(listener, port, wait, spawn, { context = context }).pem
  end

  it("shows its certificate anew when it is told to read it again, and stays as it was when that is no good", function()
    local cert, key = tmp.file(tmp.read(site.chain)), tmp.file(tmp.read(site.key))
    local new = authority:issue { name = "a.test", fresh = true }
    local old_pem = assert(core.certificate(tmp.read(site.cert))):pem()
    local new_pem = assert(core.certificate(tmp.read(new.cert))):pem()
    scheduler.run(function(spawn, wait)
      local listener, port = listen(wait, { certificate = cert, key = key })
      assert.equal(old_pem, shown(listener, port, wait, spawn))
      tmp.write(cert, tmp.read(new.chain))
      local ok, message, err = listener:reload()
      assert.is_nil(ok)
      assert.same({ "key_mismatch", message }, { err.code, tostring(err) })
      assert.equal(old_pem, shown(listener, port, wait, spawn))
      tmp.write(key, tmp.read(new.key))
      assert.is_true(listener:reload())
      assert.equal(new_pem, shown(listener, port, wait, spawn))
      listener:close()
    end)
  end)

  it("lets sessions be taken up again, also after it has read its files again, unless it shall not", function()
    scheduler.run(function(spawn, wait)
      for _, version in ipairs { "TLS1.2", "TLS1.3" } do
        local context = assert(tlsconnect.context { ca_file = authority.ca_file, max_version = version })
        local listener, port = listen(wait)
        assert.is_false(greeted(listener, port, wait, spawn, { context = context }).info.resumed)
        assert.is_true(greeted(listener, port, wait, spawn, { context = context }).info.resumed)
        assert.is_true(listener:reload())
        assert.is_true(greeted(listener, port, wait, spawn, { context = context }).info.resumed)
        listener:close()
        listener, port = listen(wait, { tickets = false })
        for _ = 1, 2 do
          assert.is_false(greeted(listener, port, wait, spawn, { context = context }).info.resumed)
        end
        listener:close()
      end
    end)
    assert.error_matches(function() listen(nil, { tickets = "short" }) end, "bad option 'tickets' .*64 to 64 bytes")
  end)

  it("staples an OCSP response, from a file or as it is", function()
    local path = authority:staple(site)
    scheduler.run(function(spawn, wait)
      for _, staple in ipairs { path, tmp.read(path) } do
        for _, version in ipairs { "TLS1.2", "TLS1.3" } do
          local listener, port = listen(wait, { staple = staple, max_version = version })
          local seen = greeted(listener, port, wait, spawn,
            { context = assert(tlsconnect.context { ca_file = authority.ca_file }) })
          assert.same({ "yes", "good" }, { seen.verification.revocation.answer, seen.verification.revocation.code })
          listener:close()
        end
      end
    end)
  end)

  it("refuses a staple that is none, or about another certificate", function()
    local other = authority:staple(authority:issue { name = "b.test" })
    local function code_of(staple)
      local none, message, err = tlsconnect.listen("127.0.0.1", 0, { certificate = site.chain, key = site.key,
        staple = staple })
      assert.is_nil(none)
      assert.truthy(message:find("staple", 1, true) or message:find("OCSP", 1, true), message)
      return err.code
    end
    assert.equal("bad_der", code_of(other))
    assert.equal("bad_der", code_of("0\129\0"))
    assert.equal("bad_der", code_of(site.cert))
    assert.equal("unreadable_file", code_of(site.cert .. ".none"))
  end)
end)

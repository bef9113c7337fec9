-- tlsconnect.connect, wrap and listen with peers that others have written.
local core = require "tlsconnect.core"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local run = require "spec.support.run"
local scheduler = require "spec.support.scheduler"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

local authority = pki.shared()
local site = authority:issue { name = "a.test", ip = { "127.0.0.1", "::1" } }
local rsa = authority:issue { name = "a.test", key = "rsa2048" }

local function options(more)
  local given = { server_name = "a.test", ca_file = authority.ca_file, timeout = 60 }
  for name, value in pairs(more or {}) do given[name] = value end
  return given
end

-- A page by hand.
local function get(connection)
  assert(connection:send("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n"))
  return assert(connection:receive("*a"))
end

local function fetch(server, more)
  local connection = assert(tlsconnect.connect(server.host, server.port, options(more)))
  local page, info = get(connection), connection:info()
  connection:close()
  return page, info, connection
end

describe("connect", function()
  it("gets a page from nginx, with both versions and both kinds of key", function()
    for _, cert in ipairs { site, rsa } do
      local server = peers.nginx { cert = cert }
      for _, version in ipairs { "TLS1.2", "TLS1.3" } do
        local page, info = fetch(server, { min_version = version, max_version = version })
        assert.truthy(page:find("hello from nginx", 1, true))
        assert.equal(version, info.version)
      end
      server:stop()
    end
  end)

  it("gets a page from openssl s_server, with both versions and both kinds of key", function()
    for _, cert in ipairs { site, rsa } do
      local server = peers.openssl_server { cert = cert }
      for _, version in ipairs { "TLS1.2", "TLS1.3" } do
        local page, info = fetch(server, { min_version = version, max_version = version })
        assert.truthy(page:find("s_server", 1, true))
        assert.equal(version, info.version)
      end
      server:stop()
    end
  end)

  it("gets a page from gnutls-serv, with both versions and both kinds of key", function()
    for _, cert in ipairs { site, rsa } do
      local server = peers.gnutls_server { cert = cert }
      for _, version in ipairs { "TLS1.2", "TLS1.3" } do
        local page, info = fetch(server, { min_version = version, max_version = version })
        assert.truthy(page:find("GnuTLS", 1, true))
        assert.equal(version, info.version)
      end
      server:stop()
    end
  end)

  it("verifies with no option set, by the roots of the system", function()
    local server = peers.nginx { cert = site }
    local script = [[
      local tlsconnect = require "tlsconnect"
      local connection, message, err = tlsconnect.connect("127.0.0.1", tonumber(arg[1]))
      print(connection and connection:verification().issuer.answer or err.code)
    ]]
    local path = tmp.file(script, "plain.lua")
    local process = require "spec.support.process"
    local function result(environment)
      return (run.check({ process.lua(), path, server.port }, { environment = environment }):gsub("%s+$", ""))
    end
    assert.equal("yes", result { SSL_CERT_FILE = authority.ca_file })
    local directory = tmp.directory()
    run.check { "cp", authority.ca_file, directory .. "/root.pem" }
    assert.equal("yes", result { SSL_CERT_DIR = directory })
    assert.equal("unknown_issuer", result {})
  end)

  it("sends the name for SNI, and never an address", function()
    local server = peers.openssl_server { cert = site, mode = "-rev", arguments = { "-tlsextdebug" } }
    local connection = assert(tlsconnect.connect("127.0.0.1", server.port, options()))
    connection:send("abc\n")
    assert.equal("cba", connection:receive())
    connection:close()
    assert.truthy(server:output():find('"server name" .-a%.test'), server:output())
    server:stop()
    server = peers.openssl_server { cert = site, mode = "-rev", arguments = { "-tlsextdebug" } }
    connection = assert(tlsconnect.connect("127.0.0.1", server.port, { ca_file = authority.ca_file, timeout = 60 }))
    connection:send("abc\n")
    assert.equal("cba", connection:receive())
    connection:close()
    assert.is_nil(server:output():find("server name", 1, true), server:output())
    assert.truthy(server:output():find("supported_groups", 1, true), server:output())
  end)

  it("takes an IP address, of version 6 in brackets too, and looks for it in the certificate", function()
    local server = peers.nginx { cert = site }
    local connection = assert(tlsconnect.connect("127.0.0.1", server.port, { ca_file = authority.ca_file }))
    assert.equal("yes", connection:verification().name.answer)
    connection:close()
    server:stop()
    server = peers.nginx { cert = site, host = "[::1]" }
    for _, host in ipairs { "::1", "[::1]" } do
      connection = assert(tlsconnect.connect(host, server.port, { ca_file = authority.ca_file }))
      assert.equal("::1", connection:info().remote_address)
      connection:close()
    end
    -- The certificate is for other addresses.
    server:stop()
    server = peers.nginx { cert = rsa }
    local none, message, err = tlsconnect.connect("127.0.0.1", server.port, { ca_file = authority.ca_file })
    assert.is_nil(none)
    assert.equal("name_mismatch", err.code)
    assert.truthy(message:find("127.0.0.1", 1, true))
  end)

  it("takes names as people write them: a trailing dot, capitals, letters beyond ASCII", function()
    local names = authority:issue { name = { "a.test", "xn--bcher-kva.test" } }
    local server = peers.nginx { cert = names }
    for _, name in ipairs { "a.test.", "A.Test", "bücher.test", "xn--bcher-kva.test" } do
      local connection = assert(tlsconnect.connect("127.0.0.1", server.port, options { server_name = name }))
      assert.equal("yes", connection:verification().name.answer)
      connection:close()
    end
    local none, message, err = tlsconnect.connect("127.0.0.1", server.port, options { server_name = "a\n.test" })
    assert.is_nil(none)
    assert.same({ "bad_host", "dns" }, { err.code, err.step })
    assert.is_nil(message:find("\n", 1, true))
  end)

  it("shows a client certificate", function()
    local user = authority:issue { name = "user.test", purpose = "client" }
    for _, version in ipairs { "TLS1.2", "TLS1.3" } do
      local server = peers.nginx { cert = site, client_ca = authority.ca_file,
        locations = { ["/"] = "return 200 'you are $ssl_client_s_dn';" } }
      local page = fetch(server, { certificate = user.chain, key = user.key, max_version = version })
      assert.truthy(page:find("you are CN=user.test", 1, true), page)
      server:stop()
    end
  end)

  it("agrees on a protocol, and fails when there is none in common", function()
    local server = peers.openssl_server { cert = site, alpn = "h2,http/1.1" }
    local connection = assert(tlsconnect.connect(server.host, server.port, options { alpn = { "http/1.1", "h2" } }))
    assert.is_string(connection:info().alpn)
    connection:close()
    local none, _, err = tlsconnect.connect(server.host, server.port, options { alpn = "h3" })
    assert.is_nil(none)
    assert.equal("no_common_alpn", err.code)
  end)

  it("S6 refuses a server that answers a demand for a protocol with none", function()
    local server = peers.openssl_server { cert = site }
    for _, version in ipairs { "TLS1.2", "TLS1.3" } do
      local none, message, err = tlsconnect.connect(server.host, server.port,
        options { alpn = { "h2" }, max_version = version })
      assert.is_nil(none)
      assert.same({ "no_common_alpn", "server_hello" }, { err.code, err.step })
      assert.truthy(message:find(server.host .. ":" .. server.port, 1, true), message)
    end
  end)

  it("lets one context serve many calls, at once and one after another", function()
    local server = peers.nginx { cert = site }
    local context = assert(tlsconnect.context { ca_file = authority.ca_file, timeout = 60 })
    for _ = 1, 3 do
      local connection = assert(tlsconnect.connect(server.host, server.port,
        { context = context, server_name = "a.test" }))
      assert.truthy(get(connection):find("hello", 1, true))
      connection:close()
    end
  end)

  it("keeps to the family and the local address that it is told", function()
    local server = peers.nginx { cert = site }
    local connection = assert(tlsconnect.connect(server.host, server.port, options { local_address = "127.0.0.2" }))
    assert.equal("127.0.0.2", connection:info().local_address)
    connection:close()
    local none, _, err = tlsconnect.connect("127.0.0.1", server.port, options { family = "inet6" })
    assert.is_nil(none)
    assert.equal("no_address", err.code)
  end)

  it("K1 never takes a suite without certificates for a verified one", function()
    local server = peers.gnutls_server { priority = "NORMAL:-VERS-ALL:+VERS-TLS1.2:+ANON-ECDH:+ANON-DH" }
    local none, message, err = tlsconnect.connect(server.host, server.port,
      options { priority = "-VERS-TLS1.3:+ANON-ECDH:+ANON-DH" })
    assert.is_nil(none)
    assert.truthy(({ no_common_parameters = 1, no_certificate = 1 })[err.code], message)
    assert.not_equal("data", err.step)
  end)
end)

describe("wrap", function()
  -- A TCP connection to a peer.
  local function dial(server)
    local socket = assert(core.socket("inet"))
    local ok, want = socket:connect(server.host, server.port)
    if not ok then
      assert.equal("want_write", want)
      core.poll(socket:getfd(), "w", core.now() + 60)
      assert(socket:finish_connect())
    end
    return socket
  end

  local function in_clear(server, more)
    local given = { tls = false, timeout = 60 }
    for name, value in pairs(more or {}) do given[name] = value end
    return assert(require("tlsconnect.connection").open(server.host, server.port, given))
  end

  it("takes over a descriptor", function()
    local server = peers.nginx { cert = site }
    local fd = dial(server):detach()
    local connection = assert(tlsconnect.wrap(fd, options()))
    assert.equal(fd, connection:getfd())
    assert.truthy(get(connection):find("hello from nginx", 1, true))
    connection:close()
    assert.is_nil(core.poll(fd, "r", core.now()))
  end)

  it("takes over the descriptor of a LuaSocket socket", function()
    local found, socket = pcall(require, "socket")
    if not found then return end
    local server = peers.nginx { cert = site }
    local client = assert(socket.connect(server.host, server.port))
    local fd = client:getfd()
    local connection = assert(tlsconnect.wrap(client, options()))
    assert.equal(-1, client:getfd())
    assert.equal(fd, connection:getfd())
    client:close()
    assert.truthy(get(connection):find("hello from nginx", 1, true))
    connection:close()
  end)

  it("makes TLS of a connection in clear, after a dialogue", function()
    local server = peers.nginx { cert = site }
    local relay = peers.raw(([[
      peer:send("220 mail.test\r\n")
      if peer:line() ~= "STARTTLS" then return end
      peer:send("220 go ahead\r\n")
      local core = require "tlsconnect.core"
      local socket = assert(core.socket("inet"))
      socket:connect("127.0.0.1", %d)
      peer.wait(socket:getfd(), "w")
      assert(socket:finish_connect())
      while true do
        local data = peer:read("some")
        if data == "" then return end
        socket:write(data)
        repeat
          peer.wait(socket:getfd(), "r", core.now() + 0.2)
          data = socket:read("some", 65536)
          if data then peer:send(data) end
        until not data
      end
    ]]):format(server.port))
    local plain = in_clear(relay)
    assert.equal("220 mail.test", plain:receive())
    assert.is_nil(plain:info().version)
    plain:send("STARTTLS\r\n")
    assert.equal("220 go ahead", plain:receive())
    local connection = assert(tlsconnect.wrap(plain, options()))
    assert.equal(-1, plain:getfd())
    assert.same({ nil, "closed" }, { (function(a, b) return a, b end)(plain:read(1)) })
    connection:send("GET / HTTP/1.0\r\n\r\n")
    assert.equal("HTTP/1.1 200 OK", connection:receive())
    connection:close()
  end)

  it("S1 refuses bytes that came in clear behind the go-ahead", function()
    local script = [[ peer:send("220 go ahead\r\nFORGED: yes\r\n") peer:drain() ]]
    -- Read ahead by the connection in clear.
    local server = peers.raw(script)
    local plain = in_clear(server)
    assert.equal("220 go ahead", plain:receive())
    local none, message, err = tlsconnect.wrap(plain, options())
    assert.is_nil(none)
    assert.same({ "plaintext_before_tls", "client_hello" }, { err.code, err.step })
    assert.truthy(message:find("in clear", 1, true))
    assert.equal(-1, plain:getfd())
    -- Read ahead by LuaSocket.
    local found, socket = pcall(require, "socket")
    if found then
      local client = assert(socket.connect(server.host, server.port))
      assert.equal("220 go ahead", client:receive())
      none, message, err = tlsconnect.wrap(client, options())
      assert.is_nil(none)
      assert.equal("plaintext_before_tls", err.code, message)
      client:close()
    end
    -- Still in the kernel: they are no TLS, and nothing of them is served.
    local waiting = dial(server)
    core.poll(waiting:getfd(), "r", core.now() + 60)
    none, message, err = tlsconnect.wrap(waiting:detach(), options())
    assert.is_nil(none)
    assert.equal("not_tls", err.code, message)
  end)

  it("makes TLS in TLS", function()
    local inner = peers.nginx { cert = authority:issue { name = "inner.test" } }
    scheduler.run(function(spawn, wait, _, join)
      local listener = assert(tlsconnect.listen("127.0.0.1", 0, { certificate = site.chain, key = site.key,
        wait = wait }))
      local _, port = listener:address()
      local task = spawn(function()
        local outer = assert(listener:accept())
        local target = in_clear(inner, { wait = wait })
        local up = spawn(function()
          while true do
            local data = outer:read("some", 65536)
            if not data then break end
            target:send(data)
          end
          target:shutdown("send")
        end)
        while true do
          local data = target:read("some", 65536)
          if not data then break end
          outer:send(data)
        end
        outer:shutdown("send")
        join(up)
        outer:close()
        target:close()
        listener:close()
      end)
      local outer = assert(tlsconnect.connect("127.0.0.1", port, options { wait = wait }))
      local connection = assert(tlsconnect.wrap(outer, options { server_name = "inner.test", wait = wait }))
      assert.truthy(get(connection):find("hello from nginx", 1, true))
      connection:close()
      assert.equal(-1, outer:getfd())
      join(task)
    end)
  end)

  it("is a server, when told so", function()
    scheduler.run(function(spawn, wait, _, join)
      local listener = assert(core.socket("inet"))
      assert(listener:bind("127.0.0.1", 0))
      assert(listener:listen(1))
      local _, port = listener:local_address()
      local server = spawn(function()
        wait(listener:getfd(), "r")
        local peer = assert(tlsconnect.wrap(assert(listener:accept()):detach(),
          { role = "server", certificate = site.chain, key = site.key, wait = wait }))
        peer:send("hello\n")
        peer:close()
      end)
      local client = assert(tlsconnect.connect("127.0.0.1", port, options { wait = wait }))
      assert.equal("hello", client:receive())
      client:close()
      join(server)
      listener:close()
    end)
  end)

  it("refuses what it cannot take over, and a client without a name to verify", function()
    local function message_of(thing, given)
      local ok, message = pcall(function() tlsconnect.wrap(thing, given) end)
      assert.is_false(ok)
      return message
    end
    for _, thing in ipairs { "socket", true, {}, io.stdout, -1, 1.5 } do
      assert.truthy(message_of(thing, options()):find("bad argument #1 to 'wrap'", 1, true))
    end
    assert.truthy(message_of(0, { timeout = 1 }):find("bad option 'server_name' to wrap", 1, true))
    assert.truthy(message_of(0, { role = "server" }):find("bad option 'certificate' to wrap", 1, true))
    local closed = in_clear(peers.nginx { cert = site })
    closed:close()
    assert.truthy(message_of(closed, options()):find("the connection is closed", 1, true))
  end)

  it("closes what it took over when the handshake fails", function()
    local server = peers.nginx { cert = site }
    local fd = dial(server):detach()
    local none, _, err = tlsconnect.wrap(fd, options { server_name = "other.test" })
    assert.is_nil(none)
    assert.equal("name_mismatch", err.code)
    assert.is_nil(core.poll(fd, "r", core.now()))
  end)
end)

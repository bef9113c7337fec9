-- The specs' own tools: what they start must be there, and be gone afterwards.
local core = require "tlsconnect.core"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local ports = require "spec.support.ports"
local process = require "spec.support.process"
local run = require "spec.support.run"
local scheduler = require "spec.support.scheduler"
local sockets = require "spec.support.sockets"

describe("spec.support", function()
  local authority, site

  setup(function()
    authority = pki.shared()
    site = authority:issue { name = "a.test", ip = "127.0.0.1" }
  end)

  local function curl(peer, ...)
    return run { "curl", "-sS", "--cacert", authority.ca_file, "--connect-to", "a.test::127.0.0.1:" .. peer.port,
      "https://a.test/", ... }
  end

  it("runs a command and gives its output, errors and code", function()
    local result = run { "sh", "-c", "echo out; echo 'a b' >&2; exit 3" }
    assert.equal("out\n", result.out)
    assert.equal("a b\n", result.err)
    assert.equal(3, result.code)
    assert.equal("it's", run("cat", { stdin = "it's" }).out)
    assert.equal(137, run("sleep 60", { timeout = 0.1 }).code)
  end)

  it("runs a command beside the spec", function()
    local job = run.start("sleep 0.2; echo done", { environment = { A = "b" } })
    assert.is_nil(job:result())
    assert.same({ code = 0, out = "done\n", err = "" }, job:wait())
  end)

  it("starts nginx, and stops it", function()
    local server = peers.nginx { cert = site, locations = { ["/"] = "return 200 'welcome';" } }
    assert.equal("welcome", curl(server).out)
    server:stop()
    assert.is_false(process.alive(server.pid))
    assert.is_false(ports.listening(server.port))
  end)

  it("starts openssl s_server and writes to its input", function()
    assert.matches("s_server %-accept", curl(peers.openssl_server { cert = site }).out)
    local server = peers.openssl_server { cert = site, mode = false }
    local client = run.start({ "openssl", "s_client", "-quiet", "-connect", "127.0.0.1:" .. server.port },
      { stdin = "hello\n" })
    assert.is_truthy(process.eventually(function() return server:output():find("hello", 1, true) end))
    server:command("Q\n")
    assert.is_truthy(process.eventually(function() return client:result() end))
  end)

  it("starts gnutls-serv", function()
    assert.matches("GnuTLS", curl(peers.gnutls_server { cert = site }).out)
  end)

  it("starts proxies", function()
    local server = peers.nginx { cert = site }
    local function through(scheme, proxy, ...)
      local result = run { "curl", "-sS", "--cacert", authority.ca_file, "--proxy",
        scheme .. "://127.0.0.1:" .. proxy.port, "https://127.0.0.1:" .. server.port .. "/", ... }
      return result.out .. result.err
    end
    local hello = "hello from nginx\n"
    assert.equal(hello, through("http", peers.squid()))
    assert.equal(hello, through("https", peers.squid { cert = site }, "--proxy-cacert", authority.ca_file))
    assert.equal(hello, through("http", peers.squid { user = "u", password = "p" }, "--proxy-user", "u:p"))
    assert.equal(hello, through("http", peers.tinyproxy { user = "u", password = "p" }, "--proxy-user", "u:p"))
    assert.equal(hello, through("socks5", peers.microsocks { user = "u", password = "p" }, "--proxy-user", "u:p"))
    assert.equal(hello, through("socks4", peers.dante()))
  end)

  it("staples and answers revocation", function()
    local one = authority:issue { name = "revoked.test", fresh = true }
    local function ask(responder)
      return run.check { "openssl", "ocsp", "-issuer", authority.ca_file, "-cert", one.cert, "-CAfile",
        authority.ca_file, "-url", "http://127.0.0.1:" .. responder.port .. "/" }
    end
    local responder = peers.ocsp { authority = authority.root }
    assert.matches(": good", ask(responder))
    responder:stop()
    authority:revoke(one, "keyCompromise")
    assert.matches(": revoked", ask(peers.ocsp { authority = authority.root }))
    assert.matches("Key Compromise", run.check { "openssl", "crl", "-noout", "-text", "-in", authority:crl() })
  end)

  it("starts a peer of any behaviour", function()
    local server = peers.raw [[
      peer:head()
      peer:send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnumber ")
      peer:drip(number .. "\n", 0.01)
    ]]
    local url = "http://127.0.0.1:" .. server.port .. "/"
    assert.equal("number 1\n", run({ "curl", "-sS", url }).out)
    assert.equal("number 2\n", run({ "curl", "-sS", url }).out)
    local rude = peers.raw "peer:head() peer:reset()"
    assert.matches("reset by peer", run({ "curl", "-sS", "http://127.0.0.1:" .. rude.port .. "/" }).err)
  end)

  it("stands between a client and a server, record by record", function()
    local server = peers.nginx { cert = site }
    local relay = peers.relay { to = server, record = "return record" }
    assert.equal("hello from nginx\n", curl(relay).out)
    local cut = peers.relay { to = server, after = 1, act = "finish" }
    assert.matches("SSL_ERROR_SYSCALL in connection to a.test:443 \n", curl(cut).err)
    local broken = peers.relay { to = server, after = 1, act = "reset" }
    assert.matches("reset by peer", curl(broken).err)
    local changed = peers.relay { to = server, record = [[
      if from == "server" and number == 2 then return record .. record end
      if from == "server" and number == 4 then relay:reset() end
      return record
    ]] }
    assert.matches("curl: %(35%)", curl(changed).err)
  end)

  it("runs tasks on wait alone", function()
    local server = peers.raw "peer:send(peer:line() .. ' ' .. number .. '\\n') peer:stall()"
    local order = {}
    local result = scheduler.run(function(spawn, wait, sleep, join)
      local function talk(word)
        local socket = core.socket("inet")
        local ok, want = socket:connect(server.host, server.port)
        while want == "want_write" do
          wait(socket:getfd(), "w")
          ok, want = socket:finish_connect()
        end
        assert(ok, want)
        socket:write(word .. "\n")
        local line
        repeat
          assert(wait(socket:getfd(), "r"))
          line = socket:read("l")
        until line
        local _, message = wait(socket:getfd(), "r", core.now() + 0.05)
        assert.equal("timeout", message)
        return line
      end
      local one, two = spawn(talk, "one"), spawn(talk, "two")
      spawn(function() sleep(0.01) order[#order + 1] = "slept" end)
      order[#order + 1] = "started"
      assert.matches("^two %d$", join(two))
      return join(one)
    end)
    assert.matches("^one %d$", result)
    assert.same({ "started", "slept" }, order)
    assert.has_error(function() scheduler.run(function() error("broken", 0) end) end)
    assert.has_error(function()
      scheduler.run(function(spawn, _, _, join)
        local task
        task = spawn(function() join(task) end)
      end)
    end, "every task waits for another one")
  end)

  it("lets a task go on whose socket another closes, also when its number is used again", function()
    local server = peers.raw "peer:send(peer:line() .. '\\n') peer:stall()"
    -- No descriptor of earlier specs is to become free meanwhile. Twice: 5.1 frees what a finalizer has seen next time.
    collectgarbage()
    collectgarbage()
    scheduler.run(function(spawn, wait, _, join)
      for _ = 1, 3 do
        local first = sockets.connect(server.host, server.port)
        local fd = first:getfd()
        local task = spawn(function() return wait(fd, "r") end)
        spawn(function()
          first:close()
          local second = sockets.connect(server.host, server.port)
          assert.equal(fd, second:getfd())
          second:write("hello\n")
          local line, want
          repeat
            wait(fd, "r", core.now() + 10)
            line, want = second:read("l")
          until line or want ~= "want_read"
          assert.equal("hello", line)
          second:close()
        end)
        assert.is_true(join(task))
      end
    end)
  end)

  it("says why a server did not start", function()
    local ok, message = pcall(peers.nginx, { http = "nonsense;" })
    assert.is_false(ok)
    assert.matches("unknown directive \"nonsense\"", message)
  end)

  it("leaves nothing behind when its process is killed", function()
    local result = run({ process.lua(), "-e", [[
      local process = require "spec.support.process"
      local path = require("spec.support.tmp").directory()
      print(process.start { "sleep", "1000" }, path)
      io.stdout:flush()
      os.execute("kill -KILL " .. process.id())
    ]] })
    local pid, path = result.out:match("(%d+)%s+(%S+)")
    assert.is_truthy(process.eventually(function() return not process.alive(pid) end))
    assert.is_truthy(process.eventually(function() return not io.open(path) end))
  end)
end)

-- Proxies that exist (squid, tinyproxy, microsocks, Dante) on the way to nginx.
local https = require "tlsconnect.https"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local process = require "spec.support.process"
local scheduler = require "spec.support.scheduler"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

local authority = pki.shared()

describe("by way of a proxy", function()
  local secure, plain
  local echo = { ["/"] = "return 200 '$http_host $http_proxy_authorization.';",
    ["= /connection"] = "return 200 '$connection';" }

  setup(function()
    secure = peers.nginx { cert = authority:issue { name = "localhost", ip = "127.0.0.1" }, locations = echo,
      localhost = true }
    plain = peers.nginx { locations = echo, localhost = true }
  end)

  local function get(peer, proxy, more)
    local options = { timeout = 30, ca_file = authority.ca_file, proxy = proxy, keep_alive = false }
    for name, value in pairs(more or {}) do options[name] = value end
    local scheme = peer == plain and "http" or "https"
    return https.get(("%s://localhost:%d/"):format(scheme, peer.port), options)
  end

  local function body_of(peer) return "localhost:" .. peer.port .. " ." end

  local function url(scheme, proxy, userinfo)
    return ("%s://%s127.0.0.1:%d"):format(scheme, userinfo and userinfo .. "@" or "", proxy.port)
  end

  -- The proxy's two ways: a tunnel for https, the page itself for http.
  local function carries(proxy)
    assert.equal(body_of(secure), assert(get(secure, proxy)).body)
    assert.equal(body_of(plain), assert(get(plain, proxy)).body)
  end

  local function refused(code, ...)
    local page, message, err = get(...)
    assert.is_nil(page)
    assert.equal("proxy", err.step, message)
    assert.equal(code, err.code, message)
    return message, err
  end

  -- Long lists of ports that squid lets through are not what this is about.
  local open = "acl CONNECT method CONNECT"

  describe("squid", function()
    local squid, guarded, encrypted

    setup(function()
      squid = peers.squid { lines = open }
      guarded = peers.squid { user = "ada", password = "s3:cret", lines = open }
      encrypted = peers.squid { cert = authority:issue { name = "proxy.test", ip = "127.0.0.1" }, lines = open }
    end)

    it("carries https in a tunnel, and http in absolute form", function()
      carries(url("http", squid))
      for _, line in ipairs { "CONNECT localhost:" .. secure.port, "GET http://localhost:" .. plain.port .. "/" } do
        assert(process.eventually(function() return tmp.read(squid.access):find(line, 1, true) end), line)
      end
    end)

    it("is told a user name and a password", function()
      carries(url("http", guarded, "ada:s3%3Acret"))
      carries { url = url("http", guarded), user = "ada", password = "s3:cret" }
    end)

    it("P1 wants them, and the error says so; its page, cookies and headers are nobody's", function()
      local message, err = refused("proxy_auth", secure, url("http", guarded))
      assert.equal(("the proxy 127.0.0.1:%d wants a user name and a password (Basic)"):format(guarded.port), message)
      assert.equal(407, err.status)
      message = refused("proxy_auth", secure, url("http", guarded, "ada:wrong"))
      assert.truthy(message:find("does not take the user name and password given", 1, true), message)
      assert.is_nil(message:find("wrong", 1, true))
      message = refused("proxy_auth", plain, url("http", guarded))
      assert.equal(("the proxy 127.0.0.1:%d wants a user name and a password (Basic)"):format(guarded.port), message)
      refused("proxy_auth", plain, url("http", guarded, "ada:wrong"))
    end)

    it("is told them as a digest, where it wants that alone, and asked first only once", function()
      local digested = peers.squid { user = "ada", password = "s3:cret", digest = true,
        lines = open .. "\nauth_param digest nonce_max_count 10000" }
      local function count(status)
        return select(2, tmp.read(digested.access):gsub("/" .. status .. " ", ""))
      end
      local by_url = url("http", digested, "ada:s3%3Acret")
      for _ = 1, 3 do carries(by_url) end
      carries { url = url("http", digested), user = "ada", password = "s3:cret", digest = true }
      local posted = assert(https.post(("http://localhost:%d/"):format(plain.port), { body = ("x"):rep(100000),
        timeout = 30, proxy = by_url }))
      assert.equal(200, posted.status)
      assert(process.eventually(function() return count(200) >= 9 end), tmp.read(digested.access))
      assert.equal(1, count(407), tmp.read(digested.access))
      for _, peer in ipairs { secure, plain } do
        local message = refused("proxy_auth", peer, url("http", digested, "ada:wrong"))
        assert.truthy(message:find("does not take the user name and password given (Digest)", 1, true), message)
        refused("proxy_auth", peer, url("http", digested))
      end
      carries(by_url)
      -- Where a digest alone may be told, one that wants the password itself hears nothing.
      refused("proxy_auth", secure, { url = url("http", guarded), user = "ada", password = "s3:cret", digest = true })
    end)

    it("P4 hears nothing of what the origin is told, nor the origin what squid is told", function()
      local page = assert(get(secure, url("http", guarded, "ada:s3%3Acret"),
        { headers = { Authorization = "Basic eA==" } }))
      assert.equal(body_of(secure), page.body)
      page = assert(get(plain, url("http", guarded, "ada:s3%3Acret")))
      assert.equal(body_of(plain), page.body)
      local _, _, err = get(secure, url("http", guarded), { headers = { ["Proxy-Authorization"] = "Basic eA==" } })
      assert.equal("bad_header", err.code)
    end)

    it("says why it did not connect", function()
      local closed = peers.nginx {}
      closed:stop()
      local message, err = refused("proxy_refused", closed, url("http", squid))
      assert.equal(503, err.status)
      assert.truthy(message:find(("the proxy 127.0.0.1:%d did not connect to localhost:%d: it answered 503"):format(
        squid.port, closed.port), 1, true), message)
    end)

    it("P3 is verified by its own options when it speaks TLS, and the origin by the call's", function()
      local own = { url = url("https", encrypted), ca_file = authority.ca_file, server_name = "proxy.test" }
      carries(own)
      local message, err = refused("unknown_issuer", secure, url("https", encrypted))
      assert.equal("verify", err.within)
      assert.truthy(message:find("the proxy 127.0.0.1:" .. encrypted.port, 1, true), message)
      refused("name_mismatch", secure, { url = url("https", encrypted), ca_file = authority.ca_file,
        server_name = "other.test" })
      -- Nothing of the proxy's terms is the origin's.
      local other = pki.new()
      local stranger = peers.nginx { cert = other:issue { name = "localhost", ip = "127.0.0.1" }, localhost = true }
      local page
      page, message, err = get(stranger, { url = own.url, insecure_skip_verify = true })
      assert.is_nil(page)
      assert.equal("verify", err.step, message)
      stranger:stop()
      page, message, err = get(secure, own, { insecure_skip_verify = true })
      assert.equal(body_of(secure), assert(page, message or err).body)
      refused("unknown_issuer", secure, { url = own.url, server_name = "proxy.test" }, { insecure_skip_verify = true })
    end)

    it("is shown in the trace, in the step tcp", function()
      local page = assert(get(secure, { url = url("https", encrypted), ca_file = authority.ca_file,
        server_name = "proxy.test" }, { trace = true }))
      local hop = page.trace[2].proxy[1]
      assert.same({ "https", "127.0.0.1", encrypted.port, "localhost:" .. secure.port, "TLS1.3" },
        { hop.kind, hop.host, hop.port, hop.target, hop.version })
      assert.equal("tcp", page.trace[2].step)
      assert.equal("localhost", page.trace[3].server_name or page.trace[3].extensions and "localhost")
      assert.is_true(page.trace[5].ok)
    end)

    it("carries connect(), too", function()
      local connection = assert(tlsconnect.connect("localhost", secure.port, { timeout = 30,
        ca_file = authority.ca_file, proxy = url("http", squid) }))
      assert.equal("TLS1.3", connection:info().version)
      connection:send("GET / HTTP/1.0\r\nHost: a\r\n\r\n")
      assert.equal("HTTP/1.1 200 OK", connection:receive())
      connection:close()
    end)

    it("keeps nobody waiting: many ways at once in one thread, by every kind of link", function()
      local socks = peers.microsocks {}
      local proxies = { url("http", squid), url("http", guarded, "ada:s3%3Acret"), url("socks5", socks),
        url("socks5h", socks),
        { url = url("https", encrypted), ca_file = authority.ca_file, server_name = "proxy.test" } }
      local count = 0
      scheduler.run(function(spawn, wait)
        for i = 1, 20 do
          spawn(function()
            assert.equal(body_of(secure), assert(get(secure, proxies[i % #proxies + 1], { wait = wait })).body)
            count = count + 1
          end)
        end
      end)
      assert.equal(20, count)
    end)

    it("K4 is offered no session of the origin's, nor the origin one of squid's", function()
      local context = assert(tlsconnect.context { ca_file = authority.ca_file })
      local own = { url = url("https", encrypted), context = context }
      local offers = {}
      for i = 1, 3 do
        local proxy = i == 2 and url("http", squid) or own
        local connection = assert(tlsconnect.connect("localhost", secure.port, { timeout = 30, context = context,
          proxy = proxy }))
        connection:send("GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        assert.truthy(connection:receive("*a"):find("200 OK", 1, true))
        offers[i] = connection:info().resumed
        connection:close()
      end
      -- By another way there is another session; by the same one it is taken up.
      assert.same({ false, false, true }, { offers[1] or false, offers[2] or false, offers[3] or false })
    end)

    it("A5 an inner stream that only stops is truncated, whatever the outer one does", function()
      local cut = peers.nginx { cert = authority:issue { name = "localhost", ip = "127.0.0.1" },
        locations = { ["/"] = "return 200 'x';" } }
      -- A record of 24 bytes is TLS 1.3's close_notify: in its place the stream stops.
      local relay = peers.relay { to = cut,
        record = [[ if from == "server" and #record == 24 then relay:finish() end return record ]] }
      local connection = assert(tlsconnect.connect("127.0.0.1", relay.port, { timeout = 30, ca_file = authority.ca_file,
        proxy = { url = url("https", encrypted), ca_file = authority.ca_file, server_name = "proxy.test" },
        min_version = "1.3" }))
      connection:send("GET / HTTP/1.0\r\nHost: a\r\n\r\n")
      local data, _, rest, err = connection:receive("*a")
      assert.is_nil(data)
      assert.truthy(rest:find("\r\n\r\nx", 1, true), rest)
      assert.equal("truncated", err.code)
    end)

    it("keeps a tunnel for the next request, and none for another way there", function()
      local function connection(proxy)
        return assert(https.get(("https://localhost:%d/connection"):format(secure.port), { timeout = 30,
          ca_file = authority.ca_file, proxy = proxy })).body
      end
      local by_squid = connection(url("http", squid))
      assert.equal(by_squid, connection(url("http", squid)))
      assert.is_true(by_squid ~= connection(false))
      assert.is_true(by_squid ~= connection(url("http", guarded, "ada:s3%3Acret")))
      assert.equal(by_squid, connection(url("http", squid)))
    end)
  end)

  it("tinyproxy carries both, with a password and without", function()
    carries(url("http", peers.tinyproxy {}))
    local guarded = peers.tinyproxy { user = "ada", password = "secret" }
    carries(url("http", guarded, "ada:secret"))
    refused("proxy_auth", secure, url("http", guarded))
  end)

  for _, kind in ipairs { "socks5", "socks5h" } do
    it(kind .. " of microsocks carries both, with a password and without", function()
      carries(url(kind, peers.microsocks {}))
      local guarded = peers.microsocks { user = "ada", password = "secret" }
      carries(url(kind, guarded, "ada:secret"))
      refused("proxy_auth", secure, url(kind, guarded))
      refused("proxy_auth", secure, url(kind, guarded, "ada:wrong"))
    end)

    it(kind .. " of Dante carries both, and says why it did not connect", function()
      local dante = peers.dante {}
      carries(url(kind, dante))
      local closed = peers.nginx {}
      closed:stop()
      local _, err = refused("proxy_refused", closed, url(kind, dante))
      assert.equal(5, err.reply)
    end)
  end

  it("socks5 goes to each address of a name in turn, until the proxy reaches one", function()
    local resolve = require "tlsconnect.resolve"
    local addresses = resolve.addresses
    finally(function() resolve.addresses = addresses end)
    local socks, found = peers.microsocks {}, nil
    function resolve.addresses() return found end
    local alone = peers.nginx { cert = authority:issue { name = "localhost" }, locations = echo }
    found = { "::1", "127.0.0.2", "127.0.0.3", "127.0.0.1" }
    assert.equal(body_of(alone), assert(get(alone, url("socks5", socks))).body)
    found = { "127.0.0.2", "127.0.0.3", "::1" }
    local message, err = refused("proxy_refused", alone, url("socks5", socks))
    assert.truthy(message:find("did not connect to localhost:" .. alone.port, 1, true), message)
    assert.same({ 3, 5 }, { err.tried, err.reply })
  end)

  it("says that the proxy, not the host, cannot be reached", function()
    local closed = peers.tinyproxy {}
    closed:stop()
    local message, err = refused("refused", secure, url("http", closed))
    assert.equal(("the proxy 127.0.0.1:%d refused the connection"):format(closed.port), message)
    assert.equal("tcp", err.within)
    assert.is_true(err.retryable)
  end)
end)

-- Proxies that do what none should.
local core = require "tlsconnect.core"
local https = require "tlsconnect.https"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local tlsconnect = require "tlsconnect"

local authority = pki.shared()

local function get(url, proxy, more)
  local options = { timeout = 30, ca_file = authority.ca_file, proxy = proxy, keep_alive = false }
  for name, value in pairs(more or {}) do options[name] = value end
  return https.get(url, options)
end

local function http(peer) return "http://127.0.0.1:" .. peer.port end
local function socks(peer) return "socks5h://127.0.0.1:" .. peer.port end

-- The error that a proxy of this behaviour leads to.
local function refused(code, script, more)
  local peer = peers.raw(script)
  local page, message, err = get("https://origin.test/", http(peer), more)
  assert.is_nil(page)
  assert.equal("proxy", err.step, message)
  assert.equal(code, err.code, message)
  peer:stop()
  return message, err
end

describe("a hostile HTTP proxy", function()
  it("P1 gets no redirect followed, no body read, no cookie kept", function()
    for _, status in ipairs { "302 Found", "404 Not Found", "500 Oops", "407 No" } do
      local message, err = refused(status:find "407" and "proxy_auth" or "proxy_refused", ([[
        peer:head()
        peer:send("HTTP/1.1 %s\r\nLocation: https://evil.test/\r\nSet-Cookie: a=b\r\nContent-Length: 4\r\n\r\nevil")
      ]]):format(status))
      assert.equal(tonumber(status:match("%d+")), err.status)
      assert.is_nil(message:find("evil", 1, true))
    end
  end)

  it("P2 an answer of 200 has no length, and nothing behind it", function()
    refused("bad_answer", [[
      peer:head()
      peer:send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
      peer:drain()
    ]])
    local server = peers.nginx { cert = authority:issue { name = "localhost", ip = "127.0.0.1" } }
    local relay = peers.raw(([[
      local core = require "tlsconnect.core"
      peer:head()
      peer:send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1000\r\nTransfer-Encoding: x\r\n\r\n")
      local socket = assert(core.socket "inet")
      local ok, want = socket:connect("127.0.0.1", %d)
      if want == "want_write" then core.poll(socket:getfd(), "w") socket:finish_connect() end
      while true do
        local data = peer.socket:read("some", 65536)
        if data then socket:write(data) end
        local back, why = socket:read("some", 65536)
        if back then peer.socket:write(back) elseif why ~= "want_read" then return end
        if not data and not back then core.poll(socket:getfd(), "r", core.now() + 0.01) end
      end
    ]]):format(server.port))
    assert.equal("hello from nginx\n", assert(get("https://localhost/", http(relay))).body)
  end)

  it("breaks off, or does not speak HTTP", function()
    refused("closed", "peer:head()")
    refused("reset", "peer:head() peer:reset()")
    refused("bad_answer", 'peer:head() peer:send("SSH-2.0-x\\r\\n\\r\\n") peer:drain()')
    refused("bad_answer", 'peer:head() for _ = 1, 20 do peer:send("HTTP/1.1 100 Go on\\r\\n\\r\\n") end peer:drain()')
    refused("too_long", 'peer:head() peer:send("HTTP/1.1 200 OK\\r\\nX: " .. ("x"):rep(70000)) peer:drain()')
    local message, err = refused("timeout", "peer:head() peer:stall()", { timeout = 0.3 })
    assert.equal("timeout", message)
    assert.truthy(err.detail:find("the proxy 127.0.0.1:", 1, true), err.detail)
  end)

  it("X1 its words are shown escaped", function()
    local message = refused("proxy_refused", 'peer:head() peer:send("HTTP/1.1 503 \\27[31mred\\r\\n\\r\\n")')
    assert.truthy(message:find("503 \\x1B[31mred", 1, true), message)
  end)

  it("P4 is told the way and its password, and nothing else", function()
    local peer = peers.raw [[ peer:send("HTTP/1.1 503 " .. peer:head():gsub("\r\n", "|") .. "\r\n\r\n") ]]
    local _, message = get("https://u:p@origin.test/secret?x", "http://ada:secret@127.0.0.1:" .. peer.port,
      { headers = { Authorization = "Bearer t", Cookie = "c" } })
    assert.truthy(message:find("answered 503 CONNECT origin.test:443 HTTP/1.1|Host: origin.test:443|Pro", 1, true),
      message)
    assert.is_nil(message:find("secret", 1, true))
    assert.is_nil(message:find("Bearer", 1, true))
  end)

  it("H18 is told a digest for its own challenge alone, once, and never the password", function()
    local script = [[
      local head = peer:head()
      local said = head:match("Proxy%%-Authorization: ([^\r]*)") or "nothing"
      log = (log or "") .. said:gsub("response=.*", "") .. "|"
      if log:find("%s", 1, true) then return peer:send("HTTP/1.1 503 " .. log .. "\r\n\r\n") end
      peer:send('HTTP/1.1 407 No\r\nProxy-Authenticate: Digest realm="r", nonce="%s", qop="auth"\r\n'
        .. 'Content-Length: 1000\r\nSet-Cookie: a=b\r\n\r\n')
    ]]
    local one, two = peers.raw(script:format("n1", "n1")), peers.raw(script:format("n2", "n2"))
    for _, peer in ipairs { one, two } do
      local given = { url = http(peer), user = "ada", password = "secret", digest = true }
      local _, message, err = get("https://origin.test/", given)
      assert.equal("proxy_refused", err.code, message)
      local nonce = peer == one and "n1" or "n2"
      local told = '503 nothing|Digest username=\\"ada\\", realm=\\"r\\", nonce=\\"' .. nonce
      assert.truthy(message:find(told, 1, true), message)
    end
    local never = peers.raw [[
      count = (count or 0) + 1
      peer:head()
      peer:send("HTTP/1.1 407 " .. count .. "\r\n"
        .. 'Proxy-Authenticate: Digest realm="r", nonce="n", stale=true\r\n\r\n')
    ]]
    for _, scheme in ipairs { "https", "http" } do
      local _, _, err = get(scheme .. "://origin.test/", { url = http(never), user = scheme, password = "secret",
        digest = true })
      assert.equal("proxy_auth", err.code)
    end
  end)

  it("H14 is told no user name that would be a header of its own, and no control character of its own words",
    function()
      local peer = peers.raw [[
        local head = peer:head()
        if head:find("Proxy%-Authorization: Digest") then return peer:send("HTTP/1.1 599 told\r\n\r\n") end
        peer:send('HTTP/1.1 407 No\r\nProxy-Authenticate: Digest realm="a\8b", nonce="n"\r\n\r\n')
      ]]
      for _, user in ipairs { "a%0d%0aX: y", "a%3ab", "a%00" } do
        for _, scheme in ipairs { "http", "https" } do
          local _, _, err = get(scheme .. "://origin.test/", ("http://%s:p@127.0.0.1:%d"):format(
            user:gsub(" ", "%%20"), peer.port))
          assert.same({ "proxy", "bad_proxy" }, { err.step, err.code })
        end
      end
      for _, scheme in ipairs { "http", "https" } do
        local page, _, err = get(scheme .. "://origin.test/", { url = http(peer), user = "u", password = "p",
          digest = true })
        assert.is_nil(page)
        assert.equal("proxy_auth", err.code == "bad_header" and "proxy_auth" or err.code)
      end
    end)

  it("brackets an IPv6 address, and is asked for no address with a zone", function()
    local peer = peers.raw [[ peer:send("HTTP/1.1 503 " .. peer:line() .. "\r\n\r\n") ]]
    local _, message = get("https://[2001:db8::1]:8443/", http(peer))
    assert.truthy(message:find("CONNECT [2001:db8::1]:8443 HTTP/1.1", 1, true), message)
    local _, _, err = get("https://[fe80::1%25lo]/", http(peer))
    assert.equal("bad_host", err.code)
  end)

  it("is not dialled when allow_address does not allow it", function()
    local peer = peers.raw [[ peer:head() ]]
    local _, _, err = get("https://origin.test/", http(peer), { allow_address = "public" })
    assert.same({ "proxy", "address_refused" }, { err.step, err.code })
    local seen
    _, _, err = get("https://origin.test/", { url = http(peer), allow_address = function(address)
      seen = address
      return true
    end }, { allow_address = "public" })
    assert.equal("127.0.0.1", seen)
    assert.equal("closed", err.code)
  end)
end)

describe("a SOCKS5 proxy", function()
  -- Answers as it should, byte by byte; tells the request in the reply's bound name.
  local dripping = [[
    local function take(n) return peer:read(n) end
    local head = take(2)
    local methods = take(head:byte(2))
    peer:drip("\5\0")
    local request = take(4)
    local size = request:byte(4) == 3 and take(1):byte() or request:byte(4) == 1 and 4 or 16
    local name, port = take(size), take(2)
    peer:drip("\5" .. string.char(REPLY) .. "\0\3" .. string.char(#name) .. name .. port)
    peer:drain()
  ]]

  it("P7 is read whole, byte by byte, and every reply has its words", function()
    for reply, words in ipairs { "general failure", "not allowed by its rules", "network unreachable",
      "host unreachable", "connection refused", "time to live expired" } do
      local peer = peers.raw((dripping:gsub("REPLY", reply)))
      local _, message, err = get("https://origin.test/", socks(peer))
      assert.same({ "proxy", "proxy_refused", reply }, { err.step, err.code, err.reply })
      assert.equal(("the proxy 127.0.0.1:%d did not connect to origin.test:443: %s"):format(peer.port, words), message)
      peer:stop()
    end
  end)

  it("P7 is told a name whole or not at all: 256 bytes are refused here, and never looked up here", function()
    local peer = peers.raw [[ peer:drain() ]]
    local label = ("a"):rep(60)
    for _, host in ipairs { ("a"):rep(256), table.concat({ label, label, label, label, ("b"):rep(13) }, ".") } do
      local connection, _, err = tlsconnect.connect(host, 443, { timeout = 30, proxy = socks(peer) })
      assert.is_nil(connection)
      assert.equal("bad_host", err.code)
    end
    -- The proxy is told the name, and no look-up is made here.
    local lookup = core.lookup
    core.lookup = function(host, ...)
      assert.equal("127.0.0.1", host)
      return lookup(host, ...)
    end
    local named = peers.raw((dripping:gsub("REPLY", "5")))
    local _, _, err = get("https://no-such-name.test/", socks(named))
    core.lookup = lookup
    assert.equal("proxy_refused", err.code)
  end)

  it("looks a name up here when the kind is socks5, and says so when there is none", function()
    local peer = peers.raw [[ peer:drain() ]]
    local _, _, err = get("https://no-such-name.invalid/", "socks5://127.0.0.1:" .. peer.port)
    assert.equal("dns", err.step)
    _, _, err = get("https://localhost/", "socks5://127.0.0.1:" .. peer.port, { proxy = {
      url = "socks5://127.0.0.1:" .. peer.port, allow_address = function() return true end },
      allow_address = "public" })
    assert.same({ "tcp", "address_refused" }, { err.step, err.code })
  end)

  it("does not speak SOCKS5, breaks off, or slips bytes in", function()
    local function code(script)
      local peer = peers.raw(script)
      local _, message, err = get("https://origin.test/", socks(peer))
      assert.equal("proxy", err.step, message)
      peer:stop()
      return err.code
    end
    assert.equal("bad_answer", code [[ peer:read(3) peer:send("HTTP/1.1 400 Bad\r\n\r\n") peer:drain() ]])
    assert.equal("bad_answer", code [[ peer:read(3) peer:send("\4\0") peer:drain() ]])
    assert.equal("bad_answer", code [[ peer:read(3) peer:send("\5\2") peer:drain() ]])
    assert.equal("proxy_auth", code [[ peer:read(3) peer:send("\5\255") peer:drain() ]])
    assert.equal("closed", code [[ peer:read(3) peer:send("\5") ]])
    assert.equal("closed", code [[ peer:read(3) peer:send("\5\0") peer:read(18) peer:send("\5\0\0\1\1\1") ]])
    assert.equal("bad_answer", code [[ peer:read(3) peer:send("\5\0") peer:read(18)
      peer:send("\5\0\0\9\1\1") peer:drain() ]])
    assert.equal("bad_answer", code [[ peer:read(3) peer:send("\5\0") peer:read(18)
      peer:send("\5\0\0\1\1\1\1\1\1\1evil") peer:drain() ]])
  end)
end)

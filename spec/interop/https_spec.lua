-- https against nginx, and against raw peers that do what nginx never would.

local https = require "tlsconnect.https"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local tmp = require "spec.support.tmp"

local big = ("0123456789abcdef"):rep(65536 * 5) -- 5 MiB

local locations = {
  ["= /"] = "return 200 'hello from nginx\\n'",
  ["= /count"] = "return 200 '$connection $connection_requests'",
  ["= /empty"] = "return 204",
  ["= /from"] = "return 302 /count",
  ["= /agent"] = "return 200 '$http_user_agent|$http_x_a|$http_host|$request_method'",
  ["= /private"] = "auth_basic realm; auth_basic_user_file %s/users",
  ["= /short"] = "keepalive_requests 3; return 200 '$connection'",
  ["/files/"] = "dav_methods PUT DELETE; client_max_body_size 100m; add_header X-A 1; add_header X-A 2",
  ["/chunked/"] = "alias %s/files/; sub_filter_types *; sub_filter zzzz yyyy",
}

local function nginx(options)
  local root = tmp.directory()
  assert(os.execute("mkdir -m 777 " .. root .. "/files && chmod 755 " .. root))
  tmp.write(root .. "/files/big", big)
  tmp.write(root .. "/files/small", "small")
  tmp.write(root .. "/private", "private")
  tmp.write(root .. "/users", "user:{PLAIN}pass word\n")
  options.root, options.locations = root, {}
  for path, body in pairs(locations) do options.locations[path] = body:gsub("%%s", root) .. ";" end
  local server = peers.nginx(options)
  server.root = root
  return server
end

-- What every way to nginx must do the same.
local function speaks(scheme, start, given)
  local server

  setup(function() server = start() end)

  local function url(path)
    return ("%s://%s:%d%s"):format(scheme, server.host, server.port, path)
  end

  local function options(more)
    local all = { timeout = 60 }
    for name, value in pairs(given()) do all[name] = value end
    for name, value in pairs(more or {}) do all[name] = value end
    return all
  end

  it("gets a page", function()
    local page = assert(https.get(url "/", options()))
    assert.same({ 200, "OK", "hello from nginx\n" }, { page.status, page.reason, page.body })
    assert.equal("text/plain", page.headers["Content-Type"])
    assert.equal(url "/", page.url)
  end)

  it("tells the times of the steps of a new connection", function()
    local page = assert(https.get(url "/", options { keep_alive = false }))
    local steps = scheme == "http" and { "dns", "tcp" }
      or { "dns", "tcp", "client_hello", "server_hello", "verify", "key_exchange", "session_keys", "finished" }
    for _, step in ipairs(steps) do assert.is_number(page.timings[step], step) end
    assert.is_true(page.timings.total >= page.timings.first_byte)
    assert(https.get(url "/", options()))
    assert.is_nil(assert(https.get(url "/", options())).timings.tcp)
  end)

  it("sends many requests on one connection", function()
    local first = assert(https.get(url "/count", options())).body:match("%d+")
    for _ = 1, 50 do
      assert.equal(first, assert(https.get(url "/count", options())).body:match("%d+"))
    end
  end)

  it("goes on when the server closes after a few requests", function()
    local connections = {}
    for _ = 1, 20 do connections[assert(https.get(url "/short", options())).body] = true end
    local count = 0
    for _ in pairs(connections) do count = count + 1 end
    assert.is_true(count >= 5, count)
  end)

  it("reads HEAD, 204 and 304 as having no body, and goes on behind them", function()
    local first = assert(https.get(url "/count", options())).body:match("%d+")
    local page = assert(https.head(url "/files/big", options()))
    assert.same({ 200, tostring(#big), "" }, { page.status, page.headers["content-length"], page.body })
    assert.equal("1, 2", page.headers["x-a"])
    local again = assert(https.get(url "/files/big", options {
      headers = { ["If-None-Match"] = page.headers.etag } }))
    assert.same({ 304, "" }, { again.status, again.body })
    assert.same({ 204, "" }, { assert(https.get(url "/empty", options())).status, "" })
    assert.equal(first, assert(https.get(url "/count", options())).body:match("%d+"))
  end)

  it("reads a large body by length and by chunks", function()
    assert.is_true(assert(https.get(url "/files/big", options())).body == big)
    local page = assert(https.get(url "/chunked/big", options()))
    assert.equal("chunked", page.headers["transfer-encoding"])
    assert.is_true(page.body == big)
    assert.equal("small", assert(https.get(url "/chunked/small", options())).body)
  end)

  it("sends a large body, from a string, a function and a file", function()
    local function stored(name)
      local text = tmp.read(server.root .. "/files/" .. name)
      assert.equal(204, assert(https.delete(url("/files/" .. name), options())).status)
      return text
    end
    assert.equal(201, assert(https.put(url "/files/string", options { body = big })).status)
    assert.is_true(stored "string" == big)
    local at = 1
    local function pieces()
      if at > #big then return nil end
      at = at + 70001
      return big:sub(at - 70001, at - 1)
    end
    assert.equal(201, assert(https.put(url "/files/function", options { body = pieces })).status)
    assert.is_true(stored "function" == big)
    local file = assert(io.open(server.root .. "/files/big", "rb"))
    assert.equal(201, assert(https.put(url "/files/file", options { body = file })).status)
    file:close()
    assert.is_true(stored "file" == big)
  end)

  it("sends headers, a query and its own name", function()
    local page = assert(https.request(options { url = url "/agent", method = "PATCH", headers = { ["X-A"] = "b" } }))
    assert.equal(("tlsconnect|b|%s:%d|PATCH"):format(server.host, server.port), page.body)
  end)

  it("follows a redirect", function()
    local page = assert(https.get(url "/from", options()))
    assert.equal(url "/count", page.url)
    assert.same({ 302, url "/from" }, { page.history[1].status, page.history[1].url })
  end)

  it("waits for the word to go on before it sends a body", function()
    local page = assert(https.put(url "/files/expected", options { body = big, headers = { Expect = "100-continue" } }))
    assert.equal(201, page.status)
    assert.is_true(tmp.read(server.root .. "/files/expected") == big)
    assert(https.delete(url "/files/expected", options()))
  end)

  it("reads a body as it comes", function()
    local page = assert(https.get(url "/files/big", options { stream = true }))
    local pieces = {}
    for piece in page:chunks(10000) do pieces[#pieces + 1] = piece end
    assert.is_true(table.concat(pieces) == big)
    page = assert(https.get(url "/files/big", options { stream = true }))
    assert.equal(big:sub(1, 100), page:read(100))
    page:close()
    assert(https.get(url "/", options()))
  end)

  it("proves who asks", function()
    assert.equal(401, assert(https.get(url "/private", options())).status)
    local auth = { basic = { "user", "pass word" } }
    assert.equal("private", assert(https.get(url "/private", options { auth = auth })).body)
    local address = url("/private"):gsub("//", "//user:pass%%20word@")
    local page = assert(https.get(address, options()))
    assert.same({ "private", url "/private" }, { page.body, page.url })
  end)

  it("a client keeps its defaults", function()
    local client = https.client(options { base = url "/files/", auth = { basic = { "user", "pass word" } } })
    assert.equal(201, assert(client:put("json", { json = { a = { 1, 2 } } })).status)
    assert.same({ a = { 1, 2 } }, assert(client:get "json"):json())
    assert.equal(204, assert(client:delete "json").status)
    assert.equal("private", assert(client:get "/private").body)
    client:close()
  end)

  it("goes on with a download that was killed half-way, byte for byte", function()
    local path = tmp.directory() .. "/big"
    local most, first = 0, nil
    local function until_byte(stop)
      return options { save = path, resume = true, progress = function(now, all)
        first = first or now
        most = now
        assert.equal(#big, all)
        if now > stop then error("killed", 0) end
      end }
    end
    local ok, message = pcall(https.get, url "/files/big", until_byte(2000000))
    assert.same({ false, "killed" }, { ok, message })
    collectgarbage() -- the lock goes with the file that nobody holds any more
    collectgarbage()
    local have = #tmp.read(path .. ".part")
    assert.is_true(have > 1000000 and have < #big, have)
    first = nil
    local page = assert(https.get(url "/files/big", until_byte(#big)))
    assert.equal(206, page.status)
    assert.is_true(first > have)
    assert.equal(#big, most)
    assert.is_true(tmp.read(path) == big)
  end)

  it("saves what it is told to", function()
    local folder = tmp.directory() .. "/"
    assert.equal(folder .. "big", assert(https.get(url "/files/big", options { save = folder })).saved)
    assert.is_true(tmp.read(folder .. "big") == big)
  end)

  it("gives an answer of 404 as an answer", function()
    assert.equal(404, assert(https.get(url "/files/none", options())).status)
  end)
end

describe("https with nginx", function()
  describe("in clear", function()
    speaks("http", function() return nginx {} end, function() return {} end)
  end)

  for _, version in ipairs { "1.2", "1.3" } do
    for _, key in ipairs { "p256", "rsa2048" } do
      describe("over TLS " .. version .. " with " .. key, function()
        local authority = pki.shared()
        speaks("https", function()
          return nginx { cert = authority:issue { name = "a.test", ip = "127.0.0.1", key = key },
            versions = { "TLSv" .. version } }
        end, function()
          return { ca_file = authority.ca_file }
        end)
      end)
    end
  end
end)

describe("https with a relay that drops the good-bye", function()
  local authority = pki.shared()

  -- openssl s_server -www ends its answers by close_notify alone. The relay takes that record away.
  for _, version in ipairs { "tls1_2", "tls1_3" } do
    it("A4 a body without a length and without close_notify is truncated, over " .. version, function()
      local server = peers.openssl_server { cert = authority:issue { name = "a.test", ip = "127.0.0.1" },
        version = version }
      local given = { ca_file = authority.ca_file, timeout = 60, keep_alive = false }
      local page = assert(https.get(("https://127.0.0.1:%d/"):format(server.port), given))
      assert.matches("s_server", page.body, 1, true)
      local relay = peers.relay { to = server, record = [[
        -- an alert, or in TLS 1.3 a record just as long as an encrypted one
        if from == "server" and (record:byte(1) == 21 or record:byte(1) == 23 and #record == 24) then
          relay:finish()
        end
        return record ]] }
      local cut, _, err = https.get(("https://127.0.0.1:%d/"):format(relay.port), given)
      assert.is_nil(cut)
      assert.equal("truncated", err.code)
    end)
  end

  it("A4 a body of known length needs no good-bye", function()
    local server = peers.nginx { cert = authority:issue { name = "a.test", ip = "127.0.0.1" },
      versions = { "TLSv1.2" } }
    local relay = peers.relay { to = server, record = [[
      if from == "client" and record:byte(1) == 23 then asked = true end
      if from == "server" and asked and record:byte(1) == 23 and #record > 100 then
        relay.client:send(record)
        relay:finish()
      end
      return record ]] }
    local page = assert(https.get(("https://127.0.0.1:%d/"):format(relay.port),
      { ca_file = authority.ca_file, timeout = 60 }))
    assert.equal("hello from nginx\n", page.body)
  end)
end)

describe("https with a raw peer", function()
  local function ask(script, given)
    local server = peers.raw(script)
    local options = { url = ("http://%s:%d/"):format(server.host, server.port), timeout = 30 }
    for name, value in pairs(given or {}) do options[name] = value end
    local page, _, err = https.request(options)
    return page, err, server
  end

  local head = [[ peer:head() peer:send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n]]

  it("reads an answer that comes byte by byte", function()
    local page = assert(ask [[ peer:head() peer:drip("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
      .. "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", 0.001) peer:stall() ]])
    assert.equal("hello!", page.body)
  end)

  it("H4 an end or a reset at each place of an answer is an error, never a short body", function()
    local answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    for _, ending in ipairs { "finish", "reset" } do
      local server = peers.raw(([[
        local answer = %q
        peer:head() peer:send(answer:sub(1, number - 1)) peer:%s() ]]):format(answer, ending))
      for cut = 0, #answer - 1 do
        local page, _, err = https.get(("http://%s:%d/"):format(server.host, server.port), { timeout = 30 })
        assert.is_nil(page, cut)
        assert.is_true(err.code == "truncated" or err.code == "closed" or err.code == "reset", err.code)
      end
    end
  end)

  it("the deadline runs over the whole call, whatever trickles in", function()
    local page, err = ask([[ peer:head() peer:drip("HTTP/1.1 200 OK\r\nX-A: " .. ("a"):rep(1000), 0.05) ]],
      { timeout = 0.3 })
    assert.is_nil(page)
    assert.equal("timeout", err.code)
    page, err = ask(head .. [[") peer:drip("123456789", 0.2) peer:stall() ]], { timeout = 0.5 })
    assert.is_nil(page)
    assert.equal("timeout", err.code)
  end)

  it("A6 hears an early answer behind which the peer breaks off", function()
    local page = assert((ask([[ peer:head()
      peer:send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno") peer:close() ]],
      { method = "POST", body = ("x"):rep(20000000) })))
    assert.same({ 413, "no" }, { page.status, page.body })
  end)

  it("A1 hears an early answer while the peer reads nothing more, and keeps its connection open", function()
    local page, _, server = ask([[ peer:read("some", 1000)
      peer:send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno" .. ("x"):rep(3000000)) peer:stall() ]],
      { method = "POST", body = ("x"):rep(20000000) })
    assert.same({ 413, "no" }, { page.status, page.body })
    server:stop()
    local sent = 0
    page = assert((ask([[ peer:read("some", 1000) peer:send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
      peer:stall() ]], { method = "POST", body = function()
        sent = sent + 65536
        return sent < 100000000 and ("x"):rep(65536) or nil
      end, timeouts = { idle = 0.5 } })))
    assert.equal(200, page.status)
    assert.is_true(sent < 100000000)
  end)

  it("goes on sending to a peer that answers 200 while it reads, and keeps the connection", function()
    local client, large = https.client(), ("x"):rep(20000000)
    local server = peers.raw [[
      for _ = 1, 2 do
        peer:head()
        peer:send("HTTP/1.1 200 OK\r\nContent-Length: 300009\r\n\r\n" .. ("y"):rep(300000))
        peer:send(("%08d"):format(#peer:read(20000000, 20000000)) .. number)
      end
      peer:stall() ]]
    for _ = 1, 2 do
      local page = assert(client:post(("http://%s:%d/"):format(server.host, server.port), { body = large }))
      assert.same({ 300009, "200000001" }, { #page.body, page.body:match("^y*(%d*)$") })
    end
    client:close()
    server:stop()
  end)

  it("A1 a flood in place of an answer is cut at its limit", function()
    local page, err = ask([[ peer:read("some", 1000) while peer:send(("x"):rep(100000)) do end ]],
      { method = "POST", body = ("x"):rep(20000000) })
    assert.is_nil(page)
    assert.equal("too_long", err.code)
  end)

  local expecting = { method = "POST", body = "the body", headers = { Expect = "100-continue" } }

  it("H8 sends the body when told to go on, or when nobody says anything", function()
    for _, interim in ipairs { [["HTTP/1.1 100 Continue\r\n\r\n"]], [["HTTP/1.1 103 Hints\r\n\r\n"]], [[""]] } do
      local page = assert((ask([[ peer:head() peer:send(]] .. interim .. [[)
        peer:send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n" .. peer:read(8)) ]], expecting)))
      assert.equal("the body", page.body)
    end
  end)

  it("H8 holds the body back when the final answer comes first", function()
    local page, _, server = ask([[
      if number > 1 then peer:head() peer:send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" .. behind) return end
      peer:head()
      peer:send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno")
      behind = #peer:read("a") ]], expecting)
    assert.same({ 417, "no" }, { page.status, page.body })
    assert.equal("0", assert(https.get(page.url, { timeout = 30 })).body)
    server:stop()
  end)

  it("goes on with a body when an interim answer comes in its middle", function()
    local page = assert((ask([[ peer:head() peer:send("HTTP/1.1 100 Continue\r\n\r\n")
      local body = peer:read(20000000, 20000000)
      peer:send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n" .. ("%08d"):format(#body)) ]],
      { method = "POST", body = ("x"):rep(20000000) })))
    assert.equal("20000000", page.body)
  end)

  it("limits each pause, and not the whole, with timeouts.idle", function()
    local page = assert((ask([[ peer:head() peer:drip("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n"
      .. ("x"):rep(20), 0.02) ]], { timeouts = { idle = 1, first_byte = 1 } })))
    assert.equal(20, #page.body)
    local err
    page, err = ask([[ peer:head() peer:send("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nx") peer:stall() ]],
      { timeouts = { idle = 0.2 } })
    assert.is_nil(page)
    assert.equal("timeout", err.code)
    page, err = ask([[ peer:head() peer:stall() ]], { timeouts = { first_byte = 0.2 } })
    assert.is_nil(page)
    assert.equal("timeout", err.code)
    page, err = ask([[ peer:stall() ]], { timeouts = { idle = 0.2 }, method = "POST", body = ("x"):rep(20000000) })
    assert.is_nil(page)
    assert.equal("timeout", err.code)
  end)

  it("a slow reader slows the sender, and nothing piles up here", function()
    local page = assert((ask([[ peer:head()
      peer:send("HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")
      local block = ("x"):rep(1000000)
      for _ = 1, 200 do peer:send(block) end ]], { stream = true })))
    collectgarbage()
    local before, most, size = collectgarbage("count"), 0, 0
    while true do
      local data, _, err = page:read()
      if not data then
        assert.is_nil(err)
        break
      end
      size = size + #data
      most = math.max(most, collectgarbage("count"))
    end
    assert.equal(200000000, size)
    assert.is_true(most - before < 100000, most - before)
  end)

  it("Q1 never takes what was pushed onto an idle connection for an answer", function()
    local page, _, server = ask [[
      local head = peer:head()
      local body = head:find("/pushed ", 1, true) and tostring(pushed or false) or tostring(number)
      peer:send("HTTP/1.1 200 OK\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body)
      if number > 1 then return end
      peer:send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npushed")
      pushed = true
      peer:head() ]]
    assert.equal("1", page.body)
    local arrived
    for _ = 1, 1000 do
      arrived = assert(https.get(page.url .. "pushed", { timeout = 30, keep_alive = false })).body
      if arrived == "true" then break end
    end
    assert.equal("true", arrived)
    assert.not_equal("pushed", assert(https.get(page.url, { timeout = 30 })).body)
    server:stop()
  end)

  it("asks once more when the kept connection is cut as the request arrives", function()
    local page = assert((ask [[
      peer:head() peer:send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" .. number)
      peer:head() peer:reset() ]]))
    assert.equal("1", page.body)
    assert.equal("2", assert(https.get(page.url, { timeout = 30 })).body)
    local posted, _, err = https.post(page.url, { body = "pay", timeout = 30 })
    assert.is_nil(posted)
    assert.is_true(err.code == "reset" or err.code == "closed", err.code)
    assert.equal("3", assert(https.post(page.url, { body = "pay", timeout = 30 })).body)
  end)

  it("10,000 requests in a row, while the peer closes connections at will: none lost, none sent twice", function()
    -- Every connection ends after some requests, at once or a little later, without a word in the head.
    local server = peers.raw [[
      local left = number * 7 % 13
      while true do
        local head = peer:head()
        if head == "" then return end
        local id = head:match(" /(%d+) ")
        seen = seen or {}
        twice = twice or 0
        if id and seen[id] then twice = twice + 1 end
        if id then seen[id] = head:match("^%u+") end
        local body = head:find("^POST") and peer:read(2) or head:find(" /twice ") and tostring(twice) or id or "?"
        peer:send("HTTP/1.1 200 OK\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body)
        left = left - 1
        if left <= 0 then
          if number % 3 == 0 then peer.sleep(0.0003) end
          return peer:close()
        end
      end ]]
    local address = ("http://%s:%d/"):format(server.host, server.port)
    local lost = 0
    for i = 1, 10000 do
      if i % 10 == 0 then
        -- A POST may meet a connection that is just being closed: that is an error, and no second try.
        local page, _, err = https.post(address .. i, { body = "hi", timeout = 60 })
        if page then
          assert.equal("hi", page.body)
        else
          lost = lost + 1
          assert.is_true(err.retryable, err.code)
        end
      else
        assert.equal(tostring(i), assert(https.get(address .. i, { timeout = 60 })).body)
      end
    end
    assert.is_true(lost < 500, lost)
    assert.equal("0", assert(https.get(address .. "twice", { timeout = 60 })).body)
  end)

  it("Z5 a wait that raises, or whose coroutine is dropped, leaves no connection for the next request", function()
    local server = peers.raw [[
      while true do
        local head = peer:head()
        if head == "" then return end
        if head:find(" /slow ") then peer.sleep(0.05) end
        local body = head:match(" /(%w*) ") .. number
        peer:send("HTTP/1.1 200 OK\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body)
      end ]]
    local address = ("http://%s:%d/"):format(server.host, server.port)
    local core = require "tlsconnect.core"
    local act
    local given = { wait = function(fd, events, deadline)
      if events == "r" and act then return act() end
      return core.poll(fd, events, deadline)
    end }
    assert.equal("fast1", assert(https.get(address .. "fast", given)).body)
    act = function() error("no more", 0) end
    assert.same({ false, "no more" }, { pcall(https.get, address .. "slow", given) })
    act = nil
    assert.equal("fast2", assert(https.get(address .. "fast", given)).body)
    act = coroutine.yield
    do
      local dropped = coroutine.create(function() return https.get(address .. "slow", given) end)
      assert.is_true(coroutine.resume(dropped))
      assert.equal("suspended", coroutine.status(dropped))
    end
    act = nil
    collectgarbage()
    assert.equal("fast3", assert(https.get(address .. "fast", given)).body)
  end)

  it("refused, and the port is named", function()
    local port = require("spec.support.ports").free()
    local page, message, err = https.get("http://127.0.0.1:" .. port .. "/")
    assert.is_nil(page)
    assert.same({ "tcp", "refused" }, { err.step, err.code })
    assert.matches("127.0.0.1:" .. port, message, 1, true)
  end)
end)

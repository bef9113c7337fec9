local fake = require "spec.support.fake_https"

local codings = require("tlsconnect.core").codings
local encodings = codings[1] and "Accept-Encoding: " .. table.concat(codings, ", ") .. "\r\n" or ""

local ok, redirect = fake.ok, fake.redirect

describe("https", function()
  local network, https = fake.new(), nil
  after_each(function() network:restore() end)

  local function serve(replies)
    local opened
    https, opened = network:serve(replies)
    return opened
  end

  local function code_of(...)
    local page, message, err = https.request(...)
    assert.is_nil(page)
    assert.equal(err.message, message)
    return err.code, err
  end

  it("gets a page", function()
    local opened = serve { ok }
    local page = assert(https.get("https://a.test/x?y#z"))
    assert.same({ 200, "OK", "ok", "https://a.test/x?y#z" }, { page.status, page.reason, page.body, page.url })
    assert.same({}, page.history)
    assert.equal("200 OK (https://a.test/x?y#z)", tostring(page))
    for _, name in ipairs { "first_byte", "data", "total" } do assert.is_number(page.timings[name]) end
    assert.same({ "a.test", 443, true }, { opened[1].host, opened[1].port, opened[1].options.tls })
    assert.equal("GET /x?y HTTP/1.1\r\nHost: a.test\r\nUser-Agent: tlsconnect\r\nAccept: */*\r\n"
      .. encodings .. "\r\n", opened[1].connection:written())
  end)

  it("speaks http too, and every method", function()
    local opened = serve { { ok, ok, ok, ok, ok, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", ok } }
    for _, name in ipairs { "get", "post", "put", "patch", "delete", "head" } do
      assert(https[name]("http://a.test:8080/", { headers = { accept = false, ["user-agent"] = false } }))
    end
    assert(https.request { url = "http://a.test:8080/", method = "OPTIONS" })
    assert.is_false(opened[1].options.tls)
    local lines = {}
    for line in opened[1].connection:written():gmatch("(%u+) / HTTP/1.1\r\nHost: a.test:8080\r\n") do
      lines[#lines + 1] = line
    end
    assert.equal("GET POST PUT PATCH DELETE HEAD OPTIONS", table.concat(lines, " "))
  end)

  it("sends headers and a small body in one write, and a large one in few", function()
    local opened = serve { ok, ok }
    assert(https.post("http://a.test/", { body = "a body", headers = { ["X-B"] = "2", ["X-A"] = { "1", 1 } },
      keep_alive = false }))
    assert.same({ "POST / HTTP/1.1\r\nHost: a.test\r\nUser-Agent: tlsconnect\r\nAccept: */*\r\n"
      .. encodings .. "X-A: 1\r\nX-A: 1\r\nX-B: 2\r\nContent-Length: 6\r\n\r\na body" }, opened[1].connection.sent)
    local large = ("0123456789"):rep(10000)
    opened[2] = nil
    assert(https.put("http://a.test/", { body = large }))
    local sent = opened[2].connection.sent
    assert.equal(2, #sent)
    assert.equal(16384, #sent[1])
    assert.equal(large, table.concat(sent):match("\r\n\r\n(.*)$"))
  end)

  it("sends what a function gives, in chunks, or with the length that the caller knows", function()
    local function pieces(...)
      local list, i = { ... }, 0
      return function() i = i + 1 return list[i] end
    end
    local opened = serve { ok, ok, ok, ok }
    assert(https.post("http://a.test/", { body = pieces("one", "", "three"), keep_alive = false }))
    local head, body = opened[1].connection:written():match("^(.-\r\n\r\n)(.*)$")
    assert.matches("Transfer-Encoding: chunked\r\n", head, 1, true)
    assert.equal("3\r\none\r\n5\r\nthree\r\n0\r\n\r\n", body)
    assert(https.post("http://a.test/", { body = pieces("one", "two"), headers = { ["content-length"] = 6 },
      keep_alive = false }))
    assert.matches("content%-length: 6\r\n\r\nonetwo$", opened[2].connection:written())
    for i, wrong in ipairs { pieces("one"), pieces("one", "three!") } do
      assert.equal("bad_body", (code_of { url = "http://a.test/", body = wrong,
        headers = { ["Content-Length"] = 6 } }))
      assert.is_true(opened[2 + i].connection.closed)
    end
  end)

  it("sends an open file, with its length", function()
    local opened = serve { ok }
    local file = io.tmpfile()
    file:write("skipped", ("x"):rep(100000))
    file:seek("set", 7)
    assert(https.put("http://a.test/", { body = file }))
    file:close()
    assert.matches("Content-Length: 100000\r\n\r\n", opened[1].connection:written(), 1, true)
    assert.equal(("x"):rep(100000), opened[1].connection:written():match("\r\n\r\n(.*)$"))
  end)

  it("tells a source's own error, and gives the connection up", function()
    local opened = serve { ok }
    local _, err = code_of { url = "http://a.test/", body = function() return nil, "disk on fire" end }
    assert.equal("bad_body", err.code)
    assert.matches("disk on fire", err.message, 1, true)
    assert.is_true(opened[1].connection.closed)
  end)

  it("adds a query", function()
    local opened = serve { { ok, ok, ok } }
    assert(https.get("http://a.test/?x=1", { query = { b = "1 2", a = { "&", true }, c = 3 } }))
    assert(https.get("http://a.test/#f", { query = { { "z", "1" }, { "a", "\195\188" } } }))
    assert(https.get("http://a.test/", { query = "as=it&is" }))
    local targets = {}
    for target in opened[1].connection:written():gmatch("GET (%S+)") do targets[#targets + 1] = target end
    assert.same({ "/?x=1&a=%26&a=true&b=1%202&c=3", "/?z=1&a=%C3%BC", "/?as=it&is" }, targets)
  end)

  it("uses a connection again, and says nothing of old steps then", function()
    local opened = serve { { ok, ok, ok } }
    for _ = 1, 3 do assert.equal("ok", assert(https.get("https://a.test/")).body) end
    assert.equal(1, #opened)
  end)

  it("keeps no connection that the peer closes, or that is not wanted again", function()
    local closing = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    local opened = serve { closing, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", { "HTTP/1.1 200 OK\r\n\r\nok",
      at_end = "closed" }, ok, ok }
    for _ = 1, 3 do assert(https.get("http://a.test/")) end
    assert(https.get("http://a.test/", { keep_alive = false }))
    assert(https.get("http://a.test/"))
    for i = 1, 4 do assert.is_true(opened[i].connection.closed) end
    assert.is_nil(opened[5].connection.closed)
  end)

  it("honours Keep-Alive: timeout", function()
    local reply = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: max=5, timeout=1\r\n\r\n"
    local opened = serve { reply, ok }
    assert(https.get("http://a.test/"))
    assert.is_true(opened[1].connection.closed)
    assert(https.get("http://a.test/"))
  end)

  it("asks once more on a new connection when an idle one had died", function()
    local opened = serve { { ok, "" }, ok }
    assert(https.get("http://a.test/"))
    -- it dies when the second request comes, and not before
    opened[1].connection.on_send = function(connection) connection.at_end = "reset" end
    assert.equal("ok", assert(https.get("http://a.test/")).body)
    assert.equal(2, #opened)
  end)

  it("never sends twice what may not be done twice", function()
    local opened = serve { { ok, "" }, ok }
    assert(https.get("http://a.test/"))
    opened[1].connection.on_send = function(connection) connection.at_end = "closed" end
    assert.equal("closed", (code_of { url = "http://a.test/", method = "POST", body = "pay" }))
    assert.equal(1, #opened)
  end)

  it("does not repeat on a new connection, nor after a timeout", function()
    serve { { "", at_end = "closed" } }
    assert.equal("closed", (code_of { url = "http://a.test/" }))
    local opened = serve { { ok, "" } }
    assert(https.get("http://a.test/"))
    assert.equal("timeout", (code_of { url = "http://a.test/" }))
    assert.equal(1, #opened)
  end)

  it("Q1 drops a connection on which something came while it was idle", function()
    local opened = serve { ok, ok, ok }
    assert(https.get("http://a.test/"))
    opened[1].connection.bytes = ok:gsub("ok", "no")
    assert.equal("ok", assert(https.get("http://a.test/")).body)
    opened[2].connection.at_end = "closed"
    assert.equal("ok", assert(https.get("http://a.test/")).body)
    assert.is_true(opened[1].connection.closed and opened[2].connection.closed)
  end)

  it("Q2 never shares a connection between other terms", function()
    local one, other = function() end, function() end
    local calls = {
      {}, { ca_file = "a" }, { ca_file = "b" }, { ca_path = "a" }, { insecure_skip_name = true },
      { insecure_skip_verify = true }, { server_name = "b.test" }, { certificate = "c", key = "k" },
      { certificate = "c", key = "l" }, { alpn = { "a", "b" } }, { alpn = { "ab" } }, { alpn = { "b", "a" } },
      { min_version = "1.3" }, { wait = one }, { wait = other }, { family = "inet" }, { priority = "x" },
      { local_address = "127.0.0.2" }, { ca = { "a", "b" } }, { allow_address = "public" },
    }
    local replies = {}
    for i = 1, #calls + 3 do replies[i] = { ok, ok, ok } end
    local opened = serve(replies)
    for _ = 1, 2 do
      for _, given in ipairs(calls) do assert(https.get("https://a.test/", given)) end
    end
    assert.equal(#calls, #opened)
    assert(https.get("http://a.test:443/"))
    assert(https.get("https://[fe80::1%25a]/"))
    assert(https.get("https://[fe80::1%25b]/"))
    assert.equal(#calls + 3, #opened)
    assert(https.get("https://a.test/x", { timeout = 9, timeouts = { dns = 3 }, headers = { a = "b" } }))
    assert.equal(#calls + 3, #opened)
  end)

  it("Q3 keeps no connection whose body was longer than declared, or not read", function()
    local opened = serve { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more", ok,
      "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhello hello hello!!!", ok }
    assert(https.get("http://a.test/"))
    assert(https.get("http://a.test/", { headers = { a = "1" } }))
    assert.is_true(opened[1].connection.closed)
    opened[2].connection.at_end = "closed"
    assert.equal("too_long", (code_of { url = "http://a.test/", max_body = 10 }))
    assert.is_true(opened[3].connection.closed)
    assert(https.get("http://a.test/"))
    assert.equal(4, #opened)
  end)

  it("A6 hears the answer of a peer that breaks off while the request still leaves", function()
    local opened = serve { { "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!", send_fails = "reset" } }
    local page = assert(https.post("http://a.test/", { body = "a body" }))
    assert.same({ 413, "no!" }, { page.status, page.body })
    assert.is_true(opened[1].connection.closed)
  end)

  it("H14 refuses CR, LF and NUL in any part of a request", function()
    serve {}
    for _, bad in ipairs { "a\r\nb", "a\nb", "a\rb", "a\0b" } do
      assert.equal("bad_url", (code_of { url = "http://a.test/" .. bad }))
      assert.equal("bad_url", (code_of { url = "http://" .. bad .. "/" }))
      assert.equal("bad_url", (code_of { url = "http://a.test/", query = bad }))
      assert.equal("bad_method", (code_of { url = "http://a.test/", method = bad }))
      assert.equal("bad_header", (code_of { url = "http://a.test/", headers = { [bad] = "x" } }))
      assert.equal("bad_header", (code_of { url = "http://a.test/", headers = { x = bad } }))
      assert.equal("bad_header", (code_of { url = "http://a.test/", headers = { x = { "y", bad } } }))
      assert.equal("bad_header", (code_of { url = "http://a.test/", headers = { Host = bad } }))
      assert.equal("bad_header", (code_of { url = "http://a.test/", headers = { { "x", bad } } }))
    end
    for _, name in ipairs { "a b", "a:", "", "a\195\188" } do
      assert.equal("bad_header", (code_of { url = "http://a.test/", headers = { [name] = "x" } }), name)
    end
    for _, method in ipairs { "", "GET /x HTTP/1.1", "G\tT" } do
      assert.equal("bad_method", (code_of { url = "http://a.test/", method = method }), method)
    end
    for name, value in pairs { ["Transfer-Encoding"] = "chunked", ["Content-Length"] = "5", x = " y" } do
      assert.equal("bad_header", (code_of { url = "http://a.test/", body = "1234", headers = { [name] = value } }))
    end
    assert.equal("bad_header", (code_of { url = "http://a.test/", body = "1234",
      headers = { ["content-length"] = "4", ["Content-Length"] = "4" } }))
  end)

  it("raises for wrong arguments and unknown options, and names them", function()
    serve {}
    assert.has_error(function() https.get() end, "bad argument #1 to 'get' (a URL expected, got nil)")
    assert.has_error(function() https.request(5) end, "bad argument #1 to 'request' (a URL expected, got number)")
    local _, message = pcall(https.get, "http://a.test/", { max_bodi = 1 })
    assert.matches("max_bodi", message, 1, true)
    assert.matches("did you mean 'max_body'", message, 1, true)
    _, message = pcall(https.get, "http://a.test/", { headers = "x" })
    assert.matches("headers", message, 1, true)
    _, message = pcall(https.get, "http://a.test/", { headers = { x = {} , y = function() end } })
    assert.matches("headers", message, 1, true)
    _, message = pcall(https.post, "http://a.test/", { body = io.stdout.close and setmetatable({}, {}) })
    assert.matches("body", message, 1, true)
  end)

  it("follows redirects and keeps their history", function()
    local opened = serve { { redirect(301, "/b"), redirect(302, "c?d"), ok } }
    local page = assert(https.get("http://a.test/a/x#frag"))
    assert.equal("http://a.test/c?d#frag", page.url)
    assert.equal(2, #page.history)
    assert.same({ 301, "http://a.test/a/x#frag", "/b" },
      { page.history[1].status, page.history[1].url, page.history[1].headers.location })
    assert.equal(1, #opened)
  end)

  it("limits redirects, and follows none when told so", function()
    local replies = {}
    for i = 1, 30 do replies[i] = redirect(302, "/" .. i) end
    serve { replies }
    assert.equal("too_many_redirects", (code_of { url = "http://a.test/" }))
    local opened = serve { { redirect(302, "/x"), redirect(302, "/x"), redirect(302, "/x") } }
    local page = assert(https.get("http://a.test/", { redirects = 0 }))
    assert.same({ 302, "/x" }, { page.status, page.headers.location })
    assert.equal("too_many_redirects", (code_of { url = "http://a.test/", redirects = 1 }))
    assert.equal(1, #opened)
  end)

  it("gives a 3xx as it is when it points nowhere, or needs no following", function()
    serve { { "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nLocation: /x\r\n\r\n",
      redirect(300, "/x") } }
    for _, status in ipairs { 302, 304, 300 } do
      assert.equal(status, assert(https.get("http://a.test/")).status)
    end
  end)

  it("goes neither from https to http nor to any other scheme", function()
    for location, code in pairs { ["http://a.test/"] = "redirect_refused", ["file:///etc/passwd"] = "bad_redirect",
      ["ftp://a.test/"] = "bad_redirect", ["javascript:alert(1)"] = "bad_redirect", ["http://[x/"] = "bad_redirect",
      ["https:///x"] = "bad_redirect" } do
      serve { redirect(302, location) }
      assert.equal(code, (code_of { url = "https://a.test/" }), location)
    end
    serve { redirect(302, "http://a.test/"), ok }
    assert.equal("http://a.test/", assert(https.get("https://a.test/", { insecure_allow_downgrade = true })).url)
    serve { "HTTP/1.1 302 Found\r\nLocation: /a\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n" }
    assert.equal("bad_redirect", (code_of { url = "https://a.test/" }))
  end)

  it("H9 H10 drops what is personal when a redirect leaves the origin, for good", function()
    local secrets = { Authorization = "Basic s3cret", Cookie = "s3cret", ["X-Api-Key"] = "s3cret",
      Referer = "http://u:s3cret@a.test/", Accept = "text/html",
      ["Accept-Language"] = "de" }
    for _, elsewhere in ipairs { "https://b.test/", "https://a.test:8443/", "http://a.test:443/", "//www.a.test/" } do
      local opened = serve { { redirect(302, "/same"), redirect(307, elsewhere) }, redirect(302, "https://a.test/back"),
        ok }
      assert(https.get("https://a.test/", { headers = secrets, certificate = "c", key = "s3cret", password = "s3cret",
        server_name = "a.test", insecure_allow_downgrade = true, ca_file = "roots" }))
      local first = opened[1].connection:written()
      assert.equal(2, select(2, first:gsub("X%-Api%-Key: s3cret", "")))
      for i = 2, 3 do
        local written = opened[i].connection:written()
        assert.is_nil(written:find("s3cret", 1, true), elsewhere)
        assert.matches("Accept: text/html\r\nAccept-Language: de\r\n", written, 1, true)
        local options = opened[i].options
        assert.same({ nil, nil, nil, nil, "roots" }, { options.certificate, options.key, options.password,
          options.server_name, options.ca_file })
      end
    end
  end)

  it("H11 a POST becomes a GET without its body and what described it; 307 keeps all", function()
    local given = { body = "data", headers = { ["Content-Type"] = "text/x", ["X-A"] = "1" } }
    for _, status in ipairs { 301, 302, 303 } do
      local opened = serve { { redirect(status, "/x"), ok } }
      assert(https.post("http://a.test/", given))
      local second = opened[1].connection.sent[2]
      assert.matches("^GET /x HTTP/1.1\r\n", second)
      assert.matches("X-A: 1", second, 1, true)
      assert.is_nil(second:lower():find("content", 1, true))
    end
    for _, status in ipairs { 307, 308 } do
      local opened = serve { { redirect(status, "/x"), ok } }
      assert(https.post("http://a.test/", given))
      local second = opened[1].connection.sent[2]
      assert.matches("^POST /x HTTP/1.1\r\n.*Content%-Type: text/x\r\n.*\r\n\r\ndata$", second)
    end
    serve { redirect(307, "/x") }
    local done
    assert.equal("body_spent", (code_of { url = "http://a.test/", method = "POST", body = function()
      if done then return nil end
      done = true
      return "data"
    end }))
  end)

  it("sends a file again from where it stood, after a redirect", function()
    local opened = serve { { redirect(307, "/x"), ok } }
    local file = io.tmpfile()
    file:write("skipped", "data")
    file:seek("set", 7)
    assert(https.put("http://a.test/", { body = file }))
    file:close()
    local written = opened[1].connection:written()
    assert.equal(2, select(2, written:gsub("Content%-Length: 4\r\n\r\ndata", "")))
  end)

  it("closes what it has when a connection cannot be opened", function()
    serve { { refuse = "refused" } }
    assert.equal("refused", (code_of { url = "http://a.test/" }))
  end)
end)

-- HSTS: hosts that are only asked over TLS once they have said so.
local fake = require "spec.support.fake_https"
local hsts = require "tlsconnect.https.hsts"
local run = require "spec.support.run"
local tmp = require "spec.support.tmp"
local url = require "tlsconnect.https.url"

local NOW = 1795500000

local function store(path)
  return assert(hsts.store(path, { now = function() return NOW end }))
end

local function at(text) return assert(url.parse(text)) end

describe("Strict-Transport-Security", function()
  it("is read as RFC 6797 6.1 has it", function()
    for text, age in pairs {
      ["max-age=1"] = 1, ["max-age=0"] = 0, ["MAX-AGE=\"31\""] = 31, [" max-age = 5 ; "] = 5,
      ["max-age=5;;x=\"y\""] = 5,
      ["preload; max-age=7"] = 7, ["max-age=" .. ("9"):rep(300)] = 10 * 365 * 86400, ["max-age=007"] = 7,
    } do
      assert.same({ age, false }, { hsts.parse(text) }, text)
    end
    assert.same({ 1, true }, { hsts.parse "max-age=1; includeSubDomains" })
    assert.same({ 1, true }, { hsts.parse "INCLUDESUBDOMAINS;max-age=1" })
    for _, text in ipairs { "", "includeSubDomains", "max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=\"1",
      "max-age=1\"", "max-age=1; max-age=2", "max-age=x", "max-age=1; includeSubDomains=1",
      "max-age=1; includesubdomains; INCLUDESUBDOMAINS" } do
      assert.is_nil((hsts.parse(text)), text)
    end
  end)

  it("makes https of http: port 80 becomes 443, another stays", function()
    local one = store()
    one:receive(at "https://a.test/", "max-age=100")
    for from, to in pairs { ["http://a.test/x?y"] = "https://a.test/x?y", ["http://a.test:80/"] = "https://a.test/",
      ["http://A.test:8080/"] = "https://a.test:8080/", ["http://www.a.test/"] = "http://www.a.test/",
      ["http://a.test:443/"] = "https://a.test/", ["https://a.test/"] = "https://a.test/" } do
      assert.equal(to, url.text(one:secure(at(from))))
    end
  end)

  it("O6 has one key for each host, and no child speaks for its parent", function()
    local one = store()
    one:receive(at "https://a.test./", "max-age=100")
    one:receive(at "https://b\227\128\130test/", "max-age=100; includeSubDomains")
    one:receive(at "https://www.c.test/", "max-age=100; includeSubDomains")
    for _, host in ipairs { "a.test", "a.test.", "A.TEST", "a\227\128\130test", "b.test", "b.test.", "x.y.b.test" } do
      assert.equal("https", one:secure(at("http://" .. host .. "/")).scheme, host)
    end
    assert.is_true(one:secure(at "http://a.test./").absolute)
    for _, host in ipairs { "www.a.test", "c.test", "xb.test", "test" } do
      assert.equal("http", one:secure(at("http://" .. host .. "/")).scheme, host)
    end
  end)

  it("is forgotten in time, and when the host says so; an address, or http, says nothing", function()
    local one = store()
    one:receive(at "https://a.test/", "max-age=100")
    one:receive(at "https://b.test/", "max-age=100")
    one:receive(at "https://b.test/", "max-age=0")
    one:receive(at "http://c.test/", "max-age=100")
    one:receive(at "https://192.0.2.1/", "max-age=100")
    assert.is_true(one:knows "a.test")
    for _, host in ipairs { "b.test", "c.test", "192.0.2.1" } do assert.is_false(one:knows(host), host) end
    one.now = function() return NOW + 100 end
    assert.is_false(one:knows "a.test")
  end)

  it("is kept of so many hosts", function()
    local one = store()
    for i = 1, 10005 do one:receive(at(("https://h%d.test/"):format(i)), "max-age=" .. 100 + i) end
    assert.equal(10000, one.count)
    assert.is_false(one:knows "h1.test")
    assert.is_true(one:knows "h10005.test")
  end)

  it("O7 is kept in a file as curl writes it, for its user alone", function()
    local path = tmp.path("hsts")
    local one = store(path)
    one:receive(at "https://a.test/", "max-age=100")
    one:receive(at "https://b.test/", "max-age=100; includeSubDomains")
    assert(one:save())
    assert.equal("600", (run.check { "stat", "-c", "%a", path }:gsub("%s", "")))
    assert.truthy(tmp.read(path):find('\n.b.test "' .. os.date("!%Y%m%d %H:%M:%S", NOW + 100) .. '"\n', 1, true))
    local two = store(path)
    assert.is_true(two:knows "a.test")
    assert.is_true(two:knows "www.b.test")
    assert.is_false(two:knows "www.a.test")
    tmp.write(path, 'c.test "unlimited"\n.d.test "20991231 00:00:00"\nold.test "20000101 00:00:00"\nbad\n'
      .. '127.0.0.1 "unlimited"\ne.test "20991331 00:00:00"\n')
    two = store(path)
    assert.same({ true, true, false, false, false },
      { two:knows "c.test", two:knows "x.d.test", two:knows "old.test", two:knows "127.0.0.1", two:knows "e.test" })
    assert.is_nil((hsts.store(tmp.directory())))
    local ok, _, err = two:save(tmp.directory())
    assert.is_nil(ok)
    assert.equal("setup", err.step)
  end)
end)

describe("a client", function()
  local network, https, opened = fake.new(), nil, nil
  local rule = "HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1000\r\nContent-Length: 0\r\n\r\n"
  local ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

  after_each(function()
    network:restore()
  end)

  local function serve(replies)
    https, opened = network:serve(replies)
  end

  it("asks over TLS what has asked for that, and follows its redirects to http so", function()
    serve { { rule, ok, "HTTP/1.1 302 Found\r\nLocation: http://a.test/x\r\nContent-Length: 0\r\n\r\n", ok } }
    local client = https.client {}
    assert(client:get "https://a.test/")
    assert.equal("https://a.test/", assert(client:get "http://a.test/").url)
    assert.equal("https://a.test/x", assert(client:get "https://a.test/").url)
    assert.equal(1, #opened)
    serve { rule, ok }
    assert(https.get("https://a.test/", { keep_alive = false }))
    assert.equal("https://a.test/", assert(https.get "http://a.test/").url)
  end)

  it("believes no host that it did not verify, nor http, and can leave it be", function()
    serve { rule, rule, rule, ok }
    local client = https.client { keep_alive = false }
    assert(client:get("https://a.test/", { insecure_skip_verify = true }))
    assert(client:get "http://a.test/")
    assert(client:get("https://a.test/", { hsts = false }))
    assert.equal("http://a.test/", assert(client:get "http://a.test/").url)
  end)

  it("keeps the rules in a file", function()
    local path = tmp.path("hsts")
    serve { rule, ok }
    local client = assert(https.client { hsts = path, keep_alive = false })
    assert(client:get "https://a.test/")
    assert(client:close())
    client = assert(https.client { hsts = path, keep_alive = false })
    assert.equal("https://a.test/", assert(client:get "http://a.test/").url)
    assert.has_error(function() https.get("http://a.test/", { hsts = path }) end)
  end)
end)

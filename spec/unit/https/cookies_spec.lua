-- Cookies against RFC 6265bis: what is taken, what is refused, what is sent.
local cookies = require "tlsconnect.https.cookies"
local optional = require "tlsconnect.optional"
local fake = require "spec.support.fake_https"
local run = require "spec.support.run"
local set_cookie = require "tlsconnect.https.set_cookie"
local tmp = require "spec.support.tmp"

local NOW = 1795500000 -- 2026-11-24

local function jar(path)
  return assert(cookies.jar(path, { now = function() return NOW end }))
end

-- What the jar sends to the second URL after the first has set a cookie.
local function sent(from, text, to)
  local one = jar()
  one:set(from, text)
  return one:header(to or from)
end

describe("a cookie", function()
  -- { the URL, Set-Cookie, the URL asked then, what Cookie says: nil for nothing }
  local rows = {
    -- 5.6: name and value
    { "https://a.test/", "a=b", "https://a.test/", "a=b" },
    { "https://a.test/", " a = b ; Path=/", nil, "a=b" },
    { "https://a.test/", "a=b=c", nil, "a=b=c" },
    { "https://a.test/", "a=\"b c\"", nil, "a=\"b c\"" },
    { "https://a.test/", "a=", nil, "a=" },
    { "https://a.test/", "=b", nil, "b" },
    { "https://a.test/", "b", nil, "b" },
    { "https://a.test/", "", nil, nil },
    { "https://a.test/", "=", nil, nil },
    { "https://a.test/", "; Secure", nil, nil },
    { "https://a.test/", "a=b; nonsense; =; ;; x=y", nil, "a=b" },
    { "https://a.test/", ("a"):rep(2000) .. "=" .. ("b"):rep(2096), nil, ("a"):rep(2000) .. "=" .. ("b"):rep(2096) },
    { "https://a.test/", ("a"):rep(2000) .. "=" .. ("b"):rep(2097), nil, nil },
    { "https://a.test/", "a=b; Path=/" .. ("x"):rep(1024), nil, "a=b" }, -- the attribute is ignored
    -- O4: control bytes
    { "https://a.test/", "a=b\1", nil, nil },
    { "https://a.test/", "a=b\r\nSet-Cookie: c=d", nil, nil },
    { "https://a.test/", "a=b\0; Secure", nil, nil },
    { "https://a.test/", "a=b\127", nil, nil },
    { "https://a.test/", "a\tb=c", nil, nil },
    -- 5.6.3, 5.7: Domain
    { "https://a.test/", "a=b", "https://www.a.test/", nil },
    { "https://a.test/", "a=b; Domain=a.test", "https://www.a.test/", "a=b" },
    { "https://www.a.test/", "a=b; Domain=a.test", "https://a.test/", "a=b" },
    { "https://www.a.test/", "a=b; Domain=.A.TEST", "https://x.a.test/", "a=b" },
    { "https://www.a.test/", "a=b; domain=", "https://x.a.test/", nil },
    { "https://a.test/", "a=b; Domain=www.a.test", "https://www.a.test/", nil },
    { "https://www.a.test/", "a=b; Domain=b.test", nil, nil },
    { "https://xa.test/", "a=b; Domain=a.test", nil, nil }, -- O1
    { "https://a.test/", "a=b; Domain=xa.test", nil, nil }, -- O1
    { "https://a.test/", "a=b; Domain=test", nil, nil }, -- O1
    { "https://a.co.uk/", "a=b; Domain=co.uk", nil, nil }, -- O1
    { "https://a.co.uk/", "a=b; Domain=CO.UK", nil, nil }, -- O1
    { "https://a.co.uk/", "a=b; Domain=co.uk.", nil, nil }, -- O1
    { "https://a.co.uk/", "a=b; Domain=.co.uk", nil, nil }, -- O1
    { "https://a.co.uk/", "a=b; Domain=a.co.uk", "https://b.a.co.uk/", "a=b" },
    { "https://co.uk/", "a=b; Domain=co.uk", "https://co.uk/", "a=b" }, -- host-only then
    { "https://co.uk/", "a=b; Domain=co.uk", "https://a.co.uk/", nil },
    { "https://localhost/", "a=b; Domain=localhost", "https://localhost/", "a=b" },
    { "https://192.0.2.1/", "a=b", "https://192.0.2.1/", "a=b" },
    { "https://192.0.2.1/", "a=b; Domain=192.0.2.1", "https://192.0.2.1/", "a=b" },
    { "https://192.0.2.1/", "a=b; Domain=0.2.1", nil, nil }, -- O1
    { "https://192.0.2.1/", "a=b; Domain=.2.1", nil, nil }, -- O1
    { "https://[2001:db8::1]/", "a=b", nil, "a=b" },
    { "https://b\195\188cher.test/", "a=b; Domain=xn--bcher-kva.test", "https://www.xn--bcher-kva.test/", "a=b" },
    { "https://b\195\188cher.test/", "a=b; Domain=b\195\188cher.test", nil, nil },
    { "https://a.test./", "a=b", "https://a.test/", "a=b" }, -- one host, one key
    { "https://a.test/", "a=b; Domain=b.test; Domain=a.test", "https://a.test/", "a=b" }, -- the last one counts
    -- 5.1.4, 5.6.4: Path
    { "https://a.test/x/y", "a=b", "https://a.test/x/z", "a=b" },
    { "https://a.test/x/y", "a=b", "https://a.test/x", "a=b" },
    { "https://a.test/x/y", "a=b", "https://a.test/xy", nil },
    { "https://a.test/x/y", "a=b", "https://a.test/", nil },
    { "https://a.test/x/y", "a=b; Path=/", "https://a.test/z", "a=b" },
    { "https://a.test/x/y", "a=b; Path=x", "https://a.test/x/z", "a=b" },
    { "https://a.test/", "a=b; Path=/x/", "https://a.test/x", nil },
    { "https://a.test/", "a=b; Path=/x/", "https://a.test/x/y", "a=b" },
    { "https://a.test/", "a=b; Path=/x", "https://a.test/X", nil },
    -- 5.6.1, 5.6.2: how long
    { "https://a.test/", "a=b; Max-Age=1", nil, "a=b" },
    { "https://a.test/", "a=b; Max-Age=0", nil, nil },
    { "https://a.test/", "a=b; Max-Age=-0", nil, nil }, -- O5
    { "https://a.test/", "a=b; Max-Age=-1", nil, nil },
    { "https://a.test/", "a=b; Max-Age=" .. ("9"):rep(400), nil, "a=b" }, -- O5
    { "https://a.test/", "a=b; Max-Age=100000000000000000000", nil, "a=b" }, -- O5
    { "https://a.test/", "a=b; Max-Age=x", nil, "a=b" },
    { "https://a.test/", "a=b; Max-Age=0x1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", nil, nil },
    { "https://a.test/", "a=b; Max-Age=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT", nil, "a=b" },
    { "https://a.test/", "a=b; Expires=Wed, 25 Nov 2026 10:00:00 GMT", nil, "a=b" },
    { "https://a.test/", "a=b; Expires=Sun, 22 Nov 2026 10:00:00 GMT", nil, nil },
    { "https://a.test/", "a=b; Expires=never", nil, "a=b" },
    -- 5.6.5: Secure
    { "https://a.test/", "a=b; Secure", "http://a.test/", nil },
    { "https://a.test/", "a=b; sEcUrE=no", "http://a.test/", nil },
    { "https://a.test/", "a=b", "http://a.test/", "a=b" },
    { "http://a.test/", "a=b; Secure", "https://a.test/", nil },
    -- 4.1.3: prefixes, in any case
    { "https://a.test/", "__Secure-a=b", nil, nil },
    { "https://a.test/", "__Secure-a=b; Secure", nil, "__Secure-a=b" },
    { "https://a.test/", "__sEcUrE-a=b", nil, nil },
    { "https://a.test/", "__Host-a=b; Secure; Path=/", nil, "__Host-a=b" },
    { "https://a.test/", "__Host-a=b; Secure", nil, nil },
    { "https://a.test/", "__Host-a=b; Path=/", nil, nil },
    { "https://a.test/", "__Host-a=b; Secure; Path=/x", "https://a.test/x", nil },
    { "https://a.test/", "__Host-a=b; Secure; Path=/; Domain=a.test", nil, nil },
    { "https://a.test/", "__host-a=b; Path=/", nil, nil },
    { "https://a.test/", "=__Host-a=b", nil, nil },
    { "https://a.test/", "__Secure-", nil, nil },
    -- 5.6.7: SameSite
    { "https://a.test/", "a=b; SameSite=None", nil, nil },
    { "https://a.test/", "a=b; SameSite=None; Secure", nil, "a=b" },
    { "https://a.test/", "a=b; SameSite=Strict", nil, "a=b" },
    { "https://a.test/", "a=b; SameSite=nonsense", nil, "a=b" },
  }

  for i, row in ipairs(rows) do
    it(("row %d: %s says %s"):format(i, row[1], row[2]:sub(1, 60):gsub("[%c\127-\255]", "?")), function()
      assert.equal(row[4], sent(row[1], row[2], row[3]))
    end)
  end

  it("has a date in any of its forms", function()
    for text, time in pairs {
      ["Sun, 06 Nov 1994 08:49:37 GMT"] = 784111777,
      ["Sunday, 06-Nov-94 08:49:37 GMT"] = 784111777,
      ["Sun Nov  6 08:49:37 1994"] = 784111777,
      ["06 nOVember 1994 8:49:37 +0500"] = 784111777,
      ["1994 Nov 6 08:49:37x"] = 784111777,
      ["Thu, 29 Feb 2024 00:00:00 GMT"] = 1709164800,
      ["Thu, 01-Jan-1970 00:00:00 GMT"] = 0,
      ["Mon, 31 Dec 1601 00:00:00"] = -11613024000,
      ["1 Jan 69 00:00:00"] = 3124224000,
    } do
      assert.equal(time, set_cookie.date(text), text)
    end
    for _, text in ipairs { "", "Sun, 06 Nov 1994", "Sun, 31 Feb 2026 08:49:37", "29 Feb 2026 01:01:01",
      "32 Jan 2026 01:01:01", "1 Jan 1600 01:01:01",
      "1 Jan 2026 24:00:00", "1 Jan 2026 01:60:00", "1 Jan 2026 01:01:60", "1 Foo 2026 01:01:01",
      "0 Jan 2026 01:01:01", "1 Jan 20266 01:01:01", "1 Jan 2026 1:1", ("1"):rep(100000) } do
      assert.is_nil(set_cookie.date(text), text:sub(1, 60))
    end
  end)
end)

describe("a jar", function()
  it("replaces a cookie of the same name, domain and path, and keeps its place", function()
    local one = jar()
    one:set("https://a.test/", "a=1")
    one:set("https://a.test/", "b=2")
    one:set("https://a.test/", "a=3")
    one:set("https://a.test/x/y", "c=4")
    assert.equal("c=4; a=3; b=2", one:header "https://a.test/x/y")
    one:set("https://a.test/", "a=; Max-Age=0")
    assert.equal("b=2", one:header "https://a.test/")
  end)

  it("O2 lets no http overwrite, or stand in for, a secure cookie", function()
    local one = jar()
    assert.is_true(one:set("https://a.test/", "a=1; Secure; Domain=a.test"))
    assert.is_true(one:set("https://a.test/", "__Host-b=1; Secure; Path=/"))
    for _, text in ipairs { "a=2", "a=2; Domain=a.test", "a=2; Path=/x", "__host-b=2", "__HOST-b=2; Path=/",
      "a=; Max-Age=0" } do
      assert.is_false(one:set("http://a.test/x", text), text)
      assert.is_false(one:set("http://www.a.test/x", text == "a=2" and text or "a=2; Domain=a.test"))
    end
    assert.equal("a=1; __Host-b=1", one:header "https://a.test/x")
    -- Beside it, where it hides nothing, it may.
    assert.is_true(one:set("http://a.test/", "other=2"))
  end)

  it("O3 holds so many, and sends no more than a server takes", function()
    local one = jar()
    one:set("https://victim.test/", "session=1; Secure")
    for host = 1, 10 do
      for i = 1, 1000 do
        one:set(("https://h%d.sister.test/"):format(host), ("c%d=%s; Domain=sister.test"):format(i, ("x"):rep(100)))
      end
    end
    assert.is_true(one.count <= 181, one.count)
    assert.is_true(#one:header "https://www.sister.test/" <= 8190)
    assert.equal("session=1", one:header "https://victim.test/")
    local many = jar()
    for i = 1, 4000 do many:set(("https://site%d.test/"):format(i), "a=b") end
    assert.is_true(many.count <= 3000 and many.count >= 2700, many.count)
    for i = 1, 3 do many:set("https://a.test/", ("big%d=%s"):format(i, ("x"):rep(4000))) end
    assert.is_true(#many:header "https://a.test/" <= 8190)
    local secure = jar()
    secure:set("https://a.test/", "first=1; Secure")
    for i = 1, 300 do secure:set("http://a.test/", "c" .. i .. "=1") end
    assert.truthy(secure:header("https://a.test/"):find("first=1", 1, true))
  end)

  it("holds a strict cookie back when another site led there", function()
    local one = jar()
    one:set("https://a.test/", "strict=1; SameSite=Strict")
    one:set("https://a.test/", "lax=1; SameSite=Lax")
    one:set("https://a.test/", "none=1; SameSite=None; Secure")
    assert.equal("strict=1; lax=1; none=1", one:header "https://a.test/")
    assert.equal("lax=1; none=1", one:header("https://a.test/", { cross_site = true, safe = true }))
    assert.equal("none=1", one:header("https://a.test/", { cross_site = true }))
  end)

  it("O5 keeps no cookie for longer than 400 days", function()
    local one = jar()
    one:set("https://a.test/", "a=b; Max-Age=100000000000000000000")
    one:set("https://a.test/", "c=d; Expires=Fri, 31 Dec 9999 23:59:59 GMT")
    for _, cookie in ipairs(one:list()) do assert.equal(NOW + 400 * 86400, cookie.expires) end
  end)

  it("knows sites", function()
    for host, site in pairs { ["www.a.test"] = "a.test", ["a.test"] = "a.test", test = "test", ["a.co.uk"] = "a.co.uk",
      ["x.y.a.co.uk"] = "a.co.uk", ["co.uk"] = "co.uk", ["192.0.2.1"] = "192.0.2.1", ["::1"] = "::1" } do
      assert.equal(site, cookies.site(host))
    end
  end)

  it("O1 has rules of its own where there is no list", function()
    local suffixes = optional.suffixes
    optional.suffixes = nil
    package.loaded["tlsconnect.https.cookies"] = nil
    local bare = require "tlsconnect.https.cookies"
    optional.suffixes = suffixes
    package.loaded["tlsconnect.https.cookies"] = cookies
    local one = assert(bare.jar())
    for _, domain in ipairs { "test", "uk", "co.uk", "com.au", "org.uk", "ne.jp" } do
      assert.is_false(one:set("https://a.b." .. domain .. "/", "a=b; Domain=" .. domain), domain)
    end
    assert.is_true(one:set("https://www.example.de/", "a=b; Domain=example.de"))
    assert.equal("example.co.uk", bare.site "www.example.co.uk")
    assert.equal("example.org", bare.site "a.www.example.org")
  end)
end)

describe("a cookie file", function()
  it("is written and read back, for its user alone", function()
    local path = tmp.path("cookies")
    local one = jar()
    one:set("https://a.test/x/", "a=1; Max-Age=1000; Secure; HttpOnly")
    one:set("https://www.a.test/", "b=2; Domain=a.test")
    assert(one:save(path))
    assert.equal("600", (run.check { "stat", "-c", "%a", path }:gsub("%s", "")))
    assert.equal("# Netscape HTTP Cookie File\n\n.a.test\tTRUE\t/\tFALSE\t0\tb\t2\n"
      .. ("#HttpOnly_a.test\tFALSE\t/x\tTRUE\t%d\ta\t1\n"):format(NOW + 1000), tmp.read(path))
    local two = jar(path)
    assert.equal("a=1; b=2", two:header "https://a.test/x/")
    assert.equal("b=2", two:header "https://other.a.test/")
    assert.same(one:list(), two:list())
  end)

  it("is curl's, too", function()
    local path = tmp.path("cookies")
    local one = jar()
    one:set("https://a.test/", "a=1; Max-Age=30000000; Domain=a.test")
    assert(one:save(path))
    run.check { "curl", "-s", "-b", path, "-c", path .. ".curl", "file://" .. path, "-o", "/dev/null" }
    assert.equal("a=1", jar(path .. ".curl"):header "https://www.a.test/")
  end)

  it("O4 gives no cookie for a line that is none, and none for two", function()
    local path = tmp.file(table.concat({
      "# Netscape HTTP Cookie File", "a.test\tFALSE\t/\tFALSE\t0\tgood\t1\r", "a.test\tFALSE\t/\tFALSE\t0\tbad\t1\0x",
      "a.test\tFALSE\t/\tFALSE\t0", "a.test FALSE / FALSE 0 spaces 1", "a.test\tFALSE\tx\tFALSE\t0\tpath\t1",
      "a.test\tFALSE\t/\tFALSE\tsoon\ttime\t1", "a.test\tFALSE\t/\tFALSE\t0\tlong\t" .. ("x"):rep(20000) ..
      "\na.test\tFALSE\t/\tFALSE\t0\tnext\t1", ".test\tTRUE\t/\tFALSE\t0\tall\t1", "a.test\tFALSE\t/\tFALSE\t1\told\t1",
      "a.test\tFALSE\t/\tFALSE\t0\tmore\t1\tx", "a.test\tFALSE\t/\tFALSE\t0\tsemi\t1;x", "",
    }, "\n"), "cookies")
    local one = jar(path)
    assert.equal("good=1; next=1", one:header "https://a.test/")
  end)

  it("O7 is left as it was when the new one cannot be put in its place", function()
    local directory = tmp.directory()
    local path = directory .. "/folder"
    run.check { "mkdir", path }
    local one = jar()
    one:set("https://a.test/", "a=1")
    local ok, message, err, _
    ok, message, err = one:save(path)
    assert.is_nil(ok)
    assert.equal("setup", err.step)
    assert.truthy(message:find("folder cannot be written", 1, true), message)
    assert.equal("", (run.check { "sh", "-c", "ls '" .. directory .. "' | grep -v '^folder$' || true" }:gsub("%s", "")))
    ok, _, err = one:save(directory .. "/none/cookies")
    assert.is_nil(ok)
    assert.equal("not_found", err.code)
  end)

  it("that is not there is an empty jar; one that cannot be read is an error", function()
    assert.same({}, jar(tmp.path("missing")):list())
    local one, _, err = cookies.jar(tmp.directory())
    assert.is_nil(one)
    assert.equal("unreadable_file", err.code)
  end)
end)

describe("a client's cookies", function()
  local network, https, opened = fake.new(), nil, nil

  after_each(function()
    network:restore()
  end)

  local function serve(replies)
    https, opened = network:serve(replies)
  end

  local function reply(fields, status)
    return ("HTTP/1.1 %s\r\n%sContent-Length: 0\r\n\r\n"):format(status or "200 OK", fields or "")
  end

  local function cookie_of(connection)
    local list = {}
    for line in connection:written():gmatch("\r\nCookie: ([^\r]*)") do list[#list + 1] = line end
    return table.concat(list, "|")
  end

  it("come with an answer, through redirects, and go with the next request", function()
    serve { { reply("Set-Cookie: a=1\r\nSet-Cookie: b=2; Path=/in\r\nLocation: /in\r\n", "302 Found"), reply(),
      reply() }, reply() }
    local client = https.client {}
    assert(client:get "https://a.test/")
    assert(client:get("https://a.test/", { headers = { X = "1" } }))
    assert.equal("b=2; a=1|a=1", cookie_of(opened[1].connection))
    assert(client:get "https://b.test/")
    assert.equal("", cookie_of(opened[2].connection))
    assert.equal(2, #client.cookies:list())
  end)

  it("are none of another client's, nor of https.get's", function()
    serve { reply "Set-Cookie: a=1\r\n", reply(), reply(), reply() }
    assert(https.client { keep_alive = false }:get "https://a.test/")
    assert(https.client { keep_alive = false }:get "https://a.test/")
    assert(https.get("https://a.test/", { keep_alive = false }))
    for i = 2, 3 do assert.equal("", cookie_of(opened[i].connection)) end
  end)

  it("give way to a Cookie header of the caller's, and can be left out", function()
    serve { { reply "Set-Cookie: a=1\r\n", reply(), reply() } }
    local client = https.client {}
    assert(client:get "https://a.test/")
    assert(client:get("https://a.test/", { headers = { Cookie = "own=1" } }))
    assert(client:get("https://a.test/", { cookies = false }))
    assert.equal("own=1", cookie_of(opened[1].connection))
  end)

  it("stand in the answer by name, with a client or without", function()
    serve { reply "Set-Cookie: a=1\r\nSet-Cookie: b=x=y; Secure\r\nSet-Cookie: a=2\r\nSet-Cookie: c=; Max-Age=0\r\n" }
    assert.same({ a = "2", b = "x=y" }, assert(https.get "https://a.test/").cookies)
  end)

  it("that are strict do not follow a redirect from another site", function()
    serve { { reply "Set-Cookie: a=1; SameSite=Strict\r\nSet-Cookie: b=2\r\n", reply() },
      reply("Location: https://a.test/\r\n", "302 Found") }
    local client = https.client {}
    assert(client:get "https://a.test/")
    assert(client:get "https://b.test/")
    assert.equal("b=2", cookie_of(opened[1].connection))
  end)

  it("are kept in a file, or in a jar that several share", function()
    local path = tmp.path("cookies")
    serve { reply "Set-Cookie: a=1; Max-Age=1000\r\n", reply(), reply() }
    local client = assert(https.client { cookies = path, keep_alive = false })
    assert(client:get "https://a.test/")
    assert(client:close())
    client = assert(https.client { cookies = path, keep_alive = false })
    assert(client:get "https://a.test/")
    assert.equal("a=1", cookie_of(opened[2].connection))
    assert(https.get("https://a.test/", { cookies = client.cookies }))
    assert.equal("a=1", cookie_of(opened[3].connection))
    assert.has_error(function() https.get("https://a.test/", { cookies = true }) end)
    assert.has_error(function() https.get("https://a.test/", { cookies = {} }) end)
    assert.is_nil((https.client { cookies = tmp.directory() }))
  end)
end)

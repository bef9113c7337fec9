-- What an option or the environment says about proxies.
local core = require "tlsconnect.core"
local fakes = require "spec.support.fake_connection"

describe("proxies", function()
  local proxy, environment, variables, getenv, proxied

  before_each(function()
    getenv, proxied, variables = os.getenv, core.proxied, {}
    core.proxied = function() return next(variables) ~= nil end
    os.getenv = function(name) return variables[name] end -- luacheck: ignore 122
    for _, name in ipairs { "tlsconnect.proxy", "tlsconnect.proxy.environment", "tlsconnect.https.client",
      "tlsconnect.https" } do
      package.loaded[name] = nil
    end
    proxy = require "tlsconnect.proxy"
    environment = require "tlsconnect.proxy.environment"
  end)

  after_each(function()
    os.getenv, core.proxied = getenv, proxied -- luacheck: ignore 122
  end)

  local function read(text)
    local route = assert(proxy.of(text))
    return { route.kind, route.host, route.port, route.user, route.password }
  end

  it("are read from a URL", function()
    assert.same({ "http", "a.test", 3128 }, read "http://a.test:3128")
    assert.same({ "http", "a.test", 3128 }, read "A.Test:3128")
    assert.same({ "http", "a.test", 80 }, read "http://a.test/")
    assert.same({ "https", "xn--bcher-kva.test", 443 }, read "https://b\195\188cher.test")
    assert.same({ "socks5", "::1", 1080 }, read "socks5://[::1]")
    assert.same({ "socks5h", "::1", 9050, "a@b", "p:q/" }, read "socks5h://a%40b:p%3Aq%2F@[::1]:9050")
    assert.same({ "http", "a.test", 8080, "u", "" }, read { url = "http://a.test:8080", user = "u" })
    assert.same({ "http", "a.test", 8080, "u@", "p" }, read "http://u@:p@a.test:8080")
  end)

  it("are refused where they cannot be meant, and no password is told", function()
    for _, text in ipairs { "ftp://a.test", "http://", "http://s3cret@", "http://u:s3cret@a.test:0",
      "http://u:s3cret@a.test:99999", "http://u:s3cret@a.test/x", "http://u:s3cret@a.test:80:80",
      "http://u:s3cret@a b", "http://u:s3cret@a.test\r\n", "socks4://u:s3cret@a.test", "http://u:s3cret@127.1",
      "http://[a.test]", "http://u:s3cret@a.test?x" } do
      local route, message, err = proxy.of(text)
      assert.is_nil(route, text)
      assert.same({ "proxy", "bad_proxy" }, { err.step, err.code })
      assert.is_nil(message:find("s3cret", 1, true), message)
    end
    assert.has_error(function() proxy.of {} end, "bad option 'proxy' (a table needs a 'url')")
  end)

  it("come from the environment, by the URL's scheme", function()
    local function route(scheme, host, port)
      local found = environment.route(scheme, host or "b.test", port or 443)
      return found and found.host or found
    end
    assert.is_false(route "https")
    variables.all_proxy = "socks5://all.test"
    assert.equal("all.test", route "https")
    variables.https_proxy, variables.HTTP_PROXY = "http://secure.test:1", "http://plain.test:1"
    assert.same({ "secure.test", "plain.test" }, { route "https", route "http" })
    variables.https_proxy = ""
    variables.HTTPS_PROXY = "http://capitals.test"
    assert.equal("capitals.test", route "https")
    variables.HTTPS_PROXY = "nothing://s3cret"
    local found, message, err = environment.route("https", "b.test", 443)
    assert.is_nil(found)
    assert.equal("bad_proxy", err.code)
    assert.truthy(message:find("environment variable HTTPS_PROXY", 1, true), message)
  end)

  it("P8 HTTP_PROXY means nothing under CGI: a client's header could have set it", function()
    variables.HTTP_PROXY = "http://attacker.test"
    variables.REQUEST_METHOD = "GET"
    assert.is_false(environment.route("http", "b.test", 80))
    variables.http_proxy = "http://ours.test"
    assert.equal("ours.test", environment.route("http", "b.test", 80).host)
  end)

  it("P6 no_proxy is compared with both sides in one form", function()
    local function exempt(list, host, port)
      variables.no_proxy = list
      return environment.exempt(host, port or 443)
    end
    for _, case in ipairs {
      { "localhost", "localhost." }, { "localhost.", "LocalHost" }, { "*", "a.test" }, { "a.test", "a.test" },
      { "x, a.test", "www.a.test" }, { ".a.test", "a.test" }, { ".a.test", "www.a.test" }, { "*.a.test", "b.a.test" },
      { "a.test:8443", "a.test", 8443 }, { "A.TEST", "a.test" }, { "[::1]", "::1" }, { "::1", "[::1]" },
      { "[::1]:443", "::1" }, { "fe80::1%eth0", "fe80::1" }, { "fe80::1", "fe80::1%eth0" },
      { "0:0:0:0:0:0:0:1", "::1" }, { "127.0.0.1", "::ffff:127.0.0.1" }, { "127.0.0.0/8", "127.8.9.1" },
      { "10.0.0.0/8", "::ffff:10.1.2.3" }, { "fd00::/8", "fd12::1" },
      { "b\195\188cher.test", "xn--bcher-kva.test" },
      { "0.0.0.0/0", "192.0.2.1" },
    } do
      assert.is_true(exempt(case[1], case[2], case[3]), case[1] .. " " .. case[2])
    end
    for _, case in ipairs {
      { "a.test", "ba.test" }, { "a.test", "a.test.evil" }, { "a.test:8443", "a.test" }, { "", "a.test" },
      { ",,", "a" },
      { "127.0.0.1", "127.0.0.10" }, { "127.0.0.0/8", "128.0.0.1" }, { "127.0.0.0/8", "a.test" },
      { "0.0.1", "127.0.0.1" }, { ".0.0.1", "127.0.0.1" }, { "10.0.0.0/99", "10.0.0.0" }, { "::1", "::2" },
      { "10.0.0.0/8", "fd12::1" }, { "127.1", "127.0.0.1" }, { ".", "a.test" }, { "*.", "a.test" },
    } do
      assert.is_false(exempt(case[1], case[2], case[3]), case[1] .. " " .. case[2])
    end
  end)

  describe("of a request", function()
    local restore
    local ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    after_each(function()
      if restore then restore() end
      restore = nil
    end)

    local function serve(replies)
      local opened
      opened, restore = fakes.serve(replies)
      return opened, require "tlsconnect.https"
    end

    it("Q2 P5 are chosen for each URL, and one's password stays with it", function()
      variables.http_proxy, variables.https_proxy = "http://u:s3cret@plain.test:1", "http://v:other@secure.test:2"
      local opened, https = serve {
        "HTTP/1.1 302 Found\r\nLocation: https://b.test/\r\nContent-Length: 0\r\n\r\n", ok, ok }
      assert.equal("ok", assert(https.get("http://a.test/x?y#z")).body)
      assert.same({ "plain.test", "secure.test" }, { opened[1].options.proxy.host, opened[2].options.proxy.host })
      local first = opened[1].connection:written()
      assert.equal("GET http://a.test/x?y HTTP/1.1\r\n", first:match("^[^\n]*\n"))
      assert.truthy(first:find("\r\nHost: a.test\r\n", 1, true))
      assert.truthy(first:find("\r\nProxy-Authorization: Basic dTpzM2NyZXQ=\r\n", 1, true))
      local second = opened[2].connection:written()
      assert.equal("GET / HTTP/1.1\r\n", second:match("^[^\n]*\n"))
      assert.is_nil(second:find("Proxy-Authorization", 1, true))
      -- The kept connection to b.test came by a proxy: without one there is none.
      variables.https_proxy = nil
      assert(https.get "https://b.test/")
      assert.equal(3, #opened)
      assert.is_false(opened[3].options.proxy)
    end)

    it("are left out where the option says so", function()
      variables.https_proxy = "http://secure.test:2"
      local opened, https = serve { ok, ok }
      assert(https.get("https://b.test/", { proxy = false, keep_alive = false }))
      variables.no_proxy = "b.test"
      assert(https.get "https://b.test/")
      assert.same({ false, false }, { opened[1].options.proxy, opened[2].options.proxy })
    end)

    it("say so when the environment's cannot be read", function()
      variables.https_proxy = "gopher://x"
      local _, https = serve {}
      local page, _, err = https.get "https://b.test/"
      assert.is_nil(page)
      assert.same({ "proxy", "bad_proxy" }, { err.step, err.code })
    end)
  end)
end)

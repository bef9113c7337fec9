local url = require "tlsconnect.https.url"

describe("url", function()
  local function parts(text)
    return assert(url.parse(text))
  end

  it("reads an ordinary URL", function()
    local u = parts("HTTPS://User:pw@Example.ORG:8443/a/b?c=d&e#f")
    assert.same({ "https", "User:pw", "example.org", 8443, "/a/b", "c=d&e", "f" },
      { u.scheme, u.userinfo, u.host, u.port, u.path, u.query, u.fragment })
    assert.equal("example.org:8443", u.authority)
    assert.equal("/a/b?c=d&e", u.target)
    assert.equal("https://example.org:8443", u.origin)
    assert.equal("https://example.org:8443/a/b?c=d&e#f", url.text(u))
  end)

  it("knows the ports, and leaves the usual one out of Host", function()
    assert.same({ 443, "a.test" }, { parts("https://a.test").port, parts("https://a.test:443/").authority })
    assert.same({ 80, "a.test" }, { parts("http://a.test").port, parts("http://a.test:/").authority })
    assert.equal("a.test:443", parts("http://a.test:0443/").authority)
    assert.equal("/", parts("http://a.test?x").path)
    assert.equal("/?x", parts("http://a.test?x").target)
  end)

  it("leaves percent-encoding as it came, and encodes what a URL cannot hold", function()
    assert.equal("/%7efoo%2Fbar%zz", parts("http://a.test/%7efoo%2Fbar%zz").target)
    assert.equal("/a%20b%22%3C%C3%BC?q=%7B%5C", parts('http://a.test/a b"<ü?q={\\').target)
  end)

  it("removes dot segments as RFC 3986 5.2.4 does", function()
    for given, expected in pairs {
      ["/a/b/c/./../../g"] = "/a/g", ["/mid/content=5/../6"] = "/mid/6", ["/.."] = "/", ["/../a"] = "/a",
      ["/a/."] = "/a/", ["/a/b/.."] = "/a/", ["/a//../b"] = "/a/b", ["/a/...b"] = "/a/...b",
    } do
      assert.equal(expected, parts("http://a.test" .. given).path, given)
    end
  end)

  it("reads IPv6 addresses and their zones", function()
    local u = parts("http://[::0001]:8080/")
    assert.same({ "::1", "[::1]:8080", "inet6" }, { u.host, u.authority, u.family })
    for _, text in ipairs { "http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/" } do
      u = parts(text)
      assert.same({ "fe80::1", "eth0", "[fe80::1]" }, { u.host, u.zone, u.authority })
      assert.equal("fe80::1%eth0", url.dialled(u))
      assert.equal("http://[fe80::1%25eth0]/", url.text(u))
    end
    assert.not_equal(parts("http://[fe80::1%25eth0]/").origin, parts("http://[fe80::1%25eth1]/").origin)
  end)

  it("makes one name of a name's spellings, and dials the trailing dot", function()
    assert.equal("xn--bcher-kva.test", parts("http://BÜCHER.test/").host)
    assert.equal("xn--bcher-kva.test", parts("http://bücher\227\128\130test/").host)
    local u = parts("http://a.test./")
    assert.same({ "a.test", "a.test.", "http://a.test:80" }, { u.host, url.dialled(u), u.origin })
  end)

  it("H13 one parser: refused, or as RFC 3986 says", function()
    local u = parts("http://a#@b")
    assert.same({ "a", "@b" }, { u.host, u.fragment })
    u = parts("http://a.test?@b.test/")
    assert.same({ "a.test", "@b.test/" }, { u.host, u.query })
    for _, text in ipairs {
      "http://a%2Fb/", "http://[a.test]/", "http://[::1", "http://::1/", "http://[::1]x/", "http://[v1.a]/",
      "http://a.test:x/", "http://a.test:99999/", "http://a.test:0/", "http://a.test:8:8/", "http://a@b@c/",
      "http://a\\@b/", "http:///path", "http://", "http:/a", "http:a", "//a.test/", "a.test", "",
      "ftp://a.test/", "file:///etc/passwd", "http://a b/", "http://a<b/", "http://[1.2.3.4]/",
      "http://[fe80::1%25]/", "http://[fe80::1%25a/b]/", "http://user:p\"w@a.test/", "http://a.test:+80/",
    } do
      local parsed, message = url.parse(text)
      assert.is_nil(parsed, text)
      assert.is_string(message)
    end
  end)

  it("D5 refuses a host that could be read as another address", function()
    for _, host in ipairs { "127.1", "0x7f.1", "2130706433", "0x7f000001", "017700000001", "1.2.3.4.5",
      "1.2.3.256", "a.1", "0x", "127.0.0.01", "127.0.0.1." } do
      assert.is_nil(url.parse("http://" .. host .. "/"), host)
    end
    assert.equal("127.0.0.1", parts("http://127.0.0.1/").host)
  end)

  it("H14 refuses control characters wherever they stand", function()
    for _, text in ipairs { "http://a.test/\r\nX: y", "http://a.test\0/", "http://a\n.test/", " http://a.test/",
      "http://a.test/a\tb", "http://a.test/?\r", "http://a.test/#\n", "http://u\r:p@a.test/", "ht\ntp://a.test/" } do
      assert.is_nil(url.parse(text), text)
    end
    assert.is_nil(url.with_query(parts("http://a.test/"), "a=\r\nb"))
  end)

  it("resolves references as RFC 3986 5.4 lists them", function()
    local base = parts("http://a/b/c/d;p?q")
    for reference, expected in pairs {
      ["g"] = "http://a/b/c/g", ["./g"] = "http://a/b/c/g", ["g/"] = "http://a/b/c/g/", ["/g"] = "http://a/g",
      ["//g"] = "http://g/", ["?y"] = "http://a/b/c/d;p?y", ["g?y"] = "http://a/b/c/g?y",
      ["#s"] = "http://a/b/c/d;p?q#s", ["g#s"] = "http://a/b/c/g#s", ["g?y#s"] = "http://a/b/c/g?y#s",
      [";x"] = "http://a/b/c/;x", ["g;x"] = "http://a/b/c/g;x", [""] = "http://a/b/c/d;p?q",
      ["."] = "http://a/b/c/", [".."] = "http://a/b/", ["../g"] = "http://a/b/g", ["../../g"] = "http://a/g",
      ["../../../g"] = "http://a/g", ["/./g"] = "http://a/g", ["/../g"] = "http://a/g", ["g."] = "http://a/b/c/g.",
      ["..g"] = "http://a/b/c/..g", ["./g/."] = "http://a/b/c/g/", ["g;x=1/../y"] = "http://a/b/c/y",
      ["g?y/../x"] = "http://a/b/c/g?y/../x", ["g#s/../x"] = "http://a/b/c/g#s/../x",
      ["https://b.test/x"] = "https://b.test/x",
    } do
      assert.equal(expected, url.text(assert(url.resolve(base, reference))), reference)
    end
    assert.is_nil(url.resolve(base, "javascript:x"))
  end)

  it("takes linear time over hostile text", function()
    assert.is_nil(url.parse("http://" .. ("a"):rep(200000) .. "/"))
    assert.is_nil(url.parse("http://" .. ("@"):rep(200000)))
    assert.is_table(url.parse("http://a.test/" .. ("/."):rep(100000)))
    assert.is_table(url.parse("http://a.test/" .. ("#?"):rep(100000)))
  end)
end)

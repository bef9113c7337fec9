local fake = require "spec.support.fake_https"

describe("an https answer", function()
  local network = fake.new()
  after_each(function() network:restore() end)

  local function get(fields, body, status)
    local https = network:serve { "HTTP/1.1 " .. (status or "200 OK") .. "\r\nContent-Length: " .. #body .. "\r\n"
      .. fields .. "\r\n" .. body }
    return assert(https.get "http://a.test/x/y")
  end

  it("gives its text as UTF-8, by the mark, the header, or its own bytes", function()
    local function text(kind, body) return get(kind and "Content-Type: " .. kind .. "\r\n" or "", body):text() end
    assert.equal("gr\195\188n", text("text/plain; charset=utf-8", "gr\195\188n"))
    assert.equal("gr\195\188n \226\130\172", text("text/plain; Charset=\"ISO-8859-1\"", "gr\252n \128"))
    assert.equal("\226\130\172", text("text/plain;charset=iso-8859-15", "\164"))
    assert.equal("a\195\188\240\159\152\128", text("text/plain; charset=utf-16be", "\0a\0\252\216\61\222\0"))
    assert.equal("a\195\188\240\159\152\128", text("text/plain; charset=utf-16", "a\0\252\0\61\216\0\222"))
    assert.equal("a", text("text/plain; charset=utf-8", "\255\254a\0"))
    assert.equal("gr\195\188n", text("text/plain", "\239\187\191gr\195\188n"))
    assert.equal("gr\195\188n", text(nil, "gr\195\188n"))
    assert.equal("gr\195\188n", text("text/plain", "gr\252n"))
    assert.equal("\239\191\189\239\191\189", text("text/plain; charset=utf-16be", "\216\61\0"))
    assert.equal("\226\130\172", get("", "\164"):text "ISO-8859-15")
  end)

  it("says which charset it does not know", function()
    local text, message, err = get("Content-Type: text/plain; charset=klingon\r\n", "x"):text()
    assert.is_nil(text)
    assert.same({ "http", "unsupported" }, { err.step, err.code })
    assert.matches("klingon", message, 1, true)
  end)

  it("raises for a status of 400 or more, when asked to", function()
    local page = get("", "x")
    assert.equal(page, page:raise_for_status())
    page = get("", "x", "404 Not \27Found")
    local ok, err = pcall(page.raise_for_status, page)
    assert.is_false(ok)
    assert.same({ "http", "status", 404, page }, { err.step, err.code, err.status, err.response })
    assert.equal("a.test answered 404 Not \\x1BFound", tostring(err))
  end)

  it("lists its links", function()
    local page = get('Link: <?page=2>; rel="next", <http://b.test/>;rel=last; title="a, b";rel=x\r\n'
      .. "Link: </top>; rel=\"up Home\" ; flag, <>\r\n", "")
    assert.equal(4, #page.links)
    assert.equal("http://a.test/x/y?page=2", page.links.next.url)
    assert.same({ url = "http://b.test/", rel = "last", title = "a, b" }, page.links.last)
    assert.same({ "http://a.test/top", true }, { page.links.home.url, page.links.up.flag })
    assert.is_nil(page.links.x)
    assert.same({}, get("", "").links)
    for _, text in ipairs { "<", "<>;", "<>;=", '<>;a="', "<a>;;;b", ("<>,"):rep(1000), ("<a>;"):rep(1000) } do
      assert.is_table(get("Link: " .. text .. "\r\n", "").links)
    end
  end)
end)

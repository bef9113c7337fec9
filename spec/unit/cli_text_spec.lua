local text = require "tlsconnect.cli.text"
local json = require "tlsconnect.cli.json"

describe("text for a terminal", function()
  it("X1 shows ESC, C1, CR and marks of direction as escapes", function()
    assert.equal("a\\x1B[31mb", text.clean("a\27[31mb"))
    assert.equal("a\\u{9B}b", text.clean("a\194\155b"))
    assert.equal("a\\x0D\\x0Ab", text.clean("a\r\nb"))
    assert.equal("a\\u{202E}b", text.clean("a\226\128\174b"))
    assert.equal("\\xFF\\xC3(", text.clean("\255\195("))
    assert.equal("\\x00\\x7F", text.clean("\0\127"))
    assert.equal("\\u{FEFF}\\u{2066}", text.clean("\239\187\191\226\129\166"))
    -- An overlong "/" and a surrogate are no UTF-8.
    assert.equal("\\xC0\\xAF\\xED\\xA0\\x80", text.clean("\192\175\237\160\128"))
  end)

  it("leaves letters of any script, and escapes them where only ASCII is understood", function()
    assert.equal("J\195\188rgen \230\151\165", text.clean("J\195\188rgen \230\151\165"))
    assert.equal("J\\u{FC}rgen", text.clean("J\195\188rgen", true))
  end)

  it("cuts what is too long", function()
    assert.equal(("a"):rep(1024) .. "...", text.clean(("a"):rep(5000)))
    assert.equal("\\x01\\x01...", text.clean(("\1"):rep(5000), false, 2))
  end)

  it("measures and wraps by columns", function()
    assert.equal(3, text.width("\195\188bc"))
    assert.equal(4, text.width("\230\151\165\230\156\172"))
    assert.same({ "one two", "three", "incomprehensibly", "four" },
      text.wrap("one two three incomprehensibly four", 9))
  end)

  it("writes durations, sizes, counts and dates", function()
    assert.equal("3.1 ms", text.duration(0.00312))
    assert.equal("12 us", text.duration(0.000012, true))
    assert.equal("1.25 s", text.duration(1.25))
    assert.equal("0 ms", text.duration(0))
    assert.equal("1 byte", text.bytes(1))
    assert.equal("999 bytes", text.bytes(999))
    assert.equal("1.5 KB", text.bytes(1500))
    assert.equal("1.0 MB", text.bytes(999900))
    assert.equal("20 MB", text.bytes(2e7))
    assert.equal("1 certificate", text.count(1, "certificate"))
    assert.equal("2026-11-20 12:00 UTC", text.date(1795176000))
    assert.equal("a date out of range", text.date(1e18))
    assert.equal("an unknown date", text.date(nil))
  end)

  it("reads dates, and refuses what is none", function()
    assert.equal(1795176000, text.parse_date("2026-11-20 12:00"))
    assert.equal(1795176030, text.parse_date("2026-11-20T12:00:30Z"))
    assert.equal(1795132800, text.parse_date("2026-11-20"))
    assert.equal(1795176000, text.parse_date("2026-11-20 12:00 UTC"))
    assert.equal(951782400, text.parse_date("2000-02-29"))
    for _, bad in ipairs { "", "2026", "2026-13-01", "2026-02-29", "2026-11-20 25:00", "2026-11-20x",
                           "2026-11-20 12:00:3", "tomorrow" } do
      assert.is_nil(text.parse_date(bad))
    end
  end)
end)

describe("JSON", function()
  it("is the same text for the same value, names first", function()
    assert.equal('{\n  "step": "dns",\n  "b": [1, 2.5, "x"],\n  "list": []\n}',
      json.encode { list = {}, b = { 1, 2.5, "x" }, step = "dns" })
    assert.equal("null", json.encode(0 / 0))
    assert.equal("[\n  {\n    \"a\": true\n  }\n]", json.encode { { a = true } })
  end)

  it("X2 stays valid when a peer sends bad UTF-8 or a megabyte", function()
    assert.equal('"a\\\\xFFb\\\\xC3"', json.encode("a\255b\195"))
    assert.equal('"\\u001b\\u202e\\r\\n\\u0000"', json.encode("\27\226\128\174\r\n\0"))
    assert.equal('"\\"\\\\ \195\188"', json.encode('"\\ \195\188'))
    assert.equal('"\\udb40\\udc01"', json.encode("\243\160\128\129"))
    local long = json.encode(("x"):rep(1000000))
    assert.equal(4096 + 5, #long)
    assert.equal('..."', long:sub(-4))
    local cut = json.encode("x" .. ("\195\188"):rep(1000000))
    assert.is_nil(cut:find("\\x", 1, true))
  end)

  it("ends a value without end", function()
    local circle = {}
    circle.inner = circle
    assert.is_string(json.encode(circle))
  end)
end)

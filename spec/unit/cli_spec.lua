local arguments = require "tlsconnect.cli.arguments"
local cli = require "tlsconnect.cli"
local flags = require "tlsconnect.cli.flags"
local get = require "tlsconnect.cli.get"
local html = require "tlsconnect.cli.html"
local json = require "tlsconnect.cli.json"
local steps = require "tlsconnect.steps"
local summary = require "tlsconnect.cli.summary"
local waterfall = require "tlsconnect.cli.waterfall"

-- What a peer would send to harm a terminal or a page.
local nasty = "a\27]0;x\7\r\n\226\128\174<script>alert(1)</script>&\"'\255"

local function report(text)
  text = text or "example.org"
  local rows = {
    { step = "dns", started = 0, elapsed = 0.003, ok = true, name = text, ascii = "x", addresses = { text },
      families = { { family = "inet", addresses = {}, error = text } } },
    { step = "tcp", started = 0.003, elapsed = 0.01, ok = true, address = text, port = 443,
      attempts = { { address = text, port = 443, ok = true }, { address = text, code = text } } },
    { step = "client_hello", started = 0.013, elapsed = 0.0001, ok = true, random = "00", server_name = text,
      versions = { "TLS1.3" }, suites = { "TLS_AES_128_GCM_SHA256" }, alpn = { text }, key_shares = {},
      messages = { { type = "ClientHello", from = "client", time = 0.013, size = 300 } } },
    { step = "server_hello", started = 0.0131, elapsed = 0.01, ok = true, version = "TLS1.3",
      suite = "TLS_AES_128_GCM_SHA256", group = "x25519", alpn = text, malformed = text,
      certificates = { { subject = "CN=" .. text, issuer = text, not_after = 1e9 } },
      client_certificate_asked = { authorities = { text } },
      messages = { { type = "ServerHello", from = "server", time = 0.02, size = 90, malformed = text } } },
    { step = "verify", started = 0.0231, elapsed = 0.001, ok = true, path = { "CN=" .. text, text },
      issuer = { answer = "yes" }, dates = { answer = "yes" }, name = { answer = "no", reason = text },
      revocation = { answer = "unknown", code = text, reason = text }, not_after = 1800000000 },
    { step = "key_exchange", started = 0.0241, elapsed = 0.001, ok = true, kind = text },
    { step = "session_keys", started = 0.0251, elapsed = 0, ok = true },
    { step = "finished", started = 0.0251, elapsed = 0.001, ok = true, round_trips = 1 },
    { step = "data", started = 0.0261, elapsed = 0.1, ok = true, bytes_in = 1, bytes_out = 1500 },
    { step = "close", started = 0.1261, elapsed = 0, ok = true, sent = true },
  }
  return { host = text, port = 443, steps = rows, verified = true, now = 1795176000, columns = 100 }
end

local function failed(text)
  local given = report(text)
  given.verified = false
  given.err = { step = "verify", code = "expired", host = text, message = text, detail = text }
  given.steps[5].ok, given.steps[5].error = false, given.err
  for i = 6, 10 do given.steps[i] = { step = steps[i] } end
  return given
end

describe("the command line", function()
  local list = flags.of { { "--output", short = "-o", value = "FILE", key = "output" },
    { "--include", short = "-i", key = "include" }, { "--verbose", short = "-v", key = "verbose" },
    { "--header", short = "-H", value = "H", key = "headers", kind = "many" } }

  it("is read: long and short, joined and apart, until --", function()
    local given = arguments.read(list, { "-o", "f", "url", "-iv", "-H", "a: b", "-Hc: d", "--alpn=h2,http/1.1",
      "--timeout", "2.5", "-4", "--at", "2026-11-19", "--", "-x" })
    assert.same({ "url", "-x", output = "f", include = true, verbose = true, headers = { "a: b", "c: d" },
                  alpn = { "h2", "http/1.1" }, timeout = 2.5, family = "inet", at = 1795046400 }, given)
  end)

  it("is refused where it is wrong, with a word why", function()
    for words, problem in pairs {
      ["--verbos"] = "there is no option --verbos (did you mean --verbose?)",
      ["--zzz"] = "there is no option --zzz",
      ["-o"] = "--output wants a value: FILE",
      ["--verbose=1"] = "--verbose takes no value",
      ["--timeout=0x10"] = "--timeout wants a number, got '0x10'",
      ["--timeout=nan"] = "--timeout wants a number, got 'nan'",
      ["--tls=1.1"] = "--tls wants one of 1.2, 1.3, got '1.1'",
      ["--at=tomorrow"] = "--at wants a date like 2026-11-19 or '2026-11-19 12:00' (UTC), got 'tomorrow'",
      ["--ca=a\0b"] = "--ca: a NUL byte in its value",
      ["--alpn=,"] = "--alpn wants names with commas between, got ','",
    } do
      local given, message = arguments.read(list, { words })
      assert.is_nil(given)
      assert.equal(problem, message)
    end
  end)

  it("has help for every flag, within a terminal", function()
    for line in arguments.help(list):gmatch("[^\n]+") do assert.is_true(#line <= 110) end
    for _, flag in ipairs(flags.connect) do
      assert.is_true(#flag.help > 0, flag[1])
    end
  end)

  it("reads hosts, ports, addresses and URLs", function()
    local function target(word) return { flags.target(word, 443) } end
    assert.same({ "a.test", 443 }, target "a.test")
    assert.same({ "a.test", 25 }, target "a.test:25")
    assert.same({ "::1", 8443 }, target "[::1]:8443")
    assert.same({ "2001:db8::7", 443 }, target "2001:db8::7")
    assert.same({ "a.test", 443, "/" }, target "https://a.test")
    assert.same({ "a.test", 8443, "/x?y" }, target "HTTPS://user:pw@a.test:8443/x?y#z")
    for _, word in ipairs { "a.test:0", "a.test:65536", "a.test:x", ":443", "http://a.test/", "a.test:99999999999" } do
      assert.is_nil(target(word)[1], word)
    end
  end)

  it("has an exit code of its own for each step", function()
    local seen = {}
    for i, step in ipairs(steps) do
      local code = cli.exit_code { step = step }
      assert.equal(10 + i, code)
      assert.is_nil(seen[code])
      seen[code] = true
    end
    assert.equal(23, cli.exit_code { step = "setup" })
    assert.equal(1, cli.exit_code "what")
  end)

  it("X4 masks the password of a URL", function()
    assert.equal("https://ada:[masked]@a.test/x", get.shown_url "https://ada:se:cret@a.test/x")
    assert.equal("https://[masked]@a.test/", get.shown_url "https://token@a.test/")
    assert.equal("https://a.test/@x", get.shown_url "https://a.test/@x")
  end)
end)

describe("the report", function()
  it("draws a bar where a step's time lies", function()
    local row = { started = 0.25, elapsed = 0.5 }
    assert.equal("  ####  ", waterfall.bar(row, 1, 8, true))
    assert.equal("  \226\150\136\226\150\136\226\150\136\226\150\136  ", waterfall.bar(row, 1, 8, false))
    assert.equal("       |", waterfall.bar({ started = 0.99, elapsed = 0 }, 1, 8, true))
    assert.equal("|       ", waterfall.bar({ started = 0, elapsed = 0.001 }, 1, 8, true))
    assert.equal("        ", waterfall.bar({}, 1, 8, true))
    -- Never wider than its place, wherever it begins and ends.
    for i = 0, 20 do
      for j = 0, 20 do
        local bar = waterfall.bar({ started = i / 20, elapsed = j / 20 }, 1, 8, true)
        assert.equal(8, #bar)
      end
    end
  end)

  it("names the steps, the verdict and the time", function()
    local text = waterfall.render(report())
    assert.matches("^example.org:443   TLS 1.3, verified, 126.1 ms, 1 round trip after TCP\n", text)
    for i, step in ipairs(steps) do
      assert.truthy(text:find(("%2d %s"):format(i, step), 1, true), step)
    end
    assert.is_nil(text:find("\27", 1, true))
    for line in text:gmatch("[^\n]+") do assert.is_true(require("tlsconnect.cli.text").width(line) <= 100, line) end
  end)

  it("is plain ASCII where the locale is not UTF-8", function()
    local given = report("J\195\188rgen")
    given.ascii = true
    assert.is_nil(waterfall.render(given):find("[^\n\32-\126]"))
  end)

  it("X1 lets nothing through that a peer sent to harm a terminal", function()
    for _, given in ipairs { report(nasty), failed(nasty) } do
      for _, verbose in ipairs { false, true } do
        given.verbose = verbose
        local text = waterfall.render(given)
        assert.is_nil(text:find("[%z\1-\9\11-\31\127]"))
        assert.is_nil(text:find("\226\128\174", 1, true))
        assert.truthy(text:find("\\x1B]0;x\\x07\\x0D\\x0A\\u{202E}", 1, true))
      end
    end
    local coloured = report(nasty)
    coloured.colour = true
    for escape in waterfall.render(coloured):gmatch("\27%[?[^m]*m?") do assert.matches("^\27%[%d+m$", escape) end
  end)

  it("X1 lets nothing through that a peer sent to harm a page", function()
    for _, given in ipairs { report(nasty), failed(nasty) } do
      local page = html.render(given)
      assert.is_nil(page:find("<script", 1, true))
      assert.truthy(page:find("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#39;", 1, true))
      assert.is_nil(page:find("[%z\1-\9\11-\31\127]"))
      assert.is_nil(page:find("\226\128\174", 1, true))
    end
  end)

  it("is a page that needs nothing from outside and runs nothing", function()
    local page = html.render(report())
    assert.truthy(page:find("default-src 'none'", 1, true))
    for _, word in ipairs { "http://", "https://", "url(", "@import", "<script", " onload", "<iframe", "<img" } do
      assert.is_nil(page:find(word, 1, true), word)
    end
    for _, step in ipairs(steps) do assert.truthy(page:find('id="' .. step .. '"', 1, true)) end
    assert.truthy(page:find('<div class="message client"><div><b>ClientHello</b>', 1, true))
    -- Every element that is opened is closed.
    local open = {}
    for closing, name, rest in page:gmatch("<(/?)(%a%w*)([^>]*)>") do
      if closing == "/" then
        assert.equal(table.remove(open), name)
      elseif name ~= "meta" and name ~= "link" and not rest:find("/$") then
        open[#open + 1] = name
      end
    end
    assert.same({}, open)
  end)

  it("X2 is valid JSON whatever the peer sent", function()
    local text = json.encode(report(nasty .. ("x"):rep(1000000)).steps)
    assert.is_nil(text:find("[%z\1-\9\11-\31]"))
    assert.is_true(#text < 200000)
  end)

  it("names the step of every error in the table of errors, and ends with its exit code", function()
    local errors = require "tlsconnect.error"
    local words = {}
    for _, row in ipairs(errors.codes) do
      for step in row[2]:gmatch("%a[%w_]*") do
        if step ~= "any" then
          local err = errors.new { step = step, code = row[1], host = "a.test", port = 443, alert = "internal_error" }
          local code = cli.exit_code(err)
          assert.is_true(code > 10, step)
          words[step] = code
          if steps.index[step] then
            local given = report()
            given.err, given.verified = err, false
            local i = steps.index[step]
            given.steps[i].ok, given.steps[i].error = false, err
            for later = i + 1, 10 do given.steps[later] = { step = steps[later] } end
            local shown = waterfall.render(given)
            assert.truthy(shown:find("FAILED in " .. step, 1, true), row[1])
            assert.truthy(shown:find(("\n%2d %-14sFAILED"):format(i, step), 1, true), row[1])
            assert.truthy(html.render(given):find('<section class="step failed" id="' .. step .. '">', 1, true))
          end
        end
      end
    end
    local codes = {}
    for step, code in pairs(words) do
      assert.is_nil(codes[code], step)
      codes[code] = step
    end
  end)

  it("gives advice for the errors that a person can do something about", function()
    local errors = require "tlsconnect.error"
    local function clean(s) return s end
    for code in pairs(summary.advices) do
      assert.is_table(errors.known[code], code)
      local line = summary.advice({ code = code, host = "a.test" }, clean, 0)
      assert.is_nil(line:find("%", 1, true))
    end
    assert.is_nil(summary.advice({ code = "system" }, clean))
  end)
end)

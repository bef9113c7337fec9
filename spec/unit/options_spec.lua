local options = require "tlsconnect.options"
local pki = require "spec.support.pki"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

-- The error that options.check raises for a function of the library, as its caller sees it.
local function refusal(where, given)
  local function library(t)
    local checked = options.check(where, t)
    return checked
  end
  local ok, message = pcall(function() library(given) end)
  assert.is_false(ok)
  return message
end

describe("options", function()
  it("takes what is right, and hands it back", function()
    local given = { timeout = 5, alpn = { "h2", "http/1.1" }, family = "inet6", timeouts = { dns = 1, tcp = 0.5 } }
    assert.equal(given, options.check("connect", given))
    assert.same({}, options.check("connect", nil))
  end)

  it("names a misspelt option, and the one that was meant", function()
    assert.truthy(refusal("connect", { tiemout = 5 }):find(
      "bad option 'tiemout' to connect (did you mean 'timeout'?)", 1, true))
    for wrong, right in pairs { insecure_skip_verfiy = "insecure_skip_verify", cafile = "ca_file",
      servername = "server_name", ALPN = nil, Timeout = "timeout", certificat = "certificate" } do
      assert.truthy(refusal("connect", { [wrong] = true }):find("did you mean '" .. right .. "'?", 1, true), wrong)
    end
  end)

  it("does not guess wildly", function()
    assert.truthy(refusal("connect", { frobnicate = 1 }):find("there is no such option", 1, true))
    assert.truthy(refusal("connect", { bla = 1 }):find("there is no such option", 1, true))
    assert.truthy(refusal("connect", { [("x"):rep(1e6)] = 1 }):find("there is no such option", 1, true))
  end)

  it("points at the line that called", function()
    assert.truthy(refusal("connect", { tiemout = 5 }):find("options_spec.lua:%d+:"))
  end)

  it("points at it from every function that takes options or arguments", function()
    local cases = {
      function() tlsconnect.connect() end,
      function() tlsconnect.connect("a", 0) end,
      function() tlsconnect.connect("a", 1, { context = {} }) end,
      function() tlsconnect.connect("/socket") end,
      function() tlsconnect.wrap(5) end,
      function() tlsconnect.wrap({}, { server_name = "a" }) end,
      function() tlsconnect.wrap(-1, { server_name = "a" }) end,
      function() tlsconnect.wrap(5, { role = "server" }) end,
      function() tlsconnect.listen() end,
      function() tlsconnect.listen("127.0.0.1", 0, { context = {} }) end,
      function() tlsconnect.listen("127.0.0.1", 0, { certificates = { {} } }) end,
      function() tlsconnect.https.get(5) end,
      function() tlsconnect.https.get("x", { foo = 1 }) end,
      function() tlsconnect.https.request { foo = 1 } end,
      function() tlsconnect.resolve("x", { foo = 1 }) end,
      function() tlsconnect.trust { foo = 1 } end,
      function() tlsconnect.context { foo = 1 } end,
      function() tlsconnect.wait = 5 end,
      function() tlsconnect.certificate(5) end,
      function() tlsconnect.certificate.issue { foo = 1 } end,
      function() tlsconnect.certificate.issue { key = 1 } end,
      function() tlsconnect.certificate.request { foo = 1 } end,
      function() tlsconnect.key(5) end,
    }
    for _, case in ipairs(cases) do
      local ok, message = pcall(case)
      assert.is_false(ok)
      local line = debug.getinfo(case, "S").linedefined
      assert.truthy(message:find("options_spec.lua:" .. line .. ": bad ", 1, true), message)
    end
  end)

  it("says to whom an option belongs", function()
    assert.truthy(refusal("connect", { backlog = 5 }):find("bad option 'backlog' to connect (it belongs to listen)",
      1, true))
    assert.truthy(refusal("listen", { insecure_skip_verify = true }):find("it belongs to connect", 1, true))
  end)

  it("names the option whose type is wrong", function()
    local cases = {
      { { timeout = "5" }, "bad option 'timeout' to connect (number expected, got string)" },
      { { wait = 5 }, "bad option 'wait' to connect (function expected, got number)" },
      { { password = 5 }, "bad option 'password' to connect (string or function expected, got number)" },
      { { alpn = { "h2", 5 } }, "bad option 'alpn' to connect (a list of strings expected, got a number in it)" },
      { { insecure_skip_verify = "no" }, "'insecure_skip_verify' to connect (boolean expected, got string)" },
      { { family = "ipv4" }, "bad option 'family' to connect (inet or inet6 expected, got 'ipv4')" },
      { { timeout = -1 }, "bad option 'timeout' to connect (0 or more expected, got -1)" },
      { { timeout = 0 / 0 }, "bad option 'timeout' to connect (a number expected, got nan)" },
      { { timeouts = { tcp = "x" } }, "bad option 'timeouts.tcp' to connect (number expected, got string)" },
      { { timeouts = { tpc = 1 } }, "bad option 'timeouts.tpc' to connect (did you mean 'timeouts.tcp'?)" },
      { { [1] = "x" }, "bad option to connect (names are strings, got a number)" },
    }
    for _, case in ipairs(cases) do
      local message = refusal("connect", case[1])
      assert.truthy(message:find(case[2], 1, true), message)
    end
    assert.truthy(refusal("connect", 5):find("bad options to connect (table expected, got number)", 1, true))
  end)

  it("tells what tlsconnect makes from other tables and userdata", function()
    local key = tlsconnect.key.generate("p256")
    local certificate = tlsconnect.certificate(tmp.read(pki.shared().ca_file))
    local trust = tlsconnect.trust { ca = certificate }
    assert.truthy(options.check("connect", { certificate = certificate, key = key, trust = trust }))
    assert.truthy(options.check("connect", { certificate = { certificate }, ca = { certificate, "PEM" } }))
    local cases = {
      { { certificate = key }, "'certificate' to connect (string or certificate or table expected, got key)" },
      { { certificate = { certificate, key } }, "'certificate' to connect (a list of certificates expected, got a" },
      { { certificate = {} }, "'certificate' to connect (a list of 1 to 16 elements expected, got 0)" },
      { { key = certificate }, "'key' to connect (string or key expected, got certificate)" },
      { { key = io.stdout }, "'key' to connect (string or key expected, got userdata)" },
      { { trust = {} }, "'trust' to connect (trust expected, got table)" },
      { { trust = certificate }, "'trust' to connect (trust expected, got certificate)" },
      { { ca = { 5 } }, "'ca' to connect (a list of strings or certificates expected, got a number in it)" },
      { { ca = key }, "'ca' to connect (string or certificate or table expected, got key)" },
    }
    for _, case in ipairs(cases) do
      local message = refusal("connect", case[1])
      assert.truthy(message:find("bad option " .. case[2], 1, true), message)
    end
  end)

  it("wants lists that are lists, and strings and numbers that can be", function()
    local cases = {
      { { alpn = { h2 = true } }, "'alpn' to connect (a list expected, without gaps and names)" },
      { { alpn = { "h2", nil, "x" } }, "'alpn' to connect (a list expected, without gaps and names)" },
      { { alpn = "" }, "'alpn' to connect (1 to 255 bytes expected, got 0)" },
      { { alpn = { ("x"):rep(256) } }, "'alpn' to connect (1 to 255 bytes expected, got 256)" },
      { { alpn = { "1", "2", "3", "4", "5", "6", "7", "8", "9" } }, "(a list of 0 to 8 elements expected, got 9)" },
      { { password = "a\0b" }, "'password' to connect (a NUL byte in it)" },
      { { priority = "a\0b" }, "'priority' to connect (a NUL byte in it)" },
    }
    for _, case in ipairs(cases) do
      local message = refusal("connect", case[1])
      assert.truthy(message:find(case[2], 1, true), message)
    end
    for _, case in ipairs {
      { "verify", { max_depth = 1.5 }, "'max_depth' to verify (a whole number expected, got 1.5)" },
      { "verify", { crls = { 5 } }, "'crls' to verify (a list of strings expected, got a number in it)" },
      { "verify", { staples = { 5 } }, "'staples' to verify (a list of strings or booleans expected" },
      { "listen", { backlog = 2.5 }, "'backlog' to listen (a whole number expected, got 2.5)" },
      { "listen", { certificates = { {} } }, "'certificates[1].certificate' to listen (it is missing)" },
    } do
      local message = refusal(case[1], case[2])
      assert.truthy(message:find(case[3], 1, true), message)
    end
  end)

  it("looks into lists of tables", function()
    local message = refusal("listen", { certificates = { { certificate = "x", kee = "y" } } })
    assert.truthy(message:find("'certificates[1].kee' to listen (did you mean 'certificates[1].key'?)", 1, true),
      message)
  end)

  it("keeps what is part of a context out of a call that has one", function()
    local message = refusal("connect", { context = {}, ca_file = "ca.pem" })
    assert.truthy(message:find("bad option 'ca_file' to connect (it is part of the context", 1, true), message)
    assert.truthy(options.check("connect", { context = {}, timeout = 1, alpn = { "h2" } }))
  end)

  it("Z7 refuses a NUL byte in a path", function()
    for _, name in ipairs { "ca_file", "ca_path", "certificate", "key", "keylog" } do
      local message = refusal("connect", { [name] = "good.pem\0evil" })
      assert.truthy(message:find("bad option '" .. name .. "' to connect (a NUL byte in it)", 1, true), message)
    end
  end)

  it("shows a misspelt name without its odd bytes", function()
    assert.is_nil(refusal("connect", { ["\27[31m\200"] = 1 }):find("[\27\200]"))
  end)

  it("describes every option: a type, a help text, and who takes it", function()
    require "tlsconnect.https"
    require "tlsconnect.issue"
    local functions = { connect = 1, wrap = 1, listen = 1, context = 1, https = 1, client = 1, resolve = 1,
      trust = 1, verify = 1, add = 1, issue = 1, request = 1, revocation_list = 1 }
    local types = { string = 1, number = 1, boolean = 1, table = 1, userdata = 1, ["function"] = 1,
      certificate = 1, key = 1, trust = 1, request = 1 }
    local seen = {}
    local function look(row)
      for kind in row[2]:gmatch("[^|]+") do assert.truthy(types[kind], row[1] .. ": " .. kind) end
      assert.truthy(#row[3] > 5, row[1])
      assert.is_nil(row[3]:find("\n"), row[1])
      if row[2] == "number" then assert.truthy(row.min or row.unit == "s", row[1] .. " needs its least value") end
      for _, field in ipairs(row.fields or row.fields_of or {}) do look(field) end
    end
    for _, row in ipairs(options.rows) do
      look(row)
      for word in row.on:gmatch("%S+") do
        assert.truthy(functions[word], row[1] .. ": " .. word)
        local key = word .. "." .. row[1]
        assert.is_nil(seen[key], key)
        seen[key] = true
      end
    end
  end)

  it("takes the rows of another layer", function()
    assert.truthy(refusal("connect", { zebra = 1 }):find("no such option", 1, true))
    local count = #options.rows
    options.add { { "zebra", "number", "how many stripes", min = 0, on = "connect" } }
    assert.truthy(options.check("connect", { zebra = 1 }))
    table.remove(options.rows)
    options.add {}
    assert.equal(count, #options.rows)
    assert.truthy(refusal("connect", { zebra = 1 }))
  end)
end)

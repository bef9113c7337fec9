local contexts = require "tlsconnect.context"
local core = require "tlsconnect.core"
local pki = require "spec.support.pki"
local run = require "spec.support.run"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

local authority = pki.shared()
local site = authority:issue { name = "a.test" }
local other = authority:issue { name = "b.test" }

-- The code and the message that a set of options fails with.
local function failure(given)
  local context, message, err = tlsconnect.context(given)
  assert.is_nil(context)
  assert.equal(tostring(err), message)
  assert.equal("setup", err.step)
  return err.code, message
end

local function encrypted(path, password)
  local out = tmp.path("encrypted.key")
  run.check { "openssl", "pkcs8", "-topk8", "-in", path, "-out", out, "-passout", "pass:" .. password }
  return out
end

describe("context", function()
  it("is made of files, of PEM text, or of what was read before", function()
    local certificate = assert(core.certificate(tmp.read(site.cert)))
    local key = assert(core.key(tmp.read(site.key)))
    for _, given in ipairs {
      { certificate = site.chain, key = site.key },
      { certificate = tmp.read(site.chain), key = tmp.read(site.key) },
      { certificate = certificate, key = key },
      { certificate = { certificate }, key = site.key },
      { certificate = tmp.file(tmp.read(site.cert) .. tmp.read(site.key), "both.pem") },
      { certificate = tmp.read(site.key) .. tmp.read(site.cert) },
      {},
    } do
      assert.is_true(contexts.is(assert(tlsconnect.context(given))))
    end
  end)

  it("names the file that cannot be read, and why", function()
    local missing = tmp.path("missing.pem")
    for _, option in ipairs { "certificate", "key" } do
      local given = { certificate = site.chain, key = site.key }
      given[option] = missing
      local code, message = failure(given)
      assert.equal("unreadable_file", code)
      assert.truthy(message:find(missing, 1, true), message)
      assert.truthy(message:find("option '" .. option .. "'", 1, true), message)
      assert.truthy(message:find("No such file or directory", 1, true), message)
    end
    local code, message = failure { certificate = tmp.directory(), key = site.key }
    assert.equal("unreadable_file", code)
    assert.truthy(message:find("directory", 1, true), message)
  end)

  it("says so when PEM is broken or missing", function()
    local text = tmp.read(site.cert)
    local code, message = failure { certificate = text:sub(1, 200) .. "!!!" .. text:sub(250), key = site.key }
    assert.truthy(({ bad_pem = 1, bad_der = 1 })[code], code)
    assert.truthy(message:find("option 'certificate'", 1, true), message)
    local empty = tmp.file("", "empty.pem")
    code, message = failure { certificate = empty, key = site.key }
    assert.truthy(({ bad_pem = 1, bad_der = 1 })[code], code)
    assert.truthy(message:find(empty, 1, true), message)
    code = failure { certificate = site.cert, key = tmp.file("no key here", "bad.key") }
    assert.truthy(({ bad_pem = 1, bad_der = 1 })[code], code)
  end)

  it("says so when the password is wrong or missing", function()
    local path = encrypted(site.key, "right")
    for password, expected in pairs { wrong = "wrong_password", [""] = "wrong_password", [1] = "password_required" } do
      local code, message = failure { certificate = site.chain, key = path,
        password = type(password) == "string" and password or nil }
      assert.equal(expected, code)
      assert.truthy(message:find(path, 1, true), message)
    end
    assert(tlsconnect.context { certificate = site.chain, key = path, password = "right" })
  end)

  it("asks a function for the password, only when there is need", function()
    local path = encrypted(site.key, "right")
    local asked = {}
    local function password(what)
      asked[#asked + 1] = what
      return "right"
    end
    assert(tlsconnect.context { certificate = site.chain, key = site.key, password = password })
    assert.same({}, asked)
    assert(tlsconnect.context { certificate = site.chain, key = path, password = password })
    assert.same({ path }, asked)
    local code = failure { certificate = site.chain, key = path, password = function() return nil end }
    assert.equal("password_required", code)
    local ok, message = pcall(tlsconnect.context, { certificate = site.chain, key = path,
      password = function() return 5 end })
    assert.is_false(ok)
    assert.truthy(message:find("bad option 'password'", 1, true), message)
    ok, message = pcall(tlsconnect.context, { certificate = site.chain, key = path,
      password = function() return "a\0b" end })
    assert.is_false(ok)
    assert.truthy(message:find("bad option 'password' (the function returned a string with a NUL", 1, true), message)
  end)

  it("says so when there is a key, and no certificate", function()
    local code, message = failure { key = site.key }
    assert.equal("no_credentials", code)
    assert.truthy(message:find("option 'key' needs a 'certificate'", 1, true), message)
  end)

  it("takes the roots of a trust, or others, never both", function()
    local trust = assert(tlsconnect.trust { ca_file = authority.ca_file })
    assert(tlsconnect.context { trust = trust })
    local ok, message = pcall(tlsconnect.context, { trust = trust, ca_file = authority.ca_file })
    assert.is_false(ok)
    assert.truthy(message:find("bad option 'ca_file' (the roots are those of the option 'trust')", 1, true), message)
  end)

  it("says so when the key is another certificate's", function()
    local code, message = failure { certificate = site.chain, key = other.key }
    assert.equal("key_mismatch", code)
    assert.truthy(message:find("does not belong to the certificate", 1, true), message)
    code, message = failure { certificate = site.chain, key = site.key,
      certificates = { { certificate = site.chain, key = other.key } } }
    assert.equal("key_mismatch", code)
    assert.truthy(message:find("certificates[1].key", 1, true), message)
  end)

  it("says so when there is no key", function()
    local code = failure { certificate = assert(core.certificate(tmp.read(site.cert))) }
    assert.equal("no_credentials", code)
    assert.equal("no_credentials", (failure { certificate = site.cert }))
  end)

  it("names what is wrong in a priority string", function()
    local code, message = failure { priority = "+NONSENSE-1" }
    assert.equal("bad_priority", code)
    assert.truthy(message:find("NONSENSE", 1, true), message)
  end)

  it("tells what this GnuTLS can do", function()
    assert.is_true(core.has_group("X25519"))
    assert.is_false(core.has_group("NONSENSE"))
    local features = tlsconnect.features
    assert.truthy(features.gnutls:find("^3%.%d+%.%d+"))
    assert.equal(core.has_group("X25519-MLKEM768"), features.post_quantum)
    local ok = core.context():priority("-GROUP-ALL:+GROUP-X25519-MLKEM768")
    assert.equal(ok == true, features.post_quantum)
    assert.equal(type(require("tlsconnect.optional").suffixes) == "function", features.suffixes)
  end)

  it("refuses a lowest version above the highest", function()
    local ok, message = pcall(tlsconnect.context, { min_version = "TLS1.3", max_version = "TLS1.2" })
    assert.is_false(ok)
    assert.truthy(message:find("bad option 'min_version'", 1, true), message)
  end)

  it("refuses an option that is none, at the line of the call", function()
    local ok, message = pcall(function() tlsconnect.context { ca_fiel = "x" } end)
    assert.is_false(ok)
    assert.truthy(message:find("context_spec.lua:%d+: bad option 'ca_fiel' to context %(did you mean 'ca_file'%?%)"),
      message)
  end)

  it("refuses a context that is none", function()
    local ok, message = pcall(tlsconnect.connect, "a.test", 443, { context = {} })
    assert.is_false(ok)
    assert.truthy(message:find("bad option 'context' to connect", 1, true), message)
  end)

  it("Z7 refuses a NUL byte in the path of a file", function()
    for _, name in ipairs { "certificate", "key", "ca_file", "ca_path" } do
      local given = { certificate = site.chain, key = site.key }
      given[name] = site.chain .. "\0.evil"
      local ok, message = pcall(tlsconnect.context, given)
      assert.is_false(ok)
      assert.truthy(message:find("bad option '" .. name .. "' to context (a NUL byte in it)", 1, true), message)
    end
  end)

  it("gives its defaults to the calls that use it", function()
    local function wait() end
    local context = assert(tlsconnect.context { timeout = 7, alpn = { "h2" }, wait = wait })
    assert.equal(7, context:options({}).timeout)
    assert.equal(3, context:options({ timeout = 3 }).timeout)
    assert.is_false(context:options({ insecure_skip_verify = false }).insecure_skip_verify)
    assert.equal(wait, context:options({}).wait)
  end)

  it("keeps its options, whatever becomes of the table", function()
    local given = { timeout = 7 }
    local context = assert(tlsconnect.context(given))
    given.timeout = 1
    assert.equal(7, context:options({}).timeout)
  end)

  it("is made once for the calls that give the same options", function()
    local first = assert(contexts.of({}, "connect"))
    assert.equal(first, contexts.of({ timeout = 5, server_name = "x" }, "connect"))
    local newer = assert(contexts.of({ min_version = "TLS1.3" }, "connect"))
    assert.not_equal(first, newer)
    assert.equal(newer, contexts.of({ min_version = "TLS1.3", alpn = "h2" }, "connect"))
    local rooted = assert(contexts.of({ ca_file = authority.ca_file }, "connect"))
    assert.equal(rooted, contexts.of({ ca_file = authority.ca_file }, "connect"))
    -- The values stand apart in the key: none can pose as two.
    assert.not_equal(contexts.of({ priority = "-CIPHER-ALL:+AES-256-GCM" }, "connect"),
      contexts.of({ priority = "-CIPHER-ALL", max_version = "TLS1.3" }, "connect"))
  end)

  it("is not kept for calls that bring a key or a password", function()
    local given = { certificate = site.chain, key = site.key }
    assert.not_equal(assert(contexts.of(given, "connect")), assert(contexts.of(given, "connect")))
  end)

  it("stays small, however many different options calls give", function()
    for i = 1, 100 do
      assert(contexts.of({ priority = "%SAFE_RENEGOTIATION" .. (":%SAFE_RENEGOTIATION"):rep(i % 50) }, "connect"))
    end
    assert(contexts.of({}, "connect"))
  end)
end)

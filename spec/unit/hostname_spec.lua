local chains = require "spec.support.chains"
local core = require "tlsconnect.core"
local trust = require "tlsconnect.trust"

local root = chains.certificate { subject = "Root", ca = true }
local anchors = assert(trust.new { ca = root.pem })

-- Whether a certificate with these names stands for the reference.
local function answer(names, reference, more)
  local options = { issuer = root, names = names }
  for key, value in pairs(more or {}) do options[key] = value end
  local ok, verification, err = anchors:verify(chains.certificate(options).der, reference)
  return ok == true, ok and verification or err
end

-- presented, reference, matches
local rows = {
  { "a.test", "a.test", true },
  { "A.Test", "a.tEST", true },
  { "a.test", "a.test.", true },
  { "a.test.", "a.test", false },
  { "a.test", "b.test", false },
  { "a.test", "aa.test", false },
  { "a.test", "x.a.test", false },
  { "x.a.test", "a.test", false },
  { "*.a.test", "x.a.test", true },
  { "*.a.test", "xn--bcher-kva.a.test", true },
  { "*.A.test", "x.a.TEST", true },
  { "*.a.test", "a.test", false },
  { "*.a.test", "x.y.a.test", false },
  { "*.a.test", "*.a.test", true }, -- not a host that resolves, but equal
  { "x*.a.test", "xy.a.test", false },
  { "*x.a.test", "yx.a.test", false },
  { "x.*.test", "x.a.test", false },
  { "*.*.test", "x.a.test", false },
  { "**.a.test", "x.a.test", false },
  { "xn--*.a.test", "xn--x.a.test", false },
  { "*", "test", false },
  { "*.test", "a.test", false },
  { "*.com", "a.com", false },
  { "*.co.uk", "a.co.uk", false },
  { "*.com.au", "a.com.au", false },
  { "*.ac.jp", "a.ac.jp", false },
  { "*.gov.uk", "a.gov.uk", false },
  { "*.a.co.uk", "x.a.co.uk", true },
  { "*.example.de", "x.example.de", true },
  { "*.s3.amazonaws.com", "x.s3.amazonaws.com", true },
  { "*.x.test", ".x.test", false },
  { ".x.test", "a.x.test", false },
  { ".x.test", ".x.test", false },
  { "", "a.test", false },
  { "a_b.test", "a_b.test", true },
  { "-a.test", "-a.test", false },
  { "a..test", "a..test", false },
  { ("x"):rep(64) .. ".test", ("x"):rep(64) .. ".test", false },
  { "a.test\0.evil.test", "a.test", false },
  { "a.test\0", "a.test", false },
  { "a.test\n", "a.test", false },
  { " a.test", "a.test", false },
  { "b\195\188cher.test", "xn--bcher-kva.test", false },
}

describe("a certificate's DNS name", function()
  for _, row in ipairs(rows) do
    it(("%q %s %q"):format(row[1], row[3] and "stands for" or "does not stand for", row[2]), function()
      assert.equal(row[3], core.name_matches(row[1], (row[2]:lower():gsub("%.$", ""))))
    end)
  end

  it("V3 a wildcard above a country's registry, or a reference that begins with a dot, is refused", function()
    assert.is_false((answer({ "*.co.uk" }, { name = "a.co.uk" })))
    assert.is_false((answer({ "*.x.test" }, { name = ".x.test" })))
    assert.is_true((answer({ "*.x.test" }, { name = "a.x.test" })))
  end)

  it("is compared as an A-label when the reference has other letters", function()
    assert.is_true((answer({ "xn--bcher-kva.test" }, { name = "b\195\188cher.test" })))
  end)

  it("may be any of several", function()
    assert.is_true((answer({ "a.test", "b.test", "c.test" }, { name = "c.test" })))
  end)
end)

describe("an address", function()
  it("is looked for among the addresses, of the right length", function()
    assert.is_true((answer({ { "ip", "\127\0\0\1" } }, { ip = "127.0.0.1" })))
    assert.is_true((answer({ { "ip", ("\0"):rep(15) .. "\1" } }, { ip = "::1" })))
    assert.is_false((answer({ { "ip", "\127\0\0\2" } }, { ip = "127.0.0.1" })))
  end)

  it("may be written in brackets, with a zone, or as a name", function()
    local loopback = { { "ip", ("\0"):rep(15) .. "\1" } }
    local link_local = { { "ip", "\254\128" .. ("\0"):rep(13) .. "\1" } }
    assert.is_true((answer(loopback, { name = "[::1]" })))
    assert.is_true((answer(loopback, { name = "::1" })))
    assert.is_true((answer(loopback, { ip = "[::1]" })))
    assert.is_true((answer(link_local, { ip = "fe80::1%lo" })))
    assert.is_true((answer({ { "ip", "\127\0\0\1" } }, { name = "127.0.0.1" })))
  end)

  it("V4 in a dNSName, under a wildcard or of five bytes stands for nobody", function()
    assert.is_false((answer({ "127.0.0.1" }, { ip = "127.0.0.1" })))
    assert.is_false((answer({ "127.0.0.1" }, { name = "127.0.0.1" })))
    assert.is_false((answer({ "*.0.0.1" }, { ip = "127.0.0.1" })))
    assert.is_false((answer({ { "ip", "\127\0\0\1\0" } }, { ip = "127.0.0.1" })))
    assert.is_false((answer({ { "ip", "\127\0\0" } }, { ip = "127.0.0.1" })))
    assert.is_false((answer({ { "ip", ("\0"):rep(10) .. "\255\255\127\0\0\1" } }, { ip = "127.0.0.1" })))
    assert.is_false((answer({ { "ip", "" } }, { ip = "127.0.0.1" })))
  end)

  it("that is none is refused, not resolved", function()
    local ok, found = answer({ "a.test" }, { ip = "a.test" })
    assert.is_false(ok)
    assert.equal("name_mismatch", found.code)
  end)
end)

describe("V1 the common name", function()
  local function refused(options)
    local ok, err = answer(options.names, { name = "a.test" }, options)
    assert.is_false(ok)
    assert.equal("name_mismatch", err.code)
    return err
  end

  it("V1 is not used where there is no SAN", function()
    local err = refused { subject = "a.test" }
    assert.equal("the certificate names no host (it has no subject alternative name), not even a.test", err.message)
  end)

  it("V1 is not used where the SAN holds no host", function()
    refused { subject = "a.test", names = { { "uri", "https://a.test/" } } }
    refused { subject = "a.test", names = { { "email", "x@a.test" } } }
    -- SRVName, RFC 4985
    local der = require "tlsconnect.der"
    local srv = der.oid("1.3.6.1.5.5.7.8.7") .. der.explicit(0, der.string("ia5", "_https.a.test"))
    refused { subject = "a.test", names = { { "other", srv } } }
  end)

  it("V1 is not used where the SAN is huge, or broken", function()
    local many = {}
    for i = 1, 3000 do many[i] = ("h%d.b.test"):format(i) end
    local err = refused { subject = "a.test", names = many }
    assert.is_true(#err.message < 300)
    assert.is_truthy(err.message:find("and 2995 more, not a.test", 1, true))
    local ok, broken = answer(nil, { name = "a.test" }, { subject = "a.test", san = "junk" })
    assert.is_false(ok)
    assert.equal("bad_certificate", broken.code)
  end)
end)

describe("V2 names with bytes that are none of a name's", function()
  it("V2 are compared as bytes and shown escaped", function()
    for _, name in ipairs { "a.test\0.evil.test", "evil.test\nDNS:a.test", "evil.test, DNS:a.test", "\27[2Ja.test" } do
      local ok, err = answer({ name }, { name = "a.test" })
      assert.is_false(ok)
      assert.equal("name_mismatch", err.code)
      assert.is_nil(err.message:find("[%z\1-\31\127]"))
    end
  end)

  it("V2 in the issuer's name are shown escaped", function()
    local other = chains.certificate { subject = "Evil\n\27[31mRoot\0, CN=Root", ca = true }
    local leaf = chains.certificate { issuer = other, names = { "a.test" } }
    local _, message = anchors:verify(leaf.der, { name = "a.test" })
    assert.is_nil(message:find("[%z\1-\31\127]"))
    assert.is_truthy(message:find("Evil", 1, true))
  end)
end)

describe("V7 ten thousand names", function()
  it("V7 are walked once, and the error lists a few", function()
    local many = {}
    for i = 1, 10000 do many[i] = ("h%d.b.test"):format(i) end
    local leaf = chains.certificate { issuer = root, names = many }
    local clock = os.clock()
    local _, message, err = anchors:verify(leaf.der, { name = "a.test" })
    assert.is_true(os.clock() - clock < 5)
    assert.equal("name_mismatch", err.code)
    assert.is_truthy(message:find("and 9995 more", 1, true))
    assert.is_true((anchors:verify(leaf.der, { name = "h10000.b.test" })))
  end)

  it("V7 of more than that, the certificate is refused", function()
    local many = {}
    for i = 1, 10001 do many[i] = "a.b" end
    local _, _, err = anchors:verify(chains.certificate { issuer = root, names = many }.der, { name = "a.b" })
    assert.equal("too_complex", err.code)
  end)
end)

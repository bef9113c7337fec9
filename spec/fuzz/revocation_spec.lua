-- Hostile bytes where revocation is asked about: answers, lists, files of issuers. None is ever a plain good, and
-- none does harm.
local chains = require "spec.support.chains"
local core = require "tlsconnect.core"
local der = require "tlsconnect.der"
local soak = require "spec.support.soak"

local function key(label) return chains.key("p256", nil, label) end

local function access(method, url) return der.sequence(der.oid(method), chains.general { "uri", url }) end
local function point(url)
  return der.sequence(der.element(0xa0, der.element(0xa0, chains.general { "uri", url })))
end

local root = chains.certificate { subject = "Root", ca = true, key = key("root") }
local site = chains.certificate { issuer = root, names = { "a.test" }, extensions = {
  { "access", false, der.sequence(access("1.3.6.1.5.5.7.48.1", "http://ocsp.test/"),
    access("1.3.6.1.5.5.7.48.2", "http://ca.test/"), access("1.3.6.1.5.5.7.48.2", "ldap://ca.test/")) },
  { "points", false, der.sequence(point("http://crl.test/1"), point("http://crl.test/2")) },
} }

local seed = 20261124
local function random(n)
  seed = (seed * 16807) % 2147483647
  return seed % n + 1
end

-- The bytes cut at every place, and `times` times (ten times as often where there is time)
-- with another byte somewhere.
local function each_broken(bytes, times, f)
  for size = 0, #bytes - 1 do f(bytes:sub(1, size)) end
  for _ = 1, soak(10 * times, times) do
    local at, byte = random(#bytes), random(256) - 1
    if bytes:byte(at) ~= byte then f(bytes:sub(1, at - 1) .. string.char(byte) .. bytes:sub(at + 1)) end
  end
end

describe("broken bytes", function()
  it("of a revocation list are never good", function()
    local list = chains.crl { issuer = root, revoked = { chains.certificate { issuer = root } } }
    assert.equal("yes", core.crl_answer(list, site.der, root.der, os.time()).answer)
    each_broken(list, 1000, function(broken)
      local answer = core.crl_answer(broken, site.der, root.der, os.time())
      assert.is_true(answer == nil or answer.answer == "unknown")
    end)
  end)

  it("of an OCSP answer are never good", function()
    local answer = chains.ocsp { issuer = root, entries = { { certificate = site } } }
    assert.equal("yes", core.ocsp_answer(answer, site.der, root.der, os.time()).answer)
    each_broken(answer, 1000, function(broken)
      assert.equal("unknown", core.ocsp_answer(broken, site.der, root.der, os.time()).answer)
    end)
  end)

  it("of a certificate give a question or an error", function()
    local inquiry = core.inquiry(site.der, root.der)
    assert.same({ "http://ocsp.test/" }, inquiry.ocsp)
    assert.same({ "http://crl.test/1", "http://crl.test/2" }, inquiry.crl)
    assert.same({ "http://ca.test/", "ldap://ca.test/" }, core.issuer_places(site.der))
    each_broken(site.der, 2000, function(broken)
      local ok, found = pcall(core.inquiry, broken, root.der)
      assert.is_true(not ok or #found.ocsp <= 8 and #found.crl <= 8)
      assert.is_true(#core.issuer_places(broken) <= 8)
    end)
  end)

  it("of a file of issuers are certificates or nothing", function()
    -- SignedData without signers, RFC 5652
    local data = der.sequence(der.integer(1), der.element(0x31, ""), der.sequence(der.oid("1.2.840.113549.1.7.1")),
      der.explicit(0, site.der .. root.der), der.element(0x31, ""))
    local file = der.sequence(der.oid("1.2.840.113549.1.7.2"), der.explicit(0, data))
    assert.same({ site.der, root.der }, core.pkcs7_certificates(file))
    each_broken(file, 1000, function(broken)
      for _, one in ipairs(core.pkcs7_certificates(broken)) do assert.is_string(one) end
    end)
  end)

  it("thousands of places in one certificate are not gathered", function()
    local places, points = {}, {}
    for i = 1, 5000 do
      places[i] = access("1.3.6.1.5.5.7.48.1", "http://ocsp.test/" .. i)
      points[i] = point("http://crl.test/" .. i)
    end
    local crowded = chains.certificate { issuer = root, names = { "a.test" }, extensions = {
      { "access", false, der.sequence_of(places) }, { "points", false, der.sequence_of(points) } } }
    local inquiry = core.inquiry(crowded.der, root.der)
    assert.equal(8, #inquiry.ocsp)
    assert.equal(8, #inquiry.crl)
  end)
end)

local chains = require "spec.support.chains"
local der = require "tlsconnect.der"
local trust = require "tlsconnect.trust"

local DAY = 86400

local root = chains.certificate { subject = "Root", ca = true }
local site = chains.certificate { issuer = root, names = { "a.test" }, serial = "\1\2\3" }
local stapled = chains.certificate { issuer = root, names = { "a.test" }, must_staple = true }
local other = chains.certificate { issuer = root, names = { "b.test" }, serial = "\1\2\3\4" }
local anchors = assert(trust.new { ca = root.pem })

local function verify(certificate, options)
  options.name = "a.test"
  local ok, verification, err = anchors:verify(certificate.der, options)
  if ok then return true, verification.revocation end
  return false, err, err.verification.revocation
end

-- What a staple is worth: its answer and code, for a certificate that does not insist on one; and that it is
-- refused where one is demanded, unless it is good.
local function worth(staple, certificate)
  local ok, revocation, found = verify(certificate or site, { staple = staple })
  if not ok then revocation = found end
  return revocation.answer, revocation.code, revocation
end

local function useless(staple, code, about)
  local answer, why = worth(staple)
  assert.equal("unknown", answer, about)
  assert.equal(code, why, about)
  local ok, err = verify(site, { staple = staple, revocation = "hard" })
  assert.is_false(ok, about)
  assert.equal("revocation_unknown", err.code, about)
end

local function ocsp(entry, options)
  options = options or {}
  entry = entry or {}
  entry.certificate = entry.certificate or site
  options.entries, options.issuer = options.entries or { entry }, options.issuer or root
  return chains.ocsp(options)
end

describe("a staple", function()
  it("that says good is good", function()
    for _, by in ipairs { "name", "key" } do
      for _, hash in ipairs { "sha1", "sha256" } do
        local answer, code, revocation = worth(ocsp({ hash = hash }, { by = by }))
        assert.equal("yes", answer)
        assert.equal("good", code)
        assert.equal("staple", revocation.source)
        assert.equal(1, revocation.certificate)
      end
    end
    assert.is_true((verify(stapled, { staple = ocsp { certificate = stapled } })))
  end)

  it("that says revoked is a refusal, with the day and the reason", function()
    local at = os.time() - 3 * DAY
    local ok, err = verify(site, { staple = ocsp { status = "revoked", reason = 1, revoked_at = at } })
    assert.is_false(ok)
    assert.equal("revoked", err.code)
    assert.equal("verify", err.step)
    assert.equal(1, err.certificate)
    assert.equal(("a.test's certificate was revoked on %s: its key was compromised")
      :format(os.date("!%Y-%m-%d %H:%M UTC", at)), err.message)
  end)

  it("that is old but says revoked still is", function()
    local answer = worth(ocsp { status = "revoked", this_update = -90 * DAY, next_update = -80 * DAY })
    assert.equal("no", answer)
  end)

  it("that says unknown is not good", function()
    useless(ocsp { status = "unknown" }, "status_unknown")
  end)

  it("is not asked for unless the certificate or the policy demands it", function()
    local ok, revocation = verify(site, {})
    assert.is_true(ok)
    assert.equal("unknown", revocation.answer)
    assert.equal("no_answer", revocation.code)
    assert.equal("not known whether it is revoked: nobody was asked", revocation.reason)
    local refused, err = verify(site, { revocation = "hard" })
    assert.is_false(refused)
    assert.equal("revocation_unknown", err.code)
    refused, err = verify(stapled, {})
    assert.is_false(refused)
    assert.equal("missing_staple", err.code)
    assert.equal("a.test's certificate obliges the server to send a revocation answer, but it sent none", err.message)
  end)
end)

describe("R1 a staple with an error, empty, or junk", function()
  it("R1 is not good, and fails a certificate that must have one", function()
    local good = ocsp()
    local rows = {
      { ocsp({}, { status = 1 }), "responder_error" }, { ocsp({}, { status = 6 }), "responder_error" },
      { "junk", "bad_response" }, { der.sequence(), "bad_response" }, { good .. "\0", "bad_response" },
      { ocsp({}, { entries = {} }), "wrong_certificate" },
      { ocsp({}, { version = 1 }), "bad_response" },
      { ("\48"):rep(70000), "bad_response" },
    }
    for _, row in ipairs(rows) do useless(row[1], row[2]) end
    local ok, err = verify(stapled, { staple = "junk" })
    assert.is_false(ok)
    assert.equal("missing_staple", err.code)
    assert.equal("a.test's certificate obliges the server to send a revocation answer, but the one it sent is no good: "
      .. "the answer is broken", err.message)
    useless("", "bad_response")
  end)

  it("R1 is not good when it is cut anywhere, or when a byte of it is changed", function()
    local good = ocsp()
    for size = 0, #good - 1 do
      local answer = worth(good:sub(1, size))
      assert.equal("unknown", answer)
    end
    local seed = 7
    for _ = 1, 1000 do
      seed = (seed * 16807) % 2147483647
      local at = seed % #good + 1
      local byte = (good:byte(at) + 1 + math.floor(seed / 65536) % 255) % 256
      local answer = worth(good:sub(1, at - 1) .. string.char(byte) .. good:sub(at + 1))
      assert.equal("unknown", answer, ("byte %d set to %d"):format(at, byte))
    end
  end)
end)

describe("R2 a good staple for another certificate", function()
  it("R2 is refused, a prefix of the serial number too", function()
    useless(ocsp { certificate = other }, "wrong_certificate")
    useless(ocsp { serial = "\1\2" }, "wrong_certificate")
    useless(ocsp { serial = "\1\2\3\0" }, "wrong_certificate")
    useless(ocsp { serial = "\0\1\2\3" }, "wrong_certificate")
  end)

  it("R2 is refused where the issuer's name or key differs", function()
    local stranger = chains.certificate { subject = "Stranger", ca = true, key = chains.key("p256", nil, "stranger") }
    useless(ocsp { issuer = stranger }, "wrong_certificate")
    useless(ocsp { name_hash = ("\0"):rep(20) }, "wrong_certificate")
    useless(ocsp { key_hash = ("\0"):rep(20) }, "wrong_certificate")
    useless(ocsp { key_hash = "" }, "wrong_certificate")
  end)
end)

describe("R3 a staple with many entries", function()
  it("R3 is decided by ours, wherever it stands", function()
    local entries = {}
    for i = 1, 20 do entries[i] = { certificate = other } end
    entries[13] = { certificate = site, status = "revoked" }
    assert.equal("no", (worth(ocsp({}, { entries = entries }))))
    entries[13] = { certificate = site }
    entries[3] = { certificate = other, status = "revoked" }
    assert.equal("yes", (worth(ocsp({}, { entries = entries }))))
  end)

  it("R3 with two of ours: revoked outweighs good, in both orders", function()
    local good, bad = { certificate = site }, { certificate = site, status = "revoked" }
    assert.equal("no", (worth(ocsp({}, { entries = { good, bad } }))))
    assert.equal("no", (worth(ocsp({}, { entries = { bad, good } }))))
  end)

  it("R3 of more entries than any answer has is not read", function()
    local entries = {}
    for i = 1, 300 do entries[i] = { certificate = other } end
    entries[301] = { certificate = site }
    useless(ocsp({}, { entries = entries }), "bad_response")
  end)
end)

describe("R4 the signer of a staple", function()
  local function responder(given)
    given.issuer = given.issuer or root
    given.subject = "Responder"
    given.key = chains.key("p256", nil, "responder")
    if given.purposes == nil then given.purposes = { "ocsp" } end
    return chains.certificate(given)
  end

  it("R4 may be one whom the issuer named for it", function()
    for _, by in ipairs { "name", "key" } do
      assert.equal("yes", (worth(ocsp({}, { signer = responder {}, by = by }))))
    end
  end)

  it("R4 must have the OCSP usage, whole, from the same issuer, and be in date", function()
    local function refused(given, about)
      useless(ocsp({}, { signer = responder(given) }), "bad_signer", about)
    end
    refused({ purposes = false }, "no list of purposes")
    refused({ purposes = { "server" } }, "another purpose")
    refused({ purposes = { "any" } }, "any purpose")
    refused({ purposes = { "1.3.6.1.5.5.7.3" } }, "an OID cut short")
    refused({ purposes = { "1.3.6.1.5.5.7.3.9.1" } }, "an OID too long")
    refused({ not_before = os.time() - 9 * DAY, not_after = os.time() - DAY }, "expired")
    refused({ not_before = os.time() + DAY }, "not yet valid")
    refused({ usage = { "cert_sign" } }, "another usage")
    refused({ signature = "junk" }, "not signed by the issuer")
    local elsewhere = chains.certificate { subject = "Elsewhere", ca = true, key = chains.key("p256", nil, "else") }
    refused({ issuer = elsewhere }, "another CA")
    refused({ issuer = { key = elsewhere.key, subject = root.subject, id = root.id } }, "a CA of the same name")
  end)

  it("R4 must be the one that the answer names, and have signed it", function()
    local signer = responder {}
    useless(ocsp({}, { signer = signer, certificates = {} }), "bad_signer")
    useless(ocsp({}, { signer = signer, certificates = { other } }), "bad_signer")
    useless(ocsp({}, { signature = "junk" }), "bad_signer")
    local mallory = { key = chains.key("p256", nil, "mallory"), spki = root.spki, subject = root.subject }
    useless(ocsp({}, { signer = mallory }), "bad_signer")
    local neighbour = chains.certificate { issuer = root, names = { "c.test" }, key = chains.key("p256", nil, "c") }
    useless(ocsp({}, { signer = neighbour }), "bad_signer")
  end)

  it("R4 is looked for among the first few certificates only", function()
    local signer = responder {}
    local many = {}
    for i = 1, 20 do many[i] = other end
    many[21] = signer
    useless(ocsp({}, { signer = signer, certificates = many }), "bad_signer")
  end)
end)

describe("R5 the time of a staple", function()
  it("R5 must not be over, nor without end, nor in the future", function()
    useless(ocsp { this_update = -9 * DAY, next_update = -2 * DAY }, "stale")
    useless(ocsp { next_update = false }, "stale")
    useless(ocsp { this_update = 3600 }, "not_yet_valid")
    useless(ocsp { this_update = 0, next_update = -100 }, "stale")
  end)

  it("R5 is read with five minutes' tolerance for clocks that differ", function()
    assert.equal("yes", (worth(ocsp { this_update = 240 })))
    assert.equal("yes", (worth(ocsp { this_update = -DAY, next_update = -240 })))
    useless(ocsp { this_update = 400 }, "not_yet_valid")
    useless(ocsp { this_update = -DAY, next_update = -400 }, "stale")
  end)

  it("R5 is judged at the time that was asked about", function()
    local staple = ocsp()
    local ok, revocation = verify(site, { staple = staple, time = os.time() + 5 * DAY })
    assert.is_true(ok)
    assert.equal("stale", revocation.code)
  end)
end)

describe("staples of intermediates", function()
  it("refuse the chain when one is revoked", function()
    local own = chains.key("p256", nil, "m")
    local middle = chains.certificate { subject = "Middle", ca = true, issuer = root, key = own }
    local leaf = chains.certificate { issuer = middle, names = { "a.test" } }
    local staples = { chains.ocsp { issuer = middle, entries = { { certificate = leaf } } },
      ocsp { certificate = middle, status = "revoked" } }
    local ok, _, err = anchors:verify(chains.chain(leaf, middle), { name = "a.test", staples = staples })
    assert.is_nil(ok)
    assert.equal("revoked", err.code)
    assert.equal(2, err.certificate)
    staples[2] = false
    assert.is_true((anchors:verify(chains.chain(leaf, middle), { name = "a.test", staples = staples })))
  end)
end)

describe("a CRL", function()
  local function judged(crl, certificate)
    local ok, revocation, found = verify(certificate or site, { crls = type(crl) == "table" and crl or { crl } })
    return ok, ok and revocation or found
  end

  local function unusable(crl, why, certificate)
    local ok, revocation = judged(crl, certificate)
    assert.is_false(ok)
    assert.equal("revocation_unknown", revocation.code)
    assert.equal(why, revocation.why)
  end

  local function point(uri)
    return der.element(0xa0, der.element(0xa0, chains.general { "uri", uri }))
  end

  it("says revoked or good, as PEM text or DER", function()
    local ok, revocation = judged(chains.crl { issuer = root, revoked = { other } })
    assert.is_true(ok)
    assert.equal("yes", revocation.answer)
    assert.equal("crl", revocation.source)
    ok, revocation = judged(chains.crl { issuer = root, revoked = { other, site } })
    assert.is_false(ok)
    assert.equal("revoked", revocation.code)
    local pem = require("tlsconnect.core").pem("X509 CRL", chains.crl { issuer = root, revoked = { site } })
    assert.is_nil((anchors:verify(site.der, { name = "a.test", crls = pem })))
  end)

  it("is never taken when forged, out of date or of the future", function()
    local mallory = { key = chains.key("p256", nil, "mallory"), subject = root.subject }
    unusable(chains.crl { issuer = root, signer = mallory }, "bad_signer")
    unusable(chains.crl { issuer = root, signature = "junk" }, "bad_signer")
    unusable(chains.crl { issuer = root, this_update = -9 * DAY, next_update = -DAY }, "stale")
    unusable(chains.crl { issuer = root, next_update = false }, "stale")
    unusable(chains.crl { issuer = root, this_update = DAY, next_update = 2 * DAY }, "not_yet_valid")
    unusable(chains.crl { issuer = root, extensions = { { "1.2.3", true, der.null() } } }, "bad_crl")
  end)

  it("is signed by an issuer whose key may sign CRLs", function()
    local silent = chains.certificate { subject = "Silent", ca = true, usage = { "cert_sign" } }
    local leaf = chains.certificate { issuer = silent, names = { "a.test" } }
    local ok, _, err = trust.new({ ca = silent.pem }):verify(leaf.der,
      { name = "a.test", crls = { chains.crl { issuer = silent } } })
    assert.is_nil(ok)
    assert.equal("revocation_unknown", err.code)
  end)

  it("R6 of another issuer says nothing", function()
    local stranger = chains.certificate { subject = "Stranger", ca = true }
    local ok, revocation = judged(chains.crl { issuer = stranger, revoked = { site } })
    assert.is_true(ok)
    assert.equal("unknown", revocation.answer)
  end)

  it("R6 that is a delta, or partial, is never a plain good, but revokes", function()
    local scopes = {
      delta = { "2.5.29.27", true, der.integer(1) },
      reasons = { "2.5.29.28", true, der.sequence(der.element(0x83, "\7\128")) },
      attributes = { "2.5.29.28", true, der.sequence(der.element(0x85, "\255")) },
      authorities = { "2.5.29.28", true, der.sequence(der.element(0x82, "\255")) },
      point = { "2.5.29.28", true, der.sequence(point("http://crl.test/2")) },
    }
    for name, scope in pairs(scopes) do
      unusable(chains.crl { issuer = root, extensions = { scope } }, "partial_crl")
      local ok, revocation = judged(chains.crl { issuer = root, extensions = { scope }, revoked = { site } })
      assert.is_false(ok, name)
      assert.equal("revoked", revocation.code, name)
    end
  end)

  it("R6 of one of two distribution points is good for the certificates of that one", function()
    local first, second = point("http://crl.test/1"), point("http://crl.test/2")
    local function crl(scope)
      return chains.crl { issuer = root, extensions = { { "2.5.29.28", true, der.sequence(scope) } } }
    end
    local pointed = chains.certificate { issuer = root, names = { "a.test" },
      extensions = { { "points", false, der.sequence(der.sequence(first)) } } }
    assert.is_true((judged(crl(first), pointed)))
    unusable(crl(second), "partial_crl", pointed)
    local some = chains.certificate { issuer = root, names = { "a.test" },
      extensions = { { "points", false, der.sequence(der.sequence(first, der.element(0x81, "\7\128"))) } } }
    unusable(crl(first), "partial_crl", some)
    -- beside one that covers it, the other does no harm
    assert.is_true((judged({ crl(second), crl(first) }, pointed)))
    assert.is_true((judged({ crl(first), crl(second) }, pointed)))
  end)

  it("R6 that speaks of several issuers is not read", function()
    local scope = { "2.5.29.28", true, der.sequence(der.element(0x84, "\255")) }
    unusable(chains.crl { issuer = root, extensions = { scope } }, "partial_crl")
    local elsewhere = chains.extension("2.5.29.29", true, der.sequence(chains.general { "dn", chains.name("X") }))
    unusable(chains.crl { issuer = root, extensions = { scope },
      revoked = { { certificate = site, extensions = { elsewhere } } } }, "bad_crl")
  end)

  it("outweighs a good staple when it revokes", function()
    local ok, err = verify(site, { staple = ocsp(), crls = { chains.crl { issuer = root, revoked = { site } } } })
    assert.is_false(ok)
    assert.equal("revoked", err.code)
  end)
end)

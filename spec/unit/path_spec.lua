local chains = require "spec.support.chains"
local core = require "tlsconnect.core"
local der = require "tlsconnect.der"
local trust = require "tlsconnect.trust"

local DAY = 86400

local function key(label) return chains.key("p256", nil, label) end

local function authority(given)
  given.ca = true
  given.key = given.key or key(given.subject)
  return chains.certificate(given)
end

local function anchors_of(...)
  local list = {}
  for i, certificate in ipairs { ... } do list[i] = certificate.der end
  return assert(trust.new { ca = list })
end

local root = authority { subject = "Root" }
local middle = authority { subject = "Middle", issuer = root }
local leaf = chains.certificate { issuer = middle, names = { "a.test" } }
-- The root, each time without what was remembered before.
local anchors = { verify = function(_, ...) return anchors_of(root):verify(...) end }

local function verify(roots, chain, options)
  options = options or { name = "a.test" }
  local ok, verification, err = roots:verify(chain, options)
  return ok == true, ok and verification or err
end

local function refused(roots, chain, code, options)
  local ok, err = verify(roots, chain, options)
  assert.is_false(ok)
  assert.equal(code, err.code, err.message)
  return err
end

describe("a path to a root", function()
  it("is found whatever the order of the chain, with certificates to spare", function()
    local others = { authority { subject = "Stranger" }, authority { subject = "Other", issuer = root } }
    assert.is_true((verify(anchors, chains.chain(leaf, middle))))
    assert.is_true((verify(anchors, chains.chain(leaf, root, middle))))
    assert.is_true((verify(anchors, chains.chain(leaf, others[1], others[2], middle, middle, root))))
  end)

  it("is told, from the leaf to the anchor", function()
    local _, verification = verify(anchors, chains.chain(leaf, root, middle))
    assert.equal(3, #verification.path)
    assert.equal("CN=Middle", verification.path[2]:subject())
    assert.equal("CN=Root", verification.anchor:subject())
    assert.equal("trusted by Root", verification.issuer.reason)
  end)

  it("ends at an intermediate that is trusted itself, or at the leaf", function()
    assert.is_true((verify(anchors_of(middle), chains.chain(leaf))))
    assert.is_true((verify(anchors_of(leaf), chains.chain(leaf))))
    local own = chains.certificate { names = { "a.test" } }
    local _, verification = verify(anchors_of(own), chains.chain(own))
    assert.equal(1, #verification.path)
  end)

  it("takes the one of two cross-signed intermediates that leads to a root", function()
    local unknown = authority { subject = "Gone" }
    local crossed = authority { subject = "Middle", issuer = unknown, key = middle.key }
    assert.is_true((verify(anchors, chains.chain(leaf, crossed, middle))))
    assert.is_true((verify(anchors, chains.chain(leaf, middle, crossed, unknown))))
  end)

  it("goes round an expired alternative, in both orders", function()
    local old = authority { subject = "Middle", issuer = root, key = middle.key, not_after = os.time() - DAY,
      not_before = os.time() - 9 * DAY }
    assert.is_true((verify(anchors, chains.chain(leaf, old, middle))))
    assert.is_true((verify(anchors, chains.chain(leaf, middle, old))))
    local err = refused(anchors, chains.chain(leaf, old), "expired")
    assert.equal(2, err.certificate)
    assert.equal("a.test's certificate is not trusted: its issuer Middle expired 1 day ago, on "
      .. os.date("!%Y-%m-%d %H:%M UTC", old.given.not_after), err.message)
    assert.equal("yes", err.verification.issuer.answer)
  end)

  it("goes round a root that has expired, when a newer one of the same key is trusted", function()
    local old = authority { subject = "Root", not_after = os.time() - DAY, not_before = os.time() - 9 * DAY }
    assert.is_true((verify(anchors_of(old, root), chains.chain(leaf, middle))))
    refused(anchors_of(old), chains.chain(leaf, middle), "expired")
  end)

  it("tells CAs of one name apart by their key identifiers, and without them", function()
    local twins = {}
    for i = 1, 6 do
      twins[i] = authority { subject = "Middle", issuer = root, key = key("twin" .. i), key_ids = i % 2 == 0 }
    end
    local chain = chains.chain(leaf, twins[1], twins[2], twins[3], twins[4], twins[5], twins[6], middle)
    local ok, verification = verify(anchors, chain)
    assert.is_true(ok)
    assert.equal(8, #chain)
    assert.is_true(verification.signatures <= 2)
    local bare = chains.certificate { issuer = middle, names = { "a.test" }, key_ids = false }
    chain[1] = bare.der
    assert.is_true((verify(anchors_of(root), chain)))
  end)

  it("remembers intermediates that stood in a good path", function()
    local roots = anchors_of(root)
    local err = refused(roots, chains.chain(leaf), "unknown_issuer")
    assert.equal("a.test's certificate is not trusted: its issuer Middle is neither one of the trusted nor sent by "
      .. "the server", err.message)
    assert.is_true((verify(roots, chains.chain(leaf, middle))))
    local sibling = chains.certificate { issuer = middle, names = { "b.test" } }
    assert.is_true((verify(roots, chains.chain(sibling), { name = "b.test" })))
  end)

  it("forgets the oldest of them", function()
    local roots = anchors_of(root)
    local function learn(i)
      local other = authority { subject = "M" .. i, issuer = root, key = middle.key }
      local site = chains.certificate { issuer = other, names = { "a.test" } }
      assert.is_true((verify(roots, chains.chain(site, other))))
      return site
    end
    local first = learn(1)
    assert.is_true((verify(roots, chains.chain(first), { name = "a.test", time = os.time() })))
    for i = 2, 65 do learn(i) end
    refused(roots, chains.chain(first), "unknown_issuer", { name = "a.test", time = os.time() })
  end)

  it("is not longer than ten intermediates, nor than its certificates allow", function()
    local function ladder(count, lengths)
      local chain, above = {}, root
      for i = 1, count do
        above = authority { subject = "Step " .. i, issuer = above, path_length = lengths and lengths[i] }
        table.insert(chain, 1, above.der)
      end
      table.insert(chain, 1, chains.certificate { issuer = above, names = { "a.test" } }.der)
      return chain
    end
    assert.is_true((verify(anchors, ladder(10))))
    refused(anchors, ladder(11), "path_too_long")
    assert.is_true((verify(anchors, ladder(2), { name = "a.test", max_depth = 2 })))
    refused(anchors, ladder(2), "path_too_long", { name = "a.test", max_depth = 1 })
    assert.is_true((verify(anchors, ladder(2, { 1, 0 }))))
    refused(anchors, ladder(2, { 0, 0 }), "path_too_long")
  end)
end)

describe("an issuer", function()
  local function under(given, code)
    given.subject, given.key = given.subject or "Bad", key("bad")
    given.issuer = root
    if given.ca == nil then given.ca = true end
    local bad = chains.certificate(given)
    return refused(anchors, chains.chain(chains.certificate { issuer = bad, names = { "a.test" } }, bad), code)
  end

  it("must be a CA that may sign certificates", function()
    local err = under({ ca = false, purposes = false }, "not_a_ca")
    assert.equal("a.test's certificate is not trusted: its issuer Bad is not a certificate authority, and may not "
      .. "issue certificates", err.message)
    under({ usage = { "crl_sign" } }, "not_a_ca")
    under({ ca = false, usage = { "cert_sign" }, purposes = false,
      extensions = { { "basic", true, der.sequence() } } }, "not_a_ca")
    under({ version = 1, all = false }, "bad_certificate")
  end)

  it("must have made the signature", function()
    local forged = chains.certificate { issuer = { key = key("mallory"), subject = middle.subject, id = middle.id },
      names = { "a.test" } }
    refused(anchors, chains.chain(forged, middle), "wrong_issuer")
    local cut = chains.certificate { issuer = middle, names = { "a.test" }, signature = "" }
    refused(anchors, chains.chain(cut, middle), "wrong_issuer")
  end)

  it("of that name which is trusted under another key is told", function()
    local other = authority { subject = "Root", key = key("another root") }
    local site = chains.certificate { issuer = other, names = { "a.test" } }
    local err = refused(anchors, chains.chain(site), "unknown_issuer")
    assert.is_truthy(err.message:find("a trusted root of that name has another key", 1, true))
  end)

  it("that signed itself and is not trusted is told", function()
    local own = chains.certificate { names = { "a.test" } }
    local err = refused(anchors, chains.chain(own), "self_signed")
    assert.equal("a.test's certificate is self-signed, and is not one of the trusted", err.message)
    local stranger = authority { subject = "Stranger" }
    err = refused(anchors, chains.chain(chains.certificate { issuer = stranger, names = { "a.test" } }, stranger),
      "unknown_issuer")
    assert.equal("a.test's certificate is not trusted: its root Stranger is not one of the trusted", err.message)
  end)

  it("V10 of another purpose, or of none at all, may not issue for this one", function()
    under({ purposes = { "client" } }, "wrong_purpose")
    under({ purposes = {} }, "wrong_purpose")
    local ocsp = authority { subject = "M2", issuer = root, purposes = { "server", "ocsp" } }
    local site = chains.certificate { issuer = ocsp, names = { "a.test" } }
    assert.is_true((verify(anchors, chains.chain(site, ocsp))))
    refused(anchors, chains.chain(chains.certificate { issuer = ocsp, names = { "a.test" }, purposes = { "client" } },
      ocsp), "wrong_purpose", { purpose = "client" })
    local any = authority { subject = "M3", issuer = root, purposes = { "any" } }
    assert.is_true((verify(anchors, chains.chain(chains.certificate { issuer = any, names = { "a.test" } }, any))))
  end)
end)

describe("a peer's own certificate", function()
  local function own(given, code, options)
    given.issuer, given.names = root, given.names or { "a.test" }
    return refused(anchors, chains.chain(chains.certificate(given)), code, options)
  end

  it("V10 must be for the purpose, and an empty list of purposes is for none", function()
    own({ purposes = { "client" } }, "wrong_purpose")
    own({ purposes = { "code" } }, "wrong_purpose")
    own({ purposes = {} }, "wrong_purpose")
    own({}, "wrong_purpose", { purpose = "client" })
    local client = chains.certificate { issuer = root, purposes = { "client" } }
    assert.is_true((verify(anchors, chains.chain(client), { purpose = "client" })))
    local free = chains.certificate { issuer = root, names = { "a.test" }, purposes = false }
    assert.is_true((verify(anchors, chains.chain(free))))
  end)

  it("must be well formed", function()
    own({ version = 1 }, "bad_certificate")
    own({ version = 1, all = false }, "bad_certificate")
    own({ version = 2, all = false }, "bad_certificate")
    own({ extensions = { { "1.2.3.4", true, der.null() } } }, "unknown_critical")
    own({ extensions = { { "1.2.3.4", false, der.null() }, { "1.2.3.4", false, der.null() } } }, "bad_certificate")
    own({ extensions = { { "basic", true, "junk" } } }, "bad_certificate")
    own({ extensions = { { "access", false, "junk" } } }, "bad_certificate")
    own({ san = "junk", names = false }, "bad_certificate")
    own({ serial = "\255" }, "bad_certificate")
    for _, extension in ipairs { "subject_key", "authority_key" } do
      own({ key_ids = false, extensions = { { extension, true, der.octets("1") } } }, "bad_certificate")
    end
    local access = der.sequence(der.sequence(der.oid("1.3.6.1.5.5.7.48.1"), der.element(0x86, "http://a.test/")))
    own({ extensions = { { "access", true, access } } }, "bad_certificate")
  end)

  it("tells of an extension that it does not know", function()
    local err = own({ extensions = { { "1.2.3.4", true, der.null() } } }, "unknown_critical")
    assert.equal("a.test's certificate has a critical extension that is not known here (1.2.3.4)", err.message)
  end)

  it("must name the same signature algorithm twice", function()
    local _, good = root.key:algorithm()
    local certificate = chains.certificate { issuer = root, names = { "a.test" } }
    local outer = der.sequence(der.oid(good))
    local other = der.sequence(der.oid("1.2.840.10045.4.3.3"))
    local at = select(2, certificate.der:find(outer, 1, true))
    local from, to = certificate.der:find(outer, at + 1, true)
    local changed = certificate.der:sub(1, from - 1) .. other .. certificate.der:sub(to + 1)
    refused(anchors, { changed }, "bad_certificate")
  end)

  it("V9 has a key of a kind and size that is accepted, or its signature is not tried", function()
    local weak = chains.key("rsa", 1024)
    local err = own({ key = weak }, "weak_key")
    assert.equal("a.test's certificate has a key that is too weak (1024 bits)", err.message)
    assert.equal(0, err.verification.signatures)

    local function rsa(bits, exponent)
      local modulus = "\0\255" .. ("\1"):rep(bits / 8 - 1)
      return der.sequence(der.sequence(der.oid("1.2.840.113549.1.1.1"), der.null()),
        der.bits(der.sequence(der.element(2, modulus), der.element(2, exponent or "\1\0\1"))))
    end
    err = own({ spki = rsa(16384) }, "weak_key")
    assert.equal("a.test's certificate has a key of a size that is not accepted (16384 bits)", err.message)
    assert.equal(0, err.verification.signatures)
    own({ spki = rsa(2048, "\1") }, "weak_key")
    own({ spki = rsa(2048, "\2") }, "weak_key")
    own({ spki = rsa(2048, "\1" .. ("\1"):rep(64)) }, "weak_key")
    local big = authority { subject = "Big", issuer = root, spki = rsa(16384) }
    local site = chains.certificate { issuer = { key = key("x"), subject = big.subject, id = big.id },
      names = { "a.test" } }
    err = refused(anchors, chains.chain(site, big), "weak_key")
    assert.equal(0, err.verification.signatures)

    local dsa = der.sequence(der.sequence(der.oid("1.2.840.10040.4.1"), der.sequence(der.integer(23), der.integer(11),
      der.integer(4))), der.bits(der.integer(8)))
    own({ spki = dsa }, "weak_key")
    own({ spki = der.sequence(der.sequence(der.oid("1.2.3.4")), der.bits("xyz")) }, "weak_key")
    local point = "\4" .. ("\1"):rep(64)
    local function ec(parameters)
      return der.sequence(der.sequence(der.oid("1.2.840.10045.2.1"), parameters), der.bits(point))
    end
    own({ spki = ec(der.sequence(der.integer(1))) }, "weak_key")
    own({ spki = ec(der.oid("1.2.840.10045.3.1.1")) }, "weak_key")
  end)

  it("takes the keys that are in use", function()
    for _, kind in ipairs { { "p256" }, { "p384" }, { "p521" }, { "ed25519" }, { "rsa", 2048 } } do
      local both = chains.key(kind[1], kind[2])
      local signer = chains.certificate { subject = "Root of " .. kind[1], ca = true, key = both }
      local site = chains.certificate { issuer = signer, names = { "a.test" }, key = both }
      assert.is_true((verify(anchors_of(signer), chains.chain(site))), kind[1])
    end
  end)

  it("is not signed with a broken algorithm", function()
    local strong = chains.certificate { subject = "RSA Root", ca = true, key = chains.key("rsa", 2048) }
    local sha1 = der.sequence(der.oid("1.2.840.113549.1.1.5"), der.null())
    local site = chains.certificate { issuer = strong, names = { "a.test" }, algorithm = sha1 }
    refused(anchors_of(strong), chains.chain(site), "weak_signature")
    local unknown = chains.certificate { issuer = strong, names = { "a.test" },
      algorithm = der.sequence(der.oid("1.2.3")) }
    refused(anchors_of(strong), chains.chain(unknown), "weak_signature")
    -- a root's own signature proves nothing, and is not looked at
    local old = chains.certificate { subject = "Old Root", ca = true, key = chains.key("rsa", 2048), algorithm = sha1 }
    local below = chains.certificate { issuer = old, names = { "a.test" } }
    assert.is_true((verify(anchors_of(old), chains.chain(below))))
    -- nor is that of a certificate which is itself what is trusted
    local itself = chains.certificate { names = { "a.test" }, key = chains.key("rsa", 2048), algorithm = sha1 }
    assert.is_true((verify(anchors_of(itself), chains.chain(itself))))
    refused(anchors, chains.chain(itself), "weak_signature")
  end)
end)

describe("V8 webs of certificates", function()
  it("V8 that lead to no root cost no signature", function()
    local chain = { chains.certificate { issuer = authority { subject = "W" }, names = { "a.test" } }.der }
    for i = 1, 100 do
      chain[#chain + 1] = authority { subject = "W", key = key("web" .. i % 10), key_ids = false,
        issuer = { key = key("web"), subject = chains.name("W"), id = "x" } }.der
    end
    local err = refused(anchors, chain, "unknown_issuer")
    assert.equal(0, err.verification.signatures)
  end)

  it("V8 that lead to a root by false signatures end within the budget", function()
    local function false_issuer(subject) return { key = key("false"), subject = chains.name(subject), id = "x" } end
    local chain = { chains.certificate { issuer = false_issuer("W"), names = { "a.test" }, key_ids = false }.der }
    for i = 1, 100 do
      chain[#chain + 1] = authority { subject = "W", key = key("web" .. i), key_ids = false,
        issuer = false_issuer(i % 2 == 0 and "W" or "Root") }.der
    end
    local clock = os.clock()
    local ok, err = verify(anchors, chain)
    assert.is_false(ok)
    assert.is_truthy(err.code == "wrong_issuer" or err.code == "too_complex", err.code)
    assert.is_true(err.verification.signatures <= 48)
    assert.is_true(os.clock() - clock < 5)
  end)

  it("V8 loops of cross signatures do not hide the path beside them", function()
    local a, b, c = key("A"), key("B"), key("C")
    local names = { A = a, B = b, C = c }
    local chain = {}
    local above = authority { subject = "A", key = a, issuer = root }
    for subject, own in pairs(names) do
      for issuer, signer in pairs(names) do
        if subject ~= issuer then
          chain[#chain + 1] = authority { subject = subject, key = own, key_ids = false,
            issuer = { key = signer, subject = chains.name(issuer), id = "" } }.der
        end
      end
    end
    table.insert(chain, 1, chains.certificate { issuer = above, names = { "a.test" } }.der)
    chain[#chain + 1] = above.der
    assert.is_true((verify(anchors, chain)))
    chain[#chain] = nil
    refused(anchors, chain, "unknown_issuer")
  end)

  it("a thousand certificates, or a megabyte of them, are not looked at", function()
    local many = {}
    for i = 1, 1000 do many[i] = leaf.der end
    refused(anchors, many, "too_complex")
    local large = chains.certificate { issuer = root, names = { "a.test" },
      extensions = { { "1.2.3", false, ("x"):rep(2 ^ 20) } } }
    refused(anchors, chains.chain(large), "too_complex")
    refused(anchors, {}, "no_certificate")
  end)

  it("a name of a megabyte is refused, in a short sentence", function()
    local big = chains.certificate { issuer = root, subject = ("n"):rep(10 ^ 6), names = { "b.test" } }
    local err = refused(anchors, chains.chain(big), "name_mismatch")
    assert.is_true(#err.message < 500)
    local issued = chains.certificate { issuer = authority { subject = ("n"):rep(10 ^ 6), key = key("n") },
      names = { "a.test" } }
    err = refused(anchors, chains.chain(issued), "unknown_issuer")
    assert.is_true(#err.message < 500)
  end)
end)

describe("a chain", function()
  it("as text that is no PEM are refused", function()
    refused(anchors, "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n", "bad_pem")
    refused(anchors, "-----BEGIN CERTIFICATE-----\nAAAA", "bad_pem")
    refused(anchors, "nothing", "no_certificate")
    assert.has_error(function() anchors:verify(42) end)
    assert.equal(1, #core.pem_decode(leaf.pem, "CERTIFICATE"))
  end)
end)

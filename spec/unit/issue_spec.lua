-- What the module makes (certificates, requests, revocation lists), as openssl and certtool judge it.
local certificate = require "tlsconnect.certificate"
local errors = require "tlsconnect.error"
local keys = require "tlsconnect.key"
local der = require "tlsconnect.der"
local run = require "spec.support.run"
local tmp = require "spec.support.tmp"

local function file(object)
  return tmp.file(object:pem())
end

local function text_of(c)
  return run.check { "openssl", "x509", "-in", file(c), "-noout", "-text", "-nameopt", "RFC2253" }
end

-- Whether openssl accepts a chain: leaf first, root last.
local function verified(chain, ...)
  local words = { "openssl", "verify", "-x509_strict", "-CAfile", file(chain[#chain]) }
  for i = 2, #chain - 1 do
    words[#words + 1] = "-untrusted"
    words[#words + 1] = file(chain[i])
  end
  for _, word in ipairs { ... } do words[#words + 1] = word end
  words[#words + 1] = file(chain[1])
  local result = run(words)
  return result.code == 0, result.out .. result.err
end

local root_key = assert(keys.generate("p256"))
local root = assert(certificate.issue { key = root_key, subject = "CN=Small Root,O=Ada", ca = true })

local function issue(options)
  options.issuer = options.issuer or root
  options.issuer_key = options.issuer_key or root_key
  options.key = options.key or not options.request and root_key or nil
  return assert(certificate.issue(options))
end

describe("a small CA", function()
  for _, kind in ipairs { "p256", "p384", "p521", "ed25519", "ed448", "rsa" } do
    it("with keys of type " .. kind .. " makes a chain that openssl and certtool accept", function()
      local function key() return assert(keys.generate(kind, kind == "rsa" and 2048 or nil)) end
      local ca_key, middle_key, leaf_key = key(), key(), key()
      local ca = assert(certificate.issue { key = ca_key, subject = "CN=CA", ca = true })
      local middle = issue { key = middle_key, subject = "CN=Middle", ca = true, path_length = 0, issuer = ca,
        issuer_key = ca_key }
      local leaf = issue { key = leaf_key, names = { "a.test" }, issuer = middle, issuer_key = middle_key }
      local ok, said = verified({ leaf, middle, ca }, "-purpose", "sslserver", "-verify_hostname", "a.test")
      assert.is_true(ok, said)
      local chain = tmp.file(leaf:pem() .. middle:pem() .. ca:pem())
      local result = run { "certtool", "--verify-chain", "--infile", chain }
      assert.truthy(result.out:find("Chain verification output: Verified", 1, true), result.out .. result.err)
      assert.equal(leaf_key:pin(), leaf:pin())
    end)
  end

  it("makes a self-signed certificate when there is no issuer", function()
    local key = keys.generate("ed25519")
    local c = assert(certificate.issue { key = key, subject = "CN=alone.test", names = { "alone.test" } })
    assert.equal(c:subject(), c:issuer())
    local ok, said = verified({ c, c }, "-verify_hostname", "alone.test")
    assert.is_true(ok, said)
  end)

  it("uses a hash as strong as the signer's key, or the one named", function()
    local key = keys.generate("p384")
    local ca = certificate.issue { key = key, subject = "CN=384", ca = true }
    assert.equal("ECDSA-SHA384", (ca:signature()))
    assert.equal("ECDSA-SHA384", (issue { issuer = ca, issuer_key = key, names = { "a.test" } }:signature()))
    assert.equal("ECDSA-SHA512", (issue { names = { "a.test" }, hash = "SHA512" }:signature()))
    assert.equal("ECDSA-SHA256", (issue { names = { "a.test" } }:signature()))
  end)

  it("gives every certificate its own serial of 129 bits", function()
    local seen = {}
    for _ = 1, 20 do
      local serial = issue { names = { "a.test" } }:serial()
      assert.equal(34, #serial)
      assert.is_nil(seen[serial])
      seen[serial] = true
    end
    assert.equal("0a1b", issue { serial = "A1B" }:serial())
    assert.equal("ff00", issue { serial = 65280 }:serial())
    assert.truthy(text_of(issue { serial = "FF:00" }):find("65280 (0xff00)", 1, true))
  end)

  it("writes names of every kind as openssl reads them", function()
    local c = issue { names = { "a.test", "*.b.test", "b\195\188cher.test", "192.0.2.1", "2001:db8::1", "ada@a.test",
      "https://a.test/", { dns = "c.test" }, { ip = "127.0.0.1" }, { uri = "urn:x" }, { registered_id = "1.2.3" },
      { dn = "CN=x,O=y" }, { other = "1.2.3.4", value = der.string("utf8", "hi") } } }
    assert.truthy(text_of(c):find("DNS:a.test, DNS:*.b.test, DNS:xn--bcher-kva.test, IP Address:192.0.2.1, " ..
      "IP Address:2001:DB8:0:0:0:0:0:1, email:ada@a.test, URI:https://a.test/, DNS:c.test, IP Address:127.0.0.1, " ..
      "URI:urn:x, Registered ID:1.2.3, DirName:O = y, CN = x, othername: 1.2.3.4::hi", 1, true) or
      text_of(c):find("DirName:/O=y/CN=x, othername: 1.2.3.4::hi", 1, true), text_of(c))
    -- what was read can be written again
    assert.equal(c:extensions().subject_alternative_name.raw,
      issue { names = c:names() }:extensions().subject_alternative_name.raw)
  end)

  it("makes the alternative names critical when nothing else names the subject", function()
    assert.is_true(issue { names = { "a.test" } }:extensions().subject_alternative_name.critical)
    assert.is_false(issue { names = { "a.test" }, subject = "CN=a" }:extensions().subject_alternative_name.critical)
  end)

  it("writes subjects from text, from fields and from lists", function()
    local same = issue { subject = "CN=a\\, b\\+c,OU=x+L=y,O=\\20E\\C3\\A9 ,C=DE" }
    assert.equal("CN=a\\, b\\+c,L=y+OU=x,O=\\ E\195\169,C=DE", same:subject())
    assert.truthy(text_of(same):find("Subject: CN=a\\, b\\+c,", 1, true))
    assert.equal("CN=a,O=b,C=DE", issue { subject = { CN = "a", C = "DE", O = "b" } }:subject())
    assert.equal("O=b,CN=a", issue { subject = { { "CN", "a" }, { "O", "b" } } }:subject())
    assert.equal(same:subject("der"), issue { subject = same:subject("table") }:subject("der"))
    assert.equal(same:subject("der"), issue { subject = same:subject() }:subject("der"))
    assert.equal("1.2.3.4=#0c0141,emailAddress=x@y", issue { subject = "1.2.3.4=#0c0141, EMAILADDRESS=x@y" }:subject())
    assert.truthy(run.check { "openssl", "asn1parse", "-in", file(issue { subject = "C=DE" }) }
      :find("PRINTABLESTRING%s+:DE"))
  end)

  it("writes dates, and ends no later than its issuer when none is given", function()
    for _, time in ipairs { -1, 0, 951782400, 2147483648, 2524607999, 2524608000, 4107542400, 253402300799 } do
      local c = issue { not_before = time, not_after = time }
      assert.equal(time, c:not_before())
      assert.equal(time, c:not_after())
    end
    local dated = text_of(issue { not_before = 951782400.75, not_after = 2524608000 })
    assert.truthy(dated:find("Not Before: Feb 29 00:00:00 2000 GMT", 1, true))
    assert.truthy(dated:find("Not After : Jan  1 00:00:00 2050 GMT", 1, true))
    assert.equal(253402300799, issue { not_after = math.huge }:not_after())
    local short = certificate.issue { key = root_key, subject = "CN=short", ca = true, not_after = os.time() + 60 }
    assert.equal(short:not_after(), issue { issuer = short, names = { "a.test" } }:not_after())
    local c = issue { names = { "a.test" } }
    assert.is_true(c:not_before() <= os.time() and c:not_before() > os.time() - 7200)
    assert.equal(90 * 86400, c:not_after() - c:not_before())
  end)

  it("gives CAs and others the usages and purposes that they need", function()
    local e = root:extensions()
    assert.same({ ca = true }, e.basic_constraints.value)
    assert.is_true(e.key_usage.value.certificate_sign and e.key_usage.value.crl_sign)
    assert.is_nil(e.extended_key_usage)
    e = issue { names = { "a.test" } }:extensions()
    assert.same({ ca = false }, e.basic_constraints.value)
    assert.same({ "digital_signature", digital_signature = true }, e.key_usage.value)
    assert.same({ "server", "client", server = true, client = true }, e.extended_key_usage.value)
    e = issue { key = keys.generate("rsa", 2048) }:extensions()
    assert.is_true(e.key_usage.value.key_encipherment)
    e = issue { usages = { "decipher_only", "key_agreement" }, purposes = { "ocsp_signing", "1.2.3.4" } }:extensions()
    assert.same({ "key_agreement", "decipher_only", key_agreement = true, decipher_only = true }, e.key_usage.value)
    assert.same({ "ocsp_signing", "1.2.3.4", ocsp_signing = true, ["1.2.3.4"] = true }, e.extended_key_usage.value)
    e = issue { usages = false, purposes = false, key_ids = false }:extensions()
    assert.equal(1, #e)
  end)

  it("links a certificate to its issuer by key identifiers", function()
    local e = issue { names = { "a.test" } }:extensions()
    assert.equal(root:extensions().subject_key_id.value, e.authority_key_id.value.key)
    assert.equal(40, #e.subject_key_id.value)
  end)

  it("writes constraints, URLs, policies and must-staple as openssl reads them", function()
    local text = text_of(issue { ca = true, subject = "CN=x", path_length = 3, must_staple = true, ocsp_no_check = true,
      name_constraints = { permitted = { "a.test", "10.0.0.0/8", "2001:db8::/32" },
        excluded = { { dns = ".b.a.test" }, { email = "x.test" }, { ip = "10.1.0.0/255.255.0.0" } } },
      ocsp = "http://o.test/", issuer_urls = { "http://i.test/" }, crl_urls = { "http://1.test/", "http://2.test/" },
      policies = { "2.23.140.1.2.1" }, extensions = { { oid = "1.2.3.4", value = der.null(), critical = true } } })
    for _, expected in ipairs { "CA:TRUE, pathlen:3", "DNS:a.test", "IP:10.0.0.0/255.0.0.0", "DNS:.b.a.test",
      "IP:2001:DB8:0:0:0:0:0:0/FFFF:FFFF:0:0:0:0:0:0", "email:x.test", "IP:10.1.0.0/255.255.0.0",
      "OCSP - URI:http://o.test/", "CA Issuers - URI:http://i.test/", "URI:http://1.test/", "URI:http://2.test/",
      "Policy: 2.23.140.1.2.1", "status_request", "OCSP No Check", "1.2.3.4: critical" } do
      assert.truthy(text:find(expected, 1, true), expected .. "\n" .. text)
    end
  end)

  it("puts an extension that is given in the place of its own", function()
    local usage = { oid = "key_usage", value = der.named_bits { [5] = true } }
    local e = issue { names = { "a.test" }, extensions = { usage } }:extensions()
    assert.same({ "certificate_sign", certificate_sign = true }, e.key_usage.value)
    assert.is_false(e.key_usage.critical)
    local count = 0
    for _, one in ipairs(e) do if one.name == "key_usage" then count = count + 1 end end
    assert.equal(1, count)
  end)
end)

describe("a request", function()
  local key = keys.generate("p256")
  local request = assert(certificate.request { key = key, subject = "CN=asked.test,O=Ada", names = { "asked.test" },
    purposes = { "server" }, must_staple = true })

  it("is one that openssl verifies and reads", function()
    local result = run { "openssl", "req", "-in", tmp.file(request:pem()), "-verify", "-noout", "-text", "-nameopt",
      "RFC2253" }
    assert.equal(0, result.code, result.err)
    assert.truthy(result.out:find("Subject: CN=asked.test,O=Ada", 1, true))
    assert.truthy(result.out:find("DNS:asked.test", 1, true))
    assert.truthy(result.out:find("status_request", 1, true))
    assert.equal(0, run { "openssl", "req", "-in", tmp.file((certificate.request { key = key }):pem()), "-verify",
      "-noout" }.code)
  end)

  it("is read back", function()
    for _, text in ipairs { request:pem(), request:der() } do
      local r = assert(certificate.request(text))
      assert.equal("CN=asked.test,O=Ada", r:subject())
      assert.same({ "asked.test" }, r:names("dns"))
      assert.equal(key:pin(), r:pin())
      assert.equal("p256", r:key().curve)
      assert.equal("ECDSA-SHA256", (r:signature()))
      assert.is_true(r:extensions().tls_feature.value.must_staple)
      assert.is_true(r:verify())
      assert.equal("request CN=asked.test,O=Ada", tostring(r))
    end
  end)

  it("of openssl's making is read, and signed", function()
    local path, csr = tmp.path("key"), tmp.path("csr")
    run.check { "openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", path, "-out", csr, "-subj",
      "/C=DE/CN=made.test", "-addext", "subjectAltName=DNS:made.test,IP:192.0.2.7" }
    local r = assert(certificate.request(tmp.read(csr)))
    assert.equal("CN=made.test,C=DE", r:subject())
    assert.same({ "192.0.2.7" }, r:names("ip"))
    assert.equal("RSA-SHA256", (r:signature()))
    local c = issue { request = r }
    assert.equal(assert(keys(tmp.read(path))):pin(), c:pin())
    assert.same({ "made.test" }, c:names("dns"))
    assert.equal(r:subject("der"), c:subject("der"))
    assert.is_true(verified({ c, root }, "-verify_hostname", "made.test"))
  end)

  it("gives a certificate only its key, and what the CA does not set itself", function()
    local c = issue { request = request:pem(), names = { "other.test" }, subject = "CN=other" }
    assert.same({ "other.test" }, c:names("dns"))
    assert.equal("CN=other", c:subject())
    assert.equal(key:pin(), c:pin())
    assert.is_nil(c:extensions().tls_feature)
  end)

  it("whose signature is wrong is refused", function()
    local bytes = request:der()
    local at = bytes:find("asked.test", 1, true)
    local forged = assert(certificate.request(bytes:sub(1, at - 1) .. "X" .. bytes:sub(at + 1)))
    local ok, _, cause = forged:verify()
    assert.is_nil(ok)
    assert.equal("bad_signature", cause.code)
    local c, message, err = certificate.issue { request = forged, issuer = root, issuer_key = root_key }
    assert.is_nil(c)
    assert.equal("bad_signature", err.code)
    assert.equal(message, tostring(err))
  end)

  it("that is broken is bad_pem or bad_der", function()
    for i = 1, #request:der() - 1 do
      local _, _, err = certificate.request(request:der():sub(1, i))
      assert.equal("bad_der", err.code)
    end
    for _, text in ipairs { "", "junk", root:pem(), "-----BEGIN CERTIFICATE REQUEST-----" } do
      local _, _, err = certificate.request(text)
      assert.equal("bad_pem", err.code)
    end
    local c, _, err = certificate.issue { request = "junk", issuer = root, issuer_key = root_key }
    assert.is_nil(c)
    assert.equal("bad_pem", err.code)
  end)
end)

describe("a revocation list", function()
  local good, bad = issue { names = { "good.test" } }, issue { names = { "bad.test" } }

  it("is one that openssl verifies, and by which it refuses what is revoked", function()
    local pem, bytes = assert(certificate.revocation_list { issuer = root, issuer_key = root_key, number = 7,
      revoked = { bad, { serial = "0A0B", time = 1000000000, reason = "key_compromise" }, 255 } })
    local path = tmp.file(pem)
    local result = run { "openssl", "crl", "-in", path, "-CAfile", file(root), "-noout", "-text" }
    assert.truthy(result.err:find("verify OK"))
    for _, expected in ipairs { bad:serial():upper(), "0A0B", "Sep  9 01:46:40 2001 GMT", "Key Compromise",
      "Serial Number: FF", "CRL Number: \n                7" } do
      assert.truthy(result.out:find(expected, 1, true), expected)
    end
    assert.equal(bytes, run.check { "openssl", "crl", "-in", path, "-outform", "DER" })
    assert.is_true(verified({ good, root }, "-crl_check", "-CRLfile", path))
    local ok, said = verified({ bad, root }, "-crl_check", "-CRLfile", path)
    assert.is_false(ok)
    assert.truthy(said:find("revoked"))
    assert.truthy(run.check { "certtool", "--crl-info", "--infile", path }:find(bad:serial(), 1, true))
  end)

  it("may be empty, dated, and without a next one", function()
    local pem = assert(certificate.revocation_list { issuer = root, issuer_key = root_key, this_update = 1000000000,
      next_update = false })
    local out = run.check { "openssl", "crl", "-in", tmp.file(pem), "-noout", "-text" }
    assert.truthy(out:find("Last Update: Sep  9 01:46:40 2001 GMT", 1, true))
    assert.truthy(out:find("Next Update: NONE", 1, true))
    assert.truthy(out:find("No Revoked Certificates", 1, true))
    pem = certificate.revocation_list { issuer = root, issuer_key = root_key, next_update = 2524608000 }
    assert.truthy(run.check { "openssl", "crl", "-in", tmp.file(pem), "-noout", "-nextupdate" }:find("2050"))
  end)
end)

describe("bad options", function()
  local other = keys.generate("p256")

  local function raises(pattern, options, maker)
    local ok, message = pcall(maker or certificate.issue, options)
    assert.is_false(ok)
    assert.equal("string", type(message))
    assert.truthy(message:find(pattern, 1, true), message)
  end

  it("that are misspelt name the nearest right one", function()
    raises("did you mean 'subject'?", { key = other, subjct = "CN=x" })
    raises("did you mean 'not_after'?", { key = other, not_afer = 1 })
    raises("did you mean 'name_constraints.permitted'?", { key = other, name_constraints = { permited = {} } })
    raises("did you mean 'revoked'?", { issuer = root, revoke = {} }, certificate.revocation_list)
  end)

  local cases = {
    { "key", {} },
    { "key", { key = root } },
    { "key", { key = "-----BEGIN" } },
    { "key", { key = other, request = "x" } },
    { "issuer", { key = other, issuer = other, issuer_key = other } },
    { "issuer", { key = other, issuer_key = other } },
    { "issuer_key", { key = other, issuer = root } },
    { "issuer", { request = certificate.request { key = other } } },
    { "request", { request = other } },
    { "subject", { key = other, subject = "nonsense" } },
    { "subject", { key = other, subject = "CN=a,=b" } },
    { "subject", { key = other, subject = "CN=a\\" } },
    { "subject", { key = other, subject = "CN=#0" } },
    { "subject", { key = other, subject = "NOSUCH=a" } },
    { "subject", { key = other, subject = { CN = 1 } } },
    { "subject", { key = other, subject = { { "CN" } } } },
    { "subject", { key = other, ca = true } },
    { "subject", { key = other, subject = 5 } },
    { "names", { key = other, names = { "a b" } } },
    { "names", { key = other, names = { "" } } },
    { "names", { key = other, names = { "good\0evil" } } },
    { "names", { key = other, names = { {} } } },
    { "names", { key = other, names = { { dsn = "a" } } } },
    { "names", { key = other, names = { { ip = "1.2.3" } } } },
    { "names", { key = other, names = { { registered_id = "x" } } } },
    { "names", { key = other, names = { { other = "1.2.3" } } } },
    { "names", { key = other, names = { 5 } } },
    { "usages", { key = other, usages = { "sign" } } },
    { "purposes", { key = other, purposes = { "sever" } } },
    { "path_length", { key = other, path_length = 1 } },
    { "path_length", { key = other, ca = true, subject = "CN=x", path_length = 0.5 } },
    { "path_length", { key = other, ca = true, subject = "CN=x", path_length = -1 } },
    { "not_after", { key = other, not_before = 10, not_after = 9 } },
    { "not_after", { key = other, not_after = 1e15 } },
    { "not_before", { key = other, not_before = -math.huge } },
    { "not_before", { key = other, not_before = 0 / 0 } },
    { "serial", { key = other, serial = "xyz" } },
    { "serial", { key = other, serial = ("ff"):rep(21) } },
    { "serial", { key = other, serial = -1 } },
    { "serial", { key = other, serial = 1.5 } },
    { "hash", { key = other, hash = "sha3000" } },
    { "hash", { key = keys.generate("ed25519"), hash = "sha256" } },
    { "policies", { key = other, policies = { "1.2.x" } } },
    { "name_constraints.permitted", { key = other, name_constraints = { permitted = { { ip = "10.0.0.0/33" } } } } },
    { "extensions[1]", { key = other, extensions = { { oid = "no", value = "" } } } },
    { "extensions[1]", { key = other, extensions = { { oid = "1.2.3" } } } },
  }
  for i, case in ipairs(cases) do
    it(("%d: %s"):format(i, case[1]), function() raises(("bad option '%s' to issue"):format(case[1]), case[2]) end)
  end

  it("of a revocation list name the entry", function()
    for entry, option in pairs { [0.5] = "revoked[1]", xyz = "revoked[1]" } do
      raises(("bad option '%s'"):format(option), { issuer = root, issuer_key = root_key, revoked = { entry } },
        certificate.revocation_list)
    end
    raises("is none of", { issuer = root, issuer_key = root_key, revoked = { { serial = 1, reason = "boredom" } } },
      certificate.revocation_list)
    raises("bad option 'issuer'", { issuer_key = root_key }, certificate.revocation_list)
    raises("bad option 'key'", {}, certificate.request)
  end)

  it("an issuer's key that is another's is key_mismatch", function()
    for _, maker in ipairs { certificate.issue, certificate.revocation_list } do
      local c, message, err = maker { key = maker == certificate.issue and other or nil, issuer = root,
        issuer_key = other }
      assert.is_nil(c)
      assert.equal("key_mismatch", err.code)
      assert.is_true(errors.is(err))
      assert.equal(message, err.message)
    end
  end)
end)

-- Certificates as the module reads them, against what openssl and certtool say of the same ones.
local core = require "tlsconnect.core"
local certificate = require "tlsconnect.certificate"
local errors = require "tlsconnect.error"
local pki = require "spec.support.pki"
local run = require "spec.support.run"
local tmp = require "spec.support.tmp"

local authority = pki.shared()

-- A certificate in a file, read.
local function read(path)
  return assert(certificate(tmp.read(path)))
end

local function openssl(path, ...)
  return (run.check { "openssl", "x509", "-in", path, "-noout", ... }:gsub("\n$", ""))
end

-- Certificates with every kind of content, made by openssl; the same for all tests.
local site = authority:issue {
  name = { "a.test", "*.b.test" }, ip = { "192.0.2.1", "2001:db8::1" }, uri = "https://a.test/x", email = "ada@a.test",
  san = { "RID:1.2.3.4", "otherName:1.3.6.1.4.1.311.20.2.3;UTF8:ada@corp.test", "dirName:directory" },
  subject = "/C=DE/O=Example, Inc./OU=a+CN=a.test",
  ocsp_uri = "http://ocsp.test/", ca_issuers_uri = "http://ca.test/ca.crt", crl_uri = "http://crl.test/1.crl",
  must_staple = true, purpose = "both", key_usage = "digitalSignature,keyEncipherment", key = "rsa2048",
  extensions = { "certificatePolicies=1.2.3.4,@practice", "1.3.6.1.4.1.99999.1=ASN1:UTF8String:odd",
    "[directory]", "O=Deep", "CN=name", "[practice]", "policyIdentifier=1.2.3.5", "CPS.1=http://cps.test/" },
}
local intermediate = authority:authority {
  path_length = 1, permitted = { "DNS:a.test", "IP:10.0.0.0/255.0.0.0" }, excluded = { "email:b.test" },
}

describe("certificate", function()
  it("reads PEM and DER alike", function()
    local pem, der = tmp.read(site.cert), pki.der(site.cert)
    local a, b = assert(certificate(pem)), assert(certificate(der))
    assert.is_true(a == b)
    assert.equal(der, a:der())
    assert.equal(der, assert(certificate(a:pem())):der())
    assert.is_false(a == read(intermediate.cert))
  end)

  it("writes PEM that openssl reads", function()
    local path = tmp.file(read(site.cert):pem())
    assert.equal(openssl(site.cert, "-fingerprint"), openssl(path, "-fingerprint"))
  end)

  it("reads every certificate of a chain, and of a bundle with other blocks and text between", function()
    local leaf = authority:issue { name = "deep.test", ca = intermediate }
    local text = "# my chain\r\n" .. tmp.read(leaf.key) .. tmp.read(leaf.chain):gsub("\n", "\r\n") .. "end\n"
    local list = assert(certificate.list(text))
    assert.equal(2, #list)
    assert.equal("CN=deep.test", list[1]:subject())
    assert.equal(list[1]:issuer(), list[2]:subject())
    assert.is_true(list[1] == assert(certificate(text)))
    assert.equal(1, #certificate.list(pki.der(leaf.cert)))
  end)

  it("reads PEM that is indented, as it is in a program's text", function()
    local text = tmp.read(site.cert):gsub("([^\n]+)", "    %1")
    assert.is_true(assert(certificate(text)) == read(site.cert))
  end)

  it("gives subject and issuer as RFC 4514 text, as openssl and certtool do", function()
    local c = read(site.cert)
    assert.equal("OU=a+CN=a.test,O=Example\\, Inc.,C=DE", c:subject())
    assert.equal(run.check { "certtool", "-i", "--infile", site.cert }:match("\tSubject: ([^\n]+)"), c:subject())
    assert.equal(openssl(site.cert, "-issuer", "-nameopt", "RFC2253"):gsub("^%w+=", ""), c:issuer())
  end)

  it("gives the subject as a table, in the certificate's order", function()
    local subject = read(site.cert):subject("table")
    assert.equal("Example, Inc.", subject.O)
    assert.equal("a.test", subject.CN)
    local seen = {}
    for i, part in ipairs(subject) do seen[i] = part.name .. "=" .. part.value .. (part.joined and "+" or "") end
    assert.same({ "C=DE", "O=Example, Inc.", "OU=a", "CN=a.test+" }, seen)
    assert.equal("2.5.4.6", subject[1].oid)
  end)

  it("gives the subject as the bytes in which the next certificate names its issuer", function()
    local leaf = authority:issue { name = "deep.test", ca = intermediate }
    assert.equal(read(intermediate.cert):subject("der"), read(leaf.cert):issuer("der"))
  end)

  it("gives serial, fingerprints, pin and signature as openssl does", function()
    local c = read(site.cert)
    assert.equal(openssl(site.cert, "-serial"):match("=(.*)"):lower(), c:serial())
    for _, hash in ipairs { "sha256", "sha1", "sha384", "sha512" } do
      local expected = openssl(site.cert, "-fingerprint", "-" .. hash):match("=(.*)"):gsub(":", ""):lower()
      assert.equal(expected, c:fingerprint(hash))
    end
    assert.equal(c:fingerprint("sha256"), c:fingerprint())
    local pin = run.check("openssl x509 -in " .. site.cert .. " -noout -pubkey | openssl pkey -pubin -outform DER"
      .. " | openssl dgst -sha256 -binary | openssl base64")
    assert.equal(pin:gsub("%s", ""), c:pin())
    assert.equal(c:pin(), c:key().pin)
    local algorithm, hash = c:signature()
    assert.equal("ECDSA-SHA256", algorithm)
    assert.equal("SHA256", hash)
    assert.equal(3, c:version())
  end)

  it("names the kind and size of every key", function()
    for kind, expected in pairs {
      rsa2048 = "rsa 2048 nil", p256 = "ec 256 p256", p384 = "ec 384 p384", p521 = "ec 521 p521",
      ed25519 = "ed25519 256 nil", ed448 = "ed448 456 nil" } do
      local key = read(authority:issue { name = "k.test", key = kind }.cert):key()
      assert.equal(expected, ("%s %d %s"):format(key.type, key.bits, tostring(key.curve)))
    end
  end)

  it("gives dates in seconds, also past 2038 and before 1970", function()
    for _, time in ipairs { 1709208000, 2147483648, 2524608000, 253402300000, 4294967296, -1, -631152000,
      -2203891200 } do
      local made = authority:issue { name = "d.test", not_before = time - os.time(), not_after = time - os.time() }
      local c = read(made.cert)
      assert.equal(made.not_before, c:not_before())
      assert.equal(made.not_after, c:not_after())
    end
  end)

  it("lists alternative names of every kind", function()
    local names = read(site.cert):names()
    local seen = {}
    for i, name in ipairs(names) do seen[i] = name.type .. ":" .. (name.text or "") end
    assert.same({ "dns:a.test", "dns:*.b.test", "ip:192.0.2.1", "ip:2001:db8::1", "uri:https://a.test/x",
      "email:ada@a.test", "registered_id:1.2.3.4", "other:ada@corp.test", "dn:CN=name,O=Deep" }, seen)
    assert.equal("\192\0\2\1", names[3].raw)
    assert.equal("1.3.6.1.4.1.311.20.2.3", names[8].oid)
    assert.equal("\12\13ada@corp.test", names[8].value)
    assert.equal("Deep", names[9].dn.O)
  end)

  it("lists the values of one kind of name", function()
    local c = read(site.cert)
    assert.same({ "a.test", "*.b.test" }, c:names("dns"))
    assert.same({ "192.0.2.1", "2001:db8::1" }, c:names("ip"))
    assert.same({}, c:names("edi"))
    assert.same({}, read(intermediate.cert):names())
    assert.has_error(function() c:names("dnss") end)
  end)

  it("decodes the extensions it knows, and has the bytes of all", function()
    local e = read(site.cert):extensions()
    assert.same({ ca = false }, e.basic_constraints.value)
    assert.is_true(e.basic_constraints.critical)
    assert.same({ "digital_signature", "key_encipherment", digital_signature = true, key_encipherment = true },
      e.key_usage.value)
    assert.same({ "server", "client", server = true, client = true }, e.extended_key_usage.value)
    assert.is_false(e.extended_key_usage.critical)
    local access = e.authority_information_access.value
    assert.equal("ocsp", access[1].method)
    assert.equal("http://ocsp.test/", access[1].location.value)
    assert.equal("ca_issuers", access[2].method)
    assert.equal("http://ca.test/ca.crt", access[2].location.value)
    assert.equal("http://crl.test/1.crl", e.crl_distribution_points.value[1].names[1].value)
    assert.same({ { oid = "1.2.3.4", cps = {}, notices = 0 }, { oid = "1.2.3.5", cps = { "http://cps.test/" },
      notices = 0 } }, e.certificate_policies.value)
    assert.same({ 5, must_staple = true }, e.tls_feature.value)
    local ca = read(authority.ca_file):extensions()
    assert.equal(ca.subject_key_id.value, e.authority_key_id.value.key)
    assert.truthy(openssl(site.cert, "-ext", "subjectKeyIdentifier"):gsub(":", ""):lower()
      :find(e.subject_key_id.value, 1, true))
    local odd = e[#e]
    for _, one in ipairs(e) do if one.oid == "1.3.6.1.4.1.99999.1" then odd = one end end
    assert.same({ oid = "1.3.6.1.4.1.99999.1", critical = false, raw = "\12\3odd" }, odd)
  end)

  it("decodes a CA's constraints", function()
    local e = read(intermediate.cert):extensions()
    assert.same({ ca = true, path_length = 1 }, e.basic_constraints.value)
    local constraints = e.name_constraints.value
    assert.equal("a.test", constraints.permitted[1].value)
    assert.equal("10.0.0.0/8", constraints.permitted[2].value)
    assert.equal("\10\0\0\0\255\0\0\0", constraints.permitted[2].raw)
    assert.equal("email", constraints.excluded[1].type)
  end)

  it("lists as many extensions as certtool, with the same identifiers", function()
    local text = run.check { "openssl", "asn1parse", "-in", site.cert }
    for _, one in ipairs(read(site.cert):extensions()) do
      local hex = one.raw:gsub(".", function(c) return ("%02X"):format(c:byte()) end)
      assert.truthy(text:find("[HEX DUMP]:" .. hex, 1, true), one.oid)
    end
  end)

  it("says that SCTs are there, and leaves their bytes alone", function()
    local path = authority:issue { name = "sct.test",
      extensions = { "1.3.6.1.4.1.11129.2.4.2=ASN1:FORMAT:HEX,OCTETSTRING:ffffffffffffffff" } }.cert
    local sct = read(path):extensions().signed_certificate_timestamps
    assert.equal("\4\8\255\255\255\255\255\255\255\255", sct.raw)
    assert.is_nil(sct.value)
  end)

  it("marks a known extension that is malformed, and reads the others", function()
    local path = authority:issue { name = "bad.test", extensions = { "2.5.29.31=ASN1:UTF8String:no" } }.cert
    local e = read(path):extensions()
    assert.is_true(e.crl_distribution_points.broken)
    assert.is_nil(e.crl_distribution_points.value)
    assert.is_false(e.basic_constraints.value.ca)
  end)

  it("is one line for a person", function()
    local text = tostring(read(site.cert))
    assert.truthy(text:find("CN=a.test", 1, true))
    assert.truthy(text:find("for a.test, *.b.test, 192.0.2.1 and 6 more", 1, true))
    assert.truthy(text:find("rsa 2048", 1, true))
    assert.truthy(text:find(os.date("!until %Y-%m-%d", site.not_after), 1, true))
    assert.is_nil(text:find("%c"))
  end)

  it("reads the system's own roots, and names each as certtool does", function()
    local bundle = io.open("/etc/ssl/certs/ca-certificates.crt", "rb")
    if not bundle then return pending("no bundle of roots on this system") end
    local list = assert(certificate.list(bundle:read("*a")))
    bundle:close()
    assert.is_true(#list > 50)
    local text = run.check { "certtool", "-i", "--infile", "/etc/ssl/certs/ca-certificates.crt" }
    local subjects = {}
    for subject in text:gmatch("\tSubject: ([^\n]+)") do subjects[#subjects + 1] = subject end
    assert.equal(#subjects, #list)
    for i, c in ipairs(list) do
      -- certtool has fewer short names
      if not subjects[i]:find("=#", 1, true) then
        assert.equal(subjects[i]:gsub("EMAIL=", "emailAddress="), c:subject())
      end
      assert.is_true(c:not_after() > c:not_before())
      assert.is_true(c:key().bits >= 256)
      for _, one in ipairs(c:extensions()) do assert.is_nil(one.broken) end
    end
  end)
end)

describe("hostile certificates", function()
  local key = core.generate_key("p256")

  local function issue(options)
    options.key = options.key or key
    return assert(certificate.issue(options))
  end

  it("V2 NULs and newlines in names stay bytes in tables and are escaped in text", function()
    local c = issue { subject = { { "CN", "good.test\0.evil" }, { "O", "a\nDNS:b.test" } },
      names = { { dns = "good.test\0.evil.test" }, { dns = "a\r\nb" }, { email = "DNS:x\27[2J" },
        { uri = "x\226\128\174y" }, { dns = "\255\254" } } }
    assert.same({ "good.test\0.evil.test", "a\r\nb", "\255\254" }, c:names("dns"))
    local texts = {}
    for i, name in ipairs(c:names()) do texts[i] = name.text end
    assert.same({ "good.test\\00.evil.test", "a\\0D\\0Ab", "DNS:x\\1B[2J", "x\\E2\\80\\AEy", "\\FF\\FE" }, texts)
    assert.equal("good.test\0.evil", c:subject("table").CN)
    assert.equal("O=a\\0ADNS:b.test,CN=good.test\\00.evil", c:subject())
    assert.is_nil(tostring(c):find("[%c\127-\255]"))
    -- the text, given back, makes the same name
    assert.equal(c:subject("der"), issue { subject = c:subject() }:subject("der"))
  end)

  it("reads strings of every width as UTF-8, and shows what is no string in hexadecimal", function()
    local c = issue { subject = {
      { name = "O", der = "\30\4\0B\1\7" }, { name = "OU", der = "\28\8\0\0\0a\0\1\246\0" },
      { name = "L", der = "\20\2a\228" }, { name = "ST", der = "\4\2hi" }, { name = "1.2.3.4", value = "x" } } }
    local subject = c:subject("table")
    assert.equal("B\196\135", subject.O)
    assert.equal("a\240\159\152\128", subject.OU)
    assert.equal("a\195\164", subject.L)
    assert.equal("\4\2hi", subject[4].der)
    assert.equal("1.2.3.4=#0c0178,ST=#04026869,L=a\195\164,OU=a\240\159\152\128,O=B\196\135", c:subject())
  end)

  it("V4 an address of an odd length has bytes, but no value that could match", function()
    local c = issue { names = { { type = "ip", raw = "\1\2\3\4\5" }, { dns = "127.0.0.1" } } }
    assert.same({ type = "ip", raw = "\1\2\3\4\5", text = "#0102030405" }, c:names()[1])
    assert.same({}, c:names("ip"))
    assert.same({ "127.0.0.1" }, c:names("dns"))
  end)

  it("V7 ten thousand names are listed in a moment", function()
    local names = {}
    for i = 1, 10000 do names[i] = "host" .. i .. ".test" end
    local c = issue { names = names }
    assert.equal(10000, #c:names("dns"))
    assert.truthy(tostring(c):find("and 9997 more", 1, true))
    assert.is_true(#tostring(c) < 500)
  end)

  it("a megabyte in a name stays out of the line for a person", function()
    local c = issue { names = { { dns = ("a\0"):rep(500000) } }, subject = { { "CN", ("\27x"):rep(500000) } } }
    assert.equal(1000000, #c:names("dns")[1])
    assert.equal(1000000, #c:subject("table").CN)
    assert.is_true(#tostring(c) < 600)
  end)

  it("a name of thousands of parts is refused before GnuTLS sees it", function()
    local parts = {}
    for i = 1, 10000 do parts[i] = { "OU", "x" .. i } end
    local c, _, err = certificate.issue { key = key, subject = parts }
    assert.is_nil(c)
    assert.equal("too_large", err.code)
  end)

  it("DER that is cut at any byte is bad_der", function()
    local der = issue { subject = "CN=x", names = { "a.test" } }:der()
    for i = 1, #der - 1 do
      local c, message, err = certificate(der:sub(1, i))
      assert.is_nil(c)
      assert.equal("string", type(message))
      assert.equal("bad_der", err.code)
    end
    local _, _, err = certificate(der .. "\0")
    assert.equal("bad_der", err.code)
  end)

  it("a certificate with any byte changed is read or refused, and every method answers", function()
    local der = issue { subject = { C = "DE", CN = "x" }, ca = true, name_constraints = { permitted = { "a.test" } },
      names = { "a.test", "::1", { dn = "CN=y" }, { other = "1.2.3", value = "\5\0" } }, ocsp = "http://a/",
      crl_urls = "http://b/", policies = { "1.2.3" }, must_staple = true }:der()
    local methods = { "subject", "issuer", "serial", "version", "not_before", "not_after", "names", "key", "pin",
      "signature", "fingerprint", "extensions", "pem", "der" }
    local refused = 0
    for i = 2, #der do -- the first byte tells DER from PEM
      for _, byte in ipairs { 0, 0x80, 0xff, (der:byte(i) + 1) % 256 } do
        local c, _, err = certificate(der:sub(1, i - 1) .. string.char(byte) .. der:sub(i + 1))
        if c then
          for _, method in ipairs(methods) do
            local value, _, cause = c[method](c)
            assert.is_true(value ~= nil or cause.code == "bad_der")
          end
          assert.is_nil(tostring(c):find("%c"))
        else
          refused = refused + 1
          assert.equal("bad_der", err.code)
        end
      end
    end
    assert.is_true(refused > #der)
  end)

  local broken = {
    { "nothing", "", "bad_pem" },
    { "junk", ("\1\2junk\0"):rep(100000), "bad_pem" },
    { "a begin line alone", "-----BEGIN CERTIFICATE-----\n", "bad_pem" },
    { "a begin line cut short", "-----BEGIN CERTIF", "bad_pem" },
    { "no base64", "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n", "bad_pem" },
    { "an empty block", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "bad_pem" },
    { "base64 of junk", "-----BEGIN CERTIFICATE-----\nAQIDBA==\n-----END CERTIFICATE-----\n", "bad_der" },
    { "another end line", "-----BEGIN CERTIFICATE-----\nAQIDBA==\n-----END PRIVATE KEY-----\n", "bad_pem" },
    { "a key", tmp.read(authority.root.key), "bad_pem" },
    { "DER of something else", "0\3\2\1\0", "bad_der" },
    { "a length beyond the end", "0\132\255\255\255\255", "bad_der" },
    { "an indefinite length", "0\128\0\0", "bad_der" },
  }
  for _, case in ipairs(broken) do
    it(("%s is %s"):format(case[1], case[3]), function()
      for _, reader in ipairs { certificate, certificate.list } do
        local c, message, err = reader(case[2])
        assert.is_nil(c)
        assert.equal(case[3], err.code)
        assert.equal("setup", err.step)
        assert.equal(message, err.message)
        assert.is_true(errors.is(err))
      end
    end)
  end

  it("names which certificate of a list is broken", function()
    local good = tmp.read(site.cert)
    local _, _, err = certificate.list(good .. good .. good:gsub("\nM", "\n!", 1))
    assert.equal(3, err.certificate)
    assert.equal("bad_pem", err.code)
  end)

  it("says what it found in place of a certificate", function()
    local _, message = certificate("-----BEGIN DOG\27-----\nAA==\n-----END DOG\27-----\n")
    assert.equal("no certificate in the text, but a DOG\\1B", message)
  end)

  it("wrong arguments raise and name the argument", function()
    assert.has_error(function() certificate(nil) end,
      "bad argument #1 to 'certificate' (PEM or DER text expected, got nil)")
    assert.has_error(function() certificate.list {} end)
    local c = read(site.cert)
    assert.error_matches(function() c:subject("tabel") end, "tabel")
    assert.error_matches(function() c:fingerprint("sha3000") end, "sha3000")
    assert.error_matches(function() c.pem(key) end, "tlsconnect.certificate")
  end)
end)

-- Private keys as the module reads, makes and writes them, against openssl and certtool.
local core = require "tlsconnect.core"
local certificate = require "tlsconnect.certificate"
local errors = require "tlsconnect.error"
local keys = require "tlsconnect.key"
local pki = require "spec.support.pki"
local run = require "spec.support.run"
local tmp = require "spec.support.tmp"

local authority = pki.shared()

local function openssl(...)
  return run.check { "openssl", ... }
end

-- A key's public part, as openssl sees it.
local function public_of(path, ...)
  return openssl("pkey", "-in", path, "-pubout", ...)
end

-- Runs openssl on a key and returns what it writes.
local function convert(...)
  local path = tmp.path("key")
  local words = { "openssl", ... }
  words[#words + 1] = "-out"
  words[#words + 1] = path
  run.check(words)
  return tmp.read(path)
end

local rsa, ec, ed = authority:make_key("rsa2048"), authority:make_key("p256"), authority:make_key("ed25519")

describe("key", function()
  local forms = {
    { "PKCS #8", rsa, convert("pkcs8", "-topk8", "-nocrypt", "-in", rsa) },
    { "PKCS #8 DER", rsa, convert("pkcs8", "-topk8", "-nocrypt", "-in", rsa, "-outform", "DER") },
    { "PKCS #1", rsa, convert("rsa", "-traditional", "-in", rsa) },
    { "PKCS #1 DER", rsa, convert("rsa", "-traditional", "-in", rsa, "-outform", "DER") },
    { "SEC 1", ec, convert("ec", "-in", ec) },
    { "SEC 1 after its parameters", ec, openssl("ecparam", "-name", "prime256v1") .. convert("ec", "-in", ec) },
    { "SEC 1 DER", ec, convert("ec", "-in", ec, "-outform", "DER") },
    { "PKCS #8 of Ed25519", ed, tmp.read(ed) },
    { "a key behind its certificate", authority.root.key,
      tmp.read(authority.root.cert) .. tmp.read(authority.root.key) },
  }
  for _, form in ipairs(forms) do
    it("reads " .. form[1], function()
      local key = assert(keys(form[3]))
      assert.equal(public_of(form[2]), key:public())
      assert.equal(public_of(form[2], "-outform", "DER"), key:public("der"))
    end)
  end

  local ciphers = {
    { "PBES2 with AES-256", "pkcs8", "-topk8", "-v2", "aes-256-cbc", "-in", rsa },
    { "PBES2 with AES-128 and SHA-1", "pkcs8", "-topk8", "-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA1", "-in", ec },
    { "PBES2 with triple DES", "pkcs8", "-topk8", "-v2", "des3", "-in", ed },
    { "PBES1 with triple DES", "pkcs8", "-topk8", "-v1", "PBE-SHA1-3DES", "-in", rsa },
    { "PBES2 in DER", "pkcs8", "-topk8", "-v2", "aes-256-cbc", "-outform", "DER", "-in", rsa },
    { "RFC 1421 with AES-256", "rsa", "-traditional", "-aes256", "-in", rsa },
    { "RFC 1421 of an EC key", "ec", "-aes128", "-in", ec },
  }
  for _, cipher in ipairs(ciphers) do
    local words = { unpack = unpack or table.unpack }
    for i = 2, #cipher do words[i - 1] = cipher[i] end
    words[#words + 1] = "-passout"
    words[#words + 1] = "pass:correct horse"
    local text = convert(words.unpack(words))

    it("reads an encrypted key: " .. cipher[1], function()
      local key = assert(keys(text, "correct horse"))
      assert.equal(public_of(cipher[#cipher]), key:public())
    end)

    it("tells a wrong password from a missing one: " .. cipher[1], function()
      local key, message, err = keys(text)
      assert.is_nil(key)
      assert.equal("password_required", err.code)
      assert.equal("setup", err.step)
      assert.equal(message, tostring(err))
      for _, wrong in ipairs { "wrong", "", "correct horse ", ("x"):rep(10000) } do
        key, _, err = keys(text, wrong)
        assert.is_nil(key)
        assert.equal("wrong_password", err.code)
      end
    end)
  end

  it("reads a plain key though a password is given", function()
    assert.equal(public_of(ec), assert(keys(tmp.read(ec), "unneeded")):public())
  end)

  it("says type, bits, curve and pin", function()
    for kind, expected in pairs { rsa2048 = "rsa 2048 nil", p256 = "ec 256 p256", p384 = "ec 384 p384",
      p521 = "ec 521 p521", ed25519 = "ed25519 256 nil", ed448 = "ed448 456 nil" } do
      local made = authority:issue { name = "k.test", key = kind }
      local key = assert(keys(tmp.read(made.key)))
      assert.equal(expected, ("%s %d %s"):format(key:type(), key:bits(), tostring(key:curve())))
      assert.equal(assert(certificate(tmp.read(made.cert))):pin(), key:pin())
    end
  end)

  it("is equal to the same key, and to no other", function()
    assert.is_true(keys(tmp.read(ec)) == keys(convert("ec", "-in", ec)))
    assert.is_false(keys(tmp.read(ec)) == keys(tmp.read(ed)))
  end)

  it("never shows its secret as text", function()
    local key = keys(tmp.read(ec))
    assert.equal("key p256, pin-sha256 " .. key:pin(), tostring(key))
  end)
end)

describe("PKCS #12", function()
  local intermediate = authority:authority { cn = "Store CA" }
  local leaf = authority:issue { name = "store.test", ca = intermediate }
  local chain = tmp.file(tmp.read(authority.ca_file) .. tmp.read(intermediate.cert)
    .. tmp.read(authority:issue { name = "stray.test" }.cert))

  local function store(password, ...)
    return convert("pkcs12", "-export", "-inkey", leaf.key, "-in", leaf.cert, "-certfile", chain,
      "-passout", "pass:" .. password, ...)
  end

  it("gives the key, its chain in order, and the certificates beside it", function()
    local key, path, others = assert(keys(store("secret"), "secret"))
    assert.equal(public_of(leaf.key), key:public())
    local subjects = {}
    for i, c in ipairs(path) do subjects[i] = c:subject("table").CN end
    assert.same({ "store.test", "Store CA", assert(certificate(tmp.read(authority.ca_file))):subject("table").CN },
      subjects)
    assert.equal(1, #others)
    assert.equal("stray.test", others[1]:subject("table").CN)
  end)

  it("reads old ciphers and other MACs", function()
    assert(keys(store("secret", "-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-3DES", "-macalg", "sha1"), "secret"))
    assert(keys(store("secret", "-macalg", "sha512", "-iter", "10"), "secret"))
  end)

  it("reads what certtool wrote", function()
    local path = tmp.path("p12")
    run.check { "certtool", "--to-p12", "--load-privkey", leaf.key, "--load-certificate", leaf.cert, "--outder",
      "--p12-name=x", "--password=secret", "--outfile", path }
    local key, list = assert(keys(tmp.read(path), "secret"))
    assert.equal(list[1]:pin(), key:pin())
  end)

  it("opens one with an empty password without being given one", function()
    local key = assert(keys(store("")))
    assert.equal(public_of(leaf.key), key:public())
    assert(keys(store(""), ""))
  end)

  it("tells a wrong password from a missing one", function()
    local _, _, err = keys(store("secret"))
    assert.equal("password_required", err.code)
    _, _, err = keys(store("secret"), "Secret")
    assert.equal("wrong_password", err.code)
    _, _, err = keys(store("secret"), "")
    assert.equal("wrong_password", err.code)
  end)

  it("without a key is no_key", function()
    local data = convert("pkcs12", "-export", "-nokeys", "-in", leaf.cert, "-passout", "pass:x")
    local key, _, err = keys(data, "x")
    assert.is_nil(key)
    assert.equal("no_key", err.code)
  end)

  it("that asks for millions of rounds is refused at once", function()
    -- 70,000 and 8,388,607 are both INTEGERs of three bytes
    local data, count = store("x", "-iter", "70000"):gsub("\2\3\1\17\112", "\2\3\127\255\255")
    assert.is_true(count > 0)
    local _, _, err = keys(data, "x")
    assert.equal("too_large", err.code)
  end)
end)

describe("a made key", function()
  for kind, expected in pairs { p256 = "prime256v1", p384 = "secp384r1", p521 = "secp521r1", ed25519 = "ED25519",
    ed448 = "ED448" } do
    it("of type " .. kind .. " is one that openssl reads", function()
      local key = assert(keys.generate(kind))
      local path = tmp.file(key:pem())
      assert.truthy(openssl("pkey", "-in", path, "-noout", "-text"):find(expected, 1, true))
      assert.equal(public_of(path), key:public())
      assert.is_true(assert(keys(key:pem())) == key)
      assert.is_true(assert(keys(key:der())) == key)
    end)
  end

  it("of type rsa has the bits asked for, and passes openssl's check", function()
    local key = assert(keys.generate("rsa", 2048))
    assert.equal(2048, key:bits())
    assert.truthy(openssl("rsa", "-in", tmp.file(key:pem()), "-check", "-noout"):find("ok"))
  end)

  it("is p256 when nothing is asked for, and another each time", function()
    local a, b = assert(keys.generate()), assert(keys.generate())
    assert.equal("p256", a:curve())
    assert.is_false(a == b)
  end)

  it("is encrypted with a password, and openssl opens it", function()
    local key = assert(keys.generate("p256"))
    local pem = key:pem("correct horse")
    assert.truthy(pem:find("BEGIN ENCRYPTED PRIVATE KEY", 1, true))
    assert.equal(key:public(), public_of(tmp.file(pem), "-passin", "pass:correct horse"))
    assert.is_true(assert(keys(pem, "correct horse")) == key)
    assert.is_true(assert(keys(key:der("x"), "x")) == key)
    assert.not_equal(key:pem("x"), key:pem("x")) -- each with its own salt
  end)

  it("signs as openssl verifies", function()
    for _, kind in ipairs { "p256", "p384", "rsa" } do
      local key = assert(keys.generate(kind, kind == "rsa" and 2048 or nil))
      local name = key:algorithm()
      local signature = assert(key:sign("message"))
      assert.truthy(openssl("dgst", "-" .. name:match("SHA%d+"):lower(), "-verify", tmp.file(key:public()),
        "-signature", tmp.file(signature), tmp.file("message")):find("OK"))
    end
    local key = assert(keys.generate("ed25519"))
    assert.truthy(openssl("pkeyutl", "-verify", "-pubin", "-inkey", tmp.file(key:public()), "-rawin",
      "-sigfile", tmp.file(assert(key:sign("message"))), "-in", tmp.file("message")):find("Success"))
  end)

  it("uses a hash as strong as the key, or the one named", function()
    assert.equal("ECDSA-SHA256", (keys.generate("p256"):algorithm()))
    assert.equal("ECDSA-SHA384", (keys.generate("p384"):algorithm()))
    assert.equal("ECDSA-SHA512", (keys.generate("p521"):algorithm()))
    local name, oid = keys.generate("p256"):algorithm("sha512")
    assert.equal("ECDSA-SHA512", name)
    assert.equal("1.2.840.10045.4.3.4", oid)
  end)
end)

describe("a bad key", function()
  local function code(text, password)
    local key, message, err = keys(text, password)
    assert.is_nil(key)
    assert.is_true(errors.is(err))
    assert.equal(message, err.message)
    assert.equal("setup", err.step)
    return err.code
  end

  it("that is no PEM is bad_pem", function()
    for _, text in ipairs { "", "junk", ("\1\0"):rep(500000), "-----BEGIN PRIVATE KEY-----",
      tmp.read(authority.ca_file),
      "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
      "-----BEGIN EC PRIVATE KEY-----\nAA=A\n-----END EC PRIVATE KEY-----\n",
      "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
      "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAA=A\n"
        .. "-----END RSA PRIVATE KEY-----\n" } do
      assert.equal("bad_pem", code(text, "x"))
    end
  end)

  it("that is cut at any byte is bad_der", function()
    for _, der in ipairs { keys.generate("p256"):der(), convert("rsa", "-traditional", "-in", rsa, "-outform", "DER"),
      convert("ec", "-in", ec, "-outform", "DER"), keys.generate("ed25519"):der("x"),
      convert("pkcs12", "-export", "-inkey", ec, "-nocerts", "-passout", "pass:x") } do
      for i = 1, #der - 1, #der > 600 and 7 or 1 do assert.equal("bad_der", code(der:sub(1, i), "x")) end
    end
  end)

  it("with any byte changed is read or refused, without a crash", function()
    local allowed = { bad_der = true, bad_key = true, unsupported = true, wrong_password = true, bad_pem = true,
      too_large = true }
    for _, case in ipairs { { keys.generate("p256"):der() }, { keys.generate("ed25519"):der() },
      { convert("rsa", "-traditional", "-in", rsa, "-outform", "DER") } } do
      local der = case[1]
      for i = 1, #der do
        local changed = der:sub(1, i - 1) .. string.char((der:byte(i) + 128) % 256) .. der:sub(i + 1)
        local key, _, err = keys(changed)
        assert.is_true(key ~= nil or allowed[err.code] == true, err and err.code)
      end
    end
  end)

  it("whose numbers do not fit together is bad_key", function()
    local der = convert("rsa", "-traditional", "-in", rsa, "-outform", "DER")
    -- SEQUENCE and version are 7 bytes, the modulus follows: its lowest byte is changed
    local at = 7 + 4 + 257
    local changed = der:sub(1, at - 1) .. string.char((der:byte(at) + 2) % 256) .. der:sub(at + 1)
    assert.equal("bad_key", code(changed))
  end)

  it("of 20,000 bits is refused before it is used", function()
    local function integer(bytes) return "\2\130" .. string.char(math.floor(#bytes / 256), #bytes % 256) .. bytes end
    local big, half = "\1" .. ("\255"):rep(2500), "\1" .. ("\255"):rep(1250)
    local body = "\2\1\0" .. integer(big) .. "\2\3\1\0\1" .. integer(big) .. integer(half) .. integer(half)
      .. integer(half) .. integer(half) .. integer(half)
    local der = "0\130" .. string.char(math.floor(#body / 256), #body % 256) .. body
    assert.equal("too_large", code(der))
  end)

  it("of an unknown kind is unsupported", function()
    -- PKCS #8 of algorithm 1.2.3.4
    assert.equal("unsupported", code("0\14\2\1\0" .. "0\5\6\3\42\3\4" .. "\4\2\5\0"))
  end)

  it("that asks for millions of rounds is refused at once", function()
    local der, count = convert("pkcs8", "-topk8", "-iter", "70000", "-in", ec, "-outform", "DER", "-passout", "pass:x")
      :gsub("\2\3\1\17\112", "\2\3\127\255\255")
    assert.equal(1, count)
    assert.equal("too_large", code(der, "x"))
  end)

  it("wrong arguments raise and name the argument", function()
    assert.error_matches(function() keys(42) end, "#1 to 'key'")
    assert.error_matches(function() keys("x", {}) end, "#2 to 'key'")
    assert.error_matches(function() core.key("x", "a\0b") end, "NUL")
    assert.error_matches(function() keys.generate("p255") end, "p255")
    assert.error_matches(function() keys.generate("rsa", 100) end, "1024 to 8192")
    assert.error_matches(function() keys.generate("rsa", 65536) end, "1024 to 8192")
    assert.error_matches(function() keys.generate("rsa", 0 / 0) end, "1024 to 8192")
    assert.error_matches(function() keys.generate("p256", 256) end, "rsa only")
    local key = keys.generate("p256")
    assert.error_matches(function() key:pem("") end, "empty password")
    assert.error_matches(function() key:pem("a\0") end, "NUL")
    assert.error_matches(function() key:sign("x", "sha3000") end, "unknown hash")
    assert.error_matches(function() keys.generate("ed25519"):sign("x", "sha256") end, "its own hash")
    assert.error_matches(function() key:public("text") end, "text")
  end)
end)

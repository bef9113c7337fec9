local chains = require "spec.support.chains"
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local process = require "spec.support.process"
local tmp = require "spec.support.tmp"
local trust = require "tlsconnect.trust"

local DAY = 86400
local BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

local root = chains.certificate { subject = "Root", ca = true }
local second = chains.certificate { subject = "Second Root", ca = true, key = chains.key("p256", nil, "second") }
local site = chains.certificate { issuer = root, names = { "a.test" } }
local elsewhere = chains.certificate { issuer = second, names = { "a.test" } }
local name = { name = "a.test" }

local function write(path, ...)
  local parts = {}
  for i, certificate in ipairs { ... } do parts[i] = certificate.pem end
  return tmp.write(path, table.concat(parts))
end

local function answers(verification)
  return verification.issuer.answer .. " " .. verification.dates.answer .. " " .. verification.revocation.answer
    .. " " .. verification.name.answer
end

local function utc(time)
  return os.date("!%Y-%m-%d %H:%M UTC", time)
end

describe("trust:verify", function()
  local anchors = assert(trust.new { ca = root.pem })

  local function refused(certificate, options, code)
    local ok, message, err = anchors:verify(certificate.der, options)
    assert.is_nil(ok)
    assert.equal(code, err.code)
    assert.equal("verify", err.step)
    assert.equal(message, tostring(err))
    assert.is_truthy(errors.known[code], code)
    return message, err
  end

  it("answers four questions, each with a code, a sentence and the certificate", function()
    local ok, verification = anchors:verify(site.pem, name)
    assert.is_true(ok)
    assert.equal("yes yes unknown yes", answers(verification))
    assert.equal("trusted by Root", verification.issuer.reason)
    assert.equal("trusted", verification.issuer.code)
    assert.equal("in date", verification.dates.reason)
    assert.equal("not known whether it is revoked: nobody was asked", verification.revocation.reason)
    assert.equal("none", verification.revocation.source)
    assert.equal("for a.test", verification.name.reason)
    assert.equal(1, verification.name.certificate)
    assert.is_true(verification.ok)
  end)

  it("takes PEM text, DER, a certificate and lists of them", function()
    local certificate = core.certificate(site.pem)
    for _, chain in ipairs { site.pem, site.der, certificate, { site.pem }, { site.der }, { certificate } } do
      assert.is_true((anchors:verify(chain, name)))
    end
    assert.has_error(function() anchors:verify(nil) end)
    assert.has_error(function() anchors:verify { 1 } end)
  end)

  it("raises what is wrong with an option, and names it", function()
    local function raises(what, f)
      local ok, message = pcall(f)
      assert.is_false(ok)
      assert.is_truthy(message:find(what, 1, true), message)
    end
    raises("did you mean 'name'?", function() anchors:verify(site.der, { nmae = "a.test" }) end)
    raises("bad option 'ip' to verify", function() anchors:verify(site.der, { ip = 127 }) end)
    raises("bad option 'profile' to verify", function() anchors:verify(site.der, { profile = "lax" }) end)
    raises("bad option 'time' to verify", function() anchors:verify(site.der, { time = 0 / 0 }) end)
    raises("did you mean 'ca_file'?", function() trust.new { cafile = "x" } end)
    raises("bad option 'ca_path' to trust", function() trust.new { ca_path = true } end)
  end)

  it("asks for no name when none is given", function()
    local ok, verification = anchors:verify(site.der)
    assert.is_true(ok)
    assert.equal("unknown", verification.name.answer)
    assert.equal("not_asked", verification.name.code)
  end)

  it("says how long ago a certificate expired", function()
    local at = os.time() - 3 * DAY - 60
    local old = chains.certificate { issuer = root, names = { "a.test" }, not_before = at - DAY, not_after = at }
    local message, err = refused(old, name, "expired")
    assert.equal("a.test's certificate expired 3 days ago, on " .. utc(at), message)
    assert.equal(1, err.certificate)
    assert.equal("a.test", err.host)
    assert.equal("yes no unknown yes", answers(err.verification))
  end)

  it("says when a certificate begins to be valid", function()
    local at = os.time() + 2 * 3600 + 60
    local young = chains.certificate { issuer = root, names = { "a.test" }, not_before = at }
    assert.equal("a.test's certificate is not valid before " .. utc(at) .. ", which is in 2 hours by this clock",
      (refused(young, name, "not_yet_valid")))
  end)

  it("counts both ends of a certificate's time, and whole seconds", function()
    local from, till = 1700000000, 1700086400
    local exact = chains.certificate { issuer = chains.certificate { subject = "Root", ca = true, not_before = 0 },
      names = { "a.test" }, not_before = from, not_after = till }
    local old = assert(trust.new { ca = chains.certificate { subject = "Root", ca = true, not_before = 0 }.der })
    local function at(time) return (old:verify(exact.der, { name = "a.test", time = time })) == true end
    assert.same({ false, true, true, true, false },
      { at(from - 1), at(from), at(till), at(till + 0.9), at(till + 1) })
  end)

  it("says for whom a certificate is", function()
    local three = chains.certificate { issuer = root, names = { "a.test", "b.test", { "ip", "\192\0\2\1" } } }
    assert.equal("the certificate is for a.test, b.test, 192.0.2.1, not c.test",
      (refused(three, { name = "c.test" }, "name_mismatch")))
  end)

  it("answers the other questions when one is no", function()
    local bad = chains.certificate { issuer = second, names = { "b.test" }, not_before = os.time() - 9 * DAY,
      not_after = os.time() - DAY }
    local _, err = refused(bad, name, "unknown_issuer")
    assert.equal("no no unknown no", answers(err.verification))
    assert.equal("expired", err.verification.dates.code)
    assert.equal("the certificate is for b.test, not a.test", err.verification.name.reason)
  end)

  it("has a sentence in the table of errors for each code of step 5", function()
    for _, code in ipairs { "unknown_critical", "not_a_ca", "wrong_issuer", "path_too_long", "name_not_permitted",
      "no_policy", "too_complex",
      "missing_staple", "revocation_unknown", "pedantic", "no_trust", "unreadable_trust" } do
      assert.is_truthy(errors.known[code], code)
    end
  end)

  it("is strict when asked", function()
    local der = require "tlsconnect.der"
    local zero = chains.certificate { issuer = root, names = { "a.test" }, serial = "\0" }
    assert.is_true((anchors:verify(zero.der, name)))
    assert.equal("a.test's certificate has a serial number that is zero or too long",
      (refused(zero, { name = "a.test", profile = "strict" }, "pedantic")))
    local plain = chains.certificate { issuer = root, names = { "a.test" } }
    assert.is_true((anchors:verify(plain.der, { name = "a.test", profile = "strict" })))
    local odd = chains.certificate { issuer = root, names = { "a.test" }, purposes = false,
      extensions = { { "purposes", true, der.sequence(der.oid(chains.oid.server)) } } }
    assert.is_true((anchors:verify(odd.der, name)))
    refused(odd, { name = "a.test", profile = "strict" }, "pedantic")
  end)
end)

describe("V11 each insecure_skip_", function()
  local anchors = assert(trust.new { ca = root.pem })
  local old = { not_before = os.time() - 9 * DAY, not_after = os.time() - DAY }
  -- One fault each.
  local bad = {
    issuer = { chain = chains.chain(elsewhere) },
    dates = { chain = chains.chain(chains.certificate { issuer = root, names = { "a.test" },
      not_before = old.not_before, not_after = old.not_after }) },
    revocation = { chain = chains.chain(site),
      staple = chains.ocsp { issuer = root, entries = { { certificate = site, status = "revoked" } } } },
    name = { chain = chains.chain(chains.certificate { issuer = root, names = { "b.test" } }) },
  }

  for skip in pairs(bad) do
    it("V11 mutes one answer only: " .. skip, function()
      for fault, case in pairs(bad) do
        local ok, verification, err = anchors:verify(case.chain,
          { name = "a.test", staple = case.staple, ["insecure_skip_" .. skip] = true })
        if fault == skip then
          assert.is_true(ok)
          assert.equal("no", verification[fault].answer)
          assert.is_true(verification.muted[skip])
        else
          assert.is_nil(ok, fault .. " passes under insecure_skip_" .. skip)
          assert.equal(fault, err.question)
        end
      end
    end)
  end

  it("V11 of the issuer still asks for dates and revocation above the leaf", function()
    local middle = chains.certificate { subject = "Middle", ca = true, issuer = second, not_before = old.not_before,
      not_after = old.not_after, key = chains.key("p256", nil, "middle") }
    local leaf = chains.certificate { issuer = middle, names = { "a.test" } }
    local _, _, err = anchors:verify(chains.chain(leaf, middle), { name = "a.test", insecure_skip_issuer = true })
    assert.equal("expired", err.code)
    local revoked = chains.ocsp { issuer = second, entries = { { certificate = elsewhere, status = "revoked" } } }
    _, _, err = anchors:verify(chains.chain(elsewhere, second),
      { name = "a.test", insecure_skip_issuer = true, staple = revoked })
    assert.equal("revoked", err.code)
  end)

  it("and insecure_skip_verify mutes all, but still tells", function()
    for fault, case in pairs(bad) do
      local ok, verification = anchors:verify(case.chain,
        { name = "a.test", staple = case.staple, insecure_skip_verify = true })
      assert.is_true(ok)
      assert.equal("no", verification[fault].answer)
    end
    local ok, verification = anchors:verify({}, { insecure_skip_verify = true })
    assert.is_true(ok)
    assert.equal("unknown", verification.issuer.answer)
  end)
end)

describe("roots", function()
  it("come from a file, a folder, text and certificates", function()
    local folder = tmp.directory()
    write(folder .. "/one.pem", root)
    write(folder .. "/two.pem", second)
    tmp.write(folder .. "/notes.txt", "no certificate")
    process.output(("ln -s one.pem '%s/12345678.0'"):format(folder))
    local file = write(tmp.path("roots.pem"), root, second)
    local ders = tmp.file(root.der, "root.der")
    local certificate = core.certificate(second.pem)
    for _, options in ipairs { { ca_file = file }, { ca_path = folder }, { ca = root.pem .. second.pem },
      { ca = { root.pem, certificate } }, { ca_file = ders, ca = certificate } } do
      local anchors = assert(trust.new(options))
      assert.is_true((anchors:verify(site.der, name)))
      assert.is_true((anchors:verify(elsewhere.der, name)))
      assert.equal("tlsconnect.trust: 2 roots", tostring(anchors))
    end
  end)

  it("can be added and found", function()
    local anchors = assert(trust.new { ca = root.pem })
    assert.is_nil((anchors:verify(elsewhere.der, name)))
    assert.equal(1, anchors:add(second.pem))
    assert.equal(0, anchors:add(second.pem))
    assert.is_true((anchors:verify(elsewhere.der, name)))
    local found = anchors:find(core.certificate(elsewhere.der))
    assert.equal(1, #found)
    assert.equal("CN=Second Root", found[1]:subject())
    assert.equal(2, #anchors:find())
    for _, wrong in ipairs { root.pem, 42, {}, anchors, root.key } do
      assert.has_error(function() anchors:find(wrong) end,
        ("bad argument #1 to 'find' (a certificate expected, got a %s)"):format(type(wrong)))
    end
  end)

  it("that cannot be read are an error that names the file", function()
    local function fails(options, code, path)
      local anchors, message, err = trust.new(options)
      assert.is_nil(anchors)
      assert.equal(code, err.code)
      assert.equal("setup", err.step)
      assert.is_truthy(message:find(path, 1, true), message)
    end
    fails({ ca_file = "/nowhere/roots.pem" }, "unreadable_file", "/nowhere/roots.pem")
    fails({ ca_path = "/nowhere" }, "unreadable_file", "/nowhere")
    fails({ ca_file = "/nowhere/roots.pem" }, "unreadable_file",
      "the trusted roots in /nowhere/roots.pem (option 'ca_file') cannot be read: ")
    fails({ ca_file = tmp.directory() }, "unreadable_file", "spec")
    local empty = tmp.file("nothing here", "empty.pem")
    fails({ ca_file = empty }, "bad_pem", empty)
    local broken = tmp.file("-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n", "broken.pem")
    fails({ ca_file = broken }, "bad_pem", broken)
    local cut = tmp.file(root.pem:sub(1, -40), "cut.pem")
    fails({ ca_file = cut }, "bad_pem", cut)
    fails({ ca = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n" }, "bad_pem", "")
    fails({ ca = "nothing" }, "bad_pem", "no certificate")
    assert.has_error(function() trust.new { ca = 42 } end)
  end)

  it("of a file are read again when it changes", function()
    local path = write(tmp.path("changing.pem"), root)
    local anchors = assert(trust.new { ca_file = path })
    assert.is_true((anchors:verify(site.der, name)))
    assert.is_nil((anchors:verify(elsewhere.der, name)))
    write(path, second)
    assert.is_nil((anchors:verify(site.der, name)))
    assert.is_true((anchors:verify(elsewhere.der, name)))
    write(path .. ".new", root, second)
    os.rename(path .. ".new", path)
    assert.is_true((anchors:verify(site.der, name)))
    os.remove(path)
    local ok, message, err = anchors:verify(site.der, name)
    assert.is_nil(ok)
    assert.equal("unreadable_trust", err.code)
    assert.is_truthy(message:find("No such file", 1, true))
    write(path, root)
    assert.is_true((anchors:verify(site.der, name)))
  end)

  it("of a folder are read again when a file in it changes, comes or goes", function()
    local folder = tmp.directory()
    local path = write(folder .. "/a.pem", root)
    local anchors = assert(trust.new { ca_path = folder })
    assert.is_true((anchors:verify(site.der, name)))
    write(path, second)
    assert.is_nil((anchors:verify(site.der, name)))
    assert.is_true((anchors:verify(elsewhere.der, name)))
    local more = write(folder .. "/b.pem", root)
    assert.is_true((anchors:verify(site.der, name)))
    os.remove(more)
    assert.is_nil((anchors:verify(site.der, name)))
  end)

  it("V13 that change void what was verified before", function()
    local path = write(tmp.path("v13.pem"), root)
    local anchors = assert(trust.new { ca_file = path })
    local _, first = anchors:verify(site.der, name)
    local _, again = anchors:verify(site.der, name)
    assert.is_nil(first.remembered)
    assert.is_true(again.remembered)
    write(path, second)
    assert.is_nil((anchors:verify(site.der, name)))
    write(path, root)
    assert.is_true((anchors:verify(site.der, name)))
    anchors:add(second.pem)
    local _, after = anchors:verify(site.der, name)
    assert.is_nil(after.remembered)
  end)
end)

describe("what was verified a moment ago", function()
  it("is not asked again, for the same certificates and question alone", function()
    local anchors = assert(trust.new { ca = root.pem })
    local both = chains.certificate { issuer = root, names = { "a.test", "b.test" } }
    local function asked(chain, options)
      local ok, verification = anchors:verify(chain, options)
      return ok, ok and not verification.remembered
    end
    assert.same({ true, true }, { asked(both.der, { name = "a.test" }) })
    assert.same({ true, false }, { asked(both.der, { name = "a.test" }) })
    assert.same({ true, true }, { asked(both.der, { name = "b.test" }) })
    assert.same({ true, true }, { asked(both.der, { name = "a.test", profile = "strict" }) })
    assert.same({ true, true }, { asked({ both.der, root.der }, { name = "a.test" }) })
    assert.is_nil((asked(both.der, { name = "a.test", purpose = "client" })))
    assert.is_nil((asked(both.der, { name = "a.test", revocation = "hard" })))
    assert.is_nil((asked(both.der, { name = "c.test" })))
    local revoked = chains.ocsp { issuer = root, entries = { { certificate = both, status = "revoked" } } }
    assert.is_nil((asked(both.der, { name = "a.test", staple = revoked })))
    assert.same({ true, true }, { asked(both.der, { name = "a.test", time = os.time() }) })
  end)

  it("stands as long as it would have stood", function()
    local anchors = assert(trust.new { ca = root.pem })
    local _, first = anchors:verify(site.der, name)
    local _, again = anchors:verify(site.der, name)
    assert.is_true(again.remembered)
    assert.is_number(first["until"])
    assert.equal(first["until"], again["until"])
  end)

  it("cannot be changed through what it gave out", function()
    local anchors = assert(trust.new { ca = root.pem })
    local _, verification = anchors:verify(site.der, name)
    verification.issuer.answer, verification.path_der[1] = "no", "junk"
    _, verification = anchors:verify(site.der, name)
    assert.is_true(verification.remembered)
    assert.equal("yes", verification.issuer.answer)
    assert.equal("CN=leaf", verification.path[1]:subject())
  end)

  it("is bounded", function()
    local anchors = assert(trust.new { ca = root.pem })
    local wild = chains.certificate { issuer = root, names = { "*.a.test" } }
    for i = 1, 300 do assert.is_true((anchors:verify(wild.der, { name = "h" .. i .. ".a.test" }))) end
    assert.is_true(anchors.seen_count <= 64)
  end)
end)

describe("the lazy store", function()
  local file = io.open(BUNDLE)
  if file then file:close() end

  local function with_bundle(sentence, f)
    it(sentence, function()
      if not file then return pending("skipped: no " .. BUNDLE) end
      f()
    end)
  end

  -- Leaves that bear a root's name and key identifiers but another key: the store has to look for that root.
  local function stores()
    local lazy, full = core.trust(), core.trust()
    assert.equal(assert(full:file(BUNDLE, false)), assert(lazy:file(BUNDLE, true)))
    return lazy, full
  end

  with_bundle("reads no certificate before it is asked for", function()
    local lazy = stores()
    local count, loaded = lazy:state()
    assert.is_true(count > 50)
    assert.equal(0, loaded)
  end)

  with_bundle("holds the roots that the full one holds, and finds each of them by name", function()
    local lazy, full = stores()
    local wanted = full:certificates()
    for i, der in ipairs(wanted) do
      local subject = core.certificate(der):subject("der")
      assert.same(full:certificates(subject), lazy:certificates(subject), "root " .. i)
    end
    local _, loaded = lazy:state()
    assert.equal(#wanted, loaded)
    assert.same(wanted, lazy:certificates())
  end)

  with_bundle("holds no root that would be refused as an issuer", function()
    local _, full = stores()
    for _, der in ipairs(full:certificates()) do
      local certificate = core.certificate(der)
      local fake = chains.certificate { names = { "a.test" }, key_ids = false,
        issuer = { key = chains.key(), subject = certificate:subject("der"), id = "" } }
      local verification = full:judge { chain = { fake.der }, name = "a.test", purpose = "server", time = os.time() }
      -- all that is wrong is the signature
      assert.equal("wrong_issuer", verification.issuer.code, certificate:subject())
    end
  end)

  with_bundle("reads one root for one chain, and gives the answers of the full one", function()
    local _, every = stores()
    for i, der in ipairs(every:certificates()) do
      local certificate = core.certificate(der)
      local lazy, full = stores()
      local fake = chains.certificate { names = { "a.test" }, key_ids = false,
        issuer = { key = chains.key(), subject = certificate:subject("der"), id = "" } }
      for _, chain in ipairs { { der }, { fake.der } } do
        local question = { chain = chain, name = "a.test", purpose = "server", time = os.time() }
        local one, other = lazy:judge(question), full:judge(question)
        assert.same(other, one, "root " .. i)
      end
      local _, loaded = lazy:state()
      assert.is_true(loaded <= 2, "root " .. i .. " made it read " .. loaded)
    end
  end)
end)

describe("the system's roots", function()
  local function run(environment, script)
    local path = tmp.file(script, "system.lua")
    local command = process.command { process.lua(), path }
    return process.output(("export SSL_CERT_FILE='%s' SSL_CERT_DIR='%s'; %s 2>&1")
      :format(environment.file or "", environment.directory or "", command))
  end

  local leaf = tmp.file(site.pem, "leaf.pem")
  local script = ([[
    local trust = require "tlsconnect.trust"
    local ok, message, err = trust.system():verify(io.open("%s"):read("*a"), { name = "a.test" })
    print(ok, ok and "" or err.code, ok and "" or message)
  ]]):format(leaf)

  it("are SSL_CERT_FILE's when it is set", function()
    assert.is_truthy(run({ file = write(tmp.path("env.pem"), root) }, script):find("^true"))
    assert.is_truthy(run({ file = write(tmp.path("env.pem"), second) }, script):find("^nil%s+unknown_issuer"))
    assert.is_truthy(run({ file = "/nowhere" }, script):find("^nil%s+unreadable_file"))
  end)

  it("that are not there are asked for by name, with the package that has them", function()
    local help = "the package ca-certificates (so Debian and others call it) may be missing; the option 'ca_file' "
      .. "names a file of roots"
    local said = run({ file = "/nowhere/bundle.crt" }, script)
    assert.is_truthy(said:find("the trusted roots in /nowhere/bundle.crt (SSL_CERT_FILE) cannot be read: No such file "
      .. "or directory (" .. help, 1, true), said)
    -- GnuTLS knows a place of its own, which may be there.
    said = run({}, [[
      local core, trust = require "tlsconnect.core", require "tlsconnect.trust"
      for i = 1, #trust.bundles do trust.bundles[i] = "/nowhere/" .. i end
      local make = core.trust
      function core.trust()
        local none = make()
        return setmetatable({}, { __index = function(_, name)
          if name == "system" then return function() return 0 end end
          return function(_, ...) return none[name](none, ...) end
        end })
      end
      for _ = 1, 2 do print((select(2, trust.system():verify("x", { name = "a.test" })))) end
    ]])
    local sentence = "no trusted roots were found on this system, not in /nowhere/1, in any other usual place or by "
      .. "GnuTLS: " .. help
    assert.equal(sentence .. "\n" .. sentence, said)
    local empty = tmp.directory()
    said = run({ directory = empty }, script)
    assert.is_truthy(said:find("no certificate is in " .. empty .. " (SSL_CERT_DIR): " .. help, 1, true), said)
  end)

  it("that vanish are told by name", function()
    local path = write(tmp.path("roots.pem"), root)
    local anchors = assert(trust.new { ca_file = path })
    os.remove(path)
    local ok, message, err = anchors:verify(site.der, name)
    assert.is_nil(ok)
    assert.equal("unreadable_trust", err.code)
    assert.equal(("the trusted roots in %s cannot be read any more: No such file or directory"):format(path), message)
  end)

  it("are SSL_CERT_DIR's when it is set, beside the file's", function()
    local one, two = tmp.directory(), tmp.directory()
    write(one .. "/x.pem", second)
    write(two .. "/y.pem", root)
    assert.is_truthy(run({ directory = two }, script):find("^true"))
    assert.is_truthy(run({ directory = one .. ":" .. two }, script):find("^true"))
    assert.is_truthy(run({ directory = one }, script):find("^nil%s+unknown_issuer"))
    assert.is_truthy(run({ file = one .. "/x.pem", directory = two }, script):find("^true"))
  end)

  it("are the system's own when neither is set", function()
    assert.is_truthy(run({}, script):find("^nil%s+unknown_issuer"))
    local count = run({}, 'local t = require("tlsconnect.trust").new() print(t)')
    assert.is_truthy(tonumber(count:match("(%d+) roots")) > 50, count)
  end)

  it("are beside one's own when asked for", function()
    local own = assert(trust.new { ca = root.pem })
    local both = assert(trust.new { ca = root.pem, system = true })
    assert.equal(1, (own.core:state()))
    assert.is_true(both.core:state() > 1)
    assert.is_true((both:verify(site.der, name)))
  end)
end)

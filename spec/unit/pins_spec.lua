-- Pins, known hosts and the program's own word, over handshakes without a network where that is enough.
local chains = require "spec.support.chains"
local core = require "tlsconnect.core"
local known = require "tlsconnect.known"
local peers = require "spec.support.peers"
local pins = require "tlsconnect.pins"
local pki = require "spec.support.pki"
local run = require "spec.support.run"
local scheduler = require "spec.support.scheduler"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"
local trust = require "tlsconnect.trust"

local function key(label) return chains.key("p256", nil, label) end

local root = chains.certificate { subject = "Root", ca = true, key = key("root") }
local middle = chains.certificate { subject = "Middle", ca = true, issuer = root, key = key("middle") }
local leaf = chains.certificate { issuer = middle, names = { "a.test" }, key = key("leaf") }
local stray = chains.certificate { subject = "Stray", ca = true, key = key("stray") }
local backup = "sha256/" .. ("A"):rep(43) .. "="

describe("pins", function()
  local anchors = assert(trust.new { ca = root.pem })

  local function verify(list, chain, more)
    local options = { name = "a.test", pins = list }
    for name, value in pairs(more or {}) do options[name] = value end
    return anchors:verify(chain or chains.chain(leaf, middle), options)
  end

  it("let in a peer whose path has one of the keys: its own, an intermediate's, the root's", function()
    for _, one in ipairs { leaf, middle, root } do
      local ok, verification = verify { backup, pins.of(one.der) }
      assert.is_true(ok)
      assert.equal(pins.of(one.der), verification.pin)
    end
    assert.is_true((verify { (pins.of(leaf.der):gsub("/", "//", 1)) }))
  end)

  it("are what openssl computes", function()
    local certificate = pki.shared():issue { name = "a.test" }
    local public = run.check { "openssl", "x509", "-in", certificate.cert, "-noout", "-pubkey" }
    local der = run.check { "openssl", "pkey", "-pubin", "-in", tmp.file(public, "public.pem"), "-outform", "DER" }
    local digest = run.check { "openssl", "dgst", "-sha256", "-binary", tmp.file(der, "public.der") }
    local text = run.check { "openssl", "base64", "-A", "-in", tmp.file(digest, "digest") }
    assert.equal("sha256/" .. text, pins.of(pki.der(certificate.cert)))
  end)

  it("may begin with a slash, which is a digit of base64", function()
    local digest = "/" .. ("A"):rep(42) .. "="
    assert.same({ ["sha256/" .. digest] = true }, pins.parse { "sha256/" .. digest })
    assert.same({ ["sha256/" .. digest] = true }, pins.parse { "sha256//" .. digest })
    assert.has_error(function() pins.parse { "sha256/" .. digest:sub(2) } end)
    assert.has_error(function() pins.parse { "sha256///" .. digest } end)
  end)

  it("V12 are not met by a certificate beside the path", function()
    local ok, message, err = verify({ pins.of(stray.der) }, chains.chain(leaf, middle, stray))
    assert.is_nil(ok)
    assert.equal("pin_mismatch", err.code)
    assert.equal("verify", err.step)
    assert.matches("a.test has none of the pinned keys: its path has " .. pins.of(leaf.der), message, 1, true)
    assert.same({ pins.of(leaf.der), pins.of(middle.der), pins.of(root.der) }, err.pins)
  end)

  it("V12 are met by the peer's own key alone where no path was found and the issuer is muted", function()
    local lost, fresh = chains.chain(leaf, stray), assert(trust.new { ca = root.pem }) -- it has not seen the middle
    local function muted(one, skip)
      return (fresh:verify(lost, { name = "a.test", pins = { pins.of(one.der) }, [skip] = true }))
    end
    for _, skip in ipairs { "insecure_skip_issuer", "insecure_skip_verify" } do
      assert.is_true(muted(leaf, skip))
      assert.is_nil(muted(stray, skip))
      assert.is_nil(muted(middle, skip))
    end
  end)

  it("that are none are refused where they are given", function()
    for _, list in ipairs { {}, { "sha256/abc" }, { "sha1/" .. ("A"):rep(43) .. "=" }, { ("A"):rep(44) } } do
      assert.error_matches(function() verify(list) end, "bad option 'pins'")
      assert.error_matches(function() tlsconnect.context { pins = list } end, "bad option 'pins'")
      assert.error_matches(function() tlsconnect.connect("127.0.0.1", 1, { pins = list }) end, "bad option 'pins'")
    end
  end)
end)

describe("known hosts", function()
  local wait = tlsconnect.wait
  local function path_in(directory) return (directory or tmp.directory()) .. "/known" end
  local function check(path, certificate) return known.check(path, "a.test", "443", (certificate or leaf).der) end
  local function add(path, certificate, host)
    return known.add(path, host or "a.test", "443", (certificate or leaf).der, wait, core.now() + 5)
  end

  local function broken(path, text)
    local found, message, err = check(path)
    assert.is_nil(found)
    assert.equal("bad_known_hosts", err.code)
    assert.matches(text, message, 1, true)
    local added, _, problem = add(path)
    assert.is_nil(added)
    assert.equal("bad_known_hosts", problem.code)
  end

  it("are new once, then known, and refused with another key, both of which are told", function()
    local path = path_in()
    assert.equal("new", check(path))
    assert.is_true(add(path))
    assert.equal("known", check(path))
    local found, message, err = check(path, stray)
    assert.is_nil(found)
    assert.equal("known_host_changed", err.code)
    assert.equal(pins.of(stray.der), err.pin)
    assert.same({ pins.of(leaf.der) }, err.known)
    assert.matches(pins.of(stray.der), message, 1, true)
    assert.matches(pins.of(leaf.der), message, 1, true)
    assert.equal("new", known.check(path, "a.test", "8443", stray.der))
    assert.equal("new", known.check(path, "b.test", "443", stray.der))
  end)

  it("are written for their user alone, and refused when others may write them", function()
    local path = path_in()
    assert.is_true(add(path))
    assert.equal("600", (run.check { "stat", "-c", "%a", path }:gsub("%s", "")))
    assert.is_true(add(path, stray, "b.test"))
    assert.equal("600", (run.check { "stat", "-c", "%a", path }:gsub("%s", "")))
    assert.matches("^# tlsconnect known hosts 1\na%.test 443 sha256/%S+ %d+%-%d+%-%d+\nb%.test .-\n# end\n$",
      tmp.read(path))
    run.check { "chmod", "620", path }
    broken(path, "others may use it")
  end)

  it("keep what a person wrote between the lines, and several keys of a host", function()
    local path = path_in()
    assert.is_true(add(path))
    local line = "a.test 443 " .. pins.of(stray.der) .. " 2026-01-01\n"
    local text = tmp.read(path):gsub("# end", "# the next key\n" .. line .. "# end")
    tmp.write(path, text)
    assert.equal("known", check(path))
    assert.equal("known", check(path, stray))
    assert.is_true(add(path, middle, "b.test"))
    assert.matches("# the next key", tmp.read(path), 1, true)
  end)

  it("V14 that are cut anywhere, empty, broken or no such file are never taken for all new", function()
    local path = path_in()
    assert.is_true(add(path))
    assert.is_true(add(path, stray, "b.test"))
    local whole = tmp.read(path)
    for size = 0, #whole - 1 do
      tmp.write(path, whole:sub(1, size))
      local found, _, err = check(path)
      assert.is_nil(found)
      assert.equal("bad_known_hosts", err.code)
    end
    tmp.write(path, "")
    broken(path, "is empty")
    tmp.write(path, whole:gsub("sha256/", "sha256:", 1))
    broken(path, "is broken in line 2")
    tmp.write(path, "a.test ssh-ed25519 AAAA\n")
    broken(path, "is no file of known hosts")
    broken(tmp.directory(), "cannot be read")
  end)

  it("V14 behind a symbolic link are refused, their lock too", function()
    local path, elsewhere = path_in(), path_in()
    assert.is_true(add(elsewhere))
    run.check { "ln", "-s", elsewhere, path }
    broken(path, "cannot be read")
    local other = path_in()
    run.check { "ln", "-s", elsewhere, other .. ".lock" }
    local ok, message = add(other)
    assert.is_nil(ok)
    assert.matches("cannot be locked", message, 1, true)
  end)

  it("V14 that cannot be written fail, and leave the old file and nothing beside it", function()
    local directory = tmp.directory()
    local path = directory .. "/missing/known"
    assert.equal("new", check(path))
    local ok, _, err = add(path)
    assert.is_nil(ok)
    assert.equal("bad_known_hosts", err.code)
    path = directory .. "/known"
    run.check { "mkdir", path .. ".lock" }
    ok = add(path)
    assert.is_nil(ok)
    assert.equal("known.lock\n", run.check { "ls", directory })
  end)

  it("V14 are locked: two that meet at one file wait for each other, and both hosts are kept", function()
    local path = path_in()
    local held = assert(core.lock_file(path .. ".lock"))
    local none, message = core.lock_file(path .. ".lock")
    assert.is_nil(none)
    assert.equal("locked", message)
    scheduler.run(function(spawn, own_wait, sleep, join)
      local tasks = {}
      for i = 1, 5 do
        tasks[i] = spawn(known.add, path, "host" .. i, "443", leaf.der, own_wait, core.now() + 10)
      end
      sleep(0.05)
      assert.equal("new", check(path))
      held:close()
      for i = 1, 5 do assert.is_true((join(tasks[i]))) end
    end)
    for i = 1, 5 do assert.equal("known", known.check(path, "host" .. i, "443", leaf.der)) end
    held = assert(core.lock_file(path .. ".lock"))
    local ok, text = known.add(path, "late", "443", leaf.der, wait, core.now() + 0.05)
    assert.is_nil(ok)
    assert.matches("is locked by another process", text, 1, true)
    held:close()
  end)

  it("V14 that another process made first are compared, not overwritten", function()
    local path = path_in()
    assert.equal("new", check(path))
    assert.is_true(add(path, stray))
    local ok, _, err = add(path, leaf)
    assert.is_nil(ok)
    assert.equal("known_host_changed", err.code)
    assert.is_true(add(path, stray))
  end)
end)

describe("the conditions of a connection", function()
  local authority = pki.shared()
  local site = authority:issue { name = "a.test" }
  local pin = pins.of(pki.der(site.cert))
  local server

  before_each(function() server = peers.nginx { cert = site } end)

  local function connect(more)
    local options = { ca_file = authority.ca_file, server_name = "a.test", timeout = 10 }
    for name, value in pairs(more) do options[name] = value end
    return tlsconnect.connect(server.host, server.port, options)
  end

  local function refused(code, more)
    local connection, message, err = connect(more)
    assert.is_nil(connection)
    assert.equal(code, err.code)
    assert.equal("verify", err.step)
    return message, err
  end

  it("hold pins, with everything else muted too", function()
    connect({ pins = { backup, pin } }):close()
    local message, err = refused("pin_mismatch", { pins = { backup } })
    assert.matches(pin, message, 1, true)
    assert.equal("yes", err.verification.name.answer)
    refused("pin_mismatch", { pins = { backup }, insecure_skip_verify = true })
    connect({ pins = { pin }, insecure_skip_verify = true, ca_file = pki.new().ca_file }):close()
  end)

  it("keep a new host once its handshake is complete, and know it then", function()
    local path = tmp.directory() .. "/known"
    connect({ known_hosts = path }):close()
    assert.matches(("a.test %d %s"):format(server.port, pin), tmp.read(path), 1, true)
    connect({ known_hosts = path }):close()
    tmp.write(path, (tmp.read(path):gsub("sha256/%S+", backup)))
    local _, err = refused("known_host_changed", { known_hosts = path })
    assert.equal(pin, err.pin)
    assert.same({ backup }, err.known)
    refused("known_host_changed", { known_hosts = path, insecure_skip_verify = true })
  end)

  it("keep no host that failed", function()
    local path = tmp.directory() .. "/known"
    refused("name_mismatch", { known_hosts = path, server_name = "b.test" })
    refused("pin_mismatch", { known_hosts = path, pins = { backup } })
    refused("verify_refused", { known_hosts = path, verify = function() return nil, "no" end })
    assert.has_error(function() tmp.read(path) end)
  end)

  it("ask the program last, with what was found", function()
    local seen, about
    connect({ verify = function(verification, info)
      seen, about = verification, info
      return true
    end }):close()
    assert.equal("yes", seen.issuer.answer)
    assert.equal("a.test", about.name)
    assert.equal(server.port, about.port)
    assert.equal("client", about.role)
    assert.is_false(about.resumed)
    assert.equal("CN=a.test", about.chain[1]:subject())
  end)

  it("take nothing but true for a yes", function()
    for _, answer in ipairs { false, "yes", 1 } do
      refused("verify_refused", { verify = function() return answer end })
    end
    local message, err = refused("verify_refused", { verify = function() return nil, "not on the list" end })
    assert.equal(("%s:%d was refused: not on the list"):format(server.host, server.port), message)
    assert.equal("yes", err.verification.issuer.answer)
  end)

  it("never let the program turn a failure into a success", function()
    local called = false
    local function yes()
      called = true
      return true
    end
    refused("name_mismatch", { server_name = "b.test", verify = yes })
    refused("unknown_issuer", { ca_file = pki.new().ca_file, verify = yes })
    assert.is_false(called)
    local found
    connect({ server_name = "b.test", insecure_skip_name = true, verify = function(verification)
      found = verification.name
      return true
    end }):close()
    assert.equal("no", found.answer)
  end)

  it("let the program wait while it judges", function()
    scheduler.run(function(spawn, wait, sleep, join)
      local tasks = {}
      for i = 1, 3 do
        tasks[i] = spawn(connect, { wait = wait, verify = function()
          sleep(0.02)
          return i ~= 2, "the second"
        end })
      end
      local first, second, third = join(tasks[1]), join(tasks[2]), join(tasks[3])
      assert.is_nil(second)
      first:close()
      third:close()
    end)
  end)
end)

describe("a root with limits", function()
  local function verify(anchors, names, name)
    local site = chains.certificate { issuer = root, names = names, key = key("leaf") }
    local ok, _, err = anchors:verify(site.der, { name = name })
    return ok or err.code
  end

  local function limited(names, before)
    local anchors = assert(trust.new(before or { ca = stray.pem }))
    assert(anchors:add(root.pem, { names = names }))
    return anchors
  end

  it("vouches for those names alone", function()
    local anchors = limited { "example.test", ".below.test", "10.0.0.0/8" }
    assert.is_true(verify(anchors, { "example.test" }, "example.test"))
    assert.is_true(verify(anchors, { "a.EXAMPLE.test" }, "a.example.test"))
    assert.is_true(verify(anchors, { "x.below.test" }, "x.below.test"))
    assert.equal("name_not_permitted", verify(anchors, { "below.test" }, "below.test"))
    assert.equal("name_not_permitted", verify(anchors, { "badexample.test" }, "badexample.test"))
    assert.equal("name_not_permitted", verify(anchors, { "example.test", "other.test" }, "example.test"))
    assert.is_true(verify(anchors, { { "ip", "\10\1\2\3" } }, "10.1.2.3"))
    assert.equal("name_not_permitted", verify(anchors, { { "ip", "\11\1\2\3" } }, "11.1.2.3"))
  end)

  it("vouches for no address where only hosts are named, and the other way round", function()
    local anchors = limited { "example.test" }
    assert.equal("name_not_permitted", verify(anchors, { { "ip", "\10\1\2\3" } }, "10.1.2.3"))
    assert.equal("name_not_permitted", verify(anchors, { { "ip", ("\1"):rep(16) } }, "101:101:101:101:101:101:101:101"))
    anchors = limited { "10.1.2.3" }
    assert.is_true(verify(anchors, { { "ip", "\10\1\2\3" } }, "10.1.2.3"))
    assert.equal("name_not_permitted", verify(anchors, { "example.test" }, "example.test"))
  end)

  it("has them although a file, or the text before, trusts it without", function()
    local file = tmp.file(root.pem, "root.pem")
    for _, before in ipairs { { ca = root.pem }, { ca_file = file } } do
      local anchors = assert(trust.new(before))
      assert.is_true(verify(anchors, { "other.test" }, "other.test"))
      assert.equal(before.ca and 0 or 1, anchors:add(root.pem, { names = { "example.test" } }))
      assert.equal("name_not_permitted", verify(anchors, { "other.test" }, "other.test"))
      assert.is_true(verify(anchors, { "example.test" }, "example.test"))
    end
    local anchors = assert(trust.new { ca_file = file })
    anchors:add(root.pem, { names = { "example.test" } })
    tmp.write(file, root.pem .. "\n" .. stray.pem)
    assert.equal("name_not_permitted", verify(anchors, { "other.test" }, "other.test"))
  end)

  it("has them for a certificate that is trusted itself", function()
    local own = chains.certificate { names = { "other.test" }, key = key("own") }
    local anchors = assert(trust.new { ca = stray.pem })
    anchors:add(own.pem, { names = { "example.test" } })
    local ok, _, err = anchors:verify(own.der, { name = "other.test" })
    assert.is_nil(ok)
    assert.equal("name_not_permitted", err.code)
  end)

  it("refuses limits that are none", function()
    local anchors = assert(trust.new { ca = stray.pem })
    for _, names in ipairs { {}, { "" }, { "a b" }, { "10.0.0.0/99" }, { "a@b.test" }, { "http://a.test" } } do
      assert.error_matches(function() anchors:add(root.pem, { names = names }) end, "bad option 'names'")
    end
  end)
end)

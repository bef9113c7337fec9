-- Issuers that a server did not send, fetched from where its certificate says; and lists of a program's own.
local aia = require "tlsconnect.trust.aia"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local process = require "spec.support.process"
local run = require "spec.support.run"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

local authority = pki.new()
local folder, server

local function place(name) return ("http://127.0.0.1:%d/%s"):format(server.port, name) end

local function serve(name, bytes) tmp.write(folder .. "/" .. name, bytes) end

-- How many requests the server has logged. It logs one after it has answered: `awaited` of them are waited for.
local function requests(awaited)
  local count
  process.eventually(function()
    count = select(2, tmp.read(server.access):gsub("\n", ""))
    return count >= (awaited or 0)
  end)
  return count
end

before_each(function()
  aia.forget()
  folder = tmp.directory()
  run.check { "chmod", "755", folder }
  server = peers.nginx { root = folder }
end)

local function verify(chain, more)
  local options = { name = "a.test", aia = true, insecure_fetch_private = true, timeout = 10 }
  for name, value in pairs(more or {}) do options[name] = value end
  -- A trust of its own: one that has seen an intermediate remembers it.
  return assert(tlsconnect.trust { ca_file = authority.ca_file }):verify(tmp.read(chain), options)
end

-- A leaf two intermediates below the root, each of which says where its issuer is.
local function deep()
  local upper = authority:authority { cn = "Upper", fresh = true }
  local lower = authority:authority { cn = "Lower", ca = upper, ca_issuers_uri = place("upper"), fresh = true }
  local leaf = authority:issue { name = "a.test", ca = lower, ca_issuers_uri = place("lower"), fresh = true }
  serve("upper", pki.der(upper.cert))
  serve("lower", pki.der(lower.cert))
  return leaf, lower, upper
end

describe("a missing issuer", function()
  it("is fetched when that is asked for, and only then", function()
    local leaf = deep()
    local ok, _, err = verify(leaf.cert, { aia = false })
    assert.is_nil(ok)
    assert.equal("unknown_issuer", err.code)
    assert.equal(0, requests())
    local good, verification = verify(leaf.cert)
    assert.is_true(good)
    assert.equal(4, #verification.path)
    assert.equal(2, requests(2))
  end)

  it("is kept", function()
    local leaf = deep()
    assert.is_true((verify(leaf.cert)))
    assert.is_true((verify(leaf.cert)))
    assert.equal(2, requests(2))
  end)

  it("is not asked for when the path is whole", function()
    local leaf = deep()
    assert.is_true((verify(leaf.chain)))
    assert.equal(0, requests())
  end)

  it("may come as PEM, or in a PKCS #7 file", function()
    local leaf, lower, upper = deep()
    serve("lower", tmp.read(lower.cert))
    run.check { "openssl", "crl2pkcs7", "-nocrl", "-certfile", upper.cert, "-outform", "DER",
      "-out", folder .. "/upper" }
    assert.is_true((verify(leaf.cert)))
  end)

  it("that is not there, is junk or another's leaves the chain as it was", function()
    local leaf = deep()
    for _, bytes in ipairs { "", "junk", pki.der(authority:issue { name = "b.test" }.cert) } do
      aia.forget()
      serve("lower", bytes)
      local ok, message, err = verify(leaf.cert)
      assert.is_nil(ok)
      assert.equal("unknown_issuer", err.code)
      assert.matches("its issuer Lower is neither one of the trusted nor sent", message, 1, true)
    end
  end)

  it("is asked for again after a false answer", function()
    local leaf = deep()
    local right = tmp.read(folder .. "/lower")
    serve("lower", pki.der(authority:authority { cn = "Lower", fresh = true }.cert))
    assert.is_nil((verify(leaf.cert)))
    serve("lower", right)
    assert.is_true((verify(leaf.cert)))
    -- and is kept from then on, until it is of no use
    serve("lower", "junk")
    assert.is_true((verify(leaf.cert)))
  end)

  it("makes no root of what is fetched", function()
    local stranger = pki.new()
    local leaf = stranger:issue { name = "a.test", ca_issuers_uri = place("root") }
    serve("root", pki.der(stranger.root.cert))
    local ok, _, err = verify(leaf.cert)
    assert.is_nil(ok)
    assert.equal("unknown_issuer", err.code)
  end)

  it("R7 is not fetched from private addresses unless that is allowed, nor by other schemes", function()
    local leaf = deep()
    assert.is_nil((verify(leaf.cert, { insecure_fetch_private = false })))
    assert.equal(0, requests())
    local lower = authority:authority { cn = "Lower", fresh = true }
    for _, url in ipairs { "file://" .. folder .. "/lower", "https://127.0.0.1:1/", "ldap://127.0.0.1/" } do
      local odd = authority:issue { name = "a.test", ca = lower, ca_issuers_uri = url, fresh = true }
      assert.is_nil((verify(odd.cert)))
    end
  end)

  it("R8 that leads from one to the next without end costs a few requests", function()
    local above = authority:authority { cn = "CA 0", fresh = true }
    for i = 1, 9 do
      serve("ca" .. i - 1, pki.der(above.cert))
      above = authority:authority { cn = "CA " .. i, ca = above, ca_issuers_uri = place("ca" .. i - 1), fresh = true }
    end
    serve("ca9", pki.der(above.cert))
    local leaf = authority:issue { name = "a.test", ca = above, ca_issuers_uri = place("ca9"), fresh = true }
    assert.is_nil((verify(leaf.cert)))
    assert.equal(4, requests(4))
  end)

  it("is fetched on the way of a connection", function()
    local leaf = deep()
    local site = peers.openssl_server { cert = leaf, chain = false }
    local options = { ca_file = authority.ca_file, server_name = "a.test", timeout = 10, aia = true,
      insecure_fetch_private = true }
    local connection = assert(tlsconnect.connect(site.host, site.port, options))
    assert.equal(4, #connection:verification().path)
    connection:close()
  end)
end)

describe("the program's own revocation lists", function()
  local certificate = authority:issue { name = "a.test" }
  local site

  before_each(function() site = peers.nginx { cert = certificate } end)

  local function connect(file)
    return tlsconnect.connect(site.host, site.port,
      { ca_file = authority.ca_file, server_name = "a.test", timeout = 10, crl_file = file })
  end

  it("are obeyed in every connection", function()
    local connection = assert(connect(authority:crl()))
    assert.equal("crl", connection:verification().revocation.source)
    connection:close()
    authority:revoke(certificate)
    local none, _, err = connect(authority:crl())
    assert.is_nil(none)
    assert.equal("revoked", err.code)
  end)

  it("that cannot be read let nobody in", function()
    local rows = { [tmp.directory() .. "/none"] = "unreadable_file", [tmp.file("junk", "crl.pem")] = "bad_pem",
      [tmp.file("", "empty.pem")] = "unreadable_file" }
    for file, code in pairs(rows) do
      local none, message, err = connect(file)
      assert.is_nil(none)
      assert.equal(code, err.code)
      assert.matches("crl_file", message, 1, true)
    end
  end)
end)

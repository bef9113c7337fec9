-- Which of its certificates a server shows.
local core = require "tlsconnect.core"
local pki = require "spec.support.pki"
local sessions = require "spec.support.sessions"

local authority = pki.shared()
local tls12, tls13 = "-VERS-TLS1.3", "-VERS-TLS1.2"

local function issue(name, key)
  return authority:issue { name = name, key = key, cn = "x", fresh = true }
end

local first = issue("a.test")
local rsa, ecdsa, edwards = issue("k.test", "rsa2048"), issue("k.test", "p256"), issue("k.test", "ed25519")
local wild, full = issue { "*.b.test", "b.test" }, issue("www.b.test")
local wild_rsa = issue("*.b.test", "rsa2048")

local function server(...)
  local context = core.context()
  for _, certificate in ipairs { ... } do sessions.certify(context, certificate) end
  return context
end

-- The path of the certificate that a client is shown, or nil and the code of its failure.
local function shown(context, name, priority)
  local pair = sessions.pair { server_context = context, client = { priority = priority },
    client_session = { server_name = name or "" } }
  local client, answer = pair:handshake()
  if not client.ok then return nil, client.cause.code, answer.cause.code end
  return pair.client:peer_certificates()[1]
end

local function shows(certificate, context, name, priority)
  assert.is_true(pki.der(certificate.cert) == shown(context, name, priority),
    (name or "no name") .. " " .. (priority or ""))
end

describe("a server's certificates", function()
  it("are chosen by the name in full, by a wildcard, or the first is taken", function()
    local context = server(first, wild, full)
    for _, priority in ipairs { tls12, tls13 } do
      shows(first, context, "a.test", priority)
      shows(full, context, "www.b.test", priority)
      shows(wild, context, "b.test", priority)
      shows(wild, context, "mail.b.test", priority)
      shows(first, context, "x.mail.b.test", priority) -- a wildcard is one label
      shows(first, context, "other.test", priority)
      shows(first, context, nil, priority)
    end
    -- Whatever the order.
    context = server(full, wild, first)
    shows(full, context, "www.b.test")
    shows(wild, context, "mail.b.test")
    shows(full, context, nil)
  end)

  it("are chosen without regard to case and a trailing dot", function()
    local context = server(first, wild)
    shows(wild, context, "MAIL.b.TEST")
    shows(wild, context, "mail.b.test.")
  end)

  it("are chosen by what the client's signature schemes and suites allow", function()
    local rsa_only = "-SIGN-ALL:+SIGN-RSA-PSS-RSAE-SHA256:+SIGN-RSA-SHA256"
    local ecdsa_only = "-SIGN-ALL:+SIGN-ECDSA-SHA256:+SIGN-ECDSA-SECP256R1-SHA256"
    for _, context in ipairs { server(first, rsa, ecdsa), server(first, ecdsa, rsa) } do
      for _, version in ipairs { tls12, tls13 } do
        shows(rsa, context, "k.test", version .. ":" .. rsa_only)
        shows(ecdsa, context, "k.test", version .. ":" .. ecdsa_only)
      end
      shows(rsa, context, "k.test", tls12 .. ":-KX-ALL:+ECDHE-RSA")
      shows(ecdsa, context, "k.test", tls12 .. ":-KX-ALL:+ECDHE-ECDSA")
    end
    shows(rsa, server(rsa, ecdsa), "k.test") -- who can take both gets the first
    shows(ecdsa, server(ecdsa, rsa), "k.test")
    shows(edwards, server(ecdsa, edwards), "k.test", "-SIGN-ALL:+SIGN-EDDSA-ED25519")
    shows(ecdsa, server(edwards, ecdsa), "k.test", ecdsa_only)
    -- No name: the first that it can take.
    shows(rsa, server(first, rsa), nil, rsa_only)
    -- A wildcard's that it can take comes before one in full that it cannot.
    shows(wild_rsa, server(full, wild_rsa), "www.b.test", rsa_only)
    shows(full, server(full, wild_rsa), "www.b.test", ecdsa_only)
  end)

  it("for the name come before others that the client could take", function()
    local context = server(rsa, first)
    local none, code = shown(context, "a.test", "-SIGN-ALL:+SIGN-RSA-PSS-RSAE-SHA256")
    assert.is_nil(none)
    assert.equal("no_common_parameters", code)
  end)

  it("outlive the context that was collected", function()
    local pair = sessions.pair { server_context = server(first, wild), client_session = { server_name = "x.b.test" } }
    pair.server_context = nil
    collectgarbage() collectgarbage()
    local client, answer = pair:handshake()
    assert.is_true(client.ok and answer.ok)
    assert.is_true(pki.der(wild.cert) == pair.client:peer_certificates()[1])
  end)

  it("cannot be had with another's key", function()
    local context = core.context()
    local certificate = assert(core.certificate(pki.der(first.cert)))
    local ok, _, cause = context:certificate({ certificate }, assert(core.key(pki.der(wild.key, "pkey"))))
    assert.is_nil(ok)
    assert.equal("key_mismatch", cause.code)
  end)
end)

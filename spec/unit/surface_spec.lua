-- The public surface: every name that programs are promised is there.
local connection = require "tlsconnect.connection"
local core = require "tlsconnect.core"
local options = require "tlsconnect.options"
local pki = require "spec.support.pki"
local stream = require "tlsconnect.stream"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

local function each(names, f)
  for name in names:gmatch("%S+") do f(name) end
end

-- Whether something can be called: a function, or a table that is called itself.
local function callable(value)
  return type(value) == "function" or type((getmetatable(value) or {}).__call) == "function"
end

describe("the public surface", function()
  local authority = pki.shared()
  local site = authority:issue { name = "a.test" }

  local function has(thing, names, what)
    each(names, function(name) assert.is_function(thing[name], what .. "." .. name) end)
  end

  it("has the module's names, and makes none global", function()
    each("connect wrap listen resolve context trust certificate key wait now", function(name)
      assert.is_true(callable(tlsconnect[name]), name)
    end)
    assert.is_table(tlsconnect.https)
    assert.is_string(tlsconnect.features.gnutls)
    assert.matches("^tlsconnect %d", tlsconnect._VERSION)
    assert.is_nil(tlsconnect.nothing_of_the_kind)
    assert.is_nil(rawget(_G, "tlsconnect"))
    assert.is_true(math.abs(tlsconnect.now() - core.now()) < 60)
  end)

  it("has what a connection, a listener and a trust can do", function()
    has(stream, "send receive lines close shutdown settimeout getfd dirty want pollfd events timeout info verification "
      .. "peer_certificate peer_chain trace export channel_binding handshake", "connection")
    assert.is_function(connection.open)
    local listener = assert(tlsconnect.listen("127.0.0.1", 0, { certificate = site.chain, key = site.key }))
    has(listener, "accept getfd address close", "listener")
    listener:close()
    has(assert(tlsconnect.trust { ca_file = authority.ca_file }), "add find verify", "trust")
  end)

  it("has what a certificate and a key tell", function()
    local certificate = assert(tlsconnect.certificate(tmp.read(site.cert)))
    has(certificate, "subject issuer serial not_before not_after names key signature fingerprint pin extensions "
      .. "pem der", "certificate")
    has(tlsconnect.key.generate("p256"), "type bits curve pin public pem der sign", "key")
    has(tlsconnect.certificate, "list issue request revocation_list", "certificate")
  end)

  it("has the verbs of https, and a client of one's own", function()
    has(tlsconnect.https, "get head post put patch delete request client", "https")
    has(tlsconnect.https.client {}, "get head post put patch delete request", "client")
  end)

  it("takes every option that connections, contexts and requests share", function()
    local shared = "server_name alpn timeout timeouts family local_address allow_address wait trust ca_file ca_path ca "
      .. "certificate key password min_version max_version priority pins known_hosts revocation crl_file profile "
      .. "verify session_cache trace keylog proxy insecure_skip_verify insecure_skip_issuer insecure_skip_dates "
      .. "insecure_skip_revocation insecure_skip_name"
    for _, where in ipairs { "connect", "https" } do
      local rows = options.of(where)
      each("context " .. shared, function(name) assert.truthy(rows[name], where .. ": " .. name) end)
    end
  end)
end)

-- The cases of x509-limbo over handshakes: a server shows the chain, and the client judges what came.
local core = require "tlsconnect.core"
local limbo = require "spec.corpus.limbo"
local sessions = require "spec.support.sessions"
local trust = require "tlsconnect.trust"

local cases = limbo.cases()

-- GnuTLS loses the memory of a key when it is given a chain whose issuer has a broken one.
local unshowable = { ["invalid::invalid-issuer-key"] = true }

-- A server's context for the case; nil where GnuTLS cannot show such a chain.
local function server_of(case)
  if case.peer_certificate_key == nil or case.tier == "client" or unshowable[case.id] then return nil end
  local list = {}
  for i = 0, #case.untrusted_intermediates do
    local certificate = core.certificate(case.untrusted_intermediates[i] or case.peer_certificate)
    if not certificate then return nil end
    list[i + 1] = certificate
  end
  local key = core.key(case.peer_certificate_key)
  local context = core.context()
  if not key or #list > 16 or not context:certificate(list, key) then return nil end
  return context
end

-- Whether the client takes the chain, and whether it came as it is: GnuTLS leaves out what it thinks is no
-- part of it. nil where the handshake does not come to that.
local function taken(case, context, profile)
  local anchors = assert(trust.new { ca = case.trusted_certs })
  local terms, judged, whole = limbo.options(case, profile), nil, nil
  terms.crls = terms.crls and core.pem_decode(terms.crls, "X509 CRL")
  local pair = sessions.pair { server_context = context, verdict = function(client)
    whole = #client:peer_certificates() == #case.untrusted_intermediates + 1
    judged = anchors:judge(client, terms) == true
    return judged
  end }
  pair:handshake()
  return judged, whole
end

describe("x509-limbo over handshakes", function()
  for _, profile in ipairs { "default", "strict" } do
    it("gives the answers that it gives offline, profile " .. profile, function()
      if not cases then return pending("skipped: no corpora") end
      local shown = 0
      for _, case in ipairs(cases) do
        local context = server_of(case)
        if context then
          local answer, whole = taken(case, context, profile)
          if answer ~= nil and whole then
            shown = shown + 1
            assert.equal((limbo.judge(case, profile)), answer, case.id)
          end
        end
      end
      assert.is_true(shown >= 150, shown .. " chains were shown")
    end)
  end
end)

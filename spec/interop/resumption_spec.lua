-- A session that is taken up again skips no check: everything that a program asks of a peer is asked anew.
local chains = require "spec.support.chains"
local peers = require "spec.support.peers"
local pins = require "tlsconnect.pins"
local pki = require "spec.support.pki"
local ports = require "spec.support.ports"
local process = require "spec.support.process"
local revocation = require "tlsconnect.trust.revocation"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"
local trust = require "tlsconnect.trust"

local authority = pki.new()
local backup = "sha256/" .. ("A"):rep(43) .. "="

-- One exchange on a new connection, so that a session is there to be kept. Whether it was taken up; or nil, err.
local function visit(server, context, options)
  local given = { context = context, server_name = "a.test", timeout = 10 }
  for name, value in pairs(options or {}) do given[name] = value end
  local connection, _, err = tlsconnect.connect(server.host, server.port, given)
  if not connection then return nil, err end
  assert(connection:send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"))
  assert(connection:receive("*l"))
  local resumed = connection:info().resumed
  connection:close()
  return resumed
end

local function refused(code, ...)
  local resumed, err = visit(...)
  assert.is_nil(resumed)
  assert.equal(code, err.code)
  assert.equal("verify", err.step)
end

describe("a session taken up again", function()
  local site = authority:issue { name = "a.test" }
  local pin = pins.of(pki.der(site.cert))
  local server, context

  before_each(function()
    revocation.forget()
    server = peers.nginx { cert = site }
    context = assert(tlsconnect.context { ca_file = authority.ca_file })
  end)

  it("K6 meets a pin that was added", function()
    assert.is_false(visit(server, context))
    assert.is_true(visit(server, context))
    refused("pin_mismatch", server, context, { pins = { backup } })
    assert.is_false(visit(server, context, { pins = { backup, pin } }))
    assert.is_true(visit(server, context, { pins = { backup, pin } }))
  end)

  it("K6 lasts no longer than the certificate, when its verification was remembered, too", function()
    local brief = authority:issue { name = "a.test", not_after = 60 }
    local elsewhere = peers.nginx { cert = brief }
    for count = 1, 2 do
      -- Nothing to take up: a new handshake, whose verification is the one of a moment ago the second time.
      context:sessions():clear()
      assert.is_false(visit(elsewhere, context))
      local kept = 0
      for _, list in pairs(context:sessions().lists) do
        for _, entry in ipairs(list) do
          kept = kept + 1
          assert.is_true(entry.till <= brief.not_after, "handshake " .. count)
        end
      end
      assert.equal(1, kept)
    end
  end)

  it("K6 meets known hosts that changed meanwhile", function()
    local given = { known_hosts = tmp.directory() .. "/known" }
    assert.is_false(visit(server, context, given))
    assert.is_true(visit(server, context, given))
    tmp.write(given.known_hosts, (tmp.read(given.known_hosts):gsub("sha256/%S+", backup)))
    refused("known_host_changed", server, context, given)
    tmp.write(given.known_hosts, "")
    refused("bad_known_hosts", server, context, given)
  end)

  it("K6 is shown to the program, whose word still counts", function()
    local seen, answer = {}, true
    local given = { verify = function(_, info)
      seen[#seen + 1] = info.resumed
      return answer, "not any more"
    end }
    assert.is_false(visit(server, context, given))
    assert.is_true(visit(server, context, given))
    answer = false
    refused("verify_refused", server, context, given)
    assert.same({ false, true }, { seen[1], seen[2] })
    assert.is_true(#seen >= 3)
  end)

  it("K6 meets a revocation that was learnt since", function()
    local port = ports.free()
    local own = authority:issue { name = "a.test", ocsp_uri = "http://127.0.0.1:" .. port .. "/", fresh = true }
    local function responder()
      return peers.start("openssl ocsp", function()
        return { "openssl", "ocsp", "-port", port, "-index", authority.root.database, "-CA", authority.root.cert,
          "-rsigner", authority.root.cert, "-rkey", authority.root.key, "-ndays", "1", "-ignore_err" }
      end, { port = port })
    end
    local one, own_server = responder(), peers.nginx { cert = own }
    local given = { revocation = "hard", insecure_fetch_private = true }
    assert.is_false(visit(own_server, context, given))
    assert.is_true(visit(own_server, context, given))
    one:stop()
    authority:revoke(own)
    revocation.forget()
    responder()
    refused("revoked", own_server, context, given)
  end)

  it("K6 meets a revocation list that was given since", function()
    local own = authority:issue { name = "a.test", fresh = true }
    local own_server = peers.nginx { cert = own }
    assert.is_false(visit(own_server, context))
    assert.is_true(visit(own_server, context))
    authority:revoke(own)
    refused("revoked", own_server, context, { crl_file = authority:crl() })
  end)

  it("V13 meets limits that a root was given since", function()
    local roots = assert(trust.new { ca_file = authority.ca_file })
    local own = assert(tlsconnect.context { trust = roots })
    assert.is_false(visit(server, own))
    assert.is_true(visit(server, own))
    roots:add(tmp.read(authority.ca_file), { names = { "b.test" } })
    refused("name_not_permitted", server, own)
  end)
end)

describe("Q4 what was verified a moment ago", function()
  local root = chains.certificate { subject = "Root", ca = true, key = chains.key("p256", nil, "root") }

  it("Q4 is not believed past the certificate's last second", function()
    local brief = chains.certificate { issuer = root, names = { "a.test" }, not_after = os.time() + 2 }
    local anchors = assert(trust.new { ca = root.pem })
    assert.is_true((anchors:verify(brief.der, { name = "a.test" })))
    local _, again = anchors:verify(brief.der, { name = "a.test" })
    assert.is_true(again.remembered)
    assert.is_truthy(process.eventually(function()
      local ok, _, err = anchors:verify(brief.der, { name = "a.test" })
      return not ok and err.code == "expired"
    end))
  end)

  it("Q4 holds for that name, purpose, profile and depth alone", function()
    local middle = chains.certificate { subject = "Middle", ca = true, issuer = root }
    local leaf = chains.certificate { issuer = middle, names = { "a.test" } }
    local anchors = assert(trust.new { ca = root.pem })
    local chain = chains.chain(leaf, middle)
    assert.is_true((anchors:verify(chain, { name = "a.test" })))
    local rows = {
      { { name = "b.test" }, "name_mismatch" }, { { ip = "127.0.0.1" }, "name_mismatch" },
      { { name = "a.test", purpose = "client" }, "wrong_purpose" },
      { { name = "a.test", max_depth = 0 }, "path_too_long" },
      { { name = "a.test", revocation = "hard" }, "revocation_unknown" },
      { { name = "a.test", pins = { backup } }, "pin_mismatch" },
      { { name = "a.test", time = os.time() + 400 * 86400 }, "expired" },
    }
    for _, row in ipairs(rows) do
      local ok, _, err = anchors:verify(chain, row[1])
      assert.is_nil(ok)
      assert.equal(row[2], err.code)
    end
    assert.is_true((anchors:verify(chain, { name = "a.test" })))
  end)
end)

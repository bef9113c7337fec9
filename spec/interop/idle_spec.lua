-- What an open connection holds while nothing is said on it.
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local tlsconnect = require "tlsconnect"

local authority = pki.shared()
local server = peers.nginx { cert = authority:issue { name = "a.test" } }

local function connect(options)
  options = options or {}
  options.ca_file, options.server_name, options.session_cache = authority.ca_file, "a.test", false
  local connection = assert(tlsconnect.connect(server.host, server.port, options))
  assert(connection:send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"))
  repeat local line = assert(connection:receive("*l")) until line == ""
  return connection
end

describe("the verification of connections to one host", function()
  it("is whole for each", function()
    for _ = 1, 4 do
      local verification = connect():verification()
      assert.is_true(verification.ok)
      for _, question in ipairs { "issuer", "dates", "name" } do
        assert.equal("yes", verification[question].answer)
        assert.is_string(verification[question].reason)
      end
      assert.equal(2, #verification.path)
      assert.equal(verification.path[2]:der(), verification.anchor:der())
      assert.is_nil(verification.shared)
    end
  end)

  it("is not spoilt by a program that changes its own", function()
    local first, second = connect(), connect()
    local own = first:verification()
    own.issuer.answer, own.path_der[1], own.muted.name, own.mine, own.anchor = "no", "junk", true, true, false
    own.name.context.host = "b.test"
    assert.equal(own, first:verification())
    for _, other in ipairs { second, connect() } do
      local verification = other:verification()
      assert.equal("yes", verification.issuer.answer)
      assert.equal("CN=a.test", verification.path[1]:subject())
      assert.is_truthy(verification.anchor)
      assert.is_nil(verification.muted.name)
      assert.is_nil(verification.mine)
      assert.is_truthy(verification.name.reason:find("a.test", 1, true))
    end
  end)

  it("is not spoilt by a function that judges it, nor by pins", function()
    connect()
    local pin = connect():peer_certificate():pin()
    for _ = 1, 2 do
      local judged
      local connection = connect { pins = { "sha256/" .. pin }, verify = function(verification)
        judged = verification
        verification.issuer.answer = "no"
        return true
      end }
      assert.equal(judged, connection:verification())
      assert.is_string(judged.pin)
      assert.is_nil(connect():verification().pin)
      assert.equal("yes", connect():verification().issuer.answer)
    end
  end)

  it("says which answers were not asked for", function()
    connect()
    assert.is_true(connect { insecure_skip_name = true }:verification().muted.name)
    assert.is_nil(connect():verification().muted.name)
    connect { trace = true }
    assert.equal("CN=a.test", connect { trace = true }:trace()[5].path[1])
  end)
end)

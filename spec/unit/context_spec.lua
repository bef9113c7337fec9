local core = require "tlsconnect.core"
local pki = require "spec.support.pki"
local sessions = require "spec.support.sessions"

local authority = pki.shared()

describe("a context", function()
  it("speaks TLS 1.2 and 1.3 and nothing older", function()
    local old = "NORMAL:-VERS-ALL:+VERS-TLS1.1:+VERS-TLS1.0:%COMPAT"
    local client = sessions.pair { server = { priority = old } }:handshake()
    assert.equal("version_refused", client.cause.code)
    for version, text in pairs { ["TLS1.2"] = "-VERS-TLS1.3", ["TLS1.3"] = "-VERS-TLS1.2" } do
      local pair = sessions.connected { client = { priority = text } }
      assert.equal(version, pair.client:info().version)
    end
  end)

  it("names the place where a priority string goes wrong", function()
    local context = core.context()
    for text, place in pairs {
      ["-VERS-TLS1.2:+FOO"] = "+FOO", ["+FOO:-VERS-TLS1.2"] = "+FOO:-VERS-TLS1.2",
      ["NORMAL:+BAR"] = "+BAR", ["WHAT"] = "WHAT",
    } do
      local ok, message, cause = context:priority(text)
      assert.is_nil(ok)
      assert.equal("bad_priority", cause.code)
      assert.equal(('the priority string "%s" goes wrong at "%s"'):format(text, place), message)
    end
    assert.has_error(function() context:priority("-VERS\0-TLS1.2") end)
  end)

  it("keeps its priority when a new one is bad", function()
    local context = sessions.context { priority = "-VERS-TLS1.3" }
    context:priority("+NONSENSE")
    local pair = sessions.connected { client_context = context }
    assert.equal("TLS1.2", pair.client:info().version)
  end)

  it("refuses a key that does not belong to the certificate", function()
    local a, b = authority:issue { name = "a.test" }, authority:issue { name = "b.test" }
    local ok, message = pcall(sessions.certify, core.context(), { chain = a.cert, key = b.key })
    assert.is_false(ok)
    assert.matches("key", tostring(message))
    local context = core.context()
    assert.has_error(function() context:certificate({}, nil) end)
    assert.has_error(function() context:certificate("x", nil) end)
  end)

  it("shows the certificate of the name that the client asks for", function()
    local server = sessions.context { certificate = authority:issue { name = "a.test" } }
    local b = authority:issue { name = "b.test" }
    sessions.certify(server, b)
    for _, name in ipairs { "a.test", "b.test" } do
      local pair = sessions.connected { server_context = server, client_session = { server_name = name } }
      local der = pair.client:peer_certificates()[1]
      assert.equal(pki.der(authority:issue { name = name }.cert), der)
      assert.equal(name, pair.server:info().server_name)
    end
  end)

  it("fails by name when a server has no certificate", function()
    local client, server = sessions.pair { server = { certificate = false } }:handshake()
    assert.is_not_nil(server.cause.code)
    assert.equal("no_common_parameters", client.cause.code)
    assert.equal("handshake_failure", client.cause.alert)
    assert.equal("ServerHello", client.cause.at)
  end)

  it("takes wrong arguments for what they are", function()
    local context = core.context()
    assert.has_error(function() context:session("clown", { memory = true }) end)
    assert.has_error(function() context:session("client", {}) end)
    assert.has_error(function() context:session("client", { memory = true, server_name = 5 }) end)
    assert.has_error(function() context:session("client", { memory = true, alpn = { "" } }) end)
    assert.has_error(function() context:session("client", { memory = true, alpn = { ("x"):rep(256) } }) end)
    assert.has_error(function() context:alpn({ 1 }) end)
    assert.has_error(function() context:client_certificates("maybe") end)
    assert.has_error(function() context:tickets("short") end)
  end)

  it("may be collected before its sessions", function()
    local pair = sessions.connected()
    pair.client_context, pair.server_context = nil, nil
    collectgarbage() collectgarbage()
    assert.equal(5, pair.client:write("hello"))
    pair:pump()
    assert.equal("hello", pair.server:read(5))
  end)
end)

describe("client certificates", function()
  local client = { certificate = authority:issue { name = "someone", purpose = "client" } }

  it("are not asked for by default", function()
    local pair = sessions.connected { client = client }
    assert.same({}, pair.server:peer_certificates())
  end)

  it("reach a server that requests or requires them", function()
    for _, ask in ipairs { "request", "require" } do
      for _, priority in ipairs { "-VERS-TLS1.3", "-VERS-TLS1.2" } do
        local pair = sessions.connected { client = client, server = { ask = ask, priority = priority } }
        assert.equal(pki.der(client.certificate.cert), pair.server:peer_certificates()[1])
        assert.is_true(pair.server:verified())
      end
    end
  end)

  it("may be missing where they are only requested", function()
    for _, priority in ipairs { "-VERS-TLS1.3", "-VERS-TLS1.2" } do
      local pair = sessions.connected { server = { ask = "request", priority = priority } }
      assert.same({}, pair.server:peer_certificates())
      assert.is_false(pair.server:verified())
    end
  end)

  it("that are required and missing end a handshake of TLS 1.2", function()
    local pair = sessions.pair { server = { ask = "require", priority = "-VERS-TLS1.3" } }
    local c, s = pair:handshake()
    assert.is_nil(c.ok)
    assert.is_nil(s.ok)
    assert.is_not_nil(c.cause.alert)
  end)

  it("that are required and missing fail the first read of TLS 1.3, by name", function()
    local pair = sessions.pair { server = { ask = "require", priority = "-VERS-TLS1.2" } }
    local c, s = pair:handshake()
    assert.is_true(c.ok)
    assert.is_nil(s.ok)
    local data, message, cause = pair.client:read("l")
    assert.is_nil(data)
    assert.equal("certificate_required", cause.code)
    assert.equal("certificate_required", cause.alert)
    assert.equal("data", cause.step)
    assert.equal("the peer requires a client certificate (alert certificate_required)", message)
  end)
end)

-- A server's tickets are good for the name that they were given under (RFC 6066 3), and for nothing else.
local pki = require "spec.support.pki"
local scheduler = require "spec.support.scheduler"
local sessions = require "spec.support.sessions"
local tlsconnect = require "tlsconnect"

local authority = pki.shared()
local site, other = authority:issue { name = "a.test" }, authority:issue { name = "b.test" }
local versions = { tls12 = "-VERS-TLS1.3", tls13 = "-VERS-TLS1.2" }

-- What the server gave, after one byte of data, which brings it.
local function ticket_of(pair)
  pair.server:write("x")
  pair:pump()
  pair.client:read(1)
  return (assert(pair.client:ticket()))
end

-- A pair between the same two contexts, for a name, with a ticket or without.
local function again(pair, name, ticket)
  return sessions.connected { client_context = pair.client_context, server_context = pair.server_context,
    nameless = not name, client_session = { server_name = name, ticket = ticket } }
end

for version, priority in pairs(versions) do
  describe("a ticket in " .. version, function()
    local server_context
    before_each(function()
      server_context = sessions.certify(sessions.context { certificate = site }, other)
    end)

    local function first(name)
      return sessions.connected { client = { priority = priority }, server_context = server_context,
        nameless = not name, client_session = { server_name = name } }
    end

    it("takes a session up for its own name", function()
      local pair = first "a.test"
      local next_one = again(pair, "a.test", ticket_of(pair))
      assert.is_true(next_one.client:resumed())
      assert.is_true(next_one.server:resumed())
    end)

    it("leads to a full handshake under another name, or none, with that name's certificate", function()
      local pair = first "a.test"
      for _, name in ipairs { "b.test", "a.test2", "aa.test" } do
        local full = again(pair, name, ticket_of(pair))
        assert.is_false(full.client:resumed())
        assert.is_false(full.server:resumed())
        assert.is_true(full.client:verified())
      end
      local full = again(pair, "b.test", ticket_of(pair))
      assert.equal(pki.der(other.cert), full.client:peer_certificates()[1])
      full = again(pair, nil, ticket_of(pair))
      assert.is_false(full.client:resumed())
    end)

    it("of no name is none for a name", function()
      local pair = first(nil)
      assert.is_true(again(pair, nil, ticket_of(pair)).client:resumed())
      assert.is_false(again(pair, "a.test", ticket_of(pair)).client:resumed())
    end)

    it("of a server that asked for nothing leads to a full handshake at one that wants a certificate", function()
      local key = ("k"):rep(64)
      local function server(ask)
        return { certificate = site, tickets = key, ask = ask }
      end
      local pair = sessions.connected { client = { priority = priority }, server = server() }
      local ticket = ticket_of(pair)
      local same = sessions.connected { client_context = pair.client_context, server = server(),
        client_session = { ticket = ticket } }
      assert.is_true(same.client:resumed())
      local asked = sessions.connected { client = { priority = priority, certificate = other },
        server = server "require", client_session = { ticket = ticket } }
      assert.is_false(asked.client:resumed())
      assert.equal(pki.der(other.cert), asked.server:peer_certificates()[1])
      assert.is_true(sessions.connected { client_context = asked.client_context, server = server "require",
        client_session = { ticket = ticket_of(asked) } }.client:resumed())
    end)
  end)
end

describe("a ClientHello that is sent again", function()
  it("may not ask for another name", function()
    local hellos = 0
    local pair = sessions.pair { client = { priority = "-GROUP-ALL:+GROUP-X25519:+GROUP-SECP384R1" },
      server = { priority = "-GROUP-ALL:+GROUP-SECP384R1", certificate = site },
      tamper = function(from, record)
        if from ~= "client" or record:byte(1) ~= 22 then return record end
        hellos = hellos + 1
        return hellos == 2 and record:gsub("a%.test", "b.test") or record
      end }
    local client, server = pair:handshake()
    assert.equal(2, hellos)
    assert.is_nil(server.ok)
    assert.equal("ClientHello", server.cause.at)
    assert.equal("illegal_parameter", client.cause.alert)
  end)
end)

describe("a listener", function()
  it("gives a client that comes back under another name that one's certificate", function()
    scheduler.run(function(spawn, wait)
      for _, version in ipairs { "TLS1.2", "TLS1.3" } do
        local listener = assert(tlsconnect.listen("127.0.0.1", 0, { wait = wait, certificate = site.chain,
          key = site.key, certificates = { { certificate = other.chain, key = other.key } } }))
        local _, port = listener:address()
        spawn(function()
          while true do
            local peer = listener:accept()
            if not peer then return end
            peer:send("x\n")
            peer:receive()
            peer:close()
          end
        end)
        local context = assert(tlsconnect.context { ca_file = authority.ca_file, max_version = version })
        local function visit(name)
          local client = assert(tlsconnect.connect("127.0.0.1", port, { context = context, server_name = name,
            wait = wait }))
          assert.equal("x", client:receive())
          local resumed, data = client:info().resumed, client.session:ticket()
          client:close()
          return resumed, data
        end
        assert.is_false(visit "a.test")
        local resumed, ticket = visit "a.test"
        assert.is_true(resumed)
        -- A client that mixes up its own sessions.
        local sessions_of = context:sessions()
        sessions_of:clear()
        sessions_of.take = function() return ticket end
        assert.is_false(visit "b.test")
        listener:close()
      end
    end)
  end)
end)

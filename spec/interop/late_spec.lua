-- What a process that makes one request loads, and what it does not wait for.
local child = require "spec.support.child"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"

describe("a process that makes one GET", function()
  local authority = pki.shared()
  local server

  setup(function()
    server = peers.nginx { cert = authority:issue { name = "a.test", ip = "127.0.0.1" },
      locations = { ["/"] = "return 200 'hello\\n';" } }
  end)

  -- The modules that are loaded after a GET with these options, as " name name ".
  local function loaded(options)
    local result = child.run(([[
      local answer = assert(require("tlsconnect").https.get("https://127.0.0.1:%d/", %s))
      local names = {}
      for name in pairs(package.loaded) do names[#names + 1] = name:match("^tlsconnect%%.(.*)$") end
      print(answer.body .. " " .. table.concat(names, " ") .. " ")
    ]]):format(server.port, options or "nil"), { environment = { SSL_CERT_FILE = authority.ca_file } })
    assert.equal("", result.err)
    return assert(result.out:match("^hello\n( .*)\n$"), result.out)
  end

  local function has(names, name)
    return names:find(" " .. name .. " ", 1, true) ~= nil
  end

  it("loads neither texts nor checks nor what other programs need", function()
    local names = loaded()
    assert.is_true(has(names, "stream"))
    for name in ([[options.rows options.check https.options error.codes trust.own trust.reason dial.race resolve
      https.body context.credentials sessions.file stream.bodies stream.gathering stream.views trace.shown pins keylog
      judge.conditions connection.wrap connection.accepted listener optional]]):gmatch("%S+") do
      assert.is_false(has(names, name), name)
    end
  end)

  it("loads them where it needs them", function()
    local names = loaded("{ trace = true, stream = false }")
    for name in ("options.rows options.check https.options trace.shown"):gmatch("%S+") do
      assert.is_true(has(names, name), name)
    end
    assert.is_false(has(names, "error.codes"))
  end)
end)

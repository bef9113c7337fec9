-- Sends that are gathered: in full records, and never left behind.
local core = require "tlsconnect.core"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local process = require "spec.support.process"
local sockets = require "spec.support.sockets"
local stream = require "tlsconnect.stream"
local tlsconnect = require "tlsconnect"

local authority = pki.shared()
local context

-- A server that answers each line turned round.
local function reverser()
  return peers.openssl_server { cert = authority:issue { name = "a.test" }, mode = "-rev" }
end

local function connect(server)
  context = context or assert(tlsconnect.context { ca_file = authority.ca_file })
  return assert(tlsconnect.connect(server.host, server.port,
    { context = context, server_name = "a.test", timeout = 20 }))
end

local function records(connection)
  return connection.session:counters().records_out
end

describe("setvbuf", function()
  it("gathers sends into full records", function()
    local connection = connect(reverser())
    assert.is_true(connection:setvbuf("full"))
    for _ = 1, 400 do assert.equal(100, connection:send(("x"):rep(99) .. "\n")) end
    assert.equal(2, records(connection))
    assert.is_true(connection:flush())
    assert.equal(3, records(connection))
    for _ = 1, 400 do assert.equal(("x"):rep(99), (connection:receive("*l"))) end
    connection:close()
  end)

  it("lets a request leave before its answer is read", function()
    local connection = connect(reverser())
    assert(connection:setvbuf("full"))
    assert.equal(3, connection:send("..one..", 3, 5) - 2)
    assert.equal(1, connection:send("\n"))
    assert.equal(0, records(connection))
    assert.equal("eno", (connection:receive("*l")))
    assert.equal(1, records(connection))
    connection:close()
  end)

  it("counts as send does, whatever part is sent", function()
    local connection = connect(reverser())
    assert(connection:setvbuf("full"))
    assert.equal(6, connection:send("abcdef"))
    assert.equal(4, connection:send("abcdef", 3, 4))
    assert.equal(5, connection:send("abcdef", 5, -2))
    assert.equal(6, connection:send("abcdef", 6, 100))
    assert.equal(2, connection:send(12))
    connection:send("\n")
    assert.equal("21fedcfedcba", (connection:receive("*l")))
    connection:close()
  end)

  it("sends what is gathered when it is turned off, and at close", function()
    local server = peers.openssl_server { cert = authority:issue { name = "a.test" }, mode = false }
    local connection = connect(server)
    assert(connection:setvbuf("full"))
    connection:send("first;")
    assert.is_true(connection:setvbuf("no"))
    assert.equal(1, records(connection))
    connection:send("second;")
    assert.equal(2, records(connection))
    assert(connection:setvbuf("full", 1000000))
    connection:send("third;")
    connection:close()
    assert.is_true(process.eventually(function()
      return server:output():find("first;second;third;", 1, true) ~= nil
    end))
  end)

  it("keeps what could not leave, and goes on with it: no byte lost, none twice", function()
    local near, far = sockets.pair()
    local waits = 0
    local connection = setmetatable({ stream = near, socket = near, fd = near:getfd(), recorder = {}, host = "h",
      port = 1, waiter = function() waits = waits + 1 return nil, "timeout" end }, stream)
    assert(connection:setvbuf("full", 4000000))
    local parts = {}
    for i = 1, 800000 do parts[i] = ("%09d\n"):format(i) end
    local data = table.concat(parts)
    local last, message, upto = connection:send(data)
    assert.is_nil(last)
    assert.equal("timeout", message)
    assert.equal(#data, upto)
    local got = {}
    repeat
      local piece = far:read("some", 10000000)
      if piece then got[#got + 1] = piece end
      local done = connection:flush()
    until done
    connection:setvbuf("no")
    near:shutdown("send")
    local rest
    repeat
      rest = far:read("a")
    until rest or not core.poll(far:getfd(), "r", core.now() + 20)
    got[#got + 1] = rest
    assert.is_true(data == table.concat(got))
    assert.is_true(waits > 1)
    near:close() far:close()
  end)

  it("refuses other modes and sizes", function()
    local connection = connect(reverser())
    assert.has_error(function() connection:setvbuf("line") end,
      "bad argument #1 to 'setvbuf' ('no' or 'full' expected)")
    assert.has_error(function() connection:setvbuf("full", 0) end,
      "bad argument #2 to 'setvbuf' (a number of bytes expected)")
    connection:close()
  end)
end)

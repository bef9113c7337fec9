-- What an open connection holds while nothing is said on it.
local core = require "tlsconnect.core"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local tlsconnect = require "tlsconnect"

local authority = pki.shared()
local server = peers.nginx { cert = authority:issue { name = "a.test", ip = "127.0.0.1" } }

local function connect(options)
  options = options or {}
  options.ca_file, options.server_name, options.session_cache = authority.ca_file, "a.test", false
  local connection = assert(tlsconnect.connect(server.host, server.port, options))
  assert(connection:send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"))
  local line, length
  repeat
    line = assert(connection:receive("*l"))
    length = line:match("^[Cc]ontent%-[Ll]ength: *(%d+)") or length
  until line == ""
  assert(connection:receive(tonumber(length)))
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

describe("the times of a connection without a trace", function()
  -- The steps that were gone through, in time; each begins where the one before it in time has ended, or later.
  local function steps_of(connection, names)
    local rows, by_name = connection:trace(), {}
    for _, row in ipairs(rows) do by_name[row.step] = row end
    local last = 0
    for _, name in ipairs(names) do
      local row = by_name[name]
      assert.is_true(row.ok, name)
      assert.is_true(row.started >= last - 2e-6 and row.elapsed >= 0, name)
      last = row.started + row.elapsed
    end
    assert.equal(0, rows[1].started)
    return rows
  end

  local whole = { "dns", "tcp", "client_hello", "server_hello", "key_exchange", "verify", "session_keys", "finished" }

  it("are there for each step, before and after it is closed", function()
    local before = tlsconnect.now()
    local connection = connect()
    assert.is_nil(connection.recorder)
    local rows = steps_of(connection, whole)
    assert.is_true(rows[9].started <= tlsconnect.now() - before)
    connection:close()
    assert.same(rows, steps_of(connection, whole))
  end)

  it("are there where a session was taken up again", function()
    local context = assert(tlsconnect.context { ca_file = authority.ca_file })
    local connection
    for _ = 1, 2 do
      connection = assert(tlsconnect.connect(server.host, server.port,
        { context = context, server_name = "a.test" }))
      assert(connection:send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"))
      assert(connection:receive("*l"))
      if not connection:info().resumed then connection:close() end
    end
    assert.is_true(connection:info().resumed)
    local rows = steps_of(connection,
      { "dns", "tcp", "client_hello", "server_hello", "key_exchange", "finished", "verify" })
    assert.is_true(rows[5].ok)
    connection:close()
  end)

  it("are told by an answer of https", function()
    local answer = assert(tlsconnect.https.get(("https://%s:%d/"):format(server.host, server.port),
      { ca_file = authority.ca_file }))
    local sum = 0
    for _, name in ipairs(whole) do sum = sum + assert.is_number(answer.timings[name]) end
    assert.is_true(sum <= answer.timings.total)
  end)
end)

describe("an idle connection", function()
  it("leaves the socket to its session, and finds it again", function()
    local connection = connect()
    assert.is_nil(connection.socket)
    collectgarbage() collectgarbage()
    local info = connection:info()
    assert.equal(server.port, info.remote_port)
    assert.equal("127.0.0.1", info.local_address)
    local fd = connection:getfd()
    assert.is_true(connection:shutdown("both"))
    assert.is_true(connection:close())
    local ready, _, cause = core.poll(fd, "r", core.now())
    assert.is_nil(ready)
    assert.equal("closed", cause.code)
  end)

  it("closes its descriptor when it is dropped, or collected", function()
    local connection = connect()
    local fd = connection:getfd()
    connection:_drop()
    assert.equal("closed", select(3, core.poll(fd, "r", core.now())).code)
    fd = connect():getfd()
    collectgarbage() collectgarbage()
    assert.equal("closed", select(3, core.poll(fd, "r", core.now())).code)
  end)
end)

describe("the memory of an idle connection", function()
  local COUNT, ROUNDS = 64, 5

  -- Bytes for each of so many connections, by a function that counts those in use: the middle one of some rounds, as
  -- a table of the interpreter's own may grow or shrink in one.
  local function each(used)
    local all, sizes = {}, {}
    for i = 1, COUNT do all[i] = false end
    local function count()
      for _ = 1, 3 do collectgarbage() end
      return used()
    end
    for round = 1, ROUNDS do
      local before = count()
      for i = 1, COUNT do all[i] = connect() end
      sizes[round] = (count() - before) / COUNT
      for i = 1, COUNT do
        all[i]:close()
        all[i] = false
      end
    end
    table.sort(sizes)
    return sizes[(ROUNDS + 1) / 2]
  end

  it("is a table of eight fields and a userdata in Lua", function()
    local most = { ["Lua 5.1"] = 460, ["Lua 5.2"] = 460, ["Lua 5.3"] = 400, ["Lua 5.4"] = 310 }
    local jit = rawget(_G, "jit")
    if jit then jit.off() end -- what it compiles is counted, too
    local size = each(function() return collectgarbage("count") * 1024 end)
    if jit then jit.on() end
    assert.is_true(size <= most[_VERSION], size)
  end)

  -- What malloc has handed out can be asked for where there is an FFI, whose Lua has its own memory elsewhere.
  local has_ffi, ffi = pcall(require, "ffi")
  local function of_c() return tonumber(ffi.C.mallinfo2().uordblks) end
  if has_ffi then
    ffi.cdef [[
      struct tlsconnect_mallinfo { size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks,
        keepcost; };
      struct tlsconnect_mallinfo mallinfo2(void);
    ]]
    has_ffi = pcall(of_c)
  end
  if has_ffi then
    it("is in C little more than GnuTLS's own, and no buffer", function()
      local size = each(of_c)
      assert.is_true(size <= 11776, size)
    end)
  end
end)

-- Step 2's sockets, without the race.
local child = require "spec.support.child"
local core = require "tlsconnect.core"
local sockets = require "spec.support.sockets"
local tmp = require "spec.support.tmp"

local function fails(code, ok, message, cause)
  assert.is_nil(ok)
  assert.is_string(message)
  assert.is_table(cause)
  assert.equal(code, cause.code)
  return cause
end

describe("a socket", function()
  it("connects over IPv4, and knows both addresses", function()
    local listener, address, port = sockets.listener()
    local client = assert(core.socket("inet"))
    local ok, message = client:connect(address, port)
    if not ok then
      assert.equal("want_write", message)
      assert.is_true(core.poll(client:getfd(), "w", core.now() + 30))
      assert.is_true(client:finish_connect())
    end
    assert.is_true(client:finish_connect())
    local server = sockets.accept(listener)
    assert.same({ "127.0.0.1", port, "inet" }, { client:peer_address() })
    assert.same({ client:local_address() }, { server:peer_address() })
    assert.same({ listener:local_address() }, { server:local_address() })
  end)

  it("connects over IPv6", function()
    local listener, address, port = sockets.listener("::1")
    local client = sockets.connect(address, port)
    local server = sockets.accept(listener)
    assert.same({ "::1", port, "inet6" }, { client:peer_address() })
    assert.equal(4, client:write("over"))
    assert.equal("over", sockets.read(server, 4))
  end)

  it("connects over a Unix socket", function()
    local path = tmp.path("s")
    local listener = assert(core.socket("unix"))
    assert.is_true(listener:bind(path))
    assert.is_true(listener:listen())
    assert.same({ path, nil, "unix" }, { listener:local_address() })
    local client = assert(core.socket("unix"))
    assert.is_true(client:connect(path))
    local server = sockets.accept(listener)
    assert.same({ path, nil, "unix" }, { client:peer_address() })
    assert.equal(5, server:write("local"))
    assert.equal("local", sockets.read(client, 5))
    assert.equal("unix", select(3, server:peer_address()))
  end)

  it("never blocks and is closed on exec, whichever way it was made", function()
    local function check(socket)
      local flags = sockets.flags(socket:getfd())
      assert.equal(1, math.floor(flags / 0x800) % 2) -- O_NONBLOCK
      assert.equal(1, math.floor(flags / 0x80000) % 2) -- O_CLOEXEC
    end
    local listener, address, port = sockets.listener()
    local client = sockets.connect(address, port)
    local server = sockets.accept(listener)
    check(listener)
    check(client)
    check(server)
    check(assert(core.adopt(server:detach())))
    check(core.socket("unix"))
    check(core.socket("inet6"))
  end)

  it("wants to read while nobody connects or sends", function()
    local listener, address, port = sockets.listener()
    assert.same({ nil, "want_read" }, { listener:accept() })
    local client = sockets.connect(address, port)
    assert.same({ nil, "want_read" }, { client:read(1) })
  end)

  it("drops what has come, read already or not, and hears what comes then", function()
    local here, there = sockets.pair()
    here:write("a line\nand more")
    assert.equal("a line", sockets.read(there, "l"))
    here:write(("x"):rep(9000))
    assert.is_true(core.poll(there:getfd(), "r", core.now() + 30))
    assert.is_true(there:drop())
    assert.equal(0, there:buffered())
    assert.same({ nil, "want_read" }, { there:read(1) })
    assert.is_true(there:drop())
    here:write("later")
    assert.equal("later", sockets.read(there, 5))
    there:close()
    fails("closed", there:drop())
  end)

  it("sends what string.sub would give, and tells the last position", function()
    local here, there = sockets.pair()
    assert.equal(5, here:write("hello"))
    assert.equal(4, here:write("hello", 2, 4))
    assert.equal(5, here:write("hello", -2))
    assert.equal(4, here:write("hello", 3, -2))
    assert.equal(5, here:write("hello", 5, 100))
    assert.equal(3, here:write("hello", 4, 3))
    assert.equal(0, here:write(""))
    assert.equal(5, here:write("hello", -100))
    here:close()
    assert.equal("hello" .. "ell" .. "lo" .. "ll" .. "o" .. "hello", sockets.read(there, "a"))
  end)

  it("goes on from the byte where it would have blocked", function()
    local here, there = sockets.pair()
    local data = {}
    for i = 1, 400000 do data[i] = ("%08d"):format(i) end
    data = table.concat(data):rep(5)
    local last, message, upto = here:write(data)
    local wanted, got = 0, {}
    while not last do
      assert.equal("want_write", message)
      wanted = wanted + 1
      repeat
        local part = there:read("some", 1000000)
        got[#got + 1] = part
      until not part
      assert.is_true(core.poll(here:getfd(), "w", core.now() + 30))
      last, message, upto = here:write(data, upto + 1)
    end
    assert.is_true(wanted > 0)
    assert.equal(#data, last)
    here:close()
    got[#got + 1] = sockets.read(there, "a")
    assert.is_true(table.concat(got) == data)
  end)

  it("says that the peer broke off, and no signal ends the process", function()
    local here, there = sockets.pair()
    there:close()
    local last, message, cause, upto
    repeat
      last, message, cause, upto = here:write(("x"):rep(1000))
    until not last and message ~= "want_write"
    assert.equal("reset", cause.code)
    assert.is_string(message)
    assert.equal(0, upto)
  end)

  it("ends its own direction and still hears the other", function()
    local here, there = sockets.pair()
    assert.is_true(here:shutdown("send"))
    assert.equal("", sockets.read(there, "a"))
    assert.equal(5, there:write("still"))
    assert.equal("still", sockets.read(here, 5))
    fails("reset", here:write("x"))
    assert.is_true(there:shutdown())
    fails("closed", core.socket("inet"):shutdown("both"))
  end)

  it("names what the system says of connecting", function()
    local listener, address, port = sockets.listener()
    listener:close()
    local client = core.socket("inet")
    local ok, message, cause = client:connect(address, port)
    if not ok and message == "want_write" then
      core.poll(client:getfd(), "w", core.now() + 30)
      ok, message, cause = client:finish_connect()
    end
    fails("refused", ok, message, cause)
    assert.is_number(cause.errno)
    fails("not_found", core.socket("unix"):connect("/nonexistent/socket"))
    fails("unreachable", core.socket("inet"):connect("255.255.255.255", 9))
    fails("address_not_available", core.socket("inet"):bind("192.0.2.1", 0))
    listener, address, port = sockets.listener()
    fails("address_in_use", core.socket("inet"):bind(address, port))
    assert.is_not_nil(listener)
  end)

  it("reads addresses in one strict form, of its own family", function()
    for _, text in ipairs { "127.1", "0x7f.0.0.1", "2130706433", "127.0.0.01", "localhost", "", " 127.0.0.1",
      "127.0.0.1\0", "127.0.0.1 ", "[::1]" } do
      fails("bad_address", core.socket("inet"):connect(text, 1))
    end
    fails("bad_address", core.socket("inet"):connect("::1", 1))
    fails("bad_address", core.socket("inet6"):connect("127.0.0.1", 1))
    fails("bad_address", core.socket("inet6"):bind("::1%nosuchzone", 1))
  end)

  it("Z7 refuses a path with a NUL, and one that is empty or too long", function()
    fails("bad_path", core.socket("unix"):connect("/tmp/a\0b"))
    fails("bad_path", core.socket("unix"):bind("\0abstract"))
    fails("bad_path", core.socket("unix"):bind(""))
    fails("bad_path", core.socket("unix"):bind("/" .. ("x"):rep(200)))
  end)

  it("is closed once, and says so to whoever goes on", function()
    local here, there = sockets.pair()
    there:write("x")
    sockets.readable(here)
    assert.is_true(here:close())
    assert.is_true(here:close())
    assert.equal(-1, here:getfd())
    fails("closed", here:read(1))
    fails("closed", here:write("x"))
    assert.equal(0, select(4, here:write("x")))
    fails("closed", here:connect("127.0.0.1", 1))
    fails("closed", here:finish_connect())
    fails("closed", here:bind("127.0.0.1", 1))
    fails("closed", here:listen())
    fails("closed", here:accept())
    fails("closed", here:shutdown())
    fails("closed", here:set("nodelay", true))
    fails("closed", here:local_address())
    fails("closed", here:peer_address())
    assert.equal("", here:take())
    assert.equal(-1, here:detach())
    assert.matches("closed", tostring(here))
  end)

  it("gives its descriptor up, and takes one over", function()
    local here, there = sockets.pair()
    local fd = here:getfd()
    assert.equal(fd, here:detach())
    assert.equal(-1, here:getfd())
    local again = assert(core.adopt(fd))
    assert.equal(fd, again:getfd())
    assert.matches("descriptor " .. fd, tostring(again))
    here = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert.equal(2, again:write("ok"))
    assert.equal("ok", sockets.read(there, 2))
  end)

  it("does not take what is no stream socket, and leaves it open", function()
    local poller = core.poller()
    local ok, _, cause = core.adopt(poller:getfd())
    assert.is_nil(ok)
    assert.equal("system", cause.code)
    collectgarbage()
    collectgarbage()
    assert.equal(0, poller:ready({}))
    fails("closed", core.adopt(1000000))
    assert.has_error(function() core.adopt(-1) end)
    assert.has_error(function() core.adopt("x") end)
  end)

  it("is closed by the collector", function()
    local before = sockets.open_descriptors()
    for _ = 1, 200 do
      local here, there = sockets.pair()
      assert(here:getfd() and there:getfd())
    end
    -- a register of this function may keep the last ones
    assert.is_true(sockets.at_most_open(before + 2))
  end)

  it("can be used by a finaliser that runs after its own", function()
    local result = child.run([[
      local core = require "tlsconnect.core"
      local guard
      if newproxy then -- luacheck: ignore
        guard = newproxy(true)
      else
        guard = setmetatable({}, {})
      end
      local socket
      getmetatable(guard).__gc = function()
        io.write(socket:getfd(), " ", tostring(socket:close()), " ", select(3, socket:read(1)).code, " ",
          tostring(socket), " ", socket:buffered(), "\n")
      end
      if not newproxy then setmetatable(guard, getmetatable(guard)) end
      socket = core.socket("inet")
      keep = { guard, socket }
    ]])
    assert.equal("-1 true closed tlsconnect.socket (closed) 0\n", result.out)
    assert.equal("", result.err)
    assert.equal(0, result.code)
  end)

  it("closes at the end of its block where Lua has that", function()
    if _VERSION ~= "Lua 5.4" then
      assert.is_function(core.socket("inet").close)
      return
    end
    local chunk = assert(load([[
      local core = require "tlsconnect.core"
      local kept
      do
        local socket <close> = core.socket("inet")
        kept = socket
      end
      return kept:getfd()
    ]]))
    assert.equal(-1, chunk())
  end)

  it("takes its settings, and raises on one that is none", function()
    local socket = core.socket("inet")
    for _, name in ipairs { "nodelay", "keepalive", "reuseaddr" } do
      assert.is_true(socket:set(name, true))
      assert.is_true(socket:set(name, false))
    end
    assert.is_true(socket:set("send_buffer", 10000))
    assert.is_true(socket:set("receive_buffer", 10000))
    assert.is_true(core.socket("inet6"):set("v6only", true))
    assert.has_error(function() socket:set("nosuch", true) end)
    assert.has_error(function() socket:set("nodelay", 1) end)
    assert.has_error(function() socket:connect("127.0.0.1", 65536) end)
    assert.has_error(function() socket:connect("127.0.0.1", -1) end)
    assert.has_error(function() socket:connect("127.0.0.1") end)
    assert.has_error(function() socket:shutdown("x") end)
    assert.has_error(function() socket:listen(-1) end)
    assert.has_error(function() core.socket("x") end)
    assert.has_error(function() socket.close({}) end)
  end)
end)

describe("connecting", function()
  it("T4 takes an error or a hang-up alone for readiness, and fetches it once", function()
    local listener, address, port = sockets.listener()
    listener:close()
    local client = core.socket("inet")
    local _, message = client:connect(address, port)
    assert.equal("want_write", message)
    -- Asked for reading only, poll has nothing but ERR and HUP to report.
    assert.is_true(core.poll(client:getfd(), "r", core.now() + 30))
    fails("refused", client:finish_connect())
    fails("closed", client:finish_connect())
    -- A socket that never dialled hangs up at once.
    fails("closed", core.socket("inet"):finish_connect())
    -- A descriptor that is not open is an error, not a readiness.
    fails("closed", core.poll(1000000, "r", core.now() + 30))
  end)

  it("T5 takes its own address as peer for a refusal", function()
    for _, family in ipairs { "inet", "inet6" } do
      local socket = assert(core.socket(family))
      assert(socket:bind(family == "inet" and "127.0.0.1" or "::1", 0))
      local ok, message, cause = socket:connect(socket:local_address())
      if message == "want_write" then
        assert(core.poll(socket:getfd(), "w", core.now() + 30))
        ok, message, cause = socket:finish_connect()
      end
      fails("refused", ok, message, cause)
    end
  end)

  it("T6 waits when a signal interrupts it, and never dials twice", function()
    local listener, address, port = sockets.listener()
    local result = child.run(([[
      local core = require "tlsconnect.core"
      local socket = core.socket("inet")
      print(socket:connect("%s", %d))
      for _ = 1, 3 do socket:connect("%s", %d) end
      print(core.poll(socket:getfd(), "w", core.now() + 30))
      print(socket:connect("%s", %d))
      print(socket:finish_connect(), select(2, socket:peer_address()))
    ]]):format(address, port, address, port, address, port),
      { shim = true, environment = { SPEC_CONNECT = "interrupted" } })
    assert.equal("connect 1\n", result.err)
    assert.equal(("nil\twant_write\ntrue\ntrue\ntrue\t%d\tinet\n"):format(port), result.out)
    assert.equal(0, result.code)
    assert.is_not_nil(listener:accept())
  end)

  it("tells a full queue from one that will take it (Unix)", function()
    local path = tmp.path("s")
    local listener = core.socket("unix")
    assert(listener:bind(path))
    assert(listener:listen(0))
    local first = core.socket("unix")
    assert(first:connect(path))
    local kept, cause = {}, nil
    for i = 1, 8 do
      kept[i] = core.socket("unix")
      local ok, _, why = kept[i]:connect(path)
      cause = not ok and why or cause
    end
    assert.equal("backlog_full", cause.code)
  end)
end)

describe("descriptors", function()
  it("Z3 may be 0 to 2, or far above 1024", function()
    local text = [[
      local core = require "tlsconnect.core"
      local many = {}
      local out = assert(io.open(%q, "w"))
      for i = 1, %d do many[i] = assert(core.socket("inet")) end
      local listener = assert(core.socket("inet"))
      assert(listener:bind("127.0.0.1", 0))
      assert(listener:listen())
      local address, port = listener:local_address()
      local client = assert(core.socket("inet"))
      client:connect(address, port)
      assert(core.poll(client:getfd(), "w", core.now() + 30))
      assert(client:finish_connect())
      assert(core.poll(listener:getfd(), "r", core.now() + 30))
      local server = assert(listener:accept())
      local poller = assert(core.poller())
      assert(poller:add(server:getfd(), "r"))
      client:write("data\n")
      assert(core.poll(poller:getfd(), "r", core.now() + 30))
      local list = {}
      assert(poller:ready(list) == 1 and list[1] == server:getfd())
      local lookup = assert(core.lookup("localhost", "inet"))
      assert(core.poll(lookup:getfd(), "r", core.now() + 30))
      out:write(server:read("l"), " ", listener:getfd(), " ", lookup:result()[1])
      out:close()
    ]]
    local out = tmp.path("out")
    local result = child.run(text:format(out, 0), { redirect = "<&- >&- 2>&-" })
    assert.equal(0, result.code)
    local fd = tonumber(tmp.read(out):match("^data (%d+) 127%.0%.0%.1$"))
    assert.is_true(fd <= 2)
    result = child.run(text:format(out, 1100), { files = 1200 })
    assert.equal("", result.err)
    fd = tonumber(tmp.read(out):match("^data (%d+) 127%.0%.0%.1$"))
    assert.is_true(fd > 1024)
  end)

  it("that are used up are an error by name", function()
    local result = child.run([[
      local core = require "tlsconnect.core"
      local listener = assert(core.socket("inet"))
      assert(listener:bind("127.0.0.1", 0))
      assert(listener:listen())
      local client = core.socket("inet")
      client:connect(listener:local_address())
      local many, cause, _ = {}, nil, nil
      repeat
        many[#many + 1], _, cause = core.socket("inet")
      until cause
      print(cause.code)
      core.poll(listener:getfd(), "r", core.now() + 30)
      print(select(3, listener:accept()).code)
      print(select(3, core.poller()).code)
      print(select(3, core.lookup("localhost", "inet")).code)
      many[1]:close()
      print(listener:accept() ~= nil)
    ]], { files = 40 })
    assert.equal(("too_many_files\n"):rep(4) .. "true\n", result.out)
    assert.equal("", result.err)
  end)
end)

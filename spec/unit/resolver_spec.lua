-- Host names, addresses as text, and look-ups on threads.
local child = require "spec.support.child"
local core = require "tlsconnect.core"
local sockets = require "spec.support.sockets"
local tmp = require "spec.support.tmp"

local function refused(name)
  local ascii, message, cause = core.to_ascii(name)
  assert.is_nil(ascii)
  assert.equal("bad_host", cause.code)
  assert.is_nil(message:find("[%c\128-\255]"))
  -- what is refused here is refused for a look-up as well, or was never ASCII
  return message
end

local function answer(lookup)
  local addresses, message, cause = lookup:result()
  while not addresses and message == "want_read" do
    assert(core.poll(lookup:getfd(), "r", core.now() + 60))
    addresses, message, cause = lookup:result()
  end
  return addresses, message, cause
end

describe("a host name", function()
  it("has one spelling: A-labels, lower case, no dot at the end", function()
    local spellings = {
      ["example.org"] = "example.org", ["EXAMPLE.Org."] = "example.org", ["a"] = "a",
      ["b\195\188cher.example"] = "xn--bcher-kva.example", ["B\195\156CHER.example."] = "xn--bcher-kva.example",
      ["bu\204\136cher.example"] = "xn--bcher-kva.example", ["XN--BCHER-KVA.Example"] = "xn--bcher-kva.example",
      ["fa\195\159.de"] = "xn--fa-hia.de", ["_sip._tcp.\195\188.de"] = "_sip._tcp.xn--tda.de",
      ["\240\159\146\169.la"] = "xn--ls8h.la", ["a-.b--c.d"] = "a-.b--c.d", ["1.2.3.a4"] = "1.2.3.a4",
      ["\226\132\170.test"] = "k.test", ["a\194\173b.test"] = "ab.test",
    }
    for name, ascii in pairs(spellings) do
      assert.equal(ascii, core.to_ascii(name))
      assert.equal(ascii, core.to_ascii(ascii))
    end
  end)

  it("has at most 63 bytes a label and 253 in all", function()
    local label = ("a"):rep(63)
    assert.equal(label .. ".b", core.to_ascii(label .. ".b"))
    assert.matches("label longer", refused(label .. "a.b"))
    local name = ("a."):rep(126) .. "b"
    assert.equal(name, core.to_ascii(name))
    assert.equal(name, core.to_ascii(name .. "."))
    assert.matches("longer than 253", refused(name .. "c"))
    assert.matches("longer than 253", refused(("a."):rep(5000) .. "b"))
    assert.matches("label longer", refused(("a"):rep(1000000)))
    refused(("\195\188"):rep(60))
    refused(("\195\188"):rep(1000000))
    for _, empty in ipairs { "", ".", "..", "a..b", ".a", "a..", "\227\128\130" } do refused(empty) end
  end)

  it("D1 with NUL, CR, LF, a space or another byte that no name has is refused", function()
    for byte = 0, 127 do
      local text = "good" .. string.char(byte) .. "evil.test"
      if string.char(byte):find("[%w%-_.]") then
        assert.is_string(core.to_ascii(text))
      else
        refused(text)
        local lookup, _, cause = core.lookup(text, "inet")
        assert.is_nil(lookup)
        assert.equal("bad_host", cause.code)
        refused("b\195\188cher" .. string.char(byte) .. ".test")
      end
    end
    for _, text in ipairs { "good.test\0.evil", "good.test\r\nX: y", "good.test ", "\tgood.test", "x\255.test",
      "\195", "x\237\160\128.test", "a%00b", "user@host", "[::1]", "host:80", "a/b", "*.test" } do
      refused(text)
    end
  end)

  it("D5 that some would read as an address is refused; an address has one form", function()
    for _, text in ipairs { "127.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.01", "127.0.0.1",
      "1.2.3.4.", "1.2.3.4.5", "256.1.1.1", "a.1", "a.0x", "a.0XfF", "0x", "\239\188\145\239\188\146\239\188\151.1" } do
      refused(text)
      assert.is_nil(core.lookup(text, "inet"))
    end
    for _, text in ipairs { "127.1", "0x7f.1", "2130706433", "127.0.0.01", "127.0.0.1.", "1.2.3.4 ", "", "::1 ",
      "[::1]", "::1%", "::1%a/b", "::1%nosuchzone", "::1%0", "::ffff:1.2.3", "1:2:3:4:5:6:7:8:9", "127.0.0.1\0",
      "localhost" } do
      assert.is_nil(core.literal(text))
    end
    assert.same({ "127.0.0.1", "inet" }, { core.literal("127.0.0.1") })
    assert.same({ "::1", "inet6" }, { core.literal("0:0:0:0:0:0:0:1") })
    assert.same({ "2001:db8::a", "inet6" }, { core.literal("2001:DB8:0::A") })
    assert.same({ "::ffff:127.0.0.1", "inet6" }, { core.literal("::FFFF:7f00:1") })
    assert.same({ "fe80::1", "inet6", "lo" }, { core.literal("fe80::1%lo") })
    assert.same({ "fe80::1", "inet6", "1" }, { core.literal("fe80::1%1") })
  end)

  it("D6 that hides ASCII behind xn--, or other dots, is made plain once or refused", function()
    for _, text in ipairs { "xn--google-.com", "xn--a", "xn--a-", "xn--", "xn--1.test", "xn--0.pt", "xn--a-ecp.ru",
      "a.XN--A-", "xn--\195\188.test" } do
      refused(text)
    end
    assert.equal("a.b.c", core.to_ascii("a\227\128\130b\239\188\142c\239\189\161"))
    assert.equal("xn--tda.test", core.to_ascii("\195\188\227\128\130test"))
    refused("a\227\128\130\227\128\130b")
    -- What the mapping leaves out would be another host: full-width slash, at and space, a/c, "1."
    for _, text in ipairs { "ev\239\188\143il.test", "good\239\188\160evil.test", "a\227\128\128b.test",
      "ex\226\132\128mple.test", "a\226\146\136b.test", "a_\195\188.test", "\194\173.test", "a\226\128\166b.test" } do
      refused(text)
    end
  end)

  it("D3 an address is judged through whatever carries it", function()
    local kinds = {
      ["8.8.8.8"] = "public", ["2606:4700::1111"] = "public", ["::ffff:8.8.8.8"] = "public",
      ["0.0.0.0"] = "unspecified", ["0.1.2.3"] = "unspecified", ["::"] = "unspecified",
      ["127.0.0.1"] = "loopback", ["127.255.0.1"] = "loopback", ["::1"] = "loopback",
      ["::ffff:127.0.0.1"] = "loopback", ["64:ff9b::7f00:1"] = "loopback", ["2002:7f00:1::5"] = "loopback",
      ["169.254.169.254"] = "link_local", ["::ffff:169.254.169.254"] = "link_local", ["fe80::1"] = "link_local",
      ["fe80::1%lo"] = "link_local", ["febf::1"] = "link_local",
      ["10.0.0.1"] = "private", ["172.16.0.1"] = "private", ["172.31.255.255"] = "private",
      ["172.32.0.1"] = "public", ["172.15.0.1"] = "public", ["192.168.1.1"] = "private", ["fd00::1"] = "private",
      ["fec0::1"] = "private", ["64:ff9b:1::1"] = "private", ["::ffff:10.0.0.1"] = "private",
      ["100.64.0.1"] = "shared", ["100.128.0.1"] = "public", ["192.0.2.1"] = "documentation",
      ["2001:db8::1"] = "documentation", ["3fff::1"] = "documentation", ["198.18.0.1"] = "benchmark",
      ["224.0.0.1"] = "multicast", ["239.1.1.1"] = "multicast", ["ff02::1"] = "multicast",
      ["255.255.255.255"] = "broadcast", ["240.0.0.1"] = "reserved", ["::127.0.0.1"] = "reserved",
      ["100::1"] = "reserved", ["2001::1"] = "reserved", ["5f00::1"] = "reserved", ["4000::1"] = "reserved",
      ["192.0.0.8"] = "reserved", ["192.88.99.1"] = "reserved",
    }
    for address, kind in pairs(kinds) do assert.same({ address, kind }, { address, core.classify(address) }) end
    assert.is_nil(core.classify("localhost"))
    assert.is_nil(core.classify("127.1"))
  end)
end)

describe("a look-up", function()
  it("finds what the system knows, each family by itself", function()
    local inet = assert(core.lookup("localhost", "inet"))
    local inet6 = assert(core.lookup("localhost", "inet6"))
    assert.is_true(inet:getfd() >= 0)
    assert.equal(1, math.floor(sockets.flags(inet:getfd()) / 0x80000) % 2) -- O_CLOEXEC
    for _, address in ipairs(assert(answer(inet))) do assert.equal("inet", select(2, core.literal(address))) end
    assert.same({ "127.0.0.1" }, answer(inet))
    local addresses, message, cause = answer(inet6)
    if addresses then
      assert.same({ "::1" }, addresses)
    else
      assert.is_string(message)
      assert.is_number(cause.gai)
    end
    assert.is_true(inet:close())
    assert.is_true(inet:close())
    assert.equal(-1, inet:getfd())
    assert.equal("closed", select(3, inet:result()).code)
  end)

  it("names what the resolver says, without a word from outside", function()
    -- Numbers of Linux's netdb.h.
    local codes = { [-2] = "unknown_host", [-5] = "no_address", [-3] = "lookup_failed", [-4] = "lookup_failed",
      [-10] = "memory", [-11] = "too_many_files" }
    for number, code in pairs(codes) do
      local result = child.run([[
        local core = require "tlsconnect.core"
        local lookup = assert(core.lookup("a.test", "inet"))
        assert(core.poll(lookup:getfd(), "r", core.now() + 60))
        local none, message, cause = lookup:result()
        print(none, type(message), cause.code, cause.gai, cause.errno)
      ]], { shim = true, environment = { SPEC_ERROR = number } })
      assert.equal("", result.err)
      assert.equal(("nil\tstring\t%s\t%s\n"):format(code, number == -11 and "nil\t24" or number .. "\tnil"), result.out)
    end
  end)

  it("raises on wrong arguments", function()
    assert.has_error(function() core.lookup("localhost") end)
    assert.has_error(function() core.lookup("localhost", "unix") end)
    assert.has_error(function() core.lookup(nil, "inet") end)
    assert.has_error(function() core.to_ascii() end)
  end)

  it("D2 with thousands of answers gives each address once, and not too many", function()
    local result = child.run([[
      local core = require "tlsconnect.core"
      local lookup = assert(core.lookup("many.test", "inet"))
      assert(core.poll(lookup:getfd(), "r", core.now() + 60))
      local addresses = assert(lookup:result())
      local seen = {}
      for _, address in ipairs(addresses) do
        assert(not seen[address] and core.literal(address))
        seen[address] = true
      end
      print(#addresses, addresses[1], addresses[2])
    ]], { shim = true, environment = { SPEC_ANSWERS = "5000" } })
    assert.equal("256\t127.0.0.1\t127.0.0.2\n", result.out)
    assert.equal("", result.err)
  end)

  it("D7 may be given up hundreds of times: threads are bounded, nothing is leaked", function()
    local gate = tmp.path("gate")
    local result = child.run(([[
      local core = require "tlsconnect.core"
      local function threads()
        local file = io.open("/proc/self/status")
        local count = file:read("*a"):match("Threads:%%s+(%%d+)")
        file:close()
        return tonumber(count)
      end
      local function descriptors()
        collectgarbage()
        collectgarbage()
        local file = io.open("/proc/self/stat")
        local pid = file:read("*a"):match("^%%d+")
        file:close()
        local pipe = io.popen("ls /proc/" .. pid .. "/fd | wc -l")
        local count = pipe:read("*a")
        pipe:close()
        return tonumber(count)
      end
      local alone, before = threads(), descriptors()
      for i = 1, 300 do
        local lookup = assert(core.lookup("slow" .. i .. ".test", i %% 2 == 0 and "inet" or "inet6"))
        if i %% 3 > 0 then assert(lookup:close()) end
      end
      assert(threads() - alone <= 16, "threads: " .. threads())
      assert(descriptors() <= before + 2, "descriptors") -- a register may keep the last ones
      -- One that is still wanted waits its turn behind those that were given up.
      local wanted = assert(core.lookup("localhost", "inet"))
      assert(select(2, wanted:result()) == "want_read")
      assert(select(2, core.poll(wanted:getfd(), "r", core.now() + 0.05)) == "timeout")
      assert(io.open(%q, "w")):close()
      assert(core.poll(wanted:getfd(), "r", core.now() + 60))
      assert(wanted:result()[1] == "127.0.0.1")
      while threads() > alone do core.poll(0, "r", core.now() + 0.005) end
      wanted:close()
      assert(descriptors() <= before + 2, "descriptors in the end")
      print("ok")
    ]]):format(gate), { shim = true, environment = { SPEC_LOOKUP = gate, SPEC_ANSWERS = "3" } })
    assert.equal("", result.err)
    assert.equal("ok\n", result.out)
    assert.equal(0, result.code)
  end)

  it("D7 that is under way when the state closes does no harm", function()
    for _, close in ipairs { "", "lookup:close()", "os.exit(0, true)", "lookup = nil collectgarbage()" } do
      local result = child.run([[
        local core = require "tlsconnect.core"
        local kept = {}
        for i = 1, 40 do kept[i] = core.lookup("slow.test", "inet") end
        local lookup = core.lookup("slow.test", "inet6")
        print "ending"
      ]] .. close, { shim = true, environment = { SPEC_LOOKUP = "/nonexistent/gate" } })
      assert.equal("ending\n", result.out)
      assert.equal("", result.err)
      assert.equal(0, result.code)
    end
  end)

  it("waits in a queue that is bounded", function()
    local result = child.run([[
      local core = require "tlsconnect.core"
      local kept, cause, _ = {}, nil, nil
      repeat
        kept[#kept + 1], _, cause = core.lookup("slow.test", "inet")
      until cause or #kept > 2000
      print(#kept >= 1024 and #kept <= 1040, cause.code)
      kept[1000]:close()
      print(core.lookup("slow.test", "inet") ~= nil)
    ]], { shim = true, files = 4096, environment = { SPEC_LOOKUP = "/nonexistent/gate" } })
    assert.equal("true\ttoo_many_lookups\ntrue\n", result.out)
    assert.equal("", result.err)
  end)

  it("leaves the program's signals to the program's threads", function()
    local result = child.run([[
      local core = require "tlsconnect.core"
      local lookup = core.lookup("slow.test", "inet")
      local pid = io.open("/proc/self/stat"):read("*a"):match("^%d+")
      local list = io.popen("ls /proc/" .. pid .. "/task")
      local helpers = 0
      for task in list:lines() do
        if task ~= pid then
          local status = io.open("/proc/" .. pid .. "/task/" .. task .. "/status"):read("*a")
          local blocked = status:match("SigBlk:%s+(%x+)")
          local low = tonumber(blocked:sub(-4), 16)
          -- HUP, INT, QUIT, USR1, USR2, PIPE, ALRM, TERM: all but KILL (9)
          if low == 0xfeff or low == 0x7eff + 0x8000 then helpers = helpers + 1 end
        end
      end
      list:close()
      local mine = io.open("/proc/self/status"):read("*a"):match("SigBlk:%s+(%x+)")
      print(helpers, tonumber(mine, 16))
      assert(lookup)
    ]], { shim = true, environment = { SPEC_LOOKUP = "/nonexistent/gate" } })
    assert.equal("", result.err)
    assert.equal("1\t0\n", result.out)
  end)

  it("Z4 begun before a fork fails by name in the child, at once, and goes on in the parent", function()
    if os.getenv("TLSCONNECT_PRELOAD") then
      pending("AddressSanitizer's allocator does not survive a fork beside threads")
      return
    end
    local gate = tmp.path("gate")
    local result = child.run(([[
      local core = require "tlsconnect.core"
      local lookups, poller = {}, core.poller()
      for i = 1, 30 do
        lookups[i] = assert(core.lookup("localhost", "inet"))
        poller:add(lookups[i]:getfd(), "r")
      end
      core.lookup("localhost", "inet"):close()
      local side = os.getenv("SPEC_FORK")
      if side == "child" then
        local one = lookups[1]
        assert(core.poll(one:getfd(), "r"))
        assert(core.poll(poller:getfd(), "r"))
        local list = {}
        for i = 1, 60 do list[i] = false end
        assert(poller:ready(list) == 30)
        local codes = {}
        for i = 1, 30 do codes[select(3, lookups[i]:result()).code] = true end
        assert(codes.forked and next(codes, "forked") == nil)
        for i = 1, 20 do lookups[i]:close() end
        assert(io.open(%q, "w")):close()
        local own = assert(core.lookup("localhost", "inet"))
        assert(core.poll(own:getfd(), "r", core.now() + 60))
        io.stdout:write("child ", own:result()[1], "\n")
        io.stdout:close()
        os.exit(0, true)
      end
      print(os.getenv("SPEC_WAIT"))
      for i = 1, 30 do
        assert(core.poll(lookups[i]:getfd(), "r", core.now() + 60))
        assert(lookups[i]:result()[1] == "127.0.0.1")
      end
      print("parent")
    ]]):format(gate), { shim = true, environment = { SPEC_LOOKUP = gate, SPEC_ANSWERS = "2" } })
    assert.equal("", result.err)
    assert.equal("child 127.0.0.1\nexit 0\nparent\n", result.out)
    assert.equal(0, result.code)
  end)
end)

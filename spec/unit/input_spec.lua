-- Reading by pattern, over plain sockets.
local core = require "tlsconnect.core"
local sockets = require "spec.support.sockets"

describe("reading", function()
  local here, there

  before_each(function() here, there = sockets.pair() end)
  after_each(function()
    here:close()
    there:close()
  end)

  -- What the peer sends arrives in one piece before the reader looks.
  local function send(data)
    assert.equal(#data, there:write(data))
    local deadline = core.now() + 30
    repeat sockets.readable(here) until here:buffered() > 0 or core.now() < deadline
  end

  local function wants(...)
    local data, message, cause = here:read(...)
    assert.is_nil(data)
    assert.equal("want_read", message)
    assert.is_nil(cause)
  end

  local function fails(code, ...)
    local data, message, cause = sockets.read(here, ...)
    assert.is_nil(data)
    assert.is_string(message)
    assert.equal(code, cause.code)
    return message
  end

  it("gives exactly n bytes, once they are there", function()
    send("hello")
    wants(6)
    assert.equal(5, here:buffered())
    send(" world")
    assert.equal("hello ", sockets.read(here, 6))
    assert.equal("world", sockets.read(here, 5))
    assert.equal("", here:read(0))
    assert.equal(0, here:buffered())
  end)

  it("gives a line without its end, or with it", function()
    send("one\r\ntwo\n\r\n\nfi\rve\r\nsix\r\nseven\n")
    assert.equal("one", sockets.read(here, "l"))
    assert.equal("two", here:read("l"))
    assert.equal("", here:read("l"))
    assert.equal("", here:read("l"))
    assert.equal("fi\rve", here:read("l"))
    assert.equal("six\r\n", here:read("L"))
    assert.equal("seven\n", here:read("L"))
    wants("l")
  end)

  it("gives a head through its first empty line", function()
    send("a: b\r\nc: d\r\n\r\nbody")
    assert.equal("a: b\r\nc: d\r\n\r\n", sockets.read(here, "head"))
    assert.equal("body", here:read(4))
    send("a: b\nc: d\n\nrest\n\r\n\r\n")
    assert.equal("a: b\nc: d\n\n", sockets.read(here, "head"))
    assert.equal("rest\n\r\n", here:read("head"))
    assert.equal("\r\n", here:read("head"))
  end)

  it("finds the end of a head wherever it is cut", function()
    local text = "x\r\ny: z\r\n\r\n!"
    for cut = 1, #text - 1 do
      send(text:sub(1, cut))
      local first = here:read("head")
      if cut < #text - 1 then
        assert.is_nil(first)
        send(text:sub(cut + 1))
        first = sockets.read(here, "head")
      else
        send(text:sub(cut + 1))
      end
      assert.equal("x\r\ny: z\r\n\r\n", first)
      assert.equal("!", sockets.read(here, 1))
    end
  end)

  it("begins its search anew when the pattern changes", function()
    send("one\r\ntwo\r\n")
    wants("head")
    assert.equal("one", here:read("l"))
    wants("head")
    send("\r\n")
    assert.equal("two\r\n\r\n", sockets.read(here, "head"))
    send("no end")
    wants("l")
    wants("head")
    send("\n\n")
    assert.equal("no end\n\n", sockets.read(here, "head"))
  end)

  it("gives everything until the end, and nothing when there was nothing", function()
    send("some")
    wants("a")
    there:write("more")
    there:close()
    assert.equal("somemore", sockets.read(here, "a"))
    assert.equal("", here:read("a"))
    fails("closed", "l")
    fails("closed", 1)
    fails("closed", "some")
  end)

  it("gives what is there, up to the limit", function()
    send(("x"):rep(100))
    assert.equal(10, #sockets.read(here, "some", 10))
    assert.equal(90, #here:read("some"))
    wants("some")
    send(("y"):rep(20000))
    assert.equal(16384, #sockets.read(here, "some"))
    assert.equal(20000 - 16384, #sockets.read(here, 20000 - 16384))
  end)

  it("keeps what had come before the end or an error", function()
    send("partial line")
    there:shutdown("send")
    fails("closed", "l")
    assert.equal(12, here:buffered())
    assert.equal("partial line", here:take())
    assert.equal("", here:take())
  end)

  it("says that the peer broke off, and keeps what had come", function()
    assert.equal(6, here:write("unread"))
    sockets.readable(there)
    assert.equal(4, there:write("data"))
    sockets.readable(here)
    wants(5)
    there:close() -- with bytes unread, so that the system resets the connection
    fails("reset", 5)
    assert.equal("data", here:take())
  end)

  it("refuses what passes the limit, counted without a line's end", function()
    send("12345\r\n")
    assert.equal("12345", sockets.read(here, "l", 5))
    send("12345\r")
    wants("l", 5)
    send("\n")
    assert.equal("12345\r\n", sockets.read(here, "L", 5))
    send("123456\r\n")
    assert.matches("longer than the limit of 5 bytes", fails("too_long", "l", 5))
    fails("too_long", "L", 5)
    assert.equal("123456", here:read("l", 6))
    send("1234567")
    fails("too_long", "l", 6)
    fails("too_long", "l", 6)
    assert.equal("1234567", here:take())
    send("a\n\n")
    assert.equal("a\n\n", sockets.read(here, "head", 3))
    send("ab\n\n")
    fails("too_long", "head", 3)
    assert.equal("ab\n\n", here:take())
    send("abcd")
    fails("too_long", "head", 3)
    assert.equal("abcd", here:take())
    fails("too_long", 4, 3)
    send("abcd")
    there:close()
    fails("too_long", "a", 3)
    assert.equal("abcd", sockets.read(here, "a", 4))
  end)

  it("bounds what it reads of an endless line by the limit", function()
    local sent = 0
    while true do
      local last, message, upto = there:write(("x"):rep(65536))
      sent = sent + (last or upto)
      if not last then
        assert.equal("want_write", message)
        break
      end
    end
    fails("too_long", "l", 1000)
    assert.is_true(here:buffered() <= 1000 + 16384)
    assert.is_true(sent > here:buffered())
  end)

  it("pauses after a long run, so that a stream without end lets others run", function()
    local sent = 0
    repeat
      local last, _, upto = there:write(("x"):rep(65536))
      sent = sent + (last or upto)
    until not last
    wants("a")
    local first = here:buffered()
    assert.is_true(first >= math.min(sent, 2 ^ 20))
    there:shutdown("send")
    assert.equal(sent, #assert(sockets.read(here, "a")))
  end)

  -- Many megabytes: written where the string is to be, from the first on (large.c).
  local function run_of(size)
    local parts = {}
    for i = 1, 8192 do parts[i] = ("%08d"):format(i) end
    return table.concat(parts):rep(math.ceil(size / 65536)):sub(1, size)
  end

  -- Calls until it gives something; meanwhile the peer sends on.
  local function while_sending(data, call)
    local sent = 0
    while true do
      if sent < #data then
        local last, _, upto = there:write(data, sent + 1)
        sent = last or upto
      end
      local got, want = call(sent)
      if got then return got, sent end
      assert.equal("want_read", want)
      if sent == #data then assert(core.poll(here:getfd(), "r", core.now() + 30)) end
    end
  end

  it("hands out strings of many megabytes, exactly", function()
    for _, size in ipairs { 2 ^ 22 - 1, 2 ^ 22, 2 ^ 22 + 1, 2 ^ 22 + 7, 2 ^ 23 + 12345 } do
      local data = run_of(size)
      local got = while_sending(data .. "tail", function() return here:read(size) end)
      assert.equal(size, #got)
      assert.is_true(got == data)
      assert.equal("tail", sockets.read(here, 4))
      assert.equal(0, here:buffered())
    end
  end)

  it("hands out in another way what was awaited as one long string", function()
    local size = 2 ^ 23
    local data = run_of(size)
    -- Until more than half of it waits, but not all.
    local function half()
      while_sending(data:sub(1, 5000000), function(sent)
        local got, want = here:read(size)
        assert.is_nil(got)
        return sent == 5000000 and here:buffered() == 5000000, want
      end)
    end
    half()
    local got = here:take()
    assert.is_true(got == data:sub(1, 5000000))
    half()
    got = { here:read(10), here:read("some", 4000000), here:read(3) }
    assert.is_true(table.concat(got) == data:sub(1, 4000013))
    assert.is_true(here:take() == data:sub(4000014, 5000000))
    half()
    got = { here:read(4000000) }
    assert.is_true(got[1] == data:sub(1, 4000000))
    got[2] = while_sending(data:sub(5000001), function() return here:read(size - 4000000) end)
    assert.is_true(got[2] == data:sub(4000001))
    half()
    there:close()
    assert.is_true(sockets.read(here, "a") == data:sub(1, 5000000))
  end)

  it("drops what it gathered for a long string when it is closed, or collected", function()
    local data = run_of(5000000)
    while_sending(data, function(sent)
      local got, want = here:read(2 ^ 23)
      assert.is_nil(got)
      return sent == #data and here:buffered() == #data, want
    end)
    here:close()
    assert.equal(0, here:buffered())
  end)

  it("reads long data in whatever pieces it comes", function()
    local data = {}
    for i = 1, 3000 do data[i] = ("%d,"):format(i):rep(40) end
    data = table.concat(data)
    local at, got = 1, {}
    local sizes = { 1, 7, 4096, 16384, 100000, 3 }
    local n = 0
    while at <= #data do
      n = n + 1
      local last, _, upto = there:write(data, at, at + sizes[n % #sizes + 1] - 1)
      at = (last or upto) + 1
      local part = here:read("some", sizes[(n + 2) % #sizes + 1])
      if part then got[#got + 1] = part end
    end
    there:close()
    got[#got + 1] = sockets.read(here, "a")
    assert.equal(data, table.concat(got))
    assert.equal(0, here:buffered())
  end)

  it("Z6 reads 100,000 lines, and a head of as many, with no use of Lua's stack", function()
    local head = ("k: v\r\n"):rep(100000) .. "\r\n"
    local at = 1
    local got
    repeat
      local last, _, upto = there:write(head, at)
      at = (last or upto) + 1
      got = here:read("head")
    until got or at > #head
    got = got or sockets.read(here, "head")
    assert.equal(head, got)
    at = 1
    local lines = 0
    while lines < 100001 do
      if at <= #head then
        local last, _, upto = there:write(head, at)
        at = (last or upto) + 1
      end
      local line = here:read("l")
      while line do
        lines = lines + 1
        line = here:read("l")
      end
    end
    assert.equal(100001, lines)
    wants("l")
  end)

  it("raises on wrong arguments, and names them", function()
    local function refuses(pattern, ...)
      local arguments, n = { ... }, select("#", ...)
      local ok, message = pcall(function()
        local data = here:read((unpack or table.unpack)(arguments, 1, n)) -- no tail call: it has no name
        return data
      end)
      assert.is_false(ok)
      assert.matches(pattern, message)
    end
    refuses("#1")
    refuses("#1.*bytes expected", -1)
    refuses("#1.*bytes expected", 1.5)
    refuses("#1.*bytes expected", 0 / 0)
    refuses("#1.*bytes expected", math.huge)
    refuses("#1.*invalid option '%*x'", "*x")
    refuses("#2", "l", "x")
    refuses("#2.*bytes expected", "l", -1)
    refuses("#2.*at least 1", "some", 0)
  end)
end)

-- A connection and an accepted one, in one process, on a scheduler that stands on `wait` alone.
local core = require "tlsconnect.core"
local pki = require "spec.support.pki"
local scheduler = require "spec.support.scheduler"
local tlsconnect = require "tlsconnect"

local authority = pki.shared()
local site = authority:issue { name = "a.test" }

local function listen(options)
  options = options or {}
  options.certificate, options.key = site.chain, site.key
  local listener = assert(tlsconnect.listen("127.0.0.1", 0, options))
  local _, port = listener:address()
  return listener, port
end

local function connect(port, wait, options)
  options = options or {}
  options.server_name = options.server_name or "a.test"
  options.ca_file, options.wait = authority.ca_file, wait
  options.timeout = options.timeout or 60
  return assert(tlsconnect.connect("127.0.0.1", port, options))
end

-- Runs client(connection, tools) and server(connection, tools), each in a task of its own; both
-- connections are open, and closed afterwards. tools: spawn, wait, sleep, join.
local function linked(client, server, options, server_options)
  local ends = {}
  scheduler.run(function(spawn, wait, sleep, join)
    local tools = { spawn = spawn, wait = wait, sleep = sleep, join = join }
    server_options = server_options or {}
    server_options.wait = wait
    local listener, port = listen(server_options)
    local task = spawn(function()
      local peer = assert(listener:accept(60))
      ends.server = peer
      assert(peer:handshake())
      if server then server(peer, tools) end
    end)
    ends.client = connect(port, wait, options)
    client(ends.client, tools)
    join(task)
    listener:close()
  end)
  ends.client:close()
  ends.server:close()
  return ends
end

local function two(a, b)
  return { a, b }
end

local function three(a, b, c)
  return { a, b, c }
end

local function descriptors()
  local count = 0
  for fd = 0, 255 do
    local link = io.open("/proc/self/fd/" .. fd)
    if link then
      count = count + 1
      link:close()
    end
  end
  return count
end

describe("connection", function()
  it("Q1 is quiet while nothing has come, and reads what comes after that, whatever the limits", function()
    linked(function(client, tools)
      assert.equal("here", client:receive(4))
      -- The server's tickets have come by now, or come later: they change nothing.
      assert.is_true(client:quiet())
      assert.equal(2, client:send("go"))
      assert.equal("one", client:receive(3)) -- waits first: nothing was left inside
      assert.is_false(client:quiet()) -- "!" had come, and is taken in
      assert.is_true(client:quiet())
      client:settimeout(0)
      assert.same(two(nil, "timeout"), two(client:receive(1)))
      assert.is_true(client:quiet())
      client:send("go")
      assert(tools.wait(client:getfd(), "r", core.now() + 60))
      local last
      repeat last = client:receive(4) until last -- a limit of 0 never waits, and finds what is there
      assert.equal("last", last)
      client:settimeout(60)
      assert.same(three(nil, "closed", ""), three(client:receive(1)))
      assert.is_false(client:quiet())
    end, function(server)
      assert(server:send("here"))
      assert.equal("go", server:receive(2))
      assert(server:send("one!"))
      assert.equal("go", server:receive(2))
      assert(server:send("last"))
      server:shutdown("send")
    end)
  end)

  it("Q1 asks on an idle connection, and only where nothing has come on it", function()
    local head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    local function ask(client, data)
      return client:ask(data, 1000, 10, 100)
    end
    linked(function(client, tools)
      assert.equal("here", client:receive(4))
      local answer, kind, length, keep, more, body = ask(client, "1")
      assert.same({ 200, "length", 2, true, false, "ok" }, { answer.status, kind, length, keep, more, body })
      assert.equal("first", client:receive(5))
      assert(client:send("g"))
      -- What has come already is no answer: nothing is sent ("!" is taken in).
      assert(tools.wait(client:getfd(), "r", core.now() + 60))
      local nothing, message, err = ask(client, "2")
      assert.same({ nil, "closed", "closed" }, { nothing, message, err.code })
      -- More than the way there takes at once.
      answer = assert(ask(client, ("3"):rep(4000000)))
      assert.equal(204, answer.status)
      -- The end is something that has come, too.
      client:settimeout(0)
      assert.equal("timeout", select(2, ask(client, "4")))
      client:settimeout(60)
      assert.equal(203, assert(client:read("answer", 1000, 10)).status)
      assert.same(three(nil, "closed", ""), three(client:receive(1)))
      assert.equal("closed", select(2, ask(client, "5")))
    end, function(server)
      assert(server:send("here"))
      assert.equal("1", server:receive(1))
      assert(server:send(head .. "okfirst"))
      assert.equal("g", server:receive(1))
      assert(server:send("!"))
      assert.equal(("3"):rep(4000000), server:receive(4000000))
      assert(server:send("HTTP/1.1 204 No\r\n\r\n"))
      assert.equal("4", server:receive(1))
      assert(server:send("HTTP/1.1 203 No\r\nContent-Length: 0\r\n\r\n"))
      server:shutdown("send")
    end)
  end)

  it("asks one call at a time", function()
    linked(function(client, tools)
      local task = tools.spawn(function() assert.equal("now", client:receive(3)) end)
      tools.sleep(0)
      local nothing, _, err = client:ask("x", 1000, 10)
      assert.same({ nil, "busy" }, { nothing, err.code })
      assert(client:send("go"))
      tools.join(task)
    end, function(server)
      assert.equal("go", server:receive(2))
      assert(server:send("now"))
    end)
  end)

  it("sends and receives as LuaSocket does", function()
    linked(function(c)
      assert.equal(10, c:send("line\r\nabc\n"))
      assert.equal(4, c:send("xxyyzz", 3, 4))
      assert.equal(6, c:send("xxyyzz", -2))
      assert.equal(0, c:send(""))
      assert.equal(1, c:send(5))
      assert.equal("line", c:receive())
      assert.equal("rest", c:receive("*a"))
    end, function(s)
      assert.equal("line", s:receive())
      assert.equal("abc\n", s:receive("*L"))
      assert.equal("yyzz", s:receive(4))
      assert.equal("5", s:receive(1))
      assert.equal("", s:receive(0))
      s:send("line\n")
      s:send("rest")
      s:close()
    end)
  end)

  it("takes the patterns of Lua 5.3 too", function()
    linked(function(c)
      c:send("one\ntwo\nthree")
      c:shutdown("send")
    end, function(s)
      assert.equal("one", s:receive("l"))
      assert.equal("two\n", s:receive("L"))
      assert.equal("three", s:receive("a"))
      assert.equal("", s:receive("a"))
    end)
  end)

  it("puts the prefix before what it receives, and counts it in a number of bytes", function()
    linked(function(c)
      c:send("cdef\nline")
      c:shutdown()
    end, function(s)
      assert.equal("abcd", s:receive(4, "ab"))
      assert.equal("abcd", s:receive(3, "abcd"))
      assert.equal("+ef", s:receive("*l", "+"))
      local data, message, partial = s:receive("*l", "+")
      assert.same({ nil, "closed", "+line" }, { data, message, partial })
    end)
  end)

  it("keeps what came before the end of the stream", function()
    linked(function(c)
      c:send("half a li")
      c:close()
    end, function(s)
      local data, message, partial, err = s:receive()
      assert.is_nil(data)
      assert.equal("closed", message)
      assert.equal("half a li", partial)
      assert.same({ "closed", "data" }, { err.code, err.step })
      assert.same({ nil, "closed", "" }, three(s:receive()))
    end)
  end)

  it("keeps what came before a timeout, and goes on after it", function()
    linked(function(c, tools)
      c:settimeout(0.05)
      local data, message, partial, err = c:receive(8)
      assert.is_nil(data)
      assert.equal("timeout", message)
      assert.equal("half", partial)
      assert.same({ "timeout", "data", true }, { err.code, err.step, err.retryable })
      assert.truthy(err.detail:find("127.0.0.1", 1, true))
      c:send("go on")
      c:settimeout(60)
      assert.equal("halfmore", c:receive(8, partial))
      tools.sleep(0)
    end, function(s)
      s:send("half")
      assert.equal("go on", s:receive(5))
      s:send("more")
    end)
  end)

  it("never waits with a timeout of 0", function()
    linked(function(c)
      c:settimeout(0)
      local start = core.now()
      local _, message, partial = c:receive()
      assert.same({ "timeout", "" }, { message, partial })
      assert.is_true(core.now() - start < 30)
      assert.equal("r", c:want())
      c:settimeout(60)
      c:send("now\n")
      assert.equal("answer", c:receive())
    end, function(s)
      s:receive()
      s:send("answer\n")
    end)
  end)

  it("ends every call at the deadline that is set, whatever the timeout", function()
    linked(function(c)
      c:settimeout(60)
      c:setdeadline(core.now() + 0.05)
      assert.same({ nil, "timeout" }, two(c:receive()))
      assert.same({ nil, "timeout" }, two(c:read(1)))
      assert.equal(0, c:timeout())
      c:setdeadline(nil)
      c:send("x\n")
      assert.equal("y", c:receive())
    end, function(s)
      s:receive()
      s:send("y\n")
    end)
  end)

  it("walks the lines, the last one without its end too", function()
    linked(function(c)
      c:send("one\r\ntwo\n\nfour")
      c:close()
    end, function(s)
      local lines, first = {}, s:receive()
      -- Lua 5.1 cannot yield in an iterator: all the lines are here now.
      assert.equal("one", first)
      for line in s:lines() do lines[#lines + 1] = line end
      assert.same({ "two", "", "four" }, lines)
    end)
  end)

  it("offers half a close: the other direction goes on", function()
    linked(function(c)
      c:send("question")
      assert.is_true(c:shutdown("send"))
      assert.equal("answer to question", c:receive("*a"))
      local last, message = c:send("more")
      assert.is_nil(last)
      assert.is_string(message)
    end, function(s)
      s:send("answer to " .. s:receive("*a"))
      s:close()
    end)
  end)

  it("says closed after close, and closes once", function()
    linked(function(c)
      assert.is_true(c:getfd() >= 0)
      assert.is_true(c:close())
      assert.is_true(c:close())
      assert.equal(-1, c:getfd())
      assert.same({ nil, "closed", "" }, three(c:receive()))
      local last, message, sent, err = c:send("x")
      assert.same({ nil, "closed", 0, "closed" }, { last, message, sent, err.code })
      assert.same({ nil, "closed" }, two(c:shutdown()))
      assert.same({ nil, "closed" }, two(c:export("x", nil, 16)))
      assert.is_nil(c:info())
      assert.is_false(c:dirty())
      assert.truthy(tostring(c):find("closed", 1, true))
    end)
  end)

  it("tells what was agreed on", function()
    linked(function(c)
      local info = c:info()
      assert.equal("TLS1.3", info.version)
      assert.equal("h2", info.alpn)
      assert.equal("127.0.0.1", info.remote_address)
      assert.equal("inet", info.family)
      assert.is_number(info.local_port)
      assert.is_false(info.resumed)
      assert.truthy(tostring(c):find("TLS1.3", 1, true))
      c:close()
    end, function(s)
      assert.equal("a.test", s:info().server_name)
      assert.equal("h2", s:info().alpn)
      assert.is_nil(s:peer_certificate())
      assert.is_nil(s:peer_chain())
    end, { alpn = { "h2", "http/1.1" } }, { alpn = { "h2" } })
  end)

  it("shows the peer's certificates", function()
    linked(function(c)
      local chain = c:peer_chain()
      assert.truthy(#chain >= 1)
      assert.equal(c:peer_certificate():der(), chain[1]:der())
      assert.is_table(c:verification())
      c:close()
    end)
  end)

  it("derives the same keys and bindings on both ends", function()
    local keys = {}
    linked(function(c)
      keys.client, keys.client_binding = c:export("EXPORTER-test", "context", 32), c:channel_binding("tls-exporter")
      c:close()
    end, function(s)
      keys.server, keys.server_binding = s:export("EXPORTER-test", "context", 32), s:channel_binding("tls-exporter")
    end)
    assert.equal(32, #keys.client)
    assert.equal(keys.client, keys.server)
    assert.equal(keys.client_binding, keys.server_binding)
  end)

  it("tells loops what it waits for", function()
    linked(function(c)
      assert.equal(c:getfd(), c:pollfd())
      assert.equal("r", c:events())
      assert.is_true(c:timeout() > 0 and c:timeout() <= 60)
      c:settimeout(nil)
      assert.is_nil(c:timeout())
      c:send("x")
      assert.equal("1", c:receive(1))
      -- The rest of the record is here, and no poll will say so.
      assert.is_true(c:dirty())
      assert.equal(0, c:timeout())
      assert.equal("23456789", c:receive(8))
      assert.is_false(c:dirty())
      c:close()
    end, function(s)
      s:receive(1)
      s:send("123456789")
      s:receive()
    end)
  end)

  it("refuses wrong arguments, and names them", function()
    linked(function(c)
      local cases = {
        { "send", {}, "bad argument #1 to 'send'" },
        { "receive", "*x", "bad argument #1 to 'receive'" },
        { "receive", -1, "bad argument #1 to 'receive'" },
        { "shutdown", "all", "bad argument #1 to 'shutdown'" },
        { "settimeout", "5", "bad argument #1 to 'settimeout'" },
      }
      for _, case in ipairs(cases) do
        local ok, message = pcall(function() c[case[1]](c, case[2]) end)
        assert.is_false(ok)
        assert.truthy(message:find(case[3], 1, true), message)
        assert.truthy(message:find("connection_spec.lua", 1, true), message)
      end
      c:close()
    end)
  end)

  it("carries more than a megabyte each way", function()
    local megabytes = ("0123456789abcdef"):rep(3 * 65536)
    linked(function(c)
      assert.equal(#megabytes, c:send(megabytes))
      assert.equal(megabytes, c:receive(#megabytes))
    end, function(s)
      assert.equal(megabytes, s:receive(#megabytes))
      assert.equal(#megabytes, s:send(megabytes))
    end)
  end)

  it("refuses a second reader and a second writer while one waits, and harms neither", function()
    linked(function(c, tools)
      local first = tools.spawn(function() return c:receive() end)
      tools.sleep(0.01)
      local data, message, partial, err = c:receive()
      assert.is_nil(data)
      assert.equal("busy", err.code)
      assert.equal("", partial)
      assert.truthy(message:find("another coroutine", 1, true))
      c:send("go\n")
      assert.equal("answer", tools.join(first))
    end, function(s)
      assert.equal("go", s:receive())
      s:send("answer\n")
    end)
  end)

  it("A7 gives closed to a coroutine that waits while another one closes", function()
    local before = descriptors()
    local ends = linked(function(c, tools)
      local fd = c:getfd()
      local results
      local reader = tools.spawn(function() results = { c:receive() } end)
      tools.sleep(0.01)
      assert.is_true(c:close())
      -- The number is not free before the reader has left it.
      assert.is_true(core.poll(fd, "r", core.now() + 60))
      assert.is_true(c:close())
      tools.join(reader)
      assert.same({ nil, "closed", "" }, { results[1], results[2], results[3] })
      assert.equal(-1, c:getfd())
      assert.same({ nil, "closed" }, two(c:read(1)))
    end)
    assert.equal(-1, ends.client:getfd())
    assert.equal(before, descriptors())
  end)

  it("is judged by the profile it asks for", function()
    -- Its common name is none of its names: many sites do that, and the strict profile refuses it.
    local odd = authority:issue { name = "a.test", subject = "/CN=b.test" }
    for profile, code in pairs { default = "none", strict = "pedantic" } do
      scheduler.run(function(spawn, wait)
        local listener = assert(tlsconnect.listen("127.0.0.1", 0,
          { certificate = odd.chain, key = odd.key, wait = wait }))
        local _, port = listener:address()
        spawn(function() assert(listener:accept(60)):handshake() listener:close() end)
        local c, _, err = tlsconnect.connect("127.0.0.1", port, { server_name = "a.test", timeout = 60,
          ca_file = authority.ca_file, profile = profile, wait = wait })
        assert.equal(code, err and err.code or "none", err and err.message)
        if c then c:close() end
      end)
    end
  end)

  it("asks for no protocol with an empty list, whatever the context asks for", function()
    local context = assert(tlsconnect.context { ca_file = authority.ca_file, alpn = { "h2" } })
    for _, case in ipairs { { nil, "no_common_alpn" }, { {}, "none" } } do
      scheduler.run(function(spawn, wait)
        local listener, port = listen { wait = wait }
        spawn(function() assert(listener:accept(60)):handshake() listener:close() end)
        local c, _, err = tlsconnect.connect("127.0.0.1", port, { server_name = "a.test", timeout = 60,
          context = context, alpn = case[1], wait = wait })
        assert.equal(case[2], err and err.code or "none")
        if c then c:close() end
      end)
    end
  end)

  it("A7 gives closed to a reader of TLS in TLS, and closes what carries it", function()
    local before = descriptors()
    linked(function(c, tools)
      local inner = assert(tlsconnect.wrap(c, { server_name = "a.test", ca_file = authority.ca_file,
        wait = tools.wait }))
      inner:settimeout(nil)
      local results
      local reader = tools.spawn(function() results = { inner:receive() } end)
      tools.sleep(0.01)
      assert.is_true(inner:close())
      tools.join(reader)
      assert.same({ nil, "closed" }, two(results[1], results[2]))
      assert.equal(-1, c:getfd())
    end, function(s, tools)
      local inner = assert(tlsconnect.wrap(s, { role = "server", certificate = site.chain, key = site.key,
        wait = tools.wait }))
      assert.equal("closed", select(2, inner:receive()))
      inner:close()
    end)
    assert.equal(before, descriptors())
  end)

  it("A7 frees the descriptor of a connection that is collected while open", function()
    local before = descriptors()
    scheduler.run(function(spawn, wait, _, join)
      local listener, port = listen { wait = wait }
      local task = spawn(function()
        local s = assert(listener:accept(60))
        local data, _, partial, err = s:receive("*a")
        -- No close_notify: a collected connection may not wait.
        assert.is_nil(data)
        assert.equal("", partial)
        assert.not_equal("closed", err.code)
        s:close()
      end)
      do connect(port, wait) end
      collectgarbage() collectgarbage()
      join(task)
      listener:close()
    end)
    collectgarbage() collectgarbage()
    assert.equal(before, descriptors())
  end)

  it("closes at the end of a <close> block without waiting", function()
    linked(function(c)
      getmetatable(c).__close(c)
      assert.equal(-1, c:getfd())
      assert.same({ nil, "closed" }, two(c:read(1)))
    end, function(s)
      assert.equal("", s:receive("*a"))
    end)
  end)

  it("Z5 ends a connection whose wait raised an error", function()
    local before = descriptors()
    linked(function(c)
      local plain = c.waiter
      c.waiter = function() error("the program gives up", 0) end
      local ok, message = pcall(function() return c:receive() end)
      assert.same({ false, "the program gives up" }, { ok, message })
      c.waiter = plain
      local _, _, _, err = c:send("more")
      assert.is_nil(err)
      local data
      data, message, _, err = c:receive()
      assert.is_nil(data)
      assert.equal("abandoned", err.code)
      assert.truthy(message:find("left half-way", 1, true))
      assert.equal(-1, c:getfd())
      assert.same({ nil, "closed" }, two(c:read(1)))
    end, function(s)
      s:receive("*a")
    end)
    assert.equal(before, descriptors())
  end)

  it("Z5 frees what a dropped coroutine held, and lets nobody go on with it", function()
    local before = descriptors()
    linked(function(c)
      local task = coroutine.create(function() return c:receive() end)
      c.waiter = coroutine.yield
      assert(coroutine.resume(task))
      task = nil -- luacheck: ignore 311
      collectgarbage()
      local _, _, _, err = c:receive()
      assert.equal("busy", err.code)
      c:close()
      c:close()
    end, function(s)
      s:receive("*a")
    end)
    collectgarbage() collectgarbage()
    assert.equal(before, descriptors())
  end)

  it("A1 ends at the deadline when the peer floods and does not read", function()
    local full = false -- the peer has sent all that it can
    linked(function(c, tools)
      collectgarbage()
      local memory = collectgarbage("count")
      local block = ("x"):rep(65536)
      c:settimeout(0.3)
      local last, message, sent, err
      repeat last, message, sent, err = c:send(block) until not last
      assert.equal("timeout", message)
      assert.is_true(sent < #block)
      assert.same({ "timeout", "data" }, { err.code, err.step })
      collectgarbage()
      assert.is_true(collectgarbage("count") - memory < 1024)
      c:settimeout(60)
      while not full do tools.sleep(0.01) end
      local rest = block:sub(sent + 1)
      local reader = tools.spawn(function()
        local seen = 0
        while true do
          local data = c:read("some", 65536)
          if not data then return seen end
          seen = seen + #data
        end
      end)
      assert.equal(#rest, c:send(rest))
      c:shutdown("send")
      assert.is_true(tools.join(reader) > 0)
    end, function(s, tools)
      local block = ("y"):rep(65536)
      s:settimeout(0.2)
      local last, message, sent
      repeat last, message, sent = s:send(block) until not last
      assert.equal("timeout", message)
      full = true
      tools.sleep(0.3)
      s:settimeout(60)
      local writer = tools.spawn(function()
        s:send(block, sent + 1)
        s:shutdown("send")
      end)
      local seen = 0
      while true do
        local data = s:read("some", 65536)
        if not data then break end
        assert.is_nil(data:find("[^x]"))
        seen = seen + #data
      end
      -- Every byte came once, in whole blocks.
      assert.equal(0, seen % 65536)
      tools.join(writer)
    end)
  end)

  it("A3 limits a line that has no end, and keeps what came", function()
    linked(function(c)
      local block = ("x"):rep(65536)
      for _ = 1, 32 do c:send(block) end
      c:send("\nnext\n")
      c:receive()
    end, function(s)
      local data, message, partial, err = s:receive("*l")
      assert.is_nil(data)
      assert.equal("too_long", err.code)
      assert.is_true(#partial >= 1024 * 1024 and #partial < 2 * 1024 * 1024)
      assert.truthy(message)
      data, message, err = s:read("l", 100)
      assert.is_nil(data)
      assert.equal(err.message, message)
      assert.equal("too_long", err.code)
      s:close()
    end)
  end)

  it("leaves the rest of the program alone: no wait but its own is called", function()
    local outside = 0
    tlsconnect.wait = function(...)
      outside = outside + 1
      return core.poll(...)
    end
    linked(function(c)
      c:send("x\n")
      assert.equal("y", c:receive())
    end, function(s)
      s:receive()
      s:send("y\n")
    end)
    tlsconnect.wait = nil
    assert.equal(0, outside)
  end)
end)

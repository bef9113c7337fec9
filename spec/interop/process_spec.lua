-- A program's surroundings: signals, odd descriptors, forks, coroutines that are dropped, waits that raise.
local child = require "spec.support.child"
local core = require "tlsconnect.core"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

local authority = pki.shared()
local site = authority:issue { name = "a.test" }

local function options(more)
  local given = { server_name = "a.test", ca_file = authority.ca_file, timeout = 60 }
  for name, value in pairs(more or {}) do given[name] = value end
  return given
end

local function descriptors()
  collectgarbage() collectgarbage()
  local open = {}
  for fd = 0, 255 do
    local link = io.open("/proc/self/fd/" .. fd)
    if link then
      open[#open + 1] = fd
      link:close()
    end
  end
  return table.concat(open, " ")
end

-- The beginning of a child's program.
local function program(server, text)
  return (([[
    local tlsconnect = require "tlsconnect"
    local function connect()
      return assert(tlsconnect.connect(%q, %d, { server_name = "a.test", ca_file = %q, timeout = 60 }))
    end
    local function echo(c, line)
      assert(c:send(line .. "\n"))
      local answer = assert(c:receive())
      assert(answer == line, answer:sub(1, 100))
    end
  ]]):format(server.host, server.port, authority.ca_file)) .. text
end

describe("wait", function()
  -- Connects and talks by a wait that calls `spoil` the n-th time; returns how often it was called.
  local function interrupted(server, n, spoil)
    local calls = 0
    local function wait(...)
      calls = calls + 1
      if calls == n then return spoil(...) end
      return core.poll(...)
    end
    local c, _, err = tlsconnect.connect(server.host, server.port, options { wait = wait })
    if not c then return calls, err end
    c:send("abc\n")
    local line, _, _, why = c:receive()
    c:close()
    return calls, why, line
  end

  it("Z5 may raise at any moment: nothing stays open", function()
    local server = peers.gnutls_server { cert = site, mode = "--echo" }
    local before = descriptors()
    local n, finished = 1, false
    repeat
      local ok, calls = pcall(interrupted, server, n, function() error("enough", 0) end)
      if ok then
        finished = calls < n
      else
        assert.equal("enough", calls)
        -- The server would wait for what was left half done.
        collectgarbage() collectgarbage()
      end
      n = n + 1
    until finished
    assert.is_true(n >= 2, "it never waited")
    assert.equal(before, descriptors())
  end)

  it("Z5 may give up at any moment, in its own words", function()
    local server = peers.gnutls_server { cert = site, mode = "--echo" }
    local before = descriptors()
    local n = 1
    repeat
      local calls, err = interrupted(server, n, function() return nil, "the user pressed stop" end)
      if err then assert.same({ "cancelled", "the user pressed stop" }, { err.code, err.message }) end
      n = n + 1
    until calls < n - 1
    assert.equal(before, descriptors())
  end)

  it("Z2 and Z5 may never come back: the coroutine is collected, and all that it held", function()
    local server = peers.gnutls_server { cert = site, mode = "--echo" }
    local before = descriptors()
    local n = 0
    repeat
      n = n + 1
      local task = coroutine.create(function()
        local c = assert(tlsconnect.connect(server.host, server.port, options { wait = coroutine.yield }))
        c:send("abc\n")
        return c:receive()
      end)
      local results = { coroutine.resume(task) }
      for _ = 2, n do
        if coroutine.status(task) == "dead" then break end
        results = { coroutine.resume(task, core.poll(results[2], results[3], results[4])) }
      end
      local done = coroutine.status(task) == "dead"
      task = nil -- luacheck: ignore 311
      collectgarbage() collectgarbage()
      if done then assert.equal("abc", results[2]) end
    until done
    assert.is_true(n >= 2, "it never waited")
    assert.equal(before, descriptors())
  end)

  it("Z2 may go on in another coroutine than the one that began", function()
    local server = peers.gnutls_server { cert = site, mode = "--echo" }
    local c
    do
      local task = coroutine.wrap(function()
        c = assert(tlsconnect.connect(server.host, server.port, options()))
        c:send("abc\n")
      end)
      task()
    end
    collectgarbage() collectgarbage()
    assert.equal("abc", coroutine.wrap(function() return c:receive() end)())
    c:close()
  end)
end)

describe("the process", function()
  it("Z3 gives the same results under a signal each millisecond", function()
    local server = peers.gnutls_server { cert = site, mode = "--echo" }
    local result = child.run(program(server, [[
      local c = connect()
      for i = 1, 200 do echo(c, "line " .. i) end
      for i = 1, 50 do echo(c, ("x"):rep(i * 1000)) end
      c:close()
      for _ = 1, 5 do
        c = connect()
        echo(c, "abc")
        c:close()
      end
      print("done")
    ]]), { shim = true, environment = { SPEC_SIGNALS = "1" } })
    assert.equal("", result.err)
    assert.equal("done\n", result.out)
  end)

  it("Z3 leaves the program's handlers and masks as they were, and dies of no SIGPIPE", function()
    local server = peers.raw [[ peer:read(5) peer:reset() ]]
    local good = peers.gnutls_server { cert = site, mode = "--echo" }
    local result = child.run(program(good, ([[
      local function signals()
        local text = io.open("/proc/self/status"):read("*a")
        return text:match("SigBlk:%%s+%%x+\nSigIgn:%%s+%%x+\nSigCgt:%%s+%%x+")
      end
      local before = signals()
      local c = connect()
      echo(c, "abc")
      print(tlsconnect.connect("127.0.0.1", %d, { server_name = "a.test", ca_file = %q }) == nil)
      -- The peer ends; then this side goes on writing.
      c:send("Q\n")
      c:_socket():shutdown("receive")
      local core = require "tlsconnect.core"
      local plain = require("tlsconnect.connection").open("127.0.0.1", %d, { tls = false })
      plain:send("12345")
      plain:receive("*a")
      for _ = 1, 10 do plain:send("into the void") end
      c:close()
      plain:close()
      print(before ~= nil and before == signals())
    ]]):format(server.port, authority.ca_file, server.port)))
    assert.equal("", result.err)
    assert.equal(0, result.code)
    assert.equal("true\ntrue\n", result.out)
  end)

  it("serves where no file can be loaded once it listens, as after a chroot", function()
    local result = child.run(([[
      local tlsconnect = require "tlsconnect"
      local listener = assert(tlsconnect.listen("127.0.0.1", 0, { certificate = %q, key = %q, timeout = 60 }))
      local _, port = listener:address()
      local client = io.popen("(echo ping; sleep 2) | openssl s_client -quiet -connect 127.0.0.1:" .. port .. " 2>&1")
      package.path, package.cpath = "", ""
      local c = assert(listener:accept(60))
      print(c:receive())
      assert(c:setvbuf("full"))
      assert(c:send("po"))
      assert(c:send("ng\n"))
      assert(c:flush())
      assert(c:setvbuf("no"))
      assert(c:info().version)
      assert(c:peer_chain() == nil)
      assert(#c:export("label", "", 16) == 16)
      assert(#c:trace() == 10)
      assert(select(2, c:offer("", 1, 0)) ~= "closed")
      assert(c:shutdown())
      c:close()
      print(client:read("*a"):match("pong"))
      print(pcall(require, "tlsconnect.starttls"))
    ]]):format(site.chain, site.key))
    assert.equal("", result.err)
    assert.equal(0, result.code)
    assert.matches("^ping\npong\nfalse\t", result.out)
  end)

  it("Z3 works with descriptors 0 to 2 closed, and with those above 1024", function()
    local server = peers.gnutls_server { cert = site, mode = "--echo" }
    local text = program(server, [[
      local core = require "tlsconnect.core"
      local out = assert(io.open(%q, "w"))
      local many = {}
      for i = 1, %d do many[i] = assert(core.socket("inet")) end
      local c = connect()
      echo(c, "abc")
      out:write(c:getfd())
      out:close()
      c:close()
    ]])
    local out = tmp.path("out")
    -- Only the last two directives are for the format below.
    local head, tail = text:match("^(.-)(local core = .*)$")
    local result = child.run(head .. tail:format(out, 0), { redirect = "<&- >&- 2>&-" })
    assert.equal(0, result.code)
    assert.is_true(tonumber(tmp.read(out)) <= 3)
    result = child.run(head .. tail:format(out, 1100), { files = 1300 })
    assert.equal("", result.err)
    assert.is_true(tonumber(tmp.read(out)) > 1024)
  end)

  it("Z4 forks with a live connection: the child writes nothing on it, and takes nothing from it", function()
    local server = peers.gnutls_server { cert = site, mode = "--echo" }
    for _, ending in ipairs { "c:close()", "c = nil collectgarbage() collectgarbage()",
      "getmetatable(c).__close(c)", "" } do
      local result = child.run(program(server, ([[
        local c = connect()
        echo(c, "before")
        local side = os.getenv("SPEC_FORK")
        if side == "child" then
          local last, message, sent, err = c:send("from the child\n")
          assert(not last and err.code == "forked" and sent == 0, message)
          local line
          line, message, sent, err = c:receive()
          assert(not line and err.code == "forked", message)
          assert(not c:quiet())
          %s
          -- What it opens itself is its own.
          local own = connect()
          echo(own, "own")
          own:close()
          io.stdout:write("child\n")
          io.stdout:close()
          os.exit(0, true)
        end
        print(os.getenv("SPEC_WAIT"))
        echo(c, "after")
        c:close()
        print("parent")
      ]]):format(ending)), { shim = true })
      assert.equal("", result.err)
      assert.equal("child\nexit 0\nparent\n", result.out)
    end
  end)

  it("Z4 forks for each client, as servers do: the child serves, and the parent's close harms it not", function()
    local result = child.run(([[
      local core = require "tlsconnect.core"
      local tlsconnect = require "tlsconnect"
      local listener = assert(tlsconnect.listen("127.0.0.1", 0, { certificate = %q, key = %q, timeout = 60 }))
      local _, port = listener:address()
      if os.getenv("SPEC_FORK") == "child" then
        -- The server, and a process for its client.
        local peer = assert(listener:accept())
        if os.getenv("SPEC_FORK") == "child" then
          listener:close()
          assert(core.poll(peer:getfd(), "r"))
          local line = assert(peer:receive())
          peer:send("you said " .. line .. "\n")
          peer:close()
          os.exit(0, true)
        end
        peer:close()
        local ended = os.getenv("SPEC_WAIT")
        os.exit(ended == "exit 0" and 0 or 1, true)
      end
      listener:close()
      local c = assert(tlsconnect.connect("127.0.0.1", port, { server_name = "a.test", ca_file = %q, timeout = 60 }))
      c:send("hello\n")
      print(c:receive())
      c:close()
      print(os.getenv("SPEC_WAIT"))
    ]]):format(site.chain, site.key, authority.ca_file), { shim = true })
    assert.equal("", result.err)
    assert.equal("you said hello\nexit 0\n", result.out)
  end)

  it("Z4 leaves a lock to its parent, who can give it back whatever the child does", function()
    local path = tmp.directory() .. "/lock"
    local result = child.run(([[
      local core = require "tlsconnect.core"
      local path = %q
      local lock = assert(core.lock_file(path))
      if os.getenv("SPEC_FORK") == "child" then
        lock:close()
        local none, why = core.lock_file(path)
        assert(not none and why == "locked")
        os.exit(0, true)
      end
      print(os.getenv("SPEC_WAIT"))
      -- A child that goes on has the descriptor, and not the lock.
      if os.getenv("SPEC_FORK") == "child" then
        local poller = core.poller()
        repeat core.poll(poller:getfd(), "r", core.now() + 0.01) until io.open(path .. ".end")
        os.exit(0, true)
      end
      lock:close()
      assert(core.lock_file(path)):close()
      io.open(path .. ".end", "w"):close()
      print(os.getenv("SPEC_WAIT"))
    ]]):format(path), { shim = true })
    assert.equal("", result.err)
    assert.equal("exit 0\nexit 0\n", result.out)
  end)
end)

-- One thread, many connections, and nothing but `wait`.
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local scheduler = require "spec.support.scheduler"
local tlsconnect = require "tlsconnect"

local authority = pki.shared()
local site = authority:issue { name = "a.test" }

local function options(wait, more)
  local given = { server_name = "a.test", ca_file = authority.ca_file, timeout = 600, wait = wait }
  for name, value in pairs(more or {}) do given[name] = value end
  return given
end

-- A socket that listens on loopback, and its port; nothing is ever accepted.
local function mute(backlog)
  local socket = assert(core.socket("inet"))
  assert(socket:bind("127.0.0.1", 0))
  assert(socket:listen(backlog))
  local _, port = socket:local_address()
  return socket, port
end

-- The peers that stall: each is a function(wait) that comes back with the error of its call. Step 7 has no
-- message of its own, so nothing can stall in it.
local stalls, keep = {}, {}

function stalls.dns(wait)
  return select(3, tlsconnect.connect("stalled.test", 443, options(wait)))
end

function stalls.tcp(wait)
  local listener, port = mute(0)
  keep[#keep + 1] = listener
  for _ = 1, 3 do
    local filling = assert(core.socket("inet"))
    filling:connect("127.0.0.1", port)
    keep[#keep + 1] = filling
  end
  return select(3, tlsconnect.connect("127.0.0.1", port, options(wait)))
end

-- A server waits for a client that says nothing.
function stalls.client_hello(wait)
  local listener = assert(tlsconnect.listen("127.0.0.1", 0, { certificate = site.chain, key = site.key, wait = wait,
    timeout = 600 }))
  local _, port = listener:address()
  local client = assert(core.socket("inet"))
  client:connect("127.0.0.1", port)
  keep[#keep + 1] = client
  local peer = assert(listener:accept())
  listener:close()
  return select(3, peer:handshake())
end

function stalls.server_hello(wait)
  local listener, port = mute(8)
  keep[#keep + 1] = listener
  return select(3, tlsconnect.connect("127.0.0.1", port, options(wait)))
end

-- A server of its own for each: gnutls-serv waits for one client at a time.
local function echo(version)
  return peers.gnutls_server { cert = site, mode = "--echo", priority = "NORMAL:-VERS-ALL:+VERS-" .. version }
end

-- The program's own judge takes its time.
function stalls.verify(wait)
  local bell = mute(1)
  keep[#keep + 1] = bell
  local trust = assert(tlsconnect.trust { ca_file = authority.ca_file })
  function trust.judge(_, _, terms)
    local _, message = terms.wait(bell:getfd(), "r", terms.deadline)
    return errors.waited(message, { step = "verify" })
  end
  local context = assert(tlsconnect.context { trust = trust })
  local server = echo "TLS1.3"
  return select(3, tlsconnect.connect(server.host, server.port,
    { context = context, server_name = "a.test", wait = wait, timeout = 600 }))
end

function stalls.key_exchange(wait)
  local relay = peers.relay { to = echo "TLS1.2", after = 2, act = "stall" }
  return select(3, tlsconnect.connect(relay.host, relay.port, options(wait)))
end

function stalls.finished(wait)
  local relay = peers.relay { to = echo "TLS1.2", after = 4, act = "stall" }
  return select(3, tlsconnect.connect(relay.host, relay.port, options(wait)))
end

function stalls.data(wait)
  local server = echo "TLS1.3"
  local connection = assert(tlsconnect.connect(server.host, server.port, options(wait)))
  local err = select(4, connection:receive())
  connection:close()
  return err
end

-- Good-bye itself finds no room.
function stalls.close(wait)
  local relay = peers.relay { to = echo "TLS1.3", record = [[
    if from == "client" and record:byte(1) == 23 and number > 3 then relay:stall() end return record ]] }
  local connection = assert(tlsconnect.connect(relay.host, relay.port, options(wait)))
  local block = ("x"):rep(1024 * 1024)
  connection:settimeout(0)
  local full = 0
  while full < 20 do
    local _, _, sent = connection:send(block)
    full = sent == 0 and full + 1 or 0
    wait(connection:getfd(), "r", core.now() + 0.01)
  end
  connection:settimeout(600)
  local _, _, err = connection:shutdown("send")
  connection.limit = 0
  connection:close()
  return err
end

describe("wait alone", function()
  it("drives 100 connections in one thread, and a peer that stalls in any step holds up none", function()
    local good = peers.nginx { cert = site }
    local real, bell = core.lookup, mute(1)
    core.lookup = function(name, family)
      if name ~= "stalled.test" then return real(name, family) end
      return { getfd = function() return bell:getfd() end, close = function() end,
        result = function() return nil, "want_read" end }
    end
    local served, failed, over = 0, {}, false
    local ok, message = pcall(scheduler.run, function(spawn, wait, _, join)
      -- The stalled ones go on waiting until all the others are done: if one of them held the thread, the
      -- others would never be.
      local function patient(fd, events, deadline)
        repeat
          local ready = wait(fd, events, core.now() + 0.05)
          if ready then return true end
        until over or deadline and core.now() >= deadline
        return nil, "timeout"
      end
      local waiting = {}
      for step, stall in pairs(stalls) do waiting[step] = spawn(stall, patient) end
      local tasks = {}
      for i = 1, 100 do
        tasks[i] = spawn(function()
          local connection = assert(tlsconnect.connect(good.host, good.port, options(wait)))
          assert(connection:send("GET / HTTP/1.0\r\n\r\n"))
          assert(assert(connection:receive("*a")):find("hello from nginx", 1, true))
          connection:close()
          served = served + 1
        end)
      end
      for _, task in ipairs(tasks) do join(task) end
      over = true
      for step, task in pairs(waiting) do failed[step] = join(task) end
    end)
    core.lookup = real
    for _, socket in ipairs(keep) do socket:close() end
    bell:close()
    assert.is_true(ok, message)
    assert.equal(100, served)
    local count = 0
    for step, err in pairs(failed) do
      assert.same({ "timeout", step }, { err.code, err.step }, err.detail)
      count = count + 1
    end
    assert.equal(9, count)
  end)

  it("serves 100 clients in one thread, while one says nothing", function()
    local served = 0
    scheduler.run(function(spawn, wait, _, join)
      local listener = assert(tlsconnect.listen("127.0.0.1", 0, { certificate = site.chain, key = site.key, wait = wait,
        timeout = 600, backlog = 256 }))
      local _, port = listener:address()
      local silent = assert(core.socket("inet"))
      silent:connect("127.0.0.1", port)
      local server = spawn(function()
        while true do
          local peer = listener:accept()
          if not peer then return end
          spawn(function()
            local line = peer:receive()
            if line then
              peer:send(line:reverse() .. "\n")
              served = served + 1
            end
            peer:close()
          end)
        end
      end)
      local tasks = {}
      for i = 1, 100 do
        tasks[i] = spawn(function()
          local connection = assert(tlsconnect.connect("127.0.0.1", port, options(wait)))
          connection:send(("%d\n"):format(i + 1000))
          assert.equal(tostring(i + 1000):reverse(), connection:receive())
          connection:close()
        end)
      end
      for _, task in ipairs(tasks) do join(task) end
      silent:close()
      listener:close()
      join(server)
    end)
    assert.equal(100, served)
  end)

  it("is asked for nothing but an integer, a direction and a time", function()
    local server = peers.nginx { cert = site }
    local before = core.now()
    local calls = 0
    local function wait(...)
      local fd, events, deadline = ...
      calls = calls + 1
      assert.equal(3, select("#", ...))
      assert.is_true(type(fd) == "number" and fd >= 0 and fd % 1 == 0)
      assert.truthy(({ r = true, w = true, rw = true })[events])
      assert.is_true(deadline > before and deadline <= core.now() + 60)
      return core.poll(fd, events, deadline)
    end
    local connection = assert(tlsconnect.connect(server.host, server.port, options(wait, { timeout = 60 })))
    connection:send("GET / HTTP/1.0\r\n\r\n")
    assert.truthy(connection:receive("*a"):find("hello", 1, true))
    connection:close()
    assert.is_true(calls > 0)
  end)
end)

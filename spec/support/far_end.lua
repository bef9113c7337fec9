-- The other end of a connection, worked by the spec itself while its client waits. So the order of things is
-- known: what a client has been given before it waits again, it got without any byte that came later. A
-- stall shows as a wait in which nothing is left to send, never as a time that passes.
--
--   local far = far_end.session { priority = "-VERS-TLS1.2" }       -- a server's session over memory
--   far.connection                                                  -- the client's, made with tlsconnect.wrap
--   far:queue(bytes, bytes, far_end.finish)                         -- one of them goes with each wait
--
--   local relay = far_end.relay(peer)                               -- a real server, reached through the spec
--   tlsconnect.connect("127.0.0.1", relay.port, { wait = relay.wait })
local core = require "tlsconnect.core"
local pki = require "spec.support.pki"
local sessions = require "spec.support.sessions"
local sockets = require "spec.support.sockets"
local tlsconnect = require "tlsconnect"

local M = {}

local LONG = 30 -- seconds in which what is on its way over loopback has come, however slow the machine

local function shown(socket, events)
  assert(core.poll(socket:getfd(), events, core.now() + LONG))
end

-- A session ---------------------------------------------------------------------------------------

local Far = {}
Far.__index = Far

--- Deliveries: the end of the stream, and a reset.
function M.finish(far) far.socket:shutdown("send") end

function M.reset(far)
  far.socket:set("reset", true)
  far.socket:close()
end

-- Moves what there is for the handshake.
local function shake(far)
  local bytes = far.socket:read("some", 65536)
  if bytes then far.server:feed(bytes) end
  far.done = far.done or far.server:handshake()
  local out = far.server:drain()
  if out ~= "" then assert(far.socket:write(out)) end
end

-- The next delivery, or as much of it as the socket takes: the rest waits until the client has read that.
local function deliver(far)
  local item = table.remove(far.items, 1)
  if type(item) == "function" then return item(far) end
  local last, want, done = far.socket:write(item)
  assert(last or want == "want_write", want)
  if not last then table.insert(far.items, 1, item:sub(done + 1)) end
end

--- Puts deliveries in the queue: strings, or functions of the far end. Each goes in a wait of its own.
function Far:queue(...)
  for i = 1, select("#", ...) do self.items[#self.items + 1] = (select(i, ...)) end
end

--- What the server sends for data, as one string of records.
function Far:encrypt(data)
  assert(self.server:write(data))
  return self.server:drain()
end

--- The server's close_notify.
function Far:close_notify()
  assert(self.server:close_notify(false))
  return self.server:drain()
end

--- Whether all has been delivered, and the client has waited `waits` times for it.
function Far:all_delivered(waits)
  return #self.items == 0 and (not waits or self.waits == waits)
end

function Far:close()
  self.connection:close()
  self.server:close()
  self.socket:close()
end

local site, context

--- A client's connection over a real socket, and a server's session over memory. options: priority = text of the
-- server. A wait without anything in the queue is one that runs out of time at once.
function M.session(options)
  options = options or {}
  site = site or pki.shared():issue { name = "a.test" }
  context = context or assert(tlsconnect.context { ca_file = pki.shared().ca_file })
  local near, far_socket = sockets.pair()
  local far = setmetatable({ socket = far_socket, items = {}, waits = 0,
    server = sessions.context { certificate = site, priority = options.priority }:session("server", { memory = true }),
  }, Far)
  local function wait(fd, events)
    far.waits = far.waits + 1
    if far.connection then
      if #far.items == 0 then return nil, "timeout" end
      deliver(far)
    else
      shake(far)
    end
    assert(core.poll(fd, events, core.now() + LONG))
    return true
  end
  far.connection = assert(tlsconnect.wrap(near:detach(), { context = context, server_name = "a.test", wait = wait }))
  while not far.done do
    shown(far.socket, "r")
    shake(far)
  end
  far.waits = 0
  return far
end

-- A relay -----------------------------------------------------------------------------------------

--- What stands between a client and a real server in this process. peer: of spec.support.peers. options: step =
-- how many bytes the client is given in each of its waits (1); before(), called when it waits and nothing is
-- held here, after which the server must have something to send. relay.port is where it listens,
-- relay.wait the client's wait; relay.passed counts bytes to the client.
function M.relay(peer, options)
  local listener, _, port = sockets.listener()
  local relay = { port = port, step = options and options.step or 1, before = options and options.before, passed = 0 }
  local held = ""

  local function upward()
    local bytes = relay.near and relay.near:read("some", 65536)
    if not bytes then return end
    local done = 0
    while done < #bytes do
      local last, want, sent = relay.up:write(bytes, done + 1)
      assert(last or want == "want_write", want)
      if not last then shown(relay.up, "w") end
      done = last or sent
    end
  end

  local function downward()
    if held == "" then
      shown(relay.up, "r")
      local bytes, want, cause = relay.up:read("some", 65536)
      if not bytes then
        assert(cause and cause.code == "closed", want)
        return relay.near:shutdown("send")
      end
      held = bytes
    end
    local piece = held:sub(1, relay.step)
    held = held:sub(relay.step + 1)
    assert(relay.near:write(piece))
    relay.passed = relay.passed + #piece
  end

  function relay.wait(fd, events)
    local near = not relay.near and core.poll(listener:getfd(), "r", core.now()) and listener:accept()
    if near then
      near:set("nodelay", true)
      relay.near, relay.up = near, sessions.dial(peer)
    end
    upward()
    if relay.near and events == "r" and not core.poll(fd, "r", core.now()) then
      if held == "" and relay.before then relay.before() end
      downward()
    end
    assert(core.poll(fd, events, core.now() + LONG))
    return true
  end

  function relay.close()
    listener:close()
    if relay.near then
      relay.near:close()
      relay.up:close()
    end
  end

  return relay
end

return M

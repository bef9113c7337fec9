-- The program behind peers.raw and peers.relay, in a process of its own:
--   raw HOST PORT SCRIPT                     runs the script for each connection
--   relay HOST PORT SCRIPT TO_HOST TO_PORT   passes TLS records both ways, through the script
-- Both run on the core's sockets and the specs' scheduler; no TLS is involved here.
local core = require "tlsconnect.core"
local scheduler = require "spec.support.scheduler"
local tmp = require "spec.support.tmp"

local mode, host, port, script, to_host, to_port = (unpack or table.unpack)(arg)
local chunk

local function compile(parameters)
  local text = "local " .. parameters .. " = ... " .. tmp.read(script)
  return assert((loadstring or load)(text, "@script"))
end

local Peer = {}
Peer.__index = Peer

--- Reads with one of the core's patterns; what came before the end or an error is returned too.
function Peer:read(what, limit)
  while true do
    local data, want = self.socket:read(what or "some", limit or 1048576)
    if data then return data end
    if want ~= "want_read" then return self.socket:take(), want end
    self.wait(self.socket:getfd(), "r")
  end
end

function Peer:line() return self:read("l") end
function Peer:head() return self:read("head") end

--- Sends all of it, or as much as the other side takes; true when all was sent.
function Peer:send(data)
  local from = 1
  while from <= #data do
    local last, want, done = self.socket:write(data, from)
    if last then return true end
    if want ~= "want_write" then return false end
    from = (done or from - 1) + 1
    self.wait(self.socket:getfd(), "w")
  end
  return true
end

--- Sends byte by byte, with a pause after each.
function Peer:drip(data, pause)
  for i = 1, #data do
    if not self:send(data:sub(i, i)) then return false end
    self.sleep(pause or 0.01)
  end
  return true
end

--- Reads and drops everything until the other side ends.
function Peer:drain()
  repeat
    local _, err = self:read("some")
  until err
end

--- Neither reads nor writes, for good.
function Peer:stall()
  while true do self.sleep(3600) end
end

function Peer:shutdown() self.socket:shutdown("send") end

--- Closes at once; if the other side's bytes were not all read, it sees a reset.
function Peer:close() self.socket:close() end

--- Ends the sending, and closes when the other side has done so too: it sees a clean end.
function Peer:finish()
  self:shutdown()
  self:drain()
  self:close()
end

function Peer:reset()
  self.socket:set("reset", true)
  self.socket:close()
end

local function peer_of(socket, wait, sleep)
  socket:set("nodelay", true)
  return setmetatable({ socket = socket, wait = wait, sleep = sleep }, Peer)
end

--- What the script of a relay may do beside returning bytes: relay.client and relay.server are the two
-- peers; finish (a clean end), reset and stall act on both and end the relaying.
local Relay = {}
Relay.__index = Relay

function Relay:finish()
  self.over = true
  self.server:shutdown()
  self.client:finish()
  self.server:close()
end

function Relay:reset()
  self.over = true
  self.client:reset()
  self.server:reset()
end

function Relay:stall() self.client:stall() end
function Relay:sleep(seconds) self.client.sleep(seconds) end

local function pass(relay, from, source, target)
  local number = 0
  while not relay.over do
    local header, ended = source:read(5)
    local body = ""
    if not ended then body, ended = source:read(header:byte(4) * 256 + header:byte(5)) end
    if ended then
      if not relay.over then
        target:send((header or "") .. (body or ""))
        target:shutdown()
      end
      return
    end
    number = number + 1
    local bytes = chunk(from, number, header .. body, relay)
    if relay.over then return end
    if bytes then target:send(bytes) end
  end
end

local function relay(client, spawn, wait, sleep, join)
  local socket = assert(core.socket(to_host:find(":", 1, true) and "inet6" or "inet"))
  local ok, want = socket:connect(to_host, tonumber(to_port))
  while want == "want_write" do
    wait(socket:getfd(), "w")
    ok, want = socket:finish_connect()
  end
  if not ok then return client:close() end
  local both = setmetatable({ client = client, server = peer_of(socket, wait, sleep) }, Relay)
  local upward = spawn(pass, both, "client", client, both.server)
  pass(both, "server", both.server, client)
  join(upward)
  client:close()
  socket:close()
end

scheduler.run(function(spawn, wait, sleep, join)
  chunk = compile(mode == "raw" and "peer, number" or "from, number, record, relay")
  local listener = assert(core.socket(host:find(":", 1, true) and "inet6" or "inet"))
  listener:set("reuseaddr", true)
  assert(listener:bind(host, tonumber(port)))
  assert(listener:listen(128))
  local number = 0
  while true do
    local socket, want = listener:accept()
    if socket then
      number = number + 1
      local peer = peer_of(socket, wait, sleep)
      if mode == "raw" then
        spawn(function(n)
          chunk(peer, n)
          peer:finish()
        end, number)
      else
        spawn(relay, peer, spawn, wait, sleep, join)
      end
    elseif want == "want_read" then
      wait(listener:getfd(), "r")
    else
      error(want)
    end
  end
end)

-- Many connections, one after the other and at once, and much data: in flat memory.
local pki = require "spec.support.pki"
local scheduler = require "spec.support.scheduler"
local soak = require "spec.support.soak"
local sockets = require "spec.support.sockets"
local tlsconnect = require "tlsconnect"

local authority = pki.shared()
local site = authority:issue { name = "a.test" }
local MEGABYTE = 1024 * 1024

-- Runs client(connect, sleep) beside a listener that calls serve(peer) in a task of its own for each peer.
local function beside(serve, client)
  scheduler.run(function(spawn, wait, sleep)
    local listener = assert(tlsconnect.listen("127.0.0.1", 0, { certificate = site.chain, key = site.key, wait = wait,
      backlog = 1024 }))
    local _, port = listener:address()
    local context = assert(tlsconnect.context { ca_file = authority.ca_file })
    spawn(function()
      while true do
        local peer = listener:accept()
        if not peer then return end
        spawn(function()
          serve(peer)
          peer:close()
        end)
      end
    end)
    client(function()
      return assert(tlsconnect.connect("127.0.0.1", port, { server_name = "a.test", context = context, wait = wait,
        timeout = 300 }))
    end, sleep)
    listener:close()
  end)
end

local function echo(peer)
  while true do
    local line = peer:receive()
    if not line then return end
    peer:send(line .. "\n")
  end
end

local function grown(before)
  local now = soak.memory()
  return before and now and now - before or 0
end

describe("connections", function()
  it("one after the other, ten thousand of them, cost no memory and no descriptor", function()
    local count = soak(10000, 100)
    beside(echo, function(connect)
      local memory, descriptors
      for i = 1, count do
        local connection = connect()
        connection:send("hello\n")
        assert.equal("hello", connection:receive())
        connection:close()
        if i == count / 10 then memory, descriptors = soak.memory(), sockets.open_descriptors() end
      end
      assert.is_true(grown(memory) < 8 * MEGABYTE, grown(memory) .. " bytes more")
      assert.is_true(sockets.at_most_open(descriptors + 4))
    end)
  end)

  it("a thousand at once that say nothing hold up nobody, and are small", function()
    local count = soak(1000, 50)
    local kept = {}
    local memory = soak.memory()
    beside(echo, function(connect)
      for i = 1, count do
        kept[i] = connect()
        kept[i]:send("hello\n")
        assert.equal("hello", kept[i]:receive())
      end
      -- Both ends of each are here.
      assert.is_true(grown(memory) < count * 150 * 1024 + 8 * MEGABYTE, grown(memory) .. " bytes more")
      for i = count, 1, -1 do
        kept[i]:send("again\n")
        assert.equal("again", kept[i]:receive())
      end
      for i = 1, count do kept[i]:close() end
    end)
  end)
end)

describe("a connection", function()
  local block = ("0123456789abcdef"):rep(4096)
  local blocks = soak(2048 * 16, 8 * 16)

  local function give(from)
    for _ = 1, blocks do assert(from:send(block)) end
  end

  -- Takes all of it. The memory it has grown by since the first megabyte.
  local function take(from)
    local size, memory = 0, nil
    while size < blocks * #block do
      local data = assert(from:read("some", #block))
      size = size + #data
      if not memory and size > MEGABYTE then memory = soak.memory() or 0 end
    end
    assert.equal(blocks * #block, size)
    return memory ~= 0 and grown(memory) or 0
  end

  it("carries two gigabytes down in flat memory", function()
    beside(function(peer)
      give(peer)
      peer:receive()
    end, function(connect)
      local connection = connect()
      local more = take(connection)
      connection:close()
      assert.is_true(more < 4 * MEGABYTE, more .. " bytes more")
    end)
  end)

  it("carries two gigabytes up in flat memory", function()
    beside(function(peer) peer:send(take(peer) .. "\n") end, function(connect)
      local connection = connect()
      give(connection)
      local more = tonumber((connection:receive()))
      connection:close()
      assert.is_true(more < 4 * MEGABYTE, more .. " bytes more")
    end)
  end)
end)

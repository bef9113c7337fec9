-- Long reads, however the stream is cut: exact, on time, and nothing left where a wait would not see it.
local core = require "tlsconnect.core"
local pki = require "spec.support.pki"
local sessions = require "spec.support.sessions"
local sockets = require "spec.support.sockets"

local site = pki.shared():issue { name = "a.test" }

-- A client's session over a real socket, and the other end: a server's session over memory, whose bytes the
-- spec sends as it likes.
local function connected(priority)
  local near, far = sockets.pair()
  local client = sessions.context { priority = priority }:session("client", { socket = near, server_name = "a.test" })
  local server = sessions.context { certificate = site }:session("server", { memory = true })
  local done
  repeat
    local ok, want = client:handshake()
    if want == "want_verify" then client:verdict(true) end
    local bytes = far:read("some", 65536)
    if bytes then server:feed(bytes) end
    done = server:handshake()
    local out = server:drain()
    if out ~= "" then assert(far:write(out)) end
  until ok and done
  local out = server:drain()
  if out ~= "" then assert(far:write(out)) end
  return client, server, near, far
end

local function payload(size)
  local parts = {}
  for i = 1, math.ceil(size / 10) do parts[i] = ("%09d\n"):format(i) end
  return table.concat(parts):sub(1, size)
end

local function encrypt(server, data)
  assert(server:write(data))
  return server:drain()
end

-- Sends bytes that the socket may not take at once; reads on meanwhile.
local function send(far, bytes, at, last)
  local done, _, upto = far:write(bytes, at, last)
  return done or upto
end

local function wait_for(socket)
  assert(core.poll(socket:getfd(), "r", core.now() + 30))
end

for name, priority in pairs { ["TLS 1.3"] = "-VERS-TLS1.2", ["TLS 1.2"] = "-VERS-TLS1.3" } do
  describe("a long read over " .. name, function()
    it("is exact when the stream is cut round every record's edge", function()
      local client, server, near, far = connected(priority)
      local data = payload(40000)
      local offsets, at = {}, 0
      for _, record in ipairs(sessions.records(encrypt(server, data))) do
        for offset = at - 2, at + 7 do offsets[#offsets + 1] = offset end
        for _, offset in ipairs { 4000, 4091, 4096, 4101, 4106, 8192, #record - 4096, #record - 1 } do
          offsets[#offsets + 1] = at + offset
        end
        at = at + #record
      end
      -- What was encrypted to find the edges goes first: sequence numbers count.
      client:close() near:close() far:close()
      client, server, near, far = connected(priority)
      for _, offset in ipairs(offsets) do
        local bytes = encrypt(server, data)
        if offset > 0 and offset < #bytes then
          assert(far:write(bytes, 1, offset))
          wait_for(near)
          local early, want = client:read(#data)
          assert.is_nil(early)
          assert.equal("want_read", want)
          assert(far:write(bytes, offset + 1))
        else
          assert(far:write(bytes))
        end
        local got, want
        repeat
          got, want = client:read(#data)
          if not got then
            assert.equal("want_read", want)
            wait_for(near)
          end
        until got
        assert.equal(data, got)
        assert.equal(0, client:pending())
      end
    end)

    it("is exact byte by byte, and in bursts of odd sizes", function()
      local client, server, near, far = connected(priority)
      for _, step in ipairs { 1, 3, 1000, 4097, 16389 } do
        local data = payload(step == 1 and 300 or step * 20)
        local bytes = encrypt(server, data)
        local got
        for at = 1, #bytes, step do
          assert.is_nil(got)
          assert(far:write(bytes, at, math.min(#bytes, at + step - 1)))
          wait_for(near)
          got = client:read(#data)
        end
        while not got do
          wait_for(near)
          got = client:read(#data)
        end
        assert.equal(data, got)
      end
    end)

    it("hands out a line that came together with what follows it", function()
      local client, server, near, far = connected(priority)
      assert(far:write(encrypt(server, "one\r\n") .. encrypt(server, "two\r\n") .. encrypt(server, "three")))
      wait_for(near)
      assert.equal("one", client:read("l"))
      assert.is_true(client:pending() > 0) -- poll(2) does not see it any more
      assert.equal("two", client:read("l"))
      assert.equal("three", client:read(5))
      local nothing, want = client:read("some")
      assert.is_nil(nothing)
      assert.equal("want_read", want)
      assert.equal(0, client:pending())
    end)

    it("T3 gives other coroutines their turn, and then waits for nothing that is already here", function()
      local client, server, near, far = connected(priority)
      local data = payload(6 * 1024 * 1024)
      local bytes, sent, turns = encrypt(server, data), 0, 0
      local got, want
      repeat
        -- The socket is kept full, so that the stream itself never pauses.
        if sent < #bytes then sent = send(far, bytes, sent + 1) end
        got, want = client:read(#data)
        if not got then
          assert.equal("want_read", want)
          turns = turns + 1
          if sent == #bytes then wait_for(near) end
        end
      until got
      assert.equal(data, got)
      assert.is_true(turns >= 5, turns)
      client:close()
    end)
  end)
end

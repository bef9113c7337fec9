-- Streams that are fast, then slow, then silent, and cut anywhere: every byte is handed out as soon as it is
-- here, and what an end or a silence leaves is what had come.
local core = require "tlsconnect.core"
local far_end = require "spec.support.far_end"
local sessions = require "spec.support.sessions"
local tmp = require "spec.support.tmp"

local versions = { ["TLS 1.3"] = "-VERS-TLS1.2", ["TLS 1.2"] = "-VERS-TLS1.3" }

local function payload(size)
  local parts = {}
  for i = 1, math.ceil(size / 10) do parts[i] = ("%09d\n"):format(i) end
  return table.concat(parts):sub(1, size)
end

-- Reads by pieces until there are `size` bytes.
local function some(connection, size)
  local parts, count = {}, 0
  while count < size do
    local piece = assert(connection:read("some", size - count))
    parts[#parts + 1], count = piece, count + #piece
  end
  return table.concat(parts)
end

-- The same into a file.
local function pour(connection, size)
  local path = tmp.path("poured")
  local file, count = assert(io.open(path, "wb")), 0
  while count < size do count = count + assert(connection:pour(file, size - count)) end
  file:close()
  return tmp.read(path)
end

-- What reads `size` bytes, in as few calls or as many as it takes.
local readers = {
  some = some,
  exact = function(connection, size) return connection:receive(size) end,
  pour = pour,
  line = function(connection, size)
    local parts, count = {}, 0
    while count < size do
      local line = assert(connection:receive("*L"))
      parts[#parts + 1], count = line, count + #line
    end
    return table.concat(parts)
  end,
}

-- Reads of one byte.
local single = {
  some = function(connection) return connection:read("some", 65536) end,
  exact = function(connection) return connection:receive(1) end,
  pour = function(connection) return pour(connection, 1) end,
}

local HEAD = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n\r\n"

-- Each kind of read with a short text, and whether what it gives is that.
local patterns = {
  exact = { text = "twelve bytes", read = function(connection, text) return connection:receive(#text) end },
  some = { text = "twelve bytes", read = function(connection, text) return some(connection, #text) end },
  pour = { text = "twelve bytes", read = function(connection, text) return pour(connection, #text) end },
  line = { text = "a line\r\n", read = function(connection) return connection:receive() .. "\r\n" end },
  lines = { text = "a\nb\r\n\r\n", read = function(connection)
    return connection:receive "*L" .. connection:receive "*L" .. connection:receive "*L"
  end },
  head = { text = HEAD, read = function(connection) return connection:read("head", 1000) end },
  answer = { text = HEAD .. "hello", read = function(connection)
    local results = { connection:read("answer", 1000, 10, 100) }
    local body = results[#results]
    if body ~= "hello" then body = connection:read(5) end
    assert.equal(200, results[1].status)
    return HEAD .. body
  end },
}

for version, priority in pairs(versions) do
  describe("a stream over " .. version, function()
    for name, read in pairs(readers) do
      it("that is fast, then slow, then fast is on time (" .. name .. ")", function()
        local far = far_end.session { priority = priority }
        local connection, data = far.connection, payload(400000)
        for _ = 1, 2 do
          far:queue(far:encrypt(data))
          local first = read(connection, 10000)
          -- More than is read ahead of a slow stream is here already.
          assert.is_true(connection.session:pending() > 16384 + 4096)
          assert.equal(data, first .. read(connection, 390000))
          assert.is_true(far:all_delivered())
          local alone = single[name]
          if alone then
            for byte in ("slow"):gmatch(".") do
              far:queue(far:encrypt(byte))
              assert.equal(byte, alone(connection))
            end
          else
            for _, line in ipairs { "a\n", "\n", "bc\n" } do
              far:queue(far:encrypt(line))
              assert.equal(line, connection:receive("*L"))
            end
          end
          assert.is_true(far:all_delivered())
        end
        far:close()
      end)

      it("that stops in the middle loses nothing: timeout, take() and going on (" .. name .. ")", function()
        local far = far_end.session { priority = priority }
        local connection, data = far.connection, payload(400000)
        local bytes = far:encrypt(data)
        -- It stops inside a record, and the client is told that its time is over.
        local most = #bytes - 7000
        far:queue(bytes:sub(1, most))
        local got, message, partial, err, written
        if name == "pour" then
          local path = tmp.path("poured")
          local file, count = assert(io.open(path, "wb")), 0
          repeat
            local done
            done, message, err, written = connection:pour(file, #data)
            count = count + (done or written)
          until not done
          file:close()
          got = tmp.read(path)
          assert.equal(count, #got)
        elseif name == "exact" then
          got, message, partial, err = connection:receive(#data)
          assert.is_nil(got)
          got = partial
        else
          local parts = {}
          repeat
            local piece
            if name == "line" then
              piece, message, partial, err = connection:receive("*L")
            else
              piece, message, err = connection:read("some", 5000)
              partial = nil
            end
            parts[#parts + 1] = piece or partial
          until not piece
          got = table.concat(parts)
        end
        assert.same({ "timeout", "timeout" }, { message, err.code })
        -- All records that are whole, and nothing of the one that is not.
        local whole, at = 0, 0
        for _, record in ipairs(sessions.records(bytes)) do
          at = at + #record
          if at <= most then whole = whole + 16384 end
        end
        assert.equal(data:sub(1, whole), got)
        assert.equal("", connection:take())
        far:queue(bytes:sub(most + 1))
        assert.equal(data:sub(whole + 1), read(connection, #data - whole))
        far:close()
      end)
    end

    it("that stops is waited for until the client's own deadline, and then goes on", function()
      local far = far_end.session { priority = priority }
      local connection, bytes = far.connection, far:encrypt(payload(60000))
      connection.waiter = core.poll -- the usual wait
      assert(far.socket:write(bytes, 1, 50000))
      connection:settimeout(0.2)
      local began = core.now()
      local data, message, partial = connection:receive(60000)
      assert.same({ nil, "timeout" }, { data, message })
      assert.is_true(core.now() - began >= 0.2)
      assert.equal(payload(60000):sub(1, #partial), partial)
      connection:settimeout(0)
      assert.equal("timeout", (select(2, connection:receive(1))))
      connection:settimeout(30)
      assert(far.socket:write(bytes, 50001))
      assert.equal(payload(60000), partial .. connection:receive(60000 - #partial))
      far:close()
    end)

    it("is exact wherever a record is cut, for every kind of read", function()
      local far = far_end.session { priority = priority }
      for _, pattern in pairs(patterns) do
        local text, at = pattern.text, 0
        local bytes
        repeat
          bytes, at = far:encrypt(text), at + 1
          far.waits = 0
          far:queue(bytes:sub(1, at), at < #bytes and bytes:sub(at + 1) or nil)
          assert.equal(text, pattern.read(far.connection, text))
          assert.is_true(far:all_delivered(at < #bytes and 2 or 1), at)
        until at == #bytes
      end
      far:close()
    end)

    it("is exact wherever a text of one byte a record is cut, for every kind of read", function()
      local far = far_end.session { priority = priority }
      for _, pattern in pairs(patterns) do
        local records = {}
        for byte in pattern.text:gmatch(".") do records[#records + 1] = far:encrypt(byte) end
        far:queue((unpack or table.unpack)(records))
        far.waits = 0
        assert.equal(pattern.text, pattern.read(far.connection, pattern.text))
        assert.is_true(far:all_delivered(#records))
      end
      far:close()
    end)

    it("is exact round the edges of long records", function()
      local far = far_end.session { priority = priority }
      local data = payload(110000)
      local size, offsets = 0, {}
      for offset = 1, 8 do offsets[offset] = offset end
      for _, record in ipairs(sessions.records(far:encrypt(data))) do
        size = size + #record
        for offset = size - 3, size + 8 do offsets[#offsets + 1] = offset end
      end
      for _ = 0, 8 do offsets[#offsets] = nil end -- those behind the last one
      far:close()
      far = far_end.session { priority = priority }
      for _, name in ipairs { "some", "exact", "pour", "line" } do
        for _, offset in ipairs(offsets) do
          local bytes = far:encrypt(data)
          far:queue(bytes:sub(1, offset), bytes:sub(offset + 1))
          assert.is_true(data == readers[name](far.connection, #data), name .. " cut at " .. offset)
          assert.is_true(far:all_delivered())
        end
      end
      far:close()
    end)

    it("is exact round the edges of what is read ahead", function()
      local far = far_end.session { priority = priority }
      local data, ends, size = payload(420000), {}, 0
      for i, record in ipairs(sessions.records(far:encrypt(data))) do
        size = size + #record
        ends[i] = size
      end
      far:close()
      far = far_end.session { priority = priority }
      -- 4 KB and 64 KB stand behind the first record; behind the one that these end in, 256 KB.
      local edges = { 5 + 4096, ends[1] + 65536 }
      for _, at in ipairs(ends) do
        if at >= edges[2] then
          edges[3] = at + 262144
          break
        end
      end
      assert.is_true(edges[3] < size)
      for _, name in ipairs { "some", "exact", "pour" } do
        for _, edge in ipairs(edges) do
          for offset = edge - 3, edge + 8 do
            local bytes = far:encrypt(data)
            far:queue(bytes:sub(1, offset), bytes:sub(offset + 1))
            assert.is_true(data == readers[name](far.connection, #data), name .. " cut at " .. offset)
            assert.is_true(far:all_delivered())
          end
        end
      end
      far:close()
    end)

    -- Ends ----------------------------------------------------------------------------------------

    -- Reads all until the end: what came, and the code of the end.
    local until_end = {
      all = function(connection)
        local data, _, partial, err = connection:receive("*a")
        return data or partial, err and err.code or "closed"
      end,
      some = function(connection)
        local parts = {}
        while true do
          local piece, _, err = connection:read("some", 1000)
          if not piece then return table.concat(parts), err.code end
          parts[#parts + 1] = piece
        end
      end,
      pour = function(connection)
        local path = tmp.path("poured")
        local file = assert(io.open(path, "wb"))
        while true do
          local done, _, err = connection:pour(file, 1000)
          if not done then
            file:close()
            return tmp.read(path), err.code
          end
        end
      end,
      exact = function(connection)
        local data, _, partial, err = connection:receive(100)
        assert.is_nil(data)
        return partial, err.code
      end,
      head = function(connection)
        local head, _, err = connection:read("head", 1000)
        assert.is_nil(head)
        return connection:take(), err.code
      end,
      answer = function(connection)
        local answer, _, err = connection:read("answer", 1000, 10, 100)
        assert.is_nil(answer)
        return connection:take(), err.code
      end,
      line = function(connection)
        local parts = {}
        while true do
          local line, _, partial, err = connection:receive("*L")
          parts[#parts + 1] = line or partial
          if not line then return table.concat(parts), err.code end
        end
      end,
    }

    -- For every way to read and every offset of a record and close_notify: a new connection. ending(far, bytes,
    -- offset) queues what comes; expected(offset, size) is the code.
    local function at_every_offset(ending, expected)
      for name, read in pairs(until_end) do
        local offset = 0
        local bytes
        repeat
          local far = far_end.session { priority = priority }
          local record = far:encrypt("one\ntwo")
          bytes = record .. far:close_notify()
          ending(far, bytes, offset)
          local data, code = read(far.connection)
          local whole = offset >= #record and "one\ntwo" or ""
          local want, all = expected(offset, #bytes)
          assert.same({ name, offset, want, all and "one\ntwo" or whole }, { name, offset, code, data })
          assert.is_true(far:all_delivered())
          far:close()
          offset = offset + 1
        until offset > #bytes
      end
    end

    it("comes to its end once close_notify is there, wherever the stream is cut", function()
      at_every_offset(function(far, bytes, offset)
        if offset > 0 and offset < #bytes then
          far:queue(bytes:sub(1, offset), bytes:sub(offset + 1))
        else
          far:queue(bytes)
        end
      end, function() return "closed", true end)
    end)

    -- It ends at every offset in that way; `code`: of the error where close_notify was not there yet.
    local function ends(how, code)
      at_every_offset(function(far, bytes, offset)
        if offset > 0 then far:queue(bytes:sub(1, offset)) end
        far:queue(offset < #bytes and how or nil)
      end, function(offset, size) return offset < size and code or "closed" end)
    end

    it("A4 is truncated wherever it ends before close_notify is there, and gives what had come", function()
      ends(far_end.finish, "truncated")
    end)

    it("is reset wherever that happens before close_notify is there, and gives what had come", function()
      ends(far_end.reset, "reset")
    end)

    it("that ends in the handshake is closed there, whatever the byte", function()
      local offset, complete = 0, 0
      local size
      repeat
        local pair = sessions.pair { server = { priority = priority } }
        pair.client:handshake()
        pair:move("client", "server")
        pair.server:handshake()
        local flight = pair.server:drain()
        size = #flight
        pair.client:feed(flight:sub(1, offset))
        pair.client:feed(nil)
        local ok, message, cause = pair.client:handshake()
        if message == "want_verify" then
          pair.client:verdict(true)
          ok, message, cause = pair.client:handshake()
        end
        if ok then
          -- What is cut are tickets.
          complete = complete + 1
          assert.equal("truncated", (select(3, pair.client:read(1))).code)
        else
          assert.equal("closed", cause.code, message)
          assert.equal(0, complete)
        end
        offset = offset + 7
      until offset >= size
      assert.is_true(complete < offset / 14, complete)
    end)
  end)
end

-- Servers that send one byte at a time, and a way on which one byte at a time comes through: each byte is handed
-- out before the next one is sent. Nothing here goes by the clock: where a byte were held back, there would be
-- no next one.
local core = require "tlsconnect.core"
local far_end = require "spec.support.far_end"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local process = require "spec.support.process"
local soak = require "spec.support.soak"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

local authority = pki.shared()
local site = authority:issue { name = "a.test", ip = "127.0.0.1" }
local LONG = 30

-- openssl s_server, which sends in a record of its own what it reads at once from its standard input.
local function server_of(version)
  return peers.openssl_server { cert = site, mode = false, version = version, arguments = { "-quiet" } }
end

-- The bytes of a text, which a server is given one by one: the next one when `given()` has all before it.
local function drip(server, text, given)
  local sent = 0
  return function()
    if given() < sent or sent == #text then return end
    sent = sent + 1
    server:command(text:sub(sent, sent))
  end
end

local function connect(port, wait)
  return assert(tlsconnect.connect("127.0.0.1", port, { server_name = "a.test", ca_file = authority.ca_file,
    session_cache = false, wait = wait, timeout = 300 }))
end

-- A wait that has the next byte sent first.
local function wait_after(before)
  return function(fd, events)
    before()
    assert(core.poll(fd, events, core.now() + LONG))
    return true
  end
end

local TEXT = "one\r\ntwo\n\nfour five\n"

-- Each takes a connection, and calls add(data) with what it was given.
local readers = {
  some = function(connection, add)
    for _ = 1, #TEXT do add(connection:read("some", 65536)) end
  end,
  exact = function(connection, add)
    for _ = 1, #TEXT do add(connection:receive(1)) end
  end,
  pour = function(connection, add)
    local path = tmp.path("poured")
    local file = assert(io.open(path, "wb"))
    for i = 1, #TEXT do
      assert.equal(1, connection:pour(file, 65536))
      add(tmp.read(path):sub(i))
    end
    file:close()
  end,
}

for _, version in ipairs { "tls1_2", "tls1_3" } do
  describe("a server that sends one byte a record, " .. version, function()
    for name, read in pairs(readers) do
      it("has each of them handed out before the next (" .. name .. ")", function()
        local server, got = server_of(version), ""
        local connection = connect(server.port)
        connection.waiter = wait_after(drip(server, TEXT, function() return #got end))
        read(connection, function(data)
          assert.equal(1, #data)
          got = got .. data
        end)
        assert.equal(TEXT, got)
        connection:close()
      end)

      it("has each of them handed out, if their bytes come one by one, too (" .. name .. ")", function()
        local server, got = server_of(version), ""
        local relay = far_end.relay(server)
        local connection = connect(relay.port, relay.wait)
        relay.before = drip(server, TEXT, function() return #got end)
        read(connection, function(data)
          assert.equal(1, #data)
          got = got .. data
        end)
        assert.equal(TEXT, got)
        -- A record of TLS is longer than its text by 22 bytes and more.
        assert.is_true(relay.passed > #TEXT * 22)
        connection:close()
        relay.close()
      end)
    end

    it("has lines, numbers of bytes and heads handed out with their last byte", function()
      local server, given = server_of(version), 0
      local connection = connect(server.port)
      local before
      -- Only what is asked for is sent: a byte more, and the read below would be late.
      connection.waiter = wait_after(function() before() end)
      for _, row in ipairs {
        { "one\r\n", "one", function() return connection:receive() end },
        { "two\n", "two\n", function() return connection:receive("*L") end },
        { "three", "three", function() return connection:receive(5) end },
        { "\n", "", function() return connection:receive() end },
        { "A: b\r\n\r\n", "A: b\r\n\r\n", function() return connection:read("head", 100) end },
      } do
        local text, sent = row[1], 0
        before = function()
          assert(sent < #text, "all has been sent, and more is awaited")
          sent = sent + 1
          server:command(text:sub(sent, sent))
        end
        assert.equal(row[2], row[3]())
        assert.equal(#text, sent)
        given = given + sent
      end
      assert.equal(given, connection.session:counters().bytes_in)
      connection:close()
    end)
  end)
end

it("a server that gives back each line, a byte at a time, is kept up with", function()
  local server = peers.gnutls_server { cert = site, mode = "--echo" }
  local relay = far_end.relay(server)
  local connection = connect(relay.port, relay.wait)
  for line in ("abc\n\nd\n"):gmatch("[^\n]*\n") do
    assert(connection:send(line))
    assert.equal(line, connection:receive("*L"))
  end
  connection:close()
  relay.close()
end)

describe("a body that comes one byte at a time", function()
  local function framed(kind)
    if kind == "length" then return "Content-Length: " .. #TEXT .. "\r\n\r\n" .. TEXT end
    local parts = {}
    for size, at in ("3 1 7 2 7"):gmatch("(%d)()") do parts[#parts + 1] = { tonumber(size), at } end
    local text, from = { "Transfer-Encoding: chunked\r\n\r\n" }, 1
    for _, part in ipairs(parts) do
      text[#text + 1] = ("%x\r\n%s\r\n"):format(part[1], TEXT:sub(from, from + part[1] - 1))
      from = from + part[1]
    end
    assert(from == #TEXT + 1)
    return table.concat(text) .. "0\r\n\r\n"
  end

  -- How many bytes of the body are among the first `sent` bytes of a message.
  local function body_bytes(kind, message, sent)
    local head = select(2, message:find("\r\n\r\n", 1, true))
    if sent <= head then return 0 end
    if kind == "length" then return sent - head end
    local count, at = 0, head + 1
    while at <= sent do
      local size, data = message:match("^(%x+)\r\n()", at)
      size = tonumber(size, 16)
      if size == 0 then break end
      if sent >= data then count = count + math.min(size, sent - data + 1) end
      at = data + size + 2
    end
    return count
  end

  -- Asks for a body by a relay. sink: as https has it; taken(): bytes of the body that it was given.
  local function fetch(kind, make)
    local server = server_of("tls1_3")
    local message = "HTTP/1.1 200 OK\r\n" .. framed(kind)
    local sent = 0
    local sink, taken, finish = make()
    local relay
    relay = far_end.relay(server, { step = 4096, before = function()
      local asked
      assert(process.eventually(function()
        asked = server:output():find("\r\n\r\n", 1, true) -- the request, in its log
        return asked or core.poll(relay.up:getfd(), "r", core.now())
      end))
      if not asked then return end
      if taken() < body_bytes(kind, message, sent) or sent == #message then return end
      sent = sent + 1
      server:command(message:sub(sent, sent))
    end })
    local answer = assert(tlsconnect.https.request { url = ("https://127.0.0.1:%d/"):format(relay.port),
      ca_file = authority.ca_file, sink = sink, wait = relay.wait, timeout = 300, proxy = false, keep_alive = false,
      session_cache = false })
    assert.equal(200, answer.status)
    assert.equal(#message, sent)
    finish()
    relay.close()
  end

  for _, kind in ipairs { "length", "chunked" } do
    it("reaches the sink before the next one is sent (" .. kind .. ")", function()
      fetch(kind, function()
        local got = ""
        return function(data)
          if data then got = got .. data end
          return true
        end, function() return #got end, function() assert.equal(TEXT, got) end
      end)
    end)

    it("is in the file before the next one is sent (" .. kind .. ")", function()
      fetch(kind, function()
        local path = tmp.path("sink")
        local file = assert(io.open(path, "wb"))
        return file, function() return #tmp.read(path) end, function()
          file:close()
          assert.equal(TEXT, tmp.read(path))
        end
      end)
    end)
  end
end)

describe("a body that comes in pieces", function()
  -- Sends piece after piece of an answer, each once the client has `taken()` all of the one before, and returns it.
  local function answered(head, pieces, options, taken)
    local server = server_of("tls1_3")
    local sent = 0
    local relay
    relay = far_end.relay(server, { step = 65536, before = function()
      local asked
      assert(process.eventually(function()
        asked = server:output():find("\r\n\r\n", 1, true)
        return asked or core.poll(relay.up:getfd(), "r", core.now())
      end))
      if not asked or taken() < sent or sent == #pieces then return end
      sent = sent + 1
      local piece = ("%x\r\n"):format(#pieces[sent]) .. pieces[sent] .. "\r\n"
      if sent == 1 then piece = "HTTP/1.1 200 OK\r\n" .. head .. "Transfer-Encoding: chunked\r\n\r\n" .. piece end
      server:command(sent == #pieces and piece .. "0\r\n\r\n" or piece)
    end })
    options.url, options.ca_file, options.wait = ("https://127.0.0.1:%d/"):format(relay.port), authority.ca_file,
      relay.wait
    options.timeout, options.proxy, options.keep_alive, options.session_cache = 300, false, false, false
    local answer = assert(tlsconnect.https.request(options))
    return answer, function() relay.close() end
  end

  it("is decoded as far as it is here", function()
    local gzip = false
    for _, name in ipairs(core.codings) do gzip = gzip or name == "gzip" end
    if not gzip then return pending("built without zlib") end
    local pieces, got = {}, {}
    -- "one ", "two two ", "three\n", flushed each.
    for i, hex in ipairs { "1f8b0800000000000203cacf4b5500000000ffff", "2a29cf076300000000ffff",
      "2ac9284a4de502000000ffff0300c03c3f8412000000" } do
      pieces[i] = hex:gsub("%x%x", function(byte) return string.char(tonumber(byte, 16)) end)
    end
    local _, done = answered("Content-Encoding: gzip\r\n", pieces, { sink = function(data)
      got[#got + 1] = data
      return true
    end }, function() return #got end)
    assert.same({ "one ", "two two ", "three\n" }, got)
    done()
  end)

  it("gives each event and each line with its end", function()
    local count = 0
    local answer, done = answered("Content-Type: text/event-stream\r\n",
      { "data: one\n\n", "data: two\n\n", "data: three\n\n" }, { stream = true }, function() return count end)
    local data = {}
    for event in answer:events() do
      count = count + 1
      data[count] = event.data
    end
    assert.same({ "one", "two", "three" }, data)
    done()
    count, data = 0, {}
    answer, done = answered("", { "one\n", "two\nth", "ree\n" }, { stream = true }, function() return count end)
    for line in answer:lines() do
      count = count + 1
      data[count] = line
    end
    assert.same({ "one", "two", "three" }, data)
    done()
  end)
end)

it("T3 a byte a second, for as long as the peer likes, is taken as it comes", function()
  local count, pause = soak(40, 4), soak(1, 0.05)
  local text = ("0123456789"):rep(4):sub(1, count)
  local server, got = server_of("tls1_3"), ""
  local connection = connect(server.port)
  local sent = 0
  connection.waiter = function(fd, events, deadline)
    if #got == sent then
      process.sleep(pause)
      sent = sent + 1
      server:command(text:sub(sent, sent))
    end
    return core.poll(fd, events, deadline)
  end
  local began = core.now()
  for i = 1, count do
    got = got .. assert(connection:read("some", 65536))
    assert.equal(i, #got)
  end
  assert.equal(text, got)
  assert.is_true(core.now() - began >= count * pause)
  connection:close()
end)

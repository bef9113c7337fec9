local trace = require "tlsconnect.trace"
local steps = require "tlsconnect.steps"
local handshakes = require "spec.support.handshakes"

local function bytes(hex)
  return (hex:gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end))
end

-- A session that saw a recorded handshake from one side, a millisecond a message.
local function session(name, role, change)
  local list, time = {}, 100
  for i, line in ipairs(handshakes[name]) do
    local message = bytes(line:sub(2))
    time = time + 0.001
    local from_client = line:sub(1, 1) == ">"
    list[i] = { type = message:byte(1), incoming = from_client == (role == "server"), time = time,
                bytes = message:sub(5) }
    if change then change(i, list[i]) end
  end
  return {
    messages = function()
      local new = list
      list = {}
      return new
    end,
    marks = function() return { start = 100, done = time, data_out = time + 0.5, data_in = time + 0.75 } end,
    info = function() return { cipher = "AES-256-GCM" } end,
    resumed = function() return false end,
    counters = function()
      return { bytes_in = 10, bytes_out = 20, records_in = 1, records_out = 2, tickets = 2, key_updates = 0 }
    end,
  }
end

local function steps_of(name, role, change)
  local recorder = trace.recorder(true)
  recorder:start("dns", 99)
  recorder:finish("dns", nil, 100)
  local seen = session(name, role or "client", change)
  recorder:handshake(seen, role)
  recorder:traffic(seen)
  local rows = recorder:steps()
  local by_name = {}
  for i, row in ipairs(rows) do
    assert.equal(steps[i], row.step)
    by_name[row.step] = row
  end
  return by_name
end

local function types(row)
  local result = {}
  for i, message in ipairs(row.messages or {}) do
    result[i] = (message.from == "client" and ">" or "<") .. message.type
  end
  return table.concat(result, " ")
end

describe("the trace of a handshake", function()
  it("tells TLS 1.3 in full", function()
    local rows = steps_of "tls13"
    local hello = rows.client_hello
    assert.equal("a.test", hello.server_name)
    assert.same({ "h2", "http/1.1" }, hello.alpn)
    assert.equal("x25519", hello.key_shares[1].group)
    assert.equal(64, #hello.random)
    assert.is_nil(hello.retry)
    assert.equal(">ClientHello", types(hello))
    local answer = rows.server_hello
    assert.equal("TLS1.3", answer.version)
    assert.equal("TLS_AES_256_GCM_SHA384", answer.suite)
    assert.equal("h2", answer.alpn)
    assert.equal(824, answer.staple_length)
    assert.equal("CN=a.test", answer.certificates[1].subject)
    assert.equal("ec", answer.certificates[1].key.type)
    assert.same({ { type = "dns", text = "a.test" } }, answer.certificates[1].names)
    assert.is_nil(answer.certificates[1].der)
    assert.equal("<ServerHello <EncryptedExtensions <Certificate", types(answer))
    local keys = rows.key_exchange
    assert.equal("ECDHE", keys.kind)
    assert.equal("x25519", keys.group)
    assert.equal("ecdsa_secp256r1_sha256", keys.server_signature)
    assert.is_nil(keys.client_signature)
    assert.is_false(keys.resumed)
    assert.same({ cipher = "AES-256-GCM", suite = "TLS_AES_256_GCM_SHA384", key_bits = 256, mac = "AEAD",
                  prf = "SHA384", forward_secrecy = true, extended_master_secret = true,
                  step = "session_keys" }, rows.session_keys)
    assert.equal(1, rows.finished.round_trips)
    assert.equal("not offered", rows.finished.early_data)
    assert.equal("<Finished >Finished", types(rows.finished))
    assert.equal(96, #rows.finished.client.verify_data)
    assert.equal(2, #rows.data.session_tickets)
    assert.equal(7200, rows.data.session_tickets[1].lifetime)
    assert.equal(20, rows.data.bytes_out)
    assert.near(0.25, rows.data.first_byte, 1e-6)
  end)

  it("tells a HelloRetryRequest and a client certificate", function()
    local rows = steps_of "tls13_retry_client"
    assert.equal("secp384r1", rows.client_hello.retry.group)
    assert.equal("secp384r1", rows.client_hello.second.key_shares[1].group)
    assert.equal("x25519", rows.client_hello.key_shares[1].group)
    assert.equal(">ClientHello <HelloRetryRequest >ClientHello", types(rows.client_hello))
    assert.same({ "CN=Test CA,O=Example\\, Trust,C=NL" },
      rows.server_hello.client_certificate_asked.authorities)
    assert.equal(2, #rows.server_hello.certificates)
    assert.equal("CN=a.test", rows.key_exchange.client_certificates[1].subject)
    assert.equal("ecdsa_secp256r1_sha256", rows.key_exchange.client_signature)
    assert.equal("rsa_pss_rsae_sha256", rows.key_exchange.server_signature)
    assert.equal(2, rows.finished.round_trips)
  end)

  it("tells TLS 1.2 with ECDHE, DHE and RSA", function()
    local rows = steps_of "tls12_ecdhe"
    assert.equal("ECDHE", rows.key_exchange.kind)
    assert.equal("x25519", rows.key_exchange.group)
    assert.equal("ecdsa_secp256r1_sha256", rows.key_exchange.server_signature)
    assert.equal(824, rows.server_hello.staple_length)
    assert.equal(2, rows.finished.round_trips)
    assert.is_true(rows.session_keys.extended_master_secret)
    rows = steps_of "tls12_dhe"
    assert.equal("DHE", rows.key_exchange.kind)
    assert.equal(2048, rows.key_exchange.prime_bits)
    assert.is_true(rows.session_keys.forward_secrecy)
    assert.equal(128, rows.session_keys.key_bits)
    rows = steps_of "tls12_rsa"
    assert.equal("RSA", rows.key_exchange.kind)
    assert.is_false(rows.session_keys.forward_secrecy)
    assert.equal("<ServerHelloDone >ClientKeyExchange", types(rows.key_exchange))
  end)

  it("calls a group of both worlds hybrid", function()
    local rows = steps_of("tls13", "client", function(i, message)
      -- x25519 becomes X25519MLKEM768 in the ServerHello's key share.
      if i ~= 2 then return end
      local _, last = message.bytes:find("\0\51\0\36\0\29", 1, true)
      message.bytes = message.bytes:sub(1, last - 2) .. "\17\236" .. message.bytes:sub(last + 1)
    end)
    assert.equal("hybrid", rows.key_exchange.kind)
    assert.is_true(rows.key_exchange.hybrid)
    assert.equal("X25519MLKEM768", rows.key_exchange.group)
    assert.is_true(rows.session_keys.forward_secrecy)
  end)

  it("tells the same from the server's side", function()
    local client, server = steps_of "tls13_retry_client", steps_of("tls13_retry_client", "server")
    for _, step in ipairs { "client_hello", "server_hello", "key_exchange", "finished" } do
      assert.equal(types(client[step]), types(server[step]))
    end
    assert.same(client.server_hello.certificates, server.server_hello.certificates)
  end)

  it("says so where a message is broken, and tells the rest", function()
    local rows = steps_of("tls13", "client", function(i, message)
      if i == 2 then message.bytes = message.bytes:sub(1, -3) end
    end)
    assert.matches("^malformed at offset %d+: ", rows.server_hello.malformed)
    assert.matches("^malformed", rows.server_hello.messages[1].malformed)
    assert.equal("TLS_AES_256_GCM_SHA384", rows.server_hello.suite)
    assert.equal("a.test", rows.client_hello.server_name)
  end)

  it("survives a certificate that is none", function()
    local rows = steps_of("tls13", "client", function(_, message)
      if message.type == 11 then
        message.bytes = "\0" .. "\0\0\8" .. "\0\0\3abc" .. "\0\0"
      end
    end)
    assert.equal(3, rows.server_hello.certificates[1].length)
    assert.is_string(rows.server_hello.certificates[1].malformed)
  end)

  it("keeps a bounded number of messages and tickets", function()
    local recorder = trace.recorder(true)
    local ticket = bytes(handshakes.tls13[9]:sub(2)):sub(5)
    local many = {}
    for i = 1, 1000 do many[i] = { type = 4, incoming = true, time = i, bytes = ticket } end
    local seen = session("tls13", "client")
    recorder:handshake(seen)
    seen.messages = function()
      local new = many
      many = {}
      return new
    end
    recorder:messages(seen)
    local data = recorder:steps()[9]
    assert.equal(32, #data.session_tickets)
    assert.equal(200, #data.messages)
  end)

  it("delivers messages and steps in their order, as they happen", function()
    local events = {}
    local recorder = trace.recorder(function(event)
      events[#events + 1] = event.event .. " " .. event.step .. (event.message and " " .. event.message.type or "")
    end)
    local list, at = session("tls13", "client").messages(), 0
    local marks = { start = 100 }
    local live = {
      marks = function() return marks end, info = function() return {} end,
      resumed = function() return false end,
      messages = function()
        at = at + 1
        return { list[at] }
      end,
    }
    marks.client_hello = 100.001
    recorder:messages(live)
    assert.same({ "message client_hello ClientHello", "start client_hello", "finish client_hello",
                  "start server_hello" }, events)
    marks.server_hello = 100.002
    for _ = 1, 3 do recorder:messages(live) end
    assert.equal("message server_hello Certificate", events[#events])
    marks.certificate, marks.finished_in, marks.done = 100.004, 100.005, 100.006
    recorder:handshake(live)
    assert.equal("finish finished", events[#events])
    local count = #events
    recorder:steps()
    assert.equal(count, #events)
  end)

  it("holds no secret", function()
    local json = require "tlsconnect.cli.json"
    for name in pairs(handshakes) do
      local list = {}
      for _, row in pairs(steps_of(name)) do list[#list + 1] = row end
      local shown = json.encode(list)
      -- Tickets are kept secret like keys: only their lengths may be there.
      for _, line in ipairs(handshakes[name]) do
        if line:sub(2, 3) == "04" then assert.is_nil(shown:find(line:sub(40, 100), 1, true)) end
      end
      assert.is_nil(shown:lower():find("master_secret\":%s*\"%x"))
    end
  end)
end)

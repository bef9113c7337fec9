-- Tells steps 3 to 10 from a session's handshake messages, its info and its counters. Only loaded when
-- a trace is wanted.

local parse = require "tlsconnect.trace.parse"

local handshake = {}

-- The step each message belongs to.
local placed = {
  ClientHello = "client_hello", HelloRetryRequest = "client_hello", HelloVerifyRequest = "client_hello",
  ServerHello = "server_hello", EncryptedExtensions = "server_hello", CertificateRequest = "server_hello",
  Certificate = "server_hello", CompressedCertificate = "server_hello", CertificateStatus = "server_hello",
  ServerKeyExchange = "key_exchange", ServerHelloDone = "key_exchange", ClientKeyExchange = "key_exchange",
  CertificateVerify = "key_exchange", SupplementalData = "server_hello", CertificateURL = "key_exchange",
  Finished = "finished", EndOfEarlyData = "finished", ChangeCipherSpec = "finished",
  NewSessionTicket = "data", KeyUpdate = "data", HelloRequest = "data",
}

-- What a step shows of a message itself; the rest stays in the message.
local hello_fields = {
  "legacy_version", "versions", "random", "session_id", "suites", "suites_more", "groups", "key_shares",
  "signature_schemes", "server_name", "alpn", "psk_modes", "psk_identities", "early_data", "staple_asked",
  "ticket_length", "compression", "extensions", "extensions_more", "malformed",
}
local answer_fields = {
  "legacy_version", "version", "random", "session_id", "suite", "group", "psk", "downgrade", "compression",
  "extensions", "extensions_more", "extended_master_secret", "encrypt_then_mac", "alpn", "malformed",
}

local function copy(from, fields)
  local result = {}
  for i = 1, #fields do result[fields[i]] = from[fields[i]] end
  return result
end

local NAMES = 100

-- A certificate of the chain as sent: what a person looks for, or its size when it cannot be read.
local function describe(entry)
  local core = require "tlsconnect.core"
  local result = { length = entry.length, staple_length = entry.staple_length, timestamps = entry.timestamps }
  if entry.extensions and #entry.extensions > 0 then result.extensions = entry.extensions end
  local certificate, message = core.certificate(entry.der)
  if not certificate then
    result.malformed = message
    return result
  end
  result.subject = certificate:subject() or ""
  result.issuer = certificate:issuer() or ""
  result.serial = certificate:serial()
  result.not_before = certificate:not_before()
  result.not_after = certificate:not_after()
  local key, names = certificate:key() or {}, certificate:names() or {}
  result.key = { type = key.type, bits = key.bits, curve = key.curve, pin = key.pin }
  result.signature = (certificate:signature())
  result.fingerprint = certificate:fingerprint()
  result.names = {}
  for i = 1, math.min(#names, NAMES) do
    result.names[i] = { type = names[i].type, text = names[i].text }
  end
  if #names > NAMES then result.names_more = #names - NAMES end
  return result
end

local function describe_all(message)
  local result = {}
  for i = 1, #message.certificates do result[i] = describe(message.certificates[i]) end
  return result, message.certificates_more
end

-- What each message tells its step. state: what this handshake has shown so far.
local readers = {}

function readers.ClientHello(recorder, m, state)
  local fields = copy(m, hello_fields)
  if state.retry then
    recorder:add("client_hello", { second = fields })
  else
    recorder:add("client_hello", fields)
  end
end

function readers.HelloRetryRequest(recorder, m, state)
  state.retry = true
  recorder:add("client_hello", { retry = {
    version = m.version, suite = m.suite, group = m.group, cookie_length = m.cookie_length,
    extensions = m.extensions, malformed = m.malformed,
  } })
end

function readers.ServerHello(recorder, m, state)
  state.hello = m
  recorder:add("server_hello", copy(m, answer_fields))
end

function readers.EncryptedExtensions(recorder, m, state)
  state.early_data = m.early_data
  recorder:add("server_hello", {
    encrypted_extensions = m.extensions, alpn = m.alpn, record_size_limit = m.record_size_limit,
  })
end

function readers.CertificateRequest(recorder, m)
  recorder:add("server_hello", { client_certificate_asked = {
    authorities = m.authorities, authorities_more = m.authorities_more,
    signature_schemes = m.signature_schemes, certificate_types = m.certificate_types,
    malformed = m.malformed,
  } })
end

function readers.Certificate(recorder, m)
  if not m.certificates then return end
  local list, more = describe_all(m)
  if m.from == "client" then
    recorder:add("key_exchange", { client_certificates = list })
    return
  end
  local first = m.certificates[1]
  recorder:add("server_hello", {
    certificates = list, certificates_more = more, staple_length = first and first.staple_length,
  })
end

function readers.CompressedCertificate(recorder, m)
  if m.from == "client" then return end
  recorder:add("server_hello", { certificate_compression = {
    algorithm = m.algorithm, uncompressed_length = m.uncompressed_length,
    compressed_length = m.compressed_length,
  } })
end

function readers.CertificateStatus(recorder, m)
  recorder:add("server_hello", { staple_length = m.length })
end

function readers.ServerKeyExchange(recorder, m)
  recorder:add("key_exchange", {
    group = m.group, prime_bits = m.prime_bits, server_signature = m.signature_scheme,
    malformed = m.malformed,
  })
end

function readers.CertificateVerify(recorder, m)
  recorder:add("key_exchange", { [m.from .. "_signature"] = m.signature_scheme })
end

function readers.Finished(recorder, m)
  recorder:add("finished", { [m.from] = { time = m.time, verify_data = m.verify_data, size = m.size } })
end

function readers.NewSessionTicket(recorder, m, state)
  state.tickets = state.tickets or {}
  local list = state.tickets
  if #list < 32 then
    list[#list + 1] = { time = m.time, lifetime = m.lifetime, length = m.ticket_length,
                        max_early_data = m.max_early_data }
  end
  recorder:add("data", { session_tickets = list })
end

-- Whether the client waited for the server: each time it had spoken last is a round trip.
local function count_trips(recorder, m, state)
  if m.type == "NewSessionTicket" or m.type == "KeyUpdate" or state.over then return end
  if state.last == "client" and m.from == "server" then
    state.trips = (state.trips or 0) + 1
    recorder:add("finished", { round_trips = state.trips })
  end
  state.last = m.from
end

-- A message's row in its step: enough for a diagram; what it says is in the step's fields.
local function row(m)
  return { type = m.type, from = m.from, time = m.time, size = m.size, malformed = m.malformed,
           signature_scheme = m.type == "CertificateVerify" and m.signature_scheme or nil }
end

local ROWS = 200

local function take(recorder, raw)
  local state = recorder.state
  local m = parse.message(raw.type, raw.bytes or "", state.context)
  local mine = not raw.incoming
  m.from = (recorder.role ~= "server") == mine and "client" or "server"
  m.time = raw.time - state.origin
  if m.type == "HelloRetryRequest" or m.type == "ServerHello" then m.from = "server" end
  local step = placed[m.type] or "data"
  if m.from == "client" and (m.type == "Certificate" or m.type == "CompressedCertificate") then
    step = "key_exchange"
  end
  local reader = readers[m.type]
  if reader then reader(recorder, m, state) end
  count_trips(recorder, m, state)
  local fields = recorder.fields[step]
  local list = fields and fields.messages
  if not list then
    list = {}
    recorder:add(step, { messages = list })
  end
  if #list < ROWS then list[#list + 1] = row(m) end
  recorder:event("message", step, { message = m }, raw.time)
end

local function bits(suite)
  if suite:find("3DES", 1, true) then return 168 end
  if suite:find("CHACHA20", 1, true) then return 256 end
  return tonumber(suite:match("_(128)_") or suite:match("_(256)_") or suite:match("_(128)$") or
                  suite:match("_(256)$"))
end

-- What authenticates a record: part of the cipher itself, or a hash at the suite's end.
local function mac(suite)
  if suite:find("GCM", 1, true) or suite:find("CCM", 1, true) or suite:find("POLY1305", 1, true) then
    return "AEAD"
  end
  local hash = suite:match("_([A-Z0-9]+)$") or "unknown"
  return hash == "SHA" and "SHA1" or hash
end

-- The hash of the key schedule (1.3) or of the PRF (1.2: SHA-256 unless the suite says more; RFC 5246 5).
local function prf(suite)
  return suite:find("SHA384", 1, true) and "SHA384" or "SHA256"
end

local function exchange_of(suite, group, psk)
  local kind
  if group and group:find("MLKEM", 1, true) or group and group:find("Kyber", 1, true) then
    kind = "hybrid"
  elseif group and group:find("^ffdhe") then
    kind = "DHE"
  elseif group then
    kind = "ECDHE"
  end
  local exchange = suite and suite:match("^TLS_(.-)_WITH_")
  if exchange then
    -- 1.2: the suite names it.
    if exchange:find("^ECDHE") or exchange:find("^DHE") then
      return exchange:match("^[ECDH]+")
    elseif exchange:find("^RSA") then
      return "RSA"
    end
    return exchange
  end
  if psk then return kind and kind .. "+PSK" or "PSK" end
  return kind
end

-- What only the end of the handshake tells: kind of key exchange, keys, early data.
local function fill(recorder, state, told)
  local hello, info, resumed = state.hello, told.info, told.resumed
  state.over = true
  if not hello then return end
  local suite, version = hello.suite, hello.version
  local keys = recorder.fields.key_exchange or {}
  local group = hello.group or keys.group
  local kind = exchange_of(suite, group, hello.psk)
  if resumed and version ~= "TLS1.3" then kind = "resumed" end
  recorder:add("key_exchange", {
    kind = kind, group = group, resumed = resumed, psk = hello.psk ~= nil or nil,
    hybrid = kind and kind:find("^hybrid") and true or nil,
  })
  -- RFC 8446 E.1: with (EC)DHE, the keys of the past stay safe when a long-term key is stolen.
  local forward = kind ~= nil and (kind:find("DHE", 1, true) or kind:find("hybrid", 1, true)) ~= nil
  recorder:add("session_keys", {
    cipher = info.cipher, suite = suite, key_bits = suite and bits(suite), mac = suite and mac(suite),
    prf = suite and prf(suite), forward_secrecy = forward,
    extended_master_secret = version == "TLS1.3" or hello.extended_master_secret or false,
    -- RFC 7366: for suites whose MAC is not part of the cipher.
    encrypt_then_mac = hello.encrypt_then_mac,
  })
  local first = recorder.fields.client_hello
  local offered = first and first.early_data or false
  recorder:add("finished", {
    early_data = offered and (state.early_data and "accepted" or "refused") or "not offered",
  })
end

--- Reads recorder.raw, the messages that session:messages() gave, and recorder.told, what was known at the
-- handshake's end, into the steps' fields.
function handshake.digest(recorder)
  local raw, told = recorder.raw, recorder.told
  recorder.raw, recorder.told = {}, nil
  local state = recorder.state
  if not state then
    state = { context = {}, origin = recorder:origin() or raw[1] and raw[1].time }
    recorder.state = state
  end
  for i = 1, #raw do take(recorder, raw[i]) end
  if told then fill(recorder, state, told) end
end

return handshake

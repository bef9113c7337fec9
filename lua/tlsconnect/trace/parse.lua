-- Handshake messages from their bytes, without the 4-byte header: RFC 8446 4, RFC 5246 7.4.
--
--   local message = parse.message(1, bytes, context)
--   message.type == "ClientHello"; message.suites, message.extensions, ...
--
-- Strict: every length is checked, nothing may be left over. Broken bytes never raise: the message then has
-- `malformed` ("malformed at offset 12: the suites are cut short ...") beside what was read before. Lists are
-- capped; what was left out is counted in `more`. Names are IANA's, random and session id hexadecimal.
-- Strings that the peer chose (server name, protocols, distinguished names) are its raw bytes: whoever
-- shows them escapes them.

local names = require "tlsconnect.trace.names"
local extensions = require "tlsconnect.trace.extensions"
local der = require "tlsconnect.trace.der"
local Reader = require "tlsconnect.trace.reader"

local hex = Reader.hex

local parse = {}

local CAP = 512
local CERTIFICATES = 64

-- SHA-256 of "HelloRetryRequest" (RFC 8446 4.1.3).
local RETRY = "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c"

-- The last 8 bytes of the random, when a server that could do better was made to do worse.
local DOWNGRADE = { ["444f574e47524401"] = "TLS1.2", ["444f574e47524400"] = "TLS1.1" }

local messages = {}

local function read_extensions(r, m, kind)
  local by_name
  m.extensions, by_name, m.extensions_more = extensions.read(r, kind)
  return by_name
end

function messages.ClientHello(r, m)
  m.legacy_version = names.version(r:u16("the version"))
  m.random = hex(r:bytes(32, "the random"))
  m.session_id = hex(r:opaque(1, "the session id"))
  if #m.session_id > 64 then r:stop("a session id of more than 32 bytes") end
  local suites = r:vector(2, "the suites")
  m.suites, m.suites_more = suites:list(CAP, function(inner) return names.suite(inner:u16("a suite")) end)
  m.compression = r:vector(1, "the compression methods"):list(CAP, function(inner)
    return names.compression(inner:u8())
  end)
  local by_name = read_extensions(r, m, "client")
  local versions = by_name.supported_versions
  m.versions = versions and versions.versions or { m.legacy_version }
  m.groups = by_name.supported_groups and by_name.supported_groups.groups
  m.signature_schemes = by_name.signature_algorithms and by_name.signature_algorithms.signature_schemes
  m.key_shares = by_name.key_share and by_name.key_share.key_shares
  m.server_name = by_name.server_name and by_name.server_name.server_name
  local alpn = by_name.application_layer_protocol_negotiation
  m.alpn = alpn and alpn.protocols
  m.psk_modes = by_name.psk_key_exchange_modes and by_name.psk_key_exchange_modes.modes
  m.psk_identities = by_name.pre_shared_key and by_name.pre_shared_key.identities
  m.early_data = by_name.early_data ~= nil
  m.staple_asked = by_name.status_request ~= nil
  m.ticket_length = by_name.session_ticket and by_name.session_ticket.ticket_length
end

function messages.ServerHello(r, m, context)
  local version = r:u16("the version")
  m.legacy_version = names.version(version)
  m.random = hex(r:bytes(32, "the random"))
  m.session_id = hex(r:opaque(1, "the session id"))
  if #m.session_id > 64 then r:stop("a session id of more than 32 bytes") end
  local suite = r:u16("the suite")
  m.suite = names.suite(suite)
  m.compression = names.compression(r:u8("the compression method"))
  local retry = m.random == RETRY
  if retry then m.type = "HelloRetryRequest" end
  local by_name = read_extensions(r, m, retry and "retry" or "server")
  local chosen = by_name.supported_versions
  if chosen then version = chosen.number end
  m.version = names.version(version)
  m.group = by_name.key_share and by_name.key_share.group
  m.cookie_length = by_name.cookie and by_name.cookie.cookie_length
  m.psk = by_name.pre_shared_key and by_name.pre_shared_key.selected
  local alpn = by_name.application_layer_protocol_negotiation
  m.alpn = alpn and alpn.protocol
  m.downgrade = not retry and DOWNGRADE[m.random:sub(-16)] or nil
  m.extended_master_secret = by_name.extended_master_secret and true or nil
  m.encrypt_then_mac = by_name.encrypt_then_mac and true or nil
  context.version, context.suite = version, names.suite(suite)
end
messages.HelloRetryRequest = messages.ServerHello

function messages.EncryptedExtensions(r, m)
  local by_name = read_extensions(r, m, "server")
  local alpn = by_name.application_layer_protocol_negotiation
  m.alpn = alpn and alpn.protocol
  m.early_data = by_name.early_data ~= nil
  m.record_size_limit = by_name.record_size_limit and by_name.record_size_limit.record_size_limit
end

local function certificate12(r)
  local data = r:opaque(3, "a certificate")
  if data == "" then r:stop("an empty certificate") end
  return { length = #data, der = data }
end

local function certificate13(r)
  local entry = certificate12(r)
  local by_name
  entry.extensions, by_name, entry.extensions_more = extensions.read(r, "certificate")
  entry.staple_length = by_name.status_request and by_name.status_request.length
  local timestamps = by_name.signed_certificate_timestamp
  entry.timestamps = timestamps and timestamps.count
  return entry
end

local function is13(context) return (context.version or 0x0304) == 0x0304 end

function messages.Certificate(r, m, context)
  local new = is13(context)
  if new then m.request_context = hex(r:opaque(1, "the request context")) end
  local list = r:vector(3, "the certificates")
  m.certificates, m.certificates_more = list:list(CERTIFICATES, new and certificate13 or certificate12)
end

function messages.CompressedCertificate(r, m)
  m.algorithm = names.certificate_compression(r:u16("the algorithm"))
  m.uncompressed_length = r:u24("the length")
  m.compressed_length = #r:opaque(3, "the compressed certificates")
end

function messages.CertificateRequest(r, m, context)
  if is13(context) then
    m.request_context = hex(r:opaque(1, "the request context"))
    local by_name = read_extensions(r, m, "request")
    m.signature_schemes = by_name.signature_algorithms and by_name.signature_algorithms.signature_schemes
    local authorities = by_name.certificate_authorities
    m.authorities = authorities and authorities.authorities or {}
    m.authorities_more = authorities and authorities.more
    return
  end
  m.certificate_types = r:vector(1, "the certificate types"):list(CAP, function(inner)
    return names.client_certificate_type(inner:u8())
  end)
  m.signature_schemes = r:vector(2, "the signature schemes"):list(CAP, function(inner)
    return names.signature_scheme(inner:u16())
  end)
  m.authorities, m.authorities_more = r:vector(2, "the authorities"):list(CAP, function(inner)
    return der.name(inner:vector(2, "an authority"))
  end)
end

-- The kind of key exchange that a suite's name tells, for versions before 1.3.
local function kind(context)
  return context.suite and context.suite:match("^TLS_(.-)_WITH_") or ""
end

local function signature(r, m)
  m.signature_scheme = names.signature_scheme(r:u16("the signature scheme"))
  m.signature_length = #r:opaque(2, "the signature")
end

function messages.ServerKeyExchange(r, m, context)
  local exchange = kind(context)
  m.exchange = exchange
  if exchange:find("PSK", 1, true) then
    m.identity_hint_length = #r:opaque(2, "the identity hint")
  end
  if exchange:find("^ECDHE") or exchange:find("^ECDH_anon") then
    -- RFC 8422 5.4: curves by name only.
    local curve_type = r:u8("the curve type")
    if curve_type ~= 3 then r:stop("curve type " .. curve_type .. ", only named curves are allowed") end
    m.group = names.group(r:u16("the group"))
    m.public_length = #r:opaque(1, "the public key")
  elseif exchange:find("^DHE") or exchange:find("^DH_anon") then
    local prime = r:opaque(2, "the prime"):gsub("^%z+", "")
    m.prime_bits = #prime * 8
    local first = prime:byte() or 0
    local top = 128
    while top > first and top >= 1 and m.prime_bits > 0 do
      m.prime_bits = m.prime_bits - 1
      top = top / 2
    end
    m.generator_length = #r:opaque(2, "the generator")
    m.public_length = #r:opaque(2, "the public key")
  elseif exchange ~= "PSK" and exchange ~= "RSA_PSK" then
    m.opaque_length = #r:rest()
    return
  end
  if not exchange:find("PSK", 1, true) and not exchange:find("anon", 1, true) then
    signature(r, m)
  end
end

function messages.ClientKeyExchange(r, m, context)
  local exchange = kind(context)
  m.exchange = exchange
  if exchange:find("PSK", 1, true) then m.identity_length = #r:opaque(2, "the identity") end
  if exchange:find("^ECDH") then
    m.public_length = #r:opaque(1, "the public key")
  elseif exchange:find("^DH") then
    m.public_length = #r:opaque(2, "the public key")
  elseif exchange:find("^RSA") then
    m.encrypted_length = #r:opaque(2, "the encrypted secret")
  elseif exchange ~= "PSK" then
    m.opaque_length = #r:rest()
  end
end

messages.CertificateVerify = signature

function messages.Finished(r, m)
  m.verify_data = hex(r:rest())
  if m.verify_data == "" then r:stop("an empty Finished") end
  if #m.verify_data > 128 then r:stop("a Finished of more than 64 bytes") end
end

function messages.NewSessionTicket(r, m, context)
  m.lifetime = r:u32("the lifetime")
  if is13(context) then
    m.age_add = r:u32("the age")
    m.nonce_length = #r:opaque(1, "the nonce")
    m.ticket_length = #r:opaque(2, "the ticket")
    local by_name = read_extensions(r, m, "ticket")
    m.max_early_data = by_name.early_data and by_name.early_data.max_early_data
    -- It is added to the ticket's age to hide it from the wire.
    m.age_add = nil
  else
    m.ticket_length = #r:opaque(2, "the ticket")
  end
end

function messages.KeyUpdate(r, m)
  local request = r:u8("the request")
  if request > 1 then r:stop("a key update request of " .. request) end
  m.update_requested = request == 1
end

function messages.CertificateStatus(r, m)
  m.status_type = names.status_type(r:u8("the status type"))
  m.length = #r:opaque(3, "the stapled answer")
end

local function nothing() end
messages.ServerHelloDone = nothing
messages.EndOfEarlyData = nothing
messages.HelloRequest = nothing
messages.ChangeCipherSpec = function(r) r:rest() end

--- One message.
-- number: its type (1025 is GnuTLS's for a HelloRetryRequest); bytes: what follows the 4-byte header;
-- context: a table that the messages of one handshake share (version and suite are kept there), or nil.
-- Returns a table with `type`, `size` (of the bytes), the fields, and `malformed` and `offset` if it is.
-- RFC 8446 4, 5246 7.4.
function parse.message(number, bytes, context)
  local m = { type = names.handshake_type(number), size = #bytes }
  local parser = messages[names.handshake_types[number]]
  if not parser then return m end
  local ok, problem, offset = Reader.run(function()
    local r = Reader.new(bytes)
    parser(r, m, context or {})
    r:done("the " .. m.type)
  end)
  if not ok then
    m.malformed = ("malformed at offset %d: %s"):format(offset, problem)
    m.offset = offset
  end
  return m
end

--- The messages of one direction from a stream of handshake bytes with their headers, as records carry
-- them: {message, ...}, and the bytes of an unfinished last one.
function parse.stream(bytes, context)
  local result, at = {}, 1
  context = context or {}
  while #bytes - at + 1 >= 4 do
    local number, a, b, c = bytes:byte(at, at + 3)
    local size = (a * 256 + b) * 256 + c
    if #bytes - at - 3 < size then break end
    result[#result + 1] = parse.message(number, bytes:sub(at + 4, at + 3 + size), context)
    at = at + 4 + size
  end
  return result, bytes:sub(at)
end

return parse

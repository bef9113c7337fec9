-- Extensions by name and content. Each known one is a function(reader, kind) that returns what it holds;
-- `kind` is the message it stands in: "client", "server" (ServerHello, EncryptedExtensions), "retry",
-- "certificate", "request" or "ticket". One that is not known, or opaque, shows its name and length only.

local names = require "tlsconnect.trace.names"
local der = require "tlsconnect.trace.der"
local Reader = require "tlsconnect.trace.reader"

local extensions = {}

-- How many of a list are kept; the rest are counted.
local CAP = 256
local EXTENSIONS = 128

local function empty(r)
  r:done("an empty extension")
  return {}
end

local function one(field, read, name)
  return function(r) return { [field] = name(read(r)) } end
end

-- A vector of numbers, each named.
local function numbers(field, width, read, name)
  local function item(r) return name(read(r)) end
  return function(r)
    local list, more = r:vector(width, field):list(CAP, item)
    return { [field] = list, more = more }
  end
end

local parsers = {}

local function host(r)
  local kind = r:u8("a name type")
  local name = r:opaque(2, "a server name")
  if kind == 0 then return name end
  return ("type %d"):format(kind)
end

function parsers.server_name(r, kind)
  -- RFC 6066 3: the answer is empty.
  if kind ~= "client" then return empty(r) end
  local list = r:vector(2, "the server names")
  if list:left() == 0 then r:stop("an empty list of server names") end
  local hosts, more = list:list(16, host)
  return { server_name = hosts[1], more = more or #hosts > 1 and #hosts - 1 or nil }
end

parsers.max_fragment_length = one("max_fragment_length", Reader.u8, function(n)
  return names.fragment_lengths[n] or n
end)

function parsers.status_request(r, kind)
  if kind == "client" or kind == "request" and r:left() > 0 then
    local result = { status_type = names.status_type(r:u8("a status type")) }
    if kind == "client" and result.status_type == "ocsp" then
      r:vector(2, "responder ids")
      r:vector(2, "request extensions")
    else
      r:rest()
    end
    return result
  elseif kind == "certificate" then
    -- RFC 8446 4.4.2.1: a whole CertificateStatus.
    local result = { status_type = names.status_type(r:u8("a status type")) }
    result.length = #r:opaque(3, "the stapled answer")
    return result
  end
  return empty(r)
end

parsers.supported_groups = numbers("groups", 2, Reader.u16, names.group)
parsers.ec_point_formats = numbers("point_formats", 1, Reader.u8, names.point_format)
parsers.signature_algorithms = numbers("signature_schemes", 2, Reader.u16, names.signature_scheme)
parsers.signature_algorithms_cert = parsers.signature_algorithms
parsers.delegated_credential = function(r, kind)
  if kind == "certificate" then
    r:rest()
    return {}
  end
  return parsers.signature_algorithms(r)
end
parsers.compress_certificate = numbers("algorithms", 1, Reader.u16, names.certificate_compression)

function parsers.application_layer_protocol_negotiation(r, kind)
  local list, more = r:vector(2, "the protocols"):list(CAP, function(inner)
    local name = inner:opaque(1, "a protocol")
    if name == "" then inner:stop("an empty protocol name") end
    return name
  end)
  if #list == 0 then r:stop("an empty list of protocols") end
  -- RFC 7301 3.1: the answer holds exactly one.
  if kind == "server" then
    if #list ~= 1 then r:stop("more than one protocol chosen") end
    return { protocol = list[1] }
  end
  return { protocols = list, more = more }
end

function parsers.signed_certificate_timestamp(r, kind)
  if kind ~= "certificate" and kind ~= "server" then return empty(r) end
  local list, more = r:vector(2, "the timestamps"):list(CAP, function(inner)
    return #inner:opaque(2, "a timestamp")
  end)
  return { count = #list + (more or 0) }
end

local function certificate_types(r, kind)
  if kind == "client" then
    local list = r:vector(1, "certificate types"):list(CAP, function(inner)
      return names.certificate_type(inner:u8())
    end)
    return { certificate_types = list }
  end
  return { certificate_type = names.certificate_type(r:u8("the certificate type")) }
end
parsers.client_certificate_type = certificate_types
parsers.server_certificate_type = certificate_types

function parsers.padding(r)
  r:rest()
  return {}
end

parsers.encrypt_then_mac = empty
parsers.extended_master_secret = empty
parsers.post_handshake_auth = empty
parsers.record_size_limit = one("record_size_limit", Reader.u16, function(n) return n end)

function parsers.session_ticket(r)
  -- RFC 5077: the ticket itself, or nothing to ask for one.
  return { ticket_length = #r:rest() }
end

function parsers.pre_shared_key(r, kind)
  if kind ~= "client" then return { selected = r:u16("the chosen key") } end
  local lengths, more = r:vector(2, "the identities"):list(CAP, function(inner)
    local size = #inner:opaque(2, "an identity")
    inner:u32("a ticket's age")
    return size
  end)
  local binders = r:vector(2, "the binders"):list(CAP, function(inner)
    return #inner:opaque(1, "a binder")
  end)
  return { identities = #lengths + (more or 0), identity_lengths = lengths, binders = #binders }
end

function parsers.early_data(r, kind)
  if kind == "ticket" then return { max_early_data = r:u32("the early data limit") } end
  return empty(r)
end

function parsers.supported_versions(r, kind)
  if kind == "client" then
    local list, more = r:vector(1, "the versions"):list(CAP, function(inner)
      return names.version(inner:u16("a version"))
    end)
    return { versions = list, more = more }
  end
  local number = r:u16("the version")
  return { version = names.version(number), number = number }
end

function parsers.cookie(r) return { cookie_length = #r:opaque(2, "the cookie") } end

parsers.psk_key_exchange_modes = numbers("modes", 1, Reader.u8, names.psk_mode)

function parsers.certificate_authorities(r)
  local list, more = r:vector(2, "the authorities"):list(CAP, function(inner)
    return der.name(inner:vector(2, "an authority"))
  end)
  return { authorities = list, more = more }
end

local function share(r)
  local group = names.group(r:u16("a group"))
  return { group = group, length = #r:opaque(2, "a key share") }
end

function parsers.key_share(r, kind)
  if kind == "client" then
    local list, more = r:vector(2, "the key shares"):list(CAP, share)
    return { key_shares = list, more = more }
  elseif kind == "retry" then
    return { group = names.group(r:u16("the group")) }
  end
  return share(r)
end

function parsers.renegotiation_info(r) return { length = #r:opaque(1, "the renegotiation data") } end

-- One extension: {name =, type =, length =, ...}.
local function extension(r, kind, seen)
  local at = r.position
  local number = r:u16("an extension type")
  local body = r:vector(2, "an extension")
  local name = names.extension(number)
  -- RFC 8446 4.2: not two of a kind.
  if seen[number] then r:stop("extension " .. name .. " twice", at) end
  seen[number] = true
  local parser = parsers[names.extensions[number]]
  local result = { name = name, type = number, length = body:left() }
  if parser then
    local content = parser(body, kind)
    body:done("extension " .. name)
    if next(content) ~= nil then result.content = content end
  end
  return result
end

--- The extensions of a message, with their length in front; nothing at all is an empty list.
-- Returns the list, a table of their contents by name ({} when one is there and holds nothing), and how
-- many were too many to be kept.
function extensions.read(r, kind)
  if r:left() == 0 then return {}, {} end
  local list, more = r:vector(2, "the extensions"):list(EXTENSIONS, extension, kind, {})
  local by_name = {}
  for i = 1, #list do by_name[list[i].name] = list[i].content or {} end
  return list, by_name, more
end

return extensions

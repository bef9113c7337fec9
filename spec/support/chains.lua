-- Certificates, OCSP responses and CRLs of any shape, right or wrong, made in this process: what a careful
-- maker (tlsconnect.certificate.issue, openssl) refuses to make. Keys and certificates are cheap here, so
-- that a spec can make hundreds.
--
--   local root = chains.certificate { subject = "Root", ca = true }
--   local site = chains.certificate { issuer = root, names = { "a.test" } }
--   site.der, site.pem, site.key, site.spki, site.subject (DER), site.serial (DER), ...
local core = require "tlsconnect.core"
local der = require "tlsconnect.der"

local M = {}

local HOUR, DAY = 3600, 86400

--- Object identifiers by the names that specs use.
M.oid = {
  san = "2.5.29.17", constraints = "2.5.29.30", purposes = "2.5.29.37", basic = "2.5.29.19", usage = "2.5.29.15",
  subject_key = "2.5.29.14", authority_key = "2.5.29.35", policy = "2.5.29.32", points = "2.5.29.31",
  feature = "1.3.6.1.5.5.7.1.24", access = "1.3.6.1.5.5.7.1.1",
  server = "1.3.6.1.5.5.7.3.1", client = "1.3.6.1.5.5.7.3.2", ocsp = "1.3.6.1.5.5.7.3.9", any = "2.5.29.37.0",
  code = "1.3.6.1.5.5.7.3.3", cn = "2.5.4.3", organisation = "2.5.4.10", email = "1.2.840.113549.1.9.1",
}

local keys = {}

--- A key of that kind: "p256" (default), "rsa" with bits, ...; `label` tells several apart.
function M.key(kind, bits, label)
  local name = (kind or "p256") .. tostring(bits) .. tostring(label)
  keys[name] = keys[name] or assert(core.generate_key(kind or "p256", bits))
  return keys[name]
end

--- A distinguished name of a CN, or of a list of {oid, text, string type}.
function M.name(value)
  if type(value) == "string" then value = { { "cn", value } } end
  local sets = {}
  for i, pair in ipairs(value) do
    sets[i] = der.set_of { der.sequence(der.oid(M.oid[pair[1]] or pair[1]), der.string(pair[3] or "utf8", pair[2])) }
  end
  return der.sequence_of(sets)
end

local kinds = { email = 1, dns = 2, uri = 6, ip = 7 }

--- A general name: "a.test", or {"ip", bytes}, {"email", text}, {"uri", text}, {"dn", DER}, {"other", DER}.
function M.general(name)
  if type(name) == "string" then return der.element(0x82, name) end
  if name[1] == "dn" then return der.element(0xa4, name[2]) end
  if name[1] == "other" then return der.element(0xa0, name[2]) end
  return der.element(0x80 + kinds[name[1]], name[2])
end

local function generals(names)
  local list = {}
  for i, name in ipairs(names) do list[i] = M.general(name) end
  return der.sequence_of(list)
end
M.generals = generals

--- The value of name constraints: permitted and excluded are lists of general names.
function M.constraints(permitted, excluded)
  local function subtrees(number, names)
    if not names then return "" end
    local list = {}
    for i, name in ipairs(names) do list[i] = der.sequence(M.general(name)) end
    return der.element(0xa0 + number, table.concat(list))
  end
  return der.sequence(subtrees(0, permitted), subtrees(1, excluded))
end

function M.extension(oid, critical, value)
  return der.sequence(der.oid(M.oid[oid] or oid), critical and der.boolean(true) or "", der.octets(value))
end

local serials = 0

local function key_id(spki)
  -- RFC 5280 4.2.1.2 leaves it open how: the first bytes of the pin of the key will do.
  return core.digest(spki):sub(1, 20)
end

local function algorithm_of(key, hash)
  local _, oid = key:algorithm(hash)
  return der.sequence(der.oid(oid), key:type() == "rsa" and der.null() or "")
end

local function usage_bits(names)
  local set = {}
  local bits = { signature = 0, encipherment = 2, cert_sign = 5, crl_sign = 6 }
  for _, name in ipairs(names) do set[#set + 1] = bits[name] end
  local byte = 0
  for _, bit in ipairs(set) do byte = byte + 2 ^ (7 - bit) end
  return der.element(0x03, string.char(0, byte))
end

local function extensions_of(given, issuer_id, own_id)
  local list = {}
  local function add(...) list[#list + 1] = M.extension(...) end
  if given.ca then
    add("basic", true, der.sequence(der.boolean(true), given.path_length and der.integer(given.path_length) or ""))
  end
  if given.usage ~= false then
    add("usage", true, usage_bits(given.usage or (given.ca and { "cert_sign", "crl_sign" } or { "signature" })))
  end
  if given.purposes ~= false and (given.purposes or not given.ca) then
    local oids = {}
    for i, purpose in ipairs(given.purposes or { "server" }) do oids[i] = der.oid(M.oid[purpose] or purpose) end
    add("purposes", false, der.sequence_of(oids))
  end
  if given.names then add("san", false, generals(given.names)) end
  if given.san then add("san", false, given.san) end
  if given.constraints then add("constraints", true, given.constraints) end
  if given.must_staple then add("feature", false, der.sequence(der.integer(5))) end
  if given.key_ids ~= false then
    add("subject_key", false, der.octets(own_id))
    add("authority_key", false, der.sequence(der.element(0x80, issuer_id)))
  end
  for _, extension in ipairs(given.extensions or {}) do add(extension[1], extension[2], extension[3]) end
  return der.sequence_of(list)
end

--- A certificate. All options are optional: subject (CN or DER), issuer (what this function returned; default:
-- itself), key, ca, path_length, names (general names), san, constraints, purposes, usage (DER or lists of
-- names; false: none), must_staple, key_ids (false: none), extensions ({oid, critical, DER} each), all
-- (false: no extensions at all), version, serial (bytes), not_before, not_after, hash, signature (bytes),
-- algorithm (DER), spki (DER).
function M.certificate(given)
  local key = given.key or M.key()
  local self = { key = key, spki = given.spki or key:public("der"), issuer = given.issuer, given = given }
  serials = serials + 1
  self.subject = given.subject or (given.names and "leaf" or "authority")
  if self.subject:byte() ~= 0x30 then self.subject = M.name(self.subject) end
  self.id = key_id(self.spki)
  local issuer = given.issuer or self
  self.serial = given.serial and der.element(0x02, given.serial) or der.integer(1000 + serials)
  local algorithm = given.algorithm or algorithm_of(issuer.key, given.hash)
  local now = os.time()
  local tbs = der.sequence(
    given.version ~= 1 and der.explicit(0, der.integer((given.version or 3) - 1)) or "",
    self.serial, algorithm, issuer.subject,
    der.sequence(der.time(given.not_before or now - HOUR), der.time(given.not_after or now + 30 * DAY)),
    self.subject, self.spki,
    given.all ~= false and der.explicit(3, extensions_of(given, issuer.id, self.id)) or "")
  self.tbs, self.algorithm = tbs, algorithm
  local signature = given.signature or assert(issuer.key:sign(tbs, given.hash))
  self.der = der.sequence(tbs, algorithm, der.bits(signature))
  self.pem = core.pem("CERTIFICATE", self.der)
  return self
end

--- Other contents under a certificate's issuer's signature: DER.
function M.signed_again(certificate, tbs)
  local issuer = certificate.issuer or certificate
  return der.sequence(tbs, certificate.algorithm, der.bits(assert(issuer.key:sign(tbs))))
end

--- DER strings of certificates, as trust:verify takes a chain.
function M.chain(...)
  local list = {}
  for i, certificate in ipairs { ... } do list[i] = certificate.der end
  return list
end

-- OCSP, RFC 6960 --------------------------------------------------------------------------------------

local function time(seconds)
  return der.element(0x18, os.date("!%Y%m%d%H%M%SZ", seconds))
end

local hashes = { sha1 = "1.3.14.3.2.26", sha256 = "2.16.840.1.101.3.4.2.1" }

local hash_of = core.hash

-- The bits of a SubjectPublicKeyInfo's key, which CertID's second hash is of.
local function key_bits(spki)
  local function element(at)
    local tag, size, header = spki:byte(at), spki:byte(at + 1), 2
    if size == 0x81 then size, header = spki:byte(at + 2), 3
    elseif size == 0x82 then size, header = spki:byte(at + 2) * 256 + spki:byte(at + 3), 4 end
    return tag, at + header, size
  end
  local _, content = element(1)
  local _, algorithm, size = element(content)
  local _, bits, length = element(algorithm + size)
  return spki:sub(bits + 1, bits + length - 1)
end

local function single(entry, issuer, now)
  local hash = entry.hash or "sha1"
  local certificate = entry.certificate
  local above = entry.issuer or issuer
  local id = der.sequence(der.sequence(der.oid(hashes[hash]), der.null()),
    der.octets(entry.name_hash or hash_of(hash, above.subject)),
    der.octets(entry.key_hash or hash_of(hash, key_bits(above.spki))),
    entry.serial and der.element(0x02, entry.serial) or certificate.serial)
  local status
  if entry.status == "revoked" then
    status = der.element(0xa1, time(entry.revoked_at or now - DAY)
      .. (entry.reason and der.element(0xa0, der.element(0x0a, string.char(entry.reason))) or ""))
  else
    status = der.element(entry.status == "unknown" and 0x82 or 0x80, "")
  end
  local next_update = entry.next_update
  if next_update == nil then next_update = DAY end
  return der.sequence(id, status, time(now + (entry.this_update or -HOUR)),
    next_update and der.element(0xa0, time(now + next_update)) or "", entry.extensions or "")
end

--- An OCSP response, DER. options: entries, a list of {certificate=, status="good" | "revoked" | "unknown",
-- this_update=, next_update= (seconds from now; false: none), hash=, reason=, serial=, issuer=}; issuer (of
-- them); signer (default: the issuer); certificates (sent along; default: a signer that is not the issuer);
-- by ("name" or "key"); status (of the response); signature.
function M.ocsp(options)
  local now = os.time()
  local issuer = options.issuer
  local signer = options.signer or issuer
  if options.status and options.status ~= 0 then
    return der.sequence(der.element(0x0a, string.char(options.status)))
  end
  local entries = {}
  for i, entry in ipairs(options.entries) do entries[i] = single(entry, issuer, now) end
  local responder = options.by == "name" and der.element(0xa1, signer.subject)
    or der.element(0xa2, der.octets(hash_of("sha1", key_bits(signer.spki))))
  local data = der.sequence(options.version and der.explicit(0, der.integer(options.version)) or "", responder,
    time(now - HOUR), der.sequence_of(entries), options.extensions or "")
  local sent = options.certificates or (signer ~= issuer and { signer }) or {}
  local certificates = {}
  for i, certificate in ipairs(sent) do certificates[i] = certificate.der end
  local basic = der.sequence(data, options.algorithm or algorithm_of(signer.key, options.hash),
    der.bits(options.signature or assert(signer.key:sign(data, options.hash))),
    certificates[1] and der.explicit(0, der.sequence_of(certificates)) or "")
  return der.sequence(der.element(0x0a, "\0"),
    der.explicit(0, der.sequence(der.oid("1.3.6.1.5.5.7.48.1.1"), der.octets(basic))))
end

--- A CRL, DER. options: issuer, signer (default: the issuer), revoked = list of certificates or of
-- {certificate=, extensions=}, this_update, next_update (false: none), extensions ({oid, critical, DER}),
-- number (false: none).
function M.crl(options)
  local now = os.time()
  local issuer, signer = options.issuer, options.signer or options.issuer
  local entries = {}
  for i, one in ipairs(options.revoked or {}) do
    local certificate = one.certificate or one
    local more = one.extensions and der.sequence_of(one.extensions) or ""
    entries[i] = der.sequence(certificate.serial, der.time(now - DAY), more)
  end
  local extensions = {}
  if options.number ~= false then extensions[1] = M.extension("2.5.29.20", false, der.integer(7)) end
  for _, extension in ipairs(options.extensions or {}) do
    extensions[#extensions + 1] = M.extension(extension[1], extension[2], extension[3])
  end
  local algorithm = algorithm_of(signer.key)
  local next_update = options.next_update
  if next_update == nil then next_update = DAY end
  local tbs = der.sequence(der.integer(1), algorithm, issuer.subject, der.time(now + (options.this_update or -HOUR)),
    next_update and der.time(now + next_update) or "", entries[1] and der.sequence_of(entries) or "",
    extensions[1] and der.explicit(0, der.sequence_of(extensions)) or "")
  return der.sequence(tbs, algorithm, der.bits(options.signature or assert(signer.key:sign(tbs))))
end

return M

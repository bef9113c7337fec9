-- Certificates for the specs, made by the openssl command, so that what the module makes and what
-- it reads is not judged by itself.
--
--   local authority = pki.shared()                 -- one for the whole process
--   local site = authority:issue { name = "a.test" }
--   site.cert, site.key, site.chain                -- paths of PEM files
--   authority.ca_file                              -- the root's path
--
-- Every certificate is a table: cert, key, chain (the certificate and the intermediates above it),
-- csr, issuer (the certificate that signed it). Equal options give the same certificate again.
local process = require "spec.support.process"
local run = require "spec.support.run"
local tmp = require "spec.support.tmp"

local M = {}

local Pki = {}
Pki.__index = Pki

local purposes = {
  server = "serverAuth", client = "clientAuth", both = "serverAuth,clientAuth", code = "codeSigning",
  email = "emailProtection", ocsp = "OCSPSigning", any = "anyExtendedKeyUsage",
}

local keys = {
  p256 = { "EC", "ec_paramgen_curve:P-256" }, p384 = { "EC", "ec_paramgen_curve:P-384" },
  p521 = { "EC", "ec_paramgen_curve:P-521" }, ed25519 = { "ED25519" }, ed448 = { "ED448" },
}

local function list(value)
  if value == nil or value == false then return {} end
  return type(value) == "table" and value or { value }
end

--- A stable text of a table of options, to find equal ones.
local function text_of(value)
  if type(value) ~= "table" then return type(value) .. ":" .. tostring(value) end
  if value.cert then return "certificate:" .. value.cert end
  local parts = {}
  for name, item in pairs(value) do parts[#parts + 1] = tostring(name) .. "=" .. text_of(item) end
  table.sort(parts)
  return "{" .. table.concat(parts, ",") .. "}"
end

local function utc(time)
  return os.date("!%Y%m%d%H%M%SZ", time)
end

--- Appends the items of lists to the first one, and returns it; false and nil add nothing.
local function append(words, ...)
  for i = 1, select("#", ...) do
    for _, word in ipairs((select(i, ...)) or {}) do words[#words + 1] = word end
  end
  return words
end

--- Makes a private key, and returns its path. kind: "p256", "p384", "p521", "ed25519", "ed448",
-- "rsa" and a number of bits ("rsa2048").
function Pki:make_key(kind)
  local path = self:path("key")
  local words = { "openssl", "genpkey", "-out", path, "-algorithm" }
  if kind:match("^rsa%d+$") then
    append(words, { "RSA", "-pkeyopt", "rsa_keygen_bits:" .. kind:match("%d+") })
  else
    local known = assert(keys[kind], "unknown kind of key: " .. tostring(kind))
    append(words, { known[1] }, known[2] and { "-pkeyopt", known[2] })
  end
  run.check(words)
  return path
end

--- A path in this PKI's folder that was not used before.
function Pki:path(extension)
  self.count = self.count + 1
  return self.directory .. "/" .. self.count .. "." .. extension
end

local function alternative_names(options)
  local names = {}
  for _, name in ipairs(list(options.name)) do names[#names + 1] = "DNS:" .. name end
  for _, ip in ipairs(list(options.ip)) do names[#names + 1] = "IP:" .. ip end
  for _, uri in ipairs(list(options.uri)) do names[#names + 1] = "URI:" .. uri end
  for _, email in ipairs(list(options.email)) do names[#names + 1] = "email:" .. email end
  for _, line in ipairs(list(options.san)) do names[#names + 1] = line end
  return names
end

local function leaf_extensions(options)
  local lines = { "basicConstraints=critical,CA:FALSE" }
  local purpose = options.purpose or "server"
  if purpose ~= "none" then lines[#lines + 1] = "extendedKeyUsage=" .. (purposes[purpose] or purpose) end
  if options.key_usage ~= false then
    lines[#lines + 1] = "keyUsage=critical," .. (options.key_usage or "digitalSignature")
  end
  return lines
end

local function authority_extensions(options)
  local path_length = options.path_length and ",pathlen:" .. options.path_length or ""
  local lines = { "basicConstraints=critical,CA:TRUE" .. path_length }
  if options.key_usage ~= false then
    lines[#lines + 1] = "keyUsage=critical," .. (options.key_usage or "keyCertSign,cRLSign,digitalSignature")
  end
  if options.purpose then
    lines[#lines + 1] = "extendedKeyUsage=" .. (purposes[options.purpose] or options.purpose)
  end
  local constraints = {}
  for _, subtree in ipairs(list(options.permitted)) do constraints[#constraints + 1] = "permitted;" .. subtree end
  for _, subtree in ipairs(list(options.excluded)) do constraints[#constraints + 1] = "excluded;" .. subtree end
  if constraints[1] then
    lines[#lines + 1] = "nameConstraints=critical," .. table.concat(constraints, ",")
  end
  return lines
end

--- The lines of the extension section; raw lines of the caller come last.
local function extensions(options, issuer)
  local lines = options.ca_certificate and authority_extensions(options) or leaf_extensions(options)
  local names = not options.ca_certificate and options.san ~= false and alternative_names(options) or {}
  if names[1] then
    lines[#lines + 1] = "subjectAltName=" .. (options.subject == "/" and "critical," or "") ..
      table.concat(names, ",")
  end
  if options.key_identifiers ~= false then
    lines[#lines + 1] = "subjectKeyIdentifier=hash"
    if issuer then lines[#lines + 1] = "authorityKeyIdentifier=keyid" end
  end
  if options.must_staple then lines[#lines + 1] = "tlsfeature=status_request" end
  local access = {}
  if options.ocsp_uri then access[#access + 1] = "OCSP;URI:" .. options.ocsp_uri end
  if options.ca_issuers_uri then access[#access + 1] = "caIssuers;URI:" .. options.ca_issuers_uri end
  if access[1] then lines[#lines + 1] = "authorityInfoAccess=" .. table.concat(access, ",") end
  if options.crl_uri then lines[#lines + 1] = "crlDistributionPoints=URI:" .. options.crl_uri end
  for _, line in ipairs(list(options.extensions)) do lines[#lines + 1] = line end
  return lines
end

--- The record of what an authority has signed and revoked: an empty one.
function Pki:database()
  local path = tmp.write(self:path("index"), "")
  tmp.write(path .. ".attr", "unique_subject = no\n")
  return path
end

--- The configuration of `openssl ca` for an authority; lines go into the section "extensions".
-- Returns the paths of the configuration and of the file of the next serial number.
function Pki:configuration(authority, lines)
  local serial = self:path("serial")
  local config = {
    "[ca]", "default_ca = authority",
    "[authority]", "database = " .. authority.database, "serial = " .. serial,
    "new_certs_dir = " .. self.directory, "certificate = " .. authority.cert, "private_key = " .. authority.key,
    "default_md = sha256", "policy = policy", "unique_subject = no", "email_in_dn = no", "preserve = yes",
    "copy_extensions = none", "string_mask = utf8only", "default_days = 30", "default_crl_days = 30",
    "[policy]", "commonName = optional",
    "[extensions]",
  }
  for _, line in ipairs(lines or {}) do config[#config + 1] = line end
  return tmp.write(self:path("cnf"), table.concat(config, "\n") .. "\n"), serial
end

function Pki:make(options, signer)
  local certificate = setmetatable({ issuer = signer }, { __tostring = function(c) return c.cert end })
  certificate.key = options.key_file or self:make_key(options.key or "p256")
  certificate.csr, certificate.cert = self:path("csr"), self:path("pem")
  certificate.database = self:database()
  local name = options.cn or list(options.name)[1] or list(options.ip)[1] or "leaf"
  run.check { "openssl", "req", "-new", "-utf8", "-key", certificate.key, "-out", certificate.csr,
    "-subj", options.subject or "/CN=" .. name, "-config", self.request_config }
  local config, serial = self:configuration(signer or certificate, extensions(options, signer))
  tmp.write(serial, (options.serial or self:serial()) .. "\n")
  local now = os.time()
  certificate.not_before = now + (options.not_before or -3600)
  certificate.not_after = now + (options.not_after or (options.days or 30) * 86400)
  run.check(append({ "openssl", "ca", "-batch", "-utf8", "-preserveDN", "-notext", "-config", config,
    "-extensions", "extensions", "-in", certificate.csr, "-out", certificate.cert,
    "-startdate", utc(certificate.not_before), "-enddate", utc(certificate.not_after) },
    options.hash and { "-md", options.hash }, not signer and { "-selfsign" }))
  certificate.chain = certificate.cert
  if signer then
    local chain, above = tmp.read(certificate.cert), signer
    while above.issuer do
      chain, above = chain .. tmp.read(above.cert), above.issuer
    end
    certificate.chain = tmp.write(self:path("chain.pem"), chain)
  end
  return certificate
end

--- A serial number that was not used before: 16 hexadecimal digits.
function Pki:serial()
  self.serials = self.serials + 1
  return string.format("4A%06X%08X", process.id() % 0x1000000, self.serials)
end

--- Issues a certificate for a server or client. options, all optional:
--   name, ip, uri, email = text or list (subject alternative names); san = raw entries, or false for
--     no such extension
--   subject = "/C=DE/CN=x" or cn (default: the first name); serial = hexadecimal digits
--   key = "p256" | "p384" | "rsa2048" | "ed25519" ... ; key_file = an existing key's path
--   days (30), or not_before (-3600) and not_after: seconds from now, negative for the past
--   purpose = "server" | "client" | "both" | "code" | "email" | "ocsp" | "any" | "none" or OIDs
--   key_usage = "digitalSignature", or false for none; key_identifiers = false for none
--   must_staple, ocsp_uri, ca_issuers_uri, crl_uri
--   extensions = raw lines, such as "1.2.3.4=ASN1:UTF8String:text" (see x509v3_config(5))
--   hash = "sha256" | "sha1" | "md5" ...
--   ca = the authority that signs (default: the root); self_signed = true
--   fresh = true: a new one, though equal options were met before
function Pki:issue(options)
  options = options or {}
  local text = text_of(options)
  local found = not options.fresh and self.issued[text]
  if not found then
    found = self:make(options, not options.self_signed and (options.ca or self.root) or nil)
    self.issued[text] = found
  end
  return found
end

--- Makes an authority below another. options beside those of issue(): path_length,
-- permitted and excluded = "DNS:a.test" or a list (name constraints), ca = its issuer (default: the
-- root), or self_signed = true for one more root.
function Pki:authority(options)
  local copy = {}
  for name, value in pairs(options or {}) do copy[name] = value end
  copy.ca_certificate = true
  copy.cn = copy.cn or (copy.self_signed and "Another Root" or "Intermediate")
  copy.days = copy.days or 3650
  return self:issue(copy)
end

--- Revokes a certificate. reason: "keyCompromise", "superseded" ... (default: none given).
function Pki:revoke(certificate, reason)
  run.check(append({ "openssl", "ca", "-batch", "-config", (self:configuration(certificate.issuer)),
    "-revoke", certificate.cert }, reason and { "-crl_reason", reason }))
end

--- Makes an authority's CRL (PEM) and returns its path. options: last_update (-60) and next_update
-- (+86400) in seconds from now; extensions = raw lines.
function Pki:crl(authority, options)
  options = options or {}
  local config = self:configuration(authority or self.root, list(options.extensions))
  local path, now = self:path("crl.pem"), os.time()
  run.check(append({ "openssl", "ca", "-gencrl", "-config", config, "-out", path,
    "-crl_lastupdate", utc(now + (options.last_update or -60)),
    "-crl_nextupdate", utc(now + (options.next_update or 86400)) },
    options.extensions and { "-crlexts", "extensions" }))
  return path
end

--- Makes an OCSP response (DER) for a certificate, as a server staples it; returns its path. The
-- status is what the authority's database says (see revoke). options: status = "unknown" for a
-- database that has never heard of it; signer = a certificate with purpose "ocsp" (default: the
-- authority); days (1) until nextUpdate, or false for none; at = seconds from now at which it is made
-- (through faketime); others = certificates to answer for before this one, in the same response.
function Pki:staple(certificate, options)
  options = options or {}
  local issuer, request, path = certificate.issuer, self:path("request"), self:path("ocsp")
  local signer = options.signer or issuer
  local ask = { "openssl", "ocsp", "-issuer", issuer.cert, "-no_nonce", "-reqout", request }
  for _, other in ipairs(options.others or {}) do append(ask, { "-cert", other.cert }) end
  run.check(append(ask, { "-cert", certificate.cert }))
  run.check(append(
    options.at and { "faketime", "-f", string.format("%+ds", options.at) } or {},
    { "openssl", "ocsp", "-CA", issuer.cert, "-rsigner", signer.cert, "-rkey", signer.key, "-reqin", request,
      "-respout", path, "-index", options.status == "unknown" and self:database() or issuer.database },
    options.days ~= false and { "-ndays", options.days or 1 }))
  return path
end

--- The DER form of a certificate, key or CRL in a PEM file; kind: "x509" (default), "pkey", "crl".
function M.der(path, kind)
  return run.check { "openssl", kind or "x509", "-in", path, "-outform", "DER" }
end

--- A new PKI with a root of its own. options: those of authority() for the root.
function M.new(options)
  local pki = setmetatable({ directory = tmp.directory(), count = 0, serials = 0, issued = {} }, Pki)
  pki.request_config = tmp.write(pki:path("cnf"),
    "[req]\ndistinguished_name = dn\nstring_mask = utf8only\n[dn]\n")
  local root = { self_signed = true, cn = "Specs' Root " .. process.id() }
  for name, value in pairs(options or {}) do root[name] = value end
  pki.root = pki:authority(root)
  pki.ca_file = pki.root.cert
  return pki
end

local shared
--- The PKI that all specs of this process share.
function M.shared()
  shared = shared or M.new()
  return shared
end

return M

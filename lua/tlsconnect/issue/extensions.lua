-- The extensions of what issue.lua makes (RFC 5280 4.2), written as DER from its options.
local core = require "tlsconnect.core"
local der = require "tlsconnect.der"
local names = require "tlsconnect.issue.names"

local M = {}

local bad = names.bad

function M.one(oid, critical, value)
  if critical then return der.sequence(der.oid(oid), der.boolean(true), der.octets(value)) end
  return der.sequence(der.oid(oid), der.octets(value))
end

-- Collects extensions in order, one of each OID: list:add(name, value, critical).
function M.new()
  local list = { order = {}, by_oid = {} }
  function list:add(name, value, critical)
    local oid = core.extension_oids[name] or name
    if not self.by_oid[oid] then self.order[#self.order + 1] = oid end
    self.by_oid[oid] = M.one(oid, critical, value)
  end
  function list:add_given(given)
    for i, one in ipairs(given.extensions or {}) do
      local option = ("extensions[%d]"):format(i)
      local oid = core.extension_oids[one.oid] or one.oid
      if not oid or not der.oid(oid) then bad(option, "an OID expected") end
      if not one.value then bad(option, "a value expected") end
      self:add(oid, one.value, one.critical)
    end
  end
  function list:der()
    local all = {}
    for i, oid in ipairs(self.order) do all[i] = self.by_oid[oid] end
    return der.sequence_of(all)
  end
  return list
end

function M.add_constraints(list, given)
  if given.path_length and not given.ca then bad("path_length", "only a CA has one") end
  if given.path_length and given.path_length ~= math.floor(given.path_length) then
    bad("path_length", "a whole number expected")
  end
  if given.ca then
    local length = given.path_length and der.integer(given.path_length)
    list:add("basic_constraints", der.sequence(der.boolean(true), length), true)
  else
    list:add("basic_constraints", der.sequence(), true)
  end
end

function M.add_usages(list, given, default)
  local usages = given.usages
  if usages == nil or usages == true then usages = default end
  if not usages or #usages == 0 then return end
  local bits = {}
  for _, usage in ipairs(usages) do
    local bit = core.key_usages[usage]
    if not bit then bad("usages", ("'%s' is none of %s"):format(usage, names.known(core.key_usages))) end
    bits[bit] = true
  end
  list:add("key_usage", der.named_bits(bits), true)
end

function M.add_purposes(list, given, default)
  local purposes = given.purposes
  if purposes == nil or purposes == true then purposes = default end
  if not purposes or #purposes == 0 then return end
  local oids = {}
  for i, purpose in ipairs(purposes) do
    oids[i] = der.oid(core.purposes[purpose] or purpose)
    if not oids[i] then
      bad("purposes", ("'%s' is no OID and none of %s"):format(purpose, names.known(core.purposes)))
    end
  end
  list:add("extended_key_usage", der.sequence_of(oids))
end

-- RFC 5280 4.2.1.3: what a TLS peer does with such a key.
function M.fitting_usages(given, key_type)
  if given.ca then return { "certificate_sign", "crl_sign", "digital_signature" } end
  if key_type == "rsa" then return { "digital_signature", "key_encipherment" } end
  return { "digital_signature" }
end

function M.add_name_constraints(list, given)
  local constraints = given.name_constraints
  if not constraints then return end
  local parts = {}
  for tag, field in ipairs { "permitted", "excluded" } do
    local subtrees = {}
    for i, name in ipairs(constraints[field] or {}) do
      subtrees[i] = der.sequence(names.general(name, "name_constraints." .. field, true))
    end
    if #subtrees > 0 then parts[#parts + 1] = der.explicit(tag - 1, table.concat(subtrees)) end
  end
  list:add("name_constraints", der.sequence_of(parts), true)
end

local function urls(given, option)
  local value = given[option]
  if type(value) ~= "table" then value = { value } end
  local encoded = {}
  for i, url in ipairs(value) do encoded[i] = der.implicit(6, url) end
  return encoded
end

-- RFC 5280 4.2.2.1
function M.add_access(list, given)
  local all = {}
  for option, oid in pairs { ocsp = "1.3.6.1.5.5.7.48.1", issuer_urls = "1.3.6.1.5.5.7.48.2" } do
    for _, url in ipairs(urls(given, option)) do
      all[#all + 1] = der.sequence(der.oid(oid), url)
    end
  end
  table.sort(all)
  if #all > 0 then list:add("authority_information_access", der.sequence_of(all)) end
end

-- RFC 5280 4.2.1.13
function M.add_crl_points(list, given)
  local all = {}
  for i, url in ipairs(urls(given, "crl_urls")) do
    all[i] = der.sequence(der.explicit(0, der.explicit(0, url)))
  end
  if #all > 0 then list:add("crl_distribution_points", der.sequence_of(all)) end
end

function M.add_policies(list, given)
  local all = {}
  for i, policy in ipairs(given.policies or {}) do
    local oid = der.oid(policy)
    if not oid then bad("policies", ("'%s' is no OID"):format(policy)) end
    all[i] = der.sequence(oid)
  end
  if #all > 0 then list:add("certificate_policies", der.sequence_of(all)) end
end

function M.key_id(certificate)
  local found = certificate:extensions().subject_key_id
  return found and found.value
end

function M.add_key_ids(list, given, key, issuer)
  if given.key_ids == false then return end
  list:add("subject_key_id", der.octets(names.from_hex(key.id)))
  local id
  if issuer then id = M.key_id(issuer) else id = key.id end
  if id then list:add("authority_key_id", der.sequence(der.implicit(0, names.from_hex(id)))) end
end

-- RFC 7633: TLS extension 5, status_request
function M.add_must_staple(list, given)
  if given.must_staple then list:add("tls_feature", der.sequence(der.integer(5))) end
end

return M

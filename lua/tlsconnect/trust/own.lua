-- Roots of one's own, and chains that are verified without a connection: what of trust.lua only some programs call.
-- The functions are described there; options come checked.
local core = require "tlsconnect.core"
local options_of = require "tlsconnect.options"
local trust = require "tlsconnect.trust"
local waiter = require "tlsconnect.wait"

local add_directory, add_file, copy, each_path = trust.add_directory, trust.add_file, trust.copy, trust.each_path
local fail, judge, load = trust.fail, trust.judge, trust.load

local M = {}

-- PEM text, DER, a certificate or a list of these, as a list of DER strings. nil, message, cause when a
-- text is broken; raises on other types.
local function der_list(value, what)
  local list = {}
  local function add(item)
    if type(item) == "string" then
      local ders, message, cause = core.pem_decode(item, "CERTIFICATE")
      if not ders then return nil, message, cause end
      for _, der in ipairs(ders) do list[#list + 1] = der end
    elseif options_of.is("certificate", item) then
      list[#list + 1] = item:der()
    else
      error(("%s (PEM text, a certificate or a list of them expected, got a %s)"):format(what, type(item)), 0)
    end
    return true
  end
  if type(value) ~= "table" then
    local ok, message, cause = add(value)
    if not ok then return nil, message, cause end
    return list
  end
  for _, item in ipairs(value) do
    local ok, message, cause = add(item)
    if not ok then return nil, message, cause end
  end
  return list
end

function M.new(options)
  local self = trust.empty()
  local own = options.ca ~= nil or options.ca_file ~= nil or options.ca_path ~= nil
  if options.system or (options.system == nil and not own) then
    local ok, message, err = load(self)
    if not ok then return nil, message, err end
  end
  self.loaded = true
  if options.ca_file then
    local ok, message, err = add_file(self, options.ca_file, "option 'ca_file'")
    if not ok then return nil, message, err end
  end
  if options.ca_path then
    local ok, message, err = each_path(options.ca_path, function(path)
      return add_directory(self, path, "option 'ca_path'")
    end)
    if not ok then return nil, message, err end
  end
  if options.ca ~= nil then
    local ok, message, err = self:add(options.ca)
    if not ok then return nil, message, err end
  end
  return self
end

function M.add(self, certificates, options)
  local limits = options.names and require("tlsconnect.trust.limits").constraints(options.names)
  local ok, message, err = load(self)
  if not ok then return nil, message, err end
  local list, text, cause = der_list(certificates, "bad argument #1 to 'add'")
  if not list then return fail("setup", cause.code, text) end
  if #list == 0 then return fail("setup", "bad_pem", "no certificate in the text") end
  local count = 0
  for _, der in ipairs(list) do
    local added, broken, why = self.core:text(der, limits)
    if not added then return fail("setup", why.code, broken) end
    count = count + added
  end
  return count
end

function M.verify(self, chain, options)
  local list, message, cause = der_list(chain, "bad argument #1 to 'verify'")
  if not list then return fail("verify", cause.code, message) end
  local crls = options.crls
  if type(crls) == "string" then
    crls, message, cause = core.pem_decode(crls, "X509 CRL")
    if not crls then return fail("verify", cause.code, message) end
  end
  local staples = options.staples or options.staple and { options.staple }
  local terms = copy(options)
  terms.wait, terms.deadline = waiter.of(options), options.timeout and core.now() + options.timeout
  local ok, verification, err = judge(self, { chain = list, staples = staples, crls = crls }, terms)
  return ok, verification, err
end

return M

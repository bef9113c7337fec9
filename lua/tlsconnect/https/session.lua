--- https.client{}: defaults for many requests, and connections of its own.
--
--     local api = https.client { base = "https://api.example.org/v1/", auth = { bearer = token }, timeout = 10 }
--     local users = assert(api:get "users")
--     assert(api:post("users", { json = { name = "Ada" } }))
--     api:close()
--
-- A request's own options go before the defaults; headers and timeouts are merged by name. With `base`,
-- URLs are references to it (RFC 3986), and what proves who asks (auth, the client certificate, headers that
-- could hold a secret) stays with the base's origin: a URL elsewhere is asked for without it.

local client = require "tlsconnect.https.client"
local options = require "tlsconnect.options"
local personal = require "tlsconnect.https.personal"
local url = require "tlsconnect.https.url"

local lower = string.lower

local Session = {}
Session.__index = Session

local M = {}

local function copy(given)
  local result = {}
  for name, value in pairs(given) do result[name] = value end
  return result
end

-- Headers of the request, and those of the defaults that it does not name.
local function merge_headers(defaults, given)
  if not defaults or not given then return given or defaults end
  local named = {}
  for name, value in pairs(given) do
    named[lower(type(name) == "number" and value[1] or name)] = true
  end
  local merged = personal.without(defaults, function(field) return named[field] end)
  for name, value in pairs(given) do
    if type(name) == "number" then merged[#merged + 1] = value else merged[name] = value end
  end
  return merged
end

local function merge_tables(defaults, given)
  if not defaults or not given then return given or defaults end
  local merged = copy(defaults)
  for name, value in pairs(given) do merged[name] = value end
  return merged
end

local function merge(defaults, given)
  local merged = copy(defaults)
  for name, value in pairs(given) do merged[name] = value end
  merged.headers = merge_headers(defaults.headers, given.headers)
  merged.timeouts = merge_tables(defaults.timeouts, given.timeouts)
  return merged
end

local function perform(self, name, method, address, given)
  if type(address) ~= "string" then
    error(("bad argument #1 to '%s' (a URL expected, got %s)"):format(name, type(address)), 3)
  end
  given = options.check("https", given, 1)
  local defaults = self.defaults
  if self.base then
    local target = url.resolve(self.base, address)
    if target then
      if target.origin ~= self.base.origin then defaults = self.elsewhere end
      if not target.userinfo then address = url.text(target) end
    end
  end
  return self.client:perform(method, address, merge(defaults, given))
end

for _, name in ipairs { "get", "head", "post", "put", "patch", "delete" } do
  local method = name:upper()
  Session[name] = function(self, address, given)
    return perform(self, name, method, address, given)
  end
end

--- As https.request.
function Session:request(address, given)
  if type(address) == "table" then
    if given ~= nil then error("bad argument #2 to 'request' (options are in the table already)", 2) end
    address, given = address.url, address
  end
  return perform(self, "request", given and given.method, address, given)
end

--- Closes the connections that are kept, and writes the files that cookies and HSTS are kept in. Later requests
-- open new connections. True, or nil, message, err.
function Session:close()
  self.client:close()
  for _, kept in ipairs { self.cookies or false, self.client.hsts or false } do
    if kept and kept.path then
      local ok, message, err = kept:save()
      if not ok then return nil, message, err end
    end
  end
  return true
end

Session.__name = "tlsconnect.https.client"

-- Gives the client its jar, and its store of hosts. True, or nil, message, err.
local function remember(self, defaults)
  local jar, hsts = defaults.cookies, defaults.hsts
  defaults.cookies = nil
  if type(jar) == "table" then
    if not require("tlsconnect.https.cookies").is(jar) then
      error("bad option 'cookies' to client (a jar expected)", 0)
    end
    self.cookies = jar
  elseif jar ~= false then
    local message, err
    self.cookies, message, err = require("tlsconnect.https.cookies").jar(type(jar) == "string" and jar or nil)
    if not self.cookies then return nil, message, err end
  end
  self.client.jar = self.cookies
  if type(hsts) == "string" then
    defaults.hsts = true
    local message, err
    self.client.hsts, message, err = require("tlsconnect.https.hsts").store(hsts)
    if not self.client.hsts then return nil, message, err end
  end
  return true
end

--- Makes a client. `defaults` were checked. A client, or nil, message, err when a file cannot be read.
function M.new(defaults)
  local base
  defaults = copy(defaults)
  if defaults.base then
    local problem
    base, problem = url.parse(defaults.base)
    if not base then error("bad option 'base' to client (" .. problem .. ")", 3) end
    defaults.base = nil
    if base.userinfo and not defaults.auth then
      local user, password = base.userinfo:match("^([^:]*):?(.*)$")
      defaults.auth = { basic = { url.decode(user), url.decode(password) } }
    end
  end
  local self = setmetatable({
    defaults = defaults, base = base,
    client = client.new { idle = defaults.idle or 60, idle_per_host = defaults.idle_per_host or 256,
      idle_total = defaults.idle_total or 256 },
  }, Session)
  local ok, message, err = remember(self, defaults)
  if not ok then return nil, message, err end
  if base then
    self.elsewhere, message, err = personal.options(defaults)
    if not self.elsewhere then return nil, message, err end
    self.elsewhere.headers = personal.headers(defaults.headers)
  end
  return self
end

return M

--- The environment's proxies: http_proxy, https_proxy, all_proxy, and no_proxy for what goes without; in small
-- letters or in capitals.

local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local proxy = require "tlsconnect.proxy"

local getenv = os.getenv
local find, gsub, lower, match, sub = string.find, string.gsub, string.lower, string.match, string.sub

local M = {}

--- The first of these variables that says anything, for a URL of that scheme: its value and its name.
function M.variable(scheme)
  local names = { scheme .. "_proxy", scheme:upper() .. "_PROXY", "all_proxy", "ALL_PROXY" }
  for _, name in ipairs(names) do
    -- Under CGI a client's header "Proxy:" comes as HTTP_PROXY (CVE-2016-5386).
    if not (name == "HTTP_PROXY" and getenv "REQUEST_METHOD") then
      local value = getenv(name)
      if value and value ~= "" then return value, name end
    end
  end
  return nil
end

-- A host as it is compared: lower case, A-labels, no brackets, zone, or dot at its end; an address in its one
-- form, one of IPv4 within IPv6 as IPv4.
local function normal(host)
  host = gsub(lower(host), "^%[(.*)%]$", "%1")
  host = gsub(host, "%%.*$", "")
  local address, family = core.literal(host)
  if address then
    local four = family == "inet6" and match(address, "^::ffff:(%d+%.%d+%.%d+%.%d+)$")
    return four or address, four and "inet" or family
  end
  return core.to_ascii(host) or (gsub(host, "%.$", ""))
end

local function bits_of(address, family)
  local bits = {}
  local function put(number, count)
    for i = count - 1, 0, -1 do bits[#bits + 1] = math.floor(number / 2 ^ i) % 2 end
  end
  if family == "inet" then
    for part in address:gmatch("%d+") do put(tonumber(part), 8) end
    return bits
  end
  local before, after = match(address, "^(.-)::(.*)$")
  before, after = before or address, after or ""
  local function groups(text)
    local list = {}
    for group in text:gmatch("%x+") do list[#list + 1] = tonumber(group, 16) end
    return list
  end
  local head, tail = groups(before), groups(after)
  for _, group in ipairs(head) do put(group, 16) end
  for _ = 1, 8 - #head - #tail do put(0, 16) end
  for _, group in ipairs(tail) do put(group, 16) end
  return bits
end

-- Whether an address lies in a block such as 10.0.0.0/8.
local function within(address, family, block, length)
  local start, kind = normal(block)
  if kind ~= family or kind == nil then return false end
  local a, b = bits_of(address, family), bits_of(start, kind)
  if length > #a then return false end
  for i = 1, length do
    if a[i] ~= b[i] then return false end
  end
  return true
end

-- One entry of no_proxy: "*", a name (it and all below it), an address, a block, each with a port or not.
local function matches(entry, host, family, port)
  if entry == "*" then return true end
  local block, length = match(entry, "^(.-)/(%d+)$")
  if block then return family ~= nil and #length <= 3 and within(host, family, block, tonumber(length)) end
  local before, number = match(entry, "^(%[[^%]]*%]):(%d+)$")
  if not before and not find(entry, ":.*:") then before, number = match(entry, "^(.*):(%d+)$") end
  if before then
    if tonumber(number) ~= port then return false end
    entry = before
  end
  entry = gsub(gsub(entry, "^%*%.", "."), "^%.", "")
  if entry == "" then return false end
  local wanted, kind = normal(entry)
  if wanted == host then return true end
  if kind or family then return false end
  return sub(host, -#wanted - 1) == "." .. wanted
end

--- Whether no_proxy says that this host is reached without one.
function M.exempt(host, port)
  local list = getenv "no_proxy" or getenv "NO_PROXY"
  if not list or list == "" then return false end
  local name, family = normal(host)
  for entry in list:gmatch("[^%s,]+") do
    if matches(entry, name, family, port) then return true end
  end
  return false
end

--- The route that the environment gives to a host: as proxy.of() returns it.
function M.route(scheme, host, port)
  local value, name = M.variable(scheme)
  if not value or M.exempt(host, port) then return false end
  return proxy.parse(value, "environment variable " .. errors.escape(name))
end

return M

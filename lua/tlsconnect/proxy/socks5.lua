--- The way through a SOCKS5 proxy (RFC 1928), with user name and password (RFC 1929).

local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local proxy = require "tlsconnect.proxy"

local byte, char = string.byte, string.char

local M = {}

-- RFC 1928 6: REP
local replies = {
  [1] = "general failure", [2] = "not allowed by its rules", [3] = "network unreachable", [4] = "host unreachable",
  [5] = "connection refused", [6] = "time to live expired", [7] = "command not supported",
  [8] = "address type not supported",
}

local function bad(route, what)
  return proxy.refuse(route, "bad_answer", "does not speak SOCKS5: " .. what)
end

local function send(below, data)
  local ok, message, _, err = below:send(data)
  if ok then return true end
  return nil, message, err
end

-- An IPv4 or IPv6 address as its bytes.
local function packed(address, family)
  if family == "inet" then
    local a, b, c, d = address:match("^(%d+)%.(%d+)%.(%d+)%.(%d+)$")
    return "\1" .. char(a, b, c, d)
  end
  local dotted = address:match("[%d]+%.[%d.]+$")
  if dotted then
    local a, b, c, d = dotted:match("^(%d+)%.(%d+)%.(%d+)%.(%d+)$")
    address = address:sub(1, -#dotted - 1) .. ("%x:%x"):format(a * 256 + b, c * 256 + d)
  end
  local function groups(text)
    local list = {}
    for group in text:gmatch("%x+") do
      local number = tonumber(group, 16)
      list[#list + 1] = char(math.floor(number / 256), number % 256)
    end
    return list
  end
  local before, after = address:match("^(.-)::(.*)$")
  if not before then return "\4" .. table.concat(groups(address)) end
  local head, tail = groups(before), groups(after)
  return "\4" .. table.concat(head) .. ("\0\0"):rep(8 - #head - #tail) .. table.concat(tail)
end

-- Whether the address that this side has found may be asked for.
local function allowed(address, family, target, terms)
  local allow = terms.allow_address
  if allow == nil then return true end
  if allow == "public" then return core.classify(address) == "public" end
  return allow(address, family, target.name, target.port)
end

local function refused_here(target)
  return errors.fail(errors.new { step = "tcp", code = "address_refused", host = target.name, port = target.port })
end

local MOST = 16 -- addresses of one name that are tried, as when they are dialled from here

--- What the proxy is to be asked for, one after the other until one can be reached: the target itself, or, where
-- this side looks names up, each of its addresses. IPv4 comes first: not every proxy has IPv6.
-- @param target { name, family, port, text }
-- @return a list of such targets, or nil, message, err
function M.targets(target, route, terms)
  local name, family = target.name, target.family
  if family then
    if not allowed(name, family, target, terms) then return refused_here(target) end
    return { target }
  end
  if route.kind ~= "socks5" then
    -- One byte holds the length: a longer name would be cut, and lead elsewhere.
    if #name > 255 then
      return errors.fail(errors.new { step = "proxy", code = "bad_host", host = name, port = target.port,
        message = "the host's name is longer than SOCKS5 can say" })
    end
    return { target }
  end
  local addresses, message, err = require("tlsconnect.resolve").addresses(name, {
    family = terms.family, wait = terms.wait, deadline = terms.deadline, port = target.port })
  if not addresses then return nil, message, err end
  local found, later = {}, {}
  for _, address in ipairs(addresses) do
    local _, kind = core.literal(address)
    if kind and allowed(address, kind, target, terms) then
      table.insert(kind == "inet" and found or later,
        { name = address, family = kind, port = target.port, text = target.text })
    end
  end
  for _, one in ipairs(later) do found[#found + 1] = one end
  if not found[1] then return refused_here(target) end
  for i = #found, MOST + 1, -1 do found[i] = nil end
  return found
end

-- What the proxy is asked for, as bytes.
local function request_for(target)
  local name, port = target.name, target.port
  local where = target.family and packed(name, target.family) or "\3" .. char(#name) .. name
  return "\5\1\0" .. where .. char(math.floor(port / 256), port % 256)
end

-- RFC 1929. True, or nil, message, err.
local function authenticate(below, route)
  local ok, message, err = send(below, "\1" .. char(#route.user) .. route.user .. char(#route.password)
    .. route.password)
  if not ok then return nil, message, err end
  local answer
  answer, message, err = below:read(2)
  if not answer then return nil, message, err end
  if byte(answer, 2) ~= 0 then
    return proxy.refuse(route, "proxy_auth", "does not take the user name and password given")
  end
  return true
end

local function greet(below, route)
  local user, password = route.user, route.password
  if user and (#user < 1 or #user > 255 or #password > 255) then
    return proxy.refuse(route, "bad_proxy", "cannot be told a user name or password of that length")
  end
  local ok, message, err = send(below, user and "\5\2\0\2" or "\5\1\0")
  if not ok then return nil, message, err end
  local answer
  answer, message, err = below:read(2)
  if not answer then return nil, message, err end
  if byte(answer) ~= 5 then return bad(route, 'it begins with "' .. errors.escape(answer) .. '"') end
  local method = byte(answer, 2)
  if method == 0 then return true end
  if method == 2 and user then return authenticate(below, route) end
  if method == 255 then
    return proxy.refuse(route, "proxy_auth", user and "takes neither a user name and password nor none"
      or "wants a user name and a password")
  end
  return bad(route, "it wants what was not offered")
end

-- Reads the answer to the request, whole, however it comes.
local function read_reply(below, target, route)
  local answer, message, err = below:read(4)
  if not answer then return nil, message, err end
  local version, reply, _, kind = byte(answer, 1, 4)
  if version ~= 5 then return bad(route, "its answer is of another version") end
  if reply ~= 0 then
    return proxy.refuse(route, "proxy_refused", ("did not connect to %s: %s"):format(target.text,
      replies[reply] or "reply " .. reply), { reply = reply })
  end
  local size = kind == 1 and 4 or kind == 4 and 16
  if kind == 3 then
    local length
    length, message, err = below:read(1)
    if not length then return nil, message, err end
    size = byte(length)
  end
  if not size then return bad(route, "its answer holds an address of an unknown kind") end
  local rest
  rest, message, err = below:read(size + 2)
  if not rest then return nil, message, err end
  return true
end

--- Asks the proxy for the way to the target, one of targets(). True, or nil, message, err.
function M.link(below, target, route)
  local ok, message, err = greet(below, route)
  if ok then ok, message, err = send(below, request_for(target)) end
  if ok then ok, message, err = read_reply(below, target, route) end
  if not ok then return nil, message, err end
  return true
end

return M

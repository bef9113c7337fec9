--- The header fields of a request that is more than a plain GET: the caller's (the option `headers`), and those
-- that say what the body is. No CR, LF or NUL gets into them: such a field is refused, never stripped.

local errors = require "tlsconnect.error"
local http1 = require "tlsconnect.https.http1"

local find, format, lower = string.find, string.format, string.lower

local M = {}

-- RFC 9110 9.2.2: done twice is done once.
local idempotent = { GET = true, HEAD = true, PUT = true, DELETE = true, OPTIONS = true, TRACE = true }
-- Methods whose request says "no body" by having no Content-Length (RFC 9110 8.6).
local bodiless = { GET = true, HEAD = true, DELETE = true, OPTIONS = true, TRACE = true, CONNECT = true }

local function bad(request, code, ...)
  local url = request.url
  return errors.fail(errors.new {
    step = "http", code = code, host = url.host, port = url.port,
    message = errors.peer(url.host, url.port) .. ": " .. format(...),
  })
end

-- Appends a field to the flat list; nil, message, err when it could not stand in a head.
function M.add(request, name, value)
  if type(name) ~= "string" then
    error("bad option 'headers' (names are strings, got a " .. type(name) .. ")", 0)
  end
  if not find(name, http1.token) then
    return bad(request, "bad_header", "the header name %s is not one", http1.shown(name))
  end
  if type(value) == "number" then value = format("%.14g", value) end
  if type(value) ~= "string" then
    error(format("bad option 'headers' (%s is a %s)", errors.escape(name), type(value)), 0)
  end
  -- RFC 9110 5.5: neither control characters nor blanks round it
  if find(value, "[%z\1-\8\10-\31\127]") or find(value, "^[ \t]") or find(value, "[ \t]", -1) then
    -- The value is not shown: it may be a secret.
    return bad(request, "bad_header", "the header %s has a value that cannot be sent", name)
  end
  local fields = request.fields
  fields[#fields + 1] = name
  fields[#fields + 1] = value
  return true
end

local add = M.add

local function add_all(request, given)
  local names = {}
  for name, value in pairs(given) do
    if type(name) == "number" then
      if type(value) ~= "table" then error("bad option 'headers' (a list of { name, value } expected)", 0) end
    else
      names[#names + 1] = name
    end
  end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for _, name in ipairs(names) do
    local value = given[name]
    if type(value) == "table" then
      for _, one in ipairs(value) do
        local ok, message, err = add(request, name, one)
        if not ok then return nil, message, err end
      end
    elseif value then -- false: only says that the default is not wanted
      local ok, message, err = add(request, name, value)
      if not ok then return nil, message, err end
    end
  end
  for _, field in ipairs(given) do
    local ok, message, err = add(request, field[1], field[2])
    if not ok then return nil, message, err end
  end
  return true
end

-- Which names the caller gave, or denied with false, in lower case.
local function given_names(given)
  local names = {}
  for name, value in pairs(given) do
    if type(name) == "string" then names[lower(name)] = true
    elseif type(value) == "table" and type(value[1]) == "string" then names[lower(value[1])] = true end
  end
  return names
end

-- Content-Length as the caller gave it: allowed where it says the truth, or where only he knows it.
local function own_length(request, given)
  local value
  for name, one in pairs(given) do
    if type(name) == "number" then name, one = one[1], one[2] end
    if type(name) == "string" and lower(name) == "content-length" and one then
      if value then return bad(request, "bad_header", "Content-Length is given twice") end
      value = one
    end
  end
  local length = value and find(tostring(value), "^%d+$") and #tostring(value) <= 15 and tonumber(value)
  if not length or request.length and request.length ~= length or request.body == nil and length ~= 0 then
    return bad(request, "bad_header", "Content-Length is not the length of the body")
  end
  request.length = length
  return true
end

--- Fills in a request.
-- @param request { method, url, decodes }
-- @param given the headers option: { name = value | { values } | false }, or a list of { name, value }
-- @param body as for request.new()
-- @param kind the body's type, where the caller's headers name none
-- @param usual { name, value, ... }: what a plain GET would say
-- @return the request, or nil, message, err
function M.fill(request, given, body, kind, usual)
  local method = request.method
  request.fields = {}
  if not find(method, http1.token) then
    return bad(request, "bad_method", "the method %s is not one", http1.shown(method))
  end
  request.idempotent = idempotent[method] or false
  if body ~= nil then require("tlsconnect.https.upload").take(request, body) else request.replayable = true end
  local names = given and given_names(given) or {}
  request.authorized, request.has_cookies = names.authorization, names.cookie
  request.expects = names.expect and body ~= nil
  -- A range is one of the encoded bytes, and no part of them can be decoded.
  if names.range then names["accept-encoding"] = true end
  for i = 1, #usual, 2 do
    if not names[lower(usual[i])] then add(request, usual[i], usual[i + 1]) end
  end
  if given then
    if names["transfer-encoding"] then
      return bad(request, "bad_header", "Transfer-Encoding is not for the caller to set")
    end
    -- Among the headers it would reach the origin, too.
    if names["proxy-authorization"] then
      return bad(request, "bad_header", "what a proxy wants to know belongs in the option 'proxy'")
    end
    local ok, message, err = true, nil, nil
    if names["content-length"] then ok, message, err = own_length(request, given) end
    if ok then ok, message, err = add_all(request, given) end
    if not ok then return nil, message, err end
  end
  if kind and not names["content-type"] then add(request, "Content-Type", kind) end
  if names["content-length"] then return request end
  if request.length then
    add(request, "Content-Length", format("%.0f", request.length))
  elseif body ~= nil then
    add(request, "Transfer-Encoding", "chunked")
    request.chunked = true
  elseif not bodiless[method] then
    add(request, "Content-Length", "0")
    request.length = 0
  end
  return request
end

return M

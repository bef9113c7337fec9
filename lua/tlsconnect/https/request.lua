--- A request: checked, written as HTTP/1.1, and sent. No CR, LF or NUL gets into any part of it: such a
-- part is refused, never stripped.

local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local http1 = require "tlsconnect.https.http1"
local waiter = require "tlsconnect.wait"

local find, format, lower = string.find, string.format, string.lower

local now = waiter.now

local Request = {}
Request.__index = Request

local M = {}

M.user_agent = "tlsconnect"

-- What can be taken off a body (see coding.lua); "" when nothing can.
local codings = table.concat(core.codings, ", ")

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
local function add(request, name, value)
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

--- Makes a request.
-- @param method string
-- @param url a parsed URL
-- @param given the headers option: { name = value | { values } | false }, or a list of { name, value }
-- @param body string, function (returns pieces, nil at the end, or nil and an error), open file, a body
--   of content.lua, or nil
-- @param kind the body's type, where the caller's headers name none
-- @param decodes whether the answer's body will be decoded: then the request says which codings can be
-- @return the request, or nil, message, err
function M.new(method, url, given, body, kind, decodes)
  decodes = decodes and codings ~= "" or false
  if method == "GET" and given == nil and body == nil then
    return setmetatable({ method = method, url = url, idempotent = true, replayable = true, decodes = decodes },
      Request)
  end
  local request = setmetatable({ method = method, url = url, fields = {}, decodes = decodes }, Request)
  if not find(method, http1.token) then
    return bad(request, "bad_method", "the method %s is not one", http1.shown(method))
  end
  request.idempotent = idempotent[method] or false
  if body ~= nil then require("tlsconnect.https.upload").take(request, body) else request.replayable = true end
  local names = given and given_names(given) or {}
  request.authorized, request.has_cookies = names.authorization, names.cookie
  request.expects = names.expect and body ~= nil
  if not names.host then add(request, "Host", url.authority) end
  if not names["user-agent"] then add(request, "User-Agent", M.user_agent) end
  if not names.accept then add(request, "Accept", "*/*") end
  -- A range is one of the encoded bytes, and no part of them can be decoded.
  if decodes and not names["accept-encoding"] and not names.range then add(request, "Accept-Encoding", codings) end
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

-- The fields of a request for which the caller gave none.
local function plain_fields(url, decodes)
  local fields = { "Host", url.authority, "User-Agent", M.user_agent, "Accept", "*/*" }
  if decodes then fields[7], fields[8] = "Accept-Encoding", codings end
  return fields
end

--- Adds a header that the layer itself makes (authorization, cookies).
function Request:add(name, value)
  self.fields = self.fields or plain_fields(self.url, self.decodes)
  return add(self, name, value)
end

local function write_head(method, target, fields)
  local lines = { method .. " " .. target .. " HTTP/1.1" }
  for i = 1, #fields, 2 do lines[#lines + 1] = fields[i] .. ": " .. fields[i + 1] end
  lines[#lines + 1] = "\r\n"
  return table.concat(lines, "\r\n")
end

local function absolute(url)
  return url.scheme .. "://" .. url.authority .. url.target
end

--- Has the request asked of a proxy: in absolute form (RFC 9112 3.2.2), and with what the proxy wants to know.
-- One that has a tunnel in place of this changes nothing. True, or nil, message, err.
function Request:forward(route)
  if self.absolute or not require("tlsconnect.proxy").forwards(route) then return true end
  self.absolute = route
  local authorization, message, err = require("tlsconnect.proxy.connect").authorization(route, self.method,
    absolute(self.url))
  if err then return nil, message, err end
  return not authorization or self:add("Proxy-Authorization", authorization)
end

--- The head as it is sent. That of a plain GET is kept with its URL.
function Request:head()
  local url = self.url
  if self.absolute then
    return write_head(self.method, absolute(url), self.fields or plain_fields(url, self.decodes))
  end
  if self.fields then return write_head(self.method, url.target, self.fields) end
  local kept = self.decodes and "plain_head" or "bare_head"
  local text = url[kept]
  if not text then
    text = write_head("GET", url.target, plain_fields(url, self.decodes))
    url[kept] = text
  end
  return text
end

--- Sends the request. The head and a small body leave in one write.
-- @param limits { idle, deadline, ... }: those of http1.read_head() and body.new()
-- @return true, with request.answer when that came already; nil, "answered" when the peer answered
--   (request.answer) and wants no more; or nil, message, err
function Request:send(connection, limits)
  if self.body ~= nil then return require("tlsconnect.https.upload").send(self, connection, limits) end
  local deadline, last = limits.deadline, now() + limits.idle
  connection:setdeadline(deadline and deadline < last and deadline or last)
  local sent, message, _, err = connection:send(self:head())
  if sent then return true end
  return nil, message, err
end

--- Whether it may be sent once more after a failure that says nothing about what the server did.
function Request:repeatable()
  return self.idempotent and (self.replayable or not self.started)
end

return M

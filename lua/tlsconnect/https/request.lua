--- A request: checked, written as HTTP/1.1, and sent. What makes it more than a plain GET is in fields.lua and
-- upload.lua, loaded when there is such a request.

local core = require "tlsconnect.core"
local http1 = require "tlsconnect.https.http1"

local pace = http1.pace

local Request = {}
Request.__index = Request

local M = {}

M.user_agent = "tlsconnect"

-- What can be taken off a body (see coding.lua); "" when nothing can.
local codings = table.concat(core.codings, ", ")

-- The fields of a request for which the caller gave none.
local function plain_fields(url, decodes)
  local fields = { "Host", url.authority, "User-Agent", M.user_agent, "Accept", "*/*" }
  if decodes and codings ~= "" then fields[7], fields[8] = "Accept-Encoding", codings end
  return fields
end

local function write_head(method, target, fields)
  local lines = { method .. " " .. target .. " HTTP/1.1" }
  for i = 1, #fields, 2 do lines[#lines + 1] = fields[i] .. ": " .. fields[i + 1] end
  lines[#lines + 1] = "\r\n"
  return table.concat(lines, "\r\n")
end

--- A GET with nothing that the caller wants in it. It is kept with its URL, written already, and is not to be
-- changed.
function M.plain(url, decodes)
  local kept = decodes and "plain" or "bare"
  local request = url[kept]
  if request then return request end
  request = setmetatable({ method = "GET", url = url, idempotent = true, replayable = true, decodes = decodes,
    bytes = write_head("GET", url.target, plain_fields(url, decodes)) }, Request)
  url[kept] = request
  return request
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
  local request = setmetatable({ method = method, url = url, decodes = decodes }, Request)
  return require("tlsconnect.https.fields").fill(request, given, body, kind, plain_fields(url, decodes))
end

--- Adds a header that the layer itself makes (authorization, cookies).
function Request:add(name, value)
  return require("tlsconnect.https.fields").add(self, name, value)
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

--- The head as it is sent: the whole request, where it has no body.
function Request:head()
  return self.bytes or write_head(self.method, self.absolute and absolute(self.url) or self.url.target, self.fields)
end

--- Sends the request. The head and a small body leave in one write.
-- @param limits { idle, deadline, ... }: those of http1.read_head() and body.new()
-- @return true, with request.answered (what read_head() gave) when an answer came already; nil, "answered" when the
--   peer answered (request.answered) and wants no more; or nil, message, err
function Request:send(connection, limits)
  if self.body ~= nil then return require("tlsconnect.https.upload").send(self, connection, limits) end
  pace(connection, limits.idle, limits.deadline)
  local sent, message, _, err = connection:send(self:head())
  if sent then return true end
  return nil, message, err
end

--- Whether it may be sent once more after a failure that says nothing about what the server did.
function Request:repeatable()
  return self.idempotent and (self.replayable or not self.started)
end

return M

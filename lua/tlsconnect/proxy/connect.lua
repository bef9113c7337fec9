--- The way through an HTTP proxy: CONNECT (RFC 9110 9.3.6). The proxy's answer is read for its status alone:
-- no header, cookie, location or body of it is anybody else's.

local encoding = require "tlsconnect.encoding"
local errors = require "tlsconnect.error"
local proxy = require "tlsconnect.proxy"

local match = string.match

local M = {}

local MAX_HEAD = 65536
local MAX_INTERIM = 10

--- The value of Proxy-Authorization, or nil where the route has no user. RFC 7617.
function M.authorization(route)
  if not route.user then return nil end
  return "Basic " .. encoding.base64(route.user .. ":" .. (route.password or ""))
end

--- Whether what the route says can be said: nil, message, err when it cannot.
function M.check(route)
  if route.user and route.user:find(":", 1, true) then
    return proxy.refuse(route, "bad_proxy", "cannot be told a user name with a colon in it")
  end
  return true
end

--- nil, message, err for a proxy that does not know who asks.
-- @param challenges the values of Proxy-Authenticate
function M.unauthorized(route, challenges)
  local schemes = {}
  for i = 1, math.min(#challenges, 5) do schemes[i] = errors.escape(match(challenges[i], "^[^ \t,]*"), 20) end
  return proxy.refuse(route, "proxy_auth", (route.user and "does not take the user name and password given"
    or "wants a user name and a password") .. (schemes[1] and " (" .. table.concat(schemes, ", ") .. ")" or ""),
    { status = 407 })
end

local function refused(route, target, status, reason, head)
  if status == 407 then
    local challenges = {}
    for name, value in head:gmatch("\n([%w%-]+):[ \t]*([^\r\n]*)") do
      if name:lower() == "proxy-authenticate" then challenges[#challenges + 1] = value end
    end
    return M.unauthorized(route, challenges)
  end
  return proxy.refuse(route, "proxy_refused", ("did not connect to %s: it answered %d%s"):format(target.text, status,
    reason == "" and "" or " " .. errors.escape(reason)), { status = status })
end

--- Asks the proxy for the way to the target. True, or nil, message, err.
function M.link(below, target, route)
  local ok, message, err = M.check(route)
  if not ok then return nil, message, err end
  local authorization = M.authorization(route)
  local _
  ok, message, _, err = below:send(("CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n"):format(target.text, target.text,
    authorization and "Proxy-Authorization: " .. authorization .. "\r\n" or ""))
  if not ok then return nil, message, err end
  for _ = 1, MAX_INTERIM do
    local head
    head, message, err = below:read("head", MAX_HEAD)
    if not head then return nil, message, err end
    local status, reason = match(head, "^HTTP/1%.%d (%d%d%d) ?([^\r\n]*)\r?\n")
    status = tonumber(status)
    if not status or status < 100 then
      return proxy.refuse(route, "bad_answer", 'does not answer in HTTP: "'
        .. errors.escape(match(head, "^[^\r\n]*")) .. '"')
    end
    -- RFC 9110 9.3.6: a length in a 2xx answer means nothing.
    if status >= 200 and status < 300 then return true end
    if status >= 300 or status == 101 then return refused(route, target, status, reason, head) end
  end
  return proxy.refuse(route, "bad_answer", "sent interim answers without end")
end

return M

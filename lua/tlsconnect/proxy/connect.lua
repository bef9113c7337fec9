--- The way through an HTTP proxy: CONNECT (RFC 9110 9.3.6). The proxy's answer is read for its status alone:
-- no header, cookie, location or body of it is anybody else's.

local encoding = require "tlsconnect.encoding"
local errors = require "tlsconnect.error"
local proxy = require "tlsconnect.proxy"

local match = string.match

local M = {}

local MAX_HEAD = 65536
local MAX_INTERIM = 10

-- What proxies have asked for in a digest challenge, by proxy, user and password. Only this many are remembered.
local states, count, KEPT = {}, 0, 32

-- No password stands in memory for this.
local function key_of(route)
  return encoding.hash("SHA-256", table.concat({ route.kind, route.host, route.port, route.user, route.password or "" },
    "\0")) or ""
end

local function remember(route, state)
  local key = key_of(route)
  if state and not states[key] then
    if count >= KEPT then states, count = {}, 0 end
    count = count + 1
  elseif not state and states[key] then
    count = count - 1
  end
  states[key] = state
end

-- nil, message, err for a user that cannot be told. Control characters would be headers of their own.
local function check(route)
  if not route.user then return true end
  if route.user:find("[%c:]") or route.password and route.password:find("%c") then
    return proxy.refuse(route, "bad_proxy", "cannot be told a user name with a colon, nor control characters")
  end
  return true
end

--- The value of Proxy-Authorization: a digest (RFC 7616) where the proxy has asked for one, else RFC 7617's; the
-- latter not where the route says `digest`.
-- @param method, target of the request, as it is sent
-- @return string, nothing where there is nothing to say, or nil, message, err
function M.authorization(route, method, target)
  if not route.user then return nil end
  local ok, message, err = check(route)
  if not ok then return nil, message, err end
  local state = states[key_of(route)]
  if state then
    local text, problem, cause = require("tlsconnect.https.digest").answer(state, method, target, route.user,
      route.password or "")
    if not text then
      return errors.fail(errors.from(cause, { step = "proxy", host = route.host, port = route.port,
        message = problem }))
    end
    -- What is quoted in it is the proxy's own words, and goes into a head as it is.
    if not text:find("[%z\1-\31\127]") then return text end
    remember(route)
  end
  if route.digest then return nil end
  return "Basic " .. encoding.base64(route.user .. ":" .. (route.password or ""))
end

--- Looks at the challenges of a proxy that does not know who asks: whether it is worth asking once more, with the
-- digest that it wants.
-- @param challenges the values of Proxy-Authenticate
-- @param tries how often that was done for this request
function M.challenged(route, challenges, tries)
  if not route.user then return false end
  local digests = require "tlsconnect.https.digest"
  local state, schemes = digests.read(challenges)
  -- It heard the password itself, in the way that it takes, and said no.
  local refused = schemes.basic and not route.digest
  if not state or refused or not digests.worth(state, tries) then
    remember(route)
    return false
  end
  remember(route, state)
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

local function refused(route, target, status, reason, head, tries)
  if status == 407 then
    local challenges = {}
    for name, value in head:gmatch("\n([%w%-]+):[ \t]*([^\r\n]*)") do
      if name:lower() == "proxy-authenticate" then challenges[#challenges + 1] = value end
    end
    if M.challenged(route, challenges, tries) then return nil, "again" end
    return M.unauthorized(route, challenges)
  end
  return proxy.refuse(route, "proxy_refused", ("did not connect to %s: it answered %d%s"):format(target.text, status,
    reason == "" and "" or " " .. errors.escape(reason)), { status = status })
end

--- Asks the proxy for the way to the target. True; nil, "again" when it is to be asked once more, on a new
-- connection, for now it is known what it wants to hear; or nil, message, err.
-- @param tries how often that was so
function M.link(below, target, route, tries)
  local authorization, message, err = M.authorization(route, "CONNECT", target.text)
  if err then return nil, message, err end
  local ok, _
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
    if status >= 300 or status == 101 then return refused(route, target, status, reason, head, tries) end
  end
  return proxy.refuse(route, "bad_answer", "sent interim answers without end")
end

return M

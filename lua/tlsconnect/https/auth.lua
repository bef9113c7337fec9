--- Credentials: basic (RFC 7617), bearer (RFC 6750) and digest (RFC 7616).
--
--     auth = { basic = { "user", "password" } }
--     auth = { bearer = "token" }
--     auth = { digest = { "user", "password" } }
--     auth = { netrc = true }                       see netrc.lua
--
-- A user name and password in the URL are used as basic ones. All of it belongs to one origin: see
-- redirect.lua. What a server said for digest is remembered by its origin and asked for by no other.

local encoding = require "tlsconnect.encoding"
local errors = require "tlsconnect.error"

local M = {}

local function pair(value, kind)
  local user, password = value[1] or value.user, value[2] or value.password or ""
  if type(user) ~= "string" or type(password) ~= "string" then
    error("bad option 'auth." .. kind .. "' ({ user, password } expected)", 0)
  end
  return user, password
end

local function fail(request, message)
  local url = request.url
  return errors.fail(errors.new { step = "http", code = "bad_auth", host = url.host, port = url.port,
    message = errors.peer(url.host, url.port) .. ": " .. message })
end

local function basic(request, value)
  local user, password = pair(value, "basic")
  if user:find("[%c:]") or password:find("%c") then
    return fail(request, "the user name or the password holds what basic authorization cannot say")
  end
  return request:add("Authorization", "Basic " .. encoding.base64(user .. ":" .. password))
end

local function bearer(request, token)
  -- RFC 6750 2.1: b64token
  if not token:find("^[%w%-._~+/]+=*$") then
    return fail(request, "the bearer token holds what no token may")
  end
  return request:add("Authorization", "Bearer " .. token)
end

-- Digest ------------------------------------------------------------------------------------------

local function digest(call, request, value)
  local user, password = pair(value, "digest")
  local state = call.client.nonces[request.url.origin]
  if not state then return true end
  local text, message, cause = require("tlsconnect.https.digest").answer(state, request.method, request.url.target,
    user, password)
  if not text then return nil, message, errors.from(cause, { step = "http", host = request.url.host }) end
  return request:add("Authorization", text)
end

--- Looks at an answer of 401: whether the same request is worth another try, with what it asks for.
function M.challenged(call, request, response)
  local value = call.auth and call.auth.digest
  if not value or request.started and not request.replayable then return false end
  local digests = require "tlsconnect.https.digest"
  local state = digests.read(response.headers:list("www-authenticate"))
  local tries = call.tries or 0
  if not state or not digests.worth(state, tries) then return false end
  call.tries = tries + 1
  call.client.nonces[request.url.origin] = state
  return true
end

--- Adds what proves who asks. True, or nil, message, err.
function M.apply(call, request)
  local auth = call.auth
  if auth.basic then return basic(request, auth.basic) end
  if auth.bearer then return bearer(request, auth.bearer) end
  if auth.digest then return digest(call, request, auth.digest) end
  if auth.netrc then
    local found, message, err = require("tlsconnect.https.netrc").lookup(auth.netrc, request.url.host)
    if err then return nil, message, err end
    call.auth = found and { basic = found } or nil
    return not found or basic(request, found)
  end
  if auth.netrc == false then return true end
  error("bad option 'auth' (basic, bearer, digest or netrc expected in it)", 0)
end

return M

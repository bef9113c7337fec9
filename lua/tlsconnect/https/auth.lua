--- Credentials: basic (RFC 7617), bearer (RFC 6750) and digest (RFC 7616).
--
--     auth = { basic = { "user", "password" } }
--     auth = { bearer = "token" }
--     auth = { digest = { "user", "password" } }
--     auth = { netrc = true }                       see netrc.lua
--
-- A user name and password in the URL are used as basic ones. All of it belongs to one origin: see
-- redirect.lua. What a server said for digest is remembered by its origin and asked for by no other.

local challenges = require "tlsconnect.https.challenges"
local encoding = require "tlsconnect.encoding"
local errors = require "tlsconnect.error"

local format, lower = string.format, string.lower

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

-- The hashes, by the names of RFC 7616 6.1.
local hashes = { md5 = "MD5", ["sha-256"] = "SHA-256" }

local function quoted(text)
  return '"' .. text:gsub('[\\"]', "\\%0") .. '"'
end

-- The answer to a challenge (RFC 7616 3.4). The header's value, or nil, message, cause.
local function answer(state, request, user, password)
  local hash = hashes[state.kind]
  local problem, cause
  local function digest(text)
    local result
    if problem then return "" end
    result, problem, cause = encoding.hash(hash, text)
    return result or ""
  end
  state.count = state.count + 1
  local nc, cnonce = format("%08x", state.count), encoding.random(16)
  local uri = request.url.target
  local secret = digest(user .. ":" .. state.realm .. ":" .. password)
  if state.session then secret = digest(secret .. ":" .. state.nonce .. ":" .. cnonce) end
  local what = digest(request.method .. ":" .. uri)
  local response
  if state.qop then
    response = digest(table.concat({ secret, state.nonce, nc, cnonce, "auth", what }, ":"))
  else
    response = digest(secret .. ":" .. state.nonce .. ":" .. what)
  end
  local name = state.userhash and digest(user .. ":" .. state.realm) or user
  if problem then return nil, problem, cause end
  local parts = {
    "username=" .. quoted(name), "realm=" .. quoted(state.realm), "nonce=" .. quoted(state.nonce),
    "uri=" .. quoted(uri), 'response="' .. response .. '"',
  }
  if state.algorithm then parts[#parts + 1] = "algorithm=" .. state.algorithm end
  if state.opaque then parts[#parts + 1] = "opaque=" .. quoted(state.opaque) end
  if state.qop then
    parts[#parts + 1] = "qop=auth"
    parts[#parts + 1] = "nc=" .. nc
    parts[#parts + 1] = 'cnonce="' .. cnonce .. '"'
  end
  if state.userhash then parts[#parts + 1] = "userhash=true" end
  return "Digest " .. table.concat(parts, ", ")
end

-- What a challenge says, as far as it can be answered; nil when it cannot.
local function read_challenge(challenge)
  local said = challenge.parameters
  if challenge.scheme ~= "digest" or not said.nonce or not said.realm then return nil end
  local kind, session = lower(said.algorithm or "md5"), false
  if kind:sub(-5) == "-sess" then kind, session = kind:sub(1, -6), true end
  if not hashes[kind] then return nil end
  local qop = said.qop and ("," .. lower(said.qop):gsub("%s", "") .. ","):find(",auth,", 1, true) ~= nil
  if said.qop and not qop or session and not qop then return nil end
  return {
    kind = kind, session = session, qop = qop, algorithm = said.algorithm, realm = said.realm,
    nonce = said.nonce, opaque = said.opaque, stale = lower(said.stale or "") == "true",
    userhash = lower(said.userhash or "") == "true", count = 0,
  }
end

local function digest(call, request, value)
  local user, password = pair(value, "digest")
  local state = call.client.nonces[request.url.origin]
  if not state then return true end
  local text, message, cause = answer(state, request, user, password)
  if not text then return nil, message, errors.from(cause, { step = "http", host = request.url.host }) end
  return request:add("Authorization", text)
end

--- Looks at an answer of 401: whether the same request is worth another try, with what it asks for.
function M.challenged(call, request, response)
  local value = call.auth and call.auth.digest
  if not value or request.started and not request.replayable then return false end
  for _, challenge in ipairs(challenges.parse(response.headers:list("www-authenticate"))) do
    local state = read_challenge(challenge)
    if state then
      -- Once more with a nonce of this call, and again when that was too old; otherwise the password is
      -- wrong, and trying would change nothing.
      local tries = call.tries or 0
      if tries > 0 and not (state.stale and tries < 2) then return false end
      call.tries = tries + 1
      call.client.nonces[request.url.origin] = state
      return true
    end
  end
  return false
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

--- Digest authorization (RFC 7616): what answers a challenge, of an origin (auth.lua) or of a proxy
-- (proxy/connect.lua). The password itself never leaves.

local challenges = require "tlsconnect.https.challenges"
local encoding = require "tlsconnect.encoding"

local format, lower = string.format, string.lower

local M = {}

-- The hashes, by the names of RFC 7616 6.1.
local hashes = { md5 = "MD5", ["sha-256"] = "SHA-256" }

local function quoted(text)
  return '"' .. text:gsub('[\\"]', "\\%0") .. '"'
end

--- The answer to a challenge (RFC 7616 3.4).
-- @param state of read(); counts how often it was answered
-- @param uri the request's target, as it is sent
-- @return the header's value, or nil, message, cause
function M.answer(state, method, uri, user, password)
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
  local secret = digest(user .. ":" .. state.realm .. ":" .. password)
  if state.session then secret = digest(secret .. ":" .. state.nonce .. ":" .. cnonce) end
  local what = digest(method .. ":" .. uri)
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

--- The first challenge that can be answered, of the values of WWW-Authenticate or Proxy-Authenticate, and a set
-- of the schemes that are offered. The state, or nil, schemes.
function M.read(values)
  local found, schemes = nil, {}
  for _, challenge in ipairs(challenges.parse(values)) do
    schemes[challenge.scheme] = true
    found = found or read_challenge(challenge)
  end
  return found, schemes
end

--- Whether another try makes sense: once with a nonce of this call, and again when that was too old; otherwise
-- the password is wrong, and trying would change nothing.
function M.worth(state, tries)
  return tries == 0 or state.stale and tries < 2
end

return M

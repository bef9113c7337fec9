--- What says who asks, and must not reach another origin: credentials, and every header that could be one.

local lower = string.lower

local M = {}

-- The only headers that say nothing of who asks. Any other, X-Api-Key too, may be a secret.
local impersonal = {}
for _, name in ipairs {
  "accept", "accept-charset", "accept-encoding", "accept-language", "cache-control", "content-disposition",
  "content-encoding", "content-language", "content-type", "content-length", "dnt", "expect", "if-match",
  "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "pragma", "prefer", "priority",
  "range", "te", "user-agent",
} do
  impersonal[name] = true
end

-- Options that prove who asks, or hold for one host only.
local own = { "certificate", "key", "password", "server_name", "auth" }

-- The headers option without the names that `drop` says.
function M.without(given, drop)
  if not given then return nil end
  local kept = {}
  for name, value in pairs(given) do
    local field = type(name) == "number" and value[1] or name
    if not drop(lower(field)) then
      if type(name) == "number" then kept[#kept + 1] = value else kept[name] = value end
    end
  end
  return kept
end

--- The headers option without what may be a secret.
function M.headers(given)
  return M.without(given, function(field) return not impersonal[field] end)
end

--- Options without what proves who asks, or holds for one host only. Options, or nil, message, err.
function M.options(given)
  local kept = {}
  for name, value in pairs(given) do kept[name] = value end
  for _, name in ipairs(own) do kept[name] = nil end
  local contexts = given.context and require "tlsconnect.context"
  if contexts and contexts.is(given.context) then
    local context, message, err = contexts.anonymous(given.context)
    if not context then return nil, message, err end
    kept.context = context
  end
  return kept
end

return M

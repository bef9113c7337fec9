-- Runs the x509-limbo cases (C2SP/x509-limbo) through trust:verify. The data is no part of the project:
-- see spec/support/corpora.lua.
local corpora = require "spec.support.corpora"
local trust = require "tlsconnect.trust"

local M = {}

--- The cases, in order, each with its `tier`; nil where there are no corpora.
function M.cases()
  local data, tiers = corpora.json("x509-limbo/native.json"), corpora.json("x509-limbo/tiers.json")
  if not data or not tiers then return nil end
  for _, case in ipairs(data.testcases) do case.tier = tiers[case.id] and tiers[case.id].tier or "client" end
  return data.testcases
end

-- RFC 3339, always of UTC here, to seconds since the epoch.
local function seconds(text)
  if not text then return nil end
  local year, month, day, hour, minute, second = text:match("^(%d+)-(%d+)-(%d+)T(%d+):(%d+):([%d.]+)")
  year, month = tonumber(year), tonumber(month)
  if month <= 2 then year, month = year - 1, month + 12 end
  local days = 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
    + math.floor((153 * (month - 3) + 2) / 5) + day - 719469
  return ((days * 24 + hour) * 60 + minute) * 60 + tonumber(second)
end

--- The options of trust:verify for a case.
function M.options(case, profile)
  local options = {
    profile = profile, time = seconds(case.validation_time),
    purpose = case.validation_kind == "CLIENT" and "client" or "server",
    max_depth = case.max_chain_depth,
  }
  local name = case.expected_peer_name
  if name then options[name.kind == "IP" and "ip" or "name"] = name.value end
  if #case.crls > 0 then options.crls = table.concat(case.crls, "\n") end
  return options
end

--- Judges one case: true or false for a chain taken or refused, whether that is right, and the reason.
function M.judge(case, profile)
  local anchors = assert(trust.new { ca = case.trusted_certs })
  local chain = { case.peer_certificate }
  for _, intermediate in ipairs(case.untrusted_intermediates) do chain[#chain + 1] = intermediate end
  local ok, message, err = anchors:verify(chain, M.options(case, profile))
  local taken = ok == true
  return taken, taken == (case.expected_result == "SUCCESS"), not taken and message or nil,
    not taken and err.code or nil
end

--- Judges all cases. how: a profile, or a function(case) that tells whether the chain is taken. A table: right,
-- total (of server cases), tiers[name] = {right=, total=}, and lists of cases wrongly accepted, wrongly rejected,
-- each {id=, tier=, message=}.
function M.run(cases, how)
  local result = { right = 0, total = 0, tiers = {}, accepted = {}, rejected = {}, wrong = {} }
  for _, case in ipairs(cases) do
    local taken, right, message, code
    if type(how) == "function" then
      taken = how(case)
      right = taken == (case.expected_result == "SUCCESS")
    else
      taken, right, message, code = M.judge(case, how)
    end
    local tier = result.tiers[case.tier] or { right = 0, total = 0 }
    result.tiers[case.tier] = tier
    tier.total = tier.total + 1
    if right then tier.right = tier.right + 1 end
    if case.tier ~= "client" then
      result.total = result.total + 1
      if right then result.right = result.right + 1 end
    end
    if not right then
      result.wrong[case.id] = true
      local list = taken and result.accepted or result.rejected
      list[#list + 1] = { id = case.id, tier = case.tier, message = message, code = code }
    end
  end
  return result
end

return M

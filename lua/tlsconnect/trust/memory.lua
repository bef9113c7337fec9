-- What was verified a moment ago: the very same certificates, asked about with the same terms and roots, need no
-- second search. This never stands in for the proof that the peer holds the key, which each handshake brings.
local M = {}

local MEMORY, MOMENT = 64, 300

local questions = { "issuer", "dates", "revocation", "name" }

local function copy(fields)
  local result = {}
  for name, value in pairs(fields) do result[name] = value end
  return result
end

--- What is kept under a key of a trust; nil when there is nothing that holds now: the roots have not changed, and
-- every date still stands.
function M.find(trust, key, now)
  local entry = trust.seen[key]
  if not entry then return nil end
  local _, _, generation = trust.core:state()
  if now < entry.from or now > entry.till or generation ~= entry.generation then
    trust.seen[key] = nil
    trust.seen_count = trust.seen_count - 1
    return nil
  end
  return entry
end

--- The verification that find() found, without sentences.
function M.recall(entry)
  local verification = { path_der = copy(entry.path_der), remembered = true, ["until"] = entry["until"] }
  for name, answer in pairs(entry.answers) do verification[name] = copy(answer) end
  return verification
end

--- Keeps a verification that came out well, until the first of its dates, and no longer than a moment.
function M.keep(trust, key, now, verification)
  if trust.seen_count >= MEMORY then trust.seen, trust.seen_count = {}, 0 end
  local _, _, generation = trust.core:state()
  local till = math.min(now + MOMENT, verification["until"])
  local fresh = verification.revocation.next_update
  if fresh then till = math.min(till, fresh) end
  local answers = {}
  for _, question in ipairs(questions) do answers[question] = copy(verification[question]) end
  trust.seen_count = trust.seen_count + (trust.seen[key] and 0 or 1)
  trust.seen[key] = { from = now, till = till, generation = generation, answers = answers,
    path_der = copy(verification.path_der), ["until"] = verification["until"] }
end

-- Sharing -----------------------------------------------------------------------------------------

-- A thousand connections to one host hold one verification between them. It has the field `shared`, and what
-- has it is neither changed nor handed out.

--- A copy that is the caller's own of a verification that may be shared.
function M.own(verification)
  if type(verification) ~= "table" then return verification end
  local result = {}
  for name, value in next, verification do result[name] = M.own(value) end
  result.shared = nil
  return setmetatable(result, getmetatable(verification))
end

return M

-- make corpus: the x509-limbo cases as a table by tier, and each wrong answer with its reason. Exit status 1
-- when a case is wrong that is not known to be.
local limbo = require "spec.corpus.limbo"
local known = require "spec.corpus.known"

local cases = limbo.cases()
if not cases then
  print("skipped: no corpora")
  os.exit(0)
end

local bad = 0
for _, profile in ipairs { "default", "strict" } do
  local clock = os.clock()
  local result = limbo.run(cases, profile)
  print(("profile %s: %d of %d server cases right, %.2f s"):format(profile, result.right, result.total,
    os.clock() - clock))
  print(("  %-16s %7s %7s"):format("tier", "right", "cases"))
  for _, tier in ipairs { "floor", "reach", "pedantic-reach", "openssl-only", "nobody", "client" } do
    local row = result.tiers[tier] or { right = 0, total = 0 }
    print(("  %-16s %7d %7d"):format(tier, row.right, row.total))
  end
  for _, kind in ipairs { "accepted", "rejected" } do
    print(("  wrongly %s: %d"):format(kind, #result[kind]))
    for _, case in ipairs(result[kind]) do
      local reason = known[profile][case.id]
      if not reason then bad = bad + 1 end
      print(("    %s (%s): %s"):format(case.id, case.tier, reason or "NOT KNOWN: " .. (case.message or "")))
    end
  end
end
os.exit(bad == 0 and 0 or 1)

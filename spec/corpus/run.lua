-- make corpus: the x509-limbo cases as a table by tier, in both profiles and beside a careful client on GnuTLS
-- alone, and each wrong answer with its reason. Exit status 1 when a case is wrong that is not known to be, or
-- when more are wrongly accepted than by the plain client.
local limbo = require "spec.corpus.limbo"
local known = require "spec.corpus.known"
local plain = require "spec.corpus.plain"

local cases = limbo.cases()
if not cases then
  print("skipped: no corpora")
  os.exit(0)
end

local columns = { "default", "strict", "plain" }
local results = {
  default = limbo.run(cases, "default"), strict = limbo.run(cases, "strict"),
  plain = limbo.run(cases, plain.judge(cases)),
}

local function row(name, cell, total)
  local line = { ("%-18s"):format(name) }
  for _, column in ipairs(columns) do line[#line + 1] = ("%8s"):format(cell(results[column])) end
  line[#line + 1] = ("%8s"):format(total)
  print(table.concat(line))
end

-- Of the server cases, which the tiers are made of; those of clients have a line of their own.
local function count(list)
  local servers = 0
  for _, case in ipairs(list) do servers = servers + (case.tier ~= "client" and 1 or 0) end
  return servers
end

print("cases right, by tier; plain: a careful client on GnuTLS alone")
print(("%-18s%8s%8s%8s%8s"):format("", "default", "strict", "plain", "cases"))
for _, tier in ipairs { "floor", "reach", "pedantic-reach", "openssl-only", "nobody" } do
  row(tier, function(result) return result.tiers[tier].right end, results.default.tiers[tier].total)
end
row("all of servers", function(result) return result.right end, results.default.total)
row("  wrongly accepted", function(result) return count(result.accepted) end, "")
row("  wrongly rejected", function(result) return count(result.rejected) end, "")
row("client", function(result) return result.tiers.client.right end, results.default.tiers.client.total)

local bad = 0
for _, profile in ipairs { "default", "strict" } do
  for _, kind in ipairs { "accepted", "rejected" } do
    print(("profile %s, wrongly %s: %d"):format(profile, kind, #results[profile][kind]))
    for _, case in ipairs(results[profile][kind]) do
      local reason = known[profile][case.id]
      if not reason then bad = bad + 1 end
      print(("  %s (%s): %s"):format(case.id, case.tier, reason or "NOT KNOWN: " .. (case.message or "")))
    end
  end
end
local fewer = #results.default.accepted < #results.plain.accepted
if not fewer then print("more are wrongly accepted than by a plain client") end
os.exit(bad == 0 and fewer and 0 or 1)

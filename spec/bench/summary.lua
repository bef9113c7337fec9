-- Of several runs, one: lua5.4 spec/bench/summary.lua run1.json run2.json run3.json
-- writes the medians to spec/bench/figures.json, from which `make readme` makes the table of README.md.
local json = require "spec.bench.json"
local stats = require "spec.bench.stats"
local tmp = require "spec.support.tmp"

-- The median of each number in tables of one form.
local function merge(list)
  if type(list[1]) == "number" then return stats.median(list) end
  local result = {}
  for name in pairs(list[1]) do
    local inner = {}
    for _, one in ipairs(list) do inner[#inner + 1] = one[name] end
    result[name] = merge(inner)
  end
  return result
end

local runs = {}
for _, path in ipairs(arg) do runs[#runs + 1] = json.decode(tmp.read(path)) end
tmp.write("spec/bench/figures.json", json.encode(merge(runs)) .. "\n")

-- Of several runs, one: lua5.4 spec/bench/summary.lua run1.json run2.json run3.json
-- writes the medians to spec/bench/figures.json, and prints the table of README.md.
local json = require "spec.bench.json"
local stats = require "spec.bench.stats"
local tmp = require "spec.support.tmp"
local workloads = require "spec.bench.workloads"

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
local figures = merge(runs)
tmp.write("spec/bench/figures.json", json.encode(figures) .. "\n")

local function own(workload, row)
  if workload.measure == "rate" then return ("%.0f MB/s"):format(1 / row.cpu / 1e6) end
  if workload.measure == "memory" then return ("%.1f KB"):format(row.each) end
  if workload.measure == "process" then return ("%.1f ms"):format(row.wall * 1e3) end
  return ("%.1f us"):format(row.cpu * 1e6)
end

local columns = { "gnutls", "openssl", "luasec", "ssl_https", "lua_http", "luaossl", "lua_curl" }

local function goals_of(workload, result)
  local cells = {}
  for name, least in pairs(workload.goals or {}) do
    local ratio = result.ratios[name]
    cells[#cells + 1] = ("%s %.2f: %s"):format(name, least, ratio >= least and "met" or "not met")
  end
  local most, row = workload.most or {}, result.contenders.tlsconnect
  if most.time then
    cells[#cells + 1] = ("%g us: %s"):format(most.time, row.cpu * 1e6 <= most.time and "met" or "not met")
  end
  if most.memory then
    cells[#cells + 1] = ("%g KB: %s"):format(most.memory, row.each <= most.memory and "met" or "not met")
  end
  table.sort(cells)
  return table.concat(cells, "; ")
end

print("| work | tlsconnect | raw GnuTLS | raw OpenSSL | LuaSec | ssl.https | lua-http | luaossl | Lua-cURL | goal |")
print("|---|---|---|---|---|---|---|---|---|---|")
for _, workload in ipairs(workloads) do
  local result = figures[workload.name]
  if result then
    local cells = { workload.title, own(workload, result.contenders.tlsconnect) }
    for _, name in ipairs(columns) do
      local ratio = result.ratios[name]
      cells[#cells + 1] = ratio and (ratio >= 100 and "%.0f" or "%.2f"):format(ratio) or ""
    end
    cells[#cells + 1] = goals_of(workload, result)
    print("| " .. table.concat(cells, " | ") .. " |")
  end
end

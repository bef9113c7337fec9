-- The table of README.md's chapter on performance, made of the kept figures.
local workloads = require "spec.bench.workloads"

local M = {}

local columns = { "gnutls", "openssl", "luasec", "ssl_https", "lua_http", "luaossl", "lua_curl" }

--- What a contender is called.
M.names = { gnutls = "GnuTLS, C", gnutls_tuned = "GnuTLS, C, tuned", openssl = "OpenSSL, C",
  luasec = "LuaSec", ssl_https = "ssl.https",
  lua_http = "lua-http", luaossl = "luaossl+cqueues", lua_curl = "Lua-cURL", bare = "bare lua" }

local function own(workload, row)
  if workload.measure == "rate" then return ("%.0f MB/s"):format(1 / row.cpu / 1e6) end
  if workload.measure == "memory" then return ("%.1f KB"):format(row.each) end
  if workload.measure == "process" then return ("%.1f ms"):format(row.wall * 1e3) end
  return ("%.1f us"):format(row.cpu * 1e6)
end

local function ratio(number)
  return (number >= 100 and "%.0f" or "%.2f"):format(number)
end

local function verdict(met)
  return met and "met" or "**not met**"
end

local function goals(workload, result)
  local cells = {}
  for name, least in pairs(workload.goals or {}) do
    local reached = result.ratios[name]
    cells[#cells + 1] = ("%s %s: %s"):format(M.names[name], ratio(least), verdict(reached >= least))
  end
  local most, row = workload.most or {}, result.contenders.tlsconnect
  if most.time then cells[#cells + 1] = ("%g us: %s"):format(most.time, verdict(row.cpu * 1e6 <= most.time)) end
  if most.memory then cells[#cells + 1] = ("%g KB: %s"):format(most.memory, verdict(row.each <= most.memory)) end
  table.sort(cells)
  return table.concat(cells, "; ")
end

--- Lines of Markdown. The ratios are a peer's cost to tlsconnect's.
function M.render(figures)
  local head, rule = { "work", "tlsconnect" }, { "---", "---" }
  for _, name in ipairs(columns) do
    head[#head + 1], rule[#rule + 1] = M.names[name], "---"
  end
  head[#head + 1], rule[#rule + 1] = "goal", "---"
  local lines = { "| " .. table.concat(head, " | ") .. " |", "|" .. table.concat(rule, "|") .. "|" }
  for _, workload in ipairs(workloads) do
    local result = figures[workload.name]
    if result then
      local cells = { workload.title, own(workload, result.contenders.tlsconnect) }
      for _, name in ipairs(columns) do
        cells[#cells + 1] = result.ratios[name] and ratio(result.ratios[name]) or ""
      end
      cells[#cells + 1] = goals(workload, result)
      lines[#lines + 1] = "| " .. table.concat(cells, " | ") .. " |"
    end
  end
  return table.concat(lines, "\n")
end

return M

-- How often the network is crossed: GETs through a relay that holds everything for 10 ms each way. The time
-- over 20 ms is the number of flights after TCP, whose own handshake the relay answers at once.
local ports = require "spec.support.ports"
local process = require "spec.support.process"
local run = require "spec.support.run"
local stats = require "spec.bench.stats"

local M = {}

local TRIP = 0.02

local contenders = {
  { "tlsconnect", { new = 2, resumed = 2, kept = 1 } },
  { "gnutls" }, { "openssl" }, { "luasec" }, { "ssl_https" },
}

function M.run(where, programs, figures)
  local port = ports.free()
  local pid = process.start({ "build/bench/delay", port, where.ports.p256, TRIP / 2 })
  process.eventually(function() return ports.listening(port) end)
  print("\nflights after TCP of one GET (a relay of 20 ms there and back)")
  print(("  %-18s %8s %8s %8s"):format("", "new", "resumed", "kept"))
  local result = { ratios = {}, contenders = {} }
  for _, row in ipairs(contenders) do
    local name, goals = row[1], row[2]
    local seen = {}
    for _ = 1, 5 do
      local words = {}
      for _, word in ipairs(programs[name]) do words[#words + 1] = word end
      for _, word in ipairs { "flights", port, where.ca_file, 0 } do words[#words + 1] = tostring(word) end
      local out = run.check(words, { environment = { SSL_CERT_FILE = where.ca_file,
        LUA_PATH = os.getenv("LUA_PATH"), LUA_CPATH = os.getenv("LUA_CPATH") } })
      for kind, time in out:gmatch("(%a+)=([%d.]+)") do
        seen[kind] = seen[kind] or {}
        table.insert(seen[kind], tonumber(time) / TRIP)
      end
    end
    local cells, note = {}, ""
    result.contenders[name] = {}
    for _, kind in ipairs { "new", "resumed", "kept" } do
      local flights = seen[kind] and stats.median(seen[kind])
      cells[#cells + 1] = flights and ("%.1f"):format(flights) or "-"
      result.contenders[name][kind] = flights
      if goals and math.floor(flights + 0.4) > goals[kind] then note = note .. kind .. " NOT MET " end
    end
    print(("  %-18s %8s %8s %8s  %s"):format(name, cells[1], cells[2], cells[3],
      goals and note == "" and "goal 2, 2, 1: met" or note))
  end
  process.stop(pid)
  figures.flights = result
end

return M

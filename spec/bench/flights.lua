-- How often the network is crossed: GETs through a relay that holds everything for 10 ms each way. The time
-- over 20 ms is the number of flights after TCP, whose own handshake the relay answers at once.
local ports = require "spec.support.ports"
local process = require "spec.support.process"
local run = require "spec.support.run"
local stats = require "spec.bench.stats"

local M = {}

local unpack = table.unpack or unpack

local TRIP = 0.02

-- tls12: a new connection to a server that speaks no TLS 1.3; early: one resumed with early data (0-RTT).
local kinds = { "new", "resumed", "early", "kept", "tls12" }

local contenders = {
  { "tlsconnect", { new = 2, resumed = 2, early = 1, kept = 1, tls12 = 2 } },
  { "gnutls" }, { "openssl" }, { "luasec" }, { "ssl_https" },
}

-- A relay to a port: its own port and process.
local function relay(to)
  local port = ports.free()
  local pid = process.start({ "build/bench/delay", port, to, TRIP / 2 })
  process.eventually(function() return ports.listening(port) end)
  return port, pid
end

-- Runs a client once against a port: the seconds of each kind, as text that it printed. Some cannot do all of it
-- without TLS 1.3: "".
local function times(program, port, where, lenient)
  local words = {}
  for _, word in ipairs(program) do words[#words + 1] = word end
  for _, word in ipairs { "flights", port, where.ca_file, 0 } do words[#words + 1] = tostring(word) end
  local options = { environment = { SSL_CERT_FILE = where.ca_file,
    LUA_PATH = os.getenv("LUA_PATH"), LUA_CPATH = os.getenv("LUA_CPATH") } }
  if not lenient then return run.check(words, options) end
  local result = run.run(words, options)
  return result.code == 0 and result.out or ""
end

function M.run(where, programs, figures)
  local port, pid = relay(where.ports.p256)
  local old_port, old_pid = relay(where.ports.tls12)
  local line = "  %-18s %8s %8s %8s %8s %8s  %s"
  print("\nflights after TCP of one GET (a relay of 20 ms there and back)")
  print(line:format("", "new", "resumed", "0-RTT", "kept", "new 1.2", ""))
  local result = { ratios = {}, contenders = {} }
  for _, row in ipairs(contenders) do
    local name, goals = row[1], row[2]
    local seen = {}
    local function note_time(kind, time)
      seen[kind] = seen[kind] or {}
      table.insert(seen[kind], tonumber(time) / TRIP)
    end
    for _ = 1, 5 do
      for kind, time in times(programs[name], port, where):gmatch("(%a+)=([%d.]+)") do note_time(kind, time) end
      local time = times(programs[name], old_port, where, true):match("new=([%d.]+)")
      if time then note_time("tls12", time) end
    end
    local cells, missed = {}, ""
    result.contenders[name] = {}
    for i, kind in ipairs(kinds) do
      local flights = seen[kind] and stats.median(seen[kind])
      cells[i] = flights and ("%.1f"):format(flights) or "-"
      result.contenders[name][kind] = flights
      if goals and math.floor(flights + 0.4) > goals[kind] then missed = missed .. kind .. " NOT MET " end
    end
    cells[#cells + 1] = goals and (missed == "" and "goal 2, 2, 1, 1, 2: met" or missed) or ""
    print((line:format(name, unpack(cells)):gsub("%s+$", "")))
  end
  process.stop(pid)
  process.stop(old_pid)
  figures.flights = result
end

return M

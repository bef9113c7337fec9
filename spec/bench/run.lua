-- make bench: runs each workload with tlsconnect and with its peers, in turns, each in a process of its own
-- pinned to one core (nginx has another one), and prints medians and ratios.
--
--   ONLY=name[,name]   these workloads alone         ROUNDS=7  SECONDS=0.25   how often, and how long each time
--   JSON=file          writes the figures there      KEPT=file   compares with these (spec/bench/figures.json);
--                                                                KEPT=none compares with nothing
--
-- Only ratios hold on another machine, and only they are compared: each one that is more than a tenth
-- worse than the kept one is named, and then the exit status is 1.
local core = require "tlsconnect.core"
local json = require "spec.bench.json"
local process = require "spec.support.process"
local run = require "spec.support.run"
local server = require "spec.bench.server"
local stats = require "spec.bench.stats"
local tmp = require "spec.support.tmp"
local workloads = require "spec.bench.workloads"

local rounds, seconds = tonumber(os.getenv("ROUNDS") or "") or 7, tonumber(os.getenv("SECONDS") or "") or 0.25
local only = os.getenv("ONLY") or ""
local build = "build/bench"
local client_core, server_core = "0", "1"

local function interpreter(name)
  for _, try in ipairs(name) do
    if process.output("command -v " .. try .. " || true") ~= "" then return try end
  end
  return name[1]
end

-- Lua 5.4, or the newest that the peer's package is made for.
local programs = {
  tlsconnect = { interpreter { "lua5.4" }, "spec/bench/clients/tlsconnect.lua" },
  luasec = { interpreter { "lua5.4" }, "spec/bench/clients/luasec.lua" },
  ssl_https = { interpreter { "lua5.4" }, "spec/bench/clients/ssl_https.lua" },
  luaossl = { interpreter { "lua5.4" }, "spec/bench/clients/luaossl.lua" },
  lua_http = { interpreter { "lua5.2", "lua5.1" }, "spec/bench/clients/lua_http.lua" },
  lua_curl = { interpreter { "lua5.2", "lua5.1" }, "spec/bench/clients/lua_curl.lua" },
  gnutls = { build .. "/gnutls" },
  gnutls_tuned = { build .. "/gnutls" },
  openssl = { build .. "/openssl" },
}
local order = { "tlsconnect", "gnutls", "gnutls_tuned", "openssl",
  "luasec", "ssl_https", "lua_http", "luaossl", "lua_curl", "bare" }
local shown = require("spec.bench.table").names

-- Whole processes: the program texts of "oneshot".
local function oneshot(contender, where)
  local url = ("https://127.0.0.1:%d/1k"):format(where.ports.p256)
  local texts = {
    bare = "",
    tlsconnect = ('assert(#require"tlsconnect".https.get("%s").body == 1024)'):format(url),
    luasec = ([[local pieces = {} local ok, status = require"ssl.https".request{url = "%s", verify = "peer",
      cafile = "%s", sink = require"ltn12".sink.table(pieces)} assert(ok and status == 200)]])
      :format(url, where.ca_file),
    lua_curl = ([[local curl, text = require"curl", "" local easy = curl.easy_init() easy:setopt(curl.OPT_URL, "%s")
      easy:setopt(curl.OPT_CAINFO, "%s") easy:setopt(curl.OPT_WRITEFUNCTION, function(data) text = text .. data
      return #data end) assert(easy:perform() and #text == 1024)]]):format(url, where.ca_file),
  }
  if contender == "gnutls" then
    return { build .. "/gnutls", "get", where.ports.p256, where.ca_file, "0" }
  end
  local program = programs[contender] or programs.tlsconnect
  return { program[1], "-e", texts[contender] }
end

local function command(workload, contender, where)
  local words = { "taskset", "-c", client_core }
  local function add(list)
    for _, word in ipairs(list) do words[#words + 1] = tostring(word) end
  end
  if workload.measure == "process" then
    add { build .. "/spawn", seconds }
    add(oneshot(contender, where))
  else
    local runs = workload.runs
    if type(runs) == "table" then runs = runs[contender] end
    add(programs[contender])
    add { runs or workload.name, where.ports[workload.server or "p256"], where.ca_file, seconds }
  end
  return words
end

-- One run: { cpu =, wall =, memory = } for each operation, or byte.
local function measure_once(workload, contender, where)
  local result = run(command(workload, contender, where),
    { environment = { SSL_CERT_FILE = where.ca_file, LUA_PATH = os.getenv("LUA_PATH"),
      LUA_CPATH = os.getenv("LUA_CPATH") } })
  local cpu, wall, work, memory = result.out:match("([%d.]+) ([%d.]+) (%d+) (%-?%d+)%s*$")
  if result.code ~= 0 or not cpu then
    error(("%s, %s: %s"):format(workload.name, contender, result.err .. result.out), 0)
  end
  work = tonumber(work)
  return { cpu = tonumber(cpu) / work, wall = tonumber(wall) / work, memory = tonumber(memory),
    each = tonumber(memory) / work }
end

-- What the table shows, and what ratios are made of: a cost, the less the better.
local measures = {
  time = { cost = "cpu", head = "CPU us", show = function(r) return ("%.1f"):format(r.cpu * 1e6) end },
  rate = { cost = "cpu", head = "MB/CPU s", show = function(r) return ("%.0f"):format(1 / r.cpu / 1e6) end },
  memory = { cost = "each", head = "KB each", show = function(r) return ("%.1f"):format(r.each) end },
  process = { cost = "wall", head = "CPU ms", show = function(r) return ("%.2f"):format(r.cpu * 1e3) end },
}

local walls = {
  time = function(r) return ("%.1f"):format(r.wall * 1e6) end,
  rate = function(r) return ("%.0f MB/s"):format(1 / r.wall / 1e6) end,
  memory = function() return "" end,
  process = function(r) return ("%.2f"):format(r.wall * 1e3) end,
}

local function contenders_of(workload)
  local list = {}
  for _, name in ipairs(order) do
    if name == "tlsconnect" or workload.peers[name] then list[#list + 1] = name end
  end
  return list
end

local function run_workload(workload, where)
  local contenders, samples = contenders_of(workload), {}
  for _, name in ipairs(contenders) do samples[name] = {} end
  for round = 1, workload.measure == "memory" and 1 or rounds do
    for i = 1, #contenders do
      -- Each round begins with another one.
      local name = contenders[(i + round) % #contenders + 1]
      local sample = measure_once(workload, name, where)
      table.insert(samples[name], sample)
    end
  end
  local cost = measures[workload.measure].cost
  local result = { contenders = {}, ratios = {}, spread = stats.spread(samples.tlsconnect, cost) }
  for _, name in ipairs(contenders) do result.contenders[name] = stats.medians(samples[name]) end
  for _, name in ipairs(contenders) do
    -- Of each round by itself: what else the machine did then weighed on both.
    if name ~= "tlsconnect" then result.ratios[name] = stats.ratio(samples[name], samples.tlsconnect, cost) end
  end
  return result
end

local function print_workload(workload, result)
  local kind = measures[workload.measure]
  print(("\n%s: %s  (noise %.0f %%)"):format(workload.name, workload.title, result.spread * 100))
  print(("  %-18s %10s %12s %10s %8s  %s"):format("", kind.head, "wall", "KB", "ratio", ""))
  for _, name in ipairs(contenders_of(workload)) do
    local row, note = result.contenders[name], workload.peers[name]
    note = type(note) == "string" and note or ""
    local ratio = result.ratios[name]
    local goal = workload.goals and workload.goals[name]
    if goal then
      note = ("%s  goal %.2f: %s"):format(note, goal, ratio >= goal and "met" or "NOT MET")
    elseif name == "tlsconnect" and workload.most then
      local most = workload.most
      if most.time then
        note = note .. (" at most %g us: %s"):format(most.time, row.cpu * 1e6 <= most.time and "met" or "NOT MET")
      end
      if most.memory then
        note = note .. (" at most %g KB: %s"):format(most.memory, row.each <= most.memory and "met" or "NOT MET")
      end
    end
    print(("  %-18s %10s %12s %10d %8s  %s"):format(shown[name] or name, kind.show(row), walls[workload.measure](row),
      row.memory, ratio and ("%.2f"):format(ratio) or "", note))
  end
  for name, why in pairs(workload.cannot or {}) do
    print(("  %-18s %10s %12s %10s %8s  %s"):format(shown[name], "-", "-", "-", "-", why))
  end
end

local function system_roots()
  for _, bundle in ipairs(require("tlsconnect.trust").bundles) do
    local file = io.open(bundle)
    if file then
      local text = file:read("*a")
      file:close()
      return text
    end
  end
  error("no bundle of roots on this system", 0)
end

local function wanted(workload)
  return only == "" or ("," .. only .. ","):find("," .. workload.name .. ",", 1, true)
end

local where = server.start(server_core, system_roots())
local figures = {}
local started = core.now()
for _, workload in ipairs(workloads) do
  if wanted(workload) then
    figures[workload.name] = run_workload(workload, where)
    print_workload(workload, figures[workload.name])
    io.stdout:flush()
  end
end
if wanted { name = "flights" } then
  require("spec.bench.flights").run(where, programs, figures)
end
print(("\n%.0f s; cores: client %s, server %s; %s"):format(core.now() - started, client_core, server_core,
  process.output("uname -srm; grep -m1 'model name' /proc/cpuinfo | cut -d: -f2"):gsub("\n", ",")))
where.peer:stop()
local target = os.getenv("JSON")
if target and target ~= "" then tmp.write(target, json.encode(figures) .. "\n") end
if os.getenv "KEPT" == "none" then os.exit(0, true) end
local kept = json.decode(tmp.read(os.getenv("KEPT") or "spec/bench/figures.json"))
local lines = require("spec.bench.compare").worse(kept, figures, function(name) return wanted { name = name } end)
if not lines[1] then print "\nno ratio is more than a tenth worse than in the kept figures" end
for _, line in ipairs(lines) do print(line) end
os.exit(not lines[1], true)

-- Processes from plain Lua: quoting, this process's id, sleeping, and background programs that are
-- gone when this process is, however it ends.
--
-- A keeper (a small shell on a pipe from this process) is told of every background program and every
-- temporary folder. When the pipe closes, because this process ended well or badly, it kills
-- the programs that are left, by id, and removes the folders.
local M = {}

local keeper_script = [[
trap "" INT TERM HUP QUIT PIPE
pids=" " paths=""
while read -r verb what; do
  case $verb in
    kill) pids="$pids$what " ;;
    keep) case $pids in *" $what "*) pids="${pids%% $what *} ${pids#* $what }" ;; esac ;;
    remove) paths="$paths
$what" ;;
  esac
done
for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
printf "%s\n" "$paths" | while read -r path; do [ -n "$path" ] && rm -rf "$path"; done
]]

--- Quotes one word for the shell.
function M.quote(word)
  return "'" .. tostring(word):gsub("'", "'\\''") .. "'"
end

--- A command line from a list of words, or the line itself. An interpreter of Lua, also one behind env,
-- gets the libraries that this process was preloaded with (see unpreload.c).
function M.command(command)
  if type(command) == "string" then return command end
  local words = {}
  for i, word in ipairs(command) do words[i] = M.quote(word) end
  local preload = os.getenv("TLSCONNECT_PRELOAD")
  if preload then
    local at = 1
    if command[1] == "env" then
      repeat at = at + 1 until not (command[at] and command[at]:find("=", 1, true))
    end
    if command[at] and command[at]:match("^lua[%djit.]+$") then
      table.insert(words, at, (at == 1 and "env " or "") .. "LD_PRELOAD=" .. M.quote(preload))
    end
  end
  return table.concat(words, " ")
end

--- The output of a command line, without its last line end.
function M.output(line)
  local pipe = assert(io.popen(line))
  local text = pipe:read("*a")
  pipe:close()
  return (text:gsub("\n$", ""))
end

local own
--- This process's id.
function M.id()
  own = own or tonumber(M.output("echo $PPID"))
  return own
end

local keeper
local function tell(verb, what)
  if not keeper then
    keeper = assert(io.popen("exec sh -c " .. M.quote(keeper_script) .. " >/dev/null 2>&1", "w"))
    keeper:setvbuf("line")
  end
  keeper:write(verb, " ", what, "\n")
end

--- Has a file or folder removed when this process ends.
function M.remove_at_end(path)
  tell("remove", path)
end

local idle
--- Sleeps for a time in seconds.
function M.sleep(seconds)
  local ok, core = pcall(require, "tlsconnect.core")
  if ok and core.poller and core.poll then
    -- A poller that watches nothing is a descriptor that is never ready.
    idle = idle or core.poller()
    core.poll(idle:getfd(), "r", core.now() + seconds)
  else
    os.execute("sleep " .. seconds)
  end
end

--- Whether a process runs; one that ended and was not yet collected does not.
function M.alive(pid)
  local file = io.open("/proc/" .. pid .. "/stat")
  if not file then return false end
  local stat = file:read("*a") or ""
  file:close()
  local state = stat:match("%) (%a)")
  return state ~= nil and state ~= "Z" and state ~= "X"
end

--- Starts a program in the background.
-- options: log = file for its output; stdin = file (default none), opened for both ways, so that a
-- FIFO never ends; directory; environment = {NAME = value}.
-- Returns its process id.
function M.start(command, options)
  options = options or {}
  local line = {}
  if options.directory then line[#line + 1] = "cd " .. M.quote(options.directory) .. " &&" end
  for name, value in pairs(options.environment or {}) do
    line[#line + 1] = name .. "=" .. M.quote(value) .. " export " .. name .. ";"
  end
  line[#line + 1] = "exec " .. M.command(command)
  line[#line + 1] = options.stdin and "0<>" .. M.quote(options.stdin) or "</dev/null"
  line[#line + 1] = ">>" .. M.quote(options.log or "/dev/null") .. " 2>&1"
  local pid = tonumber(M.output("{ " .. table.concat(line, " ") .. "; } & echo $!"))
  assert(pid, "no process id from the shell")
  tell("kill", pid)
  return pid
end

--- Stops a program that start() started: asks it, and after a second makes it; at_once: makes it.
function M.stop(pid, at_once)
  if M.alive(pid) then
    os.execute((at_once and "kill -KILL " or "kill -TERM ") .. pid .. " 2>/dev/null")
    for _ = 1, 100 do
      if not M.alive(pid) then break end
      M.sleep(0.01)
    end
    if M.alive(pid) then os.execute("kill -KILL " .. pid .. " 2>/dev/null") end
    while M.alive(pid) do M.sleep(0.01) end
  end
  tell("keep", pid)
end

--- Waits until a function gives a true value and returns it; nil after `limit` seconds (30).
function M.eventually(condition, limit)
  local tries = (limit or 30) * 100
  for _ = 1, tries do
    local value = condition()
    if value then return value end
    M.sleep(0.01)
  end
end

--- The interpreter this process runs on: "lua5.1" ... "lua5.4" or "luajit".
function M.lua()
  local jit = rawget(_G, "jit")
  return jit and "luajit" or "lua" .. _VERSION:match("%d%.%d")
end

return M

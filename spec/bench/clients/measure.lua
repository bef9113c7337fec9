-- What every client in Lua shares: the command line (workload, port, CA file, seconds), the loop, and what
-- is printed: CPU seconds, wall seconds, amount of work (operations or bytes), KB of memory.
local M = {}

M.host, M.name = "127.0.0.1", "bench.test"
M.upload_size, M.sends = 16 * 1024 * 1024, 20000

--- KB that are this process's own: no pages of libraries, which others share.
function M.memory()
  local file = assert(io.open("/proc/self/status"))
  local size = file:read("*a"):match("RssAnon:%s*(%d+)")
  file:close()
  return tonumber(size)
end

local function report(cpu, wall, work, memory)
  print(("%.9f %.9f %.0f %d"):format(cpu, wall, work, memory))
end

--- workloads: name to function(terms), which gets ready and returns a function that does a piece of work and
-- returns its amount (1 unless told). now: a clock of wall time. Those whose figure is taken once, after
-- a single call, are named in `once`: { name = "time" | "memory" }.
function M.run(workloads, now, once)
  local name = arg[1]
  local terms = { port = tonumber(arg[2]), ca_file = arg[3] }
  terms.url = ("https://%s:%d"):format(M.host, terms.port)
  local seconds = tonumber(arg[4])
  local get_ready = assert(workloads[name], "no such workload here: " .. tostring(name))
  local work_once = get_ready(terms)
  if once and once[name] then
    collectgarbage() collectgarbage()
    local memory, cpu, wall = M.memory(), os.clock(), now()
    local amount = work_once() or 1
    cpu, wall = os.clock() - cpu, now() - wall
    collectgarbage() collectgarbage()
    return report(cpu, wall, amount, M.memory() - memory)
  end
  work_once()
  local work, cpu, wall = 0, os.clock(), now()
  local ended
  repeat
    work = work + (work_once() or 1)
    ended = now()
  until ended - wall >= seconds
  report(os.clock() - cpu, ended - wall, work, M.memory())
end

--- The head of a request, written by hand.
function M.head(method, path, length, last)
  return table.concat { method, " ", path, " HTTP/1.1\r\nHost: ", M.name, "\r\n",
    length and ("Content-Length: %.0f\r\n"):format(length) or "", last and "Connection: close\r\n" or "",
    "User-Agent: bench\r\n\r\n" }
end

--- Reads an answer's head from an object with receive("*l"); returns the body's length.
function M.read_head(connection)
  local line = assert(connection:receive("*l"))
  assert(line:find("^HTTP/1.1 200"), line)
  local length
  repeat
    line = assert(connection:receive("*l"))
    local field = line:match("^[Cc]ontent%-[Ll]ength: *(%d+)")
    if field then length = tonumber(field) end
  until line == ""
  return length
end

--- Receives a body in pieces, for each of which `take` is called.
function M.read_body(connection, length, take)
  local left = length
  while left > 0 do
    local data = assert(connection:receive(left < 65536 and left or 65536))
    left = left - #data
    take(data)
  end
  return length
end

--- A file in memory that nobody else sees.
function M.file()
  local path = os.tmpname()
  local file = assert(io.open("/dev/shm/" .. path:match("[^/]*$"), "wb"))
  os.remove("/dev/shm/" .. path:match("[^/]*$"))
  os.remove(path)
  return file
end

return M

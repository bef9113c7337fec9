-- Runs a command to its end, with a bound on its time.
--   local result = run { "openssl", "version" }
--   result.code, result.out, result.err
-- Where this process must serve what the command asks for, start it and look again:
--   local job = run.start { "curl", url }
--   repeat ... until job:result()
local process = require "spec.support.process"
local tmp = require "spec.support.tmp"

local M = {}

local Job = {}
Job.__index = Job

--- Starts a command: a line for the shell, or a list of words. options: stdin = text;
-- timeout in seconds (60), after which it is killed and its code is 137; environment; directory.
function M.start(command, options)
  options = options or {}
  local base = tmp.path("run")
  local job = setmetatable({ base = base }, Job)
  local line = "timeout -s KILL " .. (options.timeout or 60) .. " sh -c " ..
    process.quote(process.command(command)) .. " >" .. process.quote(base .. ".out") .. " 2>" ..
    process.quote(base .. ".err")
  if options.stdin then line = line .. " <" .. process.quote(tmp.write(base .. ".in", options.stdin)) end
  local done = process.quote(base .. ".code")
  line = line .. "; echo $? >" .. done .. ".new; mv " .. done .. ".new " .. done
  job.pid = process.start({ "sh", "-c", line },
    { environment = options.environment, directory = options.directory })
  return job
end

--- {code =, out =, err =} once the command has ended, else nil.
function Job:result()
  local file = not self.ended and io.open(self.base .. ".code")
  if file then
    self.ended = { code = tonumber(file:read("*a")), out = tmp.read(self.base .. ".out"),
      err = tmp.read(self.base .. ".err") }
    file:close()
    process.stop(self.pid)
  end
  return self.ended
end

--- Waits for the end and returns the result.
function Job:wait()
  while not self:result() do process.sleep(0.01) end
  return self.ended
end

--- Runs a command to its end: see start() for the arguments. Returns {code =, out =, err =}.
function M.run(command, options)
  options = options or {}
  local out, err = tmp.path("out"), tmp.path("err")
  local line = "timeout -s KILL " .. (options.timeout or 60) .. " sh -c " ..
    process.quote(process.command(command)) .. " >" .. out .. " 2>" .. err
  local words = {}
  if options.directory then words[1] = "cd " .. process.quote(options.directory) .. " &&" end
  for name, value in pairs(options.environment or {}) do
    words[#words + 1] = name .. "=" .. process.quote(value) .. " export " .. name .. ";"
  end
  words[#words + 1] = line .. " <" .. (options.stdin and tmp.file(options.stdin, "in") or "/dev/null")
  local code = process.output("{ " .. table.concat(words, " ") .. "; } 2>/dev/null; echo $?")
  local result = { code = tonumber(code), out = tmp.read(out), err = tmp.read(err) }
  os.remove(out)
  os.remove(err)
  return result
end

--- The same, for a command that has to succeed: returns its output, or raises with all it said.
function M.check(command, options)
  local result = M.run(command, options)
  if result.code ~= 0 then
    error(process.command(command) .. " ended with " .. tostring(result.code) .. "\n" .. result.out ..
      result.err, 2)
  end
  return result.out
end

return setmetatable(M, { __call = function(_, ...) return M.run(...) end })

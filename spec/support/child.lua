-- Runs Lua text in a child process, on the interpreter of this one:
--   local result = child.run([[print(os.getenv("SPEC_FORK"))]], { shim = true })
-- options: shim = true preloads shim.c, whose behaviours the environment asks for; files = the child's
-- limit of open files; environment; redirect = shell text behind the command; stdin, timeout as run() has
-- them. result.code, result.out, result.err as run() gives them.
local process = require "spec.support.process"
local run = require "spec.support.run"
local tmp = require "spec.support.tmp"

local M = {}

local shim
local function built()
  if not shim then
    local path = tmp.path("shim.so")
    run.check { "cc", "-shared", "-fPIC", "-O1", "-o", path, "spec/support/shim.c", "-ldl" }
    shim = path
  end
  return shim
end

function M.run(text, options)
  options = options or {}
  local preload = os.getenv("TLSCONNECT_PRELOAD") or ""
  if options.shim then preload = preload .. " " .. built() end
  local settings = "LD_PRELOAD=" .. process.quote(preload)
  local sanitizer = options.shim and os.getenv("ASAN_OPTIONS")
  if sanitizer then
    -- In a forked process LeakSanitizer waits for threads that only the parent has.
    settings = settings .. " ASAN_OPTIONS=" .. process.quote(sanitizer .. ":detect_leaks=0")
  end
  local line = ("exec env %s %s %s %s"):format(settings, process.lua(), process.quote(tmp.file(text, "child.lua")),
    options.redirect or "")
  if options.files then line = ("ulimit -n %d; "):format(options.files) .. line end
  return run.run(line, options)
end

return M

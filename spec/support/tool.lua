-- Runs the command-line tool, as a process of its own on this interpreter.
--   local result = tool { "get", url }          -- {code =, out =, err =}
--   tool({ "trace", host }, { terminal = true })     -- standard output and error are a terminal
local process = require "spec.support.process"
local run = require "spec.support.run"
local tmp = require "spec.support.tmp"

local M = {}

local launcher

--- The words of the command.
function M.words(arguments)
  launcher = launcher or tmp.file('os.exit(require("tlsconnect.cli").main(arg), true)\n', "tlsconnect.lua")
  local words = { process.lua(), launcher }
  for _, word in ipairs(arguments) do words[#words + 1] = word end
  return words
end

--- Runs it to its end. options: those of run; terminal = true: under a pseudo-terminal (its output then is in
-- `out`, error and output together); shell = text behind the command, such as ">&-".
function M.run(arguments, options)
  options = options or {}
  local command = process.command(M.words(arguments))
  if options.terminal then
    command = "script -qec " .. process.quote("stty cols 100; " .. command) .. " /dev/null"
  end
  if options.shell then
    command = command .. " " .. options.shell
    -- LeakSanitizer itself crashes in a process without its standard output.
    local sanitizer = os.getenv("ASAN_OPTIONS")
    if sanitizer then command = "ASAN_OPTIONS=" .. process.quote(sanitizer .. ":detect_leaks=0") .. " " .. command end
  end
  return run(command, options)
end

--- Starts it. options: those of run.start.
function M.start(arguments, options)
  return run.start(process.command(M.words(arguments)), options)
end

return setmetatable(M, { __call = function(_, ...) return M.run(...) end })

-- The command-line tool. main(arguments) does what they say and returns the exit code.
--
-- Exit codes: 0 all went well; 1 another failure; 2 wrong usage; 3 what was to be written could not be;
-- 11 to 20 the step that failed, 10 and its number (11 dns, 12 tcp, 13 client_hello, 14 server_hello,
-- 15 verify, 16 key_exchange, 17 session_keys, 18 finished, 19 data, 20 close); 21 HTTP; 22 the proxy or
-- STARTTLS; 23 certificates, keys and files of one's own; 130 interrupted (Ctrl-C).

local output = require "tlsconnect.cli.output"
local steps = require "tlsconnect.steps"

local cli = {}

local OK, FAILED, USAGE, UNWRITTEN, INTERRUPTED = 0, 1, 2, 3, 130
cli.OK, cli.FAILED, cli.USAGE, cli.UNWRITTEN = OK, FAILED, USAGE, UNWRITTEN

local others = { http = 21, proxy = 22, starttls = 22, setup = 23 }

--- The exit code that names an error's step.
function cli.exit_code(err)
  local step = type(err) == "table" and err.step
  if steps.index[step] then return 10 + steps.index[step] end
  return others[step] or FAILED
end

local function version()
  return require("tlsconnect")._VERSION .. ", GnuTLS " .. require("tlsconnect.core").gnutls
end
cli.version = version

local help = [[
tlsconnect: what happens when a TLS connection is made, step by step

  tlsconnect trace HOST[:PORT]    the ten steps, with a waterfall of their times
  tlsconnect get URL              a page, verified
  tlsconnect cert HOST[:PORT]     the certificates of a server, or of a file
  tlsconnect serve DIR            a small HTTPS server, to try things against
  tlsconnect COMMAND --help       the options of a command
  tlsconnect --version

Examples
  tlsconnect trace example.org
  tlsconnect trace --starttls smtp mail.example.org --html report.html
  tlsconnect trace --at 2026-01-01 --json old.example.org
  tlsconnect get -L -o page.html https://example.org/
  tlsconnect cert example.org --pem
  tlsconnect serve . --port 8443

Exit codes: 0 good, 1 failed, 2 wrong usage, 3 output could not be written; a step that failed:
11 dns, 12 tcp, 13 client_hello, 14 server_hello, 15 verify, 16 key_exchange, 17 session_keys,
18 finished, 19 data, 20 close, 21 http, 22 proxy or starttls, 23 own certificate, key or file.
]]

local commands = { trace = true, get = true, cert = true, serve = true }

--- Says what failed in one line, and what may be done in another. Returns the exit code.
function cli.fail(err)
  local summary = require "tlsconnect.cli.summary"
  local message = type(err) == "table" and (err.detail or err.message or err.code) or err
  output.say("tlsconnect: " .. output.clean(message))
  local advice = type(err) == "table" and summary.advice(err, output.clean)
  if advice then output.say(advice) end
  return cli.exit_code(err)
end

--- Says what is wrong with the command line. Returns the exit code.
function cli.usage(problem, command)
  output.say("tlsconnect: " .. output.clean(problem))
  output.say(("Try `tlsconnect %s--help`."):format(command and command .. " " or ""))
  return USAGE
end

local function run(words)
  local first = words[1]
  if first == nil or first == "--help" or first == "-h" or first == "help" then
    output.write(help)
    return first == nil and USAGE or OK
  elseif first == "--version" or first == "-V" then
    output.write(version() .. "\n")
    return OK
  elseif not commands[first] then
    return cli.usage(("there is no command '%s'"):format(first))
  end
  return require("tlsconnect.cli." .. first).main(words, cli)
end

-- What the standalone Lua raises at Ctrl-C.
local function interrupted(problem)
  return type(problem) == "string" and problem:find("interrupted!", 1, true) ~= nil
end

--- Calls f(...), which raises where an option is wrong: true and its results, or false and the sentence,
-- without the place in the source.
function cli.try(f, ...)
  local results = { pcall(f, ...) }
  if results[1] then return true, results[2], results[3], results[4] end
  local problem = results[2]
  if interrupted(problem) then error(problem, 0) end
  return false, (tostring(problem):gsub("^[^\n]-%.lua:%d+: ", ""))
end

-- Sleeps a little at a time: poll(2) goes on after a signal, and Ctrl-C would not be heard before it ends.
local NAP = 0.2
local function nap(fd, events, deadline)
  local core = require "tlsconnect.core"
  while true do
    local soon = core.now() + NAP
    if deadline and deadline <= soon then return core.poll(fd, events, deadline) end
    local ready, message, cause = core.poll(fd, events, soon)
    if ready or message ~= "timeout" then return ready, message, cause end
  end
end

--- Does what the words say. words: a list, as `arg` of the standalone Lua. Returns the exit code.
function cli.main(words)
  output.prepare()
  require("tlsconnect.wait").set(nap)
  local good, code = xpcall(function() return run(words) end, function(problem)
    return interrupted(problem) and problem or debug.traceback(tostring(problem), 2)
  end)
  if not good then
    if interrupted(code) then
      output.say("tlsconnect: interrupted")
      return INTERRUPTED
    end
    output.say("tlsconnect: this is a fault of the tool itself: " .. tostring(code))
    code = FAILED
  end
  local ok, reason = output.finish()
  if not ok then
    output.say("tlsconnect: the output could not be written: " .. output.clean(reason))
    if code == OK then code = UNWRITTEN end
  end
  return code
end

return cli

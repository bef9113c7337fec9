-- busted's output for make test. What happened goes to the file named by -Xoutput, a line for each event
-- and flushed at once, so that a crash leaves all that came before it:
--   begin NAME | pass | fail | skip | error (outside of a test) | end
-- What a person reads, the failures, goes to the standard output.
local busted = require "busted"
local base = require "busted.outputHandlers.base"

return function(options)
  local handler = base()
  local path = (options.arguments or {})[1]
  local file = path and assert(io.open(path, "w"))
  local seconds = os.getenv("TLSCONNECT_SLOW")

  local function write(...)
    if file then
      file:write(table.concat({ ... }, " "):gsub("\n", " "), "\n")
      file:flush()
    end
  end

  local function show(kind, entry)
    local message = entry.message
    if message == nil then message = "no message" end
    if type(message) ~= "string" then message = require("pl.pretty").write(message) end
    local trace = entry.element.trace or {}
    io.stdout:write(kind, ": ", entry.name, "\n  ", tostring(trace.short_src), ":", tostring(trace.currentline), "\n  ",
      (message:gsub("\n", "\n  ")), "\n")
    local traceback = entry.trace and entry.trace.traceback
    if type(traceback) == "string" then io.stdout:write("  ", (traceback:gsub("^\n", ""):gsub("\n", "\n  ")), "\n") end
    io.stdout:flush()
  end

  handler.testStart = function(element)
    element.began = busted.monotime()
    write("begin", handler.getFullName(element))
    return nil, true
  end

  handler.testEnd = function(element, _, status)
    local elapsed = busted.monotime() - (element.began or busted.monotime())
    if seconds and elapsed > tonumber(seconds) then
      io.stdout:write(string.format("%6.2f s  %s\n", elapsed, handler.getFullName(element)))
    end
    if status == "success" then
      write("pass")
    elseif status == "pending" then
      local entry = handler.pendings[#handler.pendings]
      write("skip")
      io.stdout:write("skipped: ", handler.getFullName(element), entry and entry.message and
        " (" .. tostring(entry.message) .. ")" or "", "\n")
    else
      write("fail")
      local list = status == "failure" and handler.failures or handler.errors
      show("failed", list[#list])
    end
    return nil, true
  end

  handler.anyError = function(element)
    if element.descriptor ~= "it" then
      write("error")
      show("error", handler.errors[#handler.errors])
    end
    return nil, true
  end

  handler.suiteEnd = function()
    write("end")
    return nil, true
  end

  busted.subscribe({ "test", "start" }, handler.testStart)
  busted.subscribe({ "test", "end" }, handler.testEnd)
  busted.subscribe({ "error" }, handler.anyError)
  busted.subscribe({ "failure" }, handler.anyError)
  busted.subscribe({ "suite", "end" }, handler.suiteEnd)
  return handler
end

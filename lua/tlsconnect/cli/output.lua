-- Where the tool writes: standard output and error, what kind of terminal they are, and whether the
-- writing worked. A tool that could not say what it had to say has failed.

local core = require "tlsconnect.core"
local text = require "tlsconnect.cli.text"

local output = {}

local EBADF = 9

-- Descriptors 0 to 2 that are closed get /dev/null, or the next socket would take their numbers and
-- what is printed would go to the peer. The files stay open as long as this table.
local holders = {}

local function missing(file)
  local ok, _, number = file:seek("cur", 0)
  return not ok and number == EBADF
end

--- Looks at the three standard descriptors once, before anything else is opened.
function output.prepare()
  local lost = { stdin = missing(io.stdin), stdout = missing(io.stdout), stderr = missing(io.stderr) }
  for _ = 1, 3 do
    if lost.stdin or lost.stdout or lost.stderr then
      holders[#holders + 1] = io.open("/dev/null", "r+")
    end
  end
  output.lost = lost.stdout and "standard output is closed" or nil
  output.quiet = lost.stderr
end

local function environment(name)
  local value = os.getenv(name)
  return value and value ~= "" and value or nil
end

--- Whether the locale's characters are UTF-8.
function output.utf8()
  local locale = environment "LC_ALL" or environment "LC_CTYPE" or environment "LANG" or ""
  return locale:lower():find("utf%-?8") ~= nil
end

--- Whether what goes to a descriptor (1 or 2) may be coloured. https://no-color.org
function output.colour(fd)
  return core.terminal(fd) ~= nil and not environment "NO_COLOR" and environment "TERM" ~= "dumb"
end

--- The columns of a terminal, or nil where there is none.
function output.columns(fd)
  local columns = core.terminal(fd)
  if not columns then return nil end
  if columns == 0 then columns = tonumber(environment "COLUMNS") end
  return columns and columns > 0 and columns or 80
end

--- Makes a peer's text harmless for where it goes.
function output.clean(s)
  return text.clean(s, not output.utf8())
end

--- Writes to standard output; a failure is remembered for finish().
function output.write(s)
  if output.lost then return false end
  local ok, reason = io.stdout:write(s)
  if not ok then output.lost = reason or "unknown reason" end
  return ok and true or false
end

--- Writes a line to standard error, already clean.
function output.say(line)
  if not output.quiet then io.stderr:write(line, "\n") end
end

--- Empties the buffers. True, or nil and why what was written did not arrive (a full disk, a closed
-- pipe).
function output.finish()
  if not output.lost then
    local ok, reason = io.stdout:flush()
    if not ok then output.lost = reason or "unknown reason" end
  end
  if output.lost then return nil, output.lost end
  return true
end

return output

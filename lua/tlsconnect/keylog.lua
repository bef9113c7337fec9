-- The key log: a session's secrets in the NSS key log format, for tshark and Wireshark to read what was
-- encrypted. Only where the option `keylog` asks for it; whoever has the log can read the connection.

local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"

local keylog = {}

-- A file that the lines are added to; made for this user alone where it does not exist. It is opened for each
-- write, as other programs write there too, and one write keeps the lines whole.
local function file_sink(path)
  return function(lines)
    local ok, reason = core.append(path, lines)
    if ok then return true end
    return errors.fail(errors.new { step = "setup", code = "unreadable_file",
      message = ("the key log %s cannot be written: %s"):format(errors.escape(path, 200), reason) })
  end
end

--- What takes the lines. option: false or nil: nothing does; a path; a function, called with each line
-- (without its end); true: the file that SSLKEYLOGFILE names, if it does.
-- A function(lines) that returns true, or nil, message, err; or nil where no log is wanted.
function keylog.sink(option)
  if option == true then
    local path = os.getenv("SSLKEYLOGFILE")
    return path and path ~= "" and file_sink(path) or nil
  elseif type(option) == "string" then
    return file_sink(option)
  elseif type(option) == "function" then
    return function(lines)
      for line in lines:gmatch("[^\n]+") do option(line) end
      return true
    end
  end
  return nil
end

return keylog

-- Known hosts: trust on first use. A file says which key each host had when it was met first; whoever comes with
-- another key is refused. The file is text:
--
--   # tlsconnect known hosts 1
--   example.org 443 sha256/OFwU7HBJDTdwABzGRKcPp+7oIqDX7Xw8dmrbCVbXTbE= 2026-11-24
--   # end
--
-- host (a name as it is looked up, or an address), port, pin of the key, and the day; several lines of one host are
-- several keys of it. Other lines that begin with # are comments. The first line and the last must stand: a file
-- without them was cut, and no file that is cut, empty or broken is taken for one in which all hosts are new.
-- It is written anew under the lock of `path`.lock, and takes its name when it is whole. It must be this user's alone
-- (mode 0600), and no symbolic link.
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local pins = require "tlsconnect.pins"

local M = {}

local HEAD, TAIL = "# tlsconnect known hosts 1", "# end"
local LIMIT = 8 * 1024 * 1024

local function broken(path, text, more)
  local err = { step = "verify", code = "bad_known_hosts",
    message = ("%s (option 'known_hosts') %s"):format(errors.escape(path, 200), text) }
  for name, value in pairs(more or {}) do err[name] = value end
  return errors.fail(errors.new(err))
end

-- The lines between the first and the last, or nil, message, err. A file that does not exist has none.
local function read(path)
  local text, message, cause = core.read_private(path, LIMIT)
  if not text then
    if cause.code == "not_found" then return {} end
    return broken(path, "cannot be read: " .. message, { errno = cause.errno })
  end
  if text == "" then return broken(path, "is empty: remove it to begin anew") end
  local lines = {}
  for line in text:gmatch("([^\n]*)\n") do lines[#lines + 1] = (line:gsub("\r$", "")) end
  if lines[1] ~= HEAD then return broken(path, "is no file of known hosts: its first line is another") end
  if lines[#lines] ~= TAIL or text:sub(-1) ~= "\n" then return broken(path, "was cut: its last line is missing") end
  lines[#lines] = nil
  table.remove(lines, 1)
  for i, line in ipairs(lines) do
    if not line:find("^%s*#") and not line:find("^%s*$")
        and not line:find("^%S+ %S+ sha256/[%w+/]+= %d%d%d%d%-%d%d%-%d%d$") then
      return broken(path, ("is broken in line %d: %s"):format(i + 1, errors.escape(line, 60)))
    end
  end
  return lines
end

-- The keys of a host: {pin, ...} and {pin = true}.
local function keys_of(lines, host, port)
  local list, set = {}, {}
  for _, line in ipairs(lines) do
    local name, number, pin = line:match("^(%S+) (%S+) (%S+)")
    if name == host and number == port then
      list[#list + 1], set[pin] = pin, true
    end
  end
  return list, set
end

local function changed(path, host, port, list, pin)
  return errors.fail(errors.new { step = "verify", code = "known_host_changed", known = list, pin = pin,
    message = ("%s has another key than it had: %s, where %s (option 'known_hosts') has %s; somebody may be in "
      .. "between, or the key was replaced: then remove the old line"):format(errors.peer(host, tonumber(port)), pin,
      errors.escape(path, 200), table.concat(list, " and ")) })
end

--- What the file says of a host whose certificate (DER) is at hand: "known", "new"; or nil, message, err.
function M.check(path, host, port, certificate)
  local lines, message, err = read(path)
  if not lines then return nil, message, err end
  local pin = pins.of(certificate)
  local list, set = keys_of(lines, host, port)
  if set[pin] then return "known" end
  if #list == 0 then return "new" end
  return changed(path, host, port, list, pin)
end

-- A moment's rest, by the caller's wait.
local function rest(wait, seconds)
  local poller = core.poller()
  if not poller then return end
  wait(poller:getfd(), "r", core.now() + seconds)
  poller:close()
end

-- The lock, or nil, message, err.
local function lock(path, wait, deadline)
  while true do
    local held, message, cause = core.lock_file(path .. ".lock")
    if held then return held end
    if message ~= "locked" then return broken(path, "cannot be locked: " .. message, { errno = cause.errno }) end
    if deadline and core.now() >= deadline then return broken(path, "is locked by another process") end
    rest(wait, 0.02)
  end
end

--- Adds a host's key, unless another process has done so meanwhile. True, or nil, message, err.
function M.add(path, host, port, certificate, wait, deadline)
  local held, message, err = lock(path, wait, deadline)
  if not held then return nil, message, err end
  local lines, ok, cause
  lines, message, err = read(path)
  if lines then
    local pin = pins.of(certificate)
    local list, set = keys_of(lines, host, port)
    if set[pin] then
      ok = true
    elseif #list > 0 then
      ok, message, err = changed(path, host, port, list, pin)
    else
      lines[#lines + 1] = ("%s %s %s %s"):format(host, port, pin, os.date("!%Y-%m-%d"))
      ok, message, cause = core.write_private(path, HEAD .. "\n" .. table.concat(lines, "\n") .. "\n" .. TAIL .. "\n")
      if not ok then
        ok, message, err = broken(path, "cannot be written: " .. message, { errno = cause.errno })
      end
    end
  end
  held:close()
  return ok, message, err
end

return M

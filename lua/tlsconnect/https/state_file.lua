--- Small files that a client keeps between runs (cookies, HSTS): read with limits, written whole or not at all.

local core = require "tlsconnect.core"
local encoding = require "tlsconnect.encoding"
local errors = require "tlsconnect.error"

local M = {}

local MAX_FILE, MAX_LINE = 16 * 1024 * 1024, 16384

local function failed(path, verb, code, reason)
  return errors.fail(errors.new { step = "setup", code = code,
    message = ("%s cannot be %s: %s"):format(errors.escape(path, 200), verb, reason) })
end

--- The lines of a file that are no longer than a line may be. A list, or nil, message, err (not_found where
-- there is no such file).
function M.read(path)
  local file, reason, number = io.open(path, "rb")
  if not file then
    local missing = number == 2 -- ENOENT everywhere
    return failed(path, "read", missing and "not_found" or "unreadable_file", core.strerror(number) or reason)
  end
  local text
  text, reason = file:read(MAX_FILE + 1)
  file:close()
  if not text and reason then return failed(path, "read", "unreadable_file", reason) end
  text = text or ""
  if #text > MAX_FILE then return failed(path, "read", "unreadable_file", "it is too large") end
  local lines = {}
  for line in text:gmatch("[^\n]+") do
    if line:sub(-1) == "\r" then line = line:sub(1, -2) end
    -- A long line is left out, never taken for two.
    if #line <= MAX_LINE and not line:find("[%z\1-\8\10-\31\127]") then lines[#lines + 1] = line end
  end
  return lines
end

--- Puts a file in the place of another: written beside it first, for its user alone. What was there stays when
-- anything fails. True, or nil, message, err.
function M.write(path, text)
  local part = path .. "." .. encoding.random(4) .. ".new"
  local file, _, cause = core.file(part, "private")
  if not file then return failed(path, "written", cause.code, cause.message) end
  local ok
  ok, _, cause = file:write(text)
  if ok then ok, _, cause = file:close() else file:close() end
  local reason = cause and cause.message
  if ok then ok, reason = os.rename(part, path) end
  if ok then return true end
  os.remove(part)
  return failed(path, "written", cause and cause.code or "unreadable_file", reason)
end

return M

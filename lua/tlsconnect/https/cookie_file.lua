--- The Netscape cookie file that curl, wget and browsers' extensions read and write: seven fields, apart by
-- tabs: domain, whether hosts below it count, path, secure, expiry, name, value.

local core = require "tlsconnect.core"
local state = require "tlsconnect.https.state_file"

local find, gsub, lower, match, sub = string.find, string.gsub, string.lower, string.match, string.sub

local M = {}

local function parse(line)
  local http_only = sub(line, 1, 10) == "#HttpOnly_"
  if http_only then line = sub(line, 11) end
  if line == "" or sub(line, 1, 1) == "#" then return nil end
  local domain, below, path, secure, expires, name, value =
    match(line, "^([^\t]+)\t(%a+)\t([^\t]*)\t(%a+)\t(%-?%d+)\t([^\t]*)\t?([^\t]*)$")
  if not domain or find(line, ";", 1, true) then return nil end
  domain = gsub(lower(domain), "^%.", "")
  domain = core.literal(domain) or core.to_ascii(domain)
  if not domain or sub(path, 1, 1) ~= "/" or #name + #value > 4096 or name == "" and value == "" then return nil end
  -- A file says what it says, but no file makes a cookie for all of a suffix.
  local host_only = lower(below) ~= "true" or require("tlsconnect.https.cookies").public(domain)
  local time = #expires <= 15 and tonumber(expires) or 253402300799
  return { domain = domain, host_only = host_only, path = path, secure = lower(secure) == "true" or nil,
    expires = time ~= 0 and time or nil, name = name, value = value, http_only = http_only or nil }
end

--- The cookies of a file: a list, or nil, message, err. Lines that are none are left out.
function M.read(path)
  local lines, message, err = state.read(path)
  if not lines then return nil, message, err end
  local all = {}
  for _, line in ipairs(lines) do
    local cookie = parse(line)
    if cookie then all[#all + 1] = cookie end
  end
  return all
end

--- Writes cookies (a jar's list). True, or nil, message, err.
function M.write(path, all)
  local lines = { "# Netscape HTTP Cookie File", "" }
  for _, cookie in ipairs(all) do
    lines[#lines + 1] = ("%s%s\t%s\t%s\t%s\t%.0f\t%s\t%s"):format(cookie.http_only and "#HttpOnly_" or "",
      cookie.host_only and cookie.domain or "." .. cookie.domain, cookie.host_only and "FALSE" or "TRUE", cookie.path,
      cookie.secure and "TRUE" or "FALSE", cookie.expires or 0, cookie.name, cookie.value)
  end
  return state.write(path, table.concat(lines, "\n") .. "\n")
end

return M

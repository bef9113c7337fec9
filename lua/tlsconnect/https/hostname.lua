--- A URL's host, read once: an address, or a name in A-labels. What is dialled, named in SNI and Host
-- and compared as an origin is this one reading.

local core = require "tlsconnect.core"

local find, lower, match, sub = string.find, string.lower, string.match, string.sub

local M = {}

-- A name that getaddrinfo would take for an address ("127.1", "0x7f.1", "2130706433") has two readings,
-- and filters, certificate checks and look-up could each take another.
local function looks_numeric(name)
  local last = match(name, "([^.]*)%.?$")
  return find(last, "^%d+$") or find(last, "^0[xX]%x*$")
end

local function address(text, zone)
  local canonical, family = core.literal(text)
  if canonical then return { name = canonical, family = family, zone = zone } end
  return nil
end

--- @param text the host as the URL has it, without brackets
-- @param bracketed true when it stood in [ ]
-- @return { name, family = "inet" | "inet6" | nil, zone, absolute }, or nil and what is wrong, to follow
--   "the host "
function M.parse(text, bracketed)
  if bracketed then
    -- RFC 6874 writes the zone's "%" as "%25"; the plain one is what people type.
    local before, zone = match(text, "^([^%%]*)%%(.*)$")
    if zone then
      zone = match(zone, "^25(.*)$") or zone
      if not find(zone, "^[%w%-._~]+$") then return nil, "has a zone that cannot be read" end
      text = before
    end
    local found = find(text, ":", 1, true) and address(text, zone)
    if found then return found end
    return nil, "in brackets is not an IPv6 address"
  end
  if text == "" then return nil, "is empty" end
  if #text > 1024 then return nil, "is longer than any name" end
  if find(text, "[^%w%-._~\128-\255]") then return nil, "holds a character that no name has" end
  local ascii = not find(text, "[\128-\255]")
  if ascii and looks_numeric(text) then
    local found = address(text)
    if found then return found end
    return nil, "is neither a name nor an address in its usual form"
  end
  local absolute = sub(text, -1) == "."
  local name, message = core.to_ascii(lower(text))
  if not name then return nil, "is no valid name: " .. message end
  if looks_numeric(name) then return nil, "is neither a name nor an address in its usual form" end
  return { name = name, absolute = absolute or nil }
end

return M

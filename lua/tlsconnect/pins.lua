-- Pins: the SHA-256 of a public key (SubjectPublicKeyInfo, RFC 7469), as "sha256/" and base64. A peer is good when
-- one of them belongs to a certificate of its verified path. Give the key in use, and at least one backup that is
-- kept elsewhere: a pin that no key is left for locks everybody out.
local core = require "tlsconnect.core"

local M = {}

--- The pin of a certificate (DER), as it is written in options.
function M.of(bytes)
  local certificate = core.certificate(bytes)
  return certificate and "sha256/" .. certificate:pin()
end

--- The option `pins` as a set: {"sha256/...", ...}, "sha256//..." as curl writes it too. Raises when one is none.
function M.parse(list)
  if list == nil then return nil end
  local set, count = {}, 0
  for i, pin in ipairs(list) do
    local digest = type(pin) == "string" and pin:match("^sha256/(.*)$")
    if digest and #digest == 45 then digest = digest:match("^/(.*)$") end -- base64 may begin with one, too
    if not digest or not digest:find("^[%w+/]+=$") or #digest ~= 44 then
      error(("bad option 'pins' (number %d is no \"sha256/\" and 44 characters of base64)"):format(i), 0)
    end
    set["sha256/" .. digest], count = true, count + 1
  end
  if count == 0 then error("bad option 'pins' (no pin in it: nobody would ever be let in)", 0) end
  return set
end

--- Whether one of the certificates has a pinned key. path: DER strings, those that were verified and no others.
-- The pin that was met; or nil and the pins that were seen.
function M.met(set, path)
  local seen = {}
  for i, bytes in ipairs(path) do
    seen[i] = M.of(bytes) or "none"
    if set[seen[i]] then return seen[i] end
  end
  return nil, seen
end

--- The pins of a set as a list, in one order.
function M.list(set)
  local list = {}
  for pin in pairs(set) do list[#list + 1] = pin end
  table.sort(list)
  return list
end

return M

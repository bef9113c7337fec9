-- The names that a root may vouch for here, whatever its owner says: written as name constraints (RFC 5280
-- 4.2.1.10), which src/constraints.c holds over the whole path.
local der = require "tlsconnect.der"

local M = {}

local kinds = { [0x82] = "dns", [0x87] = "ip" }

-- All hosts; all addresses of both families.
local all = {
  dns = der.sequence(der.element(0x82, "")),
  ip = der.sequence(der.element(0x87, ("\0"):rep(8))) .. der.sequence(der.element(0x87, ("\0"):rep(32))),
}

--- A list of "example.org" (that host and those below it), ".example.org" (those below it), "10.1.2.3" and
-- "10.0.0.0/8" as DER. Hosts, or addresses, of which the list has none are excluded altogether. Raises on
-- anything else.
function M.constraints(list)
  local general = require("tlsconnect.issue.names")
  local permitted, excluded, have = {}, {}, {}
  if type(list) ~= "table" or #list == 0 then error("bad option 'names' to add (a list of names expected)", 0) end
  for i, name in ipairs(list) do
    local ok, encoded = pcall(general.general, name, "names", true)
    local kind = ok and type(name) == "string" and kinds[encoded:byte()]
    if not kind then
      error(("bad option 'names' to add (%s)"):format(general.is_bad(encoded) and encoded.problem
        or "host names and addresses expected in it"), 0)
    end
    permitted[i], have[kind] = der.sequence(encoded), true
  end
  for _, kind in ipairs { "dns", "ip" } do
    if not have[kind] then excluded[#excluded + 1] = all[kind] end
  end
  local parts = { der.explicit(0, table.concat(permitted)) }
  if excluded[1] then parts[2] = der.explicit(1, table.concat(excluded)) end
  return der.sequence_of(parts)
end

return M

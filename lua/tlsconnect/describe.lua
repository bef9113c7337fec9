-- One text for one value, so that things kept by what they were made with are found again by equal options
-- alone. Strings carry their length: no two lists of options read alike. A plain table is what it
-- holds; any other object is itself, by a number that no other one gets.
local options = require "tlsconnect.options"

local concat, format, sort, type = table.concat, string.format, table.sort, type

local M = {}

local identities = setmetatable({}, { __mode = "k" })
local last_identity = 0

local function describe(value, depth)
  local kind = type(value)
  if kind == "string" then return format("s%d:%s", #value, value) end
  if kind == "number" or kind == "boolean" then return kind:sub(1, 1) .. tostring(value) end
  if kind == "table" and not getmetatable(value) and depth < 4 then
    local fields = {}
    for name, inner in pairs(value) do
      fields[#fields + 1] = describe(name, depth + 1) .. "=" .. describe(inner, depth + 1)
    end
    sort(fields)
    return format("t%d{%s}", #fields, concat(fields, ","))
  end
  local identity = identities[value]
  if not identity then
    identity = last_identity + 1
    last_identity = identity
    identities[value] = identity
  end
  return "#" .. identity
end

--- Of one value.
function M.value(value)
  return describe(value, 1)
end

--- Of the options in `given` that connect takes, and that are not in `without` (a set of names); nil for none.
function M.options(given, without)
  local parts
  for name, value in pairs(given) do
    if value ~= nil and not without[name] and options.of("connect")[name] then
      parts = parts or {}
      parts[#parts + 1] = name .. "=" .. describe(value, 1)
    end
  end
  if not parts then return nil end
  sort(parts)
  return concat(parts, "|")
end

return M

-- The figures as JSON: objects and numbers, keys in order, so that a change shows in a diff.
local M = {}

local function encode(value, indent)
  if type(value) == "number" then return (("%.6g"):format(value)) end
  local names, lines = {}, {}
  for name in pairs(value) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    lines[#lines + 1] = ('%s  "%s": %s'):format(indent, name, encode(value[name], indent .. "  "))
  end
  if not lines[1] then return "{}" end
  return "{\n" .. table.concat(lines, ",\n") .. "\n" .. indent .. "}"
end

function M.encode(value)
  return encode(value, "")
end

local function decode(text, at)
  local brace = text:match("^%s*{()", at)
  if not brace then
    local number, after = text:match("^%s*(%-?[%d.]+[eE]?[+-]?%d*)()", at)
    return assert(tonumber(number), "a number or an object expected"), after
  end
  local result = {}
  at = brace
  while true do
    local name, colon = text:match('^[%s,]*"([^"]*)"%s*:()', at)
    if not name then return result, assert(text:match("^%s*}()", at), "the object has no end") end
    result[name], at = decode(text, colon)
  end
end

--- Reads what encode() wrote.
function M.decode(text)
  return (decode(text, 1))
end

return M

--- Names and values as a query string, or as a form's body (application/x-www-form-urlencoded).

local encode = require("tlsconnect.https.url").encode

local M = {}

--- @param given { a = 1, b = { "x", "y" } }, sorted by name, or a list of
-- { name, value }, kept in order
-- @param option what the table is called where a wrong type is complained of
-- @return "a=1&b=x&b=y"
function M.encode(given, option)
  local pairs_of = {}
  local function put(name, value)
    if type(value) == "boolean" or type(value) == "number" then value = tostring(value) end
    if type(name) ~= "string" or type(value) ~= "string" then
      error("bad option '" .. option .. "' (names and values are strings, numbers or booleans)", 0)
    end
    pairs_of[#pairs_of + 1] = encode(name) .. "=" .. encode(value)
  end
  local names = {}
  for name in pairs(given) do
    if type(name) ~= "number" then names[#names + 1] = name end
  end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for _, name in ipairs(names) do
    local value = given[name]
    if type(value) == "table" then
      for _, one in ipairs(value) do put(name, one) end
    else
      put(name, value)
    end
  end
  for _, one in ipairs(given) do put(one[1], one[2]) end
  return table.concat(pairs_of, "&")
end

return M

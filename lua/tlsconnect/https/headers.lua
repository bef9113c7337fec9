--- Header fields as they came: any case, repeats kept, in order.
--
--     headers["content-type"]        the value; repeats joined with ", " (RFC 9110 5.3), but of several
--                                    Set-Cookie, which cannot be joined, the first
--     headers:get(name)              the same, for a name that is also a method's
--     headers:list("set-cookie")     every value, in order
--     for name, value in headers:each() do ... end

local lower = string.lower

-- The fields stand flat in the array part (name, value, name, value), the look-up table at [0]: lower-case
-- name to value, or to a list of values. No string key is ever stored, so that a field's name can never
-- hide a method or the other way round.
local methods = {}

function methods:get(name)
  name = lower(name)
  local found = self[0][name]
  if type(found) ~= "table" then return found end
  if name == "set-cookie" then return found[1] end
  return table.concat(found, ", ")
end

function methods:list(name)
  local found = self[0][lower(name)]
  if type(found) ~= "table" then return { found } end
  local copy = {}
  for i, value in ipairs(found) do copy[i] = value end
  return copy
end

function methods:each()
  local i = -1
  return function()
    i = i + 2
    return self[i], self[i + 1]
  end
end

local metatable = {
  __index = function(self, key)
    if type(key) ~= "string" then return nil end
    return methods[key] or methods.get(self, key)
  end,
}

local M = {}

-- Names in lower case, as they came before: the same few come again and again.
local lowered, known = {}, 0

local function lower_case(name)
  local key = lower(name)
  if known < 512 and #name <= 40 then
    lowered[name] = key
    known = known + 1
  end
  return key
end

function M.new()
  -- Room for the usual eight fields.
  return setmetatable({ nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, [0] = {} },
    metatable)
end

--- Appends a field. `size` is the number of fields so far, which its caller counts anyway.
function M.append(headers, size, name, value)
  headers[2 * size + 1] = name
  headers[2 * size + 2] = value
  local index = headers[0]
  local key = lowered[name] or lower_case(name)
  local found = index[key]
  if found == nil then
    index[key] = value
  elseif type(found) == "table" then
    found[#found + 1] = value
  else
    index[key] = { found, value }
  end
end

return M

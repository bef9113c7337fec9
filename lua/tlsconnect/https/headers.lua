--- Header fields as they came: any case, repeats kept, in order.
--
--     headers["content-type"]        the value; repeats joined with ", " (RFC 9110 5.3), but of several
--                                    Set-Cookie, which cannot be joined, the first
--     headers:get(name)              the same, for a name that is also a method's
--     headers:list("set-cookie")     every value, in order
--     for name, value in headers:each() do ... end

local byte, find, lower, match, sub = string.byte, string.find, string.lower, string.match, string.sub

-- Most fields of most answers are never looked at: the text is kept as it came, with where each field's
-- value stands in it. Only who wants all of them, or one that comes twice, has it taken apart. A table of
-- fields holds: [0] the head's text; [-1] where its first field begins; [-2] lower-case name to the position
-- of its colon; [-3] how it is: SINGLE, TWICE (some name comes twice) or APART. Then [-2] leads to values and
-- lists of values, and [1], [2] ... are name, value, name, value. No string key is ever stored, so that a
-- field's name can never hide a method or the other way round.
local SINGLE, TWICE, APART = 1, 2, 3

local methods = {}

-- Takes the blanks round a value off. In steps of one: "%s+$" is quadratic.
local function trim(value)
  local first, last = byte(value), byte(value, -1)
  if first ~= 32 and first ~= 9 and last ~= 32 and last ~= 9 then return value end
  local from, to = 1, #value
  while from <= to do
    local c = byte(value, from)
    if c ~= 32 and c ~= 9 then break end
    from = from + 1
  end
  while to >= from do
    local c = byte(value, to)
    if c ~= 32 and c ~= 9 then break end
    to = to - 1
  end
  return sub(value, from, to)
end

local function append(headers, index, name, value)
  headers[#headers + 1] = name
  headers[#headers + 1] = value
  local key = lower(name)
  local found = index[key]
  if found == nil then
    index[key] = value
  elseif type(found) == "table" then
    found[#found + 1] = value
  else
    index[key] = { found, value }
  end
end

-- Takes the text apart. Its lines were checked: no step of this pattern ever goes back.
local function take_apart(headers)
  local index = {}
  local text, position = headers[0], headers[-1]
  while true do
    local name, said, after = match(text, "^([^\r\n:]+): ?([^\r\n]*)\r?\n()", position)
    if not name then break end
    append(headers, index, name, trim(said))
    position = after
  end
  headers[-2], headers[-3] = index, APART
  return index
end

local function joined(name, values)
  if type(values) ~= "table" then return values end
  if name == "set-cookie" then return values[1] end
  return table.concat(values, ", ")
end

-- The value of a name in lower case.
local function value(self, key)
  local found = self[-2][key]
  if found == nil then return nil end
  if type(found) == "number" then
    if self[-3] == SINGLE then return trim(match(self[0], "^ ?([^\r\n]*)", found + 1)) end
    found = take_apart(self)[key]
  end
  return joined(key, found)
end

function methods:get(name)
  return value(self, lower(name))
end

-- All fields, taken apart.
local function all(headers)
  if headers[-3] == APART then return headers[-2] end
  return take_apart(headers)
end

function methods:list(name)
  local found = all(self)[lower(name)]
  if type(found) ~= "table" then return { found } end
  local copy = {}
  for i, one in ipairs(found) do copy[i] = one end
  return copy
end

function methods:each()
  all(self)
  local i = -1
  return function()
    i = i + 2
    return self[i], self[i + 1]
  end
end

local metatable = {
  __index = function(self, key)
    if type(key) ~= "string" then return nil end
    return methods[key] or value(self, lower(key))
  end,
}

-- Of cookies, too.
local M = { trim = trim }

--- The value of a field by its name in lower case: what headers:get(name) gives.
M.value = value

-- Names that came before, in lower case, once they were found to be names: the same few come again.
local known, count = {}, 0

local function name_of(text)
  if not find(text, "^[%w!#$%%&'*+%-.^_`|~]+$") then return nil end
  local key = lower(text)
  if count < 512 and #text <= 40 then
    known[text] = key
    count = count + 1
  end
  return key
end

--- The fields of a head, from `position` of its text through the empty line that ends it. Lines may end in
-- LF alone (RFC 9112 2.2). A folded line, a blank before the colon, a CR anywhere else are refused.
-- @return the fields; or nil and the offending line; or nil when there are more than `limit`
function M.parse(text, position, limit)
  -- Room for the usual eight.
  local index = { a = nil, b = nil, c = nil, d = nil, e = nil, f = nil, g = nil, h = nil }
  local fields = { [0] = text, [-1] = position, [-2] = index, [-3] = SINGLE }
  local size = 0
  while true do
    local stop = find(text, "\n", position, true)
    local cr = find(text, "\r", position, true)
    if stop - position < 2 and (stop == position or cr == position) then break end
    local colon = find(text, ":", position, true)
    local name = colon and colon < stop and sub(text, position, colon - 1)
    local key = name and (known[name] or name_of(name))
    if not key or cr and cr < stop - 1 then return nil, sub(text, position, stop - 1) end
    if index[key] then fields[-3] = TWICE else index[key] = colon end
    size = size + 1
    position = stop + 1
  end
  if size > limit then return nil end
  return setmetatable(fields, metatable)
end

return M

-- The options' checker, and its words for a wrong name or value: see options.check.
local options = require "tlsconnect.options"

local M = {}

-- Damerau-Levenshtein: how many slips of the finger lie between two names.
local function distance(a, b)
  local before, last = nil, {}
  for j = 0, #b do last[j] = j end
  for i = 1, #a do
    local row = { [0] = i }
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + cost)
      if before and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before, last = last, row
  end
  return last[#b]
end

local function nearest(name, rows)
  local best, least = nil, math.min(3, math.max(1, math.floor(#name / 3))) + 1
  for candidate in pairs(rows) do
    local d = distance(name, candidate)
    if d < least or d == least and best and candidate < best then best, least = candidate, d end
  end
  return best
end

local function unknown(name, rows, where, prefix)
  if type(name) ~= "string" then
    return ("bad option to %s (names are strings, got a %s)"):format(where, type(name))
  end
  local shown = name:sub(1, 60):gsub("[%c\127-\255]", "?")
  for _, row in ipairs(options.rows) do
    if row[1] == name and prefix == "" then
      return ("bad option '%s' to %s (it belongs to %s)"):format(name, where, (row.on:gsub(" ", ", ")))
    end
  end
  local hint = #name <= 60 and nearest(name, rows)
  if hint then
    return ("bad option '%s%s' to %s (did you mean '%s%s'?)"):format(prefix, shown, where, prefix, hint)
  end
  return ("bad option '%s%s' to %s (there is no such option)"):format(prefix, shown, where)
end

-- Lua's name of a value's type, and what tlsconnect calls it where that made it: "certificate", "trust".
local function kind_of(value)
  local kind = type(value)
  if kind ~= "userdata" and kind ~= "table" then return kind end
  local meta = getmetatable(value)
  if type(meta) == "table" then meta = rawget(meta, "__name") end
  return kind, type(meta) == "string" and meta:match("^tlsconnect%.(%l+)$") or nil
end

-- Whether a value is of one of the types, and how to call what it is.
local function is_one(types, value)
  local kind, own = kind_of(value)
  types = "|" .. types .. "|"
  local good = types:find("|" .. kind .. "|", 1, true) or own and types:find("|" .. own .. "|", 1, true)
  return good ~= nil and good ~= false, own or kind
end

--- Whether a value is of one of the types: is("string|certificate", value).
function M.is(types, value)
  return (is_one(types, value))
end

local function alternatives(types)
  return (types:gsub("|", " or "))
end

local function wrong_string(row, value)
  if row.values then
    for _, allowed in ipairs(row.values) do
      if allowed == value then return nil end
    end
    return ("%s expected, got '%s'"):format(table.concat(row.values, " or "), value:sub(1, 40))
  end
  -- io.open and C would cut the name there
  if row.path and value:find("\0", 1, true) then return "a NUL byte in it" end
  if row.sizes and (#value < row.sizes[1] or #value > row.sizes[2]) then
    return ("%d to %d bytes expected, got %d"):format(row.sizes[1], row.sizes[2], #value)
  end
  return nil
end

local function wrong_number(row, value)
  if value ~= value then return "a number expected, got nan" end
  if row.min and value < row.min then return ("%s or more expected, got %s"):format(row.min, value) end
  if row.whole and value % 1 ~= 0 then return ("a whole number expected, got %s"):format(value) end
  return nil
end

local function wrong_list(row, list)
  local count = 0
  for _ in pairs(list) do count = count + 1 end
  if count ~= #list then return "a list expected, without gaps and names" end
  local least, most = (row.counts or {})[1] or 0, (row.counts or {})[2] or math.huge
  if count < least or count > most then
    return ("a list of %d to %d elements expected, got %d"):format(least, most, count)
  end
  for _, element in ipairs(list) do
    local good, name = is_one(row.of, element)
    if not good then
      return ("a list of %ss expected, got a %s in it"):format((row.of:gsub("|", "s or ")), name)
    end
    local problem = type(element) == "string" and wrong_string(row, element)
    if problem then return problem end
  end
  return nil
end

-- What is wrong with a value, or nil.
local function wrong(row, value)
  local kind = type(value)
  if kind ~= row[2] then
    local good, name = is_one(row[2], value)
    if not good then return ("%s expected, got %s"):format(alternatives(row[2]), name) end
  end
  if kind == "number" then return wrong_number(row, value) end
  if kind == "string" then return wrong_string(row, value) end
  if kind == "table" and row.of then return wrong_list(row, value) end
  return nil
end

local function check(rows, where, given, prefix, level)
  for name, value in pairs(given) do
    local row = rows[name]
    if not row then error(unknown(name, rows, where, prefix), level) end
    local problem = wrong(row, value)
    if problem then error(("bad option '%s%s' to %s (%s)"):format(prefix, name, where, problem), level) end
    if type(value) == "table" and (row.fields or row.fields_of) then
      local inner = {}
      for _, field in ipairs(row.fields or row.fields_of) do inner[field[1]] = field end
      if row.fields then
        check(inner, where, value, prefix .. name .. ".", level + 1)
      else
        for i, element in ipairs(value) do
          local inside = ("%s%s[%d]."):format(prefix, name, i)
          for _, field in ipairs(row.fields_of) do
            if field.needed and element[field[1]] == nil then
              error(("bad option '%s%s' to %s (it is missing)"):format(inside, field[1], where), level)
            end
          end
          check(inner, where, element, inside, level + 1)
        end
      end
    end
  end
end

--- Raises the error for what is wrong in `given`, at `level` (as error() counts, from here).
function M.check(where, given, level)
  if type(given) ~= "table" then
    error(("bad options to %s (table expected, got %s)"):format(where, type(given)), level)
  end
  local rows = options.of(where)
  check(rows, where, given, "", level + 1)
  if given.context ~= nil then
    for name in pairs(given) do
      if rows[name].fixed then
        error(("bad option '%s' to %s (it is part of the context: give it there)"):format(name, where), level)
      end
    end
  end
end

return M

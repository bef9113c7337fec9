-- Every option, once: its name, type, default, unit and help, and which functions take it. The
-- checker, the error for a misspelt name, the README's table and the tool's --help come from here.
-- The rows (options/rows.lua says what they are made of) and the checker are loaded when somebody gives an option.
local late = require "tlsconnect.late"

local options = {}

-- Lists of rows, or the names of modules that are one; how many of them stand in `all` already, and
-- how long that was when the next one began to be added: memory may end in the middle.
local sources, taken, from = { "tlsconnect.options.rows" }, 0, nil
local all, tables = {}, {}

local function every_row()
  while taken < #sources do
    local rows = sources[taken + 1]
    if type(rows) == "string" then rows = late.load(rows) end
    from = from or #all
    for i = 1, #rows do all[from + i] = rows[i] end
    taken, from = taken + 1, nil
  end
  return all
end

--- Adds rows, for a layer whose options are its own (https): a list, or the name of the module that is one. Made when
-- that layer is loaded.
function options.add(rows)
  sources[#sources + 1] = rows
  tables = {}
end

local function takes(row, where)
  for word in row.on:gmatch("%S+") do
    if word == where then return true end
  end
  return false
end

--- The rows that `where` takes, by name; made once.
function options.of(where)
  local rows = tables[where]
  if not rows then
    rows = {}
    for _, row in ipairs(every_row()) do
      if takes(row, where) then rows[row[1]] = row end
    end
    tables[where] = rows
  end
  return rows
end

local none = {}

--- Checks the options given to a function. `where`: its name, one word of the rows' `on`. Raises an
-- error that names the option, at the caller of the function that calls this (or `level` further
-- up). Returns the table given, or an empty one for nil: it is not copied, and must not be changed.
function options.check(where, given, level)
  if given == nil then return none end
  late.load("tlsconnect.options.check").check(where, given, 4 + (level or 0))
  return given
end

--- Whether a value is of one of the types: is("string|certificate", value).
function options.is(types, value)
  return late.load("tlsconnect.options.check").is(types, value)
end

-- `rows` is the list of all.
return setmetatable(options, { __index = function(_, name)
  return name == "rows" and every_row() or nil
end })

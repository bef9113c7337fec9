-- The tables of README.md, made of the tables in the source: between the lines
--   <!-- options:connect --> and <!-- end -->
-- Run as a program it brings README.md up to date (make readme); the spec looks whether it is.
local M = {}

local function load_rows()
  local options = require "tlsconnect.options"
  local sets, from = {}, 1
  local function take(name)
    local rows = {}
    for i = from, #options.rows do rows[#rows + 1] = options.rows[i] end
    sets[name], from = rows, #options.rows + 1
  end
  take "connect"
  require "tlsconnect.https"
  take "https"
  require "tlsconnect.issue"
  take "issue"
  return sets
end

local function cell(text)
  return (tostring(text):gsub("|", "\\|"):gsub("\n", " "))
end

local function option_lines(lines, row, prefix, on)
  local kind = row.values and table.concat(row.values, ", ") or row[2]:gsub("|", " or ")
  if row.unit then kind = kind .. " (" .. row.unit .. ")" end
  lines[#lines + 1] = ("| `%s` | %s | %s | %s | %s |"):format(prefix .. row[1], cell(kind), cell(row.default or ""),
    on, cell(row[3]))
  for _, field in ipairs(row.fields or {}) do option_lines(lines, field, prefix .. row[1] .. ".", "") end
end

local function options_table(rows)
  local lines = { "| option | type | default | of | what it is |", "|---|---|---|---|---|" }
  for _, row in ipairs(rows) do option_lines(lines, row, "", (row.on:gsub(" ", ", "))) end
  return table.concat(lines, "\n")
end

local function errors_table()
  local lines = { "| `err.code` | `err.step` | again? | what it means |", "|---|---|---|---|" }
  for _, row in ipairs(require("tlsconnect.error").codes) do
    lines[#lines + 1] = ("| `%s` | %s | %s | %s |"):format(row[1], (row[2]:gsub(" ", ", ")), row.retry and "yes" or "",
      cell(row[3]))
  end
  return table.concat(lines, "\n")
end

local function steps_table()
  local steps = require "tlsconnect.steps"
  local lines = { "| | step | what happens |", "|---|---|---|" }
  for number, step in ipairs(steps) do
    lines[#lines + 1] = ("| %d | `%s` | %s |"):format(number, step, cell(steps.about[step]))
  end
  return table.concat(lines, "\n")
end

local function performance_table()
  local file = assert(io.open("spec/bench/figures.json", "rb"))
  local figures = require("spec.bench.json").decode(file:read("*a"))
  file:close()
  return require("spec.bench.table").render(figures)
end

--- The text with its tables made anew.
function M.render(text)
  local tables = { errors = errors_table(), steps = steps_table(), performance = performance_table() }
  for name, rows in pairs(load_rows()) do tables["options:" .. name] = options_table(rows) end
  return (text:gsub("<!%-%- (%S+) %-%->\n.-<!%-%- end %-%->", function(name)
    local made = tables[name] or error("README.md wants a table that there is not: " .. name, 0)
    return ("<!-- %s -->\n%s\n<!-- end -->"):format(name, made)
  end))
end

--- The examples: {name = the words of the first line's comment, code =, lines =}, in order.
function M.examples(text)
  local list = {}
  for code in text:gmatch("\n```lua\n(.-)\n```") do
    local _, breaks = code:gsub("\n", "")
    list[#list + 1] = { name = code:match("^%-%- ([^\n]*)"), code = code, lines = breaks }
  end
  return list
end

function M.read()
  local file = assert(io.open("README.md", "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

if arg and arg[0] and arg[0]:find("readme%.lua$") then
  local text = M.render(M.read())
  local file = assert(io.open("README.md", "wb"))
  file:write(text)
  file:close()
end

return M

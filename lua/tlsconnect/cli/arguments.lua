-- Reads the command line by a table of flags, and writes --help from the same table.
--
-- A flag is { "--name", short = "-n", value = "FILE", key = "ca_file", kind = "text" | "number" | "list" |
-- "date" | "many" | "flag", help = "...", set = fixed value }. What was read stands under `key`.

local text = require "tlsconnect.cli.text"

local arguments = {}

local readers = {}

function readers.text(value) return value end

function readers.number(value)
  -- Not what tonumber() would take: no hexadecimal, no spaces, no nan.
  if not value:find("^%d+%.?%d*$") and not value:find("^%.%d+$") then return nil, "a number" end
  return tonumber(value)
end

function readers.list(value)
  local list = {}
  for item in value:gmatch("[^,]+") do list[#list + 1] = item end
  if #list == 0 then return nil, "names with commas between" end
  return list
end

function readers.date(value)
  local date = text.parse_date(value)
  if not date then return nil, "a date like 2026-11-19 or '2026-11-19 12:00' (UTC)" end
  return date
end

local function find(flags, name)
  for _, flag in ipairs(flags) do
    if flag[1] == name or flag.short == name then return flag end
  end
  return nil
end

-- The flag that was perhaps meant: one that begins alike.
local function guess(flags, name)
  local best, length = nil, 3
  for _, flag in ipairs(flags) do
    local same = 0
    while same < #name and flag[1]:sub(same + 1, same + 1) == name:sub(same + 1, same + 1) do
      same = same + 1
    end
    if same > length then best, length = flag[1], same end
  end
  return best
end

local function store(result, flag, value)
  if flag.kind == "many" then
    result[flag.key] = result[flag.key] or {}
    local list = result[flag.key]
    list[#list + 1] = value
  elseif flag.value then
    local read = readers[flag.kind or "text"]
    local item, expected = read(value)
    if item == nil then
      return nil, ("%s wants %s, got '%s'"):format(flag[1], expected, text.clean(value, true, 60))
    end
    if flag.values then
      local allowed = false
      for _, one in ipairs(flag.values) do allowed = allowed or one == item end
      if not allowed then
        return nil, ("%s wants one of %s, got '%s'"):format(flag[1], table.concat(flag.values, ", "),
          text.clean(value, true, 60))
      end
    end
    result[flag.key] = item
  else
    result[flag.key] = flag.set == nil or flag.set
  end
  return true
end

--- Reads words[first ...]. Returns the table of what was read, with the words that are no flags in its
-- list part; or nil and what is wrong.
function arguments.read(flags, words, first)
  local result, i, only_words = {}, first or 1, false
  while i <= #words do
    local word = words[i]
    if only_words or word == "-" or word:sub(1, 1) ~= "-" then
      result[#result + 1] = word
    elseif word == "--" then
      only_words = true
    else
      local name, value = word, nil
      if word:sub(1, 2) == "--" then
        local head, tail = word:match("^(%-%-[^=]+)=(.*)$")
        if head then name, value = head, tail end
      elseif #word > 2 then
        -- -ofile, or -iv
        name = word:sub(1, 2)
        local flag = find(flags, name)
        if flag and flag.value then
          value = word:sub(3)
        elseif flag then
          words[i] = "-" .. word:sub(3)
          i = i - 1
        end
      end
      local flag = find(flags, name)
      if not flag then
        local hint = guess(flags, name)
        return nil, ("there is no option %s%s"):format(text.clean(name, true, 60),
          hint and " (did you mean " .. hint .. "?)" or "")
      end
      if flag.value and not value then
        i = i + 1
        value = words[i]
        if not value then return nil, ("%s wants a value: %s"):format(flag[1], flag.value) end
      elseif value and not flag.value then
        return nil, ("%s takes no value"):format(flag[1])
      end
      if value and value:find("\0", 1, true) then return nil, ("%s: a NUL byte in its value"):format(flag[1]) end
      local ok, problem = store(result, flag, value)
      if not ok then return nil, problem end
    end
    i = i + 1
  end
  return result
end

--- The lines of help for flags.
function arguments.help(flags)
  local lines, left = {}, {}
  local width = 0
  for i, flag in ipairs(flags) do
    left[i] = (flag.short and flag.short .. ", " or "") .. flag[1] .. (flag.value and " " .. flag.value or "")
    width = math.max(width, #left[i])
  end
  width = math.min(width, 26)
  for i, flag in ipairs(flags) do
    local pad = width - #left[i]
    lines[#lines + 1] = pad >= 0 and ("  %s%s  %s"):format(left[i], (" "):rep(pad), flag.help or "") or
      ("  %s\n  %s  %s"):format(left[i], (" "):rep(width), flag.help or "")
  end
  return table.concat(lines, "\n") .. "\n"
end

return arguments

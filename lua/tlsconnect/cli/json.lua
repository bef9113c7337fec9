-- Writes JSON (RFC 8259) from tables whose strings may be a peer's raw bytes: valid whatever they hold.
--
-- A string is cut after 4096 bytes ("..." follows); bytes that are no UTF-8 come out as the text \xNN;
-- control characters and marks of direction as \uNNNN. Keys are sorted, so that the same value gives the
-- same bytes. An empty table is an empty list.

local text = require "tlsconnect.cli.text"

local json = {}

local LIMIT = 4096
local DEPTH = 40

local short = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function quote(s)
  local cut = #s > LIMIT
  if cut then
    -- Not in the middle of a code point.
    local last = LIMIT
    while last > LIMIT - 4 and s:byte(last + 1) >= 0x80 and s:byte(last + 1) < 0xc0 do last = last - 1 end
    s = s:sub(1, last)
  end
  local result, at = {}, 1
  while at <= #s do
    local plain = s:match('^[^%c"\\\127-\255]+', at)
    if plain then
      result[#result + 1] = plain
      at = at + #plain
    else
      local c = s:sub(at, at)
      local point, size = text.decode(s, at)
      if short[c] then
        result[#result + 1] = short[c]
      elseif not point then
        result[#result + 1] = ("\\\\x%02X"):format(c:byte())
      elseif point < 0x20 or point >= 0x7f and text.clean(s:sub(at, at + size - 1)):byte() == 92 then
        if point < 0x10000 then
          result[#result + 1] = ("\\u%04x"):format(point)
        else
          local rest = point - 0x10000
          result[#result + 1] = ("\\u%04x\\u%04x"):format(0xd800 + math.floor(rest / 1024),
            0xdc00 + rest % 1024)
        end
      else
        result[#result + 1] = s:sub(at, at + size - 1)
      end
      at = at + (size or 1)
    end
  end
  return '"' .. table.concat(result) .. (cut and "..." or "") .. '"'
end

local function number(value)
  if value ~= value or value == math.huge or value == -math.huge then return "null" end
  if value % 1 == 0 and value > -2 ^ 53 and value < 2 ^ 53 then return ("%.0f"):format(value) end
  -- Some locales write a comma.
  return (("%.9g"):format(value):gsub(",", "."))
end

local write

local function write_list(value, out, indent, depth)
  out[#out + 1] = "["
  local inner = indent .. "  "
  -- Numbers and short names on one line.
  local flat = true
  for i = 1, #value do
    if type(value[i]) == "table" then flat = false end
  end
  for i = 1, #value do
    if i > 1 then out[#out + 1] = flat and ", " or "," end
    if not flat then out[#out + 1] = "\n" .. inner end
    write(value[i], out, inner, depth + 1)
  end
  out[#out + 1] = flat and "]" or "\n" .. indent .. "]"
end

local function write_object(value, out, indent, depth)
  local keys = {}
  for key in pairs(value) do
    if type(key) == "string" then keys[#keys + 1] = key end
  end
  -- The name of a thing before what it is.
  local first = { format = 1, version = 2, step = 3, type = 4, name = 5 }
  table.sort(keys, function(a, b)
    local x, y = first[a] or 9, first[b] or 9
    if x ~= y then return x < y end
    return a < b
  end)
  local inner = indent .. "  "
  out[#out + 1] = "{"
  for i = 1, #keys do
    out[#out + 1] = (i > 1 and "," or "") .. "\n" .. inner .. quote(keys[i]) .. ": "
    write(value[keys[i]], out, inner, depth + 1)
  end
  out[#out + 1] = "\n" .. indent .. "}"
end

function write(value, out, indent, depth)
  local kind = type(value)
  if kind == "table" and depth > DEPTH then
    out[#out + 1] = '"..."'
  elseif kind == "table" then
    if next(value) == nil or #value > 0 then
      write_list(value, out, indent, depth)
    else
      write_object(value, out, indent, depth)
    end
  elseif kind == "string" then
    out[#out + 1] = quote(value)
  elseif kind == "number" then
    out[#out + 1] = number(value)
  elseif kind == "boolean" then
    out[#out + 1] = tostring(value)
  elseif value == nil then
    out[#out + 1] = "null"
  else
    out[#out + 1] = quote(tostring(value))
  end
end

--- The value as indented JSON text.
function json.encode(value)
  local out = {}
  write(value, out, "", 0)
  return table.concat(out)
end

return json

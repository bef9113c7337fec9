-- Text for terminals and pages: whatever a peer chose is made harmless here before anyone sees it.

local text = {}

-- Code points that are valid but change how the text around them reads: C1 controls, marks of writing
-- direction, invisible and line-breaking ones (Unicode 6.2, UTR 36).
local function treacherous(point)
  return point < 0x20 or point >= 0x7f and point < 0xa0 or point == 0xad or point == 0x61c or
    point == 0x115f or point == 0x1160 or point == 0x17b4 or point == 0x17b5 or point == 0x180e or
    point >= 0x200b and point <= 0x200f or point >= 0x2028 and point <= 0x202e or
    point >= 0x2060 and point <= 0x206f or point == 0x3164 or point == 0xfeff or point == 0xffa0 or
    point >= 0xd800 and point <= 0xf8ff or point >= 0xfff0 and point <= 0xffff or
    point >= 0x1bca0 and point <= 0x1bca3 or point >= 0x1d173 and point <= 0x1d17a or point >= 0xe0000
end

local byte, sub = string.byte, string.sub

-- The code point that begins at `at` and its length in bytes; nil when the bytes are not UTF-8 (RFC 3629).
local function decode(s, at)
  local a, b, c, d = byte(s, at, at + 3)
  if a < 0x80 then return a, 1 end
  local function more(x) return x and x >= 0x80 and x < 0xc0 end
  if a >= 0xc2 and a < 0xe0 and more(b) then
    return (a - 0xc0) * 64 + b - 0x80, 2
  elseif a >= 0xe0 and a < 0xf0 and more(b) and more(c) then
    local point = ((a - 0xe0) * 64 + b - 0x80) * 64 + c - 0x80
    if point >= 0x800 and not (point >= 0xd800 and point < 0xe000) then return point, 3 end
  elseif a >= 0xf0 and a < 0xf5 and more(b) and more(c) and more(d) then
    local point = (((a - 0xf0) * 64 + b - 0x80) * 64 + c - 0x80) * 64 + d - 0x80
    if point >= 0x10000 and point < 0x110000 then return point, 4 end
  end
  return nil
end
text.decode = decode

local LIMIT = 1024
text.LIMIT = LIMIT

--- Any string as one line that cannot harm: control characters, C1, marks of direction and whatever is
-- no UTF-8 become \xNN or \u{NNNN}. ascii: everything outside ASCII does. limit: bytes that are
-- looked at (default 1024); "..." then follows.
function text.clean(s, ascii, limit)
  s = tostring(s)
  limit = limit or LIMIT
  local cut = #s > limit
  if cut then s = sub(s, 1, limit) end
  if not s:find("[^\32-\126]") then return cut and s .. "..." or s end
  local result, at = {}, 1
  while at <= #s do
    local plain = s:match("^[\32-\126]+", at)
    if plain then
      result[#result + 1] = plain
      at = at + #plain
    else
      local point, size = decode(s, at)
      if not point then
        result[#result + 1] = ("\\x%02X"):format(byte(s, at))
        size = 1
      elseif point < 0x20 or point == 0x7f then
        result[#result + 1] = ("\\x%02X"):format(point)
      elseif ascii or treacherous(point) then
        result[#result + 1] = ("\\u{%X}"):format(point)
      else
        result[#result + 1] = sub(s, at, at + size - 1)
      end
      at = at + size
    end
  end
  return table.concat(result) .. (cut and "..." or "")
end

--- How many columns a cleaned string takes: one a code point, two for the wide ones of East Asia.
function text.width(s)
  if not s:find("[\128-\255]") then return #s end
  local columns, at = 0, 1
  while at <= #s do
    local point, size = decode(s, at)
    if not point then
      point, size = 0xfffd, 1
    end
    local wide = point >= 0x1100 and point <= 0x115f or point >= 0x2e80 and point <= 0xa4cf or
      point >= 0xac00 and point <= 0xd7a3 or point >= 0xf900 and point <= 0xfaff or
      point >= 0xfe30 and point <= 0xfe6f or point >= 0xff00 and point <= 0xff60 or
      point >= 0x1f300 and point <= 0x1faff or point >= 0x20000 and point <= 0x3fffd
    local combining = point >= 0x300 and point <= 0x36f
    columns = columns + (combining and 0 or wide and 2 or 1)
    at = at + size
  end
  return columns
end

--- Lines of at most `columns`, broken at spaces; a longer word is left whole.
function text.wrap(s, columns)
  local lines, line, size = {}, nil, 0
  for word in s:gmatch("%S+") do
    local width = text.width(word)
    if line and size + 1 + width > columns then
      lines[#lines + 1] = line
      line = nil
    end
    if line then
      line, size = line .. " " .. word, size + 1 + width
    else
      line, size = word, width
    end
  end
  lines[#lines + 1] = line
  return lines
end

--- Seconds as a person reads them: "3.1 ms", "1.25 s", "12 us".
function text.duration(seconds, ascii)
  if not seconds then return "" end
  if seconds < 0.0000005 then return "0 ms" end
  if seconds < 0.0001 then return ("%.0f %ss"):format(seconds * 1e6, ascii and "u" or "\194\181") end
  if seconds < 0.9995 then return ("%.1f ms"):format(seconds * 1000) end
  if seconds < 99.95 then return ("%.2f s"):format(seconds) end
  return ("%.0f s"):format(seconds)
end

--- Bytes as a person reads them: "417 bytes", "1.5 KB", "20 MB" (powers of 1000).
function text.bytes(count)
  if count < 1000 then return ("%d byte%s"):format(count, count == 1 and "" or "s") end
  local units = { "KB", "MB", "GB", "TB" }
  local i, value = 1, count / 1000
  while value >= 999.5 and units[i + 1] do
    value, i = value / 1000, i + 1
  end
  return (value < 9.995 and "%.1f %s" or "%.0f %s"):format(value, units[i])
end

--- "1 certificate", "3 certificates".
function text.count(number, noun)
  return ("%d %s%s"):format(number, noun, number == 1 and "" or "s")
end

--- A date as 2026-11-20 12:00 UTC.
function text.date(seconds)
  if type(seconds) ~= "number" then return "an unknown date" end
  -- os.date refuses what its C library cannot hold; a hostile certificate may say anything.
  if seconds < -62135596800 or seconds > 253402300799 then return "a date out of range" end
  local ok, value = pcall(os.date, "!%Y-%m-%d %H:%M UTC", math.floor(seconds))
  return ok and value or "a date out of range"
end

-- Days from 1970-01-01 to a date of the proleptic Gregorian calendar.
local function days(year, month, day)
  if month <= 2 then year = year - 1 end
  local era = math.floor(year / 400)
  local of_era = year - era * 400
  local of_year = math.floor((153 * (month + (month > 2 and -3 or 9)) + 2) / 5) + day - 1
  return era * 146097 + of_era * 365 + math.floor(of_era / 4) - math.floor(of_era / 100) + of_year - 719468
end

--- Seconds since the epoch from "2026-11-19", "2026-11-19 12:00[:30]", with T, Z or UTC where they are
-- liked; UTC always. Nil when it is no date.
function text.parse_date(s)
  local year, month, day, rest = s:match("^%s*(%d%d%d%d)%-(%d%d)%-(%d%d)(.*)$")
  if not year then return nil end
  local hour, minute, second = 0, 0, 0
  rest = rest:gsub("%s*UTC%s*$", ""):gsub("Z%s*$", ""):gsub("%s+$", "")
  if rest ~= "" then
    local h, m, s2 = rest:match("^[T%s](%d%d):(%d%d)(.*)$")
    if not h then return nil end
    if s2 ~= "" then
      s2 = s2:match("^:(%d%d)$")
      if not s2 then return nil end
    else
      s2 = "0"
    end
    hour, minute, second = tonumber(h), tonumber(m), tonumber(s2)
  end
  year, month, day = tonumber(year), tonumber(month), tonumber(day)
  local lengths = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }
  if year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0) then lengths[2] = 29 end
  if not lengths[month] or day < 1 or day > lengths[month] or hour > 23 or minute > 59 or second > 59 then
    return nil
  end
  return days(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
end

return text

-- A writer of DER (X.690), for what this library makes: certificates, requests, revocation lists.
-- Each function returns the bytes of one whole element. What is read is read in C (src/der.c).
local der = {}

local char, floor = string.char, math.floor

local function length(n)
  if n < 0x80 then return char(n) end
  local bytes = ""
  while n > 0 do
    bytes = char(n % 256) .. bytes
    n = floor(n / 256)
  end
  return char(0x80 + #bytes) .. bytes
end

--- An element of any tag (one byte): content is a string.
function der.element(tag, content)
  return char(tag) .. length(#content) .. content
end

function der.sequence(...)
  return der.element(0x30, table.concat({ ... }))
end

function der.sequence_of(list)
  return der.element(0x30, table.concat(list))
end

--- SET OF: its members are sorted by their bytes (X.690 11.6).
function der.set_of(list)
  local sorted = {}
  for i, member in ipairs(list) do sorted[i] = member end
  table.sort(sorted, function(a, b)
    -- string.compare may follow the locale: compare bytes
    for i = 1, math.min(#a, #b) do
      local x, y = a:byte(i), b:byte(i)
      if x ~= y then return x < y end
    end
    return #a < #b
  end)
  return der.element(0x31, table.concat(sorted))
end

--- [n] around whole elements, or instead of a primitive element's tag.
function der.explicit(n, content)
  return der.element(0xa0 + n, content)
end

function der.implicit(n, content)
  return der.element(0x80 + n, content)
end

function der.boolean(value)
  return der.element(0x01, value and "\255" or "\0")
end

function der.null()
  return "\5\0"
end

--- A non-negative number below 2^53.
function der.integer(n)
  local bytes = ""
  repeat
    bytes = char(n % 256) .. bytes
    n = floor(n / 256)
  until n == 0
  return der.unsigned(bytes)
end

--- A non-negative INTEGER from its big-endian bytes.
function der.unsigned(bytes)
  local first = 1
  while bytes:byte(first) == 0 do first = first + 1 end
  bytes = bytes:sub(first)
  if bytes == "" or bytes:byte(1) >= 0x80 then bytes = "\0" .. bytes end
  return der.element(0x02, bytes)
end

function der.octets(bytes)
  return der.element(0x04, bytes)
end

function der.bits(bytes, unused)
  return der.element(0x03, char(unused or 0) .. bytes)
end

--- A BIT STRING with named bits: `set` is a set of bit numbers; trailing zeros are left out
-- (X.690 11.2.2).
function der.named_bits(set)
  local highest = -1
  for bit in pairs(set) do highest = math.max(highest, bit) end
  local bytes = {}
  for i = 0, highest do
    local index = floor(i / 8) + 1
    bytes[index] = (bytes[index] or 0) + (set[i] and 2 ^ (7 - i % 8) or 0)
  end
  for i, byte in ipairs(bytes) do bytes[i] = char(byte) end
  return der.bits(table.concat(bytes), #bytes * 8 - 1 - highest)
end

--- An OBJECT IDENTIFIER from "2.5.29.17"; nil when the text is none.
function der.oid(text)
  if not text:find("^[012]%.%d+[%.%d]*$") or text:find("..", 1, true) or text:sub(-1) == "." then return nil end
  local arcs = {}
  for arc in text:gmatch("%d+") do
    arcs[#arcs + 1] = tonumber(arc)
    if #arc > 15 then return nil end
  end
  if arcs[1] < 2 and arcs[2] >= 40 then return nil end
  arcs[2] = arcs[1] * 40 + arcs[2]
  local bytes = {}
  for i = 2, #arcs do
    local arc = arcs[i]
    local one = char(arc % 128)
    arc = floor(arc / 128)
    while arc > 0 do
      one = char(128 + arc % 128) .. one
      arc = floor(arc / 128)
    end
    bytes[#bytes + 1] = one
  end
  return der.element(0x06, table.concat(bytes))
end

local tags = { utf8 = 0x0c, printable = 0x13, ia5 = 0x16 }

--- kind: "utf8", "printable", "ia5".
function der.string(kind, text)
  return der.element(tags[kind], text)
end

-- Year, month and day of a number of days since 1970-01-01, by the Gregorian calendar.
local function civil(days)
  local z = days + 719468
  local era = floor(z / 146097)
  local of_era = z - era * 146097
  local year_of_era = floor((of_era - floor(of_era / 1460) + floor(of_era / 36524) - floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year_of_era + floor(year_of_era / 4) - floor(year_of_era / 100))
  local shifted = floor((5 * of_year + 2) / 153)
  local day = of_year - floor((153 * shifted + 2) / 5) + 1
  local month = shifted < 10 and shifted + 3 or shifted - 9
  return year_of_era + era * 400 + (month <= 2 and 1 or 0), month, day
end

--- Seconds since the epoch, from year 0 to 9999: UTCTime from 1950 to 2049, else GeneralizedTime
-- (RFC 5280 4.1.2.5); nil outside.
function der.time(seconds)
  seconds = floor(seconds)
  local days = floor(seconds / 86400)
  if days < -719528 or days > 2932896 then return nil end
  local year, month, day = civil(days)
  local rest = seconds - days * 86400
  local text = ("%02d%02d%02d%02d%02dZ"):format(month, day, floor(rest / 3600), floor(rest / 60) % 60, rest % 60)
  if year >= 1950 and year < 2050 then return der.element(0x17, ("%02d"):format(year % 100) .. text) end
  return der.element(0x18, ("%04d"):format(year) .. text)
end

return der

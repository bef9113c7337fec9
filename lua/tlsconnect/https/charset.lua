--- response:text(): the body as UTF-8, whatever charset it came in.

local errors = require "tlsconnect.error"

local byte, char, floor, gsub, sub = string.byte, string.char, math.floor, string.gsub, string.sub

local M = {}

-- A code point as UTF-8.
local function utf8(code)
  if code < 0x80 then return char(code) end
  if code < 0x800 then return char(0xC0 + floor(code / 64), 0x80 + code % 64) end
  if code < 0x10000 then
    return char(0xE0 + floor(code / 4096), 0x80 + floor(code / 64) % 64, 0x80 + code % 64)
  end
  return char(0xF0 + floor(code / 262144), 0x80 + floor(code / 4096) % 64, 0x80 + floor(code / 64) % 64,
    0x80 + code % 64)
end

local REPLACEMENT = utf8(0xFFFD)

-- Windows-1252's own letters; the rest of it is Latin 1. Browsers read iso-8859-1 so, too (WHATWG Encoding).
local windows = { [0x80] = 0x20AC, [0x82] = 0x201A, [0x83] = 0x192, [0x84] = 0x201E, [0x85] = 0x2026, [0x86] = 0x2020,
  [0x87] = 0x2021, [0x88] = 0x2C6, [0x89] = 0x2030, [0x8A] = 0x160, [0x8B] = 0x2039, [0x8C] = 0x152, [0x8E] = 0x17D,
  [0x91] = 0x2018, [0x92] = 0x2019, [0x93] = 0x201C, [0x94] = 0x201D, [0x95] = 0x2022, [0x96] = 0x2013, [0x97] = 0x2014,
  [0x98] = 0x2DC, [0x99] = 0x2122, [0x9A] = 0x161, [0x9B] = 0x203A, [0x9C] = 0x153, [0x9E] = 0x17E, [0x9F] = 0x178 }
-- ISO 8859-15 is Latin 1 but for eight letters.
local latin9 = { [0xA4] = 0x20AC, [0xA6] = 0x160, [0xA8] = 0x161, [0xB4] = 0x17D, [0xB8] = 0x17E, [0xBC] = 0x152,
  [0xBD] = 0x153, [0xBE] = 0x178 }

local function one_byte(special)
  local made = {}
  for code = 0x80, 0xFF do made[char(code)] = utf8(special[code] or code) end
  return function(text) return (gsub(text, "[\128-\255]", made)) end
end

local function utf16(high, low)
  return function(text)
    local pieces, n = {}, 0
    local i, last = 1, #text
    while i < last do
      local code = byte(text, i + high) * 256 + byte(text, i + low)
      i = i + 2
      if code >= 0xD800 and code < 0xDC00 and i < last then
        local second = byte(text, i + high) * 256 + byte(text, i + low)
        if second >= 0xDC00 and second < 0xE000 then
          code = 0x10000 + (code - 0xD800) * 1024 + second - 0xDC00
          i = i + 2
        end
      end
      n = n + 1
      pieces[n] = code >= 0xD800 and code < 0xE000 and REPLACEMENT or utf8(code)
    end
    if i == last then pieces[n + 1] = REPLACEMENT end
    return table.concat(pieces)
  end
end

local function same(text) return text end

local decoders = { ["utf-8"] = same, ["utf8"] = same, ["us-ascii"] = same, ["ascii"] = same,
  ["utf-16be"] = utf16(0, 1), ["utf-16le"] = utf16(1, 0) }
decoders["utf-16"] = decoders["utf-16le"] -- without a mark, as browsers read it
decoders["windows-1252"] = one_byte(windows)
for _, name in ipairs { "iso-8859-1", "iso8859-1", "latin1", "cp1252" } do
  decoders[name] = decoders["windows-1252"]
end
decoders["iso-8859-15"] = one_byte(latin9)
decoders.latin9 = decoders["iso-8859-15"]

-- Byte order marks tell more than headers do.
local marks = { { "\239\187\191", "utf-8" }, { "\254\255", "utf-16be" }, { "\255\254", "utf-16le" } }

-- Whether bytes are UTF-8, as far as their pattern goes.
local function is_utf8(text)
  local position, last = 1, #text
  while true do
    position = text:find("[\128-\255]", position)
    if not position then return true end
    local lead = byte(text, position)
    local more = lead >= 0xC2 and lead < 0xE0 and 1 or lead >= 0xE0 and lead < 0xF0 and 2
      or lead >= 0xF0 and lead < 0xF5 and 3
    if not more or position + more > last then return false end
    for i = position + 1, position + more do
      local next_byte = byte(text, i)
      if next_byte < 0x80 or next_byte > 0xBF then return false end
    end
    position = position + more + 1
  end
end

-- The charset that Content-Type names, in lower case.
local function named(response)
  local kind = response.headers["content-type"]
  local name = kind and kind:lower():match(';[ \t]*charset[ \t]*=[ \t]*"?([^%s";]+)')
  return name
end

--- The body as UTF-8. charset: the one to read it by; without it a byte order mark, then Content-Type decide,
-- and else it is taken for UTF-8 where it is that, and for Windows-1252 where it is not. A string, or nil,
-- message, err: a charset that is not known here has the code "unsupported".
function M.text(response, charset)
  local body = response.body
  if not body then
    local message, err
    body, message, err = response:read "a"
    if not body then return nil, message, err end
  end
  local name = charset and charset:lower()
  if not name then
    for _, mark in ipairs(marks) do
      if sub(body, 1, #mark[1]) == mark[1] then
        body, name = sub(body, #mark[1] + 1), mark[2]
        break
      end
    end
    name = name or named(response) or is_utf8(body) and "utf-8" or "windows-1252"
  end
  local decoder = decoders[name]
  if decoder then return decoder(body) end
  return errors.fail(errors.new { step = "http", code = "unsupported",
    message = "the charset of " .. response.url .. " is not known here: " .. errors.escape(name) })
end

return M

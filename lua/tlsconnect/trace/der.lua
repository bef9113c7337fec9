-- The little DER that a handshake message shows by itself: distinguished names (X.501) in a
-- CertificateRequest. Certificates are the core's to read.

local Reader = require "tlsconnect.trace.reader"

local der = {}

-- RFC 4514 section 3, and the few others that names of CAs carry.
local attributes = {
  ["2.5.4.3"] = "CN", ["2.5.4.5"] = "serialNumber", ["2.5.4.6"] = "C", ["2.5.4.7"] = "L", ["2.5.4.8"] = "ST",
  ["2.5.4.9"] = "street", ["2.5.4.10"] = "O", ["2.5.4.11"] = "OU", ["2.5.4.97"] = "organizationIdentifier",
  ["0.9.2342.19200300.100.1.1"] = "UID", ["0.9.2342.19200300.100.1.25"] = "DC",
  ["1.2.840.113549.1.9.1"] = "emailAddress",
}

-- A tag and the reader of its contents.
local function element(r, expected)
  local at = r.position
  local tag = r:u8("a DER tag")
  if expected and tag ~= expected then r:stop(("DER tag 0x%02x expected"):format(expected), at) end
  local size = r:u8("a DER length")
  if size >= 0x80 then
    local width = size - 0x80
    if width < 1 or width > 3 then r:stop("a DER length of " .. width .. " bytes", at + 1) end
    size = 0
    for _ = 1, width do size = size * 256 + r:u8("a DER length") end
  end
  if size > r:left() then r:stop("a DER value is cut short", at) end
  local inside = Reader.new(r.data)
  inside.position, inside.last = r.position, r.position + size - 1
  r.position = r.position + size
  return tag, inside
end

local function object_identifier(r)
  local parts, value = {}, 0
  while r:left() > 0 do
    local digit = r:u8()
    value = value * 128 + digit % 128
    if value > 2 ^ 52 then r:stop("an object identifier too large") end
    if digit < 128 then
      if #parts == 0 then
        local first = value < 80 and math.floor(value / 40) or 2
        parts[1], value = ("%d"):format(first), value - first * 40
      end
      if #parts >= 32 then r:stop("an object identifier too long") end
      parts[#parts + 1] = ("%.0f"):format(value)
      value = 0
    end
  end
  return table.concat(parts, ".")
end

-- BMPString and UniversalString: what is beyond Latin comes out as "?"; the peer's bytes are shown, not
-- compared.
local function narrow(text, width)
  local result = {}
  for at = 1, #text - width + 1, width do
    local high = text:sub(at, at + width - 2)
    local low = text:sub(at + width - 1, at + width - 1)
    result[#result + 1] = high == ("\0"):rep(width - 1) and low:byte() < 128 and low or "?"
  end
  return table.concat(result)
end

local function name(r)
  local _, sequence = element(r, 0x30)
  r:done("the name")
  local parts = {}
  while sequence:left() > 0 do
    local _, set = element(sequence, 0x31)
    while set:left() > 0 do
      local _, pair = element(set, 0x30)
      local _, oid = element(pair, 0x06)
      local tag, value = element(pair)
      local text = value:rest()
      if tag == 0x1e then text = narrow(text, 2) elseif tag == 0x1c then text = narrow(text, 4) end
      local kind = object_identifier(oid)
      if #parts < 32 then
        parts[#parts + 1] = (attributes[kind] or kind) .. "=" .. text:gsub('[,+"\\<>;]', "\\%0")
      end
    end
  end
  -- RFC 4514 2.1: the last one first.
  local reversed = {}
  for i = #parts, 1, -1 do reversed[#reversed + 1] = parts[i] end
  return table.concat(reversed, ",")
end

--- The name in a reader over its DER, as RFC 4514 writes it. Stops the parse when it is none.
der.name = name

return der

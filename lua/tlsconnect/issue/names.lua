-- Names as options give them, written as DER: distinguished names (RFC 4514 text or tables) and
-- general names (RFC 5280 4.2.1.6). What is wrong with one is raised as a `bad`, which issue.lua
-- turns into an error at its caller.
local core = require "tlsconnect.core"
local der = require "tlsconnect.der"

local M = {}

local Bad = {}

function M.bad(option, problem)
  error(setmetatable({ option = option, problem = problem }, Bad), 0)
end

function M.is_bad(value)
  return getmetatable(value) == Bad
end

local bad = M.bad

function M.from_hex(text)
  return (text:gsub("%x%x", function(byte) return string.char(tonumber(byte, 16)) end))
end

--- The names of a set, for a message: "a, b, c".
function M.known(set)
  local all = {}
  for name in pairs(set) do all[#all + 1] = name end
  table.sort(all)
  return table.concat(all, ", ")
end

--- What `key()` of a certificate says, for a key too: {type=, id=, der=, ...}.
function M.public_key(owner)
  if owner.key then return owner:key() end
  return core.public_key(owner:public("der"))
end

-- Distinguished names -------------------------------------------------------------------------

-- The string types that RFC 5280 A.1 demands; the others are UTF-8.
local string_types = {
  C = "printable", serialNumber = "printable", dnQualifier = "printable", jurisdictionC = "printable",
  emailAddress = "ia5", DC = "ia5",
}

-- Short names are compared without case (RFC 4514 3).
local spellings = {}
for name in pairs(core.attributes) do spellings[name:lower()] = name end

local function attribute(name, value, raw, option)
  local spelling = spellings[name:lower()]
  local oid = der.oid(core.attributes[spelling] or name)
  if not oid then bad(option, ("there is no attribute '%s'"):format(name)) end
  return der.sequence(oid, raw or der.string(string_types[spelling] or "utf8", value))
end

-- Reads one value of RFC 4514 text: bytes, or nil and raw DER; and where it ends.
local function read_value(text, at, option)
  local hex, after = text:match("^#(%x*)%s*()", at)
  if hex then
    if #hex % 2 == 1 or hex == "" then bad(option, "broken after '#'") end
    return nil, M.from_hex(hex), after
  end
  local bytes, kept = {}, 0
  while at <= #text do
    local c = text:sub(at, at)
    if c == "," or c == "+" or c == ";" then break end
    if c == "\\" then
      hex = text:match("^%x%x", at + 1)
      c = hex and M.from_hex(hex) or text:sub(at + 1, at + 1)
      if c == "" then bad(option, "it ends in a backslash") end
      at = at + (hex and 3 or 2)
      bytes[#bytes + 1] = c
      kept = #bytes
    else
      at = at + 1
      bytes[#bytes + 1] = c
      if c ~= " " then kept = #bytes end -- spaces before a separator do not count
    end
  end
  return table.concat(bytes, "", 1, kept), nil, at
end

-- RFC 4514 text: a list of RDNs, the last of the text first.
local function parse(text, option)
  local rdns, at, joined = {}, 1, false
  if not text:find("%S") then return rdns end
  repeat
    local name, start = text:match("^%s*([%w%.%-]+)%s*=%s*()", at)
    if not name then bad(option, ("broken at '%s': CN=value expected"):format(text:sub(at, at + 20))) end
    local value, raw, after = read_value(text, start, option)
    local one = attribute(name, value, raw, option)
    if joined then
      table.insert(rdns[1], one)
    else
      table.insert(rdns, 1, { one })
    end
    local separator = text:sub(after, after)
    joined = separator == "+"
    if separator ~= "" and not separator:find("[,+;]") then bad(option, "broken after a value") end
    at = after + 1
  until separator == ""
  return rdns
end

-- {CN=, O=}: in the order in which names are usually written, the widest first.
local usual_order = { "DC", "C", "ST", "L", "STREET", "postalCode", "O", "OU", "organizationIdentifier", "UID",
  "serialNumber", "title", "GN", "SN", "emailAddress", "CN" }

local function from_fields(fields, option)
  local rdns, done = {}, {}
  local function add(name)
    if type(fields[name]) ~= "string" then bad(option, ("%s: a string expected"):format(name)) end
    rdns[#rdns + 1] = { attribute(name, fields[name], nil, option) }
    done[name] = true
  end
  local others = {}
  for name in pairs(fields) do
    if type(name) ~= "string" then bad(option, "either names or a list expected") end
    others[#others + 1] = name
  end
  for _, name in ipairs(usual_order) do
    if fields[name] ~= nil then add(name) end
  end
  table.sort(others)
  for _, name in ipairs(others) do
    if not done[name] then add(name) end
  end
  return rdns
end

-- A list of {name=, oid=, value=, der=, joined=}, as subject("table") gives it, or of {"CN", "a"}.
local function from_list(list, option)
  local rdns = {}
  for _, entry in ipairs(list) do
    if type(entry) ~= "table" then bad(option, "a list of tables expected") end
    local name, value = entry.name or entry.oid or entry[1], entry.value or entry[2]
    if type(name) ~= "string" then bad(option, "each entry has a name") end
    if type(value) ~= "string" and type(entry.der) ~= "string" then bad(option, name .. ": a string expected") end
    local one = attribute(name, value, value == nil and entry.der or nil, option)
    if entry.joined and #rdns > 0 then
      table.insert(rdns[#rdns], one)
    else
      rdns[#rdns + 1] = { one }
    end
  end
  return rdns
end

--- A Name, from text or a table.
function M.distinguished(value, option)
  local rdns
  if type(value) == "string" then
    rdns = parse(value, option)
  elseif value[1] ~= nil then
    rdns = from_list(value, option)
  else
    rdns = from_fields(value, option)
  end
  for i, rdn in ipairs(rdns) do rdns[i] = der.set_of(rdn) end
  return der.sequence_of(rdns)
end

-- General names -------------------------------------------------------------------------------

-- The mask of a prefix: `length` ones in `size` bytes.
local function mask(length, size)
  local bytes = {}
  for i = 1, size do
    local ones = math.max(0, math.min(8, length - (i - 1) * 8))
    bytes[i] = string.char(256 - 2 ^ (8 - ones))
  end
  return table.concat(bytes)
end

-- An address, or for name constraints a range of them: nil when it is none.
local function address(text, ranges)
  if not ranges then return core.address_bytes(text) end
  local base, rest = text:match("^([^/]+)/([^/]+)$")
  local bytes = core.address_bytes(base or text)
  if not bytes then return nil end
  if not rest then return bytes .. mask(#bytes * 8, #bytes) end
  if rest:find("^%d+$") then
    local length = tonumber(rest)
    return length <= #bytes * 8 and bytes .. mask(length, #bytes) or nil
  end
  local masked = core.address_bytes(rest)
  return masked and #masked == #bytes and bytes .. masked or nil
end

-- A host name in plain text: checked, and non-ASCII letters become A-labels.
local function host(text, option)
  if text:find("[\128-\255]") then
    local wild, rest = text:match("^(%*?%.?)(.*)$")
    local ascii, message = core.to_ascii(rest)
    if not ascii then bad(option, ("'%s': %s"):format(text, message)) end
    return wild .. ascii
  end
  if text == "" or text:find("[^%w%.%-_*]") then bad(option, ("'%s' is no host name"):format(text)) end
  return text
end

local writers = {}

function writers.email(value) return der.implicit(1, value) end
function writers.dns(value) return der.implicit(2, value) end
function writers.uri(value) return der.implicit(6, value) end

function writers.dn(value, option)
  return der.explicit(4, M.distinguished(value, option))
end

function writers.ip(value, option, ranges)
  local bytes = address(value, ranges)
  if not bytes then bad(option, ("'%s' is no address"):format(value)) end
  return der.implicit(7, bytes)
end

function writers.registered_id(value, option)
  local oid = der.oid(value)
  if not oid then bad(option, ("'%s' is no OID"):format(value)) end
  return der.element(0x88, oid:sub(3)) -- its content, under another tag
end

-- {other=OID, value=DER}
local function other(oid_text, value, option)
  local oid = der.oid(oid_text)
  if not oid then bad(option, ("'%s' is no OID"):format(oid_text)) end
  if type(value) ~= "string" then bad(option, "other: a value (DER) expected") end
  return der.element(0xa0, oid .. der.explicit(0, value))
end

-- What names() gives: {type=, value=, raw=, oid=}. Bytes win over their text.
local function from_reading(name, option, ranges)
  if name.type == "other" then return other(name.oid or "", name.value, option) end
  if name.type == "ip" and name.raw then return der.implicit(7, name.raw) end
  if name.type == "dn" and name.raw then return der.explicit(4, name.raw) end
  local writer = writers[name.type]
  if not writer or name.value == nil then bad(option, "a name of an unknown type") end
  return writer(name.value, option, ranges)
end

local function from_text(text, option, ranges)
  if address(text, ranges) then return writers.ip(text, option, ranges) end
  if text:find("^%a[%w+.-]*://") then return writers.uri(text) end
  if text:find("@", 1, true) then return writers.email(text) end
  return writers.dns(host(text, option))
end

--- A GeneralName. `ranges`: an address stands with its mask, for name constraints.
function M.general(name, option, ranges)
  if type(name) == "string" then return from_text(name, option, ranges) end
  if type(name) ~= "table" then bad(option, "strings or tables expected in it, got a " .. type(name)) end
  if name.type then return from_reading(name, option, ranges) end
  if name.other then return other(name.other, name.value, option) end
  local kind, value = next(name)
  local writer = kind ~= nil and writers[kind]
  if not writer then bad(option, ("'%s' is no kind of name"):format(tostring(kind))) end
  if type(value) ~= "string" and not (kind == "dn" and type(value) == "table") then
    bad(option, kind .. ": a string expected")
  end
  return writer(value, option, ranges)
end

return M

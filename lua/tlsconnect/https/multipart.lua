--- multipart/form-data (RFC 7578), streamed from files.
--
--     multipart = { title = "A photo", photo = { file = "a.jpg", type = "image/jpeg" } }
--     multipart = { { name = "a", data = "1" }, { name = "a", file = "b.bin", filename = "c.bin" } }

local core = require "tlsconnect.core"
local encoding = require "tlsconnect.encoding"
local errors = require "tlsconnect.error"

local M = {}

local PIECE = 65536

local function fail(code, message)
  return errors.fail(errors.new { step = code == "unreadable_file" and "setup" or "http", code = code,
    message = message })
end

local function wrong(what)
  error("bad option 'multipart' (" .. what .. ")", 0)
end

-- The parts in order: a list keeps its own, a table of names is sorted by them.
local function in_order(given)
  local parts, names = {}, {}
  for name in pairs(given) do
    if type(name) == "string" then names[#names + 1] = name
    elseif type(name) ~= "number" then wrong "names are strings" end
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local value = given[name]
    local part = { name = name }
    if type(value) == "table" then
      for key, inner in pairs(value) do part[key] = inner end
    else
      part.data = value
    end
    parts[#parts + 1] = part
  end
  for _, part in ipairs(given) do
    if type(part) ~= "table" or type(part.name) ~= "string" then wrong "a part is a table with a name" end
    parts[#parts + 1] = part
  end
  return parts
end

-- RFC 7578 4.2 with the escapes that browsers use (WHATWG): a quote and line ends are percent-encoded. A
-- NUL or a line end is refused: no form means one.
local function quoted(text)
  if text:find("[%z\r\n]") then return nil end
  return '"' .. text:gsub('"', "%%22") .. '"'
end

local function head_of(part, boundary)
  local name = quoted(part.name)
  local filename = part.filename or part.file and part.file:match("[^/]*$")
  local shown = filename and quoted(filename)
  if not name or filename and not shown then
    return fail("bad_header", "a part's name holds a NUL or a line end")
  end
  local kind = part.type or filename and "application/octet-stream"
  if kind and kind:find("[%c\127-\255]") then
    return fail("bad_header", "a part's type holds what no header may")
  end
  return "--" .. boundary .. '\r\nContent-Disposition: form-data; name=' .. name
    .. (shown and "; filename=" .. shown or "") .. (kind and "\r\nContent-Type: " .. kind or "") .. "\r\n\r\n"
end

local function open(path)
  if path:find("\0", 1, true) then wrong "a NUL byte in a file's name" end
  local file, reason, number = io.open(path, "rb")
  local size = file and file:seek("end")
  if size and file:seek("set", 0) then return file, size end
  if file then file:close() end
  return fail("unreadable_file", ("%s cannot be read: %s"):format(errors.escape(path, 200),
    number and core.strerror(number) or reason or "not a file"))
end

-- The size of a part's own bytes, or nil, message, err.
local function measure(part)
  if part.file then
    if type(part.file) ~= "string" then wrong "file is a path" end
    local file, size, err = open(part.file)
    if not file then return nil, size, err end
    file:close()
    return size
  end
  if type(part.data) == "number" then part.data = tostring(part.data) end
  if type(part.data) ~= "string" then wrong "a part has data or file" end
  return #part.data
end

-- A source of the whole body: function() that gives the next piece, or nil, or nil and why.
local function source(parts, ending)
  local at, file, stage = 1, nil, "head"
  return function()
    local part = parts[at]
    if not part then
      local last = ending
      ending = nil
      return last
    end
    if stage == "head" then
      stage = "data"
      return part.head
    end
    if stage == "data" and not part.file then
      stage = "end"
      return part.data
    end
    if stage == "data" then
      local reason
      if not file then
        file, reason = open(part.file)
        if not file then return nil, reason end
      end
      local data
      data, reason = file:read(PIECE)
      if data then return data end
      file:close()
      file = nil
      if reason then return nil, reason end
    end
    stage, at = "head", at + 1
    return "\r\n"
  end
end

--- A body of parts.
-- @return the body { length =, open = function() -> source }, and its type; or nil, message, err
function M.encode(given)
  local boundary = "tlsconnect-" .. encoding.random(16)
  local parts = in_order(given)
  local ending = "--" .. boundary .. "--\r\n"
  local length = #ending
  for i, part in ipairs(parts) do
    local copy = { name = part.name, data = part.data, file = part.file, filename = part.filename,
      type = part.type }
    local size, message, err = measure(copy)
    if not size then return nil, message, err end
    copy.head, message, err = head_of(copy, boundary)
    if not copy.head then return nil, message, err end
    length = length + #copy.head + size + 2
    parts[i] = copy
  end
  return { length = length, open = function() return source(parts, ending) end },
    "multipart/form-data; boundary=" .. boundary
end

return M

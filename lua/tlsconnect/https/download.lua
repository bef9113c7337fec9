--- A body saved to a file: written beside its place under a name of its own, and moved there when it is
-- whole. What fails leaves the old file as it was.
--
--     page:save "a.iso"                                     an answer that was asked for with `stream`
--     https.get(url, { save = "a.iso" })
--     https.get(url, { save = "a.iso", resume = true })     goes on where an earlier call was cut off
--
-- With `resume`, what has come stays in a.iso.part, and beside it, in a.iso.part.info, what it is a part of. It
-- goes on only where the server says that the rest belongs to the same bytes (Range, If-Range and
-- Content-Range, RFC 9110 14); else it begins anew.
--
-- A path that ends in "/" is a folder: the name is then made of what the server or the URL calls it, without
-- folders, never a hidden one, and never in place of a file that is there.

local core = require "tlsconnect.core"
local encoding = require "tlsconnect.encoding"
local errors = require "tlsconnect.error"
local streaming = require "tlsconnect.https.streaming"
local with = require "tlsconnect.https.with"

local format, match = string.format, string.match

local M = {}

-- nil, message, err of a file that cannot be written.
local function unwritable(path, cause)
  local err = { step = "setup", code = "unwritable_file",
    message = errors.escape(path, 200) .. " cannot be written: " .. (cause and cause.message or "it exists") }
  err.errno = cause and cause.errno
  return errors.fail(errors.new(err))
end

-- Names -------------------------------------------------------------------------------------------

-- What the server calls the file (RFC 6266), or what the URL ends in.
local function called(response)
  local said = response.headers["content-disposition"]
  if said then
    local encoded = match(said, ";%s*[fF][iI][lL][eE][nN][aA][mM][eE]%*%s*=%s*[uU][tT][fF]%-8'[^']*'([^;%s]+)")
    if encoded then return require("tlsconnect.https.url").decode(encoded) end
    local name = match(said, ';%s*[fF][iI][lL][eE][nN][aA][mM][eE]%s*=%s*"([^"]*)"')
      or match(said, ";%s*[fF][iI][lL][eE][nN][aA][mM][eE]%s*=%s*([^;%s]+)")
    if name then return name end
  end
  local path = match(response.url, "^%a+://[^/?#]*([^?#]*)")
  return require("tlsconnect.https.url").decode(match(path, "([^/]*)$"))
end

--- A name that is only a name: no folder, no control character, not hidden, no option of a command.
function M.name(response)
  local name = called(response):gsub("[%z\1-\31\127]", ""):gsub("\\", "/"):gsub("/+$", "")
  name = match(name, "([^/]*)$"):gsub("^[%.%-%s]+", ""):gsub("%s+$", ""):sub(1, 200)
  -- A later download that goes on must not take what one server has named so for its own beginning.
  if match(name, "%.part$") or match(name, "%.part%.info$") then name = name .. ".download" end
  return name ~= "" and name or "index"
end

local function exists(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

-- The path for an answer, and whether a file there may be replaced.
local function place(response, path)
  if path:sub(-1) ~= "/" then return path, true end
  local name = M.name(response)
  for i = 0, 1000 do
    local full = path .. (i == 0 and name or (name:gsub("(.)(%.[^.]*)$", "%1-" .. i .. "%2")))
    if i > 0 and full == path .. name then full = full .. "-" .. i end
    if not exists(full) then return full, false end
  end
  return nil
end

-- Writing -----------------------------------------------------------------------------------------

-- Pours the rest of an answer's body into an open file. True, or nil, message, err.
local function pour(response, file, path)
  local ok, message, err = streaming.pour(response, file)
  if not ok and err.code == "unwritable_file" then
    return unwritable(path, { message = err.cause, errno = err.errno })
  end
  if not ok then return nil, message, err end
  local cause, _
  ok, _, cause = file:close()
  if not ok then return unwritable(path, cause) end
  return true
end

-- Moves a finished file to its place. True, or nil, message, err.
local function move(part, path, replace)
  if not replace then
    -- A new name was free a moment ago; it must still be.
    local claimed, _, cause = core.file(path, "new")
    if not claimed then return unwritable(path, cause) end
    claimed:close()
  end
  local ok, reason = os.rename(part, path)
  if ok then return true end
  if not replace then os.remove(path) end
  return unwritable(path, { message = reason })
end

--- response:save(path): the body, or what is left of it, into a file. A path that ends in "/" is a folder.
-- @return the path, or nil, message, err
function M.save(response, path)
  if type(path) ~= "string" or path == "" or path:find("\0", 1, true) then
    error("bad argument #1 to 'save' (a path expected)", 2)
  end
  local full, replace = place(response, path)
  if not full then return unwritable(path) end
  local part = full .. "." .. encoding.random(4) .. ".part"
  local file, _, cause = core.file(part, "new")
  if not file then return unwritable(part, cause) end
  local ok, message, err = pour(response, file, part)
  if ok then ok, message, err = move(part, full, replace) end
  if ok then return full end
  file:close()
  os.remove(part)
  return nil, message, err
end

-- Going on ----------------------------------------------------------------------------------------

-- What a part is a part of: a validator (RFC 9110 13.1.5), and the URL.
local function validator(response)
  local tag = response.headers.etag
  if tag and match(tag, '^"[^"]*"$') then return tag end
  return response.headers["last-modified"]
end

local function read_info(path, address)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read(8192) or ""
  file:close()
  local of, mark = match(text, "^(%x+)\n([^\n]+)\n$")
  return of == encoding.hash("SHA-256", address) and mark or nil
end

local function write_info(path, address, mark)
  os.remove(path)
  local file = core.file(path, "new")
  if not file then return end
  -- The URL may hold a secret: only its hash is kept.
  file:write(encoding.hash("SHA-256", address) .. "\n" .. mark .. "\n")
  file:close()
end

-- Whether an answer of 206 goes on exactly at `size` (RFC 9110 14.4).
local function continues(response, size)
  local first, last, total = match(response.headers["content-range"] or "", "^bytes (%d+)%-(%d+)/([%d*]+)$")
  if not first or #first > 15 or #last > 15 or tonumber(first) ~= size then return false end
  local length = response.headers["content-length"]
  if length and tonumber(length) ~= tonumber(last) - size + 1 then return false end
  return total == "*" or tonumber(last) + 1 == tonumber(total)
end

-- The options of the request itself. Only plain bytes can be counted.
local function asking(given, size, mark)
  local headers = {}
  for name, value in pairs(given.headers or {}) do headers[name] = value end
  if mark then
    headers.Range, headers["If-Range"] = format("bytes=%.0f-", size), mark
  end
  local progress = given.progress
  return with(given, {
    headers = headers, stream = true, decompress = false,
    progress = progress and function(received, length) progress(size + received, length and size + length) end,
  })
end

-- Asks for what `file`, the part of an earlier call, lacks, and moves it to its place once it is whole. The
-- answer, or nil, message, err; the file is left open.
local function go_on(ask, address, given, file, part)
  local info = part .. ".info"
  local size = file:size() or 0
  local mark = size > 0 and read_info(info, address) or nil
  local response, message, err = ask(asking(given, mark and size or 0, mark))
  if response and mark and (response.status == 416 or response.status == 206 and not continues(response, size)) then
    response:close()
    mark = nil
    response, message, err = ask(asking(given, 0))
  end
  if not response then return nil, message, err end
  if response.status ~= 200 and not (mark and response.status == 206) then
    response.body, message, err = response:read "a"
    if not response.body then return nil, message, err end
    return response
  end
  local ok
  if response.status == 200 then
    local _, cause
    ok, _, cause = file:clear()
    if not ok then
      response:close()
      return unwritable(part, cause)
    end
    os.remove(info)
    local new = validator(response)
    if new then write_info(info, address, new) end
  end
  ok, message, err = pour(response, file, part)
  if ok then ok, message, err = move(part, given.save, true) end
  if not ok then return nil, message, err end
  os.remove(info)
  response.saved = given.save
  return response
end

local function resume(ask, address, given)
  local part = given.save .. ".part"
  local file, _, cause = core.file(part, "resume")
  if not file then return unwritable(part, cause) end
  local response, message, err = go_on(ask, address, given, file, part)
  -- Nothing came, and nothing had come before: nothing is left behind. It is locked, and so nobody else's.
  if not (response and response.saved) and file:size() == 0 then os.remove(part) end
  file:close() -- and its lock with it
  return response, message, err
end

--- A request with the option `save`.
-- @param ask function(options) that sends the request
-- @param address its URL, as given
-- @param given the options
-- @return the answer, its body saved (answer.saved is the path) where its status is 200; or nil, message, err
function M.fetch(ask, address, given)
  if given.resume then
    if given.save:sub(-1) == "/" then error("bad option 'resume' (save must name a file then)", 0) end
    return resume(ask, address, given)
  end
  local response, message, err = ask(with(given, { stream = true }))
  if not response then return nil, message, err end
  if response.status ~= 200 then
    response.body, message, err = response:read "a"
    if not response.body then return nil, message, err end
    return response
  end
  response.saved, message, err = M.save(response, given.save)
  if not response.saved then return nil, message, err end
  return response
end

return M

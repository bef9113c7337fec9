-- Sessions in a file, for another process: see sessions.lua.
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local sessions = require "tlsconnect.sessions"

local fresh, insert, LONGEST, SIZE, Sessions = sessions.fresh, sessions.insert, sessions.LONGEST, sessions.SIZE,
  sessions.Sessions

-- A file is a line that names the form, a line with the context's identity, and the entries: a line with
-- since, till and three lengths, the key, the data, and what early data needs; at the end the hash of all
-- before it. Other forms are refused: what that costs is one full handshake.
local FORM = "tlsconnect sessions 2\n"
local FILE_LIMIT = 4 * 1024 * 1024

local function fail(path, cause)
  return errors.fail(errors.new { step = "setup", code = cause.code, errno = cause.errno,
    message = ("%s: %s"):format(errors.escape(path, 200), cause.message) })
end

local function bad(path, why)
  return fail(path, { code = "unreadable_file", message = why })
end

-- A key that names an object of this process means nothing to another one.
local function lasting(key)
  return not key:find("#%d")
end

--- Writes them to a file that only this user can read. identity: a text that says whose they are.
-- Their number, or nil, message, err.
function Sessions:save(path, identity)
  local parts, saved, now = { FORM, ("%d:%s\n"):format(#identity, identity) }, 0, os.time()
  for key, list in pairs(self.lists) do
    for _, entry in ipairs(list) do
      if fresh(entry, now) and lasting(key) then
        saved = saved + 1
        local early = entry.early and require("tlsconnect.early").pack(entry.early) or ""
        parts[#parts + 1] = ("%d %d %d %d %d\n"):format(entry.since, entry.till, #key, #entry.data, #early)
        parts[#parts + 1] = key
        parts[#parts + 1] = entry.data
        parts[#parts + 1] = early
      end
    end
  end
  local text = table.concat(parts)
  local hash, _, cause = core.message_digest("SHA-256", text)
  if not hash then return fail(path, cause) end
  local ok
  ok, _, cause = core.write_private(path, text .. hash)
  if not ok then return fail(path, cause) end
  return saved
end

-- The entries of a file's text, or nil and why it is none.
local function parse(text, identity)
  if text:sub(1, #FORM) ~= FORM then return nil, "it holds no sessions, or those of another version" end
  local body, hash = text:sub(1, -33), text:sub(-32)
  if #text < #FORM + 32 or core.message_digest("SHA-256", body) ~= hash then
    return nil, "it is cut or was changed"
  end
  local size, at = body:match("^(%d+):()", #FORM + 1)
  if not size or body:sub(at, at + size) ~= identity .. "\n" then
    return nil, "its sessions are those of other certificates, roots or versions"
  end
  at = at + size + 1
  local entries = {}
  while at <= #body do
    local since, till, key_size, data_size, early_size, start =
      body:match("^(%d+) (%d+) (%d+) (%d+) (%d+)\n()", at)
    if not since then return nil, "it holds no sessions" end
    local data, early = start + key_size, start + key_size + data_size
    local stop = early + early_size
    if stop > #body + 1 then return nil, "it is cut" end
    local entry = { key = body:sub(start, data - 1), data = body:sub(data, early - 1),
      since = tonumber(since), till = tonumber(till) }
    if stop > early then
      entry.early = require("tlsconnect.early").unpack(body:sub(early, stop - 1))
      if not entry.early then return nil, "it holds no sessions" end
    end
    entries[#entries + 1] = entry
    at = stop
  end
  return entries
end

--- Reads what save() wrote, and keeps what is still good of it. A file that others may read or write, or
-- that is not whole, is refused. The number of sessions, or nil, message, err.
function Sessions:load(path, identity)
  local text, _, cause = core.read_private(path, FILE_LIMIT)
  if not text then return fail(path, cause) end
  local entries, why = parse(text, identity)
  if not entries then return bad(path, why) end
  local count, now = 0, os.time()
  for _, entry in ipairs(entries) do
    if fresh(entry, now) and #entry.data <= SIZE then
      insert(self, entry.key, { data = entry.data, since = entry.since, early = entry.early,
        till = math.min(entry.till, entry.since + LONGEST) })
      count = count + 1
    end
  end
  return count
end

return Sessions

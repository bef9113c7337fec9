-- Methods of a connection for the long bodies of https: see stream.lua.
local errors = require "tlsconnect.error"
local Connection = require "tlsconnect.stream"

local absent, context, deadline_of, failed = Connection._absent, Connection._context, Connection._deadline_of,
  Connection._failed
local named, occupied, pause = Connection._named, Connection._occupied, Connection._pause

-- nil, message, err, written of a pour that failed.
local function not_poured(self, cause, written)
  local _, message, err
  if type(cause) == "table" and cause.file then
    err = context(self)
    err.code, err.errno, err.cause = "unwritable_file", cause.errno, cause.message
    err.message = "the file cannot be written: " .. cause.message
    _, message, err = errors.fail(errors.new(err))
  else
    _, message, err = failed(self, cause)
  end
  return nil, message, err, written or 0
end

--- Reads into an open file (Lua's), with no string in between: what comes until the next pause, `most` bytes
-- of it at most. What the file holds back is written first. Not for pipes: see core.pourable.
-- How many bytes, at least one; or nil, message, err, and how many were written before the error. What a
-- file does not take (code "unwritable_file") stays for the next call.
function Connection:pour(file, most)
  local ok, message, err = true, nil, nil
  if not self.stream then ok, message, err = absent(self) end
  if ok and self.reader then ok, message, err = occupied(self, "reader") end
  if ok and self.gathered then ok, message, err = self:flush() end
  local deadline = deadline_of(self)
  while ok do
    local done, want, cause, written = self.stream:pour(file, most)
    if done then return done end
    if want ~= "want_read" and want ~= "want_write" then return not_poured(self, cause or want, written) end
    ok, message, err = pause(self, "reader", want, deadline)
  end
  return nil, message, err, 0
end

-- More bytes than any read gets: a read of so many takes in what is there and hands out nothing.
local ALL_THERE_IS = 2 ^ 40

-- Whether the peer has said more than `most` bytes, or ended.
local function heard(self, most)
  self.still = nil
  local _, want = self.stream:read(ALL_THERE_IS)
  return want ~= "want_read" and want ~= "want_write" or self:buffered() > most
end

--- Sends as send() does, but stops as soon as the peer has said more than `most` bytes (default 0), or has
-- ended: it may not want the rest, and may not even read it. Then: nil, "answered", last; what the peer
-- said waits for read().
function Connection:offer(data, i, j, most)
  i, j = i or 1, j or -1
  local _, ok, message, err
  if not self.stream or self.writer then
    if self.writer then _, message, err = occupied(self, "writer") else _, message, err = named(self, "closed") end
    return nil, message, i - 1, err
  end
  local deadline, last = deadline_of(self), i - 1
  while true do
    if not self.reader and heard(self, most or 0) then return nil, "answered", last end
    local done, want, cause, sent = self.stream:write(data, last + 1, j)
    if done then return done end
    if want ~= "want_read" and want ~= "want_write" then
      _, message, err = failed(self, cause)
      return nil, message, sent, err
    end
    last = cause
    ok, message, err = pause(self, "writer", "both", deadline)
    if not ok then return nil, message, last, err end
  end
end

return Connection

--- Content codings (RFC 9110 8.4): a body as it was before it was compressed. What comes out is as bounded
-- as what comes in: a few bytes that claim to be gigabytes stop at the limit.

local body = require "tlsconnect.https.body"
local optional = require "tlsconnect.optional"
local errors = require "tlsconnect.error"
local http1 = require "tlsconnect.https.http1"

local gmatch, lower, match = string.gmatch, string.lower, string.match

local M = {}

local MAX_CODINGS = 4
local PIECE = 65536
-- A body that grows beyond this many bytes must not grow more than so many times: text and logs do not,
-- bombs do. `max_body`, where it is given, takes the place of the first.
local GROWN, RATIO = 64 * 1024 * 1024, 100

-- Old names for the same (RFC 9110 8.4.1.3), and the one that does nothing.
local aliases = { ["x-gzip"] = "gzip" }

-- The codings in the order in which they were applied, or nil and what is wrong.
local function parse(fields)
  local list = {}
  for _, value in ipairs(fields:list("content-encoding")) do
    for member in gmatch(value .. ",", "([^,]*),") do
      local name = lower(match(member, "^[ \t]*([^ \t]*)"))
      if name ~= "" and name ~= "identity" then
        if not match(member, "^[ \t]*[^ \t]+[ \t]*$") then
          return nil, "in a coding that is not known: " .. http1.shown(member)
        end
        if #list == MAX_CODINGS then return nil, ("in more than %d codings"):format(MAX_CODINGS) end
        list[#list + 1] = aliases[name] or name
      end
    end
  end
  return list
end

local Reader = {}
Reader.__index = Reader

-- nil, message, err for a body that cannot be decoded.
local function refuse(self, code, ...)
  local _, message, err = http1.refuse(self.at, code, ...)
  self.problem = err
  for _, decoder in ipairs(self.decoders) do decoder:close() end
  return nil, message, err
end

-- The next bytes that stage `n` takes in: of the stage before it, or of the body. nil at the end.
local pull

-- The next bytes that come out of stage `n`.
local function decoded(self, n, room)
  local decoder, stage = self.decoders[n], self.stages[n]
  while true do
    local out, next_or_message, cause = decoder:decode(stage.data, stage.from, room)
    if not out then
      return refuse(self, cause.code, "sent a body in a broken coding (%s): %s", self.codings[n], next_or_message)
    end
    stage.from = next_or_message
    if out ~= "" then
      if n > 1 then -- what is between two codings is bounded too
        stage.produced = stage.produced + #out
        if stage.produced > self.max and stage.produced > self.received * RATIO then
          return refuse(self, "too_long", "sent a body that grows beyond %.0f bytes as it is decoded", self.max)
        end
      end
      return out
    end
    local data, message, err = pull(self, n + 1)
    if err then return nil, message, err end
    if not data then
      if decoder:finished() or self.received == 0 and self.reader.kind ~= "close" then return nil end
      return refuse(self, "truncated", "sent a body whose coding (%s) breaks off before its end", self.codings[n])
    end
    stage.data, stage.from = data, 1
  end
end

function pull(self, n)
  if self.decoders[n] then return decoded(self, n) end
  local data, message, err = self.reader:read(PIECE)
  if data then self.received = self.received + #data end
  return data, message, err
end

--- As Body:read().
function Reader:read(limit)
  if self.problem then return errors.fail(self.problem) end
  if self.done then return nil end
  local data, message, err = decoded(self, 1, limit)
  if err then return nil, message, err end
  if not data then
    self.done = true
    for _, decoder in ipairs(self.decoders) do decoder:close() end
    return nil
  end
  local produced = self.produced + #data
  self.produced = produced
  if produced > self.max and produced > self.received * RATIO then
    return refuse(self, "too_long", "sent a body that grows beyond %.0f bytes as it is decoded", self.max)
  end
  return data
end

--- As Body:all().
function Reader:all(max)
  local add, result = body.collector()
  local size = 0
  while true do
    local data, message, err = self:read()
    if err then return nil, message, err end
    if not data then return result() end
    size = size + #data
    if size > max then
      return refuse(self, "too_long", "sent a body longer than %.0f bytes (once it is decoded)", max)
    end
    add(data)
  end
end
Reader.rest = Reader.all

--- A reader of the decoded body, with what of a reader's (https/body.lua) surface an answer uses. It gives
-- the same reader back where nothing is encoded.
-- @param reader the body as it comes
-- @param answer its head: of 206, a part of what was encoded, nothing can be decoded
-- @param max how many decoded bytes are no bomb, however few they were made of; nil for 64 MiB
-- @return a reader, or nil, message, err
function M.decode(reader, answer, max)
  if reader.done or answer.status == 206 then return reader end
  local codings, problem = parse(answer.headers)
  if not codings then return http1.refuse(reader.at, "bad_coding", "sent a body %s", problem) end
  if #codings == 0 then return reader end
  local self = setmetatable({
    reader = reader, at = reader.at, kind = reader.kind, done = false, received = 0, produced = 0,
    max = max or GROWN, codings = {}, decoders = {}, stages = {},
  }, Reader)
  -- The coding applied last is taken off first: it stands at the end, next to the reader.
  for i, name in ipairs(codings) do
    local decoder, message = optional.decoder(name)
    if not decoder then
      return refuse(self, "bad_coding", "sent a body in the coding %s: %s", http1.shown(name), message)
    end
    self.codings[i], self.decoders[i] = name, decoder
    self.stages[i] = { data = "", from = 1, produced = 0 }
  end
  return self
end

return M

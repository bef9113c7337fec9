-- Sessions to take up again. What a server gave at the end of one connection saves the next one the
-- certificates and their proof (RFC 8446 2.2): a third of the time.
--
-- Each context has its own, so that trust, certificates and versions are those of the context. The key
-- of an entry is all else that the session stands for: host, port, name, and every option that the
-- verification depends on. Nothing is kept before all checks have passed, and they are made anew when a
-- session is taken up, on the certificates that it carries. An entry is used once (RFC 8446 C.4): each
-- connection brings a new one. Their number, size and life are bounded, whatever the server says.
local describe = require "tlsconnect.describe"
local late = require "tlsconnect.late"

local M = {}

local Sessions = {}
Sessions.__index = Sessions

-- Entries in all and of one key; bytes of one and of all; the longest life, in seconds, and that of a
-- session whose server names none (RFC 8446 4.6.1 allows seven days).
local ENTRIES, ENTRIES_OF_KEY, SIZE, SIZES = 256, 8, 32768, 2 * 1024 * 1024
local LONGEST, USUAL = 24 * 3600, 2 * 3600

-- Options that leave no trace in a session, or are looked at by themselves; and what https says beside them.
local passing = {
  context = true, timeout = true, timeouts = true, wait = true, trace = true, keylog = true, family = true,
  local_address = true, allow_address = true, session_cache = true, early_data = true, server_name = true,
  proxy = true, unix_socket = true, tls = true, first = true,
}

function M.new()
  return setmetatable({ lists = {}, count = 0, size = 0 }, Sessions)
end

--- The key of a connection, or nil where no session is to be kept. terms: what the call goes by; given: its own
-- options, without its context's; hop: what it goes through.
function M.key(terms, given, host, port, peer, alpn, hop)
  if terms.session_cache == false then return nil end
  -- With a check muted, a session stands for less than one that passed it.
  if terms.insecure_skip_verify or terms.insecure_skip_issuer or terms.insecure_skip_dates
    or terms.insecure_skip_revocation or terms.insecure_skip_name then return nil end
  local more = next(given) and describe.options(given, passing)
  return ("%s|%d|%s|%s|%s|%s"):format(host, port or 0, peer.name or peer.ip, alpn and describe.value(alpn) or "",
    hop or "", more or "")
end

local function remove(self, key, list, i)
  local entry = table.remove(list, i)
  self.count, self.size = self.count - 1, self.size - entry.size
  if #list == 0 then self.lists[key] = nil end
  return entry
end

-- The clock of days, because sessions may be saved; one that was set back makes them stale.
local function fresh(entry, now)
  return entry.since <= now and now < entry.till
end

--- Takes a session out, the newest one, and what is kept beside it for early data (or nil). generation: of
-- the roots, as they are now: with others it is void.
function Sessions:take(key, generation)
  local list, now = self.lists[key], os.time()
  while list and list[1] do
    local entry = remove(self, key, list, #list)
    if fresh(entry, now) and (entry.generation or generation) == generation then return entry.data, entry.early end
  end
  return nil
end

local function make_room(self, size)
  while self.count >= ENTRIES or self.size + size > SIZES do
    local oldest_key, oldest
    for key, list in pairs(self.lists) do
      if not oldest or list[1].since < oldest.since then oldest_key, oldest = key, list[1] end
    end
    remove(self, oldest_key, self.lists[oldest_key], 1)
  end
end

local function insert(self, key, entry)
  entry.size = #entry.data + (entry.early and entry.early.size or 0)
  make_room(self, entry.size)
  local list = self.lists[key]
  if list and #list >= ENTRIES_OF_KEY then
    remove(self, key, list, 1)
    list = self.lists[key]
  end
  if not list then
    list = {}
    self.lists[key] = list
  end
  list[#list + 1] = entry
  self.count, self.size = self.count + 1, self.size + entry.size
end

--- Keeps a session. life: the seconds that the server gives it, or nil. generation: of the roots it was
-- verified by; till: a time, in seconds since 1970, when that verification ends, or nil. early: what early
-- data needs beside it (early.lua), or nil.
function Sessions:give(key, data, life, generation, till, early)
  life = math.min(life or USUAL, LONGEST)
  if life <= 0 or #data > SIZE then return end
  local now = os.time()
  till = math.min(now + life, till or math.huge)
  if till <= now then return end
  insert(self, key, { data = data, since = now, till = till, generation = generation, early = early })
end

--- Drops them all.
function Sessions:clear()
  self.lists, self.count, self.size = {}, 0, 0
end

-- What sessions/file.lua stands on.
M.fresh, M.insert, M.LONGEST, M.SIZE, M.Sessions = fresh, insert, LONGEST, SIZE, Sessions

late.methods(Sessions, "tlsconnect.sessions.file", "save load")

return M

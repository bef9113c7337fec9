-- What was fetched, kept for the next verification: as bytes, which are judged again each time (who signed,
-- for which certificate, how fresh), so that nothing is believed because it is here.
local cache = {}

-- So many answers, and so many bytes of them.
local ENTRIES, BYTES = 512, 16 * 1024 * 1024

local Cache = {}
Cache.__index = Cache

--- A cache of its own. entries, bytes: how much it may hold.
function cache.new(entries, bytes)
  return setmetatable({ kept = {}, order = {}, first = 1, last = 0, count = 0, size = 0,
    entries = entries or ENTRIES, bytes = bytes or BYTES }, Cache)
end

--- Forgets what is under a key.
function Cache:forget(key)
  local entry = self.kept[key]
  if not entry then return end
  self.kept[key] = nil
  self.order[entry.place] = nil
  self.count, self.size = self.count - 1, self.size - #entry.bytes
end

--- The bytes under a key and the time (seconds since the epoch) until which they need not be asked for
-- again; nil.
function Cache:get(key)
  local entry = self.kept[key]
  if entry then return entry.bytes, entry.till end
end

--- Keeps bytes under a key. The oldest make room.
function Cache:put(key, bytes, till)
  self:forget(key)
  if #bytes > self.bytes / 2 then return end
  self.last = self.last + 1
  self.order[self.last] = key
  self.kept[key] = { bytes = bytes, till = till, place = self.last }
  self.count, self.size = self.count + 1, self.size + #bytes
  while self.count > self.entries or self.size > self.bytes do
    local oldest = self.order[self.first]
    if oldest then self:forget(oldest) end
    self.first = self.first + 1
  end
end

--- Forgets everything.
function Cache:clear()
  self.kept, self.order, self.first, self.last, self.count, self.size = {}, {}, 1, 0, 0, 0
end

return cache

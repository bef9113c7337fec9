--- Hosts that are only ever asked over TLS, because they have said so: HTTP Strict Transport Security (RFC 6797).
-- http:// to one of them becomes https:// before anything is sent. Kept in memory, one store for each client, or
-- in a file (the option `hsts`), in the form that curl writes.

local core = require "tlsconnect.core"
local url_of = require "tlsconnect.https.url"

local find, gmatch, lower, match, sub = string.find, string.gmatch, string.lower, string.match, string.sub

local Store = {}
Store.__index = Store

local M = {}

local MOST = 10000 -- hosts
local LONGEST = 10 * 365 * 86400

--- Reads the header: how long, in seconds, and whether hosts below count; nil where RFC 6797 6.1 has it ignored.
function M.parse(text)
  local seen, age = {}, nil
  for directive in gmatch(text .. ";", '([^;]*);') do
    local name, value = match(directive, "^[ \t]*([^ \t=]*)[ \t]*(=?.-)[ \t]*$")
    name = lower(name)
    if name ~= "" then
      if seen[name] then return nil end -- 6.1: each at most once
      seen[name] = true
      if name == "max-age" then
        local digits = match(value, '^=[ \t]*"?(%d+)"?$')
        if not digits or find(value, '"', 1, true) and not find(value, '^=[ \t]*"%d+"$') then return nil end
        age = #match(digits, "^0*(%d*)$") > 9 and LONGEST or math.min(tonumber(digits), LONGEST)
      elseif name == "includesubdomains" and value ~= "" then
        return nil
      end
    end
  end
  if not age then return nil end
  return age, seen.includesubdomains or false
end

local function room(self)
  if self.count < MOST then return end
  local now, first, soonest = self.now(), nil, nil
  for host, entry in pairs(self.hosts) do
    if entry.expires <= now then
      self.hosts[host] = nil
      self.count = self.count - 1
    elseif not soonest or entry.expires < soonest then
      first, soonest = host, entry.expires
    end
  end
  if self.count >= MOST then
    self.hosts[first] = nil
    self.count = self.count - 1
  end
end

local function put(self, host, expires, below)
  if not self.hosts[host] then
    room(self)
    self.count = self.count + 1
  end
  self.hosts[host] = { expires = expires, below = below }
end

--- Takes the header of an answer that came from a URL over verified TLS. What a host says holds for itself, and
-- for those below it where it says so; never for one above (O6).
function Store:receive(url, text)
  if url.scheme ~= "https" or core.literal(url.host) then return end
  local age, below = M.parse(text)
  if not age then return end
  if age > 0 then return put(self, url.host, self.now() + age, below) end
  if self.hosts[url.host] then
    self.hosts[url.host] = nil
    self.count = self.count - 1
  end
end

--- Whether a host, a name without a dot at its end, is only asked over TLS.
function Store:knows(host)
  local now, name = self.now(), host
  while name do
    local entry = self.hosts[name]
    if entry and entry.expires > now and (name == host or entry.below) then return true end
    name = match(name, "^[^.]*%.(.+)$")
  end
  return false
end

--- The URL over TLS, where its host is known (RFC 6797 8.3: port 80 becomes 443, another stays).
function Store:secure(url)
  if url.scheme ~= "http" or core.literal(url.host) or not self:knows(url.host) then return url end
  local secured = url_of.parse("https" .. sub(url_of.text(url), 5))
  if not secured.absolute and url.absolute then
    local copy = {}
    for name, value in pairs(secured) do copy[name] = value end
    copy.absolute = true
    return copy
  end
  return secured
end

-- The file: host "20261231 23:59:59", with a dot before the host where those below count; UTC.
function Store:load(path)
  local lines, message, err = require("tlsconnect.https.state_file").read(path)
  if not lines then return nil, message, err end
  local date = require("tlsconnect.https.set_cookie").date
  local months = { "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" }
  for _, line in ipairs(lines) do
    local below, host, year, month, day, time =
      match(line, '^(%.?)([^%s"]+) "(%d%d%d%d)(%d%d)(%d%d) (%d%d:%d%d:%d%d)"$')
    if not host then below, host = match(line, '^(%.?)([^%s"]+) "unlimited"$') end
    local name = host and not core.literal(host) and core.to_ascii(host)
    local expires
    if name and not year then
      expires = self.now() + LONGEST
    elseif name and months[tonumber(month)] then
      expires = date(("%s %s %s %s"):format(day, months[tonumber(month)], year, time))
    end
    if expires and expires > self.now() then put(self, name, expires, below == ".") end
  end
  return true
end

--- Writes the file, for its user alone, in the place of what was there. True, or nil, message, err.
function Store:save(path)
  local lines, now = {}, self.now()
  for host, entry in pairs(self.hosts) do
    if entry.expires > now then
      lines[#lines + 1] = ('%s%s "%s"'):format(entry.below and "." or "", host,
        os.date("!%Y%m%d %H:%M:%S", entry.expires))
    end
  end
  table.sort(lines)
  table.insert(lines, 1, "# HSTS: the hosts that are only asked over TLS")
  return require("tlsconnect.https.state_file").write(path or self.path, table.concat(lines, "\n") .. "\n")
end

--- A store. path: of its file, read now, where it exists. options: { now = function, in os.time's place }.
-- @return the store, or nil, message, err
function M.store(path, options)
  local store = setmetatable({ hosts = {}, count = 0, path = path, now = options and options.now or os.time }, Store)
  if path then
    local ok, message, err = store:load(path)
    if not ok and err.code ~= "not_found" then return nil, message, err end
  end
  return store
end

return M

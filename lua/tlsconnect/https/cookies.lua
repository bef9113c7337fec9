--- A cookie jar: RFC 6265bis. A client has one of its own:
--
--     local shop = https.client { cookies = true }            -- the default of a client
--     local shop = https.client { cookies = "cookies.txt" }   -- a Netscape file, read now and saved by close()
--     shop.cookies:list()  :set(url, text)  :header(url)  :clear()  :load(path)  :save(path)
--
-- With libpsl no cookie is for a public suffix (co.uk); without it none is for a single label, nor for the
-- second one of a country's that is usually such a suffix.

local core = require "tlsconnect.core"
local optional = require "tlsconnect.optional"
local set_cookie = require "tlsconnect.https.set_cookie"
local url_of = require("tlsconnect.https.url").parse

local find, lower, match, sub = string.find, string.lower, string.match, string.sub

local Jar = {}
Jar.__index = Jar
Jar.__name = "tlsconnect.cookies"

local M = {}

-- RFC 6265bis 6.1 asks for 50 of a host and 3000 in all. Servers refuse heads beyond 8 KB.
local PER_SITE, IN_ALL = 180, 3000
local LEFT = 0.9 -- how much of that stays when there is more: the next ones then cost nothing
local MAX_SENT, MAX_HEADER, MAX_RECEIVED = 150, 8190, 50

-- Public suffixes -----------------------------------------------------------------------------------

local list

local function suffixes()
  if list == nil then list = optional.suffixes and optional.suffixes() or false end
  return list
end

local usual = {}
for _, label in ipairs { "ac", "co", "com", "edu", "gob", "gov", "go", "gouv", "gv", "id", "info", "mil", "ne", "net",
  "nom", "or", "org", "sch" } do
  usual[label] = true
end

--- Whether a name is one under which anybody registers.
function M.public(name)
  if not find(name, ".", 1, true) then return true end
  local known = suffixes()
  if known then return known:public(name) end
  local label = match(name, "^([^.]+)%.%a%a$")
  return usual[label] or false
end

--- What of a host's name was registered: the same site is what has that in common. Addresses, single labels
-- and public suffixes are sites of their own.
function M.site(host)
  if core.literal(host) then return host end
  local known = suffixes()
  if known then return known:registrable(host) or host end
  local name = host
  while true do
    local above = match(name, "^[^.]+%.(.+)$")
    if not above or M.public(above) then return name end
    name = above
  end
end

-- Matching ------------------------------------------------------------------------------------------

-- 5.1.3. An address matches itself alone, whatever its digits end in.
local function domain_matches(host, domain)
  if host == domain then return true end
  return sub(host, -#domain - 1) == "." .. domain and not core.literal(host)
end

-- 5.1.4
local function path_matches(path, prefix)
  if path == prefix then return true end
  if sub(path, 1, #prefix) ~= prefix then return false end
  return sub(prefix, -1) == "/" or sub(path, #prefix + 1, #prefix + 1) == "/"
end

local function default_path(path)
  return match(path, "^(/.*)/[^/]*$") or "/"
end

-- The store -----------------------------------------------------------------------------------------

local function key_of(cookie)
  return (cookie.host_only and "h" or "d") .. cookie.name .. "\0" .. cookie.path
end

local function remove(self, domain, key)
  local kept = self.domains[domain]
  local cookie = kept and kept[key]
  if cookie then
    kept[key] = nil
    self.sites[cookie.site] = self.sites[cookie.site] - 1
    self.count = self.count - 1
    if next(kept) == nil then self.domains[domain] = nil end
  end
end

-- Calls f(cookie, domain, key) with each cookie that still lives, and drops the others.
local function each(self, f)
  local now = self.now()
  local gone = {}
  for domain, kept in pairs(self.domains) do
    for key, cookie in pairs(kept) do
      if cookie.expires and cookie.expires <= now then
        gone[#gone + 1] = { domain, key }
      else
        f(cookie, domain, key)
      end
    end
  end
  for _, one in ipairs(gone) do remove(self, one[1], one[2]) end
end

-- 5.7, at the end: of those that may go, the ones that are not secure go first, then those used longest ago.
local function evict(self, wanted, most)
  local found = {}
  each(self, function(cookie, domain, key)
    if not wanted or cookie.site == wanted then found[#found + 1] = { cookie, domain, key } end
  end)
  if #found <= most then return end
  most = math.floor(most * LEFT)
  table.sort(found, function(a, b)
    local x, y = a[1], b[1]
    if (x.secure or false) ~= (y.secure or false) then return not x.secure end
    if x.used ~= y.used then return x.used < y.used end
    return x.number < y.number
  end)
  for i = 1, #found - most do remove(self, found[i][2], found[i][3]) end
end

-- Puts a cookie in that was judged before.
local function store(self, cookie)
  local kept = self.domains[cookie.domain]
  local key = key_of(cookie)
  local old = kept and kept[key]
  local now = self.now()
  if cookie.expires and cookie.expires <= now then
    if old then remove(self, cookie.domain, key) end
    return
  end
  self.number = self.number + 1
  cookie.number = old and old.number or self.number
  cookie.created, cookie.used = old and old.created or now, now
  cookie.site = M.site(cookie.domain)
  if not kept then
    kept = {}
    self.domains[cookie.domain] = kept
  end
  kept[key] = cookie
  if old then return end -- of the same site
  self.count = self.count + 1
  local sites = self.sites
  sites[cookie.site] = (sites[cookie.site] or 0) + 1
  if sites[cookie.site] > PER_SITE then evict(self, cookie.site, PER_SITE) end
  if self.count > IN_ALL then evict(self, nil, IN_ALL) end
end

-- Whether a cookie that is not secure would stand in for a secure one (5.7, step 17).
local function shadows(self, cookie)
  local found = false
  each(self, function(other)
    if other.secure and other.name == cookie.name
      and (domain_matches(cookie.domain, other.domain) or domain_matches(other.domain, cookie.domain))
      and path_matches(cookie.path, other.path) then
      found = true
    end
  end)
  return found
end

-- The name that Domain says, or nil when no cookie may be for it.
local function claimed(cookie, host)
  local domain = cookie.domain
  if find(domain, "[\128-\255]") or core.literal(domain) or core.literal(host) then
    return domain == host and host or nil
  end
  domain = core.to_ascii(domain)
  if not domain then return nil end
  -- "co.uk." would be a name that no list has.
  if sub(cookie.domain, -1) == "." then return nil end
  if M.public(domain) then return domain == host and host or nil end
  return domain_matches(host, domain) and domain or nil
end

local function judge(self, cookie, url)
  local host, secure = url.host, url.scheme == "https"
  if cookie.domain then
    local domain = claimed(cookie, host)
    if not domain then return false end
    cookie.host_only = domain == host and (M.public(domain) or core.literal(host) ~= nil)
    cookie.domain = domain
  else
    cookie.domain, cookie.host_only = host, true
  end
  local explicit = cookie.path
  cookie.path = explicit or default_path(url.path)
  if cookie.secure and not secure then return false end
  if cookie.same_site == "none" and not cookie.secure then return false end
  -- 4.1.3: prefixes, in any case; a cookie without a name may not pretend to have one.
  local name = lower(cookie.name)
  if name == "" then
    local value = lower(cookie.value)
    if find(value, "^__secure%-") or find(value, "^__host%-") then return false end
  end
  if find(name, "^__secure%-") and not cookie.secure then return false end
  if find(name, "^__host%-") and not (cookie.secure and cookie.host_only and explicit == "/") then return false end
  if not cookie.secure and not secure and shadows(self, cookie) then return false end
  return true
end

local function parsed(url)
  if type(url) == "table" then return url end
  local result, problem = url_of(url)
  if not result then error("bad argument #1 (" .. problem .. ")", 3) end
  return result
end

--- Takes one Set-Cookie header of an answer from a URL. True when there is such a cookie now, or none any more;
-- false when it was ignored.
function Jar:set(url, text)
  url = parsed(url)
  local cookie = set_cookie.parse(text, self.now())
  if not cookie or not judge(self, cookie, url) then return false end
  store(self, cookie)
  return true
end

--- Takes the cookies of an answer's headers.
function Jar:receive(url, headers)
  for i, text in ipairs(headers:list "set-cookie") do
    if i > MAX_RECEIVED then break end
    self:set(url, text)
  end
end

--- What the header Cookie says to a URL, or nil for nothing (5.8.3).
-- @param terms { cross_site = true when another site led here, safe = true for GET and its like }; nil: the
--   program itself goes there
function Jar:header(url, terms)
  url = parsed(url)
  local host, now = url.host, self.now()
  local found = {}
  local name = host
  while name do
    local kept = self.domains[name]
    for key, cookie in pairs(kept or {}) do
      if cookie.expires and cookie.expires <= now then
        remove(self, name, key)
      elseif (name == host or not cookie.host_only) and path_matches(url.path, cookie.path)
        and (not cookie.secure or url.scheme == "https")
        and not (terms and terms.cross_site and (cookie.same_site == "strict"
          or cookie.same_site == "lax" and not terms.safe)) then
        found[#found + 1] = cookie
      end
    end
    name = not url.family and match(name, "^[^.]*%.(.+)$") or nil
  end
  if not found[1] then return nil end
  table.sort(found, function(a, b)
    if #a.path ~= #b.path then return #a.path > #b.path end
    return a.number < b.number
  end)
  local parts, size = {}, 0
  for _, cookie in ipairs(found) do
    local part = cookie.name == "" and cookie.value or cookie.name .. "=" .. cookie.value
    if #parts < MAX_SENT and size + #part + 2 <= MAX_HEADER then
      parts[#parts + 1] = part
      size = size + #part + 2
      cookie.used = now
    end
  end
  return parts[1] and table.concat(parts, "; ")
end

--- All cookies, as tables { name, value, domain, path, expires, secure, http_only, same_site, host_only }, sorted.
function Jar:list()
  local all = {}
  each(self, function(cookie)
    all[#all + 1] = { name = cookie.name, value = cookie.value, domain = cookie.domain, path = cookie.path,
      expires = cookie.expires, secure = cookie.secure or false, http_only = cookie.http_only or false,
      same_site = cookie.same_site, host_only = cookie.host_only or false }
  end)
  table.sort(all, function(a, b)
    if a.domain ~= b.domain then return a.domain < b.domain end
    if a.path ~= b.path then return a.path < b.path end
    return a.name < b.name
  end)
  return all
end

--- Drops all cookies, or those of one domain.
function Jar:clear(domain)
  if not domain then
    self.domains, self.sites, self.count = {}, {}, 0
    return
  end
  for key in pairs(self.domains[domain] or {}) do remove(self, domain, key) end
end

--- Reads a Netscape cookie file; its cookies replace those of the same name. True, or nil, message, err.
function Jar:load(path)
  local all, message, err = require("tlsconnect.https.cookie_file").read(path)
  if not all then return nil, message, err end
  for _, cookie in ipairs(all) do store(self, cookie) end
  return true
end

--- Writes a Netscape cookie file, for its user alone, in the place of what was there. SameSite has no place in
-- it. True, or nil, message, err.
function Jar:save(path)
  return require("tlsconnect.https.cookie_file").write(path or self.path, self:list())
end

--- Adds the header to a request, and notes by which sites a call went: what another site's redirect leads to
-- is no request of the program's own (5.2).
function Jar:apply(call, outgoing)
  local host = outgoing.url.host
  if call.host and call.host ~= host and not call.cross_site then
    call.cross_site = M.site(call.host) ~= M.site(host)
  end
  call.host = host
  if self.count == 0 then return true end
  local header = self:header(outgoing.url, { cross_site = call.cross_site, safe = outgoing.method == "GET"
    or outgoing.method == "HEAD" or outgoing.method == "OPTIONS" or outgoing.method == "TRACE" })
  if header then return outgoing:add("Cookie", header) end
  return true
end

--- A jar. path: of the file that save() writes when it is given none; it is read now, where it exists.
-- @param options { now = function, in os.time's place }
-- @return the jar, or nil, message, err
function M.jar(path, options)
  local jar = setmetatable({ domains = {}, sites = {}, count = 0, number = 0, path = path,
    now = options and options.now or os.time }, Jar)
  if path then
    local ok, message, err = jar:load(path)
    if not ok and err.code ~= "not_found" then return nil, message, err end
  end
  return jar
end

--- Whether a value is a jar.
function M.is(value)
  return getmetatable(value) == Jar
end

return M

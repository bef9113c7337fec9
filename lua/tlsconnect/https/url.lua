--- URLs as RFC 3986 has them, with international host names (IDNA) and IPv6 zones (RFC 6874).
-- One parser for everything: what is dialled, what stands in Host and what an origin is compared by
-- are all read off the same table.

local hostname = require "tlsconnect.https.hostname"

local byte, find, format, gsub, lower, match, sub =
  string.byte, string.find, string.format, string.gsub, string.lower, string.match, string.sub

local M = {}

local default_port = { http = 80, https = 443 }

-- What no part behind the authority may hold as it is (RFC 3986 appendix A): encoded, where a browser
-- would too. "%" stays as it came, whatever follows it.
local outside = '[^%w%-._~:/?@!$&\'()*+,;=%%%[%]]'

local function encode_byte(character)
  return format("%%%02X", byte(character))
end

local function encode(part)
  if not find(part, outside) then return part end
  return (gsub(part, outside, encode_byte))
end

--- RFC 3986 5.2.4: "/a/./b/../c" is "/a/c".
local function remove_dots(path)
  if not find(path, "/.", 1, true) then return path end
  local kept, n = {}, 0
  local trailing = false
  for segment in string.gmatch(path, "/([^/]*)") do
    trailing = segment == "." or segment == ".."
    if segment == ".." then
      if n > 0 then kept[n] = nil n = n - 1 end
    elseif segment ~= "." then
      n = n + 1
      kept[n] = segment
    end
  end
  local result = "/" .. table.concat(kept, "/")
  if trailing and sub(result, -1) ~= "/" then result = result .. "/" end
  return result
end

-- Host and port of an authority without its userinfo. Returns host, port text; nil when malformed.
local function split_host(text)
  if sub(text, 1, 1) == "[" then
    local inside, rest = match(text, "^%[([^%[%]]*)%](.*)$")
    if not inside then return nil end
    if rest == "" then return inside, "", true end
    return inside, match(rest, "^:(%d*)$"), true
  end
  local host, port = match(text, "^([^:]*):(%d*)$")
  if host then return host, port end
  return match(text, "^[^:]*$"), ""
end

local function read_port(text, scheme)
  if text == "" then return default_port[scheme] end
  text = match(text, "^0*(%d*)$")
  local port = #text <= 5 and tonumber(text, 10)
  if port and port >= 1 and port <= 65535 then return port end
  return nil
end

local function parse(text)
  if find(text, "[%z\1-\31\127]") then return nil, "the URL holds a control character" end
  local scheme, rest = match(text, "^(%a[%w+.-]*):(.*)$")
  if not scheme then return nil, "the URL has no scheme (http:// or https://)" end
  scheme = lower(scheme)
  if not default_port[scheme] then
    return nil, "the URL's scheme is neither http nor https: " .. scheme
  end
  local authority, tail = match(rest, "^//([^/?#]*)(.*)$")
  if not authority then return nil, "the URL has no host" end
  local userinfo, host_and_port = match(authority, "^(.*)@([^@]*)$")
  if userinfo and find(userinfo, "[^%w%-._~!$&'()*+,;=:%%]") then
    return nil, "the URL's user name or password holds a character that must be percent-encoded"
  end
  local host_text, port_text, bracketed = split_host(host_and_port or authority)
  if not host_text or not port_text then return nil, "the URL's host and port cannot be read" end
  local port = read_port(port_text, scheme)
  if not port then return nil, "the URL's port is not between 1 and 65535" end
  local host, message = hostname.parse(host_text, bracketed)
  if not host then return nil, "the URL's host " .. message end

  local before, fragment = match(tail, "^([^#]*)#(.*)$")
  before = before or tail
  local path, query = match(before, "^([^?]*)%?(.*)$")
  path = remove_dots(encode(path or before))
  query = query and encode(query)
  if path == "" then path = "/" end

  local name = host.name
  local shown = host.family == "inet6" and "[" .. name .. "]" or name
  return {
    scheme = scheme, userinfo = userinfo, host = name, family = host.family, zone = host.zone,
    absolute = host.absolute, port = port,
    path = path, query = query, fragment = fragment and encode(fragment),
    authority = port == default_port[scheme] and shown or shown .. ":" .. port,
    target = query and path .. "?" .. query or path,
    origin = scheme .. "://" .. shown .. (host.zone and "%" .. host.zone or "") .. ":" .. port,
  }
end

-- URLs parsed before, by their text: programs ask for the same ones again.
local known, count = {}, 0

--- Parses an absolute http or https URL.
-- @param text string
-- @return table { scheme, userinfo (as it came, or nil), host (A-labels in lower case, or an address
--   without brackets), zone, absolute (the host ended in a dot), port (number), path, query, fragment,
--   authority (what Host says), target (path and query), origin (what two URLs are compared by) }, or nil
--   and what is wrong with it
-- The table is shared: it is not to be changed.
function M.parse(text)
  local url = known[text]
  if url then return url end
  local message
  url, message = parse(text)
  if not url then return nil, message end
  if #text <= 200 and not url.userinfo then
    if count >= 200 then known, count = {}, 0 end
    known[text] = url
    count = count + 1
  end
  return url
end

--- What parse(text) gave before, where it is still known; else nil.
function M.known(text)
  return known[text]
end

local function copy_of(url)
  local copy = {}
  for name, value in pairs(url) do copy[name] = value end
  copy.text, copy.plain, copy.bare = nil, nil, nil
  return copy
end

--- The URL with a fragment.
function M.with_fragment(url, fragment)
  local copy = copy_of(url)
  copy.fragment = fragment
  return copy
end

--- The URL with more text behind its query. nil and what is wrong when the text cannot stand in a URL.
function M.with_query(url, text)
  if find(text, "[%z\1-\31\127#]") then return nil, "the query holds a control character or a #" end
  local copy = copy_of(url)
  text = encode(text)
  copy.query = url.query and url.query ~= "" and url.query .. "&" .. text or text
  copy.target = url.path .. "?" .. copy.query
  return copy
end

--- The URL as text, without user name and password: these belong in no log, no history.
function M.text(url)
  if url.text then return url.text end
  local authority = url.authority
  if url.zone then authority = gsub(authority, "%]", function() return "%25" .. url.zone .. "]" end) end
  local text = url.scheme .. "://" .. authority .. url.target .. (url.fragment and "#" .. url.fragment or "")
  url.text = text
  return text
end

--- The name that is dialled: a zone or a trailing dot, which Host and SNI leave out, still counts here.
function M.dialled(url)
  if url.zone then return url.host .. "%" .. url.zone end
  return url.absolute and url.host .. "." or url.host
end

--- Resolves a reference against a base (RFC 3986 5.2.2).
-- @param base a parsed URL
-- @param reference string
-- @return a parsed URL, or nil and what is wrong
function M.resolve(base, reference)
  if match(reference, "^%a[%w+.-]*:") then return M.parse(reference) end
  if sub(reference, 1, 2) == "//" then return M.parse(base.scheme .. ":" .. reference) end
  local authority = match(M.text(base), "^[^/]*//[^/?#]*")
  local first = sub(reference, 1, 1)
  if first == "/" then return M.parse(authority .. reference) end
  if first == "?" then return M.parse(authority .. base.path .. reference) end
  if first == "#" or first == "" then return M.parse(authority .. base.target .. reference) end
  return M.parse(authority .. match(base.path, "^.*/") .. reference)
end

--- Decodes %41 to "A".
function M.decode(text)
  return (gsub(text, "%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end))
end

--- Encodes everything but RFC 3986's unreserved characters.
function M.encode(text)
  return (gsub(text, "[^%w%-._~]", encode_byte))
end

return M

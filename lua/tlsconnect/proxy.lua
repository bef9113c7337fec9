--- Proxies: what the option says, and the way through one to the host behind it. A proxy is a link that runs
-- over a connection before the session starts: proxy/connect.lua (HTTP's CONNECT), proxy/socks5.lua.
--
--     proxy = "http://proxy.example:3128"          also https://, socks5://, socks5h://
--     proxy = { url = "https://proxy.example", user = "u", password = "p", ca_file = "company-ca.pem" }
--     proxy = { url = "http://proxy.example:3128", user = "u", password = "p", digest = true }
--     proxy = true                                 what the environment says (https: the default)
--     proxy = false                                none
--
-- With socks5 this side looks the host up, and goes to its addresses in turn; with socks5h the proxy looks it
-- up, as HTTP proxies do. These are told user and password as they are (Basic), or as a digest where they want
-- that alone; with `digest` never in any other way. An https proxy is verified by its own options: those of
-- the table, or the defaults; none of the call's.

local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"

local find, gsub, lower, match = string.find, string.gsub, string.lower, string.match

local M = {}

local default_port = { http = 80, https = 443, socks5 = 1080, socks5h = 1080 }
local links = { http = "connect", https = "connect", socks5 = "socks5", socks5h = "socks5" }

-- What of the option is not for the hop's handshake.
local own = { url = true, user = true, password = true, digest = true, allow_address = true }

local function decode(text)
  return (gsub(text, "%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end))
end

-- nil, message, err for a proxy that is none. Its text is never shown: it may hold a password.
local function bad(where, problem)
  return errors.fail(errors.new { step = "proxy", code = "bad_proxy",
    message = ("the proxy (%s) %s"):format(where, problem) })
end

--- Reads a proxy's URL. `where`: what gave it, for messages.
-- @return { kind, host, port, user, password }, or nil, message, err
function M.parse(text, where)
  if find(text, "[%z\1-\32\127]") then return bad(where, "holds a blank or a control character") end
  local kind, rest = match(text, "^(%a[%w+.-]*)://(.*)$")
  kind, rest = lower(kind or "http"), rest or text
  if not links[kind] then return bad(where, "is of a kind that is not known: " .. errors.escape(kind)) end
  local authority, path = match(rest, "^([^/?#]*)(.*)$")
  if path ~= "" and path ~= "/" then return bad(where, "has something behind its port") end
  local userinfo, place = match(authority, "^(.*)@([^@]*)$")
  place = place or authority
  local host, port = match(place, "^%[([^%[%]]*)%]:?(%d*)$")
  local bracketed = host ~= nil
  if not host then host, port = match(place, "^([^:]*):?(%d*)$") end
  if not host then return bad(where, "has a host or port that cannot be read") end
  local known, problem = require("tlsconnect.https.hostname").parse(host, bracketed)
  if not known then return bad(where, "cannot be reached: the host " .. problem) end
  local number = port == "" and default_port[kind] or #port <= 5 and tonumber(port, 10)
  if not number or number < 1 or number > 65535 then return bad(where, "has no port between 1 and 65535") end
  local user, password
  if userinfo then
    user, password = match(userinfo, "^([^:]*):?(.*)$")
    user, password = decode(user), decode(password)
  end
  local name = known.zone and known.name .. "%" .. known.zone or known.name
  return { kind = kind, host = name, port = number, user = user, password = password }
end

--- What the option says about a destination.
-- @param option the option `proxy`: text, table, true for the environment's; false or nil for none
-- @param scheme "http" or "https": whose variables of the environment count
-- @return a route { kind, host, port, user, password, given = options of the hop }; false for none; or nil,
--   message, err
function M.of(option, scheme, host, port)
  if not option then return false end
  if option == true then return require("tlsconnect.proxy.environment").route(scheme, host, port) end
  if type(option) == "string" then return M.parse(option, "option 'proxy'") end
  if option.kind then return option end -- a route already
  if type(option.url) ~= "string" then error("bad option 'proxy' (a table needs a 'url')", 0) end
  local route, message, err = M.parse(option.url, "option 'proxy'")
  if not route then return nil, message, err end
  if option.user then route.user, route.password = option.user, option.password or "" end
  route.allow_address, route.digest, route.given = option.allow_address, option.digest or nil, {}
  for name, value in pairs(option) do
    if not own[name] then route.given[name] = value end
  end
  return route
end

--- The proxy as a message may name it: without its password.
function M.shown(route)
  return "the proxy " .. errors.peer(route.host, route.port)
end

--- nil, message, err for what a proxy did or said. more: further fields of the error.
function M.refuse(route, code, problem, more)
  local err = more or {}
  err.step, err.code, err.host, err.port = "proxy", code, route.host, route.port
  err.message = M.shown(route) .. " " .. problem
  return errors.fail(errors.new(err))
end

-- An error on the way to the proxy, or on the connection to it, as one of the step "proxy".
local function told(route, err)
  if err.step == "proxy" or err.step == "setup" then return err end
  err.within, err.step, err.host, err.port = err.step, "proxy", route.host, route.port
  local said = err.detail
  err.detail = find(said, errors.peer(route.host, route.port), 1, true) == 1 and "the proxy " .. said
    or M.shown(route) .. ": " .. said
  if err.message == said or err.code == "closed" then err.message = err.detail end
  return err
end

-- The destination as a proxy is told it: { name =, family =, port =, text = "host:port" }.
local function destination(host, port)
  local inside = match(host, "^%[(.*)%]$")
  local address, family, zone = core.literal(inside or host)
  if zone then
    return errors.fail(errors.new { step = "proxy", code = "bad_host", host = host, port = port,
      message = errors.peer(host, port) .. ": an address with a zone means nothing to a proxy" })
  end
  local name = address
  if not name then
    local _, cause
    name, _, cause = core.to_ascii(host)
    if not name then return errors.fail(errors.from(cause, { step = "dns", host = host })) end
  end
  return { name = name, family = family, port = port,
    text = (family == "inet6" and "[" .. name .. "]:" or name .. ":") .. port }
end

-- The hop's own handshake, with its own options.
local function secure(below, route, terms)
  local given = {}
  for name, value in pairs(route.given or {}) do given[name] = value end
  given.server_name = given.server_name or gsub(route.host, "%%.*", "")
  given.wait, given.timeout = terms.wait, math.max(0, terms.deadline - core.now())
  return require("tlsconnect.connection.wrap")(below, given)
end

--- Whether http:// goes to this proxy in absolute form (RFC 9112 3.2.2), and not through it.
function M.forwards(route)
  return links[route.kind] == "connect"
end

-- The hop itself: a connection to the proxy, secured where it is to be, or nil, message, err.
local function hop_to(route, terms)
  local allow = route.allow_address
  if allow == nil then allow = terms.allow_address end
  local below, message, err = require("tlsconnect.connection").open(route.host, route.port, {
    tls = false, proxy = false, timeout = math.max(0, terms.deadline - core.now()), timeouts = terms.timeouts,
    wait = terms.wait, family = terms.family, local_address = terms.local_address, allow_address = allow,
    recorder = terms.recorder,
  })
  if not below or route.kind ~= "https" then return below, message, err end
  local secured
  secured, message, err = secure(below, route, terms)
  if not secured then below:close() end
  return secured, message, err
end

-- Asks for the way on. True; nil, "again" when it should be asked for once more; or nil, message, err. tries: how
-- often that was so.
local function link(below, target, route, terms, tries)
  below:settimeout(nil)
  below:setdeadline(terms.deadline)
  local ok, message, err = require("tlsconnect.proxy." .. links[route.kind]).link(below, target, route, tries)
  if not ok then
    if not err then return nil, message end
    -- What is wrong with the target itself (its look-up) is no fault of the proxy's.
    return errors.fail(err.host == route.host and err.port == route.port and told(route, err) or err)
  end
  below:setdeadline(nil)
  -- Nobody on the other side may speak before this side does: what came was slipped in.
  if below:dirty() then return M.refuse(route, "bad_answer", "sent bytes behind its answer") end
  return true
end

-- A connection to the proxy that leads on to the target; or nil, message, err.
local function way(target, route, terms)
  local tries = 0
  while true do
    local below, _, err = hop_to(route, terms)
    if not below then return errors.fail(told(route, err)) end
    if terms.tls == false and M.forwards(route) then return below end
    local ok
    ok, _, err = link(below, target, route, terms, tries)
    if ok then return below end
    below:close()
    if err then return errors.fail(err) end
    tries = tries + 1
  end
end

-- By way of the first of a host's addresses that the proxy can reach. As way().
local function by_address(targets, route, terms)
  for i, target in ipairs(targets) do
    local below, message, err = way(target, route, terms)
    if below or err.code ~= "proxy_refused" or i == #targets then
      if err and i > 1 then err.tried = i end
      return below, message, err
    end
  end
end

--- Goes to a proxy, and through it.
-- @param host, port what is behind it
-- @param route of of()
-- @param terms { deadline, wait, recorder, timeouts, family, local_address, allow_address, tls = false for a
--   connection in clear: then an HTTP proxy is not asked for a way, but will be asked for the page }
-- @return a connection whose bytes go to host and port, or nil, message, err
function M.reach(host, port, route, terms)
  local target, message, err = destination(host, port)
  if not target then return nil, message, err end
  local below
  if links[route.kind] == "socks5" then
    local targets
    targets, message, err = require("tlsconnect.proxy.socks5").targets(target, route, terms)
    if not targets then return nil, message, err end
    below, message, err = by_address(targets, route, terms)
  else
    below, message, err = way(target, route, terms)
  end
  if not below then return nil, message, err end
  local recorder, fields = terms.recorder, nil
  if recorder.tracing then
    local hop = { kind = route.kind, host = route.host, port = route.port, target = target.text }
    if below.session then
      local info = below:info()
      hop.version, hop.cipher = info.version, info.cipher
    end
    fields = { proxy = { hop } }
  end
  recorder:finish("tcp", fields)
  return below
end

return M

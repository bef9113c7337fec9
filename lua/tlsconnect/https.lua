--- HTTP and HTTPS, verified, in one call:
--
--     local page, message, err = https.get("https://example.org/")
--     if page then print(page.status, page.headers["content-type"], #page.body) end
--
-- get, head, post, put, patch, delete take (url, options); request takes { url = , method = , ... }.
-- Each returns an answer, or nil, message, err (err.step is one of the ten steps, or "http"); an answer of
-- 404 or 500 is an answer. An answer has status, reason, headers, body, url, history (the redirects that led
-- there) and timings (seconds: the ten steps of a new connection, first_byte, total), and trace (the ten steps)
-- where the option `trace` asks for it. Headers are as they came, found in any case:
--
--     headers["content-type"]        the value; repeats joined with ", " (RFC 9110 5.3), but of several
--                                    Set-Cookie, which cannot be joined, the first
--     headers:get(name)              the same, for a name that is also a method's
--     headers:list("set-cookie")     every value, in order
--     for name, value in headers:each() do ... end
--
-- Connections are kept and used again: see https/pool.lua.

local options = require "tlsconnect.options"

options.add "tlsconnect.https.options"

local https = {}

local shared -- the client of the calls below, made at first use

local function perform(name, method, url, given)
  if type(url) ~= "string" then
    error(("bad argument #1 to '%s' (a URL expected, got %s)"):format(name, type(url)), 3)
  end
  given = options.check("https", given, 1)
  shared = shared or require("tlsconnect.https.client").new()
  return shared:perform(method, url, given)
end

function https.get(url, given)
  local answer, message, err
  if given == nil and shared then answer, message, err = shared:again(url) end
  if not (answer or err) then answer, message, err = perform("get", "GET", url, given) end
  return answer, message, err -- no tail call: errors are raised where this was called
end

for _, name in ipairs { "head", "post", "put", "patch", "delete" } do
  local method = name:upper()
  https[name] = function(url, given)
    local answer, message, err = perform(name, method, url, given)
    return answer, message, err
  end
end

--- https.request { url = "https://example.org/", method = "OPTIONS" }, or request(url, options).
function https.request(url, given)
  if type(url) == "table" then
    if given ~= nil then error("bad argument #2 to 'request' (options are in the table already)", 2) end
    url, given = url.url, url
  end
  local answer, message, err = perform("request", given and given.method, url, given)
  return answer, message, err
end

--- A client with defaults and connections of its own: see https/session.lua.
function https.client(defaults)
  return require("tlsconnect.https.session").new(options.check("client", defaults))
end

return https

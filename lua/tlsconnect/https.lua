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

options.add {
  { "url", "string", "what to ask for: an http or https URL", on = "https" },
  { "method", "string", "of the request", default = "GET, or POST with a body", on = "https" },
  { "query", "table|string", "added to the URL: { name = value }, or text as it is", on = "https" },
  { "headers", "table", "{ name = value }, { name = { values } }; false leaves a default one out",
    on = "https client" },
  { "body", "string|function|userdata",
    "what is sent: bytes, a function that returns pieces, an open file", on = "https" },
  { "form", "table", "what is sent as a form: { name = value }, { name = { values } }", on = "https" },
  { "json", "table|string|number|boolean", "what is sent as JSON", on = "https" },
  { "multipart", "table", "what is sent in parts: { name = value }, { name = { file = path, type = } }",
    on = "https" },
  { "json_codec", "table", "encodes and decodes JSON: { encode =, decode = }",
    default = "cjson, dkjson or lunajson, where installed", on = "https client" },
  { "auth", "table", "who asks", default = "the URL's user name and password", on = "https client", fields = {
    { "basic", "table", "{ user, password }" },
    { "bearer", "string", "a token" },
    { "digest", "table", "{ user, password }" },
    { "netrc", "boolean|string", "those of the host in this file (true: NETRC, or ~/.netrc)", path = true },
  } },
  { "stream", "boolean", "the answer's body is read as it comes: see https/streaming.lua", default = "false",
    on = "https client" },
  { "reconnect", "boolean", "server-sent events go on when their stream ends or breaks off: see https/events.lua",
    default = "false", on = "https client" },
  { "sink", "function|userdata", "takes the body in pieces, in place of `body`: function(data, answer) returns true, "
    .. "or nil and why it takes no more; data is nil at the end (LTN12). Or an open file", on = "https client" },
  { "save", "string", "a path that the body of an answer of 200 is written to: see https/download.lua", path = true,
    on = "https" },
  { "resume", "boolean", "goes on with what an earlier call with `save` left", default = "false", on = "https" },
  { "progress", "function", "called with the bytes that came so far, and in all where that is known",
    on = "https client" },
  { "upload_progress", "function", "called with the bytes of the request's body that have left so far, and in all "
    .. "where that is known", on = "https client" },
  { "base", "string", "the URL that a client's other URLs are relative to", on = "client" },
  { "idle", "number", "how long an unused connection is kept", unit = "s", min = 0, default = "60", on = "client" },
  { "idle_per_host", "number", "how many unused connections to one place are kept", min = 1, default = "256",
    on = "client" },
  { "idle_total", "number", "how many unused connections are kept in all", min = 0, default = "256",
    on = "client" },
  { "retries", "number|table", "how often a request that may be made twice is tried again: see https/retry.lua",
    min = 0, default = "0", on = "https client", fields = {
      { "count", "number", "how often", min = 0, default = "3" },
      { "pause", "number", "before the first of them; each later one waits twice as long", unit = "s", min = 0,
        default = "0.5" },
      { "longest", "number", "the longest pause, Retry-After's too", unit = "s", min = 0, default = "30" },
      { "statuses", "table", "of answers that are tried again", of = "number", default = "429, 502, 503, 504" },
    } },
  { "early_data", "boolean", "sends a request that changes nothing (GET, HEAD, OPTIONS) as early data (0-RTT) where a "
    .. "session is taken up whose server allows it: whoever records it can send it again", default = "false",
    on = "https client" },
  { "redirects", "number", "how many are followed", min = 0, default = "10", on = "https client" },
  { "keep_alive", "boolean", "whether connections are kept for later requests", default = "true",
    on = "https client" },
  { "max_body", "number", "the longest body that an answer may have in memory", unit = "bytes", min = 0,
    default = "1 GiB", on = "https client" },
  { "decompress", "boolean", "asks for a compressed body, and takes the compression off", default = "true",
    on = "https client" },
  { "cookies", "boolean|string|table", "true: kept in memory; a Netscape cookie file, written by `close`; a jar; "
    .. "false: none", default = "true for a client, else none", path = true, on = "https client" },
  { "hsts", "boolean|string", "whether hosts that ask for it are only asked over TLS; a file to keep them in "
    .. "(of a client), written by `close`", default = "true: in memory", path = true, on = "https client" },
  { "max_head", "number", "the longest head that an answer may have", unit = "bytes", min = 1,
    default = "128 KiB", on = "https client" },
  { "max_headers", "number", "the most header lines that an answer may have", min = 1, default = "1000",
    on = "https client" },
  { "insecure_allow_downgrade", "boolean", "follows redirects from https to http", default = "false",
    on = "https client" },
}

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

for _, name in ipairs { "get", "head", "post", "put", "patch", "delete" } do
  local method = name:upper()
  https[name] = function(url, given)
    local answer, message, err = perform(name, method, url, given)
    return answer, message, err -- no tail call: errors are raised where this was called
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

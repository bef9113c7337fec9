-- Every option, once: its name, type, default, unit and help, and which functions take it. The
-- checker, the error for a misspelt name, the README's table and the tool's --help come from here.
local options = {}

-- A row is { name, types, help }, with
--   on       the functions that take it, one word each
--   default  what holds when it is absent, as the manual prints it
--   unit     of a number
--   values   the strings that are allowed
--   of       the types of each element, where a list is allowed
--   sizes    { least, most } bytes of a string, also of a list's
--   counts   { least, most } elements of a list
--   min      the least number
--   whole    true where it has no fraction
--   fields   the rows of a table option; fields_of those of each element of a list
--   needed   true where it may not be absent (a field)
--   fixed    true where it is part of a context: not allowed beside the option `context`
-- Types are Lua's own names, and for what tlsconnect makes "certificate", "key", "trust"; "a|b" for several.
-- No NUL byte is ever allowed in a string of `path`.

local function limit(name, help)
  return { name, "number", help, unit = "s", min = 0 }
end

local client = "connect wrap context https client"
local client_only = "connect context https client"
local server = "listen"
local both = client .. " " .. server

options.rows = {
  -- the call
  { "context", "table",
    "a `tlsconnect.context{}`: trust, credentials and defaults shared by many calls",
    on = "connect wrap https client listen" },
  { "timeout", "number",
    "limit of the whole call, and then of each later call on the connection",
    unit = "s", min = 0, default = "60 to connect, then none", on = both .. " resolve verify" },
  { "timeouts", "table", "limits of single steps, which only shorten `timeout`", on = both, fields = {
    limit("dns", "limit of the name look-up"),
    limit("tcp", "limit of the race over the addresses"),
    limit("handshake", "limit of the TLS handshake, verification included"),
    limit("first_byte", "limit until an answer begins (https)"),
    limit("idle", "limit of each pause within an answer (https)"),
  } },
  { "wait", "function", "waits for a descriptor in place of `tlsconnect.wait`", on = both .. " resolve verify" },
  { "trace", "boolean|function",
    "keeps the ten steps for `connection:trace()`, or calls the function with each",
    on = "connect wrap https client listen" },
  -- steps 1 and 2
  { "family", "string",
    "addresses of one family only",
    values = { "inet", "inet6" }, default = "both, raced", on = "connect context https client resolve" },
  { "local_address", "string",
    "the address of this machine to connect from", on = "connect context https client" },
  { "allow_address", "function|string",
    "`\"public\"`, or function(address, family, host), asked about each address before it is dialled",
    values = { "public" }, on = "connect context https client" },
  { "unix_socket", "string",
    "path of a Unix socket, connected to in place of the host's addresses", path = true, on = client_only },
  { "proxy", "string|table|boolean",
    "a proxy's URL (http, https, socks5, socks5h), or a table with `url` and the options of its own connection; "
      .. "true: the environment's; false: none", default = "the environment's for https, else none",
    on = client_only, fields = {
      { "url", "string", "where it is" },
      { "user", "string", "its user name" },
      { "password", "string", "its password" },
      { "digest", "boolean", "whether an HTTP proxy is told them as a digest (RFC 7616) only", default = "false" },
      { "allow_address", "function|string", "of the proxy", values = { "public" } },
      { "context", "table", "of an https proxy's TLS: a `tlsconnect.context{}`" },
      { "server_name", "string", "the name that an https proxy's certificate must have" },
      { "trust", "table|userdata", "of an https proxy" },
      { "ca_file", "string", "of an https proxy", path = true },
      { "ca_path", "string", "of an https proxy", path = true },
      { "ca", "string|table|userdata", "of an https proxy" },
      { "certificate", "string|userdata|table", "one's own, shown to an https proxy", path = true },
      { "key", "string|userdata", "its key", path = true },
      { "insecure_skip_verify", "boolean", "of an https proxy: accepts any certificate" },
    } },
  -- steps 3 and 4
  { "server_name", "string",
    "the name for SNI and for the certificate", default = "the host", on = "connect wrap https" },
  { "alpn", "table|string",
    "application protocols, the best first; one of them must then be agreed on (a server serves clients that offer"
      .. " none, too)",
    of = "string", sizes = { 1, 255 }, counts = { 0, 8 }, on = both },
  { "min_version", "string",
    "the lowest TLS version",
    values = { "TLS1.2", "TLS1.3", "1.2", "1.3" }, default = "TLS1.2", fixed = true, on = both },
  { "max_version", "string",
    "the highest TLS version",
    values = { "TLS1.2", "TLS1.3", "1.2", "1.3" }, default = "TLS1.3", fixed = true, on = both },
  { "priority", "string",
    "a GnuTLS priority string, appended to the system's policy", path = true, fixed = true, on = both },
  { "keylog", "boolean|string|function",
    "where the session's secrets are logged (for tshark)", default = "nowhere", path = true, on = both },
  { "session_cache", "boolean",
    "whether what servers give is kept, to take a session up again", default = "true",
    on = "connect context https client" },
  -- step 5
  { "trust", "trust",
    "a `tlsconnect.trust{}`", default = "the system's roots", fixed = true, on = both },
  { "ca_file", "string",
    "PEM file of roots, trusted in place of the system's", path = true, fixed = true, on = both .. " trust" },
  { "ca_path", "string",
    "directory of PEM roots, trusted in place of the system's", path = true, fixed = true, on = both .. " trust" },
  { "ca", "string|certificate|table",
    "roots as PEM text, a certificate, or a list of these",
    of = "string|certificate", fixed = true, on = both .. " trust" },
  { "verify_time", "number",
    "the time that certificates are judged by", unit = "s since 1970", min = 0, default = "now", on = client },
  { "system", "boolean",
    "the system's roots too", default = "true where no other option gives roots", on = "trust" },
  { "names", "table", "the only hosts and addresses that these roots may vouch for, those below a host with it",
    of = "string", on = "add" },
  { "name", "string", "the host name that the certificate must be for", on = "verify" },
  { "ip", "string", "the address that the certificate must be for", on = "verify" },
  { "purpose", "string",
    "what the certificate is used for", values = { "server", "client" }, default = "server", on = "verify" },
  { "time", "number", "the time to judge at", unit = "s since the epoch", min = 0, default = "now", on = "verify" },
  { "profile", "string",
    "`\"strict\"` adds rules of RFC 5280 and the CA/Browser Forum that some real sites break",
    values = { "default", "strict" }, default = "default", on = both .. " verify" },
  { "max_depth", "number",
    "intermediates allowed between the certificate and a root", min = 0, whole = true, default = "10",
    on = "verify" },
  { "staple", "string",
    "an OCSP response about the certificate: its DER; of a server also the path of a file that holds it",
    fixed = true, on = "verify listen wrap context" },
  { "staples", "table", "OCSP responses, one for each of the chain, false where there is none",
    of = "string|boolean", on = "verify" },
  { "crls", "string|table", "revocation lists: PEM text, DER, or a list of DER", of = "string", on = "verify" },
  { "revocation", "string",
    "`\"staple\"`: what came with the handshake; `\"soft\"` asks OCSP responders and fetches revocation lists, and "
    .. "lets pass what is still not known; `\"hard\"` refuses that", values = { "staple", "soft", "hard" },
    default = "staple", on = both .. " verify" },
  { "crl_file", "string",
    "file of revocation lists (PEM), obeyed; read again after a minute", path = true, on = both },
  { "aia", "boolean", "fetches issuers that the peer did not send from where its certificate says",
    default = "false", on = both .. " verify" },
  { "fetch_timeout", "number", "limit of all that is fetched to verify one peer, within `timeout`",
    unit = "s", min = 0, default = "10", on = both .. " verify" },
  { "insecure_fetch_private", "boolean",
    "fetches from private and local addresses, too, when a certificate says so", default = "false",
    on = both .. " verify" },
  { "pins", "table",
    "keys, one of which the peer's verified path must have: `\"sha256/...\"` of each, a backup among them",
    of = "string", on = client .. " verify" },
  { "known_hosts", "string",
    "file in which the key of each host is kept when it is met first; another key later is refused",
    path = true, on = client },
  { "verify", "function",
    "function(verification, info), asked last about a peer that has passed all else: returns true, or nil and why not",
    on = both },
  { "insecure_skip_verify", "boolean", "accepts any certificate", default = "false", on = client .. " verify" },
  { "insecure_skip_issuer", "boolean",
    "does not ask who issued the certificate", default = "false", on = client .. " verify" },
  { "insecure_skip_dates", "boolean",
    "does not ask for the certificates' dates", default = "false", on = client .. " verify" },
  { "insecure_skip_revocation", "boolean",
    "does not ask whether a certificate is revoked", default = "false", on = client .. " verify" },
  { "insecure_skip_name", "boolean",
    "does not ask for whom the certificate is", default = "false", on = client .. " verify" },
  -- one's own certificate
  { "certificate", "string|certificate|table",
    "one's own certificate with its chain: PEM file, PEM text, or certificates",
    path = true, of = "certificate", counts = { 1, 16 }, fixed = true, on = both },
  { "key", "string|key",
    "its private key: PEM file, PEM text, or a key", path = true, fixed = true, on = both },
  { "password", "string|function",
    "of an encrypted key; a function returns it when it is needed", path = true, fixed = true, on = both },
  { "certificates", "table",
    "more certificates, chosen by the name that a client asks for (SNI; wildcards too) and by the keys that it can"
      .. " take; else the first: a list of {certificate=, key=, password=, staple=}",
    of = "table", fixed = true, on = "listen wrap context", fields_of = {
      { "certificate", "string|certificate|table", "as `certificate`", path = true, of = "certificate",
        counts = { 1, 16 }, needed = true },
      { "key", "string|key", "as `key`", path = true },
      { "password", "string|function", "as `password`", path = true },
      { "staple", "string", "as `staple`" },
    } },
  { "client_certificate", "string",
    "whether a client must show a certificate",
    values = { "none", "request", "require" }, default = "require where roots are given, else none",
    fixed = true, on = "listen wrap context" },
  { "tickets", "boolean|string",
    "whether a server lets its clients take sessions up again; a key of 64 bytes: with other processes that have it",
    sizes = { 64, 64 }, default = "true", fixed = true, on = "listen wrap context" },
  -- before the handshake is complete
  { "early_data", "string",
    "the first bytes to send: as early data (0-RTT) when a session is taken up whose server allows it, else as soon as"
      .. " may be; whoever records them can send them again: only what may be done twice", on = "connect" },
  { "early_data", "boolean",
    "whether a server takes early data from clients that take a session up, each flight once: see `early()`",
    default = "false", fixed = true, on = "listen wrap context" },
  -- wrap, listen
  { "role", "string",
    "which end of the handshake this is",
    values = { "client", "server" }, default = "client", on = "wrap" },
  { "backlog", "number",
    "connections that the system queues before `accept`",
    min = 1, whole = true, default = "128", on = server },
}

local function takes(row, where)
  for word in row.on:gmatch("%S+") do
    if word == where then return true end
  end
  return false
end

local tables = {}

-- The rows that `where` takes, by name; made once.
local function rows_of(where)
  local rows = tables[where]
  if not rows then
    rows = {}
    for _, row in ipairs(options.rows) do
      if takes(row, where) then rows[row[1]] = row end
    end
    tables[where] = rows
  end
  return rows
end
options.of = rows_of

--- Adds rows, for a layer whose options are its own (https). Made when that layer is loaded.
function options.add(rows)
  for _, row in ipairs(rows) do options.rows[#options.rows + 1] = row end
  tables = {}
end

-- Damerau-Levenshtein: how many slips of the finger lie between two names.
local function distance(a, b)
  local before, last = nil, {}
  for j = 0, #b do last[j] = j end
  for i = 1, #a do
    local row = { [0] = i }
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + cost)
      if before and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before, last = last, row
  end
  return last[#b]
end

local function nearest(name, rows)
  local best, least = nil, math.min(3, math.max(1, math.floor(#name / 3))) + 1
  for candidate in pairs(rows) do
    local d = distance(name, candidate)
    if d < least or d == least and best and candidate < best then best, least = candidate, d end
  end
  return best
end

local function unknown(name, rows, where, prefix)
  if type(name) ~= "string" then
    return ("bad option to %s (names are strings, got a %s)"):format(where, type(name))
  end
  local shown = name:sub(1, 60):gsub("[%c\127-\255]", "?")
  for _, row in ipairs(options.rows) do
    if row[1] == name and prefix == "" then
      return ("bad option '%s' to %s (it belongs to %s)"):format(name, where, (row.on:gsub(" ", ", ")))
    end
  end
  local hint = #name <= 60 and nearest(name, rows)
  if hint then
    return ("bad option '%s%s' to %s (did you mean '%s%s'?)"):format(prefix, shown, where, prefix, hint)
  end
  return ("bad option '%s%s' to %s (there is no such option)"):format(prefix, shown, where)
end

-- Lua's name of a value's type, and what tlsconnect calls it where that made it: "certificate", "trust".
local function kind_of(value)
  local kind = type(value)
  if kind ~= "userdata" and kind ~= "table" then return kind end
  local meta = getmetatable(value)
  if type(meta) == "table" then meta = rawget(meta, "__name") end
  return kind, type(meta) == "string" and meta:match("^tlsconnect%.(%l+)$") or nil
end

-- Whether a value is of one of the types, and how to call what it is.
local function is_one(types, value)
  local kind, own = kind_of(value)
  types = "|" .. types .. "|"
  local good = types:find("|" .. kind .. "|", 1, true) or own and types:find("|" .. own .. "|", 1, true)
  return good ~= nil and good ~= false, own or kind
end

--- Whether a value is of one of the types: is("string|certificate", value).
function options.is(types, value)
  return (is_one(types, value))
end

local function alternatives(types)
  return (types:gsub("|", " or "))
end

local function wrong_string(row, value)
  if row.values then
    for _, allowed in ipairs(row.values) do
      if allowed == value then return nil end
    end
    return ("%s expected, got '%s'"):format(table.concat(row.values, " or "), value:sub(1, 40))
  end
  -- io.open and C would cut the name there
  if row.path and value:find("\0", 1, true) then return "a NUL byte in it" end
  if row.sizes and (#value < row.sizes[1] or #value > row.sizes[2]) then
    return ("%d to %d bytes expected, got %d"):format(row.sizes[1], row.sizes[2], #value)
  end
  return nil
end

local function wrong_number(row, value)
  if value ~= value then return "a number expected, got nan" end
  if row.min and value < row.min then return ("%s or more expected, got %s"):format(row.min, value) end
  if row.whole and value % 1 ~= 0 then return ("a whole number expected, got %s"):format(value) end
  return nil
end

local function wrong_list(row, list)
  local count = 0
  for _ in pairs(list) do count = count + 1 end
  if count ~= #list then return "a list expected, without gaps and names" end
  local least, most = (row.counts or {})[1] or 0, (row.counts or {})[2] or math.huge
  if count < least or count > most then
    return ("a list of %d to %d elements expected, got %d"):format(least, most, count)
  end
  for _, element in ipairs(list) do
    local good, name = is_one(row.of, element)
    if not good then
      return ("a list of %ss expected, got a %s in it"):format((row.of:gsub("|", "s or ")), name)
    end
    local problem = type(element) == "string" and wrong_string(row, element)
    if problem then return problem end
  end
  return nil
end

-- What is wrong with a value, or nil.
local function wrong(row, value)
  local good, name = is_one(row[2], value)
  if not good then return ("%s expected, got %s"):format(alternatives(row[2]), name) end
  local kind = type(value)
  if kind == "number" then return wrong_number(row, value) end
  if kind == "string" then return wrong_string(row, value) end
  if kind == "table" and row.of then return wrong_list(row, value) end
  return nil
end

local function check(rows, where, given, prefix, level)
  for name, value in pairs(given) do
    local row = rows[name]
    if not row then error(unknown(name, rows, where, prefix), level) end
    local problem = wrong(row, value)
    if problem then error(("bad option '%s%s' to %s (%s)"):format(prefix, name, where, problem), level) end
    if type(value) == "table" and (row.fields or row.fields_of) then
      local inner = {}
      for _, field in ipairs(row.fields or row.fields_of) do inner[field[1]] = field end
      if row.fields then
        check(inner, where, value, prefix .. name .. ".", level + 1)
      else
        for i, element in ipairs(value) do
          local inside = ("%s%s[%d]."):format(prefix, name, i)
          for _, field in ipairs(row.fields_of) do
            if field.needed and element[field[1]] == nil then
              error(("bad option '%s%s' to %s (it is missing)"):format(inside, field[1], where), level)
            end
          end
          check(inner, where, element, inside, level + 1)
        end
      end
    end
  end
end

local none = {}

--- Checks the options given to a function. `where`: its name, one word of the rows' `on`. Raises an
-- error that names the option, at the caller of the function that calls this (or `level` further
-- up). Returns the table given, or an empty one for nil: it is not copied, and must not be changed.
function options.check(where, given, level)
  if given == nil then return none end
  level = 3 + (level or 0)
  if type(given) ~= "table" then
    error(("bad options to %s (table expected, got %s)"):format(where, type(given)), level)
  end
  local rows = rows_of(where)
  check(rows, where, given, "", level + 1)
  if given.context ~= nil then
    for name in pairs(given) do
      if rows[name].fixed then
        error(("bad option '%s' to %s (it is part of the context: give it there)"):format(name, where), level)
      end
    end
  end
  return given
end

return options

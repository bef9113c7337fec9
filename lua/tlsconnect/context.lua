-- What many connections share: credentials, trust, priorities and defaults, made once.
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local options = require "tlsconnect.options"

local contexts = {}

local Context = {}
Context.__index = Context
Context.__name = "tlsconnect.context"

-- No credential file is longer.
local FILE_LIMIT = 16 * 1024 * 1024

local function setup(code, message)
  return errors.fail(errors.new { step = "setup", code = code, message = message })
end

-- A cause of the core, told about an option: "the key in site.key: ...".
local function from(cause, what)
  local err = { step = "setup", message = what .. ": " .. cause.message }
  for name, value in pairs(cause) do
    if name ~= "message" then err[name] = value end
  end
  return errors.fail(errors.new(err))
end

-- Files -------------------------------------------------------------------------------------------

local function is_pem(text)
  return text:find("-----BEGIN", 1, true) ~= nil
end

-- The bytes that an option gives: PEM text itself, or what the file of that name holds, and how to
-- call it in a message.
local function bytes_of(value, option)
  if is_pem(value) then return value, "option '" .. option .. "'" end
  local file, reason, number = io.open(value, "rb")
  local text
  if file then
    text, reason, number = file:read(FILE_LIMIT)
    -- An empty file reads as nil without a reason.
    if not text and not reason then text = "" end
    file:close()
  end
  local shown = errors.escape(value, 200)
  if not text then
    reason = number and core.strerror(number) or reason
    return setup("unreadable_file", ("%s (option '%s') cannot be read: %s"):format(shown, option, reason))
  end
  return text, shown
end

-- A list of certificates from an option: a path, PEM text, a certificate, or a list of certificates.
local function certificates_of(value, option)
  if type(value) == "userdata" then return { value } end
  if type(value) == "table" then return value end
  local text, shown, err = bytes_of(value, option)
  if not text then return nil, shown, err end
  local list, _, cause = core.certificates(text)
  if not list then return from(cause, shown) end
  if #list == 0 then return setup("bad_pem", shown .. " holds no certificate") end
  return list, text
end

-- The key from an option: a path, PEM text or a key. The password, a string or a function that
-- returns one, is asked for only when the key wants it.
local function key_of(value, option, password)
  if type(value) == "userdata" then return value end
  local text, shown, err = bytes_of(value, option)
  if not text then return nil, shown, err end
  local secret = type(password) == "string" and password or nil
  local key, _, cause = core.key(text, secret)
  if not key and cause.code == "password_required" and type(password) == "function" then
    secret = password(shown)
    if secret ~= nil and type(secret) ~= "string" then
      error("bad option 'password' (the function returned a " .. type(secret) .. ", a string expected)", 0)
    elseif secret and secret:find("\0", 1, true) then
      error("bad option 'password' (the function returned a string with a NUL byte in it)", 0)
    end
    if secret then key, _, cause = core.key(text, secret) end
  end
  if not key then return from(cause, "the key of " .. shown) end
  return key
end

-- The OCSP response from an option: its DER, or what the file of that name holds.
local function staple_of(value, option)
  if value:find("^0[\128-\255]") then return value, "option '" .. option .. "'" end
  if value:find("\0", 1, true) then
    error(("bad option '%s' (neither a path nor an OCSP response in DER)"):format(option), 0)
  end
  return bytes_of(value, option)
end

-- Adds one certificate and its key. True, or nil, message, err.
local function add_certificate(self, given, prefix)
  local list, text, err = certificates_of(given.certificate, prefix .. "certificate")
  if not list then return nil, text, err end
  local source, option = given.key, prefix .. "key"
  if source == nil then
    if type(text) ~= "string" then
      return setup("no_credentials",
        ("option '%scertificate' needs a '%skey' beside it"):format(prefix, prefix))
    end
    source, option = given.certificate, prefix .. "certificate" -- both in one file
  end
  local key, message
  key, message, err = key_of(source, option, given.password)
  if not key and given.key == nil and err.code == "bad_pem" then
    return setup("no_credentials", ("option '%skey' is missing, and beside the certificate there is none")
      :format(prefix))
  end
  if not key then return nil, message, err end
  local staple, shown
  if given.staple then
    staple, shown, err = staple_of(given.staple, prefix .. "staple")
    if not staple then return nil, shown, err end
  end
  local ok, _, cause = self.core:certificate(list, key, staple)
  if not ok then
    if staple and cause.code == "bad_der" then return from(cause, "the OCSP response of " .. shown) end
    if cause.code == "key_mismatch" then
      return setup("key_mismatch",
        ("the key (option '%skey') does not belong to the certificate"):format(prefix))
    end
    return from(cause, "option '" .. prefix .. "certificate'")
  end
  self.fingerprints = self.fingerprints or {}
  table.insert(self.fingerprints, list[1]:fingerprint())
  return true
end

-- Versions and suites -----------------------------------------------------------------------------

local number = { ["TLS1.2"] = 2, ["1.2"] = 2, ["TLS1.3"] = 3, ["1.3"] = 3 }

-- The priority string that is appended to the system's policy, or nil. The versions come last, so that
-- min_version and max_version always hold.
local function priority_of(given)
  local parts = { given.priority }
  local low, high = number[given.min_version] or 2, number[given.max_version] or 3
  if low > high then
    error(("bad option 'min_version' (%s is above max_version, %s)")
      :format(given.min_version, given.max_version), 0)
  end
  if low == 3 then parts[#parts + 1] = "-VERS-TLS1.2" end
  if high == 2 then parts[#parts + 1] = "-VERS-TLS1.3" end
  return parts[1] and table.concat(parts, ":") or nil
end

-- Trust -------------------------------------------------------------------------------------------

local function wants_roots(given)
  return given.trust ~= nil or given.ca_file ~= nil or given.ca_path ~= nil or given.ca ~= nil
end

local function trust_of(given)
  if given.trust then
    for _, name in ipairs { "ca_file", "ca_path", "ca" } do
      if given[name] then error(("bad option '%s' (the roots are those of the option 'trust')"):format(name), 0) end
    end
    return given.trust
  end
  return require("tlsconnect.trust").new { ca_file = given.ca_file, ca_path = given.ca_path, ca = given.ca,
    system = false }
end

--- The trusted roots of this context; the system's, found when first asked for, unless it has others.
-- A trust, or nil, message, err.
function Context:roots()
  local trust, message, err = self.trust
  if not trust then
    trust, message, err = require("tlsconnect.trust").system()
    if not trust then return nil, message, err end
    self.trust = trust
  end
  return trust
end

--- A number that changes with the roots; nil before they are first asked for.
function Context:generation()
  local roots = self.trust and self.trust.core
  return roots and select(3, roots:state())
end

-- Sessions ----------------------------------------------------------------------------------------

--- The sessions that can be taken up again: see sessions.lua.
function Context:sessions()
  local kept = self.kept_sessions
  if not kept then
    kept = require("tlsconnect.sessions").new()
    self.kept_sessions = kept
  end
  return kept
end

-- Whose sessions they are, as far as that is not proved anew when one is taken up: our own certificate,
-- which the server may have let in, and what was offered.
local function identity(self)
  local given = self.given
  return table.concat({ table.concat(self.fingerprints or {}, ","), given.priority or "",
    given.min_version or "", given.max_version or "" }, "|")
end

--- Writes the sessions that can be taken up again to a file (mode 0600), for load_sessions in another
-- process. They are secrets. Their number, or nil, message, err.
function Context:save_sessions(path)
  if type(path) ~= "string" then
    error("bad argument #1 to 'save_sessions' (a path expected, got " .. type(path) .. ")", 2)
  end
  return self:sessions():save(path, identity(self))
end

--- Reads what save_sessions wrote. A file that others may use, that is cut, changed, of another version or
-- of a context with another certificate is refused. All checks are made when a session is taken
-- up. The number of sessions, or nil, message, err.
function Context:load_sessions(path)
  if type(path) ~= "string" then
    error("bad argument #1 to 'load_sessions' (a path expected, got " .. type(path) .. ")", 2)
  end
  return self:sessions():load(path, identity(self))
end

-- Making ------------------------------------------------------------------------------------------

-- What the core calls the ways to treat a client's certificate.
local modes = { none = "ignore", request = "request", require = "require" }

-- A recording of early data is known by the process that took it, and by no other that has its ticket key.
local function accept_early_data(self)
  if type(self.given.tickets) == "string" then
    error("bad option 'early_data' (other processes that share the key of 'tickets' would take it once more)", 0)
  elseif self.given.tickets == false then
    error("bad option 'early_data' (it comes with a ticket, and 'tickets' is false)", 0)
  end
  self.core:early_data()
end

local function build(given)
  require("tlsconnect.judge").check(given)
  local self = setmetatable({ given = given, core = core.context() }, Context)
  local ok, message, err, cause
  if wants_roots(given) then
    self.trust, message, err = trust_of(given)
    if not self.trust then return nil, message, err end
    self.own_roots = true
  end
  ok, message, cause = self.core:priority(priority_of(given))
  if not ok then return setup(cause.code, message) end
  if given.key and not given.certificate then
    return setup("no_credentials", "option 'key' needs a 'certificate' beside it")
  end
  if given.certificate then
    ok, message, err = add_certificate(self, given, "")
    if not ok then return nil, message, err end
    self.has_certificate = true
  end
  for i, more in ipairs(given.certificates or {}) do
    ok, message, err = add_certificate(self, more, ("certificates[%d]."):format(i))
    if not ok then return nil, message, err end
    self.has_certificate = true
  end
  local wanted = given.client_certificate or self.own_roots and "require" or "none"
  if wanted ~= "none" and not self.own_roots then
    error("bad option 'client_certificate' (it needs roots: ca_file, ca_path, ca or trust)", 0)
  end
  self.client_certificate = wanted
  self.core:client_certificates(modes[wanted])
  if given.tickets ~= nil then self.core:tickets(given.tickets) end
  if given.early_data then accept_early_data(self) end
  return self
end

--- A context: what many calls share. Its options are those marked `context` in the manual; those of the
-- call itself (timeout, alpn, wait, ...) are defaults that a call may override. Use it as the option
-- `context` of connect, wrap, listen and https. A context, or nil, message, err.
function contexts.new(given)
  local copy = {}
  for name, value in pairs(given or {}) do copy[name] = value end
  return build(copy)
end

--- The same context from its options once more, which reads their files again. A server's tickets stay good.
-- A context, or nil, message, err.
function contexts.again(context)
  local fresh, message, err = build(context.given)
  if not fresh then return nil, message, err end
  fresh.core:tickets(context.core)
  return fresh
end

function contexts.is(value)
  return getmetatable(value) == Context
end

local credentials = { "certificate", "certificates", "key", "password" }
local roots = { "ca_file", "ca_path", "ca" }

--- The same context without a certificate of one's own: for a peer that is not to learn who asks. It shares the
-- roots, and no sessions. A context, the same one each time, or nil, message, err.
function contexts.anonymous(context)
  if not context.has_certificate then return context end
  if not context.nameless then
    local given = {}
    for name, value in pairs(context.given) do given[name] = value end
    for _, name in ipairs(credentials) do given[name] = nil end
    if context.own_roots then
      for _, name in ipairs(roots) do given[name] = nil end
      given.trust = context.trust
    end
    local made, message, err = build(given)
    if not made then return nil, message, err end
    context.nameless = made
  end
  return context.nameless
end

-- Contexts of calls that gave none, by their options. Only those made of short strings are kept: a
-- table or a function may change, and no key or password should stay in memory for this.
local kept, count, KEPT = {}, 0, 32
local private = { certificate = true, certificates = true, key = true, password = true, trust = true,
  tickets = true }

local fixed_of = {}

-- What https gives each connection: no context is made of it.
local passing = { tls = true, first = true, timeout = true, proxy = true, early_data = true }

-- Whether anything else is given.
local function says_more(given)
  for name in pairs(given) do
    if not passing[name] then return true end
  end
  return false
end

-- The options of `where` that make the context, and a key that is equal for equal ones (nil: do not keep it).
local function select_fixed(given, where)
  if not says_more(given) then return {}, "" end
  local fixed = fixed_of[where]
  if not fixed then
    fixed = {}
    for name, row in pairs(options.of(where)) do
      if row.fixed then fixed[#fixed + 1] = name end
    end
    table.sort(fixed)
    fixed_of[where] = fixed
  end
  local chosen, parts, keep = nil, nil, true
  for i = 1, #fixed do
    local name = fixed[i]
    local value = given[name]
    if value ~= nil then
      chosen, parts = chosen or {}, parts or {}
      chosen[name] = value
      if private[name] or type(value) ~= "string" or #value > 4096 then
        keep = false
      else
        parts[#parts + 1] = ("%s=%d:%s"):format(name, #value, value)
      end
    end
  end
  return chosen or {}, keep and (parts and table.concat(parts, ",") or "")
end

--- The context of a call: the one it was given, or one of its own options. A context, or nil, message, err.
function contexts.of(given, where)
  local context = given.context
  if context then
    if not contexts.is(context) then
      error(("bad option 'context' to %s (a tlsconnect.context expected, got a %s)")
        :format(where, type(context)), 4)
    end
    return context
  end
  local chosen, key = select_fixed(given, where)
  context = key and kept[key]
  if context then return context end
  local message, err
  context, message, err = build(chosen)
  if not context then return nil, message, err end
  if key then
    if count >= KEPT then kept, count = {}, 0 end
    kept[key], count = context, count + 1
  end
  return context
end

--- What a call goes by: its own option, else the context's default.
function Context:pick(given, name)
  local value = given[name]
  if value == nil then return self.given[name] end
  return value
end

function Context:__tostring() -- luacheck: ignore 212
  return "tlsconnect context"
end

return contexts

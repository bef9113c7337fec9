-- What many connections share: credentials, trust, priorities and defaults, made once.
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local late = require "tlsconnect.late"
local options = require "tlsconnect.options"

local contexts = {}

local Context = {}
Context.__index = Context
Context.__name = "tlsconnect.context"

local function setup(code, message)
  return errors.fail(errors.new { step = "setup", code = code, message = message })
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

local function add_certificate(self, given, prefix)
  return late.load("tlsconnect.context.credentials").add(self, given, prefix)
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

-- The names of the options of `where` that make the context, in order, and as a set.
local function every_fixed(where)
  local fixed = fixed_of[where]
  if not fixed then
    fixed = {}
    for name, row in pairs(options.of(where)) do
      if row.fixed then fixed[#fixed + 1] = name end
    end
    table.sort(fixed)
    for i = 1, #fixed do fixed[fixed[i]] = true end
    fixed_of[where] = fixed
  end
  return fixed
end

-- Those names where any of them is given. The rows are not loaded for what https gives.
local function fixed_in(given, where)
  for name in next, given do
    if not passing[name] and every_fixed(where)[name] then return every_fixed(where) end
  end
  return nil
end

-- The options of `where` that make the context, and a key that is equal for equal ones (nil: do not keep it).
local function select_fixed(given, where)
  local fixed = fixed_in(given, where)
  if not fixed then return {}, "" end
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

--- What a call goes by: its own options, else the context's defaults. Not to be changed.
function Context:options(given)
  local defaults = self.given
  if next(defaults) == nil then return given end
  local both = {}
  for name, value in next, defaults do both[name] = value end
  for name, value in next, given do both[name] = value end
  return both
end

function Context:__tostring() -- luacheck: ignore 212
  return "tlsconnect context"
end

return contexts

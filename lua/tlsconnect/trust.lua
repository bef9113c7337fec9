-- Step 5: whom to trust, and whether a chain of certificates is good. Four questions are answered apart:
-- who issued it (issuer), whether it is in date (dates), whether it was revoked (revocation), and whether
-- it stands for the host that was meant (name). Each answer is
--   { answer = "yes" | "no" | "unknown", code = "expired", reason = "a sentence", certificate = 1, ... }
-- with `certificate` the place in the chain that it is about (1: the peer's own), `subject` and `issuer`
-- its names, and for revocation the `source`: "staple", "ocsp", "crl" or "none".
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local late = require "tlsconnect.late"
local memory = require "tlsconnect.trust.memory"
local options_of = require "tlsconnect.options"
local waiter = require "tlsconnect.wait"

local M = {}

local Trust = {}
Trust.__index = Trust
Trust.__name = "tlsconnect.trust"

-- The files that systems keep their roots in: Debian, Fedora, SUSE, Alpine and BSDs, FreeBSD's ports.
M.bundles = {
  "/etc/ssl/certs/ca-certificates.crt",
  "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
  "/etc/pki/tls/certs/ca-bundle.crt",
  "/etc/ssl/ca-bundle.pem",
  "/etc/ssl/cert.pem",
  "/usr/local/share/certs/ca-root-nss.crt",
  "/usr/local/etc/ssl/cert.pem",
}

local function fail(step, code, message, more)
  local err = { step = step, code = code, message = message }
  for key, value in pairs(more or {}) do err[key] = value end
  return errors.fail(errors.new(err))
end

-- What helps where the roots of a system are missing.
local HELP = "the package ca-certificates (so Debian and others call it) may be missing; the option 'ca_file' names "
  .. "a file of roots"

-- A file that cannot be read, or does not hold what it should. whence: who named it, "option 'ca_file'".
local function unreadable(path, cause, whence)
  local code = cause.errno and cause.code ~= "memory" and "unreadable_file" or cause.code
  local message = cause.message
  if cause.errno then
    message = ("the trusted roots in %s (%s) cannot be read: %s"):format(errors.escape(path, 200), whence, message)
    if not whence:find("option", 1, true) then message = ("%s (%s)"):format(message, HELP) end
  end
  return fail("setup", code, message, { errno = cause.errno, path = path })
end

-- Making --------------------------------------------------------------------------------------------

local function empty()
  return setmetatable({ core = core.trust(), seen = {}, seen_count = 0 }, Trust)
end

local function add_file(self, path, whence, lazy)
  local count, _, cause = self.core:file(path, lazy)
  if not count then return unreadable(path, cause, whence) end
  if count == 0 then
    return fail("setup", "bad_pem", ("%s (%s) holds no certificate"):format(errors.escape(path, 200), whence),
      { path = path })
  end
  return true
end

local function add_directory(self, path, whence)
  local count, _, cause = self.core:directory(path)
  if not count then return unreadable(path, cause, whence) end
  return true
end

local function each_path(list, f)
  for path in list:gmatch("[^:]+") do
    local ok, message, err = f(path)
    if not ok then return nil, message, err end
  end
  return true
end

-- The system's roots: SSL_CERT_FILE and SSL_CERT_DIR where they are set (they then are all there is),
-- else the bundle file, else what GnuTLS itself takes for the system's. `more` adds what takes long to read,
-- and is called when no issuer is found among the rest.
local function add_system(self)
  local file, directory = os.getenv("SSL_CERT_FILE"), os.getenv("SSL_CERT_DIR")
  if file == "" then file = nil end
  if directory == "" then directory = nil end
  if file or directory then
    local function add_directories()
      return each_path(directory, function(path) return add_directory(self, path, "SSL_CERT_DIR") end)
    end
    if not file then
      local found, text, cause = add_directories()
      if not found or self.core:state() > 0 then return found, text, cause end
      return fail("verify", "no_trust", ("no certificate is in %s (SSL_CERT_DIR): %s")
        :format(errors.escape(directory, 200), HELP))
    end
    local ok, message, err = add_file(self, file, "SSL_CERT_FILE", true)
    if not ok then return nil, message, err end
    if directory then -- hundreds of files, most often with the same roots
      self.more = function()
        self.more = nil
        add_directories()
      end
    end
    return true
  end
  for _, bundle in ipairs(M.bundles) do
    local count = self.core:file(bundle, true)
    if count and count > 0 then
      self.more = function() return self.core:system() end -- GnuTLS's own view
      return true
    end
    -- What could not be read must not be waited for.
    self.core = core.trust()
  end
  local count = self.core:system()
  if not count or count == 0 then
    return fail("verify", "no_trust", ("no trusted roots were found on this system, not in %s, in any other usual "
      .. "place or by GnuTLS: %s"):format(M.bundles[1], HELP))
  end
  return true
end

-- Reads what the options name, when it is first needed.
local function load(self)
  if self.loaded then return true end
  local ok, message, err = add_system(self)
  if not ok then
    self.core = core.trust() -- the next attempt begins anew
    return nil, message, err
  end
  self.loaded = true
  return true
end

--- Roots to trust. options: ca (PEM text, a certificate or a list), ca_file (PEM file), ca_path (a folder
-- of PEM files; several: separated by ":"), system (boolean: the system's roots too; the default is true
-- only where no other option gives any). A trust, or nil, message, err.
function M.new(options)
  options = options_of.check("trust", options)
  return late.load("tlsconnect.trust.own").new(options)
end

local system, system_key

--- The system's roots, found once and shared. Read when first needed, and again when the file changes.
function M.system()
  local key = (os.getenv("SSL_CERT_FILE") or "") .. "\n" .. (os.getenv("SSL_CERT_DIR") or "")
  if not system or system_key ~= key then
    system, system_key = empty(), key
  end
  return system
end

function M.is(value)
  return getmetatable(value) == Trust
end

-- Roots ---------------------------------------------------------------------------------------------

--- Adds roots: PEM text, a certificate or a list. options: names, a list of the only names that these may vouch
-- for: "example.org" (that host and those below it), ".example.org" (those below it), "10.1.2.3", "10.0.0.0/8"; it
-- holds for a root that was there before, too. The number of those that were new, or nil, message, err.
function Trust:add(certificates, options)
  options = options_of.check("add", options)
  return late.load("tlsconnect.trust.own").add(self, certificates, options)
end

-- Verification --------------------------------------------------------------------------------------

local questions = { "issuer", "dates", "revocation", "name" }

-- What is well, said in a code.
local yes = { issuer = "trusted", dates = "valid", revocation = "good", name = "matches" }

-- RFC 8446 6.2
local alerts = {
  expired = "certificate_expired", not_yet_valid = "certificate_expired", self_signed = "unknown_ca",
  unknown_issuer = "unknown_ca", wrong_issuer = "unknown_ca", revoked = "certificate_revoked",
  wrong_purpose = "unsupported_certificate", weak_key = "unsupported_certificate",
  weak_signature = "unsupported_certificate", missing_staple = "bad_certificate_status_response",
  no_certificate = "certificate_required",
}

-- The sentence is made when it is read: most answers are yes, and nobody asks why.
local answer_meta = {}
function answer_meta.__index(answer, key)
  if key ~= "reason" then return nil end
  -- Without memory or a descriptor left to read it with, the code has to do.
  local ok, reason = pcall(late.load, "tlsconnect.trust.reason")
  if not ok then return ("%s: %s"):format(answer.question, answer.code) end
  local text = reason.sentence(answer.question, answer, answer.context)
  rawset(answer, "reason", text)
  return text
end

-- path and anchor become certificates when they are asked for.
local verification_meta = {}
function verification_meta.__index(verification, key)
  if key ~= "path" and key ~= "anchor" then return nil end
  local path = {}
  for i, der in ipairs(verification.path_der) do path[i] = core.certificate(der) end
  rawset(verification, "path", path)
  rawset(verification, "anchor", path[#path])
  return rawget(verification, key)
end

local function dress(verification, context)
  if not verification.path_der then
    verification.path_der, verification.path = verification.path, nil -- the core's are DER
  end
  for _, question in ipairs(questions) do
    local answer = verification[question]
    answer.question, answer.context = question, context
    if answer.answer == "yes" then answer.code = yes[question] end
    setmetatable(answer, answer_meta)
  end
  return setmetatable(verification, verification_meta)
end

-- The verification of a peer that cannot be judged at all.
local function nothing(code)
  local verification = { path_der = {} }
  for _, question in ipairs(questions) do
    verification[question] = { answer = "unknown", code = code, text = "cannot be judged" }
  end
  return verification
end

local function copy(fields)
  local result = {}
  for name, value in pairs(fields) do result[name] = value end
  return result
end

-- Whether the answer about revocation is enough for the certificate and the policy.
local function demand(revocation, policy)
  if revocation.answer ~= "unknown" then return end
  revocation.why = revocation.code
  if revocation.must_staple then
    revocation.answer, revocation.code = "no", "missing_staple"
  elseif policy == "hard" or revocation.unusable_crl then
    revocation.answer, revocation.code = "no", "revocation_unknown"
  end
end

-- The question to be told about, when several are answered no.
local function worst(verification, terms)
  if terms.insecure_skip_verify then return nil end
  local order = questions
  if verification.revocation.code == "revoked" and not terms.insecure_skip_revocation then
    order = { "revocation", "issuer", "dates", "name" }
  end
  for _, question in ipairs(order) do
    if verification[question].answer == "no" and not terms["insecure_skip_" .. question] then return question end
  end
end

-- A host name or address as it is compared: {name=} or {ip=}; nil, message when it is neither.
local function reference(terms)
  local name, ip = terms.name, terms.ip
  if name and not ip then
    local address = core.literal(name:match("^%[(.*)%]$") or name)
    if address then name, ip = nil, address end
  end
  if ip then
    local address = core.literal(ip:match("^%[(.*)%]$") or ip)
    if not address then return nil, ("%q is no IP address"):format(ip) end
    return { ip = (address:gsub("%%.*", "")) } -- a zone is this machine's affair
  end
  if not name then return {} end
  if name:find("[^%w%-_.]") then
    local ascii, message = core.to_ascii(name)
    if not ascii then return nil, message end
    name = ascii
  end
  return { name = (name:lower():gsub("%.$", "")) }
end

-- One budget for all that is fetched in a verification.
local function budget_of(terms)
  terms.budget = terms.budget or require("tlsconnect.trust.fetch").budget(terms)
  return terms.budget
end

-- Judging -------------------------------------------------------------------------------------------

-- Asks the core, or what was remembered. A verification without sentences, or nil, message, cause.
local function ask(self, question, entry, terms)
  if entry then return memory.recall(entry) end
  local verification, message, cause = self.core:judge(question)
  if verification and verification.issuer.code == "unknown_issuer" and self.more then
    local before, _, generation = self.core:state()
    if self.more_at ~= generation then self.more() end
    local after
    after, _, self.more_at = self.core:state()
    if after > before then verification, message, cause = self.core:judge(question) end
  end
  if verification and terms.aia and verification.issuer.code == "unknown_issuer" then
    local function again(chain)
      local longer = copy(question)
      longer.chain = chain
      return self.core:judge(longer)
    end
    verification = require("tlsconnect.trust.aia").complete(question.chain, verification, again, budget_of(terms),
      terms.wait or waiter.wait)
  end
  return verification, message, cause
end

local function all_yes(verification)
  local revocation = verification.revocation.answer
  return verification.issuer.answer == "yes" and verification.dates.answer == "yes" and revocation ~= "no"
    and verification.name.answer ~= "no"
end

local function refuse(code, message, more, alert)
  local _, text, err = fail("verify", code, message, more)
  return nil, text, err, alert or alerts[code] or "bad_certificate"
end

-- Whether others are to be asked about revocation: the policy says so, and nothing is decided yet.
local function worth_asking(verification, terms)
  if terms.revocation ~= "soft" and terms.revocation ~= "hard" then return false end
  local revocation = verification.revocation
  if terms.insecure_skip_verify or terms.insecure_skip_revocation or revocation.answer == "no" then return false end
  if revocation.must_staple and revocation.answer == "unknown" then return false end -- only a staple will do
  return verification.issuer.answer == "yes" and not worst(verification, terms)
end

-- A file of roots that was there, and cannot be read any more.
local function lost(message, cause)
  if cause.path then
    message = ("the trusted roots in %s cannot be read any more: %s"):format(errors.escape(cause.path, 200), message)
  end
  return refuse("unreadable_trust", message, { errno = cause.errno, path = cause.path }, "internal_error")
end

--- The roots whose subject is the issuer of this certificate (all roots without one): a list of
-- certificates, or nil, message, err.
function Trust:find(certificate)
  if certificate ~= nil and getmetatable(certificate) ~= "tlsconnect.certificate" then
    error(("bad argument #1 to 'find' (a certificate expected, got a %s)"):format(type(certificate)), 2)
  end
  local ok, message, err = load(self)
  if not ok then return nil, message, err end
  local ders, text, cause = self.core:certificates(certificate and certificate:issuer("der"))
  if not ders then
    ok, message, err = lost(text, cause)
    return ok, message, err
  end
  local found = {}
  for _, der in ipairs(ders) do found[#found + 1] = core.certificate(der) end
  return found
end

-- Makes the roots ready: loaded, and read again when their files have changed.
local function ready(self, terms)
  local ok, message, err = load(self)
  local cause
  if ok then ok, message, cause = self.core:refresh() end
  if ok or terms.insecure_skip_verify then return true end
  if err then return nil, message, err, "internal_error" end
  return lost(message, cause)
end

-- The pins that a program asks for, on what was verified alone. Results as of judge().
local function met_pins(list, given, verification, context)
  if not list then return true, verification end
  local pins = require "tlsconnect.pins"
  local path = verification.path_der[1] and verification.path_der or { given.chain[1] }
  local seen
  verification.pin, seen = pins.met(pins.parse(list), path)
  if verification.pin then return true, verification end
  return refuse("pin_mismatch", ("%s has none of the pinned keys: its path has %s")
    :format(context.host or "the certificate", table.concat(seen, ", ")), { verification = verification, pins = seen })
end

-- Whether terms ask no more than the four questions, of which no answer is ignored.
local function usual(terms)
  if terms.pins or terms.revocation and terms.revocation ~= "staple" then return false end
  return not (terms.insecure_skip_verify or terms.insecure_skip_issuer or terms.insecure_skip_dates
    or terms.insecure_skip_revocation or terms.insecure_skip_name)
end

-- {chain=, staples=, crls=} judged by `terms`. share: the verification may be one that others hold, too (see
-- memory.lua). true, verification, or nil, message, err, alert.
local function judge(self, given, terms, share)
  local ok, message, err, alert = ready(self, terms)
  if not ok then return nil, message, err, alert end
  local meant, wrong = terms.meant, nil
  if not meant then meant, wrong = reference(terms) end
  if not meant then return refuse("name_mismatch", wrong) end
  local purpose, strict = terms.purpose or "server", terms.profile == "strict"
  local now = terms.time or os.time()
  local key
  if not terms.time and not given.crls then
    key = core.digest(given.chain, given.staples or {}, meant.name, meant.ip, purpose, strict and "strict" or nil,
      terms.max_depth and tostring(terms.max_depth))
  end
  local host = terms.name or terms.ip
  local entry = key and memory.find(self, key, now)
  share = share and entry and usual(terms)
  if share and entry.whole and entry.host == host then return true, entry.whole end
  local context = { host = host, purpose = purpose }
  local verification, text, cause = ask(self, {
    chain = given.chain, staples = given.staples, crls = given.crls, name = meant.name, ip = meant.ip,
    purpose = purpose, time = now, strict = strict, max_depth = terms.max_depth, remember = true,
  }, entry, terms)
  if not verification then
    if terms.insecure_skip_verify then return true, dress(nothing(cause.code), context) end
    if cause.path then return lost(text, cause) end
    return refuse(cause.code, context.host and context.host .. ": " .. text or text)
  end
  if key and not verification.remembered and all_yes(verification) then
    memory.keep(self, key, now, verification)
  end
  if worth_asking(verification, terms) then
    require("tlsconnect.trust.revocation").settle(verification, given, {
      revocation = terms.revocation, time = now, strict = strict, wait = terms.wait, budget = budget_of(terms),
    })
  end
  demand(verification.revocation, terms.revocation)
  dress(verification, context)
  verification.muted = {}
  for _, name in ipairs(questions) do
    verification.muted[name] = terms.insecure_skip_verify or terms["insecure_skip_" .. name] or nil
  end
  local failed = worst(verification, terms)
  verification.ok = not failed
  if share and not failed then
    verification.shared, entry.whole, entry.host = true, verification, host
  end
  if not failed then return met_pins(terms.pins, given, verification, context) end
  local answer = verification[failed]
  return refuse(answer.code, answer.reason, {
    host = context.host, certificate = answer.certificate, question = failed, verification = verification,
  })
end

--- Whether a chain is good, without a connection. chain: PEM text, DER, a certificate or a list, the
-- peer's own first. options: name (host name) or ip; time (seconds since the epoch; default now); purpose
-- ("server", the default, or "client"); staple (an OCSP response, DER) or staples (a list, one for each of
-- the chain, false where there is none); crls (PEM or DER text, or a list of DER); profile ("default" or
-- "strict"); max_depth (intermediates); revocation ("staple", or "soft" or "hard", which fetch); aia
-- (boolean: fetches issuers that are missing); wait, timeout, fetch_timeout, insecure_fetch_private: of what is
-- fetched; pins; insecure_skip_issuer, _dates, _revocation, _name and
-- insecure_skip_verify. True and a verification, or nil, message, err.
function Trust:verify(chain, options)
  options = options_of.check("verify", options)
  return late.load("tlsconnect.trust.own").verify(self, chain, options)
end

--- The same for a session that has a peer's certificates. terms: as verify's options; and `meant`, name or ip as they
-- are compared, where that is known. True, verification (a shared one where that will do: see memory.lua), or nil,
-- message, err, alert name.
function Trust:judge(session, terms)
  return judge(self, { chain = session:peer_certificates(), staples = session:staples(), crls = terms.crls },
    terms, true)
end

-- What trust/own.lua stands on.
M.add_directory, M.add_file, M.copy, M.each_path, M.empty = add_directory, add_file, copy, each_path, empty
M.fail, M.judge, M.load = fail, judge, load

function Trust:__tostring()
  local count = self.core:state()
  return ("tlsconnect.trust: %d roots"):format(count)
end

return M

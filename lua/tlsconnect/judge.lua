-- Step 5 as a connection takes it: what the trust says of the peer's certificates, then the program's own
-- conditions: pins, known hosts, its `verify` function. Every handshake comes through here, one that resumes a
-- session too: nothing of what was asked of an earlier one is taken over.
local errors = require "tlsconnect.error"
local memory = require "tlsconnect.trust.memory"
local pins = require "tlsconnect.pins"

local M = {}

-- What of a call's options the trust goes by.
local terms_of = { "insecure_skip_verify", "insecure_skip_issuer", "insecure_skip_dates",
  "insecure_skip_revocation", "insecure_skip_name", "profile", "revocation", "fetch_timeout",
  "insecure_fetch_private", "aia" }

--- Raises when an option of a call or a context, which this file reads later, cannot be right.
function M.check(given)
  if given.pins then pins.parse(given.pins) end
end

local function refuse(self, code, message, more)
  local err = { step = "verify", code = code, message = message, host = self.host, port = self.port }
  for name, value in pairs(more or {}) do err[name] = value end
  return nil, errors.new(err), "certificate_unknown"
end

-- The certificates that were verified. Where the issuer's question is muted there may be no path: the peer's own
-- certificate alone is proved by its handshake then.
local function verified(verification, chain)
  local path = verification.path_der
  if path and path[1] then return path end
  return { chain[1] }
end

local function pinned(self, list, verification, chain)
  local set = pins.parse(list)
  local met, seen = pins.met(set, verified(verification, chain))
  if met then
    verification.pin = met
    return true
  end
  return refuse(self, "pin_mismatch", ("%s has none of the pinned keys: its path has %s, pinned are %s")
    :format(errors.peer(self.host, self.port), table.concat(seen, ", "), table.concat(pins.list(set), ", ")),
    { pins = seen, verification = verification })
end

-- What the file of known hosts calls this peer.
local function known_name(self, call)
  return call.peer.name or call.peer.ip or self.host, tostring(self.port or "-")
end

local function known(self, call, path, verification, chain)
  local host, port = known_name(self, call)
  local found, _, err = require("tlsconnect.known").check(path, host, port, chain[1])
  if found then
    call.new_host = found == "new" and { path = path, certificate = chain[1] } or nil
    return true
  end
  err.host, err.port, err.verification = self.host, self.port, verification
  return nil, err, "certificate_unknown"
end

-- Asks the program. It is asked last, only about a peer that has passed all else, and only `true` lets it pass.
local function approved(self, call, verify, verification, chain)
  local core = require "tlsconnect.core"
  local certificates = {}
  for i, der in ipairs(chain) do certificates[i] = core.certificate(der) or false end
  local ok, message = verify(verification, {
    host = self.host, port = self.port, role = call.role, name = call.peer.name, ip = call.peer.ip,
    resumed = (call.shown or self.session):resumed() and true or false, chain = certificates, wait = call.waiter,
    deadline = call.deadline,
  })
  if ok == true then return true end
  return refuse(self, "verify_refused", ("%s was refused: %s"):format(errors.peer(self.host, self.port),
    message ~= nil and tostring(message) or "the option 'verify' did not return true"), { verification = verification })
end

-- The program's own conditions. True, or nil, err, alert; and, where there are any, the verification as they leave it.
local function conditions(self, call, verification)
  local context, given = call.context, call.given
  local wanted, path, verify = context:pick(given, "pins"), context:pick(given, "known_hosts"),
    context:pick(given, "verify")
  if not (wanted or path or verify) then return true end
  verification = memory.own(verification)
  local chain = (call.shown or self.session):peer_certificates()
  local ok, err, alert = true, nil, nil
  if wanted or path then
    if #chain == 0 then return refuse(self, "no_certificate", nil) end
  end
  if wanted then ok, err, alert = pinned(self, wanted, verification, chain) end
  if ok and path then ok, err, alert = known(self, call, path, verification, chain) end
  if ok and verify then ok, err, alert = approved(self, call, verify, verification, chain) end
  return ok, err, alert, verification
end

--- Judges the peer of a session. self: the connection; call: what it goes by; call.shown: what the peer showed before,
-- in place of what it shows now. True, or nil, err, alert.
function M.judge(self, call)
  local context, peer, recorder = call.context, call.peer, call.recorder
  if call.role == "server" then
    local chain = self.session:peer_certificates()
    local mode = context.client_certificate
    if mode == "none" or mode == "request" and #chain == 0 then return true end
  end
  recorder:start("verify")
  local trust, _, err = context:roots()
  if not trust then
    err.host, err.port = err.host or self.host, err.port or self.port
    return nil, err, "internal_error"
  end
  local terms = { name = peer.name, ip = peer.ip, wait = call.waiter, deadline = call.deadline,
    purpose = call.role == "server" and "client" or "server",
    time = context:pick(call.given, "verify_time") }
  for _, name in ipairs(terms_of) do terms[name] = context:pick(call.given, name) end
  local good, verification, alert, own
  local file = context:pick(call.given, "crl_file")
  if file then
    terms.crls, _, err = require("tlsconnect.trust.lists").read(file)
    if not terms.crls then
      err.host, err.port = self.host, self.port
      return nil, err, "internal_error"
    end
  end
  good, verification, err, alert = trust:judge(call.shown or self.session, terms)
  call.judged = true
  if good and not self.closed then
    recorder:verification(verification)
    good, err, alert, own = conditions(self, call, verification)
  elseif not good then
    recorder:verification(err.verification)
  end
  if good then
    self.judged = own or verification
    recorder:finish("verify")
    return true
  end
  err.host, err.port = err.host or self.host, err.port or self.port
  return nil, err, alert or "bad_certificate"
end

--- What is left to do once the handshake is complete, when the peer has proved that it holds its key: a new
-- host becomes a known one. True, or nil, message, err.
function M.complete(self, call)
  local new = call.new_host
  if not new then return true end
  local host, port = known_name(self, call)
  return require("tlsconnect.known").add(new.path, host, port, new.certificate, call.waiter, call.deadline)
end

return M

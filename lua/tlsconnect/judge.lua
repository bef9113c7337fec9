-- Step 5 as a connection takes it: what the trust says of the peer's certificates, then the program's own
-- conditions: pins, known hosts, its `verify` function. Every handshake comes through here, one that resumes a
-- session too: nothing of what was asked of an earlier one is taken over.
local late = require "tlsconnect.late"

local M = {}

-- What the trust goes by: of a call's options, and what else is known of it.
local function terms_of(call)
  local options, peer = call.terms, call.peer
  return {
    name = peer.name, ip = peer.ip, meant = peer, wait = call.waiter, deadline = call.deadline,
    purpose = call.role == "server" and "client" or "server", time = options.verify_time,
    insecure_skip_verify = options.insecure_skip_verify, insecure_skip_issuer = options.insecure_skip_issuer,
    insecure_skip_dates = options.insecure_skip_dates, insecure_skip_revocation = options.insecure_skip_revocation,
    insecure_skip_name = options.insecure_skip_name, profile = options.profile, revocation = options.revocation,
    fetch_timeout = options.fetch_timeout, insecure_fetch_private = options.insecure_fetch_private, aia = options.aia,
  }
end

--- Raises when an option of a call or a context, which this file reads later, cannot be right.
function M.check(given)
  if given.pins then late.load("tlsconnect.pins").parse(given.pins) end
end

-- The program's own conditions. True, or nil, err, alert; and, where there are any, the verification as they leave it.
local function conditions(self, call, verification)
  local options = call.terms
  local wanted, path, verify = options.pins, options.known_hosts, options.verify
  if not (wanted or path or verify) then return true end
  return late.load("tlsconnect.judge.conditions").met(self, call, verification, wanted, path, verify)
end

--- Judges the peer of a session. self: the connection; call: what it goes by; call.shown: what the peer showed before,
-- in place of what it shows now. True, or nil, err, alert.
function M.judge(self, call)
  local context, recorder = call.context, call.recorder
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
  local terms = terms_of(call)
  local good, verification, alert, own
  local file = call.terms.crl_file
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
  if not call.new_host then return true end
  return late.load("tlsconnect.judge.conditions").remember(self, call)
end

return M

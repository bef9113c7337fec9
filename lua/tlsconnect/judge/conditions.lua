-- A program's own conditions for a peer: pins, known hosts, its function `verify`. See judge.lua.
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local memory = require "tlsconnect.trust.memory"
local pins = require "tlsconnect.pins"

local M = {}

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

--- Whether the peer meets them. wanted, path, verify: the options `pins`, `known_hosts` and `verify`. True, or nil,
-- err, alert; and the verification as they leave it.
function M.met(self, call, verification, wanted, path, verify)
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

--- A new host becomes a known one. True, or nil, message, err.
function M.remember(self, call)
  local new = call.new_host
  local host, port = known_name(self, call)
  return require("tlsconnect.known").add(new.path, host, port, new.certificate, call.waiter, call.deadline)
end

return M

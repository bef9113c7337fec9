-- Issuers that a server did not send, fetched from where the certificate says (authority information access, RFC
-- 5280 4.2.2.1): the option `aia`. What is fetched is a candidate for the path like any other that was sent; it is
-- never trusted for itself, and no root comes this way.
local core = require "tlsconnect.core"
local cache = require "tlsconnect.trust.cache"
local fetch = require "tlsconnect.trust.fetch"

local M = {}

-- Issuers on top of each other, places for one, bytes of one answer, certificates taken from it.
local ROUNDS, PLACES, LIMIT, TAKEN = 4, 2, 65536, 4
-- How long an answer is kept, in seconds.
local KEPT = 24 * 3600

local answers = cache.new(64, 1024 * 1024)

--- Forgets all that was fetched.
function M.forget()
  answers:clear()
end

-- The certificates (DER) in an answer: one as it is (RFC 5280), several in a PKCS #7 file (RFC 5272), or PEM.
local function certificates_in(bytes)
  local list = bytes:find("-----BEGIN", 1, true) and core.certificates(bytes) or { (core.certificate(bytes)) }
  local found = {}
  for i = 1, math.min(#list, TAKEN) do found[i] = list[i]:der() end
  if found[1] then return found end
  return core.pkcs7_certificates(bytes)
end

-- The certificates behind one URL: a list, maybe an empty one. asked: what came, by URL; false for what was kept.
local function ask(url, asked, budget, wait)
  local kept, till = answers:get(url)
  if kept and os.time() < till then
    asked[url] = false
    return certificates_in(kept)
  end
  local bytes = fetch.fetch(url, { limit = LIMIT }, budget, wait)
  if not bytes then return {} end
  asked[url] = bytes
  return certificates_in(bytes)
end

-- Nobody has signed that these bytes belong to that URL: only what has led to a root is kept, so that a false answer,
-- once given, does no harm to the next verification.
local function learn(asked, helped)
  for url, bytes in pairs(asked) do
    if not helped then
      answers:forget(url)
    elseif bytes then
      answers:put(url, bytes, os.time() + KEPT)
    end
  end
end

-- Adds what is new to the chain. True when something was.
local function extend(chain, list)
  local more = false
  for i = 1, math.min(#list, TAKEN) do
    local known = false
    for _, one in ipairs(chain) do known = known or one == list[i] end
    if not known then
      chain[#chain + 1], more = list[i], true
    end
  end
  return more
end

-- Whose issuer is missing: a certificate (DER), or nil.
local function orphan(verification, chain)
  local issuer = verification.issuer
  if issuer.code ~= "unknown_issuer" or issuer.cause then return nil end
  return issuer.certificate and chain[issuer.certificate]
end

--- Completes a chain as long as that helps. chain: DER strings, not changed; judge: function(chain) that gives a
-- verification, or nil; verification: that of the chain as it was sent. The last verification.
function M.complete(chain, verification, judge, budget, wait)
  local longer, asked = {}, {}
  for i, der in ipairs(chain) do longer[i] = der end
  for _ = 1, ROUNDS do
    local child = orphan(verification, longer)
    if not child then break end
    local places, more = core.issuer_places(child), false
    for i = 1, math.min(PLACES, #places) do
      more = more or extend(longer, ask(places[i], asked, budget, wait))
    end
    local better = more and judge(longer)
    if not better then break end
    verification = better
  end
  learn(asked, verification.issuer.answer == "yes")
  for _, question in ipairs { "issuer", "dates", "revocation", "name" } do
    local answer = verification[question]
    -- A place in the chain is one among those that were sent.
    if answer.certificate and answer.certificate > #chain then answer.certificate = nil end
  end
  return verification
end

return M

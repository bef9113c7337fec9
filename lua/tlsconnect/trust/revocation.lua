-- Whether the certificates of a path were revoked, asked of those who know: the policies "soft" and "hard". For
-- each certificate below the root what came with the handshake is looked at first (its staple, the lists that
-- the program gave), then what was fetched before, then its OCSP responders are asked (RFC 6960), then its
-- revocation lists are fetched (RFC 5280); all certificates at the same time. src/inquiry.c judges the answers.
local core = require "tlsconnect.core"
local der = require "tlsconnect.der"
local cache = require "tlsconnect.trust.cache"
local fetch = require "tlsconnect.trust.fetch"
local together = require "tlsconnect.together"
local waiter = require "tlsconnect.wait"

local M = {}

-- One answer, one list, in bytes; responders and lists asked for one certificate.
local ANSWER, LIST, PLACES = 65536, 8 * 1024 * 1024, 2
-- How long a place that gave nothing is left alone by "soft", in seconds.
local REST = 60

local answers = cache.new()
local silent = {} -- places that gave nothing: when they may be asked again, on core.now's clock
local silent_count = 0

--- Forgets every answer that was fetched.
function M.forget()
  answers:clear()
  silent, silent_count = {}, 0
end

local function resting(place)
  local till = silent[place]
  return till ~= nil and core.now() < till
end

local function rest(place)
  if silent_count >= 256 then silent, silent_count = {}, 0 end
  if not silent[place] then silent_count = silent_count + 1 end
  silent[place] = core.now() + REST
end

-- RFC 6960 4.1.1, without a nonce, so that responders may answer with what they have signed beforehand. The
-- hash only names the issuer, and SHA-1 is the one that every responder knows (RFC 5019 2.1.1).
local function request_of(inquiry)
  local id = der.sequence(der.sequence(der.oid("1.3.14.3.2.26"), der.null()),
    der.octets(core.hash("SHA1", inquiry.issuer_name)), der.octets(core.hash("SHA1", inquiry.issuer_key)),
    der.element(0x02, inquiry.serial))
  return der.sequence(der.sequence(der.sequence(der.sequence(id))))
end

-- One certificate of the path: its bytes, its issuer's, and the best answer so far.
local function subject_of(path, i, terms)
  return { der = path[i], issuer = path[i + 1], place = i, time = terms.time, strict = terms.strict,
    answer = { answer = "unknown", code = "no_answer", source = "none" } }
end

-- Takes an answer when it is better than what was there. True once the question is settled.
local function take(subject, answer, source, url)
  if subject.answer.answer == "no" then return true end
  if answer and (answer.answer ~= "unknown" or subject.answer.answer == "unknown") then
    answer.source, answer.url = source, url
    subject.answer = answer
  end
  return subject.answer.answer ~= "unknown"
end

local function judge_ocsp(subject, bytes)
  return core.ocsp_answer(bytes, subject.der, subject.issuer, subject.time)
end

local function judge_list(subject, bytes)
  local lists = bytes:find("-----BEGIN", 1, true) and core.pem_decode(bytes, "X509 CRL") or { bytes }
  local answer = lists[1] and core.crl_answer(lists[1], subject.der, subject.issuer, subject.time, subject.strict)
  return answer or { answer = "unknown", code = "bad_crl" }
end

-- What is here already: the staple, the program's lists.
local function look(subject, given)
  for i, certificate in ipairs(given.chain) do
    local staple = certificate == subject.der and given.staples and given.staples[i]
    if staple then take(subject, judge_ocsp(subject, staple), "staple") end
  end
  for _, list in ipairs(given.crls or {}) do
    take(subject, core.crl_answer(list, subject.der, subject.issuer, subject.time, subject.strict), "crl")
  end
end

-- Asks one place. how: {key = of the cache, limit=, body=, type=, judge=, source=}. True once settled.
local function ask(subject, url, how, call)
  local kept, till = answers:get(how.key)
  if kept and os.time() < till and take(subject, how.judge(subject, kept), how.source, url) then return true end
  if call.soft and resting(url) then
    take(subject, { answer = "unknown", code = "fetch_failed", detail = "it gave no answer a moment ago" },
      how.source, url)
  else
    local bytes, message = fetch.fetch(url, how, call.budget, call.wait)
    if bytes then
      local answer = how.judge(subject, bytes)
      if answer.answer ~= "unknown" then
        answers:put(how.key, bytes, answer.next_update or os.time())
      elseif call.soft then
        rest(url)
      end
      if take(subject, answer, how.source, url) then return true end
    else
      if call.soft then rest(url) end
      take(subject, { answer = "unknown", code = "fetch_failed", detail = message }, how.source, url)
    end
  end
  -- What was revoked stays so, however old the word of it.
  return kept and take(subject, how.judge(subject, kept), how.source, url)
end

-- Asks all the places that a certificate names, until one has an answer.
local function inquire(subject, call)
  local inquiry = core.inquiry(subject.der, subject.issuer)
  if #inquiry.ocsp == 0 and #inquiry.crl == 0 then
    if subject.answer.code == "no_answer" then subject.answer.code = "no_source" end
    return
  end
  local request = request_of(inquiry)
  local about = { key = "ocsp " .. request .. inquiry.issuer_key, limit = ANSWER, body = request,
    type = "application/ocsp-request", judge = judge_ocsp, source = "ocsp" }
  for i = 1, math.min(PLACES, #inquiry.ocsp) do
    if ask(subject, inquiry.ocsp[i], about, call) then return end
  end
  for i = 1, math.min(PLACES, #inquiry.crl) do
    local url = inquiry.crl[i]
    local list = { key = "crl " .. url, limit = LIST, judge = judge_list, source = "crl" }
    if ask(subject, url, list, call) then return end
  end
end

-- The answer about the whole path: revoked where one is, good where all are, else the first that is not known.
local function summary(subjects)
  local worst, earliest
  for _, subject in ipairs(subjects) do
    local answer = subject.answer
    if answer.answer == "no" then return subject end
    if answer.answer == "unknown" and not worst then worst = subject end
    local till = answer.next_update
    if till and (not earliest or till < earliest) then earliest = till end
  end
  return worst or subjects[1], earliest
end

local function place_in(chain, certificate)
  for i, one in ipairs(chain) do
    if one == certificate then return i end
  end
end

--- Settles the question for a path that was found: changes verification.revocation, and adds `certificates`
-- to it, the answer about each. given: {chain=, staples=, crls=}; terms: revocation ("soft" or "hard"), wait,
-- budget (fetch.budget's), time, strict.
function M.settle(verification, given, terms)
  local path, subjects, open = verification.path_der, {}, {}
  local call = { soft = terms.revocation == "soft", budget = terms.budget }
  for i = 1, #path - 1 do
    local subject = subject_of(path, i, terms)
    subjects[i] = subject
    look(subject, given)
    if subject.answer.answer == "unknown" then
      open[#open + 1] = function(wait)
        inquire(subject, { soft = call.soft, budget = call.budget, wait = wait })
      end
    end
  end
  if #subjects == 0 then return end -- the peer's own certificate is what is trusted
  together.run(open, terms.wait or waiter.wait)
  local subject, earliest = summary(subjects)
  local old, answer = verification.revocation, {}
  for key, value in pairs(subject.answer) do answer[key] = value end
  if answer.answer == "yes" then answer.next_update = earliest end
  answer.certificate = place_in(given.chain, subject.der)
  local names = core.inquiry(subject.der, subject.issuer)
  answer.subject, answer.issuer = names.subject, names.issuer
  answer.must_staple, answer.stapled = old.must_staple, old.stapled
  answer.unusable_crl = old.unusable_crl and answer.answer == "unknown"
  answer.certificates = {}
  for i, one in ipairs(subjects) do answer.certificates[i] = one.answer end
  verification.revocation = answer
end

return M

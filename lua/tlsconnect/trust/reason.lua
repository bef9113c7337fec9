-- The sentences of step 5: what a person is told about a certificate. The answers come from the core
-- as {answer=, code=, ...}; names in them are escaped already.
local errors = require "tlsconnect.error"

local M = {}

local floor = math.floor

local function plural(count, word)
  return ("%d %s%s"):format(count, word, count == 1 and "" or "s")
end

--- A span of seconds in its largest whole unit: "3 days".
function M.span(seconds)
  seconds = math.abs(seconds)
  if seconds >= 2 * 365 * 86400 then return plural(floor(seconds / 365 / 86400), "year") end
  if seconds >= 86400 then return plural(floor(seconds / 86400), "day") end
  if seconds >= 3600 then return plural(floor(seconds / 3600), "hour") end
  if seconds >= 60 then return plural(floor(seconds / 60), "minute") end
  return plural(floor(seconds), "second")
end

-- Years beyond what os.date takes in any Lua are cut to what it does.
local function date(time)
  return os.date("!%Y-%m-%d %H:%M UTC", math.max(0, math.min(time, 253402300799)))
end

-- "a.example, b.example and 3 more"
local function listed(names, total)
  local text = table.concat(names, ", ")
  if total > #names then text = ("%s and %d more"):format(text, total - #names) end
  return text
end

local function whose(context)
  return context.host and context.host .. "'s certificate" or "the certificate"
end

-- What an answer is about: the peer's own certificate, or one above it.
local function about(answer, context)
  if answer.certificate == 1 then return whose(context) end
  return ("%s is not trusted: its issuer %s"):format(whose(context), answer.subject or "")
end

-- CRLReason, RFC 5280 5.3.1
local reasons = {
  [1] = "its key was compromised", [2] = "its issuer was compromised", [3] = "its owner has changed",
  [4] = "it was replaced", [5] = "it is no longer in use", [6] = "it is on hold",
  [9] = "its privilege was withdrawn", [10] = "an attribute authority was compromised",
}

-- Why an answer about revocation is none.
local unusable = {
  no_answer = "nobody was asked", bad_response = "the answer is broken",
  responder_error = "the responder had no answer", wrong_certificate = "the answer is about another certificate",
  bad_signer = "the answer is not signed by one who may", stale = "the answer is out of date",
  not_yet_valid = "the answer is from the future", status_unknown = "the responder does not know it",
  no_source = "it names nobody to ask", fetch_failed = "the answer could not be fetched",
  bad_crl = "the revocation list is broken", partial_crl = "the revocation list does not cover it",
}
M.unusable = unusable

local issuer = {}

function issuer.trusted(answer)
  return ("trusted by %s"):format(answer.subject)
end

function issuer.self_signed(_, context)
  return whose(context) .. " is self-signed, and is not one of the trusted"
end

function issuer.unknown_issuer(answer, context)
  local sender = context.purpose == "client" and "client" or "server"
  if answer.cause == "other_key" then
    return ("%s is not trusted: its issuer %s is not trusted (a trusted root of that name has another key)")
      :format(whose(context), answer.issuer)
  end
  if answer.cause == "root" then
    return ("%s is not trusted: its root %s is not one of the trusted"):format(whose(context), answer.subject)
  end
  if answer.certificate == 1 then
    return ("%s is not trusted: its issuer %s is neither one of the trusted nor sent by the %s")
      :format(whose(context), answer.issuer, sender)
  end
  return ("%s is not trusted: %s, the issuer of %s, is neither one of the trusted nor sent by the %s")
    :format(whose(context), answer.issuer, answer.subject, sender)
end

local function issuer_default(answer, context)
  local detail = ""
  if answer.code == "weak_key" and answer.bits then detail = (" (%d bits)"):format(answer.bits) end
  if answer.extension then detail = (" (%s)"):format(answer.extension) end
  return ("%s %s%s"):format(about(answer, context), answer.text, detail)
end

local dates = {}

function dates.valid()
  return "in date"
end

function dates.expired(answer, context)
  return ("%s expired %s ago, on %s"):format(about(answer, context), M.span(answer.now - answer.at),
    date(answer.at))
end

function dates.not_yet_valid(answer, context)
  return ("%s is not valid before %s, which is in %s by this clock"):format(about(answer, context),
    date(answer.at), M.span(answer.at - answer.now))
end

local function dates_default(_, context)
  return whose(context) .. " has dates that cannot be read"
end

local name = {}

function name.matches(_, context)
  return "for " .. context.host
end

function name.not_asked()
  return "no name was asked for"
end

function name.name_mismatch(answer, context)
  if answer.total == 0 then
    return ("the certificate names no host (it has no subject alternative name), not even %s"):format(context.host)
  end
  return ("the certificate is for %s, not %s"):format(listed(answer.names, answer.total), context.host)
end

local revocation = {}

function revocation.good()
  return "not revoked"
end

function revocation.revoked(answer, context)
  local why = reasons[answer.reason_code]
  return ("%s was revoked on %s%s"):format(about(answer, context), date(answer.at), why and (": " .. why) or "")
end

function revocation.missing_staple(answer, context)
  local sent = answer.stapled and "the one it sent is no good: " .. unusable[answer.why] or "it sent none"
  return ("%s obliges the server to send a revocation answer, but %s"):format(whose(context), sent)
end

-- Why it is not known, and what went wrong where.
local function unknown(answer, code)
  local text = unusable[code] or code
  if not answer.url then return text end
  local place = errors.escape(answer.url, 120)
  return answer.detail and ("%s (%s: %s)"):format(text, place, answer.detail) or ("%s (%s)"):format(text, place)
end

function revocation.revocation_unknown(answer, context)
  local what = whose(context)
  if answer.certificate and answer.certificate ~= 1 or answer.url and not answer.certificate then
    what = ("%s, an issuer of %s,"):format(answer.subject, what)
  end
  return ("it is not known whether %s is revoked: %s"):format(what, unknown(answer, answer.why))
end

local function revocation_default(answer)
  return ("not known whether it is revoked: %s"):format(unknown(answer, answer.code))
end

local kinds = {
  issuer = { issuer, issuer_default }, dates = { dates, dates_default }, name = { name, name.not_asked },
  revocation = { revocation, revocation_default },
}

--- The sentence of an answer. question: "issuer", "dates", "revocation" or "name"; context: {host=,
-- purpose=}.
function M.sentence(question, answer, context)
  local kind = kinds[question]
  return (kind[1][answer.code] or kind[2])(answer, context)
end

return M

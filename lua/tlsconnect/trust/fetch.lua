-- What a certificate refers to, fetched: OCSP answers, revocation lists, issuers' certificates. A certificate
-- chooses these URLs, so they are asked with care: plain http only (what is fetched is signed, and https would
-- need a verification of its own), at public addresses only unless that is allowed, each redirect judged like
-- the first URL, and one budget of time, bytes and requests for all fetches of a verification.
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"

local fetch = {}

-- Of all the fetches of one verification together.
local SECONDS, BYTES, REQUESTS = 10, 16 * 1024 * 1024, 24
local REDIRECTS = 3

-- What a head may have, in bytes and lines, and the seconds of a pause: the budget's deadline ends it before.
local function limits_of(budget)
  return { max_head = 16384, max_headers = 100, first_byte = 3600, idle = 3600, deadline = budget.deadline }
end

--- A budget for the fetches of one verification. terms: wait, deadline (on core.now's clock),
-- fetch_timeout (seconds), insecure_fetch_private.
function fetch.budget(terms)
  local deadline = core.now() + (terms.fetch_timeout or SECONDS)
  if terms.deadline and terms.deadline < deadline then deadline = terms.deadline end
  return { deadline = deadline, bytes = BYTES, requests = REQUESTS, private = terms.insecure_fetch_private }
end

-- One request and its answer's head. The connection, answer and its framing, or nil, message.
local function ask(target, what, budget, wait)
  local connection = require "tlsconnect.connection"
  local http1, request = require "tlsconnect.https.http1", require "tlsconnect.https.request"
  local url = require "tlsconnect.https.url"
  local left = budget.deadline - core.now()
  if left <= 0 then return nil, "time is over" end
  if budget.requests == 0 then return nil, "more is to be fetched than is allowed" end
  budget.requests = budget.requests - 1
  local outgoing, message = request.new(what.body and "POST" or "GET", target,
    { ["Content-Type"] = what.body and what.type or nil, Connection = "close" }, what.body)
  if not outgoing then return nil, message end
  local asked, err
  asked, message, err = connection.open(url.dialled(target), target.port, { tls = false, timeout = left,
    allow_address = not budget.private and "public" or nil, wait = wait })
  if not asked then return nil, err.detail or message end
  asked:settimeout(nil)
  asked:setdeadline(budget.deadline)
  local sent, last, answer, kind, length
  sent, message, last, err = asked:send(outgoing:head() .. (what.body or ""))
  if sent then
    answer, kind, length = http1.read_head(asked, target, limits_of(budget))
    if not answer then message, err = kind, length end
  elseif type(last) == "table" then
    err = last
  end
  if not answer then
    asked:close()
    return nil, err and err.detail or message
  end
  return asked, answer, kind, length
end

-- Where a redirect leads, or nil, message.
local function follow(target, answer)
  local url = require "tlsconnect.https.url"
  local following, problem = url.resolve(target, answer.headers.location)
  if not following then return nil, problem end
  if following.scheme ~= "http" then return nil, "it redirects to " .. following.scheme end
  return following
end

-- The whole body, counted against the budget as it comes. nil, message.
local function read(reader, limit, budget)
  local blocks, pieces, size = {}, {}, 0
  while true do
    local data, message, err = reader:read()
    if not data then
      if err then return nil, err.detail or message end
      blocks[#blocks + 1] = table.concat(pieces)
      return table.concat(blocks)
    end
    size, budget.bytes = size + #data, budget.bytes - #data
    if size > limit then return nil, ("the answer is longer than %d bytes"):format(limit) end
    if budget.bytes < 0 then return nil, "more is to be fetched than is allowed" end
    pieces[#pieces + 1] = data
    if #pieces == 512 then
      blocks[#blocks + 1] = table.concat(pieces)
      pieces = {}
    end
  end
end

local redirects = { [301] = true, [302] = true, [307] = true, [308] = true }

-- Whether an address is one that may be asked: parsed, or nil, message.
local function readable(address)
  local url = require "tlsconnect.https.url"
  if not address:find("^[hH][tT][tT][pP]:") then return nil, "its URL is no http URL" end
  local target, problem = url.parse(address)
  if target and target.userinfo then return nil, "its URL holds a user name" end
  return target, problem
end

--- Fetches one URL. what: {limit = bytes of the answer, body = what is sent (POST), type = its content type}.
-- The body, or nil and why there is none, in words that may follow the URL.
function fetch.fetch(address, what, budget, wait)
  local body = require "tlsconnect.https.body"
  local target, message = readable(address)
  for _ = 0, REDIRECTS do
    if not target then return nil, message end
    local asked, answer, kind, length = ask(target, what, budget, wait)
    if not asked then return nil, answer end
    if redirects[answer.status] and answer.headers.location then
      asked:close()
      target, message = follow(target, answer)
    elseif answer.status ~= 200 then
      asked:close()
      return nil, ("the answer was HTTP %d"):format(answer.status)
    elseif not kind then
      asked:close()
      return nil, "the answer's length cannot be told"
    else
      local data
      data, message = read(body.new(asked, target, kind, length, limits_of(budget)), what.limit, budget)
      asked:close()
      return data, message
    end
  end
  return nil, "it redirects again and again"
end

--- A URL of a certificate as a message may hold it.
function fetch.shown(address)
  return errors.escape(address, 120)
end

return fetch

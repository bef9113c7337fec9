--- Redirects (RFC 9110 15.4): where to, with which method, and what is left behind. What was given for
-- one origin never reaches another, not even when a later redirect leads back.

local http1 = require "tlsconnect.https.http1"
local personal = require "tlsconnect.https.personal"
local url = require "tlsconnect.https.url"

local M = {}

local followed = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }

-- What describes a body, and goes with it.
local of_body = {}
for _, name in ipairs {
  "content-disposition", "content-encoding", "content-language", "content-length", "content-location",
  "content-type", "digest", "content-digest", "expect", "last-modified", "repr-digest", "trailer",
} do
  of_body[name] = true
end

-- The call's own options without what belongs to the origin that is left. True, or nil, message, err.
local function leave_origin(call)
  local options, message, err = personal.options(call.options)
  if not options then return nil, message, err end
  call.options = options
  call.headers = personal.headers(call.headers)
  call.auth = nil
  return true
end

-- Where an answer points to: a parsed URL, or nil, message, err.
local function destination(outgoing, answer)
  local here = outgoing.url
  local locations = answer.headers:list("location")
  for i = 2, #locations do
    if locations[i] ~= locations[1] then
      return http1.refuse(here, "bad_redirect", "sent two unlike Location headers")
    end
  end
  local target, problem = url.resolve(here, locations[1])
  if not target then
    return http1.refuse(here, "bad_redirect", "redirects to a place that cannot be asked: %s", problem)
  end
  if target.fragment or not here.fragment then return target end
  return url.with_fragment(target, here.fragment)
end

--- The URL that a redirect asks for; nothing when the answer is to be taken as it is; nil, message,
-- err when it may not be followed. Changes the call for good: what was dropped stays dropped.
-- @param call the call: options, headers, body, method, redirects
-- @param outgoing the request that was answered
-- @param answer a 3xx answer with Location
-- @param count how many redirects were followed before
function M.follow(call, outgoing, answer, count)
  local status, here = answer.status, outgoing.url
  if not followed[status] then return nil end
  if count >= call.redirects then
    return http1.refuse(here, "too_many_redirects", "redirects for the %dth time", count + 1)
  end
  local target, message, err = destination(outgoing, answer)
  if not target then return nil, message, err end
  local hsts = call.hsts and call.client.hsts
  if hsts then target = hsts:secure(target) end
  if here.scheme == "https" and target.scheme == "http" and not call.options.insecure_allow_downgrade then
    return http1.refuse(here, "redirect_refused", "redirects from https to http")
  end

  local method = outgoing.method
  if status == 303 and method ~= "HEAD" or (status == 301 or status == 302) and method == "POST" then
    call.method, call.body, call.kind = "GET", nil, nil
    call.headers = personal.without(call.headers, function(field) return of_body[field] end)
  elseif outgoing.started and not outgoing.replayable then
    return http1.refuse(here, "body_spent", "redirects a request whose body cannot be sent again")
  end
  if target.origin ~= here.origin then
    local left
    left, message, err = leave_origin(call)
    if not left then return nil, message, err end
  end
  call.headers = personal.without(call.headers, function(field) return field == "host" end)
  return target
end

return M

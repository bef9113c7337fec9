-- A GET without options, or with a timeout alone, takes a way of its own through the client on a kept connection, as
-- far as all is ordinary. Whatever the peer does, it must end as the same GET does that goes the whole way, for the
-- sake of an option that changes nothing.
local codings = require("tlsconnect.core").codings
local fake = require "spec.support.fake_https"

local ok, redirect = fake.ok, fake.redirect

local function answer(fields, body)
  return "HTTP/1.1 200 OK\r\n" .. fields .. "\r\n\r\n" .. (body or "")
end

-- What the second request meets: a reply on the kept connection, or { reply, on = function(connection) }, where
-- `on` runs in place of the reply when the request comes, `idle` before it.
local meetings = {
  whole = answer("Content-Length: 3", "abc"),
  empty = answer "Content-Length: 0",
  no_content = "HTTP/1.1 204 No Content\r\n\r\n",
  chunked = answer("Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n"),
  bad_chunk = answer("Transfer-Encoding: chunked", "x\r\n"),
  closing = answer("Content-Length: 3\r\nConnection: close", "abc"),
  until_the_end = { "HTTP/1.1 200 OK\r\n\r\nabc", at_end = "closed" },
  cut = { answer("Content-Length: 9", "abc"), at_end = "truncated" },
  longer_than_declared = answer("Content-Length: 3", "abcdef"),
  two_lengths = answer("Content-Length: 3\r\nContent-Length: 4", "abc"),
  both_framings = answer("Content-Length: 3\r\nTransfer-Encoding: chunked", "abc"),
  interim = "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" .. answer("Content-Length: 3", "abc"),
  interims = ("HTTP/1.1 102 Processing\r\n\r\n"):rep(21) .. answer("Content-Length: 3", "abc"),
  switching = "HTTP/1.1 101 Switching Protocols\r\n\r\n",
  redirected = { redirect(302, "/elsewhere"), ok },
  redirected_nowhere = redirect(302, "ftp://a.test/"),
  not_modified = "HTTP/1.1 304 Not Modified\r\n\r\n",
  missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone",
  unauthorized = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n",
  kept_briefly = answer("Content-Length: 3\r\nKeep-Alive: timeout=1", "abc"),
  secure = answer("Content-Length: 3\r\nStrict-Transport-Security: max-age=60", "abc"),
  cookie = answer("Content-Length: 3\r\nSet-Cookie: a=b", "abc"),
  unknown_coding = answer("Content-Length: 3\r\nContent-Encoding: x-none", "abc"),
  old = "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc",
  no_http = "SSH-2.0-x\r\n\r\n",
  malformed = answer("Content-Length : 3", "abc"),
  long = answer("Content-Length: 3\r\nX: " .. ("x"):rep(140000), "abc"),
  silent = "",
  heard_before = { ok, idle = function(connection) connection.bytes = answer("Content-Length: 2", "no") end },
  ended_before = { ok, idle = function(connection) connection.at_end = "closed" end },
  reset = { on = function(connection) connection.at_end = "reset" end },
  ended = { on = function(connection) connection.at_end = "closed" end },
  unsent = { idle = function(connection) connection.send_fails = "reset" end },
  stuck = { idle = function(connection) connection.send_fails = "timeout" end },
}

describe("a GET on a kept connection", function()
  local network = fake.new()
  after_each(function() network:restore() end)

  -- All that can be seen of the second of four requests, and of those behind it.
  local function story(meeting, options)
    if type(meeting) == "string" then meeting = { meeting } end
    local https, opened = network:serve { { ok, meeting[1] or "", meeting[2] or ok, ok }, ok, ok, ok, ok }
    assert(https.get("https://a.test/"))
    local first = opened[1].connection
    if meeting.idle then meeting.idle(first) end
    local usual = first.on_send
    if meeting.on then first.on_send = meeting.on end
    if meeting.at_end then
      first.on_send = function(...)
        first.at_end = meeting.at_end
        return usual(...)
      end
    end
    local seen = {}
    for i = 2, 3 do
      local page, message, err = https.get("https://a.test/" .. i, options)
      local one = { message = message, code = err and err.code, step = err and err.step }
      if page then
        one.status, one.reason, one.version, one.body = page.status, page.reason, page.version, page.body
        one.url, one.fields, one.text, one.redirects = page.url, {}, tostring(page), #page.history
        for name, value in page.headers:each() do one.fields[#one.fields + 1] = name .. ": " .. value end
        one.times = {}
        for name, value in pairs(page.timings) do one.times[name] = type(value) end
      end
      seen[i] = one
    end
    https.get("http://a.test/4", options) -- by TLS, where the host has asked for that
    for _, each in ipairs(opened) do
      local used = each.connection
      seen[#seen + 1] = { each.port, used:written(), used.closed, used.deadline ~= nil }
    end
    return seen
  end

  for name, meeting in pairs(meetings) do
    it("ends as any other: " .. name, function()
      local short = story(meeting)
      assert.same(story(meeting, { redirects = 10 }), short)
      assert.same(story(meeting, { redirects = 10, timeout = 60 }), story(meeting, { timeout = 60 }))
      assert.is_true(short[2].status ~= nil or short[2].code ~= nil)
    end)
  end

  if codings[1] then
    it("ends as any other: a coding that is taken off", function()
      local zipped = "\31\139\8\0\0\0\0\0\0\3KLJ\6\0\194A\36\53\3\0\0\0"
      local meeting = answer("Content-Length: " .. #zipped .. "\r\nContent-Encoding: gzip", zipped)
      local short = story(meeting)
      assert.same(story(meeting, { redirects = 10 }), short)
      assert.equal("abc", short[2].body)
    end)
  end
end)

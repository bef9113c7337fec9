-- Raw answers of llhttp's and the web platform's tests, each served by a socket of our own: once where
-- the server then closes, and once more where the connection stays open.

local corpora = require "spec.support.corpora"
local https = require "tlsconnect.https"
local peers = require "spec.support.peers"
local tmp = require "spec.support.tmp"

-- Where this module does otherwise, and why.
local strict = "RFC 9112 6.3: a Content-Length that is no number is an unrecoverable error. The web platform's "
  .. "tests want browsers to overlook it and read to the end; then a proxy that reads its digits frames another "
  .. "body than we do"
local disagreements = {
  ["wpt/content-length/18"] = strict, ["wpt/content-length/19"] = strict, ["wpt/content-length/20"] = strict,
  ["wpt/content-length/21"] = strict, ["wpt/content-length/22"] = strict, ["wpt/content-length/23"] = strict,
  ["wpt/content-length/24"] = strict,
  ["llhttp/transfer-encoding/chunkedchunked-transfer-encoding-does-not-enable-chunked-enconding"] =
    "RFC 9112 6.1: a transfer coding outside the registry, that nobody asked for, cannot be decoded; what is "
    .. "left then is no body that could be handed out as one",
}

-- Answers by the path: /<case>/<close or open>, /plain.
local script = [[
local cases = dofile(%q)
while true do
  local head = peer:head()
  local number, ending = head:match("^%%u+ /(%%d+)/(%%l+) ")
  if number then
    for _, reply in ipairs(cases[tonumber(number)]) do peer:send(reply) end
    if ending == "close" then return end
  elseif head:find("^GET /plain ") then
    peer:send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain")
  else
    return
  end
end
]]

local function as_lua(cases)
  local lines = { "return {" }
  for _, case in ipairs(cases) do
    lines[#lines + 1] = "{"
    for _, reply in ipairs(case.replies) do
      lines[#lines + 1] = '"' .. corpora.base64(reply):gsub(".", function(c)
        return ("\\%03d"):format(c:byte())
      end) .. '",'
    end
    lines[#lines + 1] = "},"
  end
  lines[#lines + 1] = "}"
  return table.concat(lines, "\n")
end

describe("the HTTP corpus", function()
  local cases = corpora.json "http/cases.json"
  if not cases then
    pending("skipped: no corpora")
    return
  end

  local server
  setup(function()
    server = peers.raw(script:format(tmp.file(as_lua(cases), "cases.lua")))
  end)

  local function url(path)
    return ("http://%s:%d/%s"):format(server.host, server.port, path)
  end

  local function ask(number, case, ending)
    return https.request { url = url(number .. "/" .. ending), method = case.method, redirects = case.follow,
      timeout = 20 }
  end

  -- What came behind an answer is never part of the next one.
  local function next_is_plain()
    local plain = assert(https.get(url "plain", { timeout = 20 }))
    assert.equal("plain", plain.body)
  end

  for number, case in ipairs(cases) do
    it(case.id, function()
      local page, _, err = ask(number, case, "close")
      next_is_plain()
      if disagreements[case.id] then
        assert.equal("ok", case.expect)
        assert.is_nil(page)
        assert.equal("bad_framing", err.code)
        return
      end
      local message = tostring(err)
      if case.expect == "ok" then
        assert.is_nil(err, message)
        assert.same({ case.status, corpora.base64(case.body) }, { page.status, page.body })
      else
        assert.is_nil(page)
        assert.equal("http", err.step)
      end
      -- An answer that only the end of the connection ends has nothing to show while it stays open.
      local framed = case.framed or page and page.headers["content-length"]
      local at_once = err and err.code ~= "truncated" and err.code ~= "closed"
      if framed or at_once then
        local again, _, other = ask(number, case, "open")
        next_is_plain()
        if page then
          assert.is_nil(other, tostring(other))
          assert.same({ page.status, page.body }, { again.status, again.body })
        else
          assert.is_nil(again)
          assert.equal(err.code, other.code)
        end
      end
    end)
  end

  it("takes the disagreements from the corpus as it is", function()
    local ids = {}
    for _, case in ipairs(cases) do ids[case.id] = true end
    for id in pairs(disagreements) do assert.is_true(ids[id], id) end
  end)
end)

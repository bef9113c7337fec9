-- A server that stops, ends, breaks off or garbles at each byte of its answer, in clear and over TLS, however the
-- body is framed and packed: a clear error each time, never a hang, never a short body that is called whole.
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local https = require "tlsconnect.https"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local run = require "spec.support.run"
local scheduler = require "spec.support.scheduler"
local soak = require "spec.support.soak"
local tmp = require "spec.support.tmp"

local authority = pki.shared()
local text = "hello, hello, hello"

local function packed()
  local from, to = tmp.file(text, "plain"), tmp.path("packed")
  run.check(("gzip -n <'%s' >'%s'"):format(from, to))
  return tmp.read(to)
end

local gzip = false
for _, name in ipairs(core.codings) do gzip = gzip or name == "gzip" end

local answers = {}
for _, coding in ipairs { "", gzip and "gzip" or nil } do
  local body = coding == "" and text or packed()
  local head = "HTTP/1.1 200 OK\r\n" .. (coding == "" and "" or "Content-Encoding: gzip\r\n")
  local half = math.floor(#body / 2)
  local function add(framing, bytes)
    answers[#answers + 1] = { framing = framing, coded = coding ~= "", bytes = head .. bytes, head = #head + 2 }
  end
  add("length", ("Content-Length: %d\r\n\r\n"):format(#body) .. body)
  add("chunked", "Transfer-Encoding: chunked\r\n\r\n" .. ("%x\r\n"):format(half) .. body:sub(1, half)
    .. ("\r\n%x\r\n"):format(#body - half) .. body:sub(half + 1) .. "\r\n0\r\n\r\n")
  add("close", "\r\n" .. body)
end
-- Does what the path says: /answer/bytes/act. What each act is on a connection in clear, and on one with TLS.
local script = [[
  local answers = dofile(%q)
  local head, send, acts
  if %q == "https" then
    local inside = require("tlsconnect").wrap(peer.socket:detach(),
      { role = "server", certificate = %q, key = %q, wait = peer.wait })
    head = inside:read("head")
    function send(bytes) inside:send(bytes) end
    acts = {
      stop = function() inside:read("a") end,
      finish = function() inside:close() end,
      reset = function() inside:_socket():set("reset", true) inside:_socket():close() end,
      cut = function()
        inside:_socket():shutdown("send") -- without close_notify
        repeat local data, err = inside:_socket():read("some", 1000)
          if err == "want_read" then peer.wait(inside.fd, "r") end
        until not data and err ~= "want_read"
      end,
    }
  else
    head = peer:head()
    function send(bytes) peer:send(bytes) end
    acts = { stop = function() peer:drain() end, finish = function() peer:finish() end,
      reset = function() peer:reset() end }
  end
  local which, place, act = (head or ""):match("^GET /(%%d+)/(%%d+)/(%%l+) ")
  if not which then return end
  local bytes, place = answers[tonumber(which)], tonumber(place)
  if act == "garble" then
    send(bytes:sub(1, place - 1) .. string.char((bytes:byte(place) + 128) %% 256) .. bytes:sub(place + 1))
    return acts.finish()
  elseif act == "swap" then
    send(bytes:sub(1, place - 1) .. string.char((bytes:byte(place) - 1) %% 256) .. bytes:sub(place + 1))
    return acts.finish()
  end
  if place > 0 then send(bytes:sub(1, place)) end
  acts[act]()
]]

local ends = { truncated = true, closed = true, reset = true, bad_coding = true }

for _, scheme in ipairs { "http", "https" } do
  describe("a server that misbehaves, by " .. scheme, function()
    local server
    local step = scheme == "http" and 1 or soak(1, 3)

    setup(function()
      local site = authority:issue { name = "localhost", ip = "127.0.0.1" }
      local list = { "return {" }
      for _, answer in ipairs(answers) do
        list[#list + 1] = '"' .. answer.bytes:gsub(".", function(c) return ("\\%03d"):format(c:byte()) end) .. '",'
      end
      list[#list + 1] = "}"
      local path = tmp.file(table.concat(list, "\n"), "answers.lua")
      server = peers.raw(script:format(path, scheme, site.chain, site.key))
    end)

    local function get(which, place, act, more)
      local given = { ca_file = authority.ca_file, timeout = 60, keep_alive = false }
      for name, value in pairs(more or {}) do given[name] = value end
      local url = ("%s://127.0.0.1:%d/%d/%d/%s"):format(scheme, server.port, which, place, act)
      local page, message, err = https.get(url, given)
      if not page then
        assert.is_table(errors.known[err.code], tostring(err.code))
        assert.equal(err.message, message)
      end
      return page, err
    end

    local function each(from, act, check)
      for which, answer in ipairs(answers) do
        for place = from, #answer.bytes - 1, step do
          local page, err = get(which, place, act)
          check(page, err, answer, place, ("%s%s, %s at %d: %s"):format(answer.framing, answer.coded and " gzip" or "",
            act, place, page and ("%q"):format(page.body) or tostring(err)))
        end
      end
    end

    it("H4 gives whole what is whole", function()
      for which, answer in ipairs(answers) do
        assert.equal(text, assert(get(which, #answer.bytes, "finish")).body, answer.framing)
      end
    end)

    it("H4 breaks off at each byte", function()
      for _, act in ipairs { "reset", scheme == "https" and "cut" or nil } do
        each(0, act, function(page, err, _, _, shown)
          assert.is_nil(page, shown)
          assert.is_true(ends[err.code] or false, shown)
        end)
        -- Nothing but the end of the connection ends this body, and that was none.
        for which, answer in ipairs(answers) do
          if answer.framing == "close" then
            local page, err = get(which, #answer.bytes, act)
            assert.is_nil(page)
            assert.is_true(ends[err.code] or false, err.code)
          end
        end
      end
    end)

    it("H4 ends at each byte", function()
      each(0, "finish", function(page, err, answer, place, shown)
        -- A body that ends with the connection is whole when the server says so, as far as can be known.
        if answer.framing == "close" and not answer.coded and place >= answer.head then
          assert.equal(text:sub(1, place - answer.head), assert(page, shown).body)
          return
        end
        assert.is_nil(page, shown)
        assert.is_true(ends[err.code] or false, shown)
      end)
    end)

    it("H4 stops at each byte, and keeps the connection open", function()
      for which, answer in ipairs(answers) do
        local count = 0
        scheduler.run(function(spawn, wait)
          for place = 0, #answer.bytes - 1, step do
            spawn(function()
              local page, err = get(which, place, "stop",
                { wait = wait, timeouts = { first_byte = 0.4, idle = 0.4 } })
              assert.is_nil(page)
              assert.equal("timeout", err.code)
              count = count + 1
            end)
          end
        end)
        assert.equal(math.ceil(#answer.bytes / step), count)
      end
    end)

    it("H4 garbles each byte", function()
      for _, act in ipairs { "garble", "swap" } do
        each(1, act, function(page, err, answer, _, shown)
          if err then
            assert.is_true(err.step == "http" or err.step == "data", shown)
            return
          end
          local fields = page.headers
          if answer.coded and fields["content-encoding"] == "gzip" then
            -- Only what gzip does not protect, the time and the system in its head, may differ.
            assert.is_true(page.body == text or page.status ~= 200, shown)
          elseif fields["content-length"] and page.status == 200 then
            assert.equal(tonumber(fields["content-length"]), #page.body, shown)
          elseif fields["transfer-encoding"] == "chunked" and page.status == 200 and not answer.coded then
            assert.equal(#text, #page.body, shown)
          end
        end)
      end
    end)
  end)
end

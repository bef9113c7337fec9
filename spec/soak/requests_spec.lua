-- Requests in a row to an nginx that closes its connections at will: after a few requests, after a moment without
-- any, when it reads its configuration again, when one of its processes is killed. What was sent is counted in
-- its access log.
local https = require "tlsconnect.https"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local process = require "spec.support.process"
local soak = require "spec.support.soak"
local tmp = require "spec.support.tmp"

local authority = pki.shared()

local ROUNDS = soak(10000, 600)

-- How often each request stands in the log: { ["GET /7"] = 1 }.
local function logged(server)
  local counts = {}
  for line in tmp.read(server.access):gmatch("[^\n]+") do counts[line] = (counts[line] or 0) + 1 end
  return counts
end

describe("requests in a row to an nginx that closes connections at will", function()
  for _, scheme in ipairs { "http", "https" } do
    it(("none is lost, and none sent twice that may not be: %d by %s"):format(ROUNDS, scheme), function()
      local server = peers.nginx { cert = scheme == "https" and authority:issue { name = "localhost" } or nil,
        workers = 2, log = "$request_method $uri",
        server = "keepalive_requests 7; keepalive_timeout 3ms; lingering_close off;",
        locations = { ["/"] = "return 200 '$pid $request_method $uri';" } }
      local client = assert(https.client { base = ("%s://localhost:%d/"):format(scheme, server.port),
        family = "inet", ca_file = authority.ca_file, timeout = 60, retries = { count = 9, pause = 0.002 } })
      local given_up, kills, worker, posts, tries = 0, 0, nil, 0, 0
      local answered = {}
      for i = 1, ROUNDS do
        -- Both take effect in the middle of what comes next.
        if i % 200 == 50 then os.execute(("(sleep 0.00%d; kill -HUP %d) &"):format(i % 7, server.pid)) end
        if i % 400 == 150 then
          os.execute(("(sleep 0.00%d; kill -KILL %s) 2>/dev/null &"):format(i % 5, worker))
          kills = kills + 1
        end
        local method = i % 5 == 0 and "POST" or "GET"
        if method == "POST" then posts = posts + 1 end
        -- About as long as an idle connection is kept: some are closed just as the next request leaves.
        if i % 11 == 0 then process.sleep(0.0025 + i % 3 * 0.0005) end
        local line = ("%s /%d"):format(method, i)
        local page, _, err = client:request { url = tostring(i), method = method,
          body = method == "POST" and "pay" or nil }
        if page then
          local pid, said = page.body:match("^(%d+) (.*)$")
          assert.equal(line, said)
          worker, answered[line], tries = pid, true, tries + (page.tries or 1) - 1
        else
          -- A POST that meets a connection that is just being closed ends with an error, and with no second try.
          assert.equal("POST", method, line .. ": " .. tostring(err))
          assert.is_true(err.retryable, err.code)
          given_up = given_up + 1
        end
      end
      client:close()
      -- nginx logs a request when it has answered; a process that was killed may not have come to that.
      local missing
      process.eventually(function()
        missing = 0
        local counts = logged(server)
        for line in pairs(answered) do missing = missing + (counts[line] and 0 or 1) end
        return missing == 0
      end, 1)
      assert.is_true(missing <= kills, ("%d of %d"):format(missing, kills))
      for line, count in pairs(logged(server)) do
        if line:find("^POST") then assert.equal(1, count, line) end
      end
      assert.is_true(given_up <= posts / 20 + 2, ("%d of %d"):format(given_up, posts))
      if soak.whole then
        io.stderr:write(("%s: %d requests, %d processes killed; %d POSTs of %d ended with an error, none was sent "
          .. "twice; %d tries again\n"):format(scheme, ROUNDS, kills, given_up, posts, tries))
      end
    end)
  end
end)

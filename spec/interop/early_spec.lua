-- The first words of a client with real servers: early data (0-RTT) in TLS 1.3, false start in TLS 1.2.
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local process = require "spec.support.process"
local run = require "spec.support.run"
local scheduler = require "spec.support.scheduler"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

local https = tlsconnect.https
local authority = pki.shared()
local site = authority:issue { name = "a.test" }

local GET = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"

local function context_of(options)
  local given = { ca_file = authority.ca_file }
  for name, value in pairs(options or {}) do given[name] = value end
  return assert(tlsconnect.context(given))
end

local function connect(server, context, text, options)
  local given = { context = context, server_name = "a.test", timeout = 30, early_data = text }
  for name, value in pairs(options or {}) do given[name] = value end
  return tlsconnect.connect(server.host, server.port, given)
end

local function occurrences(text, word)
  return select(2, text:gsub(word, ""))
end

-- nginx, which says what came early, and how often it was asked in all.
local function nginx(options)
  options = options or {}
  options.cert, options.server = options.cert or site, (options.server or "ssl_early_data on;")
  options.locations = options.locations or { ["/"] = "return 200 '$request_method early=$ssl_early_data;';" }
  return peers.nginx(options)
end

-- An exchange with nginx, and a second one: to early data a server may answer before it gives a new ticket. The first
-- answer's body, the connection's info, and how the request left.
local function visit(server, context, options)
  local connection = assert(connect(server, context, GET, options))
  local function answer()
    local length
    repeat
      local line = assert(connection:receive())
      length = length or line:match("^Content%-Length: (%d+)")
    until line == ""
    return assert(connection:receive(tonumber(length)))
  end
  local body, info, how = answer(), connection:info(), connection.first_sent
  assert(connection:send(GET))
  answer()
  connection:close()
  return body, info, how
end

-- nginx logs a request after it has answered it.
local function asked(count, server)
  local function requests() return occurrences(tmp.read(server.access), "\n") end
  process.eventually(function() return requests() >= count end)
  assert.equal(count, requests())
end

describe("early data", function()
  it("reaches nginx, and its trace says so", function()
    local server, context = nginx(), context_of()
    local body, info, how = visit(server, context)
    assert.same({ "GET early=;", false, "late" }, { body, info.resumed, how })
    -- nginx sees it as early only as long as the handshake is not complete.
    local seen = process.eventually(function()
      body, info, how = visit(server, context)
      assert.same({ true, true, "early" }, { info.resumed, info.early_data, how })
      return body == "GET early=1;"
    end)
    assert.is_truthy(seen)
    local connection = assert(connect(server, context, GET, { trace = true }))
    assert(connection:receive())
    local steps = {}
    for _, step in ipairs(connection:trace()) do steps[step.step] = step end
    assert.is_true(steps.client_hello.early_data)
    assert.equal("accepted", steps.finished.early_data)
    connection:close()
  end)

  it("reaches openssl s_server and gnutls-serv, once", function()
    local rows = {
      peers.openssl_server { cert = site, mode = false, arguments = { "-early_data" } },
      peers.gnutls_server { cert = site, mode = "--echo", arguments = { "--earlydata" } },
    }
    for i, server in ipairs(rows) do
      local context = context_of()
      for _, text in ipairs { "first-visit\n", "second-visit\n" } do
        local connection = assert(connect(server, context, text))
        assert.equal(text == "first-visit\n" and "late" or "early", connection.first_sent)
        -- The ticket comes with what the server says.
        if i == 1 then server:command("hello\n") assert.equal("hello", connection:receive()) end
        if i == 2 then
          assert(connection:send("echo\n"))
          local line
          repeat line = assert(connection:receive()) until line == "echo"
        end
        connection:close()
      end
      if i == 1 then
        assert.is_truthy(process.eventually(function() return server:output():find("second-visit", 1, true) end))
        assert.equal(1, occurrences(server:output(), "second%-visit"))
        assert.truthy(server:output():find("Early data received", 1, true), server:output())
      end
    end
  end)

  it("K8 leaves with a session that another process has saved, once what its server showed is judged anew", function()
    local server, first, path = nginx(), context_of(), tmp.path("sessions")
    visit(server, first)
    assert.equal(1, first:save_sessions(path))
    local function loaded(options)
      local context = context_of(options)
      assert.equal(1, context:load_sessions(path))
      return context
    end
    local context = loaded()
    local _, info, how = visit(server, context)
    assert.same({ true, true, "early" }, { info.resumed, info.early_data, how })
    assert.equal(1, context:sessions().count)
    -- That one is used; what came with it takes its place, and is saved in its turn.
    assert.equal(1, context:save_sessions(path))
    _, info = visit(server, loaded())
    assert.is_true(info.early_data)
    asked(6, server)
    local later = os.time() + 20 * 365 * 86400
    local _, list = next(loaded():sessions().lists)
    assert.equal("table", type(list[1].early.chain))
    local refusals = {
      { "unknown_issuer", { ca_file = pki.new().ca_file } },
      { "verify_refused", nil, { verify = function() return nil, "no" end } },
      { "expired", nil, { verify_time = later } },
      { "pin_mismatch", nil, { pins = { "sha256/" .. ("A"):rep(43) .. "=" } } },
    }
    for _, row in ipairs(refusals) do
      context = loaded(row[2])
      -- Under its own terms' key, as if it had been kept by them.
      local store = context:sessions()
      local key, entries = next(store.lists)
      store.take = function()
        local entry = table.remove(entries)
        if not entries[1] then store.lists[key] = nil end
        if entry then return entry.data, entry.early end
      end
      local connection, _, err = connect(server, context, GET, row[3])
      assert.is_nil(connection)
      assert.equal(row[1], err.code)
    end
    asked(6, server)
  end)

  it("K7 is not remembered of a server that shows too much, nor read from a file that says so", function()
    local early = require "tlsconnect.early"
    local function shown(size, alpn, staple)
      local session = { peer_certificates = function() return { ("c"):rep(size), "two" } end,
        staples = function() return { staple or false } end, info = function() return { alpn = alpn } end }
      return early.remember({ session = session }, 100)
    end
    assert.is_nil(shown(65536))
    assert.is_nil(shown(60000, nil, ("s"):rep(6000)))
    for _, row in ipairs { { 60000, "h2" }, { 5, nil, "staple" }, { 0, "", "" } } do
      local one = shown(row[1], row[2], row[3])
      one.saved_staples[2] = false
      assert.same(one, early.unpack(early.pack(one)))
    end
    for _, bytes in ipairs { "", "\n", "1\n", "1 -\nx", "1 2\nx", "1 - 1\nx", "1 - - -\n", "1 - 1 1 1\nxyz",
      "x - 1 1\nxy", "1 - 1 9\nxy", "1 - 70000 -\n" .. ("x"):rep(70000), "1 - 1- -\nx", "1 -\0" } do
      assert.is_nil(early.unpack(bytes), bytes:sub(1, 20))
    end
  end)

  -- Two servers with one ticket key; the second goes its own way.
  local function two(second)
    local key = tmp.file(("k"):rep(80))
    local line = ("ssl_session_ticket_key %s;"):format(key)
    second.server = line .. (second.server or "")
    return nginx { server = line .. "ssl_early_data on;" }, nginx(second)
  end

  -- What the first one gave is shown to the second.
  local function moved(first, second)
    local context = context_of()
    visit(first, context)
    local store = context:sessions()
    local _, list = next(store.lists)
    local entry = list[1]
    local used = false
    store.take = function()
      if used then return nil end
      used = true
      return entry.data, entry.early
    end
    return visit(second, context)
  end

  it("K8 that is refused is said again once, after the handshake", function()
    local first, second = two {}
    local body, info, how = moved(first, second)
    assert.same({ "GET early=;", true, false, "late" }, { body, info.resumed, info.early_data, how })
    asked(2, second)
  end)

  it("is no hindrance where the server speaks TLS 1.2 by now, or wants another group", function()
    local rows = { { versions = { "TLSv1.2" } }, { server = "ssl_early_data on; ssl_ecdh_curve secp384r1;" } }
    for _, row in ipairs(rows) do
      local first, second = two(row)
      local body, info = moved(first, second)
      assert.same({ "GET early=;", false }, { body, info.early_data })
      asked(2, second)
    end
  end)

  it("is refused of openssl s_client by default, and taken once where it is asked for", function()
    local function against(options)
      local file, words = tmp.path("session"), tmp.file("words\n")
      local outputs, seen = {}, {}
      scheduler.run(function(spawn, wait, sleep)
        options.certificate, options.key, options.wait, options.timeout = site.chain, site.key, wait, 60
        local listener = assert(tlsconnect.listen("127.0.0.1", 0, options))
        local _, port = listener:address()
        spawn(function()
          while true do
            local peer = listener:accept()
            if not peer then return end
            local text = peer:early() or peer:receive("*L")
            assert(peer:handshake())
            seen[#seen + 1] = (peer:info().early_data and "early " or "") .. text
            peer:send("hello\n")
            peer:close()
          end
        end)
        for i, more in ipairs { { "-sess_out", file }, { "-sess_in", file, "-early_data", words } } do
          local words_of = { "openssl", "s_client", "-connect", "127.0.0.1:" .. port, "-servername", "a.test",
            "-CAfile", authority.ca_file, "-ign_eof" }
          for _, word in ipairs(more) do words_of[#words_of + 1] = word end
          local job = run.start(words_of, { stdin = "bye\n" })
          repeat sleep(0.01) until job:result()
          outputs[i] = job:result().out
        end
        listener:close()
      end)
      return outputs, seen
    end
    local outputs, seen = against { early_data = true }
    assert.truthy(outputs[2]:find("Early data was accepted", 1, true), outputs[2])
    assert.same({ "bye\n", "early words\n" }, seen)
    outputs, seen = against {}
    assert.falsy(outputs[2]:find("Early data was accepted", 1, true), outputs[2])
    assert.truthy(outputs[2]:find("Reused, TLSv1.3", 1, true), outputs[2])
    assert.same({ "bye\n", "bye\n" }, seen)
  end)
end)

describe("https with early_data", function()
  local named = authority:issue { name = "localhost" }

  -- A client that has been there, and has no connection left.
  local function been_there(server)
    local client = https.client { ca_file = authority.ca_file, early_data = true, timeout = 30 }
    for _ = 1, 2 do assert(client:get("https://localhost:" .. server.port .. "/")) end
    client:close()
    return client, "https://localhost:" .. server.port .. "/"
  end

  it("K8 sends early what changes nothing, and nothing else", function()
    local server = nginx { cert = named }
    local function offered(client, url, options)
      options.trace = true
      local answer, early = assert(client:request(url, options)), nil
      for _, step in ipairs(answer.trace) do
        if step.step == "client_hello" then early = step.early_data end
      end
      assert.truthy(answer.body:find("^" .. (options.method or "GET") .. " early="))
      client:close()
      return early
    end
    for method, early in pairs { GET = true, OPTIONS = true, POST = false, PUT = false, DELETE = false } do
      local client, url = been_there(server)
      assert.equal(early, offered(client, url, { method = method }))
    end
    local client, url = been_there(server)
    assert.is_false(offered(client, url, { method = "POST", body = "x" }))
    -- And nothing at all unless it is told to.
    client = https.client { ca_file = authority.ca_file }
    for _ = 1, 2 do assert.is_false(offered(client, url, {})) end
    asked(6 * 3 + 2, server)
  end)

  it("asks once more, and not early, where the answer is 425 Too Early", function()
    scheduler.run(function(spawn, wait)
      local listener = assert(tlsconnect.listen("127.0.0.1", 0, { certificate = named.chain, key = named.key,
        early_data = true, wait = wait, timeout = 60 }))
      local seen = {}
      local function answer(peer, early)
        local head = peer:receive()
        if not head then return false end
        repeat until peer:receive() == ""
        local never, asked_early = head:find("/never", 1, true), early and peer:info().early_data
        seen[#seen + 1] = head:match("/(%a+)") .. (asked_early and " early" or "")
        local status = (never or asked_early and head:find("/late", 1, true)) and "425 Too Early" or "200 OK"
        return peer:send("HTTP/1.1 " .. status .. "\r\nContent-Length: 3\r\n\r\nyes")
      end
      spawn(function()
        while true do
          local peer = listener:accept()
          if not peer then return end
          spawn(function()
            if answer(peer, true) then repeat until not answer(peer) end
            peer:close()
          end)
        end
      end)
      local url = "https://localhost:" .. select(2, listener:address()) .. "/"
      local client = https.client { ca_file = authority.ca_file, early_data = true, timeout = 30, wait = wait,
        family = "inet" }
      local function ask(path)
        local status = assert(client:get(url .. path)).status
        client:close()
        return status
      end
      assert.same({ 200, 200, 200, 425 }, { ask "first", ask "fine", ask "late", ask "never" })
      assert.same({ "first", "fine early", "late early", "late", "never early", "never" }, seen)
      -- Not early the first time: then it is an answer like any other.
      client = https.client { ca_file = authority.ca_file, timeout = 30, wait = wait, family = "inet" }
      assert.equal(425, ask "never")
      assert.equal(7, #seen)
      listener:close()
    end)
  end)
end)

describe("a false start", function()
  -- Holds the end of the server's handshake back until data of the client's has come.
  local holding = [[
    local kind = record:byte(1)
    if from == "client" and kind == 23 then
      relay.data = true
      print("data of the client's")
    end
    while from == "server" and kind == 20 and not relay.data do relay:sleep(0.01) end
    return record
  ]]

  local function behind(server)
    return peers.relay { to = server, record = holding }
  end

  it("sends a request before the server's Finished in TLS 1.2", function()
    local relay = behind(nginx { versions = { "TLSv1.2" } })
    local body, info, how = visit(relay, context_of { session_cache = false })
    assert.same({ "GET early=;", "TLS1.2", true, "false_start" }, { body, info.version, info.false_start, how })
    local named = authority:issue { name = "localhost" }
    local client = https.client { ca_file = authority.ca_file, timeout = 30, session_cache = false }
    relay = behind(nginx { cert = named, versions = { "TLSv1.2" } })
    assert.equal("GET early=;", assert(client:get("https://localhost:" .. relay.port .. "/")).body)
    client:close()
  end)

  it("sends nothing before the server is judged, nor to one that is refused", function()
    local server = nginx { versions = { "TLSv1.2" } }
    local relay = behind(server)
    local connection, _, err = connect(relay, context_of(), GET, { verify = function()
      process.sleep(0.3)
      assert.falsy(relay:output():find("data of the client's", 1, true))
      return nil, "not this one"
    end })
    assert.is_nil(connection)
    assert.equal("verify_refused", err.code)
    assert.falsy(relay:output():find("data of the client's", 1, true))
    asked(0, server)
  end)

  it("is made with good ciphers only, and not where a better version was hidden", function()
    local server = nginx { versions = { "TLSv1.2" }, ciphers = "ECDHE-ECDSA-AES128-SHA" }
    local body, _, how = visit(server, context_of())
    assert.same({ "GET early=;", "late" }, { body, how })
    local connection, _, err = connect(behind(server), context_of(), GET, { timeout = 1 })
    assert.is_nil(connection)
    assert.same({ "timeout", "finished" }, { err.code, err.step })
    -- A server that could speak TLS 1.3 and is asked for 1.2 says so in its random (RFC 8446 4.1.3).
    body, _, how = visit(nginx(), context_of { max_version = "TLS1.2" })
    assert.same({ "GET early=;", "late" }, { body, how })
  end)

  it("finds a server's Finished that is wrong", function()
    local server = nginx { versions = { "TLSv1.2" } }
    local relay = peers.relay { to = server, record = [[
      if from == "server" and relay.changed then
        relay.changed = false
        return record:sub(1, -2) .. string.char((record:byte(-1) + 1) % 256)
      end
      if from == "server" and record:byte(1) == 20 then relay.changed = true end
      return record
    ]] }
    local connection, _, err = connect(relay, context_of(), GET)
    assert.is_nil(connection)
    assert.equal("finished", err.step)
  end)
end)

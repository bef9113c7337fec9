-- What is kept to save work (sessions, verifications, answers, connections, parsed URLs) and what is begun
-- early: none of it is believed, shared, used twice or waited for where the long way would not be.
local chains = require "spec.support.chains"
local contexts = require "tlsconnect.context"
local core = require "tlsconnect.core"
local fake = require "spec.support.fake_https"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local process = require "spec.support.process"
local sessions = require "tlsconnect.sessions"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"
local urls = require "tlsconnect.https.url"

local https = tlsconnect.https
local authority = pki.shared()
local site = authority:issue { name = "a.test", ip = "127.0.0.1" }
local DAY = 86400

-- A clock of days that the spec sets.
local function with_clock(f)
  local real, shift = os.time, 0
  os.time = function(...) return real(...) + (select("#", ...) == 0 and shift or 0) end -- luacheck: ignore 122
  local ok, err = pcall(f, function(seconds) shift = seconds end)
  os.time = real -- luacheck: ignore 122
  if not ok then error(err, 0) end
end

describe("verifications that are remembered", function()
  local from, till = os.time() - 3000 * DAY, os.time() + 3000 * DAY
  local root = chains.certificate { subject = "Root", ca = true, key = chains.key("p256", nil, "root"),
    not_before = from, not_after = till }
  local other = chains.certificate { subject = "Other", ca = true, key = chains.key("p256", nil, "other") }
  local leaf = chains.certificate { issuer = root, names = { "*.a.test" }, not_before = from,
    not_after = till }

  local function remembered(anchors, terms)
    local ok, verification = anchors:verify(leaf.der, terms)
    assert.is_true(ok)
    return verification.remembered or false
  end

  it("K5 are those that passed every check, with none muted", function()
    local anchors = assert(tlsconnect.trust { ca = other.pem })
    local name = { name = "x.a.test" }
    for _, muted in ipairs { "insecure_skip_issuer", "insecure_skip_verify" } do
      assert.is_true((anchors:verify(leaf.der, { name = "x.a.test", [muted] = true })))
    end
    for _ = 1, 2 do assert.equal("unknown_issuer", select(3, anchors:verify(leaf.der, name)).code) end
    assert.equal(0, anchors.seen_count)
    anchors = assert(tlsconnect.trust { ca = root.pem })
    assert.is_true((anchors:verify(leaf.der, { name = "x.b.test", insecure_skip_name = true })))
    assert.equal("name_mismatch", select(3, anchors:verify(leaf.der, { name = "x.b.test" })).code)
    assert.equal(0, anchors.seen_count)
  end)

  it("K7 are few, however many are asked for", function()
    local anchors = assert(tlsconnect.trust { ca = root.pem })
    local most = 0
    for i = 1, 1000 do
      assert.is_false(remembered(anchors, { name = i .. ".a.test" }))
      most = math.max(most, anchors.seen_count)
    end
    assert.equal(64, most)
    local count = 0
    for _ in pairs(anchors.seen) do count = count + 1 end
    assert.equal(anchors.seen_count, count)
  end)

  it("Q5 are stale when the clock has jumped, either way", function()
    local anchors = assert(tlsconnect.trust { ca = root.pem })
    with_clock(function(jump)
      for _, days in ipairs { 365, -365 } do
        jump(0)
        remembered(anchors, { name = "x.a.test" })
        assert.is_true(remembered(anchors, { name = "x.a.test" }))
        jump(days * DAY)
        assert.is_false(remembered(anchors, { name = "x.a.test" }))
      end
    end)
  end)
end)

describe("sessions", function()
  local server
  before_each(function() server = peers.nginx { cert = site } end)

  local function visit(context, options)
    local given = { context = context, server_name = "a.test", timeout = 30 }
    for name, value in pairs(options or {}) do given[name] = value end
    local connection, _, err = tlsconnect.connect(server.host, server.port, given)
    if not connection then return nil, err end
    assert(connection:send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"))
    assert(connection:receive())
    local resumed = connection:info().resumed
    connection:close()
    return resumed
  end

  it("K5 with what early data needs are not kept of a peer that failed a check", function()
    for _, given in ipairs { { server_name = "b.test" }, { verify = function() return nil, "no" end },
      { pins = { "sha256/" .. ("A"):rep(43) .. "=" } } } do
      local context = assert(tlsconnect.context { ca_file = authority.ca_file })
      given.early_data = ""
      local resumed, err = visit(context, given)
      assert.is_nil(resumed)
      assert.equal("verify", err.step)
      assert.equal(0, context:sessions().count)
    end
  end)

  it("Q2 are found under the same terms alone", function()
    local terms_of_all, peer = {}, { name = "a.test" }
    local rows = {
      { "a.test", 443, peer }, { "a.test", 8443, peer }, { "b.test", 443, peer },
      { "a.test", 443, { name = "b.test" } },
      { "fe80::1%a", 443, peer }, { "fe80::1%b", 443, peer },
      { "a.test", 443, peer, { "h2" } }, { "a.test", 443, peer, { "h2", "http/1.1" } },
      { "a.test", 443, peer, nil, "http://proxy.test:1" }, { "a.test", 443, peer, nil, "http://proxy.test:2" },
    }
    local options = {
      { verify_time = 5 }, { revocation = "hard" }, { revocation = "soft" }, { verify_profile = "strict" },
      { pins = { "sha256/" .. ("A"):rep(43) .. "=" } }, { known_hosts = "a" }, { known_hosts = "b" },
      { verify = function() end }, { verify = print }, { max_depth = 1 },
    }
    local seen, count = {}, 0
    local function add(key)
      assert.is_nil(seen[key], key)
      seen[key], count = true, count + 1
    end
    for _, row in ipairs(rows) do add(sessions.key(terms_of_all, {}, row[1], row[2], row[3], row[4], row[5])) end
    local known = require("tlsconnect.options").of("connect")
    for _, given in ipairs(options) do
      if known[next(given)] then add(sessions.key(given, given, "a.test", 443, peer)) end
    end
    assert.is_true(count >= #rows + 7, count)
    for _, muted in ipairs { "verify", "issuer", "dates", "revocation", "name" } do
      local terms = { ["insecure_skip_" .. muted] = true }
      assert.is_nil(sessions.key(terms, terms, "a.test", 443, peer))
    end
  end)

  it("Q2 are each context's own", function()
    local one, two = assert(tlsconnect.context { ca_file = authority.ca_file }),
      assert(tlsconnect.context { ca_file = authority.ca_file })
    assert.is_false(visit(one))
    assert.is_false(visit(two))
    assert.is_true(visit(one))
  end)
end)

describe("contexts that calls share", function()
  it("Q2 are those of equal options", function()
    local one, two = tmp.write(tmp.path("a"), tmp.read(authority.ca_file)), tmp.write(tmp.path("b"),
      tmp.read(authority.ca_file))
    local function of(given) return assert(contexts.of(given, "connect")) end
    assert.equal(of { ca_file = one }, of { ca_file = one, timeout = 5 })
    local seen = {}
    for _, given in ipairs { {}, { ca_file = one }, { ca_file = two }, { ca_file = one, min_version = "1.3" },
      { ca_file = one, priority = "-VERS-TLS1.2" }, { certificate = site.chain, key = site.key } } do
      local context = of(given)
      assert.is_nil(seen[context])
      seen[context] = true
    end
    -- No key and no password stays behind in one.
    local private = { ca_file = one, certificate = site.chain, key = site.key }
    assert.not_equal(of(private), of(private))
  end)
end)

describe("connections that are kept", function()
  it("Q5 are kept by a clock that nobody sets", function()
    local network = fake.new()
    with_clock(function(jump)
      local layer, opened = network:serve { { fake.ok, fake.ok, fake.ok } }
      for _, days in ipairs { 0, 365, -365 } do
        jump(days * DAY)
        assert.equal("ok", assert(layer.get("http://a.test/")).body)
      end
      assert.equal(1, #opened)
    end)
    network:restore()
  end)

  it("Q3 are not those whose body a file did not take", function()
    local server = peers.nginx { cert = site, locations = {
      ["/"] = "return 200 '" .. ("x"):rep(2000) .. "';", ["/which"] = "return 200 $connection;" } }
    local client = https.client { ca_file = authority.ca_file, timeout = 30 }
    local base = ("https://127.0.0.1:%d/"):format(server.port)
    local function which() return assert(client:get(base .. "which")).body end
    local first = which()
    assert.equal(first, which())
    local full = assert(io.open("/dev/full", "wb"))
    full:setvbuf("no")
    local answer, _, err = client:get(base, { sink = full })
    assert.is_nil(answer)
    assert.equal("unwritable_file", err.code)
    assert.not_equal(first, which())
    client:close()
  end)
end)

describe("URLs that were parsed before", function()
  it("K7 are few, and none with a user in it", function()
    local weak = setmetatable({}, { __mode = "v" })
    weak.one = urls.parse("https://a.test/one")
    weak.user = urls.parse("https://user:secret@a.test/")
    assert.equal(weak.one, urls.parse("https://a.test/one"))
    for i = 1, 1000 do assert(urls.parse("https://a.test/" .. i)) end
    collectgarbage()
    collectgarbage()
    assert.is_nil(weak.one)
    assert.is_nil(weak.user)
  end)
end)

describe("the first words", function()
  local words = "secret words\n"

  it("K5 K6 leave in a false start only after the peer has been judged good", function()
    local server = peers.openssl_server { cert = site, mode = false, version = "tls1_2", arguments = { "-quiet" } }
    local rows = {
      { code = "name_mismatch", server_name = "b.test" },
      { code = "verify_refused", verify = function() return nil, "no" end },
      { code = "pin_mismatch", pins = { "sha256/" .. ("A"):rep(43) .. "=" } },
      { code = "unknown_issuer", ca_file = pki.new().ca_file },
    }
    for _, given in ipairs(rows) do
      local code = given.code
      given.code, given.early_data, given.timeout = nil, words, 30
      given.server_name, given.ca_file = given.server_name or "a.test", given.ca_file or authority.ca_file
      local connection, _, err = tlsconnect.connect(server.host, server.port, given)
      assert.is_nil(connection)
      assert.equal(code, err.code)
    end
    -- The server takes one after the other: what comes now comes behind all that.
    local connection = assert(tlsconnect.connect(server.host, server.port, { server_name = "a.test", timeout = 30,
      ca_file = authority.ca_file, early_data = "good\n" }))
    assert.equal("false_start", connection.first_sent)
    assert.is_truthy(process.eventually(function() return server:output():find("good", 1, true) end))
    assert.is_nil(server:output():find("secret", 1, true))
    connection:close()
  end)

  it("T3 sent early are no reason to wait longer for a peer that drips, nor to say them once more", function()
    local real = peers.nginx { cert = site, server = "ssl_early_data on;" }
    local context = assert(tlsconnect.context { ca_file = authority.ca_file })
    local GET = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
    local function connect(server, seconds)
      return tlsconnect.connect(server.host, server.port, { context = context, server_name = "a.test",
        timeout = seconds, early_data = GET })
    end
    local connection = assert(connect(real, 30))
    assert(connection:receive())
    assert(connection:send(GET))
    repeat until connection:receive() == ""
    connection:close()
    local store = context:sessions()
    local _, list = next(store.lists)
    local entry = list[1]
    store.take = function() return entry.data, entry.early end
    local dripping = peers.raw [[
      peer:read(5)
      io.stderr:write("asked\n")
      peer:drip("\22\3\3\0\122\2\0\0\118\3\3" .. ("x"):rep(100), 0.05)
      peer:stall()
    ]]
    local began = core.now()
    local none, _, err = connect(dripping, 0.5)
    assert.is_nil(none)
    assert.equal("timeout", err.code)
    assert.is_true(core.now() - began >= 0.5)
    assert.equal(1, select(2, dripping:output():gsub("asked", "")))
  end)
end)

describe("T3 one deadline", function()
  -- It would be an answer, if each byte began a new limit.
  local head = "HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n"
  local drip = [[
    local head = %q
    peer:read("head")
    peer:send(head)
    peer:drip(("x"):rep(200), 0.05)
  ]]

  local function timed_out(seconds, f)
    local began = core.now()
    local result, message, third, fourth = f()
    local err = type(third) == "table" and third or fourth
    assert.is_nil(result)
    assert.same({ "timeout", "timeout" }, { err.code, message == "timeout" and message or err.code })
    assert.is_true(core.now() - began >= seconds)
  end

  it("ends every kind of read of a peer that drips", function()
    local server = peers.raw((drip):format(head))
    for _, read in ipairs {
      function(connection) return connection:receive("*a") end,
      function(connection) return connection:receive("*l") end,
      function(connection) return connection:receive(200) end,
      function(connection)
        local done, message, err
        repeat done, message, err = connection:read("some", 100) until not done
        return done, message, err
      end,
      function(connection)
        local file = io.tmpfile()
        local done, message, err
        repeat done, message, err = connection:pour(file, 100) until not done
        file:close()
        return done, message, err
      end,
    } do
      local connection = assert(require("tlsconnect.connection").open(server.host, server.port, { tls = false }))
      assert(connection:send("GET / HTTP/1.1\r\n\r\n"))
      assert(connection:read("head", 1000))
      connection:setdeadline(core.now() + 0.5)
      timed_out(0.4, function() return read(connection) end)
      connection:close()
    end
  end)

  it("ends a request whose body drips, wherever the body goes", function()
    local server = peers.raw((drip):format(head))
    local url = ("http://%s:%d/"):format(server.host, server.port)
    local path = tmp.path("body")
    for _, given in ipairs { {}, { sink = function() return true end }, { sink = assert(io.open(path, "wb")) },
      { save = tmp.path("saved") } } do
      given.timeout, given.proxy, given.retry = 0.5, false, nil
      timed_out(0.5, function() return https.get(url, given) end)
    end
    local answer = assert(https.get(url, { timeout = 3, stream = true, proxy = false }))
    timed_out(0, function() return answer:read("*a") end)
    answer:close()
  end)
end)

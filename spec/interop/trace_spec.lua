-- The trace against three other views of the same handshake: tshark's dissection of what went over the
-- wire, the server's own log, and what the server tells in its page.
local capture = require "spec.support.capture"
local connection = require "tlsconnect.connection"
local core = require "tlsconnect.core"
local names = require "tlsconnect.trace.names"
local parse = require "tlsconnect.trace.parse"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local process = require "spec.support.process"
local report = require "tlsconnect.cli.report"
local steps = require "tlsconnect.steps"
local tmp = require "spec.support.tmp"

local authority = pki.shared()
local ecdsa = authority:issue { name = "a.test" }
local rsa = authority:issue { name = "a.test", key = "rsa2048", key_usage = "digitalSignature,keyEncipherment" }
local client = authority:issue { cn = "a client", purpose = "client" }
local staple = authority:staple(ecdsa)

local function connect(server, more)
  local options = { server_name = "a.test", ca_file = authority.ca_file, timeout = 60, trace = true }
  for name, value in pairs(more or {}) do options[name] = value end
  return connection.open("127.0.0.1", server.port, options)
end

-- One exchange: the rows of the trace, the page, the trace itself, and the port it came from.
local function exchange(server, more)
  local opened = assert(connect(server, more))
  local port = opened:info().local_port
  assert(opened:send("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n"))
  local page = opened:receive("*a")
  opened:close()
  local rows = {}
  for _, row in ipairs(opened:trace()) do rows[row.step] = row end
  return rows, page, opened:trace(), port
end

-- Comparing -----------------------------------------------------------------------------------------

local function named(list, name)
  local result = {}
  for i, value in ipairs(list or {}) do result[i] = name(tonumber(value)) end
  return result
end

local function plain(list)
  local result = {}
  for i, value in ipairs(list or {}) do result[i] = value:gsub(":", "") end
  return result
end

local function numbers(list)
  local result = {}
  for i, value in ipairs(list or {}) do result[i] = tonumber(value) end
  return result
end

local function pick(list, field)
  local result = {}
  for i, item in ipairs(list or {}) do result[i] = item[field] end
  return result
end

local hello_fields = {
  "tls.handshake.version", "tls.handshake.random", "tls.handshake.session_id", "tls.handshake.ciphersuite",
  "tls.handshake.comp_method", "tls.handshake.extension.type", "tls.handshake.extension.len",
  "tls.handshake.extensions_supported_group", "tls.handshake.extensions_key_share_group",
  "tls.handshake.extensions_key_share_key_exchange_length", "tls.handshake.sig_hash_alg",
  "tls.handshake.extensions.supported_version", "tls.handshake.extensions_server_name",
  "tls.handshake.extensions_alpn_str", "tls.extension.psk_ke_mode",
}

local function compare_hello(hello, row)
  local function field(name) return row["tls.handshake." .. name] end
  assert.same(named({ field("version")[1] }, names.version), { hello.legacy_version })
  assert.same(plain(field "random"), { hello.random })
  assert.same(plain(field "session_id")[1] or "", hello.session_id)
  assert.same(named(field "ciphersuite", names.suite), hello.suites)
  assert.same(named(field "comp_method", names.compression), hello.compression)
  assert.same(numbers(field "extension.type"), pick(hello.extensions, "type"))
  assert.same(numbers(field "extension.len"), pick(hello.extensions, "length"))
  assert.same(named(field "extensions_supported_group", names.group), hello.groups or {})
  assert.same(named(field "extensions_key_share_group", names.group), pick(hello.key_shares, "group"))
  assert.same(numbers(field "extensions_key_share_key_exchange_length"), pick(hello.key_shares, "length"))
  assert.same(named(field "sig_hash_alg", names.signature_scheme), hello.signature_schemes)
  local versions = named(field "extensions.supported_version", names.version)
  assert.same(#versions > 0 and versions or { hello.legacy_version }, hello.versions)
  assert.same(field("extensions_server_name")[1], hello.server_name)
  assert.same(field "extensions_alpn_str", hello.alpn or {})
  assert.same(named(row["tls.extension.psk_ke_mode"], names.psk_mode), hello.psk_modes or {})
end

local answer_fields = {
  "tls.handshake.version", "tls.handshake.random", "tls.handshake.session_id", "tls.handshake.ciphersuite",
  "tls.handshake.extensions.supported_version", "tls.handshake.extensions_key_share_group",
  "tls.handshake.extensions_key_share_selected_group",
}

local function compare_answer(answer, row)
  local function field(name) return row["tls.handshake." .. name] end
  assert.same(named({ field("version")[1] }, names.version), { answer.legacy_version })
  assert.same(plain({ field("random")[1] }), { answer.random })
  assert.same(plain(field "session_id")[1] or "", answer.session_id)
  assert.same(named({ field("ciphersuite")[1] }, names.suite), { answer.suite })
  local version = field("extensions.supported_version")[1]
  assert.equal(version and names.version(tonumber(version)) or answer.legacy_version, answer.version)
  local group = field("extensions_key_share_group")[1]
  assert.equal(group and names.group(tonumber(group)), answer.group)
end

-- Everything that is compared, of all connections, in one run of tshark: it takes a while to start.
local function dissect(seen, keylog)
  local fields, known = { "tcp.srcport", "tcp.dstport", "tls.handshake.type", "tls.handshake.length",
    "tls.handshake.certificate", "tls.handshake.session_ticket_lifetime_hint", "http.request.method" }, {}
  for _, list in ipairs { fields, hello_fields, answer_fields } do
    for _, field in ipairs(list) do
      if not known[field] and list ~= fields then fields[#fields + 1] = field end
      known[field] = true
    end
  end
  return seen:rows("tls.handshake.type || http.request.method", fields, { keylog = keylog })
end

-- The packets of the connection between two ports. One of them does not name it: the system gives a port to
-- several connections at once, as long as they lead to different places.
local function of_connection(packets, port, server_port)
  local result = {}
  for _, row in ipairs(packets) do
    local from, to = tonumber(row["tcp.srcport"][1]), tonumber(row["tcp.dstport"][1])
    if from == port and to == server_port or from == server_port and to == port then
      result[#result + 1] = row
    end
  end
  return result
end

local function with_type(packets, number)
  local result = {}
  for _, row in ipairs(packets) do
    for _, one in ipairs(row["tls.handshake.type"]) do
      if tonumber(one) == number then result[#result + 1] = row break end
    end
  end
  return result
end

-- The values of one field in all packets together.
local function all(packets, field)
  local result = {}
  for _, row in ipairs(packets) do
    for _, value in ipairs(row[field]) do result[#result + 1] = value end
  end
  return result
end

local function from(packets, port)
  local result = {}
  for _, row in ipairs(packets) do
    if tonumber(row["tcp.srcport"][1]) == port then result[#result + 1] = row end
  end
  return result
end

-- Each direction's messages: their types and sizes, as the wire and the trace have them.
local function compare_messages(list, packets, port)
  local wire = { client = {}, server = {} }
  for _, row in ipairs(packets) do
    local side = wire[tonumber(row["tcp.srcport"][1]) == port and "server" or "client"]
    for i, number in ipairs(row["tls.handshake.type"]) do
      side[#side + 1] = number .. ":" .. row["tls.handshake.length"][i]
    end
  end
  local own = { client = {}, server = {} }
  local numbers_of = {}
  for number, name in pairs(names.handshake_types) do numbers_of[name] = number end
  numbers_of.HelloRetryRequest = 2
  for _, message in ipairs(report.messages(list)) do
    if message.type ~= "ChangeCipherSpec" then
      local side = own[message.from]
      side[#side + 1] = numbers_of[message.type] .. ":" .. message.size
    end
  end
  assert.same(wire.client, own.client)
  assert.same(wire.server, own.server)
end

local function compare(rows, list, packets, port)
  local hellos, answers = with_type(packets, 1), with_type(packets, 2)
  compare_hello(rows.client_hello, hellos[1])
  if rows.client_hello.retry then
    assert.equal(2, #hellos)
    compare_hello(rows.client_hello.second, hellos[2])
    assert.same(named(answers[1]["tls.handshake.extensions_key_share_selected_group"], names.group),
      { rows.client_hello.retry.group })
    table.remove(answers, 1)
  else
    assert.equal(1, #hellos)
  end
  compare_answer(rows.server_hello, answers[1])
  compare_messages(list, packets, port)

  -- Certificates, byte for byte: by what the core reads from tshark's.
  local certificates = all(from(packets, port), "tls.handshake.certificate")
  assert.equal(#certificates, #(rows.server_hello.certificates or {}))
  for i, hex in ipairs(certificates) do
    local der = hex:gsub(":", ""):gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end)
    assert.equal(core.certificate(der):fingerprint(), rows.server_hello.certificates[i].fingerprint)
  end
  local lifetimes = all(with_type(packets, 4), "tls.handshake.session_ticket_lifetime_hint")
  assert.same(numbers(lifetimes), pick(rows.data.session_tickets, "lifetime"))
  -- The key log opens the capture.
  assert.same({ "GET" }, all(packets, "http.request.method"))
end

-- The server's signature scheme, where a packet shows it.
local function compare_signature(rows, packets, port)
  local holders = with_type(from(packets, port), rows.server_hello.version == "TLS1.3" and 15 or 12)
  -- A CertificateRequest in the same packet has a whole list of them.
  local found = false
  for _, scheme in ipairs(named(all(holders, "tls.handshake.sig_hash_alg"), names.signature_scheme)) do
    found = found or scheme == rows.key_exchange.server_signature
  end
  assert.is_true(found, tostring(rows.key_exchange.server_signature))
end

-- The handshakes --------------------------------------------------------------------------------------

local servers = {
  ["openssl s_server"] = function(options)
    return peers.openssl_server { cert = options.cert, version = options.version == "TLS1.2" and "tls1_2" or nil,
      alpn = "h2,http/1.1", staple = options.staple, client_ca = options.client and authority.ca_file,
      arguments = { "-msg", "-tlsextdebug",
        options.groups and "-groups" or "-no_comp", options.groups } }
  end,
  nginx = function(options)
    return peers.nginx { cert = options.cert, versions = options.version == "TLS1.2" and { "TLSv1.2" } or nil,
      ciphers = options.ciphers, client_ca = options.client and authority.ca_file, staple = options.staple,
      server = options.groups and "ssl_ecdh_curve " .. options.groups .. ";" or "",
      locations = { ["/"] = "return 200 '$ssl_protocol|$ssl_cipher|$ssl_server_name|$ssl_session_reused|" ..
        "$ssl_client_s_dn|$ssl_curves|$ssl_ciphers|';" } }
  end,
  ["gnutls-serv"] = function(options)
    return peers.gnutls_server { cert = options.cert, debug = "4", staple = options.staple,
      client_ca = options.client and authority.ca_file,
      priority = options.priority or options.version == "TLS1.2" and "NORMAL:-VERS-TLS1.3" or
        options.groups and "NORMAL:-GROUP-ALL:+GROUP-" .. options.groups:gsub("P%-(%d+)", "SECP%1R1") or "NORMAL" }
  end,
}

-- What each server is asked to be, how the client connects, and what the trace then must say.
local handshakes = {
  { "TLS 1.3 in full", { cert = ecdsa, staple = staple }, {}, kind = "ECDHE", trips = 1, version = "TLS1.3" },
  { "TLS 1.3 with an RSA certificate", { cert = rsa }, {}, kind = "ECDHE", trips = 1, version = "TLS1.3" },
  { "TLS 1.3 after a HelloRetryRequest", { cert = ecdsa, groups = "P-384" }, {}, kind = "ECDHE", trips = 2,
    version = "TLS1.3", group = "secp384r1", retry = true },
  { "TLS 1.3 with a client certificate", { cert = ecdsa, client = true },
    { certificate = client.cert, key = client.key }, kind = "ECDHE", trips = 1, version = "TLS1.3", client = true },
  { "TLS 1.2 with ECDHE", { cert = ecdsa, version = "TLS1.2", staple = staple }, {}, kind = "ECDHE", trips = 2,
    version = "TLS1.2" },
  { "TLS 1.2 with ECDHE and a client certificate", { cert = rsa, version = "TLS1.2", client = true },
    { certificate = client.cert, key = client.key }, kind = "ECDHE", trips = 2, version = "TLS1.2", client = true },
  { "TLS 1.2 with DHE", { cert = rsa, version = "TLS1.2", priority = "NORMAL:-VERS-TLS1.3" },
    { priority = "-ECDHE-RSA:-ECDHE-ECDSA:-RSA", max_version = "TLS1.2" }, kind = "DHE", trips = 2,
    version = "TLS1.2", not_by = "nginx" },
  { "TLS 1.2 with RSA", { cert = rsa, version = "TLS1.2", ciphers = "AES256-GCM-SHA384" },
    { priority = "-ECDHE-RSA:-ECDHE-ECDSA:-DHE-RSA", max_version = "TLS1.2" }, kind = "RSA", trips = 2,
    version = "TLS1.2", forward = false },
}

describe("the trace agrees with tshark and the server", function()
  -- What each test looks at: {server =, rows =, page =, list =, packets =}. All are made in one capture.
  local exchanges = {}

  local function add(name, server_name, options, more, again)
    exchanges[#exchanges + 1] = { name = name, make = servers[server_name], options = options, more = more,
      again = again }
    exchanges[name] = exchanges[#exchanges]
  end

  setup(function()
    local keylog, ports, connections = tmp.path("keys"), {}, 0
    for i, one in ipairs(exchanges) do
      one.server = one.make(one.options)
      ports[i] = one.server.port
    end
    local seen = capture.start(ports)
    for _, one in ipairs(exchanges) do
      local more = {}
      for name, value in pairs(one.more) do more[name] = value end
      if more.keylog == nil then more.keylog = keylog end
      if one.again then
        exchange(one.server, more) -- its session is taken up below
        connections = connections + 1
      end
      one.rows, one.page, one.list, one.port = exchange(one.server, more)
      connections = connections + 1
    end
    seen:stop(connections)
    local packets = dissect(seen, keylog)
    for _, one in ipairs(exchanges) do
      one.packets = of_connection(packets, one.port, one.server.port)
      one.server:stop()
    end
  end)

  for server_name in pairs(servers) do
    for _, case in ipairs(handshakes) do
      local title, server_options, client_options = case[1], case[2], case[3]
      if case.not_by ~= server_name then
        local name = ("on %s by %s"):format(title, server_name)
        add(name, server_name, server_options, client_options)
        it(name, function()
          local one = exchanges[name]
          local rows, packets, port = one.rows, one.packets, one.server.port
          compare(rows, one.list, packets, port)
          if case.kind ~= "RSA" then compare_signature(rows, packets, port) end
          assert.equal(case.kind, rows.key_exchange.kind)
          assert.equal(case.version, rows.server_hello.version)
          assert.equal(case.trips, rows.finished.round_trips)
          assert.equal(case.forward ~= false, rows.session_keys.forward_secrecy)
          assert.is_false(rows.key_exchange.resumed)
          assert.equal(case.retry or false, rows.client_hello.retry ~= nil)
          if case.group then assert.equal(case.group, rows.key_exchange.group) end
          if case.client then
            assert.is_string(rows.key_exchange.client_signature)
            assert.equal("CN=a client", rows.key_exchange.client_certificates[1].subject)
            assert.equal(1, #rows.server_hello.client_certificate_asked.authorities)
          end
          if server_options.staple and server_name ~= "gnutls-serv" then
            assert.equal(#tmp.read(staple), rows.server_hello.staple_length)
          end
          for _, answer in ipairs { "issuer", "dates", "name" } do
            assert.equal("yes", rows.verify[answer].answer)
          end
          if server_name == "nginx" then
            local protocol, suite, sni, reused, dn =
              one.page:match("\r\n\r\n([^|]*)|([^|]*)|([^|]*)|([^|]*)|([^|]*)|")
            assert.equal(protocol:gsub("v", ""), rows.server_hello.version)
            assert.equal(#suite > 0, true)
            assert.equal(sni, rows.client_hello.server_name)
            assert.equal(".", reused)
            assert.equal(case.client and "CN=a client" or "", dn)
          end
        end)
      end
    end
  end

  add("without keys", "nginx", { cert = ecdsa }, { keylog = false })
  it("and without the key log, the capture shows nothing of what was said", function()
    local packets = exchanges["without keys"].packets
    assert.equal(1, #with_type(packets, 1))
    assert.same({}, all(packets, "http.request.method"))
    assert.same({}, with_type(packets, 20))
  end)

  for _, version in ipairs { "TLS1.2", "TLS1.3" } do
    for server_name in pairs(servers) do
      local name = ("on a resumed %s by %s"):format(version, server_name)
      add(name, server_name, { cert = ecdsa, version = version }, {}, true)
      it(name, function()
        local one = exchanges[name]
        local rows = one.rows
        compare(rows, one.list, one.packets, one.server.port)
        assert.is_true(rows.key_exchange.resumed)
        assert.equal(version == "TLS1.3" and "ECDHE+PSK" or "resumed", rows.key_exchange.kind)
        assert.equal(1, rows.finished.round_trips)
        assert.is_nil(rows.server_hello.certificates)
        assert.equal("yes", rows.verify.name.answer)
        if version == "TLS1.3" then assert.equal(1, rows.client_hello.psk_identities) end
        if server_name == "nginx" then assert.matches("|r|", one.page, 1, true) end
      end)
    end
  end
end)

describe("the trace agrees with the server's own log", function()
  -- The messages in what openssl s_server -msg prints: {from =, number =, body =}.
  local function logged(text)
    local list, current = {}, nil
    for line in text:gmatch("[^\n]+") do
      local arrow, kind = line:match("^([<>][<>][<>]) [^,]+, (%a+) %[length %x+%]")
      if arrow then
        current = kind == "Handshake" and { from = arrow == "<<<" and "client" or "server", hex = {} } or nil
        if current then list[#list + 1] = current end
      elseif current and line:find("^    %x%x") then
        current.hex[#current.hex + 1] = line:gsub("%X", "")
      else
        current = nil
      end
    end
    for _, message in ipairs(list) do
      local bytes = table.concat(message.hex):gsub("%x%x", function(digits)
        return string.char(tonumber(digits, 16))
      end)
      message.number, message.body = bytes:byte(1), bytes:sub(5)
    end
    return list
  end

  it("message for message and extension for extension: openssl s_server -msg -tlsextdebug", function()
    for _, options in ipairs { { cert = ecdsa, staple = staple }, { cert = rsa, version = "TLS1.2" },
                               { cert = ecdsa, groups = "P-384" } } do
      local server = servers["openssl s_server"](options)
      local rows, _, list = exchange(server, { alpn = { "http/1.1" } })
      server:stop()
      local own = { client = {}, server = {} }
      for _, message in ipairs(report.messages(list)) do
        if message.type ~= "ChangeCipherSpec" then
          local to = own[message.from]
          to[#to + 1] = message.type .. ":" .. message.size
        end
      end
      local theirs, context = { client = {}, server = {} }, {}
      local hellos = {}
      for _, message in ipairs(logged(server:output())) do
        local m = parse.message(message.number, message.body, context)
        assert.is_nil(m.malformed)
        local to = theirs[message.from]
        to[#to + 1] = m.type .. ":" .. m.size
        if m.type == "ClientHello" then hellos[#hellos + 1] = m end
        if m.type == "ServerHello" then assert.equal(m.random, rows.server_hello.random) end
        if m.type == "Finished" then assert.equal(m.verify_data, rows.finished[message.from].verify_data) end
      end
      assert.same(theirs.client, own.client)
      assert.same(theirs.server, own.server)
      assert.equal(hellos[1].random, rows.client_hello.random)
      assert.same(hellos[1].suites, rows.client_hello.suites)
      -- What the server says of each extension, in any order.
      local shown, seen = {}, {}
      local first = server:output():match("^.-ServerHello") or ""
      if rows.client_hello.retry then first = first:match("^(.-)ClientHello.*ClientHello") or first end
      for id, size in first:gmatch("TLS client extension [^\n]*%(id=(%d+)%), len=(%d+)") do
        shown[tonumber(id)] = tonumber(size)
      end
      for _, extension in ipairs(rows.client_hello.extensions) do seen[extension.type] = extension.length end
      for id, size in pairs(shown) do assert.equal(size, seen[id], "extension " .. id) end
      assert.is_not_nil(next(shown))
      assert.equal("http/1.1", rows.server_hello.alpn)
    end
  end)

  it("value for value: gnutls-serv --debug", function()
    for _, version in ipairs { "TLS1.3", "TLS1.2" } do
      local server = servers["gnutls-serv"] { cert = ecdsa, version = version }
      local rows = exchange(server)
      server:stop()
      local log = server:output()
      local hello, answer = rows.client_hello, rows.server_hello
      assert.equal(hello.messages[1].size, tonumber(log:match("CLIENT HELLO %(1%) was received%. Length (%d+)")))
      for name, number, size in log:gmatch("Parsing extension '([^'/]*)/(%d+)' %((%d+) bytes%)") do
        local found
        for _, extension in ipairs(hello.extensions) do
          if extension.type == tonumber(number) then found = extension end
        end
        assert.equal(tonumber(size), found and found.length, name)
      end
      local groups = {}
      for number in log:gmatch("Received group %S+ %(0x(%x+)%)") do
        groups[#groups + 1] = names.group(tonumber(number, 16))
      end
      assert.same(groups, hello.groups)
      local schemes = {}
      for a, b in log:gmatch("rcvd signature algo %((%d+)%.(%d+)%)") do
        schemes[#schemes + 1] = names.signature_scheme(tonumber(a) * 256 + tonumber(b))
      end
      assert.same(schemes, hello.signature_schemes)
      assert.equal(hello.server_name, log:match("Requested server name: '([^']*)'"))
      assert.equal(answer.version, log:match("Selected version (%S+)"))
      assert.equal(answer.suite:gsub("TLS_", "GNUTLS_"):gsub("_WITH_", "_"),
        (log:match("Selected cipher suite: (%S+)")))
    end
  end)
end)

describe("the trace of a failure", function()
  it("is in the error, up to the step that failed, wherever the peer breaks off", function()
    -- The records that the server sends, each a message here, and the step that waits for it.
    local waits = {
      ["TLS1.2"] = { [0] = "server_hello", "server_hello", "key_exchange", "key_exchange", "finished", "finished" },
      ["TLS1.3"] = { [0] = "server_hello", "server_hello", "server_hello", "server_hello", "key_exchange",
                     "finished" },
    }
    for version, steps_of in pairs(waits) do
      local server = peers.openssl_server { cert = ecdsa, version = version == "TLS1.2" and "tls1_2" or nil }
      for after = 0, #steps_of do
        for _, act in ipairs { "finish", "reset" } do
          local relay = peers.relay { to = server, after = after, act = act }
          local opened, _, err = connect(relay)
          assert.is_nil(opened)
          assert.is_table(err.trace)
          assert.equal(10, #err.trace)
          local reached = false
          for _, row in ipairs(err.trace) do
            if row.step == err.step then
              assert.is_false(row.ok)
              assert.equal(err.code, row.error.code)
              reached = true
            end
          end
          assert.is_true(reached)
          assert.is_string(err.trace[3].random)
          local where = ("%s, %s after %d"):format(version, act, after)
          if act == "finish" then
            assert.equal(steps_of[after], err.step, where)
            if after > 0 then assert.equal(version, err.trace[4].version, where) end
          else
            -- A reset may throw away what had arrived and was not read.
            assert.is_true(steps.index[err.step] <= steps.index[steps_of[after]], where)
          end
          relay:stop()
        end
      end
      server:stop()
    end
  end)

  it("names a truncation", function()
    local server = peers.openssl_server { cert = ecdsa, mode = false }
    local opened = assert(connect(server))
    opened:send("hello\n")
    process.stop(server.pid, true)
    local data, _, _, err = opened:receive("*a")
    assert.is_nil(data)
    assert.is_true(err.code == "truncated" or err.code == "reset")
    opened:close()
    local close = opened:trace()[10]
    assert.is_false(close.received)
    assert.is_true(close.truncated or err.code == "reset")
  end)

  it("shows the chain of a certificate that is refused, and all four answers", function()
    local bad = authority:issue { name = "b.test", not_before = -9e5, not_after = -86400 }
    local server = peers.nginx { cert = bad }
    local opened, _, err = connect(server)
    assert.is_nil(opened)
    local verify = err.trace[5]
    assert.equal("yes", verify.issuer.answer)
    assert.equal("no", verify.dates.answer)
    assert.equal("no", verify.name.answer)
    assert.equal("unknown", verify.revocation.answer)
    assert.matches("expired", verify.dates.reason)
    assert.matches("b.test", verify.name.reason)
    assert.equal("CN=b.test", err.trace[4].certificates[1].subject)
    assert.is_nil(err.trace[9].ok)
  end)
end)

describe("the trace of a server", function()
  local tlsconnect = require "tlsconnect"
  local scheduler = require "spec.support.scheduler"

  it("tells the same handshake as its client's", function()
    for _, version in ipairs { "TLS1.2", "TLS1.3" } do
      local mine, theirs
      scheduler.run(function(spawn, wait, _, join)
        local listener = assert(tlsconnect.listen("127.0.0.1", 0, {
          certificate = ecdsa.chain, key = ecdsa.key, ca_file = authority.ca_file, wait = wait, trace = true,
          max_version = version,
        }))
        local _, port = listener:address()
        local task = spawn(function()
          local peer = assert(listener:accept())
          assert.equal("hello", peer:receive())
          peer:send("good day\n")
          peer:receive("*a")
          peer:close()
          return peer:trace()
        end)
        local opened = assert(tlsconnect.connect("127.0.0.1", port, {
          server_name = "a.test", ca_file = authority.ca_file, certificate = client.cert, key = client.key,
          wait = wait, trace = true,
        }))
        opened:send("hello\n")
        assert.equal("good day", opened:receive())
        opened:close()
        theirs, mine = join(task), opened:trace()
        listener:close()
        return true
      end)
      local function list(rows, side)
        local result = {}
        for _, message in ipairs(report.messages(rows)) do
          if message.from == side then result[#result + 1] = message.type .. ":" .. message.size end
        end
        return result
      end
      for _, side in ipairs { "client", "server" } do assert.same(list(mine, side), list(theirs, side)) end
      assert.equal(mine[3].random, theirs[3].random)
      assert.equal(mine[4].random, theirs[4].random)
      assert.same(mine[4].certificates, theirs[4].certificates)
      assert.equal(mine[6].kind, theirs[6].kind)
      assert.same(mine[6].client_certificates, theirs[6].client_certificates)
      assert.equal(mine[7].suite, theirs[7].suite)
      assert.equal(mine[8].client.verify_data, theirs[8].client.verify_data)
      assert.equal("yes", theirs[5].issuer.answer)
      assert.equal(mine[9].bytes_out, theirs[9].bytes_in)
      assert.equal("client", theirs[10].first)
      assert.is_nil(theirs[1].ok)
    end
  end)
end)

describe("a trace function", function()
  it("hears of each answer, attempt and step, in the order of time", function()
    local server = peers.nginx { cert = ecdsa }
    local events, last = {}, -1
    local opened = assert(connection.open("localhost", server.port, {
      server_name = "a.test", ca_file = authority.ca_file, timeout = 60, trace = function(event)
        events[#events + 1] = event.event .. " " .. event.step
        assert.equal("localhost", event.host)
        assert.equal(server.port, event.port)
        last = event.time
      end,
    }))
    opened:close()
    assert.is_true(last > 0)
    local text = table.concat(events, ", ")
    for _, order in ipairs {
      "start dns.*answer dns.*finish dns.*start tcp.*attempt tcp.*attempt_ended tcp.*finish tcp",
      -- A server on this machine may have answered before the first call returns: its messages then come at once.
      "finish tcp.*message client_hello.*message server_hello.*message key_exchange.*message finished",
      "finish tcp.*start client_hello.*finish client_hello.*start server_hello.*finish server_hello",
      "finish server_hello.*start verify.*finish verify.*finish finished.*finish data.*start close.*finish close$",
    } do
      assert.matches(order, text)
    end
  end)

  it("that raises ends the call with its error, and leaves no descriptor behind", function()
    local server = peers.nginx { cert = ecdsa }
    local function descriptors()
      collectgarbage()
      collectgarbage()
      local count = 0
      for fd = 0, 200 do
        local file = io.open("/proc/self/fdinfo/" .. fd)
        if file then
          count = count + 1
          file:close()
        end
      end
      return count
    end
    local function open(step, kind)
      return pcall(connect, server, { trace = function(event)
        if event.step == step and event.event == kind then error("enough", 0) end
      end })
    end
    assert(connect(server)):close()
    local before = descriptors()
    for _, step in ipairs { "dns", "tcp", "client_hello", "server_hello", "verify", "finished" } do
      for _, kind in ipairs { "start", "finish" } do
        local ok, message = open(step, kind)
        assert.is_false(ok, step)
        assert.equal("enough", message)
      end
    end
    assert.equal(before, descriptors())
  end)
end)

-- STARTTLS by each protocol: the way to TLS, and every way off it. The peers speak as openssl s_client
-- expects it (which is checked), and behave badly where a row asks for it.
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local run = require "spec.support.run"
local starttls = require "tlsconnect.starttls"
local tool = require "spec.support.tool"

local authority = pki.shared()
local site = authority:issue { name = "localhost", ip = "127.0.0.1" }

-- What a server says until TLS may begin: `ready` is the go-ahead, sent with whatever stands in EXTRA.
local servers = {
  smtp = [[
    peer:send("220-mail.test\r\n220 ready\r\n")
    local line = peer:line()
    if not line or not line:find("^EHLO ") then return end
    peer:send("250-mail.test\r\n250-SIZE 1000\r\n250 " .. OFFER .. "\r\n")
    if peer:line() ~= "STARTTLS" then return end
    ready("220 go ahead\r\n", "454 not now\r\n")]],
  imap = [[
    peer:send("* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n")
    local tag, command = peer:line():match("^(%S+) (.*)$")
    if command == "CAPABILITY" then
      peer:send("* CAPABILITY IMAP4rev1 STARTTLS\r\n" .. tag .. " OK done\r\n")
      tag, command = peer:line():match("^(%S+) (.*)$")
    end
    if command ~= "STARTTLS" then return end
    peer:send("* 1 EXISTS\r\n")
    ready(tag .. " OK begin TLS\r\n", tag .. " BAD no TLS here\r\n")]],
  pop3 = [[
    peer:send("+OK ready\r\n")
    if peer:line() ~= "STLS" then return end
    ready("+OK begin TLS\r\n", "-ERR no TLS here\r\n")]],
  ftp = [[
    peer:send("220-hello\r\n220 ready\r\n")
    local line = peer:line()
    if line == "FEAT" then
      peer:send("211-features\r\n AUTH TLS\r\n211 end\r\n")
      line = peer:line()
    end
    if line ~= "AUTH TLS" then return end
    ready("234 go ahead\r\n", "502 no TLS here\r\n")]],
  xmpp = [[
    local seen = ""
    while not seen:find("<stream:stream[^>]*>") do seen = seen .. peer:read() end
    peer:send("<?xml version='1.0'?><stream:stream from='localhost' id='x' version='1.0' xmlns='jabber:client' "
      .. "xmlns:stream='http://etherx.jabber.org/streams'><stream:features>"
      .. (OFFER == "STARTTLS" and "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>" or "<bind/>")
      .. "</stream:features>")
    seen = ""
    while not seen:find("<starttls[^>]*>") do
      local more, ended = peer:read()
      if ended then return end
      seen = seen .. more
    end
    ready("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")]],
  postgres = [[
    if peer:read(8) ~= "\0\0\0\8\4\210\22\47" then return end
    ready("S", "N")]],
  ldap = [[
    local head = peer:read(2)
    peer:read(head:byte(2))
    -- An ExtendedResponse: success, no DN, no message; or protocolError.
    ready("0\12\2\1\1x\7\10\1\0\4\0\4\0", "0\12\2\1\1x\7\10\1\2\4\0\4\0")]],
}

-- A server. options: extra = bytes behind the go-ahead; refuse = true; offer = what stands for STARTTLS.
local function server(protocol, options)
  options = options or {}
  return peers.raw(("local OFFER, EXTRA, REFUSE, CERT, KEY = %q, %q, %s, %q, %q\n"):format(
    options.offer or "STARTTLS", options.extra or "", tostring(options.refuse or false), site.chain, site.key) .. [[
    local function ready(yes, no)
      if REFUSE then return peer:send(no) end
      peer:send(yes .. EXTRA)
      local tlsconnect = require "tlsconnect"
      local secured = tlsconnect.wrap(peer.socket:detach(),
        { role = "server", certificate = CERT, key = KEY, wait = peer.wait, timeout = 20 })
      if secured then
        secured:send("over TLS\r\n")
        secured:receive("*a")
        secured:close()
      end
    end
  ]] .. servers[protocol])
end

local function connect(peer, protocol)
  return starttls.connect("localhost", peer.port, protocol, { ca_file = authority.ca_file, timeout = 20,
    trace = true })
end

describe("STARTTLS", function()
  for protocol in pairs(starttls.ports) do
    it("leads to verified TLS by " .. protocol, function()
      local connection = assert(connect(server(protocol), protocol))
      assert.equal("over TLS", connection:receive("*l"))
      local rows = connection:trace()
      assert.equal(protocol, rows[2].starttls.protocol)
      assert.is_true(rows[8].ok)
      assert.equal("yes", rows[5].name.answer)
      connection:close()
    end)

    it("is spoken by the peer of these specs as openssl expects it: " .. protocol, function()
      local peer = server(protocol)
      local result = run({ "openssl", "s_client", "-connect", "localhost:" .. peer.port, "-starttls", protocol,
        "-CAfile", authority.ca_file, "-verify_return_error", "-xmpphost", "localhost" }, { stdin = "Q\n" })
      assert.matches("Verify return code: 0 %(ok%)", result.out .. result.err)
    end)

    it("S1 refuses bytes in clear behind the go-ahead: " .. protocol, function()
      local peer = server(protocol, { extra = "injected\r\n" })
      local connection, message, err = connect(peer, protocol)
      assert.is_nil(connection)
      assert.equal("plaintext_before_tls", err.code)
      assert.equal("client_hello", err.step)
      assert.matches("in clear", message)
      assert.is_false(err.trace[3].ok)
    end)

    it("S2 never goes on in clear where it is refused: " .. protocol, function()
      local connection, _, err = connect(server(protocol, { refuse = true }), protocol)
      assert.is_nil(connection)
      assert.equal("starttls_refused", err.code)
      assert.equal("client_hello", err.step)
      assert.is_true(err.trace[2].ok)
      assert.is_false(err.trace[3].ok)
    end)
  end

  it("S2 sees that the offer was stripped", function()
    for _, protocol in ipairs { "smtp", "xmpp" } do
      local connection, message, err = connect(server(protocol, { offer = "8BITMIME" }), protocol)
      assert.is_nil(connection)
      assert.equal("starttls_refused", err.code)
      assert.matches("does not offer TLS by " .. protocol, message)
    end
  end)

  it("S2 ends with an error when the server ends, stalls or talks without end", function()
    local cases = {
      { "peer:close()", "[cr][le][os][se][et]d?" },
      { "peer:stall()", "timeout" },
      { "peer:send((\"220-x\\r\\n\"):rep(100000)) peer:drain()", "starttls_refused" },
      { "peer:send((\"x\"):rep(100000)) peer:drain()", "too_long" },
      { "peer:send(\"HTTP/1.1 400 Bad Request\\r\\n\\r\\n\") peer:drain()", "starttls_refused" },
    }
    for _, case in ipairs(cases) do
      local peer = peers.raw(case[1])
      local connection, _, err = starttls.connect("localhost", peer.port, "smtp",
        { ca_file = authority.ca_file, timeout = 2, trace = true })
      assert.is_nil(connection)
      assert.matches(case[2], err.code)
      assert.equal("client_hello", err.step)
      peer:stop()
    end
  end)

  it("shows what the server said harmlessly", function()
    local peer = peers.raw "peer:send('220 x\\r\\n') peer:line() peer:send('550 \27[31mno\\r\\n') peer:drain()"
    local _, message = connect(peer, "smtp")
    assert.truthy(message:find("\\x1B[31mno", 1, true))
  end)

  it("works from the tool: trace and cert", function()
    local peer = server "smtp"
    local result = tool { "trace", "--ca", authority.ca_file, "--starttls", "smtp", "localhost:" .. peer.port }
    assert.equal(0, result.code, result.err)
    assert.matches("TLS 1.3, verified", result.out)
    result = tool { "cert", "--ca", authority.ca_file, "--starttls", "smtp", "localhost:" .. peer.port }
    assert.equal(0, result.code, result.err)
    peer = server("imap", { refuse = true })
    result = tool { "trace", "--starttls", "imap", "localhost:" .. peer.port }
    assert.equal(13, result.code)
    assert.matches("client_hello  FAILED", result.out)
  end)
end)

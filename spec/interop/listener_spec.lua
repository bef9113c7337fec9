-- tlsconnect.listen with clients that others have written.
local pki = require "spec.support.pki"
local run = require "spec.support.run"
local scheduler = require "spec.support.scheduler"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

local unpack = table.unpack or unpack
local authority = pki.shared()
local site = authority:issue { name = "a.test", ip = { "127.0.0.1", "::1" } }

describe("a listener", function()
  -- Runs clients, commands, against a server made of the module; serve(connection) for each.
  local function against(commands, serve, given)
    local results = {}
    scheduler.run(function(spawn, wait, sleep, join)
      given = given or {}
      given.certificate, given.key = given.certificate or site.chain, given.key or site.key
      given.wait, given.timeout = wait, 60
      local listener = assert(tlsconnect.listen("127.0.0.1", 0, given))
      local _, port = listener:address()
      local server = spawn(function()
        while true do
          local peer = listener:accept()
          if not peer then return end
          spawn(function() serve(peer) peer:close() end)
        end
      end)
      for i, command in ipairs(commands) do
        local words = {}
        for j, word in ipairs(command) do words[j] = (word:gsub("PORT", port)) end
        local job = run.start(words, { stdin = command.stdin })
        repeat sleep(0.01) until job:result()
        results[i] = job:result()
      end
      listener:close()
      join(server)
    end)
    return results
  end

  local function answer(peer)
    local line = peer:receive()
    if not line then return end
    repeat local header = peer:receive() until not header or header == ""
    peer:send("HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")
  end

  it("serves curl and openssl s_client, with both versions", function()
    local commands = {}
    for _, version in ipairs { "1.2", "1.3" } do
      commands[#commands + 1] = { "curl", "-sS", "--cacert", authority.ca_file, "--tlsv" .. version,
        "--tls-max", version, "--resolve", "a.test:PORT:127.0.0.1", "https://a.test:PORT/" }
      commands[#commands + 1] = { "openssl", "s_client", "-connect", "127.0.0.1:PORT", "-servername", "a.test",
        "-CAfile", authority.ca_file, "-verify_return_error", "-verify_hostname", "a.test", "-quiet",
        "-tls" .. version:gsub("%.", "_"), stdin = "GET / HTTP/1.0\r\n\r\n" }
    end
    local results = against(commands, answer)
    for i, result in ipairs(results) do
      assert.equal(0, result.code, commands[i][1] .. ": " .. result.err)
      assert.truthy(result.out:find("hello", 1, true), result.out)
    end
  end)

  it("serves gnutls-cli", function()
    local results = against({ { "gnutls-cli", "--x509cafile", authority.ca_file, "--sni-hostname", "a.test",
      "--verify-hostname", "a.test", "-p", "PORT", "127.0.0.1", stdin = "GET / HTTP/1.0\r\n\r\n" } }, answer)
    assert.equal(0, results[1].code, results[1].err)
    assert.truthy(results[1].out:find("hello", 1, true), results[1].out)
  end)

  it("agrees on a protocol with curl", function()
    local results = against({
      { "curl", "-sS", "-v", "--http1.1", "--cacert", authority.ca_file, "--resolve", "a.test:PORT:127.0.0.1",
        "https://a.test:PORT/" },
      { "curl", "-sS", "--no-alpn", "--cacert", authority.ca_file, "--resolve", "a.test:PORT:127.0.0.1",
        "https://a.test:PORT/" },
    }, answer, { alpn = { "http/1.1" } })
    assert.equal(0, results[1].code, results[1].err)
    assert.truthy(results[1].err:find("ALPN", 1, true), results[1].err)
    assert.truthy(results[1].err:find("server accepted http/1.1", 1, true)
      or results[1].err:find("server accepted to use http/1.1", 1, true), results[1].err)
    assert.equal(0, results[2].code, results[2].err)
  end)

  it("knows the client by its certificate", function()
    local user = authority:issue { name = "user.test", purpose = "client" }
    local curl = { "curl", "-sS", "--cacert", authority.ca_file, "--resolve", "a.test:PORT:127.0.0.1" }
    local function with(...)
      local words = { unpack(curl) }
      for i = 1, select("#", ...) do words[#words + 1] = (select(i, ...)) end
      words[#words + 1] = "https://a.test:PORT/"
      return words
    end
    local subjects = {}
    local results = against({ with("--cert", user.chain, "--key", user.key), with() }, function(peer)
      local ok, _, err = peer:handshake()
      subjects[#subjects + 1] = ok and peer:peer_certificate():subject() or err.code
      if ok then answer(peer) end
    end, { ca_file = authority.ca_file })
    assert.equal(0, results[1].code, results[1].err)
    assert.not_equal(0, results[2].code)
    assert.equal("CN=user.test", subjects[1])
    assert.truthy(({ certificate_required = 1, no_certificate = 1 })[subjects[2]], subjects[2])
  end)

  -- The certificate that openssl s_client or gnutls-cli has printed, and the path's.
  local function printed(result)
    return (result.out:match("%-+BEGIN CERTIFICATE%-+\n(.-)%-+END"))
  end
  local function kept(certificate)
    return (tmp.read(certificate.cert):match("%-+BEGIN CERTIFICATE%-+\n(.-)%-+END"))
  end

  it("shows openssl s_client and gnutls-cli the certificate for the name, and of a kind that they take", function()
    local wild = authority:issue { name = "*.b.test" }
    local wild_rsa = authority:issue { name = "*.b.test", key = "rsa2048" }
    local function openssl(...)
      return { "openssl", "s_client", "-connect", "127.0.0.1:PORT", "-CAfile", authority.ca_file, ... }
    end
    local function gnutls(name, ...)
      return { "gnutls-cli", "--print-cert", "--x509cafile", authority.ca_file, "--sni-hostname", name,
        "--verify-hostname", name, "-p", "PORT", "127.0.0.1", ... }
    end
    local cases = {
      { openssl("-servername", "www.b.test"), wild },
      { openssl("-servername", "www.b.test", "-tls1_2"), wild },
      { openssl("-servername", "www.b.test", "-sigalgs", "rsa_pss_rsae_sha256:rsa_pkcs1_sha256"), wild_rsa },
      { openssl("-servername", "www.b.test", "-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"), wild_rsa },
      { openssl("-servername", "a.test"), site },
      { openssl("-servername", "c.test"), site },
      { openssl("-noservername"), site },
      { gnutls("www.b.test"), wild },
      { gnutls("www.b.test", "--priority", "NORMAL:-SIGN-ALL:+SIGN-RSA-PSS-RSAE-SHA256"), wild_rsa },
      { gnutls("www.b.test", "--priority", "NORMAL:-VERS-TLS1.3:-KX-ALL:+ECDHE-RSA"), wild_rsa },
      { gnutls("a.test"), site },
    }
    local commands = {}
    for i, case in ipairs(cases) do
      commands[i] = case[1]
      commands[i].stdin = "GET / HTTP/1.0\r\n\r\n"
    end
    local results = against(commands, answer, { certificates = {
      { certificate = wild.chain, key = wild.key }, { certificate = wild_rsa.chain, key = wild_rsa.key },
    } })
    for i, result in ipairs(results) do
      assert.equal(kept(cases[i][2]), printed(result), table.concat(commands[i], " ") .. result.err)
    end
  end)

  it("refuses a client that offers protocols of which it speaks none, not one that offers none", function()
    local function client(...)
      return { "openssl", "s_client", "-connect", "127.0.0.1:PORT", "-servername", "a.test", "-quiet", "-CAfile",
        authority.ca_file, stdin = "GET / HTTP/1.0\r\n\r\n", ... }
    end
    local codes = {}
    local results = against({ client("-alpn", "h3,spdy/3"), client("-alpn", "h3,http/1.1"), client() }, function(peer)
      local ok, _, err = peer:handshake()
      codes[#codes + 1] = ok and (peer:info().alpn or "none") or err.code
      if ok then answer(peer) end
    end, { alpn = { "http/1.1" } })
    assert.same({ "no_common_alpn", "http/1.1", "none" }, codes)
    assert.truthy(results[1].err:find("no application protocol", 1, true), results[1].err)
    assert.truthy(results[2].out:find("hello", 1, true), results[2].err)
    assert.truthy(results[3].out:find("hello", 1, true), results[3].err)
  end)

  it("staples for openssl s_client, and takes its sessions up again", function()
    local file = tmp.path("session")
    local function client(...)
      return { "openssl", "s_client", "-connect", "127.0.0.1:PORT", "-servername", "a.test", "-status", "-CAfile",
        authority.ca_file, "-ign_eof", stdin = "GET / HTTP/1.0\r\n\r\n", ... }
    end
    for _, version in ipairs { "-tls1_2", "-tls1_3" } do
      local results = against({ client(version, "-sess_out", file), client(version, "-sess_in", file) }, answer,
        { staple = authority:staple(site) })
      assert.truthy(results[1].out:find("Cert Status: good", 1, true), results[1].out)
      assert.truthy(results[1].out:find("\nNew, TLSv", 1, true), results[1].out)
      assert.truthy(results[2].out:find("\nReused, TLSv", 1, true), results[2].out)
    end
  end)

  it("takes up a session of openssl s_client and gnutls-cli under its own name alone", function()
    local file = tmp.path("session")
    local function client(name, ...)
      return { "openssl", "s_client", "-connect", "127.0.0.1:PORT", "-servername", name, "-CAfile",
        authority.ca_file, "-ign_eof", stdin = "GET / HTTP/1.0\r\n\r\n", ... }
    end
    for _, version in ipairs { "-tls1_2", "-tls1_3" } do
      local results = against({ client("a.test", version, "-sess_out", file),
        client("a.test", version, "-sess_in", file), client("b.test", version, "-sess_in", file),
        client("a.test", version, "-sess_in", file) }, answer)
      local kinds = {}
      for i, result in ipairs(results) do
        kinds[i] = result.out:match("\n(%u%l+), TLSv")
        assert.truthy(result.out:find("hello", 1, true), result.out .. result.err)
      end
      assert.same({ "New", "Reused", "New", "Reused" }, kinds)
    end
    for _, version in ipairs { "1.2", "1.3" } do
      local result = against({ { "gnutls-cli", "--resume", "--x509cafile", authority.ca_file,
        "--sni-hostname", "a.test", "--verify-hostname", "a.test", "-p", "PORT",
        "--priority", "NORMAL:-VERS-ALL:+VERS-TLS" .. version, "127.0.0.1",
        stdin = "GET / HTTP/1.0\r\n\r\n" } }, answer)[1]
      assert.truthy(result.out:find("This is a resumed session", 1, true), result.out .. result.err)
    end
  end)
end)

-- The command-line tool with real servers: what it prints, how it ends, and what it never lets through.
local json = require "dkjson"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local ports = require "spec.support.ports"
local process = require "spec.support.process"
local run = require "spec.support.run"
local steps = require "tlsconnect.steps"
local tmp = require "spec.support.tmp"
local tool = require "spec.support.tool"

local authority = pki.shared()
local site = authority:issue { name = "localhost", ip = "127.0.0.1" }
local other = authority:issue { name = "a.test" }
local utf8 = { LC_ALL = "C.UTF-8" }
local plain = { LC_ALL = "C" }

local function url(server, path)
  return ("https://localhost:%d%s"):format(server.port, path or "/")
end

local function at(server)
  return ("localhost:%d"):format(server.port)
end

local function with(words, more)
  local list = { words[1], "--ca", authority.ca_file }
  for i = 2, #words do list[#list + 1] = words[i] end
  for _, word in ipairs(more or {}) do list[#list + 1] = word end
  return list
end

describe("the tool", function()
  it("says what it can do on one screen", function()
    local result = tool { "--help" }
    assert.equal(0, result.code)
    local _, lines = result.out:gsub("\n", "")
    assert.is_true(lines <= 24)
    for line in result.out:gmatch("[^\n]+") do assert.is_true(#line <= 100) end
    for _, command in ipairs { "trace", "get", "cert", "serve" } do
      assert.truthy(result.out:find("tlsconnect " .. command, 1, true))
      assert.equal(0, tool({ command, "--help" }).code)
    end
    for _, step in ipairs(steps) do assert.truthy(result.out:find(step, 1, true), step) end
    assert.matches("^tlsconnect %d+%.%d+.*GnuTLS 3%.%d+", tool({ "--version" }).out)
  end)

  it("ends with 2 when it is used wrongly, and says how", function()
    for _, words in ipairs {
      {}, { "tracee", "a.test" }, { "trace" }, { "trace", "a", "b" }, { "trace", "--verboze", "a.test" },
      { "trace", "a.test:99999" }, { "get" }, { "get", "-H", "nonsense", "https://a.test/" },
      { "get", "gopher://a.test/" }, { "cert" }, { "serve" }, { "serve", "/nonexistent" },
      { "trace", "--priority", "NONSENSE", "localhost" }, { "trace", "--starttls", "gopher", "localhost" },
    } do
      local result = tool(words)
      local line = table.concat(words, " ")
      assert.is_true(result.code == 2 or result.code == 23 or result.code == 21, line .. " " .. result.code)
      if words[1] then assert.matches("^tlsconnect: [^\n]+\n", result.err, line) end
      assert.is_nil(result.err:find("traceback", 1, true), line)
    end
  end)
end)

describe("get", function()
  it("prints a page, verified, and nothing else", function()
    local server = peers.nginx { cert = site, locations = { ["/"] = "return 200 'hello\\n';" } }
    local result = tool(with { "get", url(server) })
    assert.same({ code = 0, out = "hello\n", err = "" }, result)
    assert.equal("hello\n", tool(with { "get", at(server) }).out)
  end)

  it("shows the head with -i, the steps and both heads with -v, follows with -L, fails with -f", function()
    local server = peers.nginx { cert = site, locations = {
      ["/"] = "add_header X-One two; return 200 'hello\\n';", ["/from"] = "return 302 /;",
      ["/gone"] = "return 410 'gone\\n';",
    } }
    local result = tool(with { "get", "-i", url(server) })
    assert.matches("^HTTP/1.1 200 OK\n", result.out)
    assert.matches("\nX%-One: two\n\nhello\n$", result.out)
    result = tool(with { "get", "-v", url(server) })
    assert.equal("hello\n", result.out)
    for _, step in ipairs(steps) do assert.truthy(result.err:find(step, 1, true), step) end
    assert.matches("\n< HTTP/1.1 200 OK\n", result.err)
    assert.truthy(tool(with { "get", url(server, "/from") }).out:find("302", 1, true))
    assert.equal("hello\n", tool(with { "get", "-L", url(server, "/from") }).out)
    assert.equal(0, tool(with { "get", url(server, "/gone") }).code)
    result = tool(with { "get", "-f", url(server, "/gone") })
    assert.equal(21, result.code)
    assert.matches("answered 410", result.err)
  end)

  it("sends methods, headers and bodies", function()
    local server = peers.raw [[
      local head = peer:head()
      local length = tonumber(head:lower():match("content%-length: (%d+)")) or 0
      local body = length > 0 and peer:read(length) or ""
      local text = head .. body
      peer:send("HTTP/1.1 200 OK\r\nContent-Length: " .. #text .. "\r\nConnection: close\r\n\r\n" .. text)
    ]]
    local address = ("http://127.0.0.1:%d/x"):format(server.port)
    local function sent(...) return tool({ "get", address, ... }).out end
    assert.matches("^GET /x HTTP/1.1\r\n", sent())
    assert.matches("^OPTIONS /x ", sent("-X", "OPTIONS"))
    assert.matches("\r\n[Xx]%-[Aa]: b\r\n", sent("-H", "X-A: b"))
    local posted = sent("-d", "a=b")
    assert.matches("^POST /x ", posted)
    assert.matches("x%-www%-form%-urlencoded", posted)
    assert.matches("\r\n\r\na=b$", posted)
    assert.matches("\r\n\r\nfrom a file$", sent("-d", "@" .. tmp.file("from a file")))
    local piped = tool({ "get", address, "-d", "@-" }, { stdin = "from a pipe" })
    assert.matches("\r\n\r\nfrom a pipe$", piped.out)
  end)

  it("writes to a file, with a bar that tells rate and time where there is a terminal", function()
    local folder = tmp.directory()
    local data = ("0123456789abcdef"):rep(65536 * 2)
    tmp.write(folder .. "/big", data)
    local server = peers.nginx { cert = site, root = folder }
    local file = tmp.path("out")
    local result = tool(with { "get", "-o", file, url(server, "/big") })
    assert.same({ code = 0, out = "", err = "" }, result)
    assert.equal(#data, #tmp.read(file))
    assert.is_true(data == tmp.read(file))
    result = tool(with { "get", "-o", file, url(server, "/big") }, { terminal = true, environment = plain })
    assert.equal(0, result.code)
    assert.matches("2%.1 MB in %S+ m?s %(%S+ %S+/s%)", result.out)
    assert.is_nil(io.open(file .. ".part"))
  end)

  it("tells while it downloads how much, how fast and how long still", function()
    local server = peers.raw [[
      peer:head()
      peer:send("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" .. ("x"):rep(100000))
      peer.sleep(0.5)
      peer:send(("x"):rep(50000))
      peer.sleep(0.5)
      peer:send(("x"):rep(50000))
    ]]
    local result = tool({ "get", "-o", tmp.path("out"), ("http://127.0.0.1:%d/"):format(server.port) },
      { terminal = true, environment = plain })
    assert.equal(0, result.code)
    assert.matches("\r[^\r]*  #+%.+  +%d+%%  %d+ KB of 200 KB  [%d.]+ [KM]B/s  [%d.]+ m?s left", result.out)
    assert.matches("200 KB in %d+%.?%d* s", result.out)
  end)

  it("tells how much of a file has been sent", function()
    local server = peers.raw [[
      local head = peer:head()
      local left = tonumber(head:match("[Cc]ontent%-[Ll]ength: (%d+)"))
      while left > 0 do
        left = left - #peer:read("some", math.min(left, 200000))
        peer.sleep(0.01)
      end
      peer:send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    ]]
    local file = tmp.file(("x"):rep(9000000), "upload")
    local address = ("http://127.0.0.1:%d/"):format(server.port)
    local result = tool({ "get", "-d", "@" .. file, address }, { terminal = true, environment = plain })
    assert.equal(0, result.code)
    assert.matches("upload  #+%.+  +%d+%%  [%d.]+ MB of 9%.0 MB  [%d.]+ [KMG]B/s  [%d.]+ m?s left", result.out)
    assert.matches("9%.0 MB in %S+ m?s %(%S+ %S+/s%)", result.out)
    assert.same({ code = 0, out = "ok", err = "" }, tool { "get", "-d", "@" .. file, address })
  end)

  it("H22 follows no link that lies where it writes, and leaves a device a device", function()
    local server = peers.nginx { cert = site }
    local folder = tmp.directory()
    local file, victim = folder .. "/out", tmp.file("precious", "victim")
    run.check { "ln", "-s", victim, file .. ".part" }
    run.check { "ln", "-s", victim, file }
    assert.same({ code = 0, out = "", err = "" }, tool(with { "get", "-o", file, url(server) }))
    assert.same({ "hello from nginx\n", "precious" }, { tmp.read(file), tmp.read(victim) })
    assert.equal("", run.check { "find", folder, "-name", "out.*.part" })
    assert.equal(0, tool(with { "get", "-o", "/dev/null", url(server) }).code)
    assert.equal("", tmp.read("/dev/null"))
  end)

  it("ends at Ctrl-C, in the middle of a wait, with 130", function()
    local pid = tmp.path("pid")
    -- Whoever has sent its first byte listens to signals, and soon waits for the answer.
    local server = peers.raw(([[
      peer:read(1)
      peer.sleep(0.2)
      os.execute("kill -INT $(cat %s)")
      peer:stall()
    ]]):format(pid))
    for _, words in ipairs { { "trace", at(server) }, { "get", url(server) } } do
      local result = run(("echo $$ >%s; exec %s"):format(pid, process.command(tool.words(words))))
      assert.equal(130, result.code)
      assert.equal("tlsconnect: interrupted\n", result.err)
    end
  end)

  it("X1 shows escapes, not what they do, on a terminal; a pipe gets the bytes", function()
    local server = peers.nginx { cert = site, locations = { ["/"] =
      "add_header X-Evil 'a\27[31mb\226\128\174c\194\155d'; return 200 'red\27[31m\7\\nnext';" } }
    local result = tool(with { "get", "-i", url(server) }, { terminal = true, environment = utf8 })
    assert.truthy(result.out:find("red\\x1B[31m\\x07", 1, true))
    assert.truthy(result.out:find("a\\x1B[31mb\\u{202E}c\\u{9B}d", 1, true))
    assert.is_nil(result.out:find("\27", 1, true))
    assert.is_nil(result.out:find("\226\128\174", 1, true))
    assert.equal("red\27[31m\7\nnext", tool(with { "get", url(server) }).out)
  end)

  it("X3 ends with 3 when its output cannot be written", function()
    local server = peers.nginx { cert = site }
    for _, shell in ipairs { ">&-", ">/dev/full" } do
      local result = tool(with { "get", url(server) }, { shell = shell })
      assert.equal(3, result.code, shell)
      assert.matches("^tlsconnect: the output could not be written: [^\n]+\n$", result.err)
      assert.equal(3, tool({ "--help" }, { shell = shell }).code)
      assert.equal(3, tool(with { "trace", at(server) }, { shell = shell }).code)
    end
    -- With all three closed it must not take a socket for its output.
    assert.equal(3, tool(with { "get", url(server) }, { shell = "<&- >&- 2>&-" }).code)
    local result = tool(with { "get", "-o", "/dev/full", url(server) })
    assert.equal(3, result.code)
    assert.matches("/dev/full could not be written: No space left", result.err)
  end)

  it("X4 masks passwords, cookies and credentials in what it tells", function()
    local server = peers.nginx { cert = site, locations = {
      ["/"] = "add_header Set-Cookie 'session=s3cr3t; Path=/'; return 200 'hello\\n';" } }
    local result = tool(with { "get", "-v", "-H", "Authorization: Bearer s3cr3t", "-H", "Cookie: a=s3cr3t",
      "-H", "X-Api-Key: s3cr3t", ("https://ada:s3cr3t@localhost:%d/"):format(server.port) })
    assert.equal(0, result.code)
    assert.is_nil((result.out .. result.err):find("s3cr3t", 1, true))
    assert.truthy(result.err:find("Authorization: Bearer [masked]", 1, true))
    assert.truthy(result.err:find("https://ada:[masked]@localhost", 1, true))
    assert.truthy(result.err:find("Set-Cookie: session [masked]", 1, true))
    server:stop()
    result = tool { "get", ("https://ada:s3cr3t@localhost:%d/"):format(server.port) }
    assert.equal(12, result.code)
    assert.is_nil(result.err:find("s3cr3t", 1, true))
  end)
end)

describe("trace", function()
  it("tells the ten steps as text, JSON and a page", function()
    local server = peers.nginx { cert = site }
    local result = tool(with { "trace", url(server) }, { environment = plain })
    assert.equal(0, result.code)
    assert.matches("^localhost:%d+   TLS 1.3, verified, [%d.]+ m?s, 1 round trip after TCP\n", result.out)
    for i, step in ipairs(steps) do
      assert.truthy(result.out:find(("\n%2d %s "):format(i, step), 1, true), step)
    end
    assert.is_nil(result.out:find("[^\n\32-\126]"))
    result = tool(with { "trace", "--json", url(server) })
    local seen = assert(json.decode(result.out))
    assert.equal("tlsconnect-trace", seen.format)
    assert.equal(1, seen.version)
    assert.is_true(seen.ok)
    assert.equal(10, #seen.steps)
    for i, step in ipairs(steps) do
      assert.equal(step, seen.steps[i].step)
      assert.is_true(seen.steps[i].ok)
      assert.is_true(seen.steps[i].elapsed >= 0)
    end
    assert.equal("HTTP/1.1 200 OK", seen.steps[9].answer)
    -- The form is promised: what is here stays.
    local names = {}
    for name in pairs(seen) do names[#names + 1] = name end
    table.sort(names)
    assert.same({ "date", "elapsed", "format", "handshake", "host", "insecure", "ok", "port", "steps", "tool",
                  "verified", "version" }, names)
    for step, fields in pairs {
      dns = "name ascii literal loopback addresses families", tcp = "attempts address port local_address local_port",
      client_hello = "legacy_version versions random session_id suites groups key_shares signature_schemes " ..
        "server_name compression extensions early_data psk_modes messages",
      server_hello = "legacy_version version random suite group extensions encrypted_extensions certificates messages",
      verify = "issuer dates revocation name path anchor not_after",
      key_exchange = "kind group server_signature resumed messages",
      session_keys = "cipher suite key_bits mac prf forward_secrecy extended_master_secret",
      finished = "client server round_trips early_data messages",
      data = "bytes_in bytes_out records_in records_out tickets key_updates first_byte first_sent first_received " ..
        "session_tickets",
      close = "sent received first",
    } do
      local row = seen.steps[steps.index[step]]
      for field in fields:gmatch("%S+") do assert.is_not_nil(row[field], step .. "." .. field) end
    end
    local page = tmp.path("report.html")
    result = tool(with { "trace", "--html", page, url(server) })
    assert.same({ code = 0, out = "", err = "" }, result)
    assert.matches("^<!doctype html>.*</html>\n$", tmp.read(page))
  end)

  it("needs no look-up for an address", function()
    local server = peers.nginx { cert = site }
    local result = tool(with { "trace", "127.0.0.1:" .. server.port })
    assert.equal(0, result.code)
    assert.matches("1 dns [^\n]*an address already: nothing to look up", result.out)
    assert.is_nil(result.out:find("for localhost", 1, true))
  end)

  it("is coloured on a terminal alone, and not where NO_COLOR is set", function()
    local server = peers.nginx { cert = site }
    assert.is_nil(tool(with { "trace", at(server) }).out:find("\27", 1, true))
    local result = tool(with { "trace", at(server) },
      { terminal = true, environment = { TERM = "xterm", LC_ALL = "C.UTF-8" } })
    assert.truthy(result.out:find("\27[32m", 1, true))
    assert.truthy(result.out:find("\226\150\136", 1, true))
    result = tool(with { "trace", at(server) },
      { terminal = true, environment = { TERM = "xterm", NO_COLOR = "1", LC_ALL = "C" } })
    assert.is_nil(result.out:find("\27", 1, true))
  end)

  it("shows the flow past a failed verification with --insecure, loudly", function()
    local server = peers.nginx { cert = other }
    local result = tool(with { "trace", at(server) })
    assert.equal(15, result.code)
    assert.matches("FAILED in verify", result.out)
    assert.matches("^tlsconnect: [^\n]+\n[^\n]+\n$", result.err)
    result = tool(with { "trace", "--insecure", at(server) })
    assert.equal(0, result.code)
    assert.matches("NOT VERIFIED", result.out)
    assert.matches("WARNING: not verified", result.out)
    assert.matches("WARNING: not verified", result.err)
    assert.matches("name NO", result.out)
    assert.matches("10 close", result.out)
    local seen = json.decode(tool(with { "trace", "--json", "--insecure", at(server) }).out)
    assert.is_false(seen.ok)
    assert.is_true(seen.insecure)
    assert.equal("no", seen.steps[5].name.answer)
    assert.equal("yes", seen.steps[5].issuer.answer)
  end)

  it("verifies as if it were another date with --at", function()
    local server = peers.nginx { cert = site }
    local result = tool(with { "trace", "--at", "2035-01-01", at(server) })
    assert.equal(15, result.code)
    assert.matches("expired", result.out)
    local expired = peers.nginx { cert = authority:issue { name = "localhost", not_before = -40 * 86400,
                                                           not_after = -3 * 86400 } }
    result = tool(with { "trace", at(expired) })
    assert.equal(15, result.code)
    assert.matches("5 verify%s+FAILED%s+localhost's certificate expired 3 days ago", result.out)
    assert.matches("issuer ok, dates NO, revocation unknown", result.out)
    expired = peers.nginx { cert = authority:issue { name = "localhost", not_after = -600 } }
    assert.equal(15, tool(with { "trace", at(expired) }).code)
    local before = os.date("!%Y-%m-%d %H:%M", os.time() - 1800)
    assert.equal(0, tool(with { "trace", "--at", before, at(expired) }).code)
  end)

  it("takes versions, protocols, client certificates and a family", function()
    local server = peers.openssl_server { cert = site, alpn = "h2,http/1.1" }
    local seen = json.decode(tool(with { "trace", "--json", "--tls", "1.2", "--alpn", "http/1.1", "-4",
      at(server) }).out)
    assert.equal("TLS1.2", seen.steps[4].version)
    assert.equal("http/1.1", seen.steps[4].alpn)
    assert.equal(1, #seen.steps[1].families)
    local client = authority:issue { cn = "a client", purpose = "client" }
    server = peers.nginx { cert = site, client_ca = authority.ca_file, locations = {
      ["/"] = "return 200 $ssl_client_s_dn;" } }
    assert.equal("CN=a client", tool(with { "get", "--cert", client.cert, "--key", client.key, url(server) }).out)
  end)

  it("X1 and X2: a certificate's and a server's hostile text is harmless in each form", function()
    local tlsconnect = require "tlsconnect"
    local nasty = "x\27]0;owned\7\226\128\174<script>alert(1)</script>\255"
    local key = tlsconnect.key.generate("p256")
    local chain = tmp.file(tlsconnect.certificate.issue {
      subject = { CN = "x\27]0;owned\7\226\128\174<script>alert(1)</script>" }, key = key,
      names = { "localhost", { uri = "https://a.test/\27[31m" }, { email = "ada\7@a.test" } },
    }:pem())
    local hostile = { cert = chain, chain = chain, key = tmp.file(key:pem()) }
    local server = peers.nginx { cert = hostile, locations = { ["/"] = "add_header X-Evil '" ..
      nasty:gsub("[<>]", "") .. "'; return 200 'x';" } }
    local page = tmp.path("nasty.html")
    for _, words in ipairs {
      { "trace", at(server) }, { "trace", "-v", at(server) }, { "trace", "-v", "--insecure", at(server) },
      { "trace", "--json", "--insecure", at(server) }, { "cert", at(server) }, { "cert", chain },
      { "cert", "--json", chain }, { "get", "-v", url(server) }, { "get", "-v", "--insecure", url(server) },
      { "trace", "--insecure", "--html", page, at(server) },
    } do
      local result = tool(words, { environment = utf8 })
      local shown = result.out .. result.err
      local line = table.concat(words, " ")
      assert.is_nil(shown:find("[%z\1-\9\11-\31\127]"), line)
      assert.is_nil(shown:find("\226\128\174", 1, true), line)
      if words[2] == "--json" then assert.is_table(json.decode(result.out), line) end
    end
    local written = tmp.read(page)
    assert.is_nil(written:find("<script", 1, true))
    assert.truthy(written:find("&lt;script", 1, true))
    assert.is_nil(written:find("[%z\1-\9\11-\31\127]"))
  end)

  it("goes through a proxy, shows the hop, and X4 never its password", function()
    local server = peers.nginx { cert = site }
    local proxy = peers.tinyproxy { user = "ada", password = "s3cr3t" }
    local through = ("http://ada:s3cr3t@127.0.0.1:%d"):format(proxy.port)
    for _, words in ipairs { { "trace", "-v", "--proxy", through, url(server) },
                             { "trace", "--json", "--proxy", through, url(server) } } do
      local result = tool(with(words))
      assert.equal(0, result.code, result.err)
      assert.truthy(result.out:find("localhost:" .. server.port, 1, true))
      assert.truthy(result.out:find(tostring(proxy.port), 1, true))
      assert.is_nil((result.out .. result.err):find("s3cr3t", 1, true))
    end
    local wrong = tool(with { "trace", "--proxy", ("http://ada:wr0ng@127.0.0.1:%d"):format(proxy.port), url(server) })
    assert.equal(22, wrong.code)
    assert.matches("2 tcp%s+FAILED", wrong.out)
    assert.is_nil((wrong.out .. wrong.err):find("wr0ng", 1, true))
  end)

  it("does not wait for ever for a server that answers no request", function()
    local server = peers.openssl_server { cert = site }
    -- It knows GET alone.
    local result = tool(with { "trace", "--timeout", "1", url(server) })
    assert.equal(0, result.code)
    assert.matches("no answer to HEAD /", result.out)
    assert.matches("close_notify", result.out)
  end)

  it("writes a key log only where it is asked to", function()
    local server = peers.nginx { cert = site }
    local file, environment = tmp.path("keys"), tmp.path("environment")
    assert.equal(0, tool(with { "trace", at(server) }, { environment = { SSLKEYLOGFILE = environment } }).code)
    assert.is_nil(io.open(environment))
    assert.equal(0, tool(with { "trace", "--keylog", file, at(server) }).code)
    assert.matches("CLIENT_TRAFFIC_SECRET_0 %x+ %x+\n", tmp.read(file))
    assert.equal("600\n", run.check { "stat", "-c", "%a", file })
    local before = #tmp.read(file)
    assert.equal(0, tool(with { "trace", "--keylog", file, at(server) }).code)
    assert.is_true(#tmp.read(file) > before)
    assert.equal(23, tool(with { "trace", "--keylog", "/dev/full", at(server) }).code)
    local result = tool(with { "trace", "--keylog", "/nonexistent/x", at(server) })
    assert.equal(23, result.code)
    assert.matches("the key log /nonexistent/x cannot be written", result.err)
  end)
end)

describe("an error of each step", function()
  local function check(code, step, words, pattern)
    local result = tool(words, { environment = plain })
    local line = table.concat(words, " ") .. "\n" .. result.out .. result.err
    assert.equal(code, result.code, line)
    assert.matches("^tlsconnect: [^\n]+\n", result.err, line)
    if step then assert.truthy(result.out:find("FAILED in " .. step, 1, true), line) end
    if pattern then assert.truthy(result.err:find(pattern), line) end
  end

  it("dns: an unknown host, a host that is none", function()
    check(11, "dns", { "trace", "nothing.invalid" }, "no such host")
    check(11, "dns", { "trace", "a b" })
    check(11, nil, { "get", "https://nothing.invalid/" }, "no such host")
  end)

  it("tcp: refused, by every attempt", function()
    local port = ports.free()
    check(12, "tcp", { "trace", "localhost:" .. port }, "refused")
    check(12, nil, { "get", "https://127.0.0.1:" .. port .. "/" }, "refused")
    check(12, nil, { "cert", "127.0.0.1:" .. port }, "refused")
  end)

  it("server_hello: no TLS, silence, a version and a suite that are refused", function()
    check(14, "server_hello", { "trace", at(peers.raw [[peer:send("SSH-2.0-OpenSSH\r\n") peer:drain()]]) },
      "does not speak TLS, it looks like an SSH server")
    check(14, "server_hello", { "trace", "--timeout", "0.5", at(peers.raw "peer:stall()") })
    check(14, "server_hello", { "trace", at(peers.raw "peer:read() peer:reset()") }, "reset")
    check(14, "server_hello", { "trace", at(peers.raw "peer:read()") }, "closed")
    local old = peers.openssl_server { cert = site, version = "tls1_2" }
    check(14, "server_hello", with { "trace", "--tls", "1.3", at(old) }, "version")
  end)

  it("verify: each reason in its own words", function()
    local cases = {
      { authority:issue { name = "localhost", not_before = -9e5, not_after = -86400 * 2 }, "expired 2 days ago" },
      { authority:issue { name = "localhost", not_before = 86400 * 2 }, "not yet valid\n?" },
      { other, "is for a.test" }, { authority:issue { name = "localhost", self_signed = true }, "signed" },
      { authority:issue { name = "localhost", purpose = "client" }, "purpose" },
    }
    for _, case in ipairs(cases) do
      local server = peers.nginx { cert = case[1] }
      check(15, "verify", with { "trace", at(server) }, case[2] ~= "not yet valid\n?" and case[2] or nil)
      check(15, nil, with { "cert", at(server) })
      check(15, nil, with { "get", url(server) })
      server:stop()
    end
    check(15, "verify", { "trace", at(peers.nginx { cert = site }) }, "not trusted")
  end)

  it("finished or data: a client certificate that is missing", function()
    local server = peers.openssl_server { cert = site, client_ca = authority.ca_file, version = "tls1_2",
      arguments = { "-Verify", "1", "-verify_return_error" } }
    local result = tool(with { "trace", at(server) })
    assert.is_true(result.code == 18 or result.code == 19, result.code .. result.err)
    server = peers.openssl_server { cert = site, client_ca = authority.ca_file, version = "tls1_3",
      arguments = { "-Verify", "1", "-verify_return_error" } }
    result = tool(with { "trace", at(server) })
    assert.is_true(result.code == 18 or result.code == 19, result.code .. result.err)
    assert.matches("client certificate", result.err)
  end)

  it("setup: files and keys of one's own", function()
    check(23, nil, { "trace", "--ca", "/nonexistent.pem", "localhost:1" }, "nonexistent")
    check(23, nil, { "trace", "--cert", site.cert, "--key", other.key, "localhost:1" }, "does not belong")
    check(23, nil, { "trace", "--cert", tmp.file("nonsense"), "--key", site.key, "localhost:1" })
    check(23, nil, { "cert", tmp.file("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n") })
  end)
end)

describe("cert", function()
  local folder = tmp.directory()
  it("shows a server's chain and a file's, with the days left, as text, PEM and JSON", function()
    local server = peers.nginx { cert = site }
    local result = tool(with { "cert", at(server) })
    assert.equal(0, result.code)
    assert.matches("^localhost:%d+   1 certificate, verified\n", result.out)
    assert.truthy(result.out:find("for        localhost, 127.0.0.1", 1, true))
    assert.matches("%(29 days left%)", result.out)
    local pem = tool(with { "cert", "--pem", at(server) }).out
    assert.equal(run.check { "openssl", "x509", "-in", site.cert, "-noout", "-fingerprint", "-sha256" },
      run.check({ "openssl", "x509", "-noout", "-fingerprint", "-sha256" }, { stdin = pem }))
    local path = tmp.write(folder .. "/chain.pem", tmp.read(site.cert) .. tmp.read(authority.ca_file))
    result = tool { "cert", path }
    assert.equal(0, result.code)
    assert.matches("2 certificates\n", result.out)
    local seen = json.decode(tool({ "cert", "--json", path }).out)
    assert.equal(2, #seen.certificates)
    assert.equal("localhost", seen.certificates[1].names[1])
  end)

  it("shows a chain that is not trusted, and says why", function()
    local server = peers.nginx { cert = site }
    local result = tool { "cert", at(server) }
    assert.equal(15, result.code)
    assert.matches("NOT VERIFIED", result.out)
    assert.matches("CN=localhost", result.out)
    assert.matches("not trusted", result.err)
  end)
end)

describe("serve", function()
  it("serves a folder over verified TLS, and nothing beside it", function()
    local folder = tmp.directory()
    run.check { "mkdir", folder .. "/inside", folder .. "/inside/sub" }
    tmp.write(folder .. "/secret", "secret")
    tmp.write(folder .. "/inside/index.html", "<p>hello</p>")
    tmp.write(folder .. "/inside/.hidden", "hidden")
    tmp.write(folder .. "/inside/big", ("x"):rep(1000000))
    tmp.write(folder .. "/inside/sub/index.html", "sub")
    local ca, log = folder .. "/ca.pem", tmp.file("")
    local pid = process.start(tool.words { "serve", "--port", "0", "--ca-out", ca, folder .. "/inside" },
      { log = log })
    local port = process.eventually(function() return tmp.read(log):match("localhost:(%d+)/ ") end)
    local base = "https://localhost:" .. port
    local function curl(path, ...)
      local words = { "curl", "-sS", "--cacert", ca, "--path-as-is", "-w", "%{http_code}", base .. path }
      for _, word in ipairs { ... } do words[#words + 1] = word end
      return run(words).out
    end
    assert.equal("<p>hello</p>200", curl "/")
    assert.equal("sub200", curl("/sub", "-L"))
    assert.equal(1000003, #curl "/big")
    assert.matches("404$", curl "/nothing")
    for _, path in ipairs { "/../secret", "/%2e%2e/secret", "/sub/..%2f..%2fsecret", "/.hidden", "/x%00y", "/a\\b" } do
      local answer = curl(path)
      assert.matches("40[034]$", answer, path)
      assert.is_nil(answer:find("secret$"))
    end
    assert.matches("405$", curl("/", "-d", "x=y"))
    assert.equal("<p>hello</p>", tool({ "get", "--ca", ca, base .. "/" }).out)
    assert.equal(0, tool({ "trace", "--ca", ca, base .. "/" }).code)
    assert.equal(15, tool({ "get", base .. "/" }).code)
    process.stop(pid)
    assert.matches("GET /  200\n", tmp.read(log))
  end)

  it("serves several clients at once, one of which says nothing", function()
    local folder = tmp.directory()
    tmp.write(folder .. "/index.html", "hello")
    local ca, log = folder .. "/ca.pem", tmp.file("")
    local pid = process.start(tool.words { "serve", "--port", "0", "--ca-out", ca, folder }, { log = log })
    local port = process.eventually(function() return tmp.read(log):match("localhost:(%d+)/ ") end)
    local core = require "tlsconnect.core"
    local silent = {}
    for i = 1, 5 do
      silent[i] = core.socket("inet")
      silent[i]:connect("127.0.0.1", tonumber(port))
    end
    assert.equal("hello", tool({ "get", "--ca", ca, "https://localhost:" .. port .. "/" }).out)
    for i = 1, 5 do silent[i]:close() end
    process.stop(pid)
  end)
end)

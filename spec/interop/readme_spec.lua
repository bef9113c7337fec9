-- README.md: its examples are run as they stand, and its tables are those of the source.
-- Names such as example.org lead to servers on loopback: a file that the interpreter reads first (LUA_INIT)
-- sends each host and port elsewhere. The examples know nothing of it.
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local process = require "spec.support.process"
local readme = require "spec.support.readme"
local run = require "spec.support.run"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

local authority = pki.shared()
local text = readme.read()

local examples, names = {}, {}
for _, example in ipairs(readme.examples(text)) do
  examples[example.name] = example.code
  names[#names + 1] = example.name
end

local directory = tmp.directory()
do
  local client = authority:issue { name = "client.test", purpose = "client" }
  local site = authority:issue { name = "intranet.example" }
  run.check { "cp", authority.ca_file, directory .. "/company-ca.pem" }
  run.check { "cp", client.chain, directory .. "/client.pem" }
  run.check { "openssl", "pkcs8", "-topk8", "-in", client.key, "-out", directory .. "/client.key",
    "-passout", "pass:secret" }
  run.check { "cp", site.chain, directory .. "/site.pem" }
  run.check { "cp", site.key, directory .. "/site.key" }
end

local before = tmp.file([[
  local ports = {}
  for from, to in os.getenv("SPEC_PORTS"):gmatch("(%S+)=(%d+)") do ports[from] = tonumber(to) end
  local function at(host, port)
    return ports[host .. ":" .. port] or error("no server for " .. host .. ":" .. port)
  end
  local dial, listener = require "tlsconnect.dial", require "tlsconnect.listener"
  local tcp, listen = dial.tcp, listener.listen
  dial.tcp = function(host, port, terms) return tcp("127.0.0.1", at(host, port), terms) end
  listener.listen = function(host, port, options) return listen(host, at(host, port), options) end
  local found, socket = pcall(require, "socket")
  if found then
    local connect = socket.connect
    socket.connect = function(host, port) return connect("127.0.0.1", at(host, port)) end
  end
]], "before.lua")

local function environment(servers)
  local list = {}
  for name, port in pairs(servers or {}) do list[#list + 1] = name .. "=" .. port end
  return { LUA_INIT = "@" .. before, SPEC_PORTS = table.concat(list, " "), KEY_PASSWORD = "secret",
    SSL_CERT_FILE = authority.ca_file }
end

-- Runs an example, and what a spec adds to it, as a program; its output.
local function output(name, servers, more)
  local words = { process.lua(), tmp.file(examples[name], "example.lua") }
  if more then
    words[2] = tmp.file(("dofile(%q)\n%s"):format(words[2], more), "driver.lua")
  end
  local result = run.run(words, { environment = environment(servers), directory = directory })
  assert.equal("", result.err)
  assert.equal(0, result.code)
  return result.out
end

local function available(name)
  return (pcall(require, name))
end

local done = {}
local function example(name, test)
  done[name] = true
  it("shows " .. name, function()
    assert.is_string(examples[name], "no such example")
    test(name)
  end)
end

describe("README.md", function()
  local page = { ["/"] = "return 200 'hello\\n';" }

  example("a page, verified", function(name)
    local server = peers.nginx { cert = authority:issue { name = "example.org" }, locations = page }
    assert.equal("200\ttext/plain\t6\n", output(name, { ["example.org:443"] = server.port }))
    server:stop()
    server = peers.nginx { cert = authority:issue { name = "example.org", not_before = -10 * 86400,
      not_after = -3 * 86400 - 60 } }
    local out = output(name, { ["example.org:443"] = server.port })
    -- The comments in the example say what is printed.
    local said = out:gsub("%d%d%d%d%-%d%d%-%d%d %d%d:%d%d UTC", "2026-11-20 12:00 UTC")
    for line in examples[name]:gmatch("%-%-> ([^\n]+)") do
      local pattern = line:gsub("[%^%$%(%)%%%.%[%]%*%+%-%?]", "%%%0"):gsub("%s+", "%%s+")
      assert.truthy(said:find(pattern), line .. "\n" .. said)
    end
  end)

  example("a connection", function(name)
    local server = peers.nginx { cert = authority:issue { name = "example.org" }, locations = page, http2 = true }
    local out = output(name, { ["example.org:443"] = server.port })
    assert.truthy(out:find("^TLS1.3\tAES%-%d+%-GCM\t%d+\n"), out)
    assert.truthy(out:find("HTTP/1.1 200 OK", 1, true), out)
  end)

  example("where the time goes", function(name)
    local server = peers.nginx { cert = authority:issue { name = "example.org" }, locations = page }
    local out = output(name, { ["example.org:443"] = server.port })
    local seen = {}
    for step in out:gmatch("([%a_]+)\t[^\n]+\n") do seen[#seen + 1] = step end
    local steps = require "tlsconnect.steps"
    for i = 1, #steps do assert.equal(steps[i], seen[i]) end
    assert.truthy(out:find("verify\ttrue\t%d"), out)
  end)

  example("a company's own CA, and a certificate of one's own", function(name)
    local server = peers.nginx { cert = authority:issue { name = "intranet.example" }, client_ca = authority.ca_file,
      locations = { ["/orders"] = "return 200 '$ssl_client_s_dn';", ["/users"] = "return 202 'x';" } }
    assert.equal("200\n202\n", output(name, { ["intranet.example:443"] = server.port }))
  end)

  example("a server", function(name)
    local server = peers.start("the example", function(port)
      local words = { "env" }
      for key, value in pairs(environment { ["127.0.0.1:8443"] = port }) do words[#words + 1] = key .. "=" .. value end
      words[#words + 1] = process.lua()
      words[#words + 1] = tmp.file(examples[name], "example.lua")
      return words
    end, { directory = directory })
    local function ask(words)
      local client = assert(tlsconnect.connect("127.0.0.1", server.port,
        { server_name = "intranet.example", ca_file = authority.ca_file, timeout = 60 }))
      client:send(words .. "\n")
      local answer = client:receive()
      client:close()
      return answer
    end
    assert.equal("you said hello", ask("hello"))
    local plain = assert(require("tlsconnect.connection").open("127.0.0.1", server.port, { tls = false }))
    plain:send("GET / HTTP/1.0\r\n\r\n")
    plain:receive("*a")
    plain:close()
    assert.equal("you said hello again", ask("hello again"))
  end)

  example("STARTTLS, on a socket made elsewhere", function(name)
    if not available "socket" then return end
    local site = authority:issue { name = "mail.example.org" }
    local server = peers.raw(([[
      peer:send("220 mail.example.org ESMTP\r\n")
      if peer:line() ~= "STARTTLS" then return end
      peer:send("220 go ahead\r\n")
      local inside = assert(require("tlsconnect").wrap(peer.socket:detach(),
        { role = "server", certificate = %q, key = %q, wait = peer.wait }))
      inside:send((inside:receive() == "QUIT" and "221 bye" or "500 what?") .. "\r\n")
      inside:close()
    ]]):format(site.chain, site.key))
    assert.equal("221 bye\n", output(name, { ["mail.example.org:25"] = server.port }))
  end)

  example("is this chain good for this name?", function(name)
    local first, second = output(name):match("^([^\n]+)\n([^\n]+)\n$")
    assert.truthy(first:find("^true\t"), first)
    assert.truthy(second:find("^nil\tthe certificate is for intranet.example, not example.com"), second)
  end)

  example("who vouches for a site", function(name)
    local server = peers.nginx { cert = authority:issue { name = "example.org" }, locations = page }
    local out = output(name, { ["example.org:443"] = server.port })
    assert.truthy(out:find("^issuer\tyes\ttrusted\ttrusted by Specs' Root %d+\ndates\tyes\tvalid\tin date\n"), out)
    assert.truthy(out:find("\nrevocation\tunknown\tno_answer\t.-\nname\tyes\tmatches\tfor example.org\n$"), out)
  end)

  example("one's own CA beside the system's, and a partner's for its own names", function(name)
    local partner = pki.new()
    run.check { "cp", partner.ca_file, directory .. "/partner-ca.pem" }
    local ports = {}
    local function serve(host, by, as)
      ports[host .. ":443"] = peers.nginx { cert = by:issue { name = as or host }, locations = page }.port
    end
    serve("intranet.example", authority)
    serve("www.partner.example", partner)
    serve("example.com", partner)
    local one, two, three = output(name, ports):match("^(%d+)\n(%d+)\n([^\n]+)\n$")
    assert.equal("200", one)
    assert.equal("200", two)
    assert.truthy(three:find("example.com's certificate has a name that an issuer above it may not vouch for", 1, true))
  end)

  example("pins: the key in use, and a spare one that is kept elsewhere", function(name)
    local server = peers.nginx { cert = authority:issue { name = "intranet.example" }, locations = page }
    assert.equal("200\n", output(name, { ["intranet.example:443"] = server.port }))
    server = peers.nginx { cert = authority:issue { name = "intranet.example", fresh = true, key = "p384" },
      locations = page }
    assert.truthy(output(name, { ["intranet.example:443"] = server.port }):find("has none of the pinned keys", 1, true))
  end)

  example("a device that signed its own certificate: trust on first use", function(name)
    local elsewhere = pki.new()
    local one = peers.nginx { cert = elsewhere:issue { name = "printer.example" } }
    for _ = 1, 2 do assert.equal("the same as ever\tnil\n", output(name, { ["printer.example:443"] = one.port })) end
    local two = peers.nginx { cert = pki.new():issue { name = "printer.example" } }
    assert.truthy(output(name, { ["printer.example:443"] = two.port }):find("^known_host_changed\tprinter.example"))
  end)

  example("the program's own last word", function(name)
    local server = peers.nginx { cert = authority:issue { name = "example.org", not_after = 30 * 86400 },
      locations = page }
    assert.equal("200\n", output(name, { ["example.org:443"] = server.port }))
    server = peers.nginx { cert = authority:issue { name = "example.org", not_after = 200 * 86400 }, locations = page }
    assert.equal("example.org:443 was refused: the certificate of example.org lives too long\n",
      output(name, { ["example.org:443"] = server.port }))
  end)

  example("ask about revocation, and let nobody in of whom it is not known", function(name)
    local site = authority:issue { name = "example.org" }
    local server = peers.nginx { cert = site, staple = authority:staple(site) }
    assert.equal("staple\n", output(name, { ["example.org:443"] = server.port }))
    server = peers.nginx { cert = site }
    assert.equal("it is not known whether example.org's certificate is revoked: it names nobody to ask\n",
      output(name, { ["example.org:443"] = server.port }))
  end)

  example("the company's own revocation list", function(name)
    local site = authority:issue { name = "intranet.example", fresh = true }
    local server = peers.nginx { cert = site, locations = page }
    run.check { "cp", authority:crl(), directory .. "/company.crl" }
    assert.equal("200\n", output(name, { ["intranet.example:443"] = server.port }))
    authority:revoke(site, "keyCompromise")
    run.check { "cp", authority:crl(), directory .. "/company.crl" }
    assert.truthy(output(name, { ["intranet.example:443"] = server.port })
      :find("^intranet.example's certificate was revoked on .-: its key was compromised\n$"))
  end)

  example("was it good on that day, and to the letter?", function(name)
    local first, second = output(name):match("^([^\n]+)\n([^\n]+)\n$")
    assert.truthy(first:find("^true\t"), first)
    assert.truthy(second:find("^nil\tintranet.example's certificate is not valid before "), second)
  end)

  example("an old device whose certificate is over: all else must still hold", function(name)
    local server = peers.nginx { cert = authority:issue { name = "printer.example", not_before = -10 * 86400,
      not_after = -3 * 86400 - 60 } }
    local out = output(name, { ["printer.example:443"] = server.port })
    assert.truthy(out:find("^printer.example's certificate expired 3 days ago, on .-\ttrue\ntrusted\tmatches\n$"), out)
  end)

  example("a small CA", function(name)
    local out = output(name)
    assert.truthy(out:find("intranet.example", 1, true), out)
    assert.truthy(out:find("BEGIN CERTIFICATE", 1, true), out)
    assert.truthy(out:find("BEGIN ENCRYPTED PRIVATE KEY", 1, true), out)
  end)

  -- Forty fetches at once and, but for Copas 1, a deadline that comes.
  local function fetches(start, finish)
    return ([[
      local tlsconnect = require "tlsconnect"
      local count = 0
      local function fetch()
        for _ = 1, 2 do
          local c = assert(tlsconnect.connect("example.org", 443, { timeout = 60 }))
          c:send("GET / HTTP/1.0\r\n\r\n")
          assert(c:receive("*a"):find("hello"))
          c:close()
          count = count + 1
        end
      end
      local function wait_in_vain()
        local c = assert(tlsconnect.connect("example.org", 443, { timeout = 60 }))
        c:settimeout(0.1)
        local _, message = c:receive()
        c:close()
        print(message)
      end
      %s
      for _ = 1, 20 do spawn(fetch) end
      %s
      print(count)
    ]]):format(start, finish)
  end

  local function looped(name, module, start, finish, expected)
    if not available(module) then return end
    local server = peers.nginx { cert = authority:issue { name = "example.org" }, locations = page }
    assert.equal(expected, output(name, { ["example.org:443"] = server.port }, fetches(start, finish)))
  end

  example("cqueues", function(name)
    looped(name, "cqueues", [[
      local loop = require("cqueues").new()
      local function spawn(f) loop:wrap(f) end
    ]], "spawn(wait_in_vain) assert(loop:loop())", "timeout\n40\n")
  end)

  example("luv", function(name)
    looped(name, "luv", "local function spawn(f) coroutine.wrap(f)() end",
      [[spawn(wait_in_vain) require("luv").run()]], "timeout\n40\n")
  end)

  example("Copas", function(name)
    looped(name, "copas", [[
      local copas = require "copas"
      local function spawn(f) copas.addthread(f) end
    ]], "while count < 40 do copas.step(1) end assert(wait_in_vain)", "40\n")
  end)

  example("JSON, there and back", function(name)
    local server = peers.nginx { cert = authority:issue { name = "api.example.org" },
      locations = { ["= /v1/users"] = [[if ($http_authorization != "Bearer token") { return 401; }
        if ($request_method != POST) { return 405; } default_type application/json; return 201 '{"name":"Ada"}';]] } }
    assert.equal("201\tAda\n", output(name, { ["api.example.org:443"] = server.port }))
  end)

  example("an upload, and a form", function(name)
    local site = authority:issue { name = "example.org" }
    local server = peers.raw(([[
      local inside = assert(require("tlsconnect").wrap(peer.socket:detach(),
        { role = "server", certificate = %q, key = %q, wait = peer.wait }))
      while true do
        local head = inside:read("head")
        if not head then return end
        local body = inside:receive(tonumber(head:match("Content%%-Length: (%%d+)")))
        local text = body
        if head:find("^POST /photos") then
          text = (body:match('filename="([^"]*)"') or "?") .. (body:match("BEGIN CERTIFICATE") or "?")
            .. (body:match("Our CA") or "?")
        end
        inside:send("HTTP/1.1 200 OK\r\nContent-Length: " .. #text .. "\r\n\r\n" .. text)
      end
    ]]):format(site.chain, site.key))
    assert.equal("200\tcompany-ca.pemBEGIN CERTIFICATEOur CA\npage=2&q=lua%20%26%20tls\n",
      output(name, { ["example.org:443"] = server.port }))
  end)

  example("a download with progress, that can be cut off and continued", function(name)
    local root = tmp.directory()
    local image = ("0123456789"):rep(100000)
    tmp.write(root .. "/big.iso", image)
    local server = peers.nginx { cert = authority:issue { name = "example.org" }, root = root }
    local words = { process.lua(), tmp.file(examples[name], "example.lua") }
    local result = run.run(words, { environment = environment { ["example.org:443"] = server.port },
      directory = directory })
    assert.equal("big.iso\n", result.out)
    assert.truthy(result.err:find("\r1000000 of 1000000$"), result.err)
    assert.is_true(tmp.read(directory .. "/big.iso") == image)
  end)

  example("a body that is read as it comes", function(name)
    local root = tmp.directory()
    tmp.write(root .. "/log", ("fine\nan error\n"):rep(10000))
    local server = peers.nginx { cert = authority:issue { name = "example.org" }, root = root }
    assert.equal("10000\n", output(name, { ["example.org:443"] = server.port }))
  end)

  example("a login, with cookies", function(name)
    local server = peers.nginx { cert = authority:issue { name = "shop.example" }, locations = {
      ["= /login"] = "add_header Set-Cookie 'session=42; Secure; HttpOnly; Max-Age=1000'; return 200 'x';",
      ["= /orders"] = "return 200 'orders of $cookie_session\\n';",
    } }
    assert.equal("orders of 42\n\n", output(name, { ["shop.example:443"] = server.port }))
    local kept = tmp.read(directory .. "/cookies.txt")
    assert.truthy(kept:find("\n#HttpOnly_shop.example\tFALSE\t/\tTRUE\t%d+\tsession\t42"))
  end)

  example("by way of a proxy", function(name)
    local server = peers.nginx { cert = authority:issue { name = "example.org" }, locations = page }
    -- Wherever these two are asked to go, they go to that server.
    local relay = ([[
      local core = require "tlsconnect.core"
      local socket = assert(core.socket "inet")
      local ok, want = socket:connect("127.0.0.1", %d)
      if want == "want_write" then core.poll(socket:getfd(), "w") socket:finish_connect() end
      while true do
        local up, ended = peer.socket:read("some", 65536)
        if up then socket:write(up) elseif ended ~= "want_read" then return end
        local down, over = socket:read("some", 65536)
        if down then peer:send(down) elseif over ~= "want_read" then return end
        if not up and not down then peer.sleep(0.005) end
      end
    ]]):format(server.port)
    local parent = peers.raw([[ peer:head() peer:send("HTTP/1.1 200 OK\r\n\r\n") ]] .. relay)
    local socks = peers.raw([[ peer:read(3) peer:send("\5\0") peer:read(18)
      peer:send("\5\0\0\1\0\0\0\0\0\0") ]] .. relay)
    local squid = peers.squid { cert = authority:issue { name = "proxy.example" }, user = "ada", password = "secret",
      lines = ("acl CONNECT method CONNECT\nnever_direct allow all\ncache_peer 127.0.0.1 parent %d 0 no-query default")
        :format(parent.port) }
    assert.equal("200\n200\n", output(name, { ["proxy.example:3129"] = squid.port, ["127.0.0.1:1080"] = socks.port }))
  end)

  example("fifty pages at once, with the loop that comes along", function(name)
    local server = peers.nginx { cert = authority:issue { name = "example.org" },
      locations = { ["/"] = "return 200 'page $uri';" } }
    assert.equal("50\tpage /50\n", output(name, { ["example.org:443"] = server.port }))
  end)

  example("fifty pages at once, with cqueues' wait as above", function(name)
    if not available "cqueues" then return end
    local server = peers.nginx { cert = authority:issue { name = "example.org" },
      locations = { ["/"] = "return 200 'page $uri';" } }
    assert.equal("50\tpage /50\n", output("cqueues", { ["example.org:443"] = server.port }, examples[name]))
  end)

  it("has no example that was not run", function()
    for _, name in ipairs(names) do assert.is_true(done[name], name) end
  end)

  it("has examples of at most ten lines", function()
    for _, one in ipairs(readme.examples(text)) do
      assert.is_true(one.lines + 1 <= 10, one.name)
      assert.is_string(one.name, one.code)
    end
  end)

  it("has the tables of the source (make readme brings them up to date)", function()
    assert.equal(readme.render(text), text)
  end)
end)

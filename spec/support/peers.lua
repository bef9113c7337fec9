-- Real servers for the specs, each in one line:
--
--   local server = peers.nginx { cert = authority:issue { name = "a.test" } }
--   server.host, server.port, server.pid, server.log (path), server:stop()
--
-- They listen on loopback and are ready when the call returns. They are stopped when the spec or the
-- spec file that started them ends (helper.lua), or at the latest when the process does.
local ports = require "spec.support.ports"
local process = require "spec.support.process"
local run = require "spec.support.run"
local tmp = require "spec.support.tmp"

local M = {}

local unpack = table.unpack or unpack

local Peer = {}
Peer.__index = Peer

local started = {}

--- What the peer has written to its log, as text.
function Peer:output()
  return tmp.read(self.log)
end

--- Stops the peer; once more does nothing. Works as peer:stop() and as peer.stop(peer).
function Peer:stop()
  if self.stopped then return end
  self.stopped = true
  process.stop(self.pid, self.at_once)
end

--- The number of peers started so far, for stop_since().
function M.mark()
  return #started
end

--- Stops the peers that were started after a mark.
function M.stop_since(mark)
  for i = #started, mark + 1, -1 do
    started[i]:stop()
    started[i] = nil
  end
end

--- Starts a program that listens on a port, and waits until it does. command(port, directory) gives the
-- words of the command; it may write files into the folder. options: those of process.start.
-- Fails with the program's output when it ends first.
function M.start(name, command, options)
  options = options or {}
  local reasons = {}
  for _ = 1, 3 do
    local directory = tmp.directory()
    local port = options.port or ports.free()
    tmp.write(directory .. "/log", "")
    local words = command(port, directory)
    local peer = setmetatable({ name = name, host = "127.0.0.1", port = port, directory = directory,
      log = directory .. "/log" }, Peer)
    if options.fifo then
      peer.input = directory .. "/input"
      run.check { "mkfifo", peer.input }
    end
    peer.pid = process.start(words, { log = peer.log, stdin = peer.input, environment = options.environment,
      directory = options.directory })
    local up = process.eventually(function()
      if ports.listening(port) then return "up" end
      if not process.alive(peer.pid) then return "down" end
    end)
    if up == "up" and process.alive(peer.pid) then
      started[#started + 1] = peer
      return peer
    end
    process.stop(peer.pid)
    reasons[#reasons + 1] = process.command(words) .. "\n" .. peer:output()
  end
  error(name .. " did not start:\n" .. reasons[#reasons], 2)
end

local function key_pair(options)
  local cert = assert(options.cert, "cert = a certificate of spec.support.pki")
  return cert.chain, options.key or cert.key
end

local function localhost()
  local interfaces = io.open("/proc/net/if_inet6")
  local text = interfaces and interfaces:read("*a") or ""
  if interfaces then interfaces:close() end
  return { "127.0.0.1", text:find(("0"):rep(31) .. "1 ", 1, true) and "[::1]" or nil }
end

--- nginx. options: cert = certificate (none: plain HTTP); certs = further ones (RSA beside ECDSA);
-- versions = { "TLSv1.2", "TLSv1.3" }; ciphers = text; locations = { ["/x"] = "return 200 'y';" }
-- (default: / answers "hello from nginx\n"); root = folder to serve; client_ca = path (then a client
-- certificate is required, unless verify_client = "optional"); staple = path of a DER response;
-- http2 = true; server = raw lines of the server block, http = raw lines of the http block;
-- host = "127.0.0.1" (default) or "[::1]"; localhost = true: every address that this name may stand for, as a
-- proxy that looks it up may try but one; names = server_name's; modules = { "http_brotli_filter" };
-- workers = number: a master with so many workers, which takes signals (default: one process). Each has a queue
-- of its own: from a common one, a worker that is killed takes the news of a connection along, which stays there.
-- peer.access is the path of the access log; log = its format.
function M.nginx(options)
  options = options or {}
  local peer = M.start("nginx", function(port, directory)
    local lines = {}
    local function add(line) lines[#lines + 1] = line end
    for _, name in ipairs(options.modules or {}) do
      add("load_module /usr/lib/nginx/modules/ngx_" .. name .. "_module.so;")
    end
    add(("daemon off; master_process %s; worker_processes %d; pid %s/pid;"):format(options.workers and "on" or "off",
      options.workers or 1, directory))
    add("user root; error_log stderr info; events { worker_connections 512; }")
    add("http { log_format chosen '" .. (options.log or "$request $status") .. "';")
    add("access_log " .. directory .. "/access chosen; default_type text/plain; types { text/html html; }")
    for _, kind in ipairs { "client_body", "proxy", "fastcgi", "uwsgi", "scgi" } do
      add(kind .. "_temp_path " .. directory .. "/" .. kind .. ";")
    end
    add(options.http or "")
    add("server {")
    for _, host in ipairs(options.localhost and localhost() or { options.host or "127.0.0.1" }) do
      add("listen " .. host .. ":" .. port .. (options.workers and " reuseport" or "")
        .. (options.cert and " ssl" or "") .. (options.http2 and " http2" or "") .. ";")
    end
    if options.names then add("server_name " .. options.names .. ";") end
    if options.cert then
      for _, cert in ipairs { options.cert, unpack(options.certs or {}) } do
        add("ssl_certificate " .. cert.chain .. "; ssl_certificate_key " .. cert.key .. ";")
      end
      add("ssl_protocols " .. table.concat(options.versions or { "TLSv1.2", "TLSv1.3" }, " ") .. ";")
      if options.ciphers then add("ssl_ciphers " .. options.ciphers .. ";") end
      if options.staple then add("ssl_stapling on; ssl_stapling_file " .. options.staple .. ";") end
      if options.client_ca then
        add("ssl_client_certificate " .. options.client_ca .. "; ssl_verify_client " ..
          (options.verify_client or "on") .. ";")
      end
    end
    if options.root then add("root " .. options.root .. ";") end
    add(options.server or "")
    local locations = options.locations or not options.root and { ["/"] = "return 200 'hello from nginx\\n';" }
    for path, body in pairs(locations or {}) do add("location " .. path .. " { " .. body .. " }") end
    add("} }")
    local config = tmp.write(directory .. "/nginx.conf", table.concat(lines, "\n") .. "\n")
    return { "nginx", "-p", directory, "-c", config, "-e", "stderr" }
  end)
  peer.access = peer.directory .. "/access"
  if options.host then peer.host = options.host:gsub("[%[%]]", "") end
  return peer
end

--- openssl s_server. options: cert, key (path); mode = "-www" (default), "-WWW", "-HTTP", "-rev", or false: what
-- comes in goes to the log, and command() goes out; version = "tls1_2" | "tls1_3" ...; chain = false to
-- leave the intermediates out; staple = path of a DER response; client_ca = path; alpn = "h2,http/1.1";
-- host; arguments = further words. peer:command("k\n") writes to its standard input.
function M.openssl_server(options)
  local mode = options.mode
  if mode == nil then mode = "-www" end
  local peer = M.start("openssl s_server", function(port)
    local host = options.host or "127.0.0.1"
    local words = { "openssl", "s_server", "-accept", host .. ":" .. port }
    local function add(...)
      for i = 1, select("#", ...) do words[#words + 1] = (select(i, ...)) end
    end
    if options.cert then
      local chain, key = key_pair(options)
      add("-cert", options.cert.cert, "-key", key)
      if options.chain ~= false and chain ~= options.cert.cert then add("-cert_chain", chain) end
    end
    if options.version then add("-" .. options.version) end
    if options.staple then add("-status_file", options.staple) end
    if options.client_ca then add("-CAfile", options.client_ca, "-Verify", "5", "-verify_return_error") end
    if options.alpn then add("-alpn", options.alpn) end
    if mode then add(mode) end
    add(unpack(options.arguments or {}))
    return words
  end, { fifo = true, directory = options.directory })
  if options.host then peer.host = options.host:gsub("[%[%]]", "") end
  return peer
end

--- Writes to the peer's standard input (openssl s_server's commands: "k" key update, "Q" quit ...).
function Peer:command(text)
  local file = assert(io.open(self.input, "w"))
  file:write(text)
  file:close()
end

--- gnutls-serv. options: cert; mode = "--http" (default) or "--echo"; priority = text; staple = path;
-- client_ca = path (then a client certificate is required); arguments = further words.
function M.gnutls_server(options)
  return M.start("gnutls-serv", function(port)
    local words = { "gnutls-serv", "--port", port, options.mode or "--http", "--debug", options.debug or "0" }
    local function add(...)
      for i = 1, select("#", ...) do words[#words + 1] = (select(i, ...)) end
    end
    if options.cert then
      local chain, key = key_pair(options)
      add("--x509certfile", chain, "--x509keyfile", key)
    end
    if options.priority then add("--priority", options.priority) end
    if options.staple then add("--ocsp-response", options.staple, "--ignore-ocsp-response-errors") end
    if options.client_ca then
      add("--x509cafile", options.client_ca, "--require-client-cert", "--verify-client-cert")
    else
      add("--disable-client-cert")
    end
    add(unpack(options.arguments or {}))
    return words
  end)
end

--- An OCSP responder over HTTP (openssl ocsp). options: authority = whose database it answers from;
-- signer = certificate with purpose "ocsp" (default: the authority).
function M.ocsp(options)
  local authority = options.authority
  local signer = options.signer or authority
  return M.start("openssl ocsp", function(port)
    return { "openssl", "ocsp", "-port", port, "-index", authority.database, "-CA", authority.cert,
      "-rsigner", signer.cert, "-rkey", signer.key, "-ndays", "1", "-ignore_err" }
  end)
end

--- squid, an HTTP proxy. options: user and password (Basic; with digest = true as a digest); cert = also TLS to
-- the proxy itself, on its only port; lines = raw configuration. peer.access is its access log.
function M.squid(options)
  options = options or {}
  local peer = M.start("squid", function(port, directory)
    local lines = {}
    local function add(line) lines[#lines + 1] = line end
    if options.cert then
      local both = tmp.write(directory .. "/proxy.pem", tmp.read(options.cert.key) .. tmp.read(options.cert.chain))
      add("https_port 127.0.0.1:" .. port .. " tls-cert=" .. both)
    else
      add("http_port 127.0.0.1:" .. port)
    end
    if options.digest then
      local secret = tmp.write(directory .. "/secret", options.user .. ":specs:" .. options.password)
      local users = tmp.write(directory .. "/users", options.user .. ":specs:" ..
        run.check({ "openssl", "dgst", "-md5", "-r", secret }):match("^%x+") .. "\n")
      add("auth_param digest program /usr/lib/squid/digest_file_auth -c " .. users)
      add("auth_param digest realm specs")
    elseif options.user then
      local users = tmp.write(directory .. "/users", options.user .. ":" ..
        run.check({ "openssl", "passwd", "-apr1", options.password }))
      add("auth_param basic program /usr/lib/squid/basic_ncsa_auth " .. users)
      add("auth_param basic realm specs")
    end
    if options.user then
      add("acl known proxy_auth REQUIRED")
      add("http_access allow known")
    else
      add("http_access allow all")
    end
    add("http_access deny all")
    add("cache deny all\npinger_enable off\nshutdown_lifetime 0 seconds\nvia on\nvisible_hostname specs")
    add("cache_mem 8 MB\nnetdb_filename none\nmax_filedescriptors 1024")
    add("pid_filename " .. directory .. "/pid\ncache_log " .. directory .. "/log")
    add("access_log stdio:" .. directory .. "/access\ncoredump_dir " .. directory)
    add(options.lines or "")
    local config = tmp.write(directory .. "/squid.conf", table.concat(lines, "\n") .. "\n")
    -- Started as root, it changes to a user of its own, who writes here.
    run.check { "chmod", "777", directory }
    run.check { "chmod", "666", directory .. "/log" }
    return { "squid", "-N", "-n", "specs" .. port, "-f", config }
  end)
  peer.access = peer.directory .. "/access"
  -- Asked, it takes a second to end; killed, it leaves its shared memory.
  peer.at_once = true
  for _, segment in ipairs { "metadata", "queues", "readers" } do
    process.remove_at_end("/dev/shm/specs" .. peer.port .. "-cf__" .. segment .. ".shm")
  end
  return peer
end

--- tinyproxy, an HTTP proxy. options: user and password; lines = raw configuration.
function M.tinyproxy(options)
  options = options or {}
  return M.start("tinyproxy", function(port, directory)
    local lines = { "Port " .. port, "Listen 127.0.0.1", "Timeout 60", "MaxClients 50", "LogLevel Info",
      "LogFile \"" .. directory .. "/log\"", "PidFile \"" .. directory .. "/pid\"" }
    if options.user then lines[#lines + 1] = "BasicAuth " .. options.user .. " " .. options.password end
    lines[#lines + 1] = options.lines
    return { "tinyproxy", "-d", "-c", tmp.write(directory .. "/conf", table.concat(lines, "\n") .. "\n") }
  end)
end

--- microsocks, a SOCKS5 proxy. options: user and password.
function M.microsocks(options)
  options = options or {}
  return M.start("microsocks", function(port)
    local words = { "microsocks", "-i", "127.0.0.1", "-p", port }
    for _, word in ipairs(options.user and { "-u", options.user, "-P", options.password } or {}) do
      words[#words + 1] = word
    end
    return words
  end)
end

--- Dante, a SOCKS4 and SOCKS5 proxy. options: lines = raw configuration.
function M.dante(options)
  options = options or {}
  return M.start("danted", function(port, directory)
    local config = tmp.write(directory .. "/conf", table.concat({
      "logoutput: stderr", "internal: 127.0.0.1 port = " .. port, "external: lo",
      "clientmethod: none", "socksmethod: none", "user.privileged: root", "user.unprivileged: root",
      "client pass { from: 0/0 to: 0/0 }", "socks pass { from: 0/0 to: 0/0 }", options.lines or "",
    }, "\n") .. "\n")
    return { "danted", "-f", config, "-p", directory .. "/pid" }
  end)
end

local function words_of(...)
  local words = { process.lua() }
  for i = 1, select("#", ...) do words[#words + 1] = tostring((select(i, ...))) end
  return words
end

--- A server of any behaviour, in a process of its own: script is Lua text that runs for each
-- connection, with the locals `peer` (see raw_peer.lua) and `number` (of the connection, from 1).
--   peers.raw [[ peer:head() peer:send("HTTP/1.1 200 OK\r\n\r\nhalf") peer:reset() ]]
-- When the text returns, the connection comes to a clean end (peer:finish()). options: host.
function M.raw(script, options)
  local host = options and options.host or "127.0.0.1"
  local peer = M.start("raw", function(port, directory)
    return words_of("spec/support/raw_peer.lua", "raw", host, port, tmp.write(directory .. "/script.lua", script))
  end)
  peer.host = host
  return peer
end

--- A relay that stands between a client and a TLS server and may change, hold or drop each record.
-- options: to = the server (a peer, or { host =, port = }); record = Lua text that runs for each
-- record, with the locals from ("client" or "server"), number (of the record from that side, from 1),
-- record (its bytes with the header) and relay (see raw_peer.lua), and returns the bytes to pass on, or nil
-- for none. Instead of record: from ("server"), after (number of records to pass) and act = "finish", "reset"
-- or "stall", which happens in place of the next one.
function M.relay(options)
  local script = options.record or string.format(
    "if from == %q and number == %d then relay:%s() end return record", options.from or "server",
    options.after + 1, options.act)
  return M.start("relay", function(port, directory)
    return words_of("spec/support/raw_peer.lua", "relay", "127.0.0.1", port,
      tmp.write(directory .. "/script.lua", script), options.to.host or "127.0.0.1", options.to.port)
  end)
end

--- A Lua program in a process of its own, on the same interpreter: script is its text. It must listen
-- on the port that it gets as its first argument; further arguments follow. For peers made of the
-- module itself. options: lua = another interpreter.
function M.lua(script, options)
  options = options or {}
  return M.start("lua", function(port, directory)
    local words = words_of(tmp.write(directory .. "/peer.lua", script), port, unpack(options))
    words[1] = options.lua or words[1]
    return words
  end)
end

return M

-- The server of the bench: nginx with three certificates, each on a port of its own, and one port of TLS 1.2 alone,
-- pinned to a core.
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local ports = require "spec.support.ports"
local run = require "spec.support.run"
local tmp = require "spec.support.tmp"

local M = {}

local function certificates(authority)
  local function with(key, issuer)
    return authority:issue { name = { "bench.test", "localhost" }, ip = "127.0.0.1", key = key, ca = issuer }
  end
  local lower = authority:authority { cn = "Bench" }
  local p256 = with "p256"
  return { p256 = p256, rsa = with "rsa2048", chain = with("p256", lower), tls12 = p256 }
end

local function configuration(directory, server_ports, certificate_of)
  local lines = {}
  local function add(...) lines[#lines + 1] = string.format(...) end
  add("daemon off; master_process off; worker_processes 1; worker_rlimit_nofile 8192; pid %s/pid;", directory)
  add("user root; error_log stderr crit; events { worker_connections 4096; }")
  add("http { access_log off; default_type text/plain; keepalive_requests 1000000000; keepalive_timeout 600;")
  add("client_max_body_size 0; client_body_buffer_size 1m; output_buffers 2 512k; tcp_nodelay on;")
  for _, kind in ipairs { "client_body", "proxy", "fastcgi", "uwsgi", "scgi" } do
    add("%s_temp_path %s/%s;", kind, directory, kind)
  end
  for kind, port in pairs(server_ports) do
    local certificate = certificate_of[kind]
    add("server { listen 127.0.0.1:%d ssl backlog=4096; ssl_certificate %s; ssl_certificate_key %s;", port,
      certificate.chain, certificate.key)
    -- A body is read to its end before it is answered: it has to be, before something else can be asked.
    add("ssl_protocols TLSv1.2 %s; ssl_early_data on; root %s/root;", kind == "tls12" and "" or "TLSv1.3", directory)
    add("location /up { client_body_buffer_size 32m; proxy_set_body ''; proxy_pass http://unix:%s/taken; } }",
      directory)
  end
  add("server { listen unix:%s/taken; location / { return 200 ok; } }", directory)
  add("}")
  return table.concat(lines, "\n") .. "\n"
end

--- Starts it on a core. Returns { ports = { p256 =, rsa =, chain =, tls12 = }, ca_file = a bundle of the system's roots
-- and its own }.
function M.start(core, system_roots)
  local authority = pki.new()
  local certificate_of = certificates(authority)
  local server_ports = { p256 = nil, rsa = ports.free(), chain = ports.free(),
    tls12 = ports.free() }
  local peer = peers.start("nginx", function(port, directory)
    server_ports.p256 = port
    run.check { "mkdir", directory .. "/root" }
    tmp.write(directory .. "/root/1k", ("k"):rep(1024))
    tmp.write(directory .. "/root/big", ("0123456789abcdef"):rep(2 * 1024 * 1024))
    local path = tmp.write(directory .. "/nginx.conf", configuration(directory, server_ports, certificate_of))
    return { "taskset", "-c", core, "nginx", "-p", directory, "-c", path, "-e", "stderr" }
  end)
  local bundle = tmp.file(system_roots .. tmp.read(authority.ca_file), "bundle.pem")
  tmp.write(bundle .. ".leaf", tmp.read(certificate_of.p256.chain))
  return { ports = server_ports, ca_file = bundle, peer = peer }
end

return M

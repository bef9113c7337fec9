-- tlsconnect serve DIR: a small HTTPS server of files, with a certificate made on the spot. To try things
-- against; it is no server for the world.

local arguments = require "tlsconnect.cli.arguments"
local loops = require "tlsconnect.loop"
local output = require "tlsconnect.cli.output"
local text = require "tlsconnect.cli.text"

local core = require "tlsconnect.core"

local serve = {}

local own = {
  { "--address", value = "ADDRESS", key = "address", help = "where to listen (default 127.0.0.1)" },
  { "--port", short = "-p", value = "PORT", key = "port", kind = "number", help = "0: a free one (default 8443)" },
  { "--name", value = "NAME", key = "names", kind = "many", help = "a name for the certificate beside localhost" },
  { "--ca-out", value = "FILE", key = "ca_out", help = "write the root made on the spot there, for --ca" },
  { "--cert", value = "FILE", key = "certificate", help = "a certificate of one's own: a PEM file" },
  { "--key", value = "FILE", key = "key", help = "its private key" },
  { "--client-ca", value = "FILE", key = "ca_file", help = "ask for client certificates of these roots" },
  { "--tls", value = "VERSION", key = "tls", values = { "1.2", "1.3" }, help = "this TLS version only" },
  { "--quiet", short = "-q", key = "quiet", help = "no line for each request" },
  { "--help", short = "-h", key = "help", help = "this text" },
}

local CONNECTIONS, REQUESTS = 256, 1000 -- at once; on one connection
local HEAD, IDLE, PIECE = 16384, 30, 65536

local types = {
  html = "text/html; charset=utf-8", htm = "text/html; charset=utf-8", txt = "text/plain; charset=utf-8",
  md = "text/plain; charset=utf-8", lua = "text/plain; charset=utf-8", css = "text/css; charset=utf-8",
  js = "text/javascript; charset=utf-8", json = "application/json", xml = "application/xml",
  svg = "image/svg+xml", png = "image/png", jpg = "image/jpeg", jpeg = "image/jpeg", gif = "image/gif",
  webp = "image/webp", ico = "image/x-icon", pdf = "application/pdf", wasm = "application/wasm",
  pem = "application/x-pem-file", gz = "application/gzip", zip = "application/zip",
}

local reasons = { [200] = "OK", [301] = "Moved Permanently", [400] = "Bad Request", [403] = "Forbidden",
                  [404] = "Not Found", [405] = "Method Not Allowed" }

-- A root and a certificate of it, both for this run only.
local function make_certificate(given)
  local tlsconnect = require "tlsconnect"
  local root_key = assert(tlsconnect.key.generate("p256"))
  local root = assert(tlsconnect.certificate.issue {
    subject = { CN = "tlsconnect serve: a root for one run" }, key = root_key, ca = true,
    not_after = os.time() + 30 * 86400,
  })
  local key = assert(tlsconnect.key.generate("p256"))
  local names = { "localhost", "127.0.0.1", "::1" }
  for _, name in ipairs(given.names or {}) do names[#names + 1] = name end
  local address = given.address
  if address and address ~= "*" and address ~= "0.0.0.0" and address ~= "::" then names[#names + 1] = address end
  local certificate = assert(tlsconnect.certificate.issue {
    subject = "CN=localhost", names = names, key = key, issuer = root, issuer_key = root_key,
    purposes = { "server" }, not_after = os.time() + 30 * 86400,
  })
  return certificate, key, root
end

-- The file that a request path names below the folder; nil for one that would leave it.
local function locate(directory, path)
  path = path:match("^[^?#]*"):gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end)
  if path:find("[%c\\]") or path:sub(1, 1) ~= "/" then return nil end
  for segment in path:gmatch("[^/]+") do
    -- No way up, and nothing hidden.
    if segment:sub(1, 1) == "." then return nil end
  end
  return directory .. path, path
end

-- An open file and its size; or nil, and whether it is a folder.
local function open(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local size = file:seek("end")
  if not file:read(0) and size ~= 0 then
    -- At the end nothing can be read anyway: go to the start and look again.
    file:seek("set")
    local _, _, number = file:read(1)
    if number then
      file:close()
      return nil, true
    end
  end
  file:seek("set")
  if size == nil or size > 2 ^ 53 then
    file:close()
    return nil, true
  end
  return file, size
end

local function answer(peer, status, headers, body, only_head)
  local lines = { ("HTTP/1.1 %d %s"):format(status, reasons[status]) }
  for _, line in ipairs(headers) do lines[#lines + 1] = line end
  if body then
    lines[#lines + 1] = "Content-Type: text/plain; charset=utf-8"
    lines[#lines + 1] = ("Content-Length: %d"):format(#body)
  end
  local out = table.concat(lines, "\r\n") .. "\r\n\r\n"
  if body and not only_head then out = out .. body end
  return peer:send(out)
end

-- Sends a file. The number of bytes, or nil when the peer is gone.
local function send_file(peer, file, size, path, only_head, ending)
  local kind = types[(path:match("%.(%w+)$") or ""):lower()] or "application/octet-stream"
  local ok = answer(peer, 200, { "Content-Type: " .. kind, ("Content-Length: %.0f"):format(size),
    "X-Content-Type-Options: nosniff", ending })
  local left = only_head and 0 or size
  while ok and left > 0 do
    local data = file:read(math.min(PIECE, left))
    if not data then return nil end -- it has shrunk: the length that was promised cannot be kept
    ok = peer:send(data)
    left = left - #data
  end
  return ok and size
end

-- One request. Status and bytes, and whether the connection goes on; nil when it cannot.
local function respond(peer, head, directory)
  local method, path, version = head:match("^(%u+) (%S+) HTTP/(1%.[01])\r?\n")
  if not method then
    answer(peer, 400, { "Connection: close" }, "This is no HTTP/1.1 request.\n")
    return 400, "?", "?"
  end
  local lower = head:lower()
  local keep = version == "1.1" and not lower:find("\nconnection:[^\n]*close")
  -- A body is nothing that this server reads.
  if lower:find("\ntransfer%-encoding:") or lower:find("\ncontent%-length:%s*[1-9]") then keep = false end
  local ending = keep and "Connection: keep-alive" or "Connection: close"
  local only_head = method == "HEAD"
  local function say(status, body, more)
    local ok = answer(peer, status, { ending, more }, body, only_head)
    return status, method, path, ok and keep
  end
  if method ~= "GET" and not only_head then return say(405, "Only GET and HEAD.\n", "Allow: GET, HEAD") end
  local file_path, plain = locate(directory, path)
  if not file_path then return say(403, "That path is not served.\n") end
  local file, size
  if plain:sub(-1) == "/" then
    file_path = file_path .. "index.html"
    file, size = open(file_path)
    if not file then return say(404, "There is no index.html here.\n") end
  else
    file, size = open(file_path)
    if not file and size then
      return say(301, "It is a folder.\n", "Location: " .. path:match("^[^?#]*") .. "/")
    end
    if not file then return say(404, "There is no such file.\n") end
  end
  local sent = send_file(peer, file, size, file_path, only_head, ending)
  file:close()
  return 200, method, path, sent and keep
end

local function handle(peer, directory, log)
  local ok, _, err = peer:handshake()
  if not ok then
    log(("%s  %s"):format(err.step or "?", output.clean(err.detail or err.message)))
    return peer:close()
  end
  local who = output.clean(peer:info().remote_address or "?")
  for _ = 1, REQUESTS do
    peer:setdeadline(core.now() + IDLE)
    local head = peer:read("head", HEAD)
    if not head or not head:find("%S") then break end
    peer:setdeadline(nil)
    peer:settimeout(IDLE)
    local status, method, path, goes_on = respond(peer, head, directory)
    log(("%s  %s %s  %d"):format(who, method, text.clean(path, not output.utf8(), 200), status))
    if not goes_on then break end
  end
  return peer:close()
end

function serve.main(words, cli)
  local given, problem = arguments.read(own, words, 2)
  if not given then return cli.usage(problem, "serve") end
  if given.help then
    output.write("tlsconnect serve [OPTIONS] DIR\n\n" .. arguments.help(own))
    return cli.OK
  end
  if #given ~= 1 then return cli.usage("one DIR is wanted", "serve") end
  local directory = given[1]:gsub("(.)/+$", "%1")
  local folder = io.open(directory, "rb")
  if not folder then return cli.usage(("there is no folder '%s'"):format(directory), "serve") end
  folder:close()

  local options = { ca_file = given.ca_file, certificate = given.certificate, key = given.key }
  if given.tls then options.min_version, options.max_version = given.tls, given.tls end
  local root
  if not given.certificate then options.certificate, options.key, root = make_certificate(given) end
  local tasks, _, failure = loops.new()
  if not tasks then return cli.fail(failure) end
  options.wait = tasks.wait
  local good, listener, _, err = cli.try(require("tlsconnect").listen, given.address or "127.0.0.1",
    given.port or 8443, options)
  if not good then return cli.usage(listener, "serve") end
  if not listener then return cli.fail(err) end
  if given.ca_out and root then
    local file, reason = io.open(given.ca_out, "wb")
    local ok = file and file:write(root:pem())
    if not (file and file:close() and ok) then
      return cli.fail { step = "setup", message = ("%s cannot be written: %s"):format(given.ca_out, reason or "?") }
    end
  end

  local function log(line)
    if given.quiet then return end
    output.write(line .. "\n")
    io.stdout:flush()
  end
  local _, port = listener:address()
  output.write(("Serving %s at https://localhost:%d/ (Ctrl-C ends it)\n"):format(output.clean(directory), port))
  if root then
    output.write(given.ca_out
      and ("Try: tlsconnect get --ca %s https://localhost:%d/\n"):format(output.clean(given.ca_out), port)
      or ("Its certificate was made just now; --ca-out FILE writes the root that clients need.\n"))
  end
  io.stdout:flush()

  tasks:spawn(function()
    while true do
      while tasks.count > CONNECTIONS do tasks:sleep(0.05) end
      local peer = listener:accept()
      if peer then
        tasks:spawn(handle, peer, directory, log)
      else
        tasks:sleep(0.05) -- no descriptor is left, perhaps: it will not get better at once
      end
    end
  end)
  tasks:run()
  return cli.OK
end

return serve

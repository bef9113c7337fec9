-- make demo: a CA and a certificate, an HTTPS server and an HTTPS client, all of this module, in one
-- process: the server and the client are two coroutines, and what they wait on is one function.
local tlsconnect = require "tlsconnect"
local steps = require "tlsconnect.steps"
local scheduler = require "spec.support.scheduler"
local output = require "tlsconnect.cli.output"
local tmp = require "spec.support.tmp"
local verification = require "tlsconnect.trace.verification"
local waterfall = require "tlsconnect.cli.waterfall"

-- A CA of our own, and a certificate by it for the server.
local function certificates()
  local authority_key = assert(tlsconnect.key.generate("p256"))
  local authority = assert(tlsconnect.certificate.issue {
    subject = "CN=Demo CA", key = authority_key, ca = true })
  local key = assert(tlsconnect.key.generate("ed25519"))
  local certificate = assert(tlsconnect.certificate.issue {
    subject = "CN=localhost", names = { "localhost", "127.0.0.1" }, key = key,
    issuer = authority, issuer_key = authority_key, purposes = { "server" } })
  return authority, certificate, key
end

local function serve(listener, page)
  local peer = assert(listener:accept())
  local request
  repeat
    local line = assert(peer:receive("*l"))
    request = request or line
  until line == ""
  peer:send("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: " .. #page ..
    "\r\nConnection: close\r\n\r\n" .. page)
  peer:close()
  return request
end

local function main(spawn, wait, _, join)
  local authority, certificate, key = certificates()
  local ca_file = tmp.file(authority:pem(), "ca.pem")
  local listener = assert(tlsconnect.listen("127.0.0.1", 0, { certificate = certificate, key = key, wait = wait }))
  local _, port = listener:address()
  local page = "<!doctype html>\n<title>tlsconnect</title>\n<p>This page came over a verified connection.\n"
  local server = spawn(serve, listener, page)

  local url = ("https://localhost:%d/"):format(port)
  local answer, message, err = tlsconnect.https.get(url, {
    ca_file = ca_file, wait = wait, timeout = 30, trace = true, keep_alive = false,
  })
  if not answer then return nil, message, err end
  local request = join(server)
  listener:close()

  print(("GET %s: %d %s\n"):format(url, answer.status, answer.reason))
  local complete = true
  for _, step in ipairs(answer.trace) do complete = complete and step.ok and step.elapsed ~= nil end
  print(waterfall.render { host = "localhost", port = port, steps = answer.trace, now = os.time(),
    verified = verification.good(answer.trace[steps.index.verify]), ascii = not output.utf8(),
    colour = output.colour(1), columns = output.columns(1) })
  print(answer.body)
  if not complete then return nil, "not all ten steps happened" end
  if request ~= "GET / HTTP/1.1" then return nil, "the server got " .. tostring(request) end
  if answer.status ~= 200 or answer.body ~= page then return nil, "this is not the page that was sent" end
  return true
end

local ok, message, err = scheduler.run(main)
if not ok then
  io.stderr:write("the demo failed: ", message, err and err.step and (" (step " .. err.step .. ")") or "", "\n")
  os.exit(1, true)
end

-- Run by alloc_fail with the paths of a chain, its key and its root: a listener and a client of https in two
-- coroutines, over TCP.
local scheduler = require "spec.support.scheduler"
local tlsconnect = require "tlsconnect"
for _, name in ipairs { "https", "https.client", "connection", "listener", "dial", "resolve", "trust",
  "trace.handshake" } do
  require("tlsconnect." .. name)
end

local function serve(listener)
  local peer = assert(listener:accept(10))
  repeat
    local line, message = peer:receive("*l")
    assert(line, message)
  until line == ""
  assert(peer:send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
  peer:close()
end

return function(chain, key, root)
  scheduler.run(function(spawn, wait, _, join)
    local listener = assert(tlsconnect.listen("127.0.0.1", 0,
      { certificate = chain, key = key, wait = wait, timeout = 10 }))
    local _, port = listener:address()
    local server = spawn(serve, listener)
    local answer = assert(tlsconnect.https.get(("https://127.0.0.1:%d/"):format(port),
      { ca_file = root, wait = wait, timeout = 10, trace = true }))
    assert(answer.body == "hello")
    join(server)
    listener:close()
  end)
end

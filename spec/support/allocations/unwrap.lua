-- Run by alloc_fail with the paths of a chain and its key: TLS ends, and the socket goes on in clear.
local sockets = require "spec.support.sockets"
local tmp = require "spec.support.tmp"

return function(chain, key)
  local core = require "tlsconnect.core"
  local certificates = assert(core.certificates(tmp.read(chain)))
  local server_context, client_context = assert(core.context()), assert(core.context())
  assert(server_context:certificate(certificates, assert(core.key(tmp.read(key)))))
  local near, far = sockets.pair()
  local client = assert(client_context:session("client", { socket = near, server_name = "a.test" }))
  local server = assert(server_context:session("server", { memory = true }))
  local function move()
    local bytes, want = far:read("some", 65536)
    if bytes then
      assert(server:feed(bytes))
    else
      assert(want == "want_read", want)
    end
    local out = server:drain()
    if out ~= "" then assert(far:write(out)) end
  end
  local done, complete
  for _ = 1, 10 do
    local want
    done, want = client:handshake()
    if want == "want_verify" then client:verdict(true) done, want = client:handshake() end
    assert(done or want == "want_read", want)
    move()
    complete, want = server:handshake()
    assert(complete or want == "want_read", want)
    move()
  end
  assert(done and complete)
  assert(server:close_notify(false))
  local clear = ("in clear\n"):rep(3000)
  assert(far:write(server:drain() .. clear))
  assert(core.poll(near:getfd(), "r", core.now() + 10))
  local ended, want = client:read("a", 0)
  assert(ended == "", want)
  assert(client:hand_back())
  client:close()
  local text
  repeat
    text, want = near:read(#clear)
    assert(text or want == "want_read", want)
  until text
  assert(text == clear)
  server:close()
  near:close()
  far:close()
end

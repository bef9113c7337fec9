-- Run by alloc_fail with the paths of a chain and its key: two sessions over memory, from the first message
-- to the last.
local tmp = require "spec.support.tmp"

return function(chain, key)
  local core = require "tlsconnect.core"
  local certificates = assert(core.certificates(tmp.read(chain)))
  local server_context, client_context = assert(core.context()), assert(core.context())
  assert(server_context:certificate(certificates, assert(core.key(tmp.read(key)))))
  assert(server_context:alpn { "h2", "http/1.1" })
  assert(client_context:priority("-VERS-TLS1.2"))
  local client = assert(client_context:session("client",
    { memory = true, server_name = "a.test", trace = true, alpn = { "h2" } }))
  local server = assert(server_context:session("server", { memory = true, trace = true }))

  local function move()
    local bytes = client:drain()
    if #bytes > 0 then server:feed(bytes) end
    bytes = server:drain()
    if #bytes > 0 then client:feed(bytes) end
  end

  local ended = {}
  for _ = 1, 20 do
    for name, session in pairs { client = client, server = server } do
      if not ended[name] then
        local ok, want = session:handshake()
        if ok then
          ended[name] = true
        elseif want == "want_verify" then
          session:peer_certificates()
          session:verdict(true)
        elseif want ~= "want_read" and want ~= "want_write" then
          error(want)
        end
      end
    end
    move()
  end
  assert(ended.client and ended.server)
  assert(client:write("a line\nand 20,000 bytes" .. ("."):rep(20000)))
  move()
  assert(server:read("l") == "a line")
  assert(server:read(20000))
  client:info()
  server:info()
  client:marks()
  client:messages()
  client:counters()
  client:ticket()
  assert(client:export("label", "", 32))
  client:channel_binding("tls-exporter")
  client:channel_binding("tls-server-end-point")
  assert(client:close_notify())
  move()
  assert(not server:read("l") or true)
  client:close()
  server:close()
end

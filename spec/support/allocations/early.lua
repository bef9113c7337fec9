-- Run by alloc_fail with the paths of a chain and its key: a session that is taken up with early data.
local tmp = require "spec.support.tmp"

return function(chain, key)
  local core = require "tlsconnect.core"
  local certificates = assert(core.certificates(tmp.read(chain)))
  local server_context, client_context = assert(core.context()), assert(core.context())
  assert(server_context:certificate(certificates, assert(core.key(tmp.read(key)))))
  assert(server_context:early_data())

  local function meet(ticket, words)
    local client = assert(client_context:session("client", { memory = true, server_name = "a.test", ticket = ticket,
      false_start = true }))
    local server = assert(server_context:session("server", { memory = true }))
    if words then assert(client:first(words, true)) end
    local early, ended = "", {}
    for _ = 1, 10 do
      for name, session in pairs { client = client, server = server } do
        if not ended[name] then
          local ok, want = session:handshake()
          if ok then
            ended[name] = true
          elseif want == "want_verify" then
            session:verdict(true)
          elseif want ~= "want_read" then
            error(want)
          end
        end
      end
      early = early .. server:early()
      server:feed(client:drain())
      client:feed(server:drain())
    end
    assert(ended.client and ended.server)
    assert(server:write("x"))
    client:feed(server:drain())
    assert(client:read(1))
    local kept = client:ticket()
    client:close()
    server:close()
    return kept, early
  end

  local ticket = assert(meet())
  local _, early = meet(ticket, ("words "):rep(100))
  assert(#early == 600 or #early == 0)
end

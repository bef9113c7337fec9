-- Sessions that are taken up again: kept only after every check, found only by who is meant, judged anew.
local core = require "tlsconnect.core"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local process = require "spec.support.process"
local sessions = require "tlsconnect.sessions"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

local authority = pki.shared()

local function serve(options)
  options = options or {}
  options.cert = options.cert or authority:issue { name = { "a.test", "c.test" } }
  return peers.nginx(options)
end

local function new_context(options)
  options = options or {}
  options.ca_file = options.ca_file or authority.ca_file
  options.client_certificate = nil
  return assert(tlsconnect.context(options))
end

-- One exchange on a new connection: what was agreed on, or nil, message, err.
local function visit(server, context, options)
  options = options or {}
  options.context, options.server_name = context, options.server_name or "a.test"
  local connection, message, err = tlsconnect.connect(server.host, server.port, options)
  if not connection then return nil, message, err end
  assert(connection:send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"))
  assert(connection:receive("*l"))
  local info = connection:info()
  connection:close()
  return info
end

local function resumed(...)
  return assert(visit(...)).resumed
end

-- The only key that a context's sessions have.
local function only_key(context)
  return (next(context:sessions().lists))
end

describe("sessions", function()
  it("are taken up again by default, each once", function()
    local server, context = serve(), new_context()
    assert.is_false(resumed(server, context))
    assert.equal(1, context:sessions().count)
    for _ = 1, 3 do
      assert.is_true(resumed(server, context))
      assert.equal(1, context:sessions().count)
    end
  end)

  it("are taken up again in TLS 1.2", function()
    local server, context = serve { versions = { "TLSv1.2" } }, new_context()
    assert.is_false(resumed(server, context))
    assert.is_true(resumed(server, context))
  end)

  it("are neither kept nor used with session_cache = false", function()
    local server, context = serve(), new_context()
    assert.is_false(resumed(server, context, { session_cache = false }))
    assert.equal(0, context:sessions().count)
    assert.is_false(resumed(server, context))
    assert.is_false(resumed(server, context, { session_cache = false }))
    assert.equal(1, context:sessions().count)
  end)

  it("serve https without a kept connection", function()
    local server, context = serve { cert = authority:issue { ip = "127.0.0.1" } }, new_context()
    local url = ("https://127.0.0.1:%d/"):format(server.port)
    local seen = {}
    for i = 1, 3 do
      local page = assert(tlsconnect.https.get(url, { context = context, keep_alive = false, trace = true }))
      for _, step in ipairs(page.trace) do
        if step.step == "key_exchange" then seen[i] = step.resumed end
      end
    end
    assert.same({ false, true, true }, seen)
  end)

  it("carry the verification that a full handshake gives", function()
    local server, context = serve(), new_context()
    resumed(server, context)
    local connection = assert(tlsconnect.connect(server.host, server.port,
      { context = context, server_name = "a.test" }))
    assert.is_true(connection:info().resumed)
    local verification = connection:verification()
    for _, question in ipairs { "issuer", "dates", "name" } do
      assert.equal("yes", verification[question].answer)
    end
    assert.is_not_nil(connection:peer_certificate())
    connection:close()
  end)

  it("K4 are kept by the hop that they go through", function()
    local context, peer = new_context(), { name = "a.test" }
    local direct = sessions.key(context, {}, "a.test", 443, peer)
    assert.not_equal(direct, sessions.key(context, {}, "a.test", 443, peer, nil, "proxy.test:3128"))
    -- A connection over a stream made elsewhere (a proxy's tunnel) offers none, and keeps none.
    local server = serve()
    resumed(server, context)
    local before = context:sessions().count
    local tcp = assert(core.socket("inet"))
    tcp:connect(server.host, server.port)
    assert(core.poll(tcp:getfd(), "w", core.now() + 5))
    local wrapped = assert(tlsconnect.wrap(tcp:detach(), { context = context, server_name = "a.test" }))
    assert.is_false(wrapped:info().resumed)
    assert(wrapped:send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"))
    assert(wrapped:receive("*l"))
    wrapped:close()
    assert.equal(before, context:sessions().count)
  end)

  it("K5 are not kept of a peer that failed a check, or was not asked", function()
    local server = serve()
    local context = new_context()
    assert.is_nil(visit(server, context, { server_name = "b.test" }))
    assert.equal(0, context:sessions().count)
    assert.is_false(resumed(server, context, { server_name = "b.test", insecure_skip_name = true }))
    assert.is_false(resumed(server, context, { insecure_skip_verify = true }))
    assert.equal(0, context:sessions().count)
  end)

  it("K6 are not offered under another name, protocol or time, or with another certificate", function()
    local server, context = serve { client_ca = authority.ca_file, verify_client = "optional" }, new_context()
    resumed(server, context)
    assert.is_false(resumed(server, context, { server_name = "c.test" }))
    assert.is_false(resumed(server, context, { alpn = "http/1.1" }))
    assert.is_false(resumed(server, context, { verify_time = os.time() }))
    local own = authority:issue { name = "me.test", purpose = "client" }
    assert.is_false(resumed(server, new_context { certificate = own.chain, key = own.key }))
    assert.is_true(resumed(server, context))
  end)

  it("K6 are judged anew: one that is offered for another name is of no use", function()
    local server, context = serve(), new_context()
    resumed(server, context)
    local kept = context:sessions()
    local good_key = only_key(context)
    local data = kept:take(good_key, context:generation())
    kept:give((good_key:gsub("a%.test", "b.test")), data, 100, context:generation())
    local _, _, err = visit(server, context, { server_name = "b.test" })
    assert.equal("name_mismatch", err.code)
    assert.equal("verify", err.step)
  end)

  it("K6 are judged anew: roots that do not know the issuer refuse it", function()
    local server, context = serve(), new_context()
    resumed(server, context)
    local other = new_context { ca_file = pki.new().ca_file }
    local key = only_key(context)
    other:sessions():give(key, context:sessions():take(key, context:generation()), 100, other:generation())
    local _, _, err = visit(server, other)
    assert.equal("unknown_issuer", err.code)
  end)

  it("V13 are void once the roots change", function()
    local server = serve()
    local trust = assert(tlsconnect.trust { ca_file = authority.ca_file })
    local context = assert(tlsconnect.context { trust = trust })
    resumed(server, context)
    assert.is_true(resumed(server, context))
    assert(trust:add(tmp.read(pki.new().ca_file)))
    assert.is_false(resumed(server, context))
  end)

  it("that the server cannot read cost a full handshake, no error", function()
    local server, context = serve(), new_context()
    resumed(server, context)
    server:stop()
    -- Its keys are gone.
    local other = serve()
    local kept, key = context:sessions(), only_key(context)
    kept:give((key:gsub("|" .. server.port .. "|", "|" .. other.port .. "|")), kept:take(key, context:generation()),
      100, context:generation())
    assert.equal(1, kept.count)
    assert.is_false(resumed(other, context))
    assert.is_true(resumed(other, context))
  end)

  it("K7 a thousand tickets of 64 KB, lives of 0 and 2^32: bounded, clamped, used once", function()
    local kept = sessions.new()
    for i = 1, 1000 do kept:give("k" .. i, ("x"):rep(65536), 100) end
    assert.equal(0, kept.count)
    for i = 1, 1000 do kept:give("k" .. i, ("x"):rep(30000), 100) end
    assert.is_true(kept.size <= 2 * 1024 * 1024)
    for i = 1, 1000 do kept:give("one", ("y%d"):format(i), 100) end
    local count = 0
    while kept:take("one") do count = count + 1 end
    assert.equal(8, count)
    kept:clear()
    kept:give("none", "x", 0)
    assert.is_nil(kept:take("none"))
    kept:give("long", "x", 2 ^ 32)
    assert.is_true(kept.lists.long[1].till <= os.time() + 24 * 3600)
    assert.equal("x", kept:take("long"))
    assert.is_nil(kept:take("long"))
    assert.same({ 0, 0 }, { kept.count, kept.size })
  end)

  it("Q5 a clock that jumps either way makes them stale", function()
    local real, kept, shift = os.time, sessions.new(), 0
    finally(function() os.time = real end) -- luacheck: ignore 122
    os.time = function(...) return real(...) + (select("#", ...) == 0 and shift or 0) end -- luacheck: ignore 122
    for _, jump in ipairs { 365 * 86400, -365 * 86400 } do
      shift = 0
      kept:give("k", "x", 3600)
      shift = jump
      assert.is_nil(kept:take("k"))
    end
    assert.equal(0, kept.count)
  end)

  it("Q4 end with the certificate", function()
    local kept = sessions.new()
    kept:give("k", "x", 3600, nil, os.time() - 1)
    assert.is_nil(kept:take("k"))
  end)
end)

describe("saved sessions", function()
  local function saved(server)
    local context, path = new_context(), tmp.path("sessions")
    resumed(server, context)
    assert.equal(1, context:save_sessions(path))
    return path
  end

  local function refused(path, code, context)
    context = context or new_context()
    local ok, message, err = context:load_sessions(path)
    assert.is_nil(ok)
    assert.equal(code, err.code)
    assert.equal("setup", err.step)
    assert.equal(message, tostring(err))
    assert.equal(0, context:sessions().count)
  end

  it("are taken up by another process's context, from a file of mode 0600", function()
    local server = serve()
    local path = saved(server)
    assert.equal("600", process.output("stat -c %a " .. path))
    local context = new_context()
    assert.equal(1, context:load_sessions(path))
    assert.is_true(resumed(server, context))
  end)

  it("replace the file as a whole, and leave the old one where that fails", function()
    local context, path = new_context(), tmp.path("sessions")
    tmp.write(path, "old")
    process.output("chmod 644 " .. path)
    assert.equal(0, context:save_sessions(path))
    assert.equal("600", process.output("stat -c %a " .. path))
    local _, _, err = context:save_sessions(path .. "/below")
    assert.equal("setup", err.step)
    assert.equal(0, context:load_sessions(path))
  end)

  it("are refused when the file was cut or changed, anywhere", function()
    local path = saved(serve())
    local text = tmp.read(path)
    for _, size in ipairs { 0, 1, 23, 24, 60, #text - 33, #text - 1 } do
      assert(core.write_private(path, text:sub(1, size)))
      refused(path, "unreadable_file")
    end
    for at = 1, #text, 37 do
      local changed = text:sub(1, at - 1) .. string.char((text:byte(at) + 1) % 256) .. text:sub(at + 1)
      assert(core.write_private(path, changed))
      refused(path, "unreadable_file")
    end
  end)

  it("are refused in another version's form, with an honest hash", function()
    local path = tmp.path("sessions")
    local own = "tlsconnect sessions 2\n3:|||\n1 99999999999 "
    for _, body in ipairs { "tlsconnect sessions 1\n3:|||\n1 99999999999 3 3\nabcdef", "tlsconnect sessions 3\n0:\n",
      "tlsconnect sessions 2\n5:x\n", "tlsconnect sessions 2\n3:|||\n1 2 3\nabc", own .. "3 3\nabcdef",
      own .. "3 99999 0\nabc", own .. "3 3 99\nabcdef", own .. "3 3 4\nabcdef1 - ", own .. "3 3 4\nabcdef1 -\n" .. "x",
      own .. "3 3 6\nabcdef1 - 9\n", own .. "3 3 9\nabcdef1 - 2 -\na", own .. "3 3 9\nabcdef1 - 1 -\nab" } do
      assert(core.write_private(path, body .. core.message_digest("SHA-256", body)))
      refused(path, "unreadable_file")
    end
  end)

  it("are refused when others may use the file, or it is a link", function()
    local path = saved(serve())
    process.output("chmod 640 " .. path)
    refused(path, "unreadable_file")
    process.output("chmod 600 " .. path .. "; ln -s " .. path .. " " .. path .. ".link")
    local _, _, err = new_context():load_sessions(path .. ".link")
    assert.is_not_nil(err)
    assert.equal(1, new_context():load_sessions(path))
  end)

  it("are refused by a context with another certificate", function()
    local own = authority:issue { name = "me.test", purpose = "client" }
    refused(saved(serve()), "unreadable_file", new_context { certificate = own.chain, key = own.key })
  end)

  it("K7 are not loaded from a huge file", function()
    local path = tmp.path("sessions")
    assert(core.write_private(path, ("x"):rep(5 * 1024 * 1024)))
    refused(path, "too_long")
  end)
end)

-- What fails leaves no descriptor open, and none is left for the collector to close: a program that fails a
-- thousand times a second makes little garbage, and would run out of them first.
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local run = require "spec.support.run"
local sockets = require "spec.support.sockets"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

local https = tlsconnect.https
local authority = pki.shared()

-- Calls it so often, without a collection in between; it returns an error's code each time.
local function times(count, code, fail)
  fail() -- what is made once and kept
  collectgarbage()
  collectgarbage("stop")
  local before = sockets.still_open()
  local ok, message = pcall(function()
    for _ = 1, count do assert.equal(code, fail()) end
  end)
  local after = sockets.still_open()
  collectgarbage("restart")
  assert(ok, message)
  assert.is_true(after <= before, ("%s: %d descriptors before, %d after"):format(code, before, after))
end

-- The code of what a call that failed returned.
local function code_of(result, _, err)
  assert.is_nil(result)
  assert.is_table(errors.known[err.code], err.code)
  return err.code
end

describe("a thousand failing connects leave no descriptor open", function()
  local server, talker, cutter, options

  setup(function()
    server = peers.nginx { cert = authority:issue { name = "a.test" } }
    talker = peers.raw [[ peer:send("SSH-2.0-none\r\n") ]]
    cutter = peers.raw [[ peer:reset() ]]
    options = { server_name = "a.test", ca_file = authority.ca_file, timeout = 60 }
  end)

  local function connects(peer, more)
    local given = {}
    for name, value in pairs(options) do given[name] = value end
    for name, value in pairs(more or {}) do given[name] = value end
    return function() return code_of(tlsconnect.connect("127.0.0.1", peer.port, given)) end
  end

  it("to a port that nobody listens on", function()
    local listener, _, port = sockets.listener()
    listener:close()
    times(250, "refused", connects { port = port })
  end)

  it("to a peer that is no TLS server", function() times(100, "not_tls", connects(talker)) end)

  it("to a peer that resets", function() times(100, "reset", connects(cutter)) end)

  it("to a server whose certificate is not good", function()
    times(100, "name_mismatch", connects(server, { server_name = "b.test" }))
    times(100, "unknown_issuer", connects(server, { ca_file = pki.new().ca_file }))
  end)

  it("to a server that speaks none of our protocols", function()
    times(100, "no_common_alpn", connects(server, { alpn = "none" }))
  end)

  it("that run out of time", function()
    local listener, _, port = sockets.listener()
    times(50, "timeout", connects({ port = port }, { timeout = 0.002 }))
    listener:close()
  end)

  it("by way of a proxy that refuses", function()
    local proxy = peers.raw [[ peer:head() peer:send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n") ]]
    times(100, "proxy_refused", connects(server, { proxy = "http://127.0.0.1:" .. proxy.port }))
  end)

  it("made by https", function()
    local url = ("https://127.0.0.1:%d/"):format(server.port)
    local given = { ca_file = authority.ca_file, timeout = 60, retries = 0 }
    times(50, "name_mismatch", function() return code_of(https.get(url, given)) end)
  end)

  it("of a download that goes on later: it can be tried again at once", function()
    local listener, _, port = sockets.listener()
    listener:close()
    local folder = tmp.directory()
    local given = { save = folder .. "/a", resume = true, retries = 0, timeout = 60 }
    times(50, "refused", function()
      return code_of(https.get(("http://127.0.0.1:%d/"):format(port), given))
    end)
    assert.equal("", run.check { "ls", folder })
  end)
end)

describe("files of the core leave no descriptor open", function()
  local path = tmp.directory() .. "/file"

  it("that are read and written as a whole", function()
    times(300, "abc", function()
      assert(core.write_private(path, "abc"))
      return core.read_private(path, 10)
    end)
  end)

  it("that are refused", function()
    times(300, "too_long", function() return select(3, core.read_private(path, 2)).code end)
    times(300, "permission", function() return select(3, core.file("/dev/null", "resume")).code end)
    times(300, "unreadable_file", function() return select(3, core.read_private("/dev/null", 2)).code end)
    local held = assert(core.file(path .. ".part", "resume"))
    times(300, "unwritable_file", function() return select(3, core.file(path .. ".part", "resume")).code end)
    held:close()
    times(300, "locked", function()
      local lock = assert(core.lock_file(path .. ".lock"))
      local _, why = core.lock_file(path .. ".lock")
      lock:close()
      return why
    end)
  end)
end)

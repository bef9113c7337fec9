local keylog = require "tlsconnect.keylog"
local process = require "spec.support.process"
local run = require "spec.support.run"
local tlsconnect = require "tlsconnect"
local scheduler = require "spec.support.scheduler"
local tmp = require "spec.support.tmp"

describe("the key log", function()
  it("goes nowhere unless it is asked for", function()
    assert.is_nil(keylog.sink(nil))
    assert.is_nil(keylog.sink(false))
  end)

  it("gives a function each line", function()
    local lines = {}
    assert.is_true(keylog.sink(function(line) lines[#lines + 1] = line end)("A 1 2\nB 3 4\n"))
    assert.same({ "A 1 2", "B 3 4" }, lines)
  end)

  it("adds to a file, which is made for this user alone", function()
    local path = tmp.path("keys")
    local sink = keylog.sink(path)
    assert.is_true(sink("A 1 2\n"))
    assert.is_true(sink("B 3 4\n"))
    assert.equal("A 1 2\nB 3 4\n", tmp.read(path))
    assert.equal("600\n", run.check { "stat", "-c", "%a", path })
  end)

  it("is an error of the set-up where the file cannot be written", function()
    for path, reason in pairs { ["/nonexistent/keys"] = "No such file", ["/dev/full"] = "No space left" } do
      local ok, message, err = keylog.sink(path)("A 1 2\n")
      assert.is_nil(ok)
      assert.matches(reason, message)
      assert.equal("setup", err.step)
      assert.equal("unreadable_file", err.code)
    end
  end)

  it("goes by SSLKEYLOGFILE with true, and only then", function()
    local path = tmp.path("keys")
    local script = tmp.file([[
      local keylog = require "tlsconnect.keylog"
      local sink = keylog.sink(true)
      print(sink and sink("A 1 2\n"), keylog.sink(nil))
    ]])
    local words = { process.lua(), script }
    assert.equal("true\tnil\n", run.check(words, { environment = { SSLKEYLOGFILE = path } }))
    assert.equal("A 1 2\n", tmp.read(path))
    assert.equal("nil\tnil\n", run.check(words, { environment = { SSLKEYLOGFILE = "" } }))
  end)

  it("is the same from both ends of a handshake", function()
    local key = tlsconnect.key.generate("p256")
    local certificate = assert(tlsconnect.certificate.issue { subject = "CN=a.test", names = { "a.test" }, key = key })
    for _, version in ipairs { "TLS1.2", "TLS1.3" } do
      local mine, theirs = {}, {}
      scheduler.run(function(spawn, wait, _, join)
        local listener = assert(tlsconnect.listen("127.0.0.1", 0, { certificate = certificate, key = key,
          wait = wait, max_version = version, keylog = function(line) theirs[#theirs + 1] = line end }))
        local _, port = listener:address()
        local task = spawn(function()
          local peer = assert(listener:accept())
          peer:receive("*a")
          peer:close()
        end)
        local opened = assert(tlsconnect.connect("127.0.0.1", port, { server_name = "a.test", wait = wait,
          ca = certificate, keylog = function(line) mine[#mine + 1] = line end }))
        opened:close()
        join(task)
        listener:close()
        return true
      end)
      table.sort(mine)
      table.sort(theirs)
      assert.is_true(#mine >= (version == "TLS1.3" and 4 or 1))
      assert.same(mine, theirs)
      assert.matches(version == "TLS1.3" and "^CLIENT_HANDSHAKE_TRAFFIC_SECRET %x+ %x+$" or "^CLIENT_RANDOM %x+ %x+$",
        mine[1])
    end
  end)
end)

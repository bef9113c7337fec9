-- What comes is written to a file from C, with no string in between.
local core = require "tlsconnect.core"
local pki = require "spec.support.pki"
local sessions = require "spec.support.sessions"
local sockets = require "spec.support.sockets"
local tmp = require "spec.support.tmp"

local function pair()
  local both = sessions.connected { certificate = pki.shared():issue { name = "a.test" } }
  return both
end

-- A server's bytes, come to the client.
local function sent(both, data)
  assert(both.server:write(data))
  both:move("server", "client")
end

describe("pouring into a file", function()
  local path
  before_each(function() path = tmp.file("", "poured") end)

  it("writes exactly so much, behind what Lua's file holds back, and Lua goes on behind it", function()
    local both, file = pair(), assert(io.open(path, "wb"))
    local data = ("0123456789"):rep(20000)
    file:write("before ")
    sent(both, data)
    local left = 150000
    while left > 0 do left = left - assert(both.client:pour(file, left)) end
    file:write(" after")
    assert.equal(7 + 150000 + 6, file:seek())
    file:close()
    assert.equal("before " .. data:sub(1, 150000) .. " after", tmp.read(path))
    assert.equal(data:sub(150001), both.client:read(50000))
    local nothing, want = both.client:pour(io.tmpfile(), 5)
    assert.is_nil(nothing)
    assert.equal("want_read", want)
  end)

  it("appends, and writes to a file of its own", function()
    local both, file = pair(), assert(io.open(path, "ab"))
    sent(both, "one two")
    assert.equal(3, both.client:pour(file, 3))
    file:close()
    file = assert(core.file(path, "resume"))
    assert.equal(4, both.client:pour(file, 100))
    file:close()
    assert.equal("one two", tmp.read(path))
    assert.has_error(function() both.client:pour(file, 1) end)
  end)

  it("tells when the disk is full, the file is for reading or is closed; and loses nothing", function()
    local both = pair()
    sent(both, "hello")
    local function fails(file, code)
      local nothing, _, cause, written = both.client:pour(file, 5)
      assert.is_nil(nothing)
      assert.equal(code, cause.errno)
      assert.is_true(cause.file)
      assert.equal(0, written)
      file:close()
    end
    fails(assert(io.open("/dev/full", "wb")), 28)
    fails(assert(io.open(path, "rb")), 9)
    local closed = assert(io.open(path, "wb"))
    closed:close()
    assert.has_error(function() both.client:pour(closed, 5) end)
    assert.has_error(function() both.client:pour({}, 5) end)
    assert.equal("hello", both.client:read(5))
  end)

  it("tells the end, and what was written before it", function()
    local near, far = sockets.pair()
    local file = assert(io.open(path, "wb"))
    assert(far:write("all of it"))
    far:close()
    local nothing, cause, written, _
    repeat
      assert(core.poll(near:getfd(), "r", core.now() + 30))
      nothing, _, cause, written = near:pour(file, 100)
    until nothing or cause
    file:close()
    assert.is_nil(nothing)
    assert.equal("closed", cause.code)
    assert.equal(9, written)
    assert.equal("all of it", tmp.read(path))
    near:close()
  end)

  it("is not for pipes", function()
    local pipe = io.popen("cat >/dev/null", "w")
    assert.is_false(core.pourable(pipe))
    pipe:close()
    local file = io.tmpfile()
    assert.is_true(core.pourable(file))
    file:close()
  end)
end)

-- How far a request's body has come.
local fake = require "spec.support.fake_https"
local tmp = require "spec.support.tmp"

local ok = fake.ok

describe("upload_progress", function()
  local network = fake.new()
  after_each(function() network:restore() end)

  local seen
  local function observe(sent, all) seen[#seen + 1] = ("%d/%s"):format(sent, tostring(all)) end

  -- What is told of a body, and what was sent.
  local function told(replies, given)
    local https, opened = network:serve(replies)
    seen = {}
    given.upload_progress = observe
    assert(https.post("http://a.test/", given))
    return table.concat(seen, " "), opened[1].connection:written()
  end

  it("tells what has left of a string, a file, a function and parts, and changes none of it", function()
    local large = ("0123456789"):rep(20000)
    local steps = "65536/200000 131072/200000 196608/200000 200000/200000"
    local path = tmp.file(large, "large")
    local file = assert(io.open(path, "rb"))
    for _, body in ipairs { large, file } do
      local progress, written = told({ ok }, { body = body })
      assert.equal(steps, progress)
      assert.matches("Content-Length: 200000\r\n\r\n", written, 1, true)
      assert.is_true(written:match("\r\n\r\n(.*)$") == large)
    end
    file:close()
    assert.equal("5/5", (told({ ok }, { body = "hello" })))
    assert.equal("", (told({ ok }, { body = "" })))
    local pieces = { "one", "", "three" }
    local progress, written = told({ ok }, { body = function() return table.remove(pieces, 1) end })
    assert.equal("3/nil 8/nil", progress)
    assert.matches("\r\n\r\n3\r\none\r\n5\r\nthree\r\n0\r\n\r\n$", written)
    progress, written = told({ ok }, { multipart = { a = { file = path } } })
    local length = written:match("Content%-Length: (%d+)")
    assert.matches(length .. "/" .. length .. "$", progress)
  end)

  it("begins anew when the body is sent again", function()
    assert.equal("4/4 4/4", (told({ { fake.redirect(307, "/x"), ok } }, { body = "data" })))
  end)

  it("hears nothing of a request without a body", function()
    local https = network:serve { ok }
    seen = {}
    assert(https.get("http://a.test/", { upload_progress = observe }))
    assert.same({}, seen)
  end)

  it("ends the call when it raises, and gives the connection up", function()
    local https, opened = network:serve { ok, ok }
    assert.has_error(function()
      https.post("http://a.test/", { body = "data", upload_progress = function() error("stop", 0) end })
    end, "stop")
    assert(https.get("http://a.test/"))
    assert.equal(2, #opened)
  end)
end)

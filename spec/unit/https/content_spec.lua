local fake = require "spec.support.fake_https"
local tmp = require "spec.support.tmp"

local ok = fake.ok

describe("https content", function()
  local network = fake.new()
  after_each(function() network:restore() end)

  local function sent(given)
    local https, opened = network:serve { ok }
    local page, message, err = https.post("http://a.test/", given)
    if not page then return nil, message, err end
    local head, body = opened[1].connection:written():match("^(.-\r\n\r\n)(.*)$")
    return head, body
  end

  it("sends a form", function()
    local head, body = sent { form = { b = "1 & 2", a = { "x", "y" }, ["\195\188"] = true } }
    assert.matches("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: " .. #body .. "\r\n", head,
      1, true)
    assert.equal("a=x&a=y&b=1%20%26%202&%C3%BC=true", body)
  end)

  it("sends and reads JSON, with the codec found or given", function()
    local head, body = sent { json = { name = "Ada" } }
    assert.matches("Content-Type: application/json\r\n", head, 1, true)
    assert.equal('{"name":"Ada"}', body)
    head, body = sent { json = 5, headers = { ["content-type"] = "application/x+json" },
      json_codec = { encode = function(value) return "<" .. value .. ">" end, decode = tonumber } }
    assert.matches("content-type: application/x+json\r\n", head, 1, true)
    assert.is_nil(head:find("application/json", 1, true))
    assert.equal("<5>", body)
    local https = network:serve { { 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n\239\187\191{"a":1}' , ok, ok } }
    assert.same({ a = 1 }, assert(https.get "http://a.test/"):json())
    local value, message, err = assert(https.get "http://a.test/"):json()
    assert.is_nil(value)
    assert.same({ "http", "bad_json", err.message }, { err.step, err.code, message })
    local streamed = assert(https.get("http://a.test/", { stream = true, json_codec = {
      decode = function(text) return text:upper() end } }))
    assert.equal("OK", streamed:json())
  end)

  for _, name in ipairs { "cjson", "dkjson" } do
    local found, codec = pcall(require, name)
    it("speaks JSON by " .. name .. (found and "" or ", where it is installed"), function()
      if not found then return end
      local value = { list = { 1, 2.5, "\195\188\n\"" }, yes = true, inner = { a = "b" } }
      local _, body = sent { json = value, json_codec = codec }
      assert.same(value, codec.decode(body))
      local https = network:serve { { ("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"):format(#body, body), ok } }
      assert.same(value, assert(https.get("http://a.test/", { json_codec = codec })):json())
      local none, _, err = assert(https.get("http://a.test/", { json_codec = codec })):json()
      assert.is_nil(none)
      assert.equal("bad_json", err.code)
    end)
  end

  it("says why a value cannot be made JSON", function()
    local head, _, err = sent { json = { f = function() end } }
    assert.is_nil(head)
    assert.equal("bad_json", err.code)
  end)

  it("sends parts, streamed from files, of known length", function()
    local path = tmp.file(("x"):rep(200000), 'a".bin')
    local head, body = sent { multipart = { title = "A photo", photo = { file = path, type = "image/x" } } }
    local boundary = head:match("Content%-Type: multipart/form%-data; boundary=(%S+)\r\n")
    assert.matches("Content-Length: " .. #body .. "\r\n", head, 1, true)
    assert.equal("--" .. boundary .. '\r\nContent-Disposition: form-data; name="photo"; filename="'
      .. path:match("[^/]*$"):gsub('"', "%%22") .. '"\r\n'
      .. "Content-Type: image/x\r\n\r\n" .. ("x"):rep(200000) .. "\r\n--" .. boundary
      .. '\r\nContent-Disposition: form-data; name="title"\r\n\r\nA photo\r\n--' .. boundary .. "--\r\n", body)
    body = select(2, sent { multipart = { { name = "b", data = "1" }, { name = "a", data = "2", filename = "f",
      type = "t/u" }, { name = "b", data = 3 } } })
    assert.matches('name="b"\r\n\r\n1\r\n.*name="a"; filename="f"\r\nContent%-Type: t/u\r\n\r\n2\r\n'
      .. '.*name="b"\r\n\r\n3\r\n', body)
  end)

  it("sends parts again after a redirect, and after a challenge", function()
    local https, opened = network:serve { { fake.redirect(307, "/x"), ok } }
    assert(https.post("http://a.test/", { multipart = { a = { file = tmp.file("data", "f") } } }))
    local _, count = opened[1].connection:written():gsub("\r\n\r\ndata\r\n", "")
    assert.equal(2, count)
  end)

  it("H14 refuses line ends in a part's name, file name and type", function()
    for _, part in ipairs { { name = "a\r\nb", data = "" }, { name = "a", filename = "b\nc", data = "" },
      { name = "a\0", data = "" }, { name = "a", type = "t\r\nX: y", data = "" } } do
      local head, _, err = sent { multipart = { part } }
      assert.is_nil(head)
      assert.equal("bad_header", err.code)
    end
  end)

  it("names the file that cannot be read", function()
    local head, message, err = sent { multipart = { a = { file = "/nowhere/at/all" } } }
    assert.is_nil(head)
    assert.same({ "setup", "unreadable_file" }, { err.step, err.code })
    assert.matches("/nowhere/at/all", message, 1, true)
    assert.is_nil((sent { multipart = { a = { file = "/" } } }))
  end)

  it("raises for two bodies, and for parts that are none", function()
    assert.has_error(function() sent { form = {}, json = {} } end)
    assert.has_error(function() sent { multipart = { {} } } end)
    assert.has_error(function() sent { multipart = { a = {} } } end)
    assert.has_error(function() sent { form = { a = function() end } } end)
  end)
end)

local download = require "tlsconnect.https.download"
local fake = require "spec.support.fake_https"
local run = require "spec.support.run"
local tmp = require "spec.support.tmp"

describe("https download", function()
  local network = fake.new()
  local folder
  before_each(function() folder = tmp.directory() .. "/" end)
  after_each(function() network:restore() end)

  local function answer(status, fields, body, length)
    return ("HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s"):format(status, length or #body, fields, body)
  end

  local function files()
    local names = {}
    for name in run.check({ "ls", "-A", folder }):gmatch("[^\n]+") do names[#names + 1] = name end
    return table.concat(names, " ")
  end

  local function named(headers, url)
    return download.name { headers = setmetatable({}, { __index = headers }), url = url or "http://a.test/x/y.bin?z" }
  end

  it("saves a body under its name, and nothing else", function()
    local https = network:serve { { answer("200 OK", "", "hello"), answer("200 OK", "", "again") } }
    tmp.write(folder .. "a", "old")
    local page = assert(https.get("http://a.test/", { save = folder .. "a" }))
    assert.same({ folder .. "a", "hello" }, { page.saved, tmp.read(folder .. "a") })
    page = assert(https.get("http://a.test/", { stream = true }))
    assert.equal("a", page:read(1))
    assert.equal(folder .. "b", page:save(folder .. "b"))
    assert.equal("gain", tmp.read(folder .. "b"))
    assert.equal("a b", files())
  end)

  it("gives an answer that is not 200 as it is", function()
    local https = network:serve { answer("404 Not Found", "", "none") }
    local page = assert(https.get("http://a.test/", { save = folder .. "a" }))
    assert.same({ 404, "none" }, { page.status, page.body })
    assert.is_nil(page.saved)
    assert.equal("", files())
  end)

  it("H22 leaves the old file, and nothing of its own, when the body is cut", function()
    local https = network:serve { { answer("200 OK", "", "hel", 5), at_end = "closed" } }
    tmp.write(folder .. "a", "old")
    local page, _, err = https.get("http://a.test/", { save = folder .. "a" })
    assert.is_nil(page)
    assert.equal("truncated", err.code)
    assert.same({ "a", "old" }, { files(), tmp.read(folder .. "a") })
  end)

  it("H22 follows no symbolic link, and takes nobody's file", function()
    local https = network:serve { answer("200 OK", 'ETag: "1"\r\n', "hello"), answer("200 OK", "", "hello") }
    tmp.write(folder .. "target", "precious")
    run.check { "ln", "-s", folder .. "target", folder .. "a.part" }
    local page, message, err = https.get("http://a.test/", { save = folder .. "a", resume = true })
    assert.is_nil(page)
    assert.same({ "unwritable_file", err.message }, { err.code, message })
    assert.matches("a.part", message, 1, true)
    assert.equal("precious", tmp.read(folder .. "target"))
    run.check { "ln", "-s", folder .. "target", folder .. "link" }
    assert(https.get("http://a.test/", { save = folder .. "link" }))
    assert.same({ "hello", "precious" }, { tmp.read(folder .. "link"), tmp.read(folder .. "target") })
  end)

  it("names the folder that is not there", function()
    local https = network:serve { answer("200 OK", "", "hello") }
    local page, message, err = https.get("http://a.test/", { save = folder .. "none/a" })
    assert.is_nil(page)
    assert.same({ "setup", "unwritable_file" }, { err.step, err.code })
    assert.matches("none/a", message, 1, true)
  end)

  it("H21 makes a safe name of what the server or the URL says", function()
    assert.equal("y.bin", named {})
    assert.equal("index", named({}, "http://a.test/"))
    assert.equal("index", named({}, "http://a.test"))
    for said, name in pairs {
      ['attachment; filename="../../etc/passwd"'] = "passwd", ['attachment; filename=".bashrc"'] = "bashrc",
      ['attachment; filename="-rf"'] = "rf", ['attachment; filename="..\\..\\a.exe"'] = "a.exe",
      ["attachment; filename=plain.txt"] = "plain.txt", ['attachment; filename="/"'] = "index",
      ['attachment; filename="a/.."'] = "index", ['attachment; filename=""'] = "index",
      ["attachment; filename*=UTF-8''%e2%82%ac%2Frates; filename=\"x\""] = "rates",
      ["attachment; FileName*=utf-8''..%00.x"] = "x", ["attachment"] = "y.bin",
      ["attachment; filename=big.iso.part"] = "big.iso.part.download",
      ['attachment; filename="big.iso.part.info "'] = "big.iso.part.info.download",
    } do
      assert.equal(name, named { ["content-disposition"] = said }, said)
    end
    assert.equal("passwd", named({}, "http://a.test/..%2f..%2fetc%2fpasswd"))
  end)

  it("H21 never takes the place of a file when the name is the server's", function()
    local reply = answer("200 OK", 'Content-Disposition: attachment; filename="a.txt"\r\n', "hello")
    local https = network:serve { { reply, reply } }
    tmp.write(folder .. "a.txt", "old")
    assert.equal(folder .. "a-1.txt", assert(https.get("http://a.test/", { save = folder })).saved)
    assert.equal(folder .. "a-2.txt", assert(https.get("http://a.test/", { save = folder })).saved)
    assert.equal("old", tmp.read(folder .. "a.txt"))
  end)

  local function cut_then(...)
    local https, opened = network:serve { { answer("200 OK", 'ETag: "v1"\r\n', "hello", 11), at_end = "closed" }, ... }
    local seen = {}
    local given = { save = folder .. "a", resume = true, progress = function(now, all)
      seen[#seen + 1] = now .. "/" .. tostring(all)
    end }
    local page, _, err = https.get("http://a.test/", given)
    assert.is_nil(page)
    assert.equal("truncated", err.code)
    assert.equal("hello", tmp.read(folder .. "a.part"))
    seen = {}
    page, _, err = https.get("http://a.test/", given)
    local second = opened[2] and fake.heads(opened[2].connection)[1]
    return page, err, second, table.concat(seen, " "), opened
  end

  it("goes on where it was cut", function()
    local page, err, second, seen = cut_then(answer("206 Partial Content",
      'ETag: "v1"\r\nContent-Range: bytes 5-10/11\r\n', " world"))
    assert.is_nil(err)
    assert.matches('Range: bytes=5-\r\n', second, 1, true)
    assert.matches('If-Range: "v1"\r\n', second, 1, true)
    assert.is_nil(second:find("Accept-Encoding", 1, true))
    assert.same({ "hello world", "a", "11/11" }, { tmp.read(folder .. "a"), files(), seen })
    assert.equal(206, page.status)
  end)

  it("H20 begins anew when the server gives the whole, or another part, or does not say which", function()
    local page = cut_then(answer("200 OK", 'ETag: "v2"\r\n', "another"))
    assert.is_table(page)
    assert.same({ "another", "a" }, { tmp.read(folder .. "a"), files() })
    for _, fields in ipairs { "Content-Range: bytes 4-10/11\r\n", "", "Content-Range: bytes 5-9/11\r\n",
      "Content-Range: bytes 5-10/10\r\n", "Content-Range: bytes */11\r\n", "Content-Range: items 5-10/11\r\n" } do
      folder = tmp.directory() .. "/"
      local _, err = cut_then(answer("206 Partial Content", fields, " world"), answer("200 OK", "", "whole again"))
      assert.is_nil(err)
      assert.same({ "whole again", "a" }, { tmp.read(folder .. "a"), files() })
    end
    folder = tmp.directory() .. "/"
    cut_then({ answer("416 Range Not Satisfiable", "Content-Range: bytes */3\r\n", ""), answer("200 OK", "", "new") })
    assert.equal("new", tmp.read(folder .. "a"))
  end)

  it("asks for the whole where nothing says what the part belongs to", function()
    local https, opened = network:serve { { answer("200 OK", 'ETag: W/"1"\r\n', "hello", 11), at_end = "closed" },
      answer("200 OK", "", "whole") }
    local given = { save = folder .. "a", resume = true }
    assert.is_nil(https.get("http://a.test/", given))
    assert(https.get("http://a.test/", given))
    assert.is_nil(fake.heads(opened[2].connection)[1]:find("Range", 1, true))
    assert.equal("whole", tmp.read(folder .. "a"))
  end)

  it("keeps no secret beside a part", function()
    local https = network:serve { { answer("200 OK", 'ETag: "v1"\r\n', "hello", 11), at_end = "closed" } }
    assert.is_nil(https.get("http://a.test/?key=s3cret", { save = folder .. "a", resume = true }))
    assert.is_nil(tmp.read(folder .. "a.part.info"):find("s3cret", 1, true))
  end)
end)

local fake = require "spec.support.fake_https"

local function length(body) return ("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"):format(#body, body) end
local function chunked(...)
  local parts = { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" }
  for _, part in ipairs { ... } do parts[#parts + 1] = ("%x\r\n%s\r\n"):format(#part, part) end
  return table.concat(parts) .. "0\r\n\r\n"
end

describe("a streamed answer", function()
  local network, https = fake.new(), nil
  after_each(function() network:restore() end)

  local function serve(replies)
    local opened
    https, opened = network:serve(replies)
    return opened
  end

  local function open(...)
    local opened = serve { { ... } }
    return assert(https.get("http://a.test/", { stream = true })), opened[1].connection
  end

  it("reads so many bytes, and gives the connection back at the end", function()
    local page, connection = open(length "hello world", length "again")
    assert.is_nil(page.body)
    assert.equal("hello", page:read(5))
    assert.equal("", page:read(0))
    assert.equal(" world", page:read(100))
    assert.is_nil(page:read(1))
    assert.is_nil(page:read())
    assert.equal("", page:read "a")
    assert.equal("again", assert(https.get("http://a.test/")).body)
    assert.is_nil(connection.closed)
  end)

  it("reads lines, with and without their ends", function()
    local page = open(chunked("one\r", "\ntwo\n\nth", "ree"))
    assert.equal("one", page:read "l")
    assert.equal("two\n", page:read "L")
    assert.same({ "", "three" }, { page:read "l", page:read "*l" })
    assert.is_nil(page:read "l")
    local lines = {}
    page = open(length "a\nb\nc")
    for line in page:lines() do lines[#lines + 1] = line end
    assert.equal("a|b|c", table.concat(lines, "|"))
  end)

  it("gives chunks of a size at most", function()
    local page = open(chunked("hello", "world!"))
    local chunks = {}
    assert.equal("he", page:read(2))
    for chunk in page:chunks(4) do chunks[#chunks + 1] = chunk end
    assert.equal("llo|worl|d!", table.concat(chunks, "|"))
  end)

  it("reads a body that is in memory the same way", function()
    serve { length "one\ntwo\n" }
    local page = assert(https.get("http://a.test/"))
    assert.same({ "one", "two\n" }, { page:read "l", page:read "a" })
    assert.is_nil(page:read(1))
    assert.equal("one\ntwo\n", page.body)
    assert.is_true(page:close())
  end)

  it("never takes half for the whole", function()
    local opened = serve { { "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", at_end = "closed" } }
    local page = assert(https.get("http://a.test/", { stream = true }))
    local ok, err = pcall(function()
      for _ in page:chunks() do assert.is_nil(opened[1].connection.closed) end
    end)
    assert.is_false(ok)
    assert.equal("truncated", err.code)
    local data, message, again = page:read "a"
    assert.is_nil(data)
    assert.same({ "truncated", err.message }, { again.code, message })
    assert.is_true(opened[1].connection.closed)
  end)

  it("Q3 keeps no connection whose body was left unread", function()
    local page, connection = open(length "hello world")
    assert.equal("he", page:read(2))
    page:close()
    assert.is_true(connection.closed)
    local data, _, err = page:read(1)
    assert.is_nil(data)
    assert.equal("closed", err.code)
  end)

  it("holds no connection for an answer without a body", function()
    local page, connection = open("HTTP/1.1 204 No Content\r\n\r\n", length "x")
    assert.is_nil(page:read(1))
    assert.equal("x", assert(https.get("http://a.test/")).body)
    assert.is_nil(connection.closed)
  end)

  it("limits lines, and what is read at once", function()
    local page = open(length(("x"):rep(1024 * 1024 + 2)))
    local line, _, err = page:read "l"
    assert.is_nil(line)
    assert.equal("too_long", err.code)
    serve { length(("x"):rep(100)) }
    page = assert(https.get("http://a.test/", { stream = true, max_body = 50 }))
    line, _, err = page:read "a"
    assert.is_nil(line)
    assert.equal("too_long", err.code)
  end)

  it("fills a sink, and tells of progress", function()
    local got, seen = {}, {}
    serve { chunked("hello", "world!") }
    local page = assert(https.get("http://a.test/", { sink = function(data)
      got[#got + 1] = data or "end"
      return 1
    end, progress = function(now, all) seen[#seen + 1] = now .. "/" .. tostring(all) end }))
    assert.is_nil(page.body)
    assert.equal("hello|world!|end", table.concat(got, "|"))
    assert.equal("5/nil 11/nil", table.concat(seen, " "))
    seen = {}
    serve { length "hello" }
    page = assert(https.get("http://a.test/", {
      progress = function(now, all) seen[#seen + 1] = now .. "/" .. tostring(all) end }))
    assert.same({ "hello", "5/5" }, { page.body, seen[1] })
  end)

  it("fills an open file, however the body is framed, behind what the file holds back", function()
    for _, reply in ipairs { length "hello", chunked("he", "llo"), "HTTP/1.0 200 OK\r\n\r\nhello" } do
      local file, seen = io.tmpfile(), nil
      file:write("first ")
      serve { { reply, at_end = "closed" } }
      local page = assert(https.get("http://a.test/", { sink = file, progress = function(now) seen = now end }))
      assert.is_nil(page.body)
      assert.equal(5, seen)
      file:seek("set")
      assert.equal("first hello", file:read("*a"))
      file:close()
    end
  end)

  it("is no whole file when the body is cut short", function()
    for _, reply in ipairs { "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello" } do
      local file = io.tmpfile()
      serve { { reply, at_end = "closed" } }
      local page, _, err = https.get("http://a.test/", { sink = file })
      assert.is_nil(page)
      assert.equal("truncated", err.code)
      file:close()
    end
  end)

  it("wants an open file, before anything is asked for", function()
    local file = io.tmpfile()
    file:close()
    assert.has_error(function() https.get("http://a.test/", { sink = file }) end,
      "bad option 'sink' to https (a function or an open file expected)")
  end)

  it("ends when the sink fails", function()
    local opened = serve { length "hello" }
    local page, message, err = https.get("http://a.test/", { sink = function() return nil, "disk full" end })
    assert.is_nil(page)
    assert.equal("cancelled", err.code)
    assert.matches("disk full", message, 1, true)
    assert.equal("", opened[1].connection.bytes)
  end)
end)

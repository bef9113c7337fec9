local body = require "tlsconnect.https.body"
local core = require "tlsconnect.core"
local fakes = require "spec.support.fake_connection"
local http1 = require "tlsconnect.https.http1"

local at = { host = "a.test", port = 80 }
local limits = { max_head = 65536, max_headers = 100, first_byte = 60, idle = 60 }

-- Reads an answer as the client does: the answer and its body; or nil, nil, err.
local function read(bytes, options)
  options = options or {}
  local connection = fakes.connection(bytes, options.at_end)
  connection.portion = options.portion
  local answer, kind, length = http1.read_head(connection, at, options.limits or limits)
  if not answer then return nil, nil, length, connection end
  if options.method == "HEAD" then kind = "none" end
  if not kind then return nil, nil, { code = "bad_framing", message = length }, connection end
  local reader = body.new(connection, at, kind, length, options.limits or limits)
  local whole, _, err
  if options.pieces then
    local pieces = {}
    while true do
      local data
      data, _, err = reader:read(options.pieces)
      if not data then break end
      pieces[#pieces + 1] = data
    end
    whole = not err and table.concat(pieces) or nil
  else
    whole, _, err = reader:all(options.max or 1000000)
  end
  if not whole then return nil, nil, err, connection end
  assert.is_true(reader.done)
  return answer, whole, nil, connection
end

local function code_of(...)
  local answer, _, err = read(...)
  assert.is_nil(answer)
  return err.code
end

local function ok(fields) return "HTTP/1.1 200 OK\r\n" .. fields .. "\r\n" end

describe("http1", function()
  it("reads status, reason and headers", function()
    local answer, whole = read(ok "Server: x\r\nSet-Cookie: a=1\r\nset-cookie: b=2, c\r\nX-A: 1\r\nx-a:\t2 \t\r\n"
      .. "list", { at_end = "closed" })
    assert.same({ 200, "OK", 1.1, "list" }, { answer.status, answer.reason, answer.version, whole })
    local headers = answer.headers
    assert.equal("x", headers.SERVER)
    assert.equal("1, 2", headers["x-A"])
    assert.equal("a=1", headers["set-cookie"])
    assert.same({ "a=1", "b=2, c" }, headers:list("Set-Cookie"))
    assert.is_nil(headers.missing)
    assert.same({}, headers:list("missing"))
    local seen = {}
    for name, value in headers:each() do seen[#seen + 1] = name .. "=" .. value end
    assert.equal("Server=x|Set-Cookie=a=1|set-cookie=b=2, c|X-A=1|x-a=2", table.concat(seen, "|"))
  end)

  it("keeps headers whose names are those of methods apart from these", function()
    local answer = read(ok "each: 1\r\nget: 2\r\nlist: 3\r\n0: 4\r\n__index: 5\r\n")
    local headers = answer.headers
    assert.is_function(headers.each)
    assert.same({ "1", "2", "3", "4", "5" }, { headers:get "each", headers:get "get", headers:get "list",
      headers["0"], headers.__index })
  end)

  it("reads bodies by length, by chunks and by the end", function()
    for _, pieces in ipairs { false, 1, 3, 65536 } do
      for _, portion in ipairs { 1, 2, 1000 } do
        local options = { pieces = pieces or nil, portion = portion, at_end = "timeout" }
        local _, whole = read(ok "Content-Length: 5\r\n" .. "hello", options)
        assert.equal("hello", whole)
        _, whole = read(ok "Transfer-Encoding: Chunked\r\n"
          .. "5;x=\"a;b\\\"\"\r\nhello\r\n00B\r\n, the world\r\n0\r\nTrailer: x\r\n\r\n", options)
        assert.equal("hello, the world", whole)
        options.at_end = "closed"
        _, whole = read(ok "" .. "until the end", options)
        assert.equal("until the end", whole)
      end
    end
  end)

  it("reads no body after HEAD, 204 and 304, whatever the headers say", function()
    local connection = select(4, read(ok "Content-Length: 5\r\n" .. "next!", { method = "HEAD", at_end = "timeout" }))
    assert.equal("next!", connection.bytes)
    for _, status in ipairs { 204, 304 } do
      local answer, whole = read("HTTP/1.1 " .. status .. " x\r\nTransfer-Encoding: chunked\r\n\r\n",
        { at_end = "timeout" })
      assert.same({ status, "" }, { answer.status, whole })
    end
  end)

  it("passes interim answers over", function()
    local answer, whole = read("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
      .. ok "Content-Length: 2\r\n" .. "ok", { at_end = "timeout" })
    assert.same({ 200, "ok" }, { answer.status, whole })
    assert.is_nil(answer.headers.link)
  end)

  it("joins a body of many small chunks", function()
    local chunks = {}
    for i = 1, 3000 do chunks[i] = "1\r\n" .. string.char(97 + i % 26) .. "\r\n" end
    local bytes = ok "Transfer-Encoding: chunked\r\n" .. table.concat(chunks) .. "0\r\n\r\n"
    local _, whole = read(bytes)
    local _, pieced = read(bytes, { pieces = 10 })
    assert.equal(3000, #whole)
    assert.equal(whole, pieced)
    assert.equal("bcd", whole:sub(1, 3))
  end)

  it("H1 refuses a Content-Length that is not one plain number", function()
    for _, value in ipairs { "+5", "0x5", "1e3", "-1", "5.0", "5 5", "", ",5", "5,", "5, 6", "5,\v5", "five",
      "9007199254740993", "9007199254740992", "99999999999999999999", "5;", "\1775" } do
      assert.equal("bad_framing", code_of(ok("Content-Length: " .. value .. "\r\n") .. "hello"), value)
    end
    assert.equal("bad_framing", code_of(ok "Content-Length: 5\r\nContent-Length: 6\r\n" .. "hello!"))
    local _, whole = read(ok "Content-Length: 5, 5\r\nContent-Length: 005\r\n" .. "hello", { at_end = "timeout" })
    assert.equal("hello", whole)
    local _, kind, length = core.head(ok "Content-Length: 9007199254740991\r\n", 9)
    assert.same({ "length", 9007199254740991 }, { kind, length })
  end)

  it("H2 refuses chunk sizes that Lua would read", function()
    local head = ok "Transfer-Encoding: chunked\r\n"
    for _, line in ipairs { " 5\r\n", "5 \r\n", " 5 \r\n", "-5\r\n", "+5\r\n", "0x5\r\n", "5\n", "5\r\r\n", "\r\n",
      "00000000000000005\r\n", "ffffffffffffffff\r\n", "7fffffffffffffff\r\n", "8000000000000005\r\n", "5.0\r\n",
      "5h\r\n", "5 x\r\n", "5;a\0\r\n", "5;a=\"b\r\n", "five\r\n", "5e0g\r\n" } do
      assert.equal("bad_chunk", code_of(head .. line .. "hello\r\n0\r\n\r\n"), line)
      assert.equal("bad_chunk", code_of(head .. line .. "hello\r\n0\r\n\r\n", { pieces = 100 }), line)
    end
    for _, after in ipairs { "\n\n0\r\n\r\n", "xx0\r\n\r\n", "\r0\r\n\r\n" } do
      assert.equal("bad_chunk", code_of(head .. "5\r\nhello" .. after), after)
    end
    local _, whole = read(head .. "5 ;a\r\nhello\r\n0000000000000000\r\n\r\n", { at_end = "timeout" })
    assert.equal("hello", whole)
  end)

  it("H3 refuses two framings, and codings that it does not know", function()
    for _, fields in ipairs {
      "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: xchunked\r\n",
      "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: \r\n",
      "Transfer-Encoding: chunked, xchunked\r\n", "Transfer-Encoding: ,chunked\r\n",
      "Transfer-Encoding: chunked;q=1\r\n", "Transfer-Encoding: chunked chunked\r\n",
      "Transfer-Encoding: \"chunked\"\r\n", "Transfer-Encoding: gzip,gzip,gzip,gzip,chunked\r\n",
    } do
      assert.equal("bad_framing", code_of(ok(fields) .. "5\r\nhello\r\n0\r\n\r\n"), fields)
    end
    assert.equal("bad_framing",
      code_of("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
  end)

  it("H4 an end inside a chunk line, a body or a trailer is an error at once", function()
    local whole = ok "Transfer-Encoding: chunked\r\n" .. "5;x\r\nhello\r\n0\r\nA: b\r\n\r\n"
    for cut = 0, #whole - 1 do
      for _, at_end in ipairs { "closed", "truncated", "reset" } do
        local connection, _
        local answer
        answer, _, _, connection = read(whole:sub(1, cut), { at_end = at_end })
        assert.is_nil(answer)
        assert.is_true(connection.reads < 20)
      end
    end
    local head = ok "Content-Length: 5\r\n"
    local _, _, err = read(head .. "hell", { pieces = 3 })
    assert.equal("truncated", err.code)
    assert.matches("after 4 of 5 bytes", err.message, 1, true)
    assert.equal("truncated", code_of(head .. "hell"))
    assert.equal("reset", code_of(head .. "hell", { at_end = "reset" }))
  end)

  it("H4 an answer garbled at any byte is an answer or a clear error, never anything else", function()
    local answers = {
      ok "Content-Length: 5\r\nConnection: keep-alive\r\nX-A: b\r\n" .. "hello",
      "HTTP/1.1 100 Continue\r\n\r\n" .. ok "Transfer-Encoding: chunked\r\n"
        .. "5;x=\"y\"\r\nhello\r\n0\r\nTrailer: x\r\n\r\n",
    }
    local garbages = { "", "\0", "\r", "\n", " ", "\t", ":", ";", "0", "9", "f", "\255", "\r\n\r\n" }
    local codes = { bad_header = true, not_http = true, bad_framing = true, bad_chunk = true, bad_status = true,
      truncated = true, closed = true, timeout = true, too_long = true }
    for _, answer in ipairs(answers) do
      for place = 1, #answer do
        for _, garbage in ipairs(garbages) do
          for _, keep in ipairs { 0, 1 } do
            local bytes = answer:sub(1, place - 1) .. garbage .. answer:sub(place + 1 - keep)
            local head, body_read, err, connection = read(bytes, { at_end = place % 2 == 0 and "timeout" or "closed" })
            assert.is_true(connection.reads < 40)
            if not head then
              assert.is_true(codes[err.code] or false, err.code)
            else
              assert.is_string(body_read)
            end
          end
        end
      end
    end
  end)

  it("A4 a body that only the end delimits needs close_notify", function()
    assert.equal("truncated", code_of(ok "" .. "half", { at_end = "truncated" }))
    local _, whole = read(ok "Content-Length: 4\r\n" .. "full", { at_end = "truncated" })
    assert.equal("full", whole)
  end)

  it("H5 limits chunk extensions, trailers and headers, interim answers included", function()
    local chunked = ok "Transfer-Encoding: chunked\r\n"
    assert.equal("too_long", code_of(chunked .. "5;" .. ("x"):rep(5000) .. "\r\nhello\r\n0\r\n\r\n"))
    assert.equal("too_long", code_of(chunked .. ("1;" .. ("x"):rep(1000) .. "\r\na\r\n"):rep(100) .. "0\r\n\r\n"))
    assert.equal("too_long", code_of(chunked .. "0\r\n" .. ("A: " .. ("x"):rep(1000) .. "\r\n"):rep(100) .. "\r\n"))
    assert.equal("too_long", code_of(chunked .. "0\r\n" .. ("A: b\r\n"):rep(200) .. "\r\n"))
    assert.equal("too_long", code_of(ok("A: " .. ("x"):rep(70000) .. "\r\n")))
    assert.equal("too_long", code_of(ok(("A: b\r\n"):rep(101))))
    assert.is_table(read(ok(("A: b\r\n"):rep(100))))
    local interim = "HTTP/1.1 103 Hints\r\nLink: " .. ("x"):rep(5000) .. "\r\n\r\n"
    assert.equal("too_long", code_of(interim:rep(15) .. ok ""))
    assert.equal("too_long", code_of(ok "Content-Length: 11\r\n" .. "hello world", { max = 10 }))
    assert.equal("too_long", code_of(chunked .. "b\r\nhello world\r\n0\r\n\r\n", { max = 10 }))
    assert.equal("too_long", code_of(ok "" .. "hello world", { max = 10 }))
  end)

  it("H6 refuses a blank before the colon, a folded line, NUL and a bare CR", function()
    for _, fields in ipairs { "A : b\r\n", "A\t: b\r\n", " A: b\r\n", "A: b\r\n c\r\n", "A: b\r\n\tc\r\n", ": b\r\n",
      "A\r\n", "A: b\rc\r\n", "A: b\r\r\n", "A: b\0c\r\n", "A\0: b\r\n", "A(: b\r\n", "\195\188: b\r\n",
      "A: b\n\rC: d\r\n" } do
      assert.equal("bad_header", code_of(ok(fields)), fields)
    end
    local chunked = ok "Transfer-Encoding: chunked\r\n" .. "0\r\n"
    for _, trailer in ipairs { "A : b\r\n", " A: b\r\n", "A: b\0\r\n", "A: b\n", "A\r\n", "A: b\rc\r\n" } do
      assert.equal("bad_header", code_of(chunked .. trailer .. "\r\n"), trailer)
    end
  end)

  it("H7 a value of 100,000 blanks takes linear time", function()
    local wide = { limits = { max_head = 1000000, max_headers = 10, first_byte = 60, idle = 60 }, at_end = "closed" }
    local blanks = (" "):rep(100000)
    local answer = read(ok("A:" .. blanks .. "\r\nB:" .. blanks .. "b" .. blanks .. "\r\n"), wide)
    assert.same({ "", "b" }, { answer.headers.a, answer.headers.b })
    assert.equal("bad_header", code_of(ok("A:" .. blanks .. "\r" .. blanks .. "\r\n"), wide))
    assert.equal("bad_header", code_of(ok("A" .. blanks .. ":" .. blanks .. "\r\n"), wide))
    assert.equal("bad_framing", code_of(ok("Content-Length: " .. ("0"):rep(100000) .. "x\r\n"), wide))
    assert.equal("bad_framing", code_of(ok("Content-Length: 5" .. blanks .. "x\r\n"), wide))
    assert.equal("bad_framing", code_of(ok("Transfer-Encoding: chunked" .. blanks .. "x\r\n"), wide))
  end)

  it("H8 bounds interim answers, and refuses to switch protocols unasked", function()
    assert.equal("bad_status", code_of(("HTTP/1.1 100 Continue\r\n\r\n"):rep(1000) .. ok ""))
    assert.equal("bad_status", code_of("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"))
  end)

  it("refuses what does not begin as HTTP/1 does", function()
    for _, line in ipairs { "SSH-2.0-x", "HTTP/1.1", "HTTP/1.1 ", "HTTP/1.1  200 OK", "HTTP/1.1 20 OK",
      "HTTP/1.1 2000 OK", "HTTP/1.1 abc", "http/1.1 200 OK", "HTTP/2.0 200 OK",
      "HTTP/01.1 200 OK", "HTTP/1.1\t200 OK", "HTTP/1.1 200OK",
      "HTTP/1,1 200 OK", " HTTP/1.1 200 OK", "" } do
      assert.equal("not_http", code_of(line .. "\r\n\r\n"), line)
    end
    local _, _, err = read("\27[31mred\7\r\n\r\n")
    assert.matches("\\x1B[31mred\\x07", err.message, 1, true)
  end)

  it("says whether the connection may go on", function()
    local function persistent(version, fields)
      local _, _, _, keep = core.head("HTTP/" .. version .. " 200 OK\r\n" .. fields .. "\r\n", 10)
      return keep
    end
    assert.is_true(persistent("1.1", ""))
    assert.is_true(persistent("1.0", "Connection: x, Keep-Alive\r\n"))
    assert.is_false(persistent("1.0", ""))
    assert.is_false(persistent("1.1", "Connection: Upgrade ,\tClose\r\n"))
    assert.is_false(persistent("1.1", "Connection: x\r\nConnection: close\r\n"))
    assert.is_false(persistent("1.0", "Connection: close, keep-alive\r\n"))
  end)
end)

-- Hostile bytes in the head of an answer: refused, or read in the one way that they can be read.
local core = require "tlsconnect.core"
local sockets = require "spec.support.sockets"

local heads = {
  "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 1024\r\nConnection: keep-alive\r\nETag: \"x\"\r\n\r\n",
  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nX-A: 1\r\nx-a: 2\r\n\r\n",
  "HTTP/1.0 404 \r\nContent-Length: 5, 5\r\ncontent-length: 005\r\nConnection: Keep-Alive, x\r\n\r\n",
  "HTTP/1.1 304 Not Modified\nETag:x\nTransfer-Encoding: gzip, chunked\n\n",
  "HTTP/1.1 100 Continue\r\n\r\n",
  "HTTP/1.1 200 OK\r\n" .. ("A: b\r\n"):rep(40) .. "Content-Encoding: br\r\nKeep-Alive: timeout=5\r\n\r\n",
}

local garbage = { "", "\0", "\r", "\n", " ", "\t", ":", ",", "0", "9", "f", "\255", "\r\n", "\r\n\r\n", "-", "+",
  "chunked", "close", "Content-Length: 7\r\n", "Transfer-Encoding: chunked\r\n", "Connection: close\r\n", "HTTP/1.0",
  "gzip,gzip,gzip", ("9"):rep(17), (" "):rep(50) }

local codes = { bad_header = true, not_http = true, too_long = true }

-- Status, fields and framing as one text; nil when it is refused.
local function told(text, most)
  local answer, kind, length, keep, more = core.head(text, most)
  if not answer then
    assert.is_true(codes[kind], kind)
    assert.is_string(length)
    return nil, kind
  end
  local parts = { answer.status, answer.reason, answer.version, tostring(kind), tostring(length), tostring(keep),
    tostring(more) }
  if math.floor(answer.status / 100) == 1 then parts[5] = "" end -- the size of its own head
  for name, value in answer.headers:each() do
    assert.truthy(name:find("^[%w!#$%%&'*+%-.^_`|~]+$"))
    assert.falsy(value:find("[%z\r\n]") or value:find("^[ \t]") or value:find("[ \t]$"))
    parts[#parts + 1] = name .. "=" .. value
  end
  return table.concat(parts, "|"), answer, kind, length
end

-- The same head as a careful server would write it.
local function rewritten(answer)
  local lines = { ("HTTP/%.1f %03d %s"):format(answer.version, answer.status, answer.reason) }
  for name, value in answer.headers:each() do lines[#lines + 1] = name .. ": " .. value end
  return table.concat(lines, "\r\n") .. "\r\n\r\n"
end

describe("heads of answers", function()
  it("H1 H3 H6 mutated are refused, or say what they would say when written properly", function()
    local seed = 20261124
    local function random(n)
      seed = (seed * 16807) % 2147483647
      return seed % n + 1
    end
    local taken, refused = 0, 0
    for _ = 1, os.getenv "SOAK" and 500000 or 10000 do
      local text = heads[random(#heads)]
      for _ = 1, random(3) do
        local at = random(#text)
        text = text:sub(1, at - 1) .. garbage[random(#garbage)] .. text:sub(at + random(3) - 1)
      end
      local said, answer, kind, length = told(text, 60)
      if said then
        taken = taken + 1
        assert.equal(said, (told(rewritten(answer), 60)))
        local lengths = answer.headers:list "content-length"
        if kind == "length" then
          assert.equal(0, #answer.headers:list "transfer-encoding")
          for _, value in ipairs(lengths) do
            for member in (value .. ","):gmatch("([^,]*),") do
              assert.equal(length, tonumber(member:match("^[ \t]*(%d+)[ \t]*$"), 10))
            end
          end
        elseif kind == "chunked" then
          assert.same({ 0, 1 }, { #lengths, #answer.headers:list "transfer-encoding" })
        elseif kind == "close" then
          assert.equal(0, #lengths)
        end
      else
        refused = refused + 1
      end
    end
    assert.is_true(taken > 1000 and refused > 1000)
  end)

  it("cut anywhere are refused, and nothing behind the cut is read", function()
    for _, head in ipairs(heads) do
      for size = 0, #head - 1 do
        local text = head:sub(1, size)
        -- The last line's LF is the end of the head, but for its CR.
        if told(text, 60) then assert.equal("\n", text:sub(-1)) end
      end
    end
  end)

  it("come in any pieces, and what stands behind them stays", function()
    for _, head in ipairs(heads) do
      for cut = 1, #head do
        local here, there = sockets.pair()
        there:write(head:sub(1, cut - 1))
        if cut > 1 then sockets.readable(here) end
        local answer, want = here:read("answer", 65536, 60)
        assert.same({ nil, "want_read" }, { answer, want })
        there:write(head:sub(cut) .. "body")
        sockets.readable(here)
        repeat answer = here:read("answer", 65536, 60) until answer ~= nil
        assert.equal(core.head(head, 60).headers:get "content-length", answer.headers:get "content-length")
        assert.equal("body", sockets.read(here, 4))
        here:close()
        there:close()
      end
    end
  end)

  it("bring their body along where all of it is here and it may be handed out", function()
    local function read(text, most)
      local here, there = sockets.pair()
      there:write(text)
      sockets.readable(here)
      local answer, kind, length, keep, more, body = here:read("answer", 65536, 60, most)
      local left = here:take()
      here:close()
      there:close()
      return { answer and answer.status, kind, length, keep, more, body, left }
    end
    local five = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, next"
    assert.same({ 200, "length", 5, true, false, "hello", ", next" }, read(five, 5))
    assert.same({ 200, "length", 5, true, false, nil, "hello, next" }, read(five, 4))
    assert.same({ 200, "length", 5, true, false, nil, "hello, next" }, read(five))
    assert.same({ 200, "length", 5, true, false, nil, "hell" }, read(five:sub(1, -8), 5))
    local coded = five:gsub("\r\n\r\n", "\r\nContent-Encoding: gzip\r\n\r\n")
    assert.same({ 200, "length", 5, true, true, nil, "hello, next" }, read(coded, 5))
    assert.same({ 204, "none", nil, true, false, nil, "hello, next" }, read((five:gsub("200", "204")), 5))
    assert.same({ 100, "none", #five - 11, true, false, nil, "hello, next" }, read((five:gsub("200", "100")), 5))
    assert.same({ false, "bad_header", "sent a malformed header line: ", "A : b\r", nil, nil, "x" },
      read("HTTP/1.1 200 OK\r\nA : b\r\n\r\nx", 5))
  end)

  it("are counted in lines and bytes", function()
    local head = "HTTP/1.1 200 OK\r\n" .. ("A: b\r\n"):rep(60) .. "\r\n"
    assert.equal(60, #core.head(head, 60).headers:list "a")
    assert.equal(60 * 3 - 2, #core.head(head, 60).headers.A)
    assert.same({ false, "too_long", "sent more than 59 header lines" }, { core.head(head, 59) })
    local here, there = sockets.pair()
    there:write(head)
    local _, _, cause = sockets.read(here, "answer", #head - 1, 60)
    assert.equal("too_long", cause.code)
    assert.equal(200, sockets.read(here, "answer", #head, 60).status)
    here:close()
    there:close()
  end)

  it("Z6 of 100,000 fields take linear time, and no stack", function()
    local head = "HTTP/1.1 200 OK\r\n" .. ("A: b\r\n"):rep(100000) .. "\r\n"
    local answer = core.head(head, 100000)
    assert.equal(100000, #answer.headers:list "a")
    assert.equal(299998, #answer.headers.a)
    local count = 0
    for _ in answer.headers:each() do count = count + 1 end
    assert.equal(100000, count)
  end)

  it("H6 with more than 2 KB, and a bad line behind many good ones, are refused like small ones", function()
    local head = "HTTP/1.1 200 OK\r\n" .. ("A: " .. ("b"):rep(100) .. "\r\n"):rep(50)
    local here, there = sockets.pair()
    there:write(head .. "A\r\n\r\n")
    sockets.readable(here)
    local answer, code, _, shown = here:read("answer", 65536, 60)
    assert.same({ false, "bad_header", "A\r" }, { answer, code, shown })
    there:write(head .. "\r\n")
    assert.equal(50, #sockets.read(here, "answer", 65536, 60).headers:list "a")
    here:close()
    there:close()
  end)
end)

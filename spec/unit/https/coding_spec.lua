-- Bodies that were compressed: each coding, each way to damage it, and bombs.
local core = require "tlsconnect.core"
local optional = require "tlsconnect.optional"
local fake = require "spec.support.fake_https"
local run = require "spec.support.run"
local tmp = require "spec.support.tmp"

local text = ("The quick brown fox jumps over the lazy dog. "):rep(2000)

-- What a command makes of bytes.
local function pipe(command, data)
  local from, to = tmp.file(data, "plain"), tmp.path("packed")
  run.check(("%s <'%s' >'%s'"):format(command, from, to))
  return tmp.read(to)
end

local function big_endian(number)
  local bytes = {}
  for i = 4, 1, -1 do
    bytes[i] = string.char(number % 256)
    number = math.floor(number / 256)
  end
  return table.concat(bytes)
end

local function adler(data)
  local a, b = 1, 0
  for i = 1, #data do
    a = (a + data:byte(i)) % 65521
    b = (b + a) % 65521
  end
  return big_endian(b * 65536 + a)
end

local function bare(data)
  return (pipe("gzip -n -9", data):sub(11, -9))
end

local encode = {
  gzip = function(data) return pipe("gzip -n -9", data) end,
  ["x-gzip"] = function(data) return pipe("gzip -n -9", data) end,
  deflate = function(data) return "\120\218" .. bare(data) .. adler(data) end,
  br = function(data) return pipe("brotli -c", data) end,
  zstd = function(data) return pipe("zstd -c -q", data) end,
}

local function available(name)
  for _, known in ipairs(core.codings) do
    if known == name or "x-" .. known == name then return true end
  end
  return false
end

describe("body codings", function()
  local network, https = fake.new(), nil
  after_each(function() network:restore() end)

  local function serve(replies)
    local opened
    https, opened = network:serve(replies)
    return opened
  end

  local function answer(coding, body, status)
    local fields = ""
    for _, name in ipairs(type(coding) == "table" and coding or { coding }) do
      fields = fields .. "Content-Encoding: " .. name .. "\r\n"
    end
    return ("HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n"):format(status or "200 OK", fields, #body) .. body
  end

  -- The error that a body meets.
  local function refused(coding, body, options)
    serve { answer(coding, body) }
    local page, message, err = https.get("http://a.test/", options)
    assert.is_nil(page)
    assert.equal(err.message, message)
    return err
  end

  for name, pack in pairs(encode) do
    if available(name) then
      it("decodes " .. name, function()
        serve { answer(name, pack(text)), answer(name:upper(), pack("")) }
        local page = assert(https.get("http://a.test/", { keep_alive = false }))
        assert.equal(text, page.body)
        assert.equal(name, page.headers["content-encoding"])
        assert.equal("", assert(https.get("http://a.test/")).body)
      end)

      it("decodes " .. name .. " byte by byte, for a sink and for a reader", function()
        local chunks = {}
        local packed = pack(text)
        for i = 1, #packed do chunks[i] = "1\r\n" .. packed:sub(i, i) .. "\r\n" end
        local reply = "HTTP/1.1 200 OK\r\nContent-Encoding: " .. name .. "\r\nTransfer-Encoding: chunked\r\n\r\n"
          .. table.concat(chunks) .. "0\r\n\r\n"
        serve { reply, reply }
        local got = {}
        assert(https.get("http://a.test/", { keep_alive = false, sink = function(data)
          got[#got + 1] = data
          return true
        end }))
        assert.equal(text, table.concat(got))
        local page = assert(https.get("http://a.test/", { stream = true }))
        assert.equal(text:sub(1, 100), page:read(100))
        assert.equal(text:sub(101), page:read("a"))
      end)

      it("H17 " .. name .. " that is cut short is an error, wherever it is cut", function()
        local packed = pack(text)
        for _, at in ipairs { 1, 2, 5, 12, math.floor(#packed / 2), #packed - 9, #packed - 4, #packed - 1 } do
          local err = refused(name, packed:sub(1, at))
          assert.equal("truncated", err.code, at)
          assert.equal("http", err.step)
        end
      end)

      it("H17 " .. name .. " with junk behind it is an error", function()
        for _, tail in ipairs { "x", ("\0"):rep(100), "\31", "\31\139x" } do
          local err = refused(name, pack(text) .. tail)
          assert.is_true(err.code == "bad_coding" or err.code == "truncated" and tail:byte() == 31, tail)
        end
      end)
    end
  end

  if available "gzip" then
    it("H17 a wrong checksum or length is an error, and no part of the body comes as the whole", function()
      local packed = encode.gzip(text)
      for _, at in ipairs { #packed - 7, #packed - 3 } do
        local err = refused("gzip", packed:sub(1, at) .. string.char((packed:byte(at + 1) + 1) % 256)
          .. packed:sub(at + 2))
        assert.equal("bad_coding", err.code)
        assert.truthy(err.message:find("a.test:80 sent a body in a broken coding %(gzip%): its checksum is wrong"),
          err.message)
      end
      assert.equal("bad_coding", refused("deflate", encode.deflate(text):sub(1, -2) .. "\0").code)
    end)

    it("reads gzip of several members, and deflate without its wrapper", function()
      serve { answer("gzip", encode.gzip("one ") .. encode.gzip("") .. encode.gzip("two")),
        answer("deflate", bare(text)) }
      assert.equal("one two", assert(https.get("http://a.test/", { keep_alive = false })).body)
      assert.equal(text, assert(https.get("http://a.test/")).body)
    end)

    it("takes several codings off, the last one first", function()
      local packed = encode.deflate(encode.gzip(text))
      serve { answer("gzip, deflate", packed), answer({ "gzip", "identity", "deflate" }, packed) }
      assert.equal(text, assert(https.get("http://a.test/", { keep_alive = false })).body)
      assert.equal(text, assert(https.get("http://a.test/")).body)
    end)

    it("H16 refuses a body in more than a handful of codings", function()
      local many = {}
      for i = 1, 1000 do many[i] = "gzip" end
      assert.equal("bad_coding", refused(many, "x", { max_headers = 2000 }).code)
      assert.equal("bad_coding", refused(table.concat(many, ","), "x").code)
      assert.truthy(refused("gzip,gzip,gzip,gzip,gzip", "x").message:find("more than 4 codings", 1, true))
    end)

    it("H15 holds the limit of a body in memory, too, and what was asked for in its place", function()
      local packed = encode.gzip(("\0"):rep(1000000))
      local err = refused("gzip", packed, { max_body = 100000 })
      assert.equal("too_long", err.code)
      assert.truthy(err.message:find("longer than 100000 bytes (once it is decoded)", 1, true)
        or err.message:find("grows beyond 100000 bytes as it is decoded", 1, true), err.message)
      serve { answer("gzip", packed) }
      assert.equal(1000000, #assert(https.get("http://a.test/", { max_body = 1000000 })).body)
    end)

    it("H15 does not decode what it only reads past", function()
      local decoder = optional.decoder
      optional.decoder = function() error "decoded" end
      local opened = serve { {
        "HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nno gzip!!",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
      } }
      local page = assert(https.get("http://a.test/"))
      optional.decoder = decoder
      assert.equal("ok", page.body)
      assert.equal(1, #opened)
    end)

    it("leaves a body as it is where that is wanted, and a part of one", function()
      local packed = encode.gzip(text)
      local opened = serve { answer("gzip", packed), answer("gzip", packed:sub(1, 10), "206 Partial Content") }
      assert.equal(packed, assert(https.get("http://a.test/", { decompress = false, keep_alive = false })).body)
      assert.is_nil(opened[1].connection:written():find("Accept-Encoding", 1, true))
      local page = assert(https.get("http://a.test/", { headers = { Range = "bytes=0-9" } }))
      assert.equal(packed:sub(1, 10), page.body)
      assert.is_nil(opened[2].connection:written():find("Accept-Encoding", 1, true))
    end)

    it("asks for what this build decodes, unless the caller says what", function()
      local opened = serve { { answer("identity", "1"), answer("identity", "2") } }
      assert(https.get("http://a.test/", { headers = { A = "1" } }))
      assert.equal("2", assert(https.get("http://a.test/", { headers = { ["accept-encoding"] = "gzip;q=0.5" } })).body)
      local sent = opened[1].connection.sent
      assert.truthy(sent[1]:find("\r\nAccept-Encoding: " .. table.concat(core.codings, ", ") .. "\r\n", 1, true))
      assert.truthy(sent[2]:find("\r\naccept-encoding: gzip;q=0.5\r\n", 1, true))
      assert.is_nil(sent[2]:find("Accept-Encoding", 1, true))
    end)

    it("takes an empty body for what it is", function()
      serve { answer("gzip", ""),
        "HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" }
      assert.equal("", assert(https.get("http://a.test/", { keep_alive = false })).body)
      assert.equal("", assert(https.get("http://a.test/")).body)
    end)
  end

  if available "zstd" then
    it("H17 zstd with a window of 2 GB is refused before it takes memory", function()
      -- RFC 8878 3.1.1.1: no single segment, no checksum; window descriptor: exponent 21, 2^31 bytes
      local frame = "\40\181\47\253" .. "\0" .. string.char(21 * 8) .. "\1\0\0"
      local err = refused("zstd", frame)
      assert.equal("bad_coding", err.code)
      assert.truthy(err.message:find("a window of more than 8 MiB", 1, true), err.message)
      serve { answer("zstd", "\40\181\47\253" .. "\0" .. string.char(13 * 8) .. "\1\0\0") }
      assert.equal("", assert(https.get("http://a.test/")).body)
    end)
  end

  it("refuses a coding that is not known, and names it", function()
    local err = refused("xzibit", "x")
    assert.equal("bad_coding", err.code)
    assert.equal('a.test:80 sent a body in the coding "xzibit": it cannot be decoded by this build', err.message)
    assert.equal("bad_coding", refused("gzip;q=1", "x").code)
  end)

  it("says which are there", function()
    local features = require("tlsconnect").features
    for _, name in ipairs(core.codings) do assert.is_true(features.codings[name]) end
    assert.is_nil(features.codings.compress)
  end)

  it("gives a decoder that says how far it came", function()
    if not available "gzip" then return end
    local decoder = assert(optional.decoder "gzip")
    local packed = encode.gzip(text)
    local out, from = {}, 1
    while true do
      local piece
      piece, from = assert(decoder:decode(packed, from, 1000))
      assert.is_true(#piece <= 1000)
      if piece == "" then break end
      out[#out + 1] = piece
    end
    assert.equal(text, table.concat(out))
    assert.equal(#packed + 1, from)
    assert.is_true(decoder:finished())
    decoder:close()
    decoder:close()
    assert.has_error(function() decoder:finished() end)
    assert.has_error(function() assert(optional.decoder "gzip"):decode(packed, 0) end)
    assert.has_error(function() assert(optional.decoder "gzip"):decode(packed, #packed + 2) end)
  end)
end)

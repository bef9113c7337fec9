local errors = require "tlsconnect.error"
local process = require "spec.support.process"
local steps = require "tlsconnect.steps"
local tmp = require "spec.support.tmp"

describe("error", function()
  it("is what the program prints: tostring(err) is the message", function()
    local err = errors.new { step = "tcp", code = "refused", host = "a.test", port = 443 }
    assert.equal("a.test:443 refused the connection", err.message)
    assert.equal(err.message, tostring(err))
    assert.is_true(errors.is(err))
    assert.is_false(errors.is({ code = "refused" }))
  end)

  it("returns nil, message, err", function()
    local err = errors.new { step = "tcp", code = "refused", host = "a.test", port = 443 }
    local nothing, message, same = errors.fail(err)
    assert.is_nil(nothing)
    assert.equal(err.message, message)
    assert.equal(err, same)
  end)

  it("uses LuaSocket's words, and keeps the sentence in detail", function()
    local err = errors.new { step = "server_hello", code = "timeout", host = "a.test", port = 443,
      doing = "waiting for ServerHello" }
    assert.equal("timeout", err.message)
    assert.equal("a.test:443: time is over while waiting for ServerHello", err.detail)
    assert.equal("closed", errors.new({ step = "data", code = "closed", host = "a.test" }).message)
    assert.equal("a.test closed the connection while waiting for ServerHello", errors.new({ code = "closed",
      step = "server_hello", host = "a.test", doing = "waiting for ServerHello" }).message)
  end)

  it("never calls a reset or a truncated stream closed", function()
    for _, code in ipairs { "reset", "truncated" } do
      local err = errors.new { step = "data", code = code, host = "a.test", port = 443 }
      assert.not_equal("closed", err.message)
      assert.truthy(err.message:find("a.test:443", 1, true))
    end
  end)

  it("adds the step, the host and the sentence to what the core says", function()
    local cause = { code = "reset", message = "Connection reset by peer", errno = 104, at = "ServerHello" }
    local err = errors.from(cause, { step = "server_hello", host = "example.org", port = 443 })
    assert.equal("connection reset by example.org:443 while waiting for ServerHello", err.message)
    assert.equal("server_hello", err.step)
    assert.equal(104, err.errno)
    assert.equal("ServerHello", err.at)
    assert.equal("Connection reset by peer", err.cause)
    assert.equal("reset", cause.code, "the cause is not changed")
  end)

  it("takes the core's step where it knows one", function()
    local err = errors.from({ code = "tls", message = "x", step = "finished" }, { step = "server_hello" })
    assert.equal("finished", err.step)
  end)

  it("passes an error on as it is", function()
    local err = errors.new { step = "verify", code = "expired", message = "a.test: expired" }
    assert.equal(err, errors.from(err, { step = "server_hello" }))
  end)

  it("puts the peer's name into the core's words", function()
    local cause = { code = "alert", message = "the peer could not decode our message (alert decode_error)",
      alert = "decode_error", at = "ServerHello", awaited = false }
    local err = errors.from(cause, { host = "a.test", port = 1 })
    assert.equal("a.test:1 could not decode our message (alert decode_error) while waiting for ServerHello",
      err.message)
    err = errors.from({ code = "alert", message = "the peer sent alert 9%{x}, which no standard names" }, {})
    assert.equal("the peer sent alert 9%{x}, which no standard names", err.message)
  end)

  it("tells what a wait that gave up said", function()
    local _, message, err = errors.waited("timeout", { step = "tcp", host = "a.test" })
    assert.same({ "timeout", "timeout", "tcp" }, { message, err.code, err.step })
    _, message, err = errors.waited("the program ends", { step = "data" })
    assert.same({ "the program ends", "cancelled", "data" }, { message, err.code, err.step })
  end)

  it("knows what is worth another try", function()
    for code, again in pairs { timeout = true, reset = true, refused = true, expired = false, not_tls = false } do
      assert.equal(again, errors.new({ code = code, host = "a" }).retryable, code)
    end
    assert.is_false(errors.new({ code = "timeout", retryable = false }).retryable)
  end)

  it("shows a peer's bytes as plain ASCII", function()
    assert.equal([[a\r\n\t\"\\\x1B[31m\x00\xFF]], errors.escape("a\r\n\t\"\\\27[31m\0\255"))
    assert.equal("aaa...", errors.escape("aaaa", 3))
    local every = {}
    for byte = 0, 255 do every[#every + 1] = string.char(byte) end
    assert.is_nil(errors.escape(table.concat(every), 256):find("[^ -~]"))
  end)

  it("says what a server that speaks no TLS looks like", function()
    local function said(bytes)
      return errors.new({ code = "not_tls", host = "a.test", port = 443, first_bytes = bytes }).message
    end
    assert.equal('a.test:443 does not speak TLS, it looks like an HTTP server: its first bytes are '
      .. '"HTTP/1.1 400 Bad Request\\r\\n"', said("HTTP/1.1 400 Bad Request\r\n"))
    assert.truthy(said("SSH-2.0-OpenSSH\r\n"):find("an SSH server", 1, true))
    assert.truthy(said("220 mail.test ESMTP\r\n"):find("STARTTLS", 1, true))
    assert.equal('a.test:443 does not speak TLS: its first bytes are "\\x00\\x01"', said("\0\1"))
    assert.equal("a.test:443 does not speak TLS", said(nil))
  end)

  it("writes peers as they are dialled", function()
    assert.equal("a.test:443", errors.peer("a.test", 443))
    assert.equal("[::1]:443", errors.peer("::1", 443))
    assert.equal("::1", errors.peer("::1"))
    assert.equal("the peer", errors.peer(nil, 443))
    assert.equal([[a\n.test:1]], errors.peer("a\n.test", 1))
  end)

  it("has a sentence for every code, in one line that names the host", function()
    for _, row in ipairs(errors.codes) do
      local err = errors.new { code = row[1], host = "a.test", port = 443, cause = "why" }
      local sentence = err.detail
      assert.truthy(sentence:find("a.test", 1, true), row[1] .. ": " .. sentence)
      assert.is_nil(sentence:find("[{}\n]"), row[1] .. ": " .. sentence)
    end
  end)

  it("has a spec for every code", function()
    -- What no spec can provoke at will, whoever runs it.
    local beyond = { permission = true, too_many_lookups = true }
    local text = {}
    for path in process.output("find spec -name '*_spec.lua'"):gmatch("%S+") do text[#text + 1] = tmp.read(path) end
    text = " " .. table.concat(text, "\n")
    for _, row in ipairs(errors.codes) do
      assert.truthy(beyond[row[1]] or text:find("[^%w_]" .. row[1] .. "[^%w_]"), row[1])
    end
  end)

  it("lists each code once, with steps that exist", function()
    local seen = {}
    for _, row in ipairs(errors.codes) do
      assert.is_nil(seen[row[1]], row[1])
      seen[row[1]] = true
      for step in row[2]:gmatch("%S+") do
        assert.truthy(steps.index[step] or ({ setup = 1, proxy = 1, http = 1, any = 1 })[step], row[1] .. ": " .. step)
      end
      assert.truthy(#row[3] > 5)
    end
  end)

  it("has a row for every code that the source makes, and none that it does not make", function()
    -- The core's own words to its Lua side: no caller meets them.
    local inside = { backlog_full = true, not_asked = true }
    local patterns = { 'error_named%(L,%s*"([%l_]+)"', 'error_gnutls_as%(L,%s*"([%l_]+)"', '{E[%u_]+, "([%l_]+)"}',
      '{GNUTLS_E_[%u_]+, "([%l_]+)"}', 'FAULT%([%u_]+, "([%l_]+)"', '{%d+, "[%l_]+", "([%l_]+)",',
      '[%s{(]code = "([%l_]+)"', 'fail%("%l+", "([%l_]+)"', 'setup%("([%l_]+)"' }
    local text = {}
    -- Answers about revocation have codes of their own, which err.verification shows.
    for path in process.output("find src lua -name '*.[chl]*' ! -path lua/tlsconnect/error.lua"
      .. " ! -path lua/tlsconnect/trust/revocation.lua"):gmatch("%S+") do
      text[#text + 1] = tmp.read(path)
    end
    text = table.concat(text)
    local made = 0
    for _, pattern in ipairs(patterns) do
      for code in text:gmatch(pattern) do
        made = made + 1
        assert.truthy(errors.known[code] or inside[code], "not in the table: " .. code)
      end
    end
    assert.truthy(made > 150, made)
    for _, row in ipairs(errors.codes) do
      assert.truthy(text:find('"' .. row[1] .. '"', 1, true) or row[1] == "cancelled", "never made: " .. row[1])
    end
  end)
end)

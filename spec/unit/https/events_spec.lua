local fake = require "spec.support.fake_https"

describe("server-sent events", function()
  local network = fake.new()
  after_each(function() network:restore() end)

  local function open(body, portion, at_end)
    local https, opened = network:serve { { "HTTP/1.1 200 OK\r\n\r\n" .. body, at_end = at_end or "closed" } }
    local page = assert(https.get("http://a.test/", { stream = true }))
    opened[1].connection.portion = portion
    return page
  end

  local function read(body, portion)
    local seen = {}
    for event in open(body, portion):events() do
      seen[#seen + 1] = event.event .. ":" .. event.data .. ":" .. tostring(event.id)
    end
    return table.concat(seen, "|")
  end

  it("are read as the standard's examples say, however they are cut", function()
    for portion = 1, 5 do
      assert.equal("message:YHOO\n+2\n10:nil", read("data: YHOO\ndata: +2\ndata: 10\n\n", portion))
      assert.equal("message:first event:1|message:second event:|message: third event:",
        read(": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n", portion))
      assert.equal("message::nil|message:\n:nil", read("data\n\ndata\ndata\n\ndata:", portion))
      assert.equal("message:test:nil|message:test:nil", read("data:test\n\ndata: test\n\n", portion))
      assert.equal("add:73857293:nil|remove:2153:nil",
        read("event: add\r\ndata: 73857293\r\n\r\nevent: remove\rdata: 2153\r\r", portion))
      assert.equal("message:x:nil", read("\239\187\191data: x\n\nevent: lost\n\ndata: cut", portion))
    end
    local event = open("retry: 1500\ndata: x\n\n"):event()
    assert.equal(1.5, event.retry)
  end)

  it("A4 are not taken to be at their end when the stream was cut", function()
    local page = open("data: x\n\ndata: y\n\n", nil, "truncated")
    local seen = {}
    local ok, err = pcall(function()
      for event in page:events() do seen[#seen + 1] = event.data end
    end)
    assert.is_false(ok)
    assert.same({ "truncated", { "x", "y" } }, { err.code, seen })
  end)

  describe("with reconnect", function()
    local now = require("tlsconnect.wait").now
    local waits

    before_each(function() waits = {} end)

    -- A wait for which time flies.
    local function flies(_, _, deadline)
      waits[#waits + 1] = deadline - now()
      return nil, "timeout"
    end

    local function stream(body, fields)
      return { "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n" .. (fields or "") .. "\r\n"
        .. body, at_end = "closed" }
    end

    local no_more = "HTTP/1.1 204 No Content\r\n\r\n"

    -- What comes of the replies: the events' data, the last error, and what was asked.
    local function follow(replies, given)
      local https, opened = network:serve(replies)
      given = given or {}
      given.reconnect, given.wait = true, flies
      local page, _, err = https.get("http://a.test/", given)
      local seen = {}
      while page do
        local event
        event, _, err = page:event()
        if not event then break end
        seen[#seen + 1] = event.data .. ":" .. tostring(event.id)
      end
      local heads = {}
      for i, one in ipairs(opened) do heads[i] = fake.heads(one.connection)[1] end
      return table.concat(seen, "|"), err, heads, page
    end

    it("go on behind the last whole one when the stream ends or breaks off, until an answer of 204", function()
      local cut = stream("data: 2\nid: b\n\ndata: 3\nid: c\nda")
      cut.at_end = "reset"
      local seen, err, heads = follow { stream "data: 1\nid: a\n\n", cut, stream "data: 3\n\nid\ndata: 4\n\n",
        stream "data: 5\n\n", no_more }
      assert.is_nil(err)
      assert.equal("1:a|2:b|3:b|4:|5:", seen)
      local ids = {}
      for i, head in ipairs(heads) do
        assert.matches("\r\nAccept: text/event-stream\r\n", head, 1, true)
        assert.matches("\r\nCache-Control: no-store\r\n", head, 1, true)
        ids[i] = head:match("Last%-Event%-ID: ([^\r]*)") or "none"
      end
      assert.same({ "none", "a", "b", "none", "none" }, ids)
      for _, pause in ipairs(waits) do assert.is_true(pause > 2.9 and pause <= 3, pause) end
    end)

    it("wait as long as the server says, longer after each failure, and never spin", function()
      follow { stream "retry: 7000\n\n", { refuse = "refused" }, { refuse = "refused" }, stream "retry: 0\n",
        stream "retry: x\ndata: x\n\n", no_more }
      assert.equal(5, #waits)
      for i, pause in ipairs { 7, 14, 28, 0.1, 0.1 } do
        assert.is_true(waits[i] > pause - 0.05 and waits[i] <= pause, i .. ": " .. waits[i])
      end
    end)

    it("end with an answer that is no event stream, with an error that stays, and with their time", function()
      for _, reply in ipairs { "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\ndata: x\n\n", "HTTP/1.1 200 OK\r\n\r\ndata: x\n\n" } do
        local seen, err, _, page = follow { reply }
        assert.same({ "", "no_events" }, { seen, err.code })
        assert.is_true(page.status == 404 or page.status == 200)
        seen, err = follow { stream "data: 1\n\n", reply }
        assert.same({ "1:nil", "no_events" }, { seen, err.code })
      end
      local seen, err = follow { stream "data: 1\n\n", { refuse = "unknown_host" } }
      assert.same({ "1:nil", "unknown_host" }, { seen, err.code })
      seen, err = follow({ stream "data: 1\n\n" }, { timeout = 2 })
      assert.same({ "1:nil", "timeout" }, { seen, err.code })
      seen, err = follow { no_more }
      assert.same({ "", nil }, { seen, err })
      seen, err = follow { { refuse = "refused" } }
      assert.same({ "", "refused" }, { seen, err.code })
    end)

    it("end when they are closed, and keep their limits", function()
      local https, opened = network:serve { stream "data: 1\n\n" }
      local page = assert(https.get("http://a.test/", { reconnect = true, wait = flies }))
      assert.equal("1", page:event().data)
      page:close()
      assert.is_nil(page:event())
      assert.is_true(opened[1].connection.closed)
      local _, err = follow { stream(("x"):rep(2000000)) }
      assert.equal("too_long", err.code)
      assert.equal(0, #waits)
    end)

    it("H14 say back no id that a header could not hold", function()
      for _, id in ipairs { "a\tb", " a ", ("a"):rep(5000), "a\8b" } do
        local _, err, heads = follow { stream("id: " .. id .. "\ndata: x\n\n"), no_more }
        assert.is_nil(err)
        assert.is_nil(heads[2]:find("Last-Event-ID", 1, true))
      end
      local _, _, heads = follow { stream("id: \195\188 1\ndata: x\n\n"), no_more }
      assert.matches("Last-Event-ID: \195\188 1\r\n", heads[2], 1, true)
    end)

    it("are no option beside what sends or takes a body", function()
      local https = network:serve {}
      local ok, message = pcall(https.get, "http://a.test/", { reconnect = true, body = "x" })
      assert.is_false(ok)
      assert.matches("'body'", message, 1, true)
    end)
  end)

  it("H19 have a limit for each line and each event", function()
    local event, _, err = open(("x"):rep(2000000)):event()
    assert.is_nil(event)
    assert.equal("too_long", err.code)
    event, _, err = open(("data: " .. ("x"):rep(1000) .. "\n"):rep(2000)):event()
    assert.is_nil(event)
    assert.equal("too_long", err.code)
    assert.equal("message:ok:nil", read((": " .. ("x"):rep(1000) .. "\n"):rep(2000) .. "data: ok\n\n"))
  end)
end)

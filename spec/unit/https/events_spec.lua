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

local fake = require "spec.support.fake_https"

describe("https retries", function()
  local network = fake.new()
  local waits
  after_each(function() network:restore() end)
  before_each(function() waits = {} end)

  -- A wait for which time flies: it says at once that the time has come, and keeps how long it would have been.
  local now = require("tlsconnect.wait").now
  local function flies(_, _, deadline)
    waits[#waits + 1] = deadline - now()
    return nil, "timeout"
  end

  local function busy(fields, status)
    return ("HTTP/1.1 %s Busy\r\nContent-Length: 4\r\n%s\r\nbusy"):format(status or 503, fields or "")
  end

  local function get(replies, given)
    local https, opened = network:serve(replies)
    given = given or {}
    given.url, given.wait = "http://a.test/", flies
    if given.retries == nil then given.retries = 3 end
    local page, message, err = https.request(given)
    return page, err, opened, message
  end

  it("try an answer that says not now again, waiting longer each time", function()
    local page = assert(get { { busy(), busy(nil, 502), busy(nil, 429), fake.ok } })
    assert.same({ 200, 4 }, { page.status, page.tries })
    assert.equal(3, #waits)
    for i, most in ipairs { 0.5, 1, 2 } do
      assert.is_true(waits[i] <= most and waits[i] > most / 2 - 0.1, waits[i])
    end
  end)

  it("try what failed for reasons that pass again, and nothing else", function()
    local page, err, opened = get { { refuse = "refused" }, { "HTTP/1.1 200", at_end = "reset" }, fake.ok }
    assert.is_nil(err)
    assert.same({ 200, 3, 3 }, { page.status, page.tries, #opened })
    page, err, opened = get { { refuse = "unknown_host" } }
    assert.is_nil(page)
    assert.same({ "unknown_host", 1 }, { err.code, #opened })
    page, err = get { "SSH-2.0-x\r\n\r\n" }
    assert.is_nil(page)
    assert.equal("not_http", err.code)
    assert.equal(404, get({ busy(nil, 404) }).status)
    assert.equal(2, #waits)
  end)

  it("end after so many, with what came last", function()
    local page = get({ { busy(), busy(), busy() } }, { retries = 2 })
    assert.same({ 503, 3, "busy" }, { page.status, page.tries, page.body })
    local none, err = get({ { refuse = "refused" }, { refuse = "refused" } }, { retries = 1 })
    assert.is_nil(none)
    assert.equal("refused", err.code)
    page = get({ busy() }, { retries = 0 })
    assert.equal(503, page.status)
  end)

  it("wait as long as the server says, within reason", function()
    assert(get { { busy "Retry-After: 7\r\n", fake.ok } })
    assert.is_true(waits[1] > 6.9 and waits[1] <= 7)
    waits = {}
    local soon = os.date("!%a, %d %b %Y %H:%M:%S GMT", os.time() + 20)
    assert(get { { busy("Retry-After: " .. soon .. "\r\n"), fake.ok } })
    assert.is_true(waits[1] > 17 and waits[1] <= 20, waits[1])
    for _, far in ipairs { "3600", "99999999999999999999" } do
      assert.equal(503, get({ busy("Retry-After: " .. far .. "\r\n") }).status)
    end
    assert.equal(200, get({ { busy "Retry-After: soon\r\n", fake.ok } }).status)
  end)

  it("wait no longer than the longest pause, however often they fail", function()
    local failing = { busy(), busy(), busy(), busy(), busy() }
    assert.equal(503, get({ failing }, { retries = { count = 4, pause = 10, longest = 15 } }).status)
    assert.equal(4, #waits)
    for i, most in ipairs { 10, 15, 15, 15 } do
      assert.is_true(waits[i] <= most and waits[i] > most / 2 - 0.1, waits[i])
    end
    waits = {}
    -- What the server says is obeyed or not waited for at all: sooner than that is not asked for.
    local given = { retries = { longest = 15 } }
    assert.equal(200, get({ { busy "Retry-After: 15\r\n", fake.ok } }, given).status)
    assert.is_true(waits[1] > 14.9 and waits[1] <= 15)
    assert.equal(503, get({ busy "Retry-After: 16\r\n" }, given).status)
    local late = os.date("!%a, %d %b %Y %H:%M:%S GMT", os.time() + 60)
    assert.equal(503, get({ busy("Retry-After: " .. late .. "\r\n") }, given).status)
    assert.equal(1, #waits)
  end)

  it("read each form of a date in Retry-After; one that is over means at once", function()
    local time = os.time() + 20
    for _, form in ipairs { "!%a, %d %b %Y %H:%M:%S GMT", "!%A, %d-%b-%y %H:%M:%S GMT", "!%a %b %d %H:%M:%S %Y" } do
      waits = {}
      assert.equal(200, get({ { busy("Retry-After: " .. os.date(form, time) .. "\r\n"), fake.ok } }).status)
      assert.is_true(waits[1] > 10 and waits[1] <= 20, waits[1])
    end
    for _, over in ipairs { "0", "Sun, 06 Nov 1994 08:49:37 GMT" } do
      waits = {}
      assert.equal(200, get({ { busy("Retry-After: " .. over .. "\r\n"), fake.ok } }).status)
      assert.is_true(waits[1] <= 0.001, waits[1])
    end
  end)

  it("never wait for quite the same time twice", function()
    local seen = {}
    for _ = 1, 5 do
      waits = {}
      assert(get({ { busy(), fake.ok } }, { retries = { pause = 20 } }))
      -- Of ten thousand milliseconds each is as likely: two of five may be the same, three hardly ever.
      local millisecond = math.floor(waits[1] * 1000)
      seen[millisecond] = true
    end
    local count = 0
    for _ in pairs(seen) do count = count + 1 end
    assert.is_true(count >= 3, count)
  end)

  it("go by the option's fields", function()
    local given = { retries = { count = 1, pause = 0.001, statuses = { 500 } } }
    assert.equal(200, get({ { busy(nil, 500), fake.ok } }, given).status)
    assert.is_true(waits[1] <= 0.001)
    assert.equal(503, get({ busy() }, given).status)
  end)

  it("never repeat what may not be done twice, nor what was handed out", function()
    assert.equal(503, get({ busy() }, { method = "POST", body = "pay" }).status)
    assert.equal(503, get({ busy() }, { form = { a = 1 } }).status)
    assert.equal(503, get({ busy() }, { method = "PUT", body = function() return nil end }).status)
    local got = {}
    local page, err = get({ { "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", at_end = "closed" } },
      { sink = function(data) got[#got + 1] = data return true end })
    assert.is_nil(page)
    assert.same({ "truncated", { "hello" } }, { err.code, got })
    assert.equal(0, #waits)
  end)

  it("send an open file again from where it stood", function()
    local file = io.tmpfile()
    file:write("skipped", "data")
    file:seek("set", 7)
    local page, _, opened = get({ { busy(), fake.ok } }, { method = "PUT", body = file })
    file:close()
    assert.equal(200, page.status)
    assert.equal(2, select(2, opened[1].connection:written():gsub("\r\n\r\ndata", "")))
  end)

  it("stay within the timeout of the whole call", function()
    local page = get({ busy "Retry-After: 20\r\n" }, { timeout = 5 })
    assert.equal(503, page.status)
    assert.equal(0, #waits)
  end)
end)

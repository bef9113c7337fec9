-- How many idle connections are kept, which ones, and for how long.
local fake = require "spec.support.fake_https"
local fakes = require "spec.support.fake_connection"
local pool = require "tlsconnect.https.pool"
local process = require "spec.support.process"

local ok = fake.ok

local function idle_connection(name)
  local connection = fakes.connection("", "timeout")
  connection.name = name
  return connection
end

local function limits(more)
  local all = { idle = 60, idle_per_host = 3, idle_total = 5 }
  for name, value in pairs(more or {}) do all[name] = value end
  return all
end

-- The names of those that a pool would hand out for a key, in that order.
local function kept(one, key)
  local names = {}
  while true do
    local connection = one:take(key)
    if not connection then return table.concat(names, " ") end
    names[#names + 1] = connection.name
  end
end

describe("the pool", function()
  it("hands out the one that was used last, and only under its own key", function()
    local one = pool.new(limits())
    for _, name in ipairs { "a1", "a2" } do one:give("a", idle_connection(name)) end
    one:give("b", idle_connection "b1")
    assert.is_nil(one:take "c")
    assert.equal("a2 a1", kept(one, "a"))
    assert.equal("b1", kept(one, "b"))
    assert.equal("", kept(one, "a"))
  end)

  it("keeps so many of one key, and closes the one that was idle longest", function()
    local one, all = pool.new(limits()), {}
    for i = 1, 5 do
      all[i] = idle_connection("a" .. i)
      one:give("a", all[i])
    end
    assert.same({ true, true, nil, nil, nil }, { all[1].closed, all[2].closed, all[3].closed, all[4].closed })
    assert.equal("a5 a4 a3", kept(one, "a"))
    assert.equal(0, one.count)
  end)

  it("keeps so many in all, and closes the one that was idle longest, whosever it is", function()
    local one, all = pool.new(limits()), {}
    for i, key in ipairs { "a", "b", "c", "a", "b" } do
      all[i] = idle_connection(key .. i)
      one:give(key, all[i])
      process.sleep(0.001)
    end
    one:give("d", idle_connection "d6")
    assert.is_true(all[1].closed)
    one:give("d", idle_connection "d7")
    assert.is_true(all[2].closed)
    for i = 3, 5 do assert.is_nil(all[i].closed, i) end
    assert.equal(5, one.count)
    assert.same({ "a4", "b5", "c3", "d7 d6" }, { kept(one, "a"), kept(one, "b"), kept(one, "c"), kept(one, "d") })
    local none = pool.new(limits { idle_total = 0 })
    local connection = idle_connection "x"
    none:give("a", connection)
    assert.is_true(connection.closed)
  end)

  it("keeps none for longer than the limit, or than the server said", function()
    local one = pool.new(limits { idle = 0.02 })
    local first, second = idle_connection "a1", idle_connection "b1"
    one:give("a", first)
    process.sleep(0.03)
    assert.is_nil(one:take "a")
    assert.is_true(first.closed)
    -- The next one that is given sweeps out what nobody asks for any more.
    one:give("b", second)
    process.sleep(0.03)
    one:give("c", idle_connection "c1")
    assert.is_true(second.closed)
    assert.equal(1, one.count)
    local told = pool.new(limits())
    local short = idle_connection "a1"
    told:give("a", short, 0.01)
    process.sleep(0.02)
    assert.is_nil(told:take "a")
    assert.is_true(short.closed)
  end)

  it("passes over what died or spoke while it was idle", function()
    local one = pool.new(limits())
    local good, dead, pushed = idle_connection "good", idle_connection "dead", idle_connection "pushed"
    for _, connection in ipairs { good, dead, pushed } do one:give("a", connection) end
    dead.at_end, pushed.bytes = "closed", "HTTP/1.1 200 OK\r\n\r\n"
    assert.equal(good, one:take "a")
    assert.is_true(dead.closed and pushed.closed)
    assert.equal(0, one.count)
  end)

  it("closes all of it when it is told to, and goes on", function()
    local one = pool.new(limits())
    local all = { idle_connection "a1", idle_connection "a2", idle_connection "b1" }
    for i, key in ipairs { "a", "a", "b" } do one:give(key, all[i]) end
    one:close()
    for _, connection in ipairs(all) do assert.is_true(connection.closed) end
    one:give("a", idle_connection "a3")
    assert.equal("a3", kept(one, "a"))
  end)
end)

describe("a client's idle_per_host", function()
  local network = fake.new()
  after_each(function() network:restore() end)

  it("is how many connections to one place it keeps when many were open at once", function()
    local https, opened = network:serve { { ok, ok }, { ok, ok }, { ok, ok }, ok }
    local client = https.client { idle_per_host = 2 }
    local pages = {}
    for i = 1, 3 do pages[i] = assert(client:get("http://a.test/", { stream = true })) end
    assert.equal(3, #opened)
    for i = 1, 3 do assert.equal("ok", pages[i]:read "a") end
    assert.same({ true, nil, nil }, { opened[1].connection.closed, opened[2].connection.closed })
    for i = 1, 3 do pages[i] = assert(client:get("http://a.test/", { stream = true })) end
    assert.equal(4, #opened)
  end)
end)

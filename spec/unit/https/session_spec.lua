local fake = require "spec.support.fake_https"

local ok = fake.ok

describe("https.client", function()
  local network = fake.new()
  after_each(function() network:restore() end)

  it("takes URLs as references to its base", function()
    local https, opened = network:serve { { ok, ok, ok, ok }, ok }
    local api = https.client { base = "https://a.test/v1/" }
    for _, name in ipairs { "users", "/x", "../y?z", "" } do assert(api:get(name)) end
    assert(api:get "https://b.test/w")
    local targets = {}
    for _, head in ipairs(fake.heads(opened[1].connection)) do targets[#targets + 1] = head:match("^GET (%S+)") end
    assert.equal("/v1/users /x /y?z /v1/", table.concat(targets, " "))
    assert.equal("b.test", opened[2].host)
  end)

  it("merges headers and timeouts by name, and lets a request's own options win", function()
    local https, opened = network:serve { { ok, ok } }
    local api = https.client { headers = { ["X-A"] = "1", ["x-b"] = "2" }, timeouts = { dns = 1, tcp = 2 },
      timeout = 50 }
    assert(api:get("http://a.test/", { headers = { ["x-a"] = "3" }, timeouts = { tcp = 4 } }))
    assert(api:request { url = "http://a.test/", method = "PURGE", headers = { ["X-B"] = false } })
    local heads = fake.heads(opened[1].connection)
    assert.matches("x%-a: 3\r\n", heads[1])
    assert.is_nil(heads[1]:find("X-A", 1, true))
    assert.matches("x-b: 2\r\n", heads[1], 1, true)
    assert.matches("^PURGE", heads[2])
    assert.is_nil(heads[2]:lower():find("x-b", 1, true))
    assert.same({ dns = 1, tcp = 4 }, opened[1].options.timeouts)
    assert.is_true(opened[1].options.timeout <= 50)
  end)

  it("has connections of its own, and closes them", function()
    local https, opened = network:serve { { ok, ok }, ok, ok }
    local one, two = https.client {}, https.client {}
    assert(one:get "http://a.test/")
    assert(one:get "http://a.test/")
    assert(two:get "http://a.test/")
    assert.equal(2, #opened)
    assert.is_true(one:close())
    assert.is_true(opened[1].connection.closed)
    assert.is_nil(opened[2].connection.closed)
    assert(one:get "http://a.test/")
  end)

  it("limits the connections that it keeps", function()
    local https, opened = network:serve { ok, ok, ok, ok }
    local one = https.client { idle_total = 2 }
    for _, name in ipairs { "a", "b", "c" } do assert(one:get("http://" .. name .. ".test/")) end
    assert.is_true(opened[1].connection.closed)
    assert.is_nil(opened[2].connection.closed)
    local none = https.client { idle = 0 }
    assert(none:get "http://a.test/")
    assert.is_true(opened[4].connection.closed)
  end)

  it("keeps what proves who asks with its base's origin", function()
    local https, opened = network:serve { ok, ok, ok }
    local api = https.client { base = "https://u:s3cret@a.test/", certificate = "s3cret", key = "s3cret",
      headers = { ["X-Api-Key"] = "s3cret", Accept = "a/b" } }
    assert(api:get "x")
    assert(api:get "https://b.test/x")
    assert(api:get("https://b.test/x", { headers = { ["X-Mine"] = "yes" }, keep_alive = false }))
    assert.matches("Authorization: Basic ", opened[1].connection:written(), 1, true)
    assert.equal("s3cret", opened[1].options.key)
    for i = 2, 3 do
      local written = opened[i].connection:written()
      assert.is_nil(written:find("s3cret", 1, true))
      assert.is_nil(written:find("Authorization", 1, true))
      assert.matches("Accept: a/b\r\n", written, 1, true)
      assert.is_nil(opened[i].options.key)
    end
    assert.matches("X-Mine: yes\r\n", opened[3].connection:written(), 1, true)
  end)

  it("names what is wrong with its defaults", function()
    local https = network:serve {}
    for _, given in ipairs { { bas = "x" }, { base = "nonsense" }, { url = "http://a.test/" }, { body = "x" } } do
      assert.has_error(function() https.client(given) end)
    end
    assert.has_error(function() https.client {} :get(5) end)
    assert.has_error(function() https.client {} :get("http://a.test/", { base = "x" }) end)
  end)
end)

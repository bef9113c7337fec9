local compare = require "spec.bench.compare"
local json = require "spec.bench.json"
local stats = require "spec.bench.stats"
local table_of = require "spec.bench.table"

local function figures(change)
  local set = {
    get = { contenders = { tlsconnect = { cpu = 8e-5, wall = 1e-4, memory = 3000, each = 1 } },
      ratios = { luasec = 1.2, gnutls = 0.75, ssl_https = 600 }, spread = 0.01 },
    flights = { contenders = { tlsconnect = { new = 2.1, kept = 1.0 }, luasec = { new = 2.1 } }, ratios = {} },
  }
  if change then change(set) end
  return set
end

local function all() return true end

describe("the benchmark's comparison with kept figures", function()
  it("says nothing of what is the same, better, or worse by less than a tenth", function()
    assert.are.same({}, compare.worse(figures(), figures(), all))
    assert.are.same({}, compare.worse(figures(), figures(function(set)
      set.get.ratios.luasec, set.get.ratios.gnutls = 5, 0.70
      set.flights.contenders.tlsconnect.new = 2.4
    end), all))
  end)

  it("names each ratio that is more than a tenth worse", function()
    local lines = compare.worse(figures(), figures(function(set)
      set.get.ratios.luasec, set.get.ratios.gnutls = 1.07, 0.6
    end), all)
    assert.are.same({ "WORSE  get: the ratio to gnutls was 0.75, is 0.60",
      "WORSE  get: the ratio to luasec was 1.20, is 1.07" }, lines)
  end)

  it("names a flight more", function()
    local lines = compare.worse(figures(), figures(function(set)
      set.flights.contenders.tlsconnect = { new = 3.1 }
    end), all)
    assert.are.same({ "WORSE  flights, kept: were 1.0, are not measured",
      "WORSE  flights, new: were 2.1, are 3.1" }, lines)
  end)

  it("names what is not measured any more, unless it was not asked for", function()
    local function without(set) set.get = nil end
    assert.are.same({ "GONE   get: not measured any more" }, compare.worse(figures(), figures(without), all))
    assert.are.same({}, compare.worse(figures(), figures(without), function(name) return name ~= "get" end))
    assert.are.same({ "GONE   get: no ratio to luasec, it was 1.20" }, compare.worse(figures(),
      figures(function(set) set.get.ratios.luasec = nil end), all))
  end)

  it("compares with kept figures in which a ratio was made better by hand", function()
    local file = assert(io.open("spec/bench/figures.json"))
    local text = file:read("*a")
    file:close()
    local kept, changed = json.decode(text), json.decode(text)
    changed.get.ratios.luasec = changed.get.ratios.luasec * 1.2
    assert.are.same({}, compare.worse(kept, kept, all))
    local lines = compare.worse(changed, kept, all)
    assert.are.equal(1, #lines)
    assert.matches("^WORSE  get: the ratio to luasec", lines[1])
  end)
end)

describe("the benchmark's figures", function()
  it("come back from JSON as they were", function()
    assert.are.same(figures(), json.decode(json.encode(figures())))
  end)

  it("are medians, which one disturbed run does not move", function()
    assert.are.equal(3, stats.median { 9, 3, 1 })
    assert.are.equal(2, stats.median { 1, 2, 900, 2 })
    assert.are.equal(2, stats.ratio({ { cpu = 2 }, { cpu = 4 }, { cpu = 90 } },
      { { cpu = 1 }, { cpu = 2 }, { cpu = 3 } }, "cpu"))
  end)

  it("make a row of the table, with what was reached of the goal", function()
    local text = table_of.render(figures())
    assert.matches("| GET of 1 KB on a kept connection | 80.0 us | 0.75 |  | 1.20 | 600 |", text, 1, true)
    assert.matches("LuaSec 1.10: met", text, 1, true)
    local missed = figures(function(set) set.get.ratios.luasec = 1.05 end)
    assert.matches("LuaSec 1.10: **not met**; ssl.https 500: met", table_of.render(missed), 1, true)
  end)
end)

local limbo = require "spec.corpus.limbo"
local known = require "spec.corpus.known"
local plain = require "spec.corpus.plain"

local cases = limbo.cases()
local results = {}

local function run(profile)
  results[profile] = results[profile] or limbo.run(cases, profile)
  return results[profile]
end

local function ids(list)
  local found = {}
  for _, case in ipairs(list) do found[#found + 1] = case.id end
  return table.concat(found, " ")
end

describe("x509-limbo", function()
  local function it_with_corpora(name, f)
    it(name, function()
      if not cases then return pending("skipped: no corpora") end
      f()
    end)
  end

  it_with_corpora("no case of a careful client fails, and every case in reach passes", function()
    local tiers = run("default").tiers
    assert.equal(130, tiers.floor.right)
    assert.equal(130, tiers.floor.total)
    assert.equal(10, tiers.reach.right)
    assert.equal(10, tiers.reach.total)
  end)

  it_with_corpora("at least 150 of 198 server cases are right by default", function()
    local result = run("default")
    assert.equal(198, result.total)
    assert.is_true(result.right >= 150, "right: " .. result.right)
  end)

  it_with_corpora("at least 185 are right in the strict profile", function()
    local result = run("strict")
    assert.is_true(result.right >= 185, "right: " .. result.right)
  end)

  it_with_corpora("fewer bad chains are accepted than by a careful client on GnuTLS alone", function()
    local theirs, ours = limbo.run(cases, plain.judge(cases)), run("default")
    assert.equal(130, theirs.tiers.floor.right) -- it is a careful one
    assert.is_true(#ours.accepted < #theirs.accepted, ("%d, and %d"):format(#ours.accepted, #theirs.accepted))
    local by_them = {}
    for _, case in ipairs(theirs.accepted) do by_them[case.id] = true end
    for _, case in ipairs(ours.accepted) do assert.is_true(by_them[case.id], case.id .. " is refused by it") end
    for _, case in ipairs(ours.rejected) do assert.is_true(theirs.wrong[case.id], case.id) end
  end)

  for _, profile in ipairs { "default", "strict" } do
    it_with_corpora("no good chain is refused, profile " .. profile, function()
      assert.equal("", ids(run(profile).rejected))
    end)

    it_with_corpora("every case that passed still does, profile " .. profile, function()
      for id in pairs(run(profile).wrong) do
        assert.is_truthy(known[profile][id], id .. " is answered wrongly, and is not known to be")
      end
    end)

    it_with_corpora("what is listed as wrong is wrong, profile " .. profile, function()
      for id in pairs(known[profile]) do
        assert.is_true(run(profile).wrong[id], id .. " is right now: take it off the list")
      end
    end)
  end
end)

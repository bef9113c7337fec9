-- Z1: the n-th allocation fails, for every n. alloc_fail.c does it, to the scripts in support/allocations.
local pki = require "spec.support.pki"
local process = require "spec.support.process"
local run = require "spec.support.run"

-- The interpreter that it is built with; the other ones share the module's code but for compat.h.
local program = "build/lua5.4/alloc_fail"
local here = process.lua() == "lua5.4" and package.cpath:find("/build/lua5.4/?.so", 1, true)

describe("an allocation that fails", function()
  local files

  setup(function()
    local authority = pki.shared()
    local site = authority:issue { name = "a.test", ip = "127.0.0.1",
      ca = authority:authority { cn = "Allocations' CA" } }
    files = { site.chain, site.key, authority.ca_file, authority:issue { name = "b.test", self_signed = true }.cert,
      authority:crl(site.issuer) }
  end)

  local function fail(script, who, how, step)
    local words = { program, who, how, "spec/support/allocations/" .. script .. ".lua" }
    for _, file in ipairs(files) do words[#words + 1] = file end
    local result = run(words, { timeout = 500, environment = { STEP = step or 1 } })
    assert.equal("", result.err)
    local runs, problems = result.out:match("(%d+) runs, (%d+) problems\n$")
    assert.equal("0", problems, result.out)
    assert.equal(0, result.code)
    return tonumber(runs)
  end

  -- Runs are cheap where no handshake is made; of the others every 3rd, 5th ... is tried: a prime, so that
  -- the turns of a loop are met at different places.
  for script, step in pairs { x509 = 3, roots = 1, trust = 5, session = 1, early = 11, unwrap = 1, connection = 17 } do
    it("Z1 ends in an error, without a crash or a leak: " .. script, function()
      if not here then return pending("built for lua5.4 alone") end
      assert.is_true(fail(script, "lua", "once", step) > 50)
      assert.is_true(fail(script, "lua", "all", step * 3) > 15)
      fail(script, "core", "once")
      fail(script, "core", "all")
      assert.is_true(fail(script, "gnutls", "once", step * 2 + 5) > 50)
    end)
  end

  it("Z1 loses nothing that a long read could not hand out, or a file not take", function()
    if not here then return pending("built for lua5.4 alone") end
    assert.is_true(fail("bulk", "lua", "once") > 50)
    assert.is_true(fail("bulk", "lua", "all", 3) > 15)
    assert.is_true(fail("bulk", "core", "once") > 10)
    fail("bulk", "core", "all")
  end)

  it("Z1 loses no task of a loop", function()
    if not here then return pending("built for lua5.4 alone") end
    assert.is_true(fail("loop", "lua", "once", 5) > 30)
    assert.is_true(fail("loop", "lua", "all", 7) > 30)
    assert.is_true(fail("loop", "core", "once") > 3)
    assert.is_true(fail("loop", "core", "all") > 3)
  end)
end)

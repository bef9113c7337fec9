-- What is loaded late, when it is first used.
local late = require "tlsconnect.late"

describe("loading late", function()
  after_each(function()
    package.preload["spec.late"], package.loaded["spec.late"] = nil, nil
  end)

  it("gives the module, loaded once", function()
    local count = 0
    package.preload["spec.late"] = function()
      count = count + 1
      return { count = count }
    end
    assert.equal(1, late.load("spec.late").count)
    assert.equal(1, late.load("spec.late").count)
  end)

  it("tries again after an error, which is the module's own", function()
    package.preload["spec.late"] = function() error("no memory", 0) end
    assert.has_error(function() late.load("spec.late") end, "no memory")
    package.preload["spec.late"] = function() return { good = true } end
    assert.is_true(late.load("spec.late").good)
  end)
end)

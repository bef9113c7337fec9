-- What is loaded late, when it is first used.
local late = require "tlsconnect.late"
local pki = require "spec.support.pki"
local tmp = require "spec.support.tmp"
local trust = require "tlsconnect.trust"

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

  it("puts a module's methods in the place of those that load it", function()
    local class = {}
    late.methods(class, "spec.late", "double sum")
    assert.is_function(class.double)
    package.preload["spec.late"] = function() error("no memory", 0) end
    assert.has_error(function() class.double(1) end, "no memory")
    local kept = class.double
    package.preload["spec.late"] = function()
      function class.double(x) return 2 * x, nil end
      function class.sum(...) return select("#", ...) end
      return class
    end
    assert.same({ 8, nil, n = 2 }, { n = select("#", class.double(4)), class.double(4) })
    assert.not_equal(kept, class.double)
    assert.equal(6, (kept(3)))
    assert.equal(3, class.sum(nil, nil, nil))
  end)

  it("leaves a verification its codes where nothing can be loaded to say them in words", function()
    local name = "tlsconnect.trust.reason"
    local roots = assert(trust.new { ca_file = pki.new():issue({ name = "b.test" }).cert })
    local chain = tmp.read(pki.shared():issue({ name = "a.test" }).chain)
    local loaded = package.loaded[name]
    package.loaded[name] = nil
    package.preload[name] = function() error("no descriptor left", 0) end
    local ok, message, err = roots:verify(chain, { name = "a.test" })
    package.preload[name], package.loaded[name] = nil, loaded
    assert.is_nil(ok)
    assert.equal("unknown_issuer", err.code)
    assert.equal("issuer: unknown_issuer", message)
    assert.matches("is not trusted: its issuer", err.verification.issuer.reason)
  end)
end)

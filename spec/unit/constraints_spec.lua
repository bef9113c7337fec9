local chains = require "spec.support.chains"
local der = require "tlsconnect.der"
local trust = require "tlsconnect.trust"

local general = chains.general

-- Judges root -> middle (with these constraints) -> leaf with these names.
local function judge(given)
  local root = chains.certificate { subject = "Root", ca = true, constraints = given.root }
  local middle = chains.certificate {
    subject = given.middle_subject or "Middle", ca = true, issuer = root, key = chains.key("p256", nil, "middle"),
    constraints = given.middle, names = given.middle_names,
  }
  local leaf = chains.certificate {
    issuer = middle, names = given.names, subject = given.subject, key = chains.key("p256", nil, "leaf"),
    purposes = given.purposes,
  }
  local anchors = assert(trust.new { ca = root.pem })
  local ok, message, err = anchors:verify(chains.chain(leaf, middle), { purpose = given.purpose })
  return ok == true, ok ~= true and err.code or nil, message
end

local function permitted(...) return chains.constraints({ ... }, nil) end
local function excluded(...) return chains.constraints(nil, { ... }) end

local net = { "ip", "\192\0\2\0\255\255\255\0" }

-- what, constraints of the issuer, names of the leaf, taken
local rows = {
  { "a permitted domain", permitted("a.test"), { "a.test", "x.a.test", "x.y.a.test" }, true },
  { "a name outside of it", permitted("a.test"), { "a.test", "b.test" }, false },
  { "a name that only ends alike", permitted("a.test"), { "xa.test" }, false },
  { "V5 a permitted domain in other case", permitted("A.TEST"), { "x.a.test" }, true },
  { "V5 an excluded domain in other case", excluded("A.Test"), { "x.a.tEST" }, false },
  { "V5 a wildcard over an excluded name", excluded("bad.a.test"), { "*.a.test" }, false },
  { "V5 a wildcard within an excluded domain", excluded("a.test"), { "*.a.test" }, false },
  { "V5 a wildcard beside an excluded name", excluded("bad.b.test"), { "*.a.test" }, true },
  { "V5 a wildcard above what is excluded two labels down", excluded("x.bad.a.test"), { "*.a.test" }, true },
  { "V5 a wildcard wider than what is permitted", permitted("good.a.test"), { "*.a.test" }, false },
  { "a wildcard within what is permitted", permitted("a.test"), { "*.a.test" }, true },
  { "a permitted domain with a dot before it", permitted(".a.test"), { "x.a.test" }, true },
  { "the domain itself then", permitted(".a.test"), { "a.test" }, false },
  { "the empty domain, which excludes all", excluded(""), { "a.test" }, false },
  { "a malformed name under constraints", permitted("a.test"), { ".a.test" }, false },
  { "a malformed name under exclusions", excluded("b.test"), { "a..test" }, false },
  { "names of a kind that is not constrained", permitted(net), { "a.test" }, true },
  { "an address in a permitted network", permitted(net), { { "ip", "\192\0\2\9" } }, true },
  { "an address beside it", permitted(net), { { "ip", "\192\0\3\9" } }, false },
  { "an address in an excluded network", excluded(net), { { "ip", "\192\0\2\9" } }, false },
  { "an IPv6 address where only IPv4 is permitted", permitted(net), { { "ip", ("\0"):rep(16) } }, false },
  { "a malformed address", excluded(net), { { "ip", "\192\0\2\9\255\255\255\0" } }, false },
  { "a mailbox", permitted { "email", "x@a.test" }, { { "email", "x@A.test" } }, true },
  { "another mailbox", permitted { "email", "x@a.test" }, { { "email", "X@a.test" } }, false },
  { "a host's mailboxes", permitted { "email", "a.test" }, { { "email", "x@a.test" } }, true },
  { "a mailbox of a host below", permitted { "email", "a.test" }, { { "email", "x@b.a.test" } }, false },
  { "a mailbox of a domain", permitted { "email", ".a.test" }, { { "email", "x@b.a.test" } }, true },
  { "a malformed mailbox", permitted { "email", "a.test" }, { { "email", "x@y@a.test" } }, false },
  { "a URI's host", permitted { "uri", ".a.test" }, { { "uri", "https://x.a.test:8/y?@z" } }, true },
  { "another URI's host", permitted { "uri", ".a.test" }, { { "uri", "https://x.b.test/@x.a.test" } }, false },
  { "a URI's user is not its host", excluded { "uri", "b.test" }, { { "uri", "https://a.test@b.test/" } }, false },
  { "a URI of an address", permitted { "uri", "a.test" }, { { "uri", "https://127.0.0.1/" } }, false },
  { "a URI without a host", excluded { "uri", "a.test" }, { { "uri", "urn:a.test" } }, false },
}

describe("name constraints", function()
  for _, row in ipairs(rows) do
    it((row[4] and "take: " or "refuse: ") .. row[1], function()
      local taken, code = judge { middle = row[2], names = row[3] }
      assert.equal(row[4], taken)
      if not row[4] then assert.equal("name_not_permitted", code) end
    end)
  end

  it("V6 of several issuers hold together", function()
    assert.is_false((judge { root = excluded("a.test"), middle = permitted("a.test"), names = { "x.a.test" } }))
    assert.is_false((judge { root = permitted("a.test"), middle = excluded("x.a.test"), names = { "x.a.test" } }))
    assert.is_false((judge { root = permitted("a.test"), middle = permitted("b.test"), names = { "b.test" } }))
    assert.is_true((judge { root = permitted("a.test"), middle = permitted("x.a.test"), names = { "x.a.test" } }))
  end)

  it("hold for the names of intermediates too, and name the one that breaks them", function()
    local taken, code, message = judge { root = excluded("b.test"), names = { "a.test" }, middle_names = { "b.test" } }
    assert.is_false(taken)
    assert.equal("name_not_permitted", code)
    assert.is_truthy(message:find("Middle", 1, true))
  end)

  it("do not hold for a CA's own change of keys, but for a leaf of the same name", function()
    local rule = chains.constraints({ { "dn", chains.name("Root") } }, { "b.test" })
    assert.is_true((judge { root = excluded("b.test"), names = { "a.test" }, middle_subject = "Root",
      middle_names = { "b.test" } }))
    assert.is_false((judge { root = rule, names = { "b.test" }, middle_subject = "Root", subject = "Root" }))
  end)

  it("hold for the subject, whatever its strings are encoded as", function()
    local excluding = excluded { "dn", chains.name { { "organisation", "Bad  Company", "printable" } } }
    assert.is_false((judge { middle = excluding, names = { "a.test" },
      subject = chains.name { { "organisation", " bad company ", "utf8" }, { "cn", "x" } } }))
    assert.is_true((judge { middle = excluding, names = { "a.test" },
      subject = chains.name { { "organisation", "Good Company" }, { "cn", "x" } } }))
    local permitting = permitted { "dn", chains.name { { "organisation", "Good" } } }
    assert.is_true((judge { middle = permitting, names = { "a.test" },
      subject = chains.name { { "organisation", "GOOD" }, { "cn", "x" } } }))
    assert.is_false((judge { middle = permitting, names = { "a.test" },
      subject = chains.name { { "cn", "x" }, { "organisation", "GOOD" } } }))
  end)

  it("hold for a mailbox in the subject where there is no SAN", function()
    local excluding = excluded { "email", "b.test" }
    assert.is_false((judge { middle = excluding, subject = chains.name { { "email", "x@b.test", "ia5" } } }))
  end)

  it("of a kind that is not known refuse only names of that kind", function()
    local other = der.oid("1.2.3") .. der.explicit(0, der.string("utf8", "x"))
    assert.is_true((judge { middle = excluded { "other", other }, names = { "a.test" } }))
    assert.is_false((judge { middle = excluded { "other", other }, names = { "a.test", { "other", other } } }))
    assert.is_false((judge { middle = permitted { "other", other }, names = { "a.test", { "other", other } } }))
  end)

  it("that are malformed are refused with their issuer", function()
    local function subtree(...) return der.sequence(der.element(0xa0, der.sequence(...))) end
    local broken = {
      empty = der.sequence(), none = der.sequence(der.element(0xa0, "")),
      both = der.sequence(der.element(0xa0, ""), der.element(0xa1, "")),
      junk = "junk", trailing = permitted("a.test") .. "\0",
      mask = permitted { "ip", "\192\0\2\0\255\0\255\0" }, short = permitted { "ip", "\192\0\2\0" },
      wildcard = permitted("*.a.test"), dots = permitted("a..test"),
      email = permitted { "email", "x@y@a.test" },
      minimum = subtree(general("a.test"), der.element(0x80, "\1")),
      maximum = subtree(general("a.test"), der.element(0x81, "\1")),
    }
    for name, constraints in pairs(broken) do
      local taken, code = judge { middle = constraints, names = { "a.test" } }
      assert.is_false(taken, name)
      assert.equal("bad_certificate", code, name)
    end
  end)

  it("V7 ten thousand names under thousands of constraints are given up in bounded work", function()
    local names, subtrees = {}, {}
    for i = 1, 9000 do names[i] = ("h%d.a.test"):format(i) end
    for i = 1, 4000 do subtrees[i] = ("x%d.b.test"):format(i) end
    local clock = os.clock()
    local taken, code = judge { middle = chains.constraints(nil, subtrees), names = names }
    assert.is_false(taken)
    assert.equal("too_complex", code)
    assert.is_true(os.clock() - clock < 5)
  end)

  it("V7 more constraints than any CA has are refused with their issuer", function()
    local subtrees = {}
    for i = 1, 5000 do subtrees[i] = ("x%d.b.test"):format(i) end
    local taken, code = judge { middle = chains.constraints(nil, subtrees), names = { "a.test" } }
    assert.is_false(taken)
    assert.equal("bad_certificate", code)
  end)
end)

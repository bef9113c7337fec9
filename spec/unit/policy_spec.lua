-- Certificate policies (RFC 5280 6.1), which matter where a CA asks that there be one.
local chains = require "spec.support.chains"
local der = require "tlsconnect.der"
local run = require "spec.support.run"
local tmp = require "spec.support.tmp"
local trust = require "tlsconnect.trust"

local A, B, C, ANY = "1.2.3.1", "1.2.3.2", "1.2.3.3", "2.5.29.32.0"

local function policies(list)
  local all = {}
  for i, oid in ipairs(list) do all[i] = der.sequence(der.oid(oid)) end
  return { "2.5.29.32", false, der.sequence_of(all) }
end

local function mappings(list)
  local all = {}
  for i, pair in ipairs(list) do all[i] = der.sequence(der.oid(pair[1]), der.oid(pair[2])) end
  return { "2.5.29.33", true, der.sequence_of(all) }
end

local function number(tag, n)
  return n and der.element(tag, (der.integer(n):sub(3))) or ""
end

local function constraints(require, inhibit)
  return { "2.5.29.36", true, der.sequence(number(0x80, require), number(0x81, inhibit)) }
end

local function inhibit_any(n) return { "2.5.29.54", true, der.integer(n) } end

-- The extensions of a certificate. given: policies, mappings, require, inhibit (of mapping), any (inhibited).
local function extensions(given)
  local list = {}
  if given.policies then list[#list + 1] = policies(given.policies) end
  if given.mappings then list[#list + 1] = mappings(given.mappings) end
  if given.require or given.inhibit then list[#list + 1] = constraints(given.require, given.inhibit) end
  if given.any then list[#list + 1] = inhibit_any(given.any) end
  for _, extension in ipairs(given.extensions or {}) do list[#list + 1] = extension end
  return list
end

-- A root, the CAs below it and the leaf, each as `given` lists them, from the top; `renewed` has its issuer's name.
local function made(given)
  local root = chains.certificate { subject = "Root", ca = true }
  local above, list = root, {}
  for i, one in ipairs(given) do
    local last = i == #given
    above = chains.certificate {
      subject = not last and (one.renewed and above.subject or "CA " .. i) or nil, issuer = above, ca = not last,
      key = chains.key("p256", nil, "policy " .. i), names = last and { "a.test" } or nil,
      extensions = extensions(one),
    }
    table.insert(list, 1, above)
  end
  return root, list
end

local function judge(given)
  local root, list = made(given)
  local ok, message, err = assert(trust.new { ca = root.pem }):verify(chains.chain((unpack or table.unpack)(list)),
    { name = "a.test" })
  return ok == true, err and err.code, message, err
end

-- what, the certificates from the top, taken
local rows = {
  { "nobody asks for", { {}, {} }, true },
  { "nobody asks for, although one CA has some", { { policies = { A } }, {} }, true },
  { "a CA asks for, and the leaf has none", { { policies = { A }, require = 0 }, {} }, false },
  { "a CA asks for, and the leaf has it", { { policies = { A }, require = 0 }, { policies = { A } } }, true },
  { "a CA asks for, and the leaf has another", { { policies = { A }, require = 0 }, { policies = { B } } }, false },
  { "a CA asks for without having one itself", { { require = 0 }, { policies = { A } } }, false },
  { "a CA asks for, one of several", { { policies = { A, B }, require = 0 }, { policies = { C, B } } }, true },
  { "a CA asks for, with qualifiers", { { policies = { A }, require = 0 }, { extensions = { { "2.5.29.32", false,
    der.sequence(der.sequence(der.oid(A), der.sequence(der.sequence(der.oid("1.3.6.1.5.5.7.2.1"),
      der.string("ia5", "http://a.test/"))))) } } } }, true },
  { "a CA below loses", { { policies = { A }, require = 0 }, {}, { policies = { A } } }, false },
  { "are asked for from the second certificate on, which lacks them",
    { { policies = { A }, require = 1 }, { policies = { A } }, {} }, false },
  { "are asked for below the end of the path", { { policies = { A }, require = 3 }, { policies = { A } }, {} }, true },
  { "are asked for beyond any path", { { extensions = { { "2.5.29.36", true,
    der.sequence(der.element(0x80, "\127\255\255\255\255")) } } }, {} }, true },
  { "the leaf asks for of itself", { {}, { require = 0 } }, false },
  { "the leaf asks for of others", { {}, { require = 1 } }, true },
  { "any one will do for the CA", { { policies = { ANY }, require = 0 }, { policies = { C } } }, true },
  { "any one the leaf claims", { { policies = { A }, require = 0 }, { policies = { ANY } } }, true },
  { "any one the leaf claims, where that is inhibited",
    { { policies = { A }, require = 0, any = 0 }, { policies = { ANY } } }, false },
  { "any one, inhibited from the next certificate on",
    { { policies = { A }, require = 0, any = 1 }, { policies = { ANY } }, { policies = { ANY } } }, false },
  { "any one, inhibited but in a CA's renewed certificate", { { policies = { A }, require = 0, any = 0 },
    { policies = { ANY }, renewed = true }, { policies = { A } } }, true },
  { "a CA maps to those of another", { { policies = { A }, mappings = { { A, B } }, require = 0 },
    { policies = { B } } }, true },
  { "a CA maps away", { { policies = { A }, mappings = { { A, B } }, require = 0 }, { policies = { A } } }, false },
  { "a CA maps, without having the first of the two", { { policies = { C }, mappings = { { A, B } }, require = 0 },
    { policies = { B } } }, false },
  { "a CA maps, having any", { { policies = { ANY }, mappings = { { A, B } }, require = 0 },
    { policies = { B } } }, true },
  { "a CA maps where a CA above inhibits it", { { policies = { A }, require = 0, inhibit = 0 },
    { policies = { A }, mappings = { { A, B } } }, { policies = { B } } }, false },
  { "a CA maps where that is inhibited, beside others", { { policies = { A, C }, require = 0, inhibit = 0 },
    { policies = { A, C }, mappings = { { A, B } } }, { policies = { C } } }, true },
}

describe("certificate policies", function()
  for _, row in ipairs(rows) do
    it(("that %s: %s"):format(row[1], row[3] and "taken" or "refused"), function()
      local taken, code, message = judge(row[2])
      assert.equal(row[3], taken, message)
      if not taken then assert.equal("no_policy", code) end
    end)
  end

  it("are told of in a sentence, with the certificate that fell", function()
    local _, _, message, err = judge { { policies = { A }, require = 0 }, {} }
    assert.equal("a.test's certificate has no certificate policy of those that an issuer above it demands", message)
    assert.equal(1, err.certificate)
    _, _, message, err = judge { { policies = { A }, require = 0 }, {}, { policies = { A } } }
    assert.equal("a.test's certificate is not trusted: its issuer CA 2 has no certificate policy of those that an "
      .. "issuer above it demands", message)
    assert.equal(2, err.certificate)
  end)

  it("that the root asks for are its owner's affair: the anchor is no part of the path", function()
    local root = chains.certificate { subject = "Root", ca = true, extensions = extensions { require = 0 } }
    local leaf = chains.certificate { issuer = root, names = { "a.test" } }
    assert.is_true((trust.new({ ca = root.pem }):verify(leaf.der, { name = "a.test" })))
  end)

  it("that are malformed are refused, asked for or not", function()
    local broken = {
      { "2.5.29.32", false, der.sequence() }, { "2.5.29.32", false, der.sequence(der.oid(A)) },
      { "2.5.29.32", false, der.sequence(der.sequence(der.oid(A), der.null())) },
      { "2.5.29.33", true, der.sequence() }, { "2.5.29.33", true, der.sequence(der.sequence(der.oid(A))) },
      mappings { { A, ANY } }, mappings { { ANY, A } },
      { "2.5.29.36", true, der.sequence() }, { "2.5.29.36", true, der.sequence(der.element(0x80, "\255")) },
      { "2.5.29.36", true, der.sequence(der.element(0x80, "")) }, { "2.5.29.36", true, der.sequence(der.null()) },
      { "2.5.29.54", true, der.null() }, { "2.5.29.54", true, der.integer(0) .. der.null() },
    }
    for i, extension in ipairs(broken) do
      local taken, code = judge { { extensions = { extension } }, {} }
      assert.is_false(taken, "extension " .. i)
      assert.equal("bad_certificate", code)
    end
  end)

  it("of a tree that doubles with each CA (CVE-2023-0464) are counted once", function()
    local all, every, given = {}, {}, {}
    for i = 1, 14 do all[i] = "1.2.3." .. i end
    for _, from in ipairs(all) do
      for _, to in ipairs(all) do every[#every + 1] = { from, to } end
    end
    for i = 1, 9 do given[i] = { policies = all, mappings = every, require = i == 1 and 0 or nil } end
    given[10] = { policies = { all[14] } }
    assert.is_true((judge(given)))
    given[10] = { policies = { "1.2.4" } }
    assert.equal("no_policy", select(2, judge(given)))
  end)

  it("are refused when there are too many to check, and a CA asks for one", function()
    local many = {}
    for i = 1, 300 do many[i] = "1.2.4." .. i end
    local taken, code, message = judge { { policies = many, require = 0 }, { policies = many } }
    assert.is_false(taken)
    assert.equal("too_complex", code)
    assert.is_truthy(message:find("has too many certificate policies to check", 1, true))
    assert.is_true((judge { { policies = many }, { policies = many } }))
    local pairs_of = {}
    for i = 1, 20000 do pairs_of[i] = { A, "1.2.3." .. i % 200 } end
    taken, code = judge { { policies = { ANY }, require = 0, mappings = pairs_of },
      { policies = { ANY }, mappings = pairs_of }, { policies = { A } } }
    assert.is_false(taken)
    assert.equal("too_complex", code)
  end)

  it("are judged as OpenSSL judges them, over chains made at random", function()
    local seed = 5280
    local function random(n)
      seed = (seed * 16807) % 2147483647
      return seed % n
    end
    local names = { A, B, C, ANY }
    local function some(most)
      local list, seen = {}, {}
      for _ = 0, random(most) do
        local name = names[random(4) + 1]
        if not seen[name] then list[#list + 1] = name end
        seen[name] = true
      end
      return list
    end
    local lines, answers, count = {}, {}, 150
    for i = 1, count do
      local given = {}
      for j = 1, 2 + random(3) do
        local one = { renewed = j > 1 and random(5) == 0, policies = random(8) > 0 and some(3) or nil }
        if random(2) == 0 then one.require = random(3) end
        if random(4) == 0 then one.inhibit = random(2) end
        if random(4) == 0 then one.any = random(2) end
        if random(3) == 0 then one.mappings = { { names[random(3) + 1], names[random(3) + 1] } } end
        given[j] = one
      end
      given[#given].mappings = nil -- which only a CA may have
      local root, list = made(given)
      local texts = {}
      for j = 2, #list do texts[j - 1] = list[j].pem end
      answers[i] = trust.new({ ca = root.pem }):verify(chains.chain((unpack or table.unpack)(list)),
        { name = "a.test" }) == true
      lines[i] = ("openssl verify -policy_check -policy %s -CAfile %s -untrusted %s %s >/dev/null 2>&1; echo $?")
        :format(ANY, tmp.file(root.pem), tmp.file(table.concat(texts)), tmp.file(list[1].pem))
    end
    local i, taken = 0, 0
    for code in run.check { "sh", tmp.file(table.concat(lines, "\n")) }:gmatch("%d+") do
      i = i + 1
      assert.equal(code == "0", answers[i], "chain " .. i)
      if answers[i] then taken = taken + 1 end
    end
    assert.equal(count, i)
    assert.is_true(taken > count / 5 and taken < count * 4 / 5, taken .. " were taken")
  end)

  it("cut at every byte are refused", function()
    local root = chains.certificate { subject = "Root", ca = true }
    local value = policies({ A, B })[3]
    for size = 0, #value - 1 do
      local middle = chains.certificate { subject = "CA", ca = true, issuer = root,
        key = chains.key("p256", nil, "cut"), extensions = { { "2.5.29.32", false, value:sub(1, size) } } }
      local leaf = chains.certificate { issuer = middle, names = { "a.test" } }
      assert.is_nil((trust.new({ ca = root.pem }):verify(chains.chain(leaf, middle), { name = "a.test" })))
    end
  end)
end)

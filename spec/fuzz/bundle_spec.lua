-- Files of roots, as people keep them: what else stands in them, what is broken, what changes. A lazy reader sees
-- only the beginning of each certificate, through a window of 16 KB, and must find what a whole reading finds.
local chains = require "spec.support.chains"
local core = require "tlsconnect.core"
local process = require "spec.support.process"
local soak = require "spec.support.soak"
local tmp = require "spec.support.tmp"
local trust = require "tlsconnect.trust"

local unpack = table.unpack or unpack

local function authority(name)
  return chains.certificate { subject = name, ca = true, key = chains.key("p256", nil, name) }
end

local one, two, three = authority "One", authority "Two", authority "Three"

local function body(certificate)
  return certificate.pem:match("%-%-\n(.-)\n%-%-%-%-%-END")
end

local function block(text, label)
  label = label or "CERTIFICATE"
  return ("-----BEGIN %s-----\n%s\n-----END %s-----\n"):format(label, text, label)
end

-- The certificates of a subject (all: nil) in a file: their DER, put together in order of bytes.
local function found(store, subject)
  local list, last = {}, nil
  local ders = assert(store:certificates(subject))
  table.sort(ders)
  for _, one_der in ipairs(ders) do
    if one_der ~= last then list[#list + 1] = one_der end -- twice in a file
    last = one_der
  end
  return list
end

local function ders(...)
  local list = {}
  for i, certificate in ipairs { ... } do list[i] = certificate.der end
  table.sort(list)
  return list
end

-- Reads the file in both ways.
local function both(text, name)
  local path = tmp.file(text, name or "bundle.pem")
  local lazy, whole = core.trust(), core.trust()
  local lazy_count, lazy_message = lazy:file(path, true)
  local count, message = whole:file(path, false)
  assert(lazy_count, lazy_message)
  return lazy, whole, count, message, path
end

local function holds(text, ...)
  local lazy, whole, count, message = both(text)
  assert(count, message)
  assert.same(ders(...), found(lazy))
  assert.same(ders(...), found(whole))
  for _, certificate in ipairs { one, two, three } do
    assert.same(found(whole, certificate.subject), found(lazy, certificate.subject))
  end
end

describe("a file of roots", function()
  for what, text in pairs {
    ["text between the blocks"] = "A bundle.\n\n" .. one.pem .. "\n# Two: ==== -- ---- a comment\n" .. two.pem
      .. "\nThe end.\n",
    ["CRLF at the ends of lines"] = (one.pem .. two.pem):gsub("\n", "\r\n"),
    ["CR alone at the ends of lines"] = (one.pem .. two.pem):gsub("\n", "\r"),
    ["no end of the last line"] = one.pem .. two.pem:sub(1, -2),
    ["one line for each certificate"] = block((body(one):gsub("\n", ""))) .. block((body(two):gsub("\n", ""))),
    ["lines of one character"] = block((body(one):gsub("%S", "%0\n"))) .. two.pem,
    ["blanks at the ends of lines"] = (one.pem .. two.pem):gsub("\n", " \t\n"),
    ["blanks at the beginnings of lines"] = "  " .. (one.pem .. two.pem):gsub("\n", "\n  "),
    ["empty lines"] = (one.pem .. two.pem):gsub("\n", "\n\n"),
    ["blanks by the kilobyte within a certificate"] = block((body(one):gsub("\n", (" "):rep(3000) .. "\n"))) .. two.pem,
    ["text by the kilobyte in one line"] = ("x"):rep(100000) .. "\n" .. one.pem .. ("-"):rep(100000) .. "\n" .. two.pem,
    ["other PEM beside them"] = block("AAAA", "X509 CRL") .. one.pem .. block(body(three), "PRIVATE KEY") .. two.pem,
    ["OpenSSL's TRUSTED CERTIFICATE, which says more than that"] = one.pem .. block(body(three), "TRUSTED CERTIFICATE")
      .. two.pem,
    ["the old label X509 CERTIFICATE"] = one.pem .. block(body(two), "X509 CERTIFICATE"),
    ["one certificate many times"] = one.pem:rep(50) .. two.pem,
    ["a line that begins in the middle of another"] = one.pem .. "x" .. three.pem .. "\n" .. two.pem,
    ["no line between two blocks"] = one.pem:sub(1, -2) .. two.pem,
  } do
    it("may have " .. what, function() holds(text, one, two) end)
  end

  it("may have a block's first line anywhere in the reader's window", function()
    for window = 16384, 3 * 16384, 16384 do
      for before = window - 1300, window + 20, soak(1, 7) do
        holds(("#"):rep(before) .. "\n" .. one.pem .. "\n" .. two.pem, one, two)
      end
      for before = window - 20, window + 3 do
        holds(("#"):rep(before) .. "\n" .. one.pem, one)
        holds(("#"):rep(before) .. three.pem .. one.pem, one)
      end
    end
  end)

  it("may be DER", function()
    holds(one.der, one)
  end)

  it("may be empty, which a program is told", function()
    for _, text in ipairs { "", "\n", "no PEM at all", ("x"):rep(40000) } do
      holds(text)
      local path = tmp.file(text, "empty.pem")
      local none, message, err = trust.new { ca_file = path }
      assert.is_nil(none)
      assert.equal("bad_pem", err.code)
      assert.equal(path .. " (option 'ca_file') holds no certificate", message)
    end
  end)

  local digits = body(three):gsub("[=\n]", "")
  local broken = {
    ["what is no base64"] = block "!!!!",
    ["nothing"] = block "",
    ["a digit that is missing"] = block(digits:sub(1, #digits - #digits % 4 - 3)),
    ["no certificate"] = block(core.base64("no certificate")),
    ["another tag in the place of a certificate's"] = block(core.base64("1" .. three.der:sub(2))),
    ["a byte that is no base64 beyond the subject"] = block(body(three):sub(1, -10) .. "*" .. body(three):sub(-8)),
    ["a certificate that is cut"] = block(core.base64(three.der:sub(1, -2))),
    ["a certificate with something behind it"] = block(core.base64(three.der .. "\0")),
    ["another block's beginning"] = ("-----BEGIN CERTIFICATE-----\n" .. body(three):sub(1, 100) .. "\n"),
  }

  for what, text in pairs(broken) do
    it("is refused with the place of a certificate that is broken, by " .. what, function()
      local path = tmp.file("A bundle\n" .. one.pem .. text .. two.pem, "broken.pem")
      local none, message, err = trust.new { ca_file = path }
      assert.is_nil(none)
      assert.equal("bad_pem", err.code)
      assert.equal(path .. ": certificate 2 in it is broken", message)
    end)

    it("of the system goes without one that is broken, by " .. what, function()
      local lazy, _, count = both(one.pem .. text .. two.pem)
      assert.is_nil(count)
      local kept = what == "another block's beginning" and { one } or { one, two }
      assert.same(ders(unpack(kept)), found(lazy))
      assert.same(ders(one), found(lazy, one.subject))
      assert.same({}, found(lazy, three.subject))
    end)
  end

  it("ends where a block has no end", function()
    local lazy, _, count = both(one.pem .. two.pem:sub(1, -5) .. ("x"):rep(50000))
    assert.is_nil(count)
    assert.same(ders(one), found(lazy))
  end)

  it("is read for names of every length, which begin and end anywhere in a group of base64", function()
    local text, names = {}, {}
    for size = 1, soak(3000, 300) do
      local name = ("n"):rep(size)
      names[size] = chains.certificate { subject = name, ca = true, signature = "none" }
      text[size] = names[size].pem
    end
    local lazy, whole, count = both(table.concat(text))
    assert.equal(#names, count)
    for _, certificate in ipairs(names) do
      assert.same({ certificate.der }, found(lazy, certificate.subject))
      assert.same({ certificate.der }, found(whole, certificate.subject))
    end
  end)

  it("may hold 10,000", function()
    local text, mark = {}, "Root number 0000"
    local pattern = chains.certificate { subject = mark, ca = true }.der
    local names, count = {}, soak(10000, 2000)
    for i = 1, count do
      local name = ("Root number %04x"):format(i)
      text[i] = core.pem("CERTIFICATE", (pattern:gsub(mark, name)))
      names[i] = name
    end
    local lazy, whole, number = both(table.concat(text))
    assert.equal(count, number)
    assert.equal(count, (lazy:state()))
    for i = 1, count, math.floor(count / 20) do
      local subject = chains.name(names[i])
      assert.same({ (pattern:gsub(mark, names[i])) }, found(lazy, subject))
      assert.same({ (pattern:gsub(mark, names[i])) }, found(whole, subject))
    end
  end)
end)

describe("a file of roots that changes", function()
  local second = "@1700000000"

  local function write(path, text)
    tmp.write(path, text)
    process.output(("touch -d %s '%s'"):format(second, path))
  end

  local site = chains.certificate { issuer = one, names = { "a.test" } }
  local other = chains.certificate { issuer = two, names = { "a.test" } }

  local function padded(certificate)
    return certificate.pem .. (" "):rep(2000 - #certificate.pem)
  end

  for what, options in pairs { lazily = { system = true }, whole = {} } do
    it("is read again where its time of change and its size are the same: read " .. what, function()
      local path = tmp.path("changing.pem")
      write(path, padded(one))
      local store = core.trust()
      assert.equal(1, store:file(path, options.system))
      assert.same(ders(one), found(store))
      write(path, padded(two))
      assert.same(ders(two), found(store))
      assert.same({}, found(store, one.subject))
      assert.same(ders(two), found(store, two.subject))
    end)
  end

  -- Kernels since 6.13 tell every change apart; before, a file's times stood still for some milliseconds, and FAT's
  -- still do for two seconds. What can be seen everywhere is that such a file is looked at twice.
  it("is read once more when a change in the same tick of the file system's clock may have been missed", function()
    local fresh, settled = core.trust(), core.trust()
    local path = tmp.file(one.pem, "fresh.pem")
    assert.equal(1, fresh:file(path))
    local function generation(store)
      assert(store:refresh())
      return (select(3, store:state()))
    end
    local first = generation(fresh)
    process.output("sleep 3.1")
    assert.equal(1, settled:file(path))
    local before = generation(settled)
    assert.equal(first + 1, generation(fresh))
    assert.equal(first + 1, generation(fresh))
    assert.equal(before, generation(settled))
    assert.same(ders(one), found(fresh))
  end)

  it("is found in a chain of another", function()
    local path = tmp.path("chain.pem")
    write(path, padded(one))
    local anchors = assert(trust.new { ca_file = path })
    assert.equal(1, #anchors:find(core.certificate(site.der)))
    write(path, padded(two))
    assert.equal(0, #anchors:find(core.certificate(site.der)))
    assert.equal(1, #anchors:find(core.certificate(other.der)))
    assert.equal(1, #anchors:find())
  end)

  it("and vanishes is an error of those that are asked for", function()
    local path = tmp.file(one.pem, "vanishing.pem")
    local anchors = assert(trust.new { ca_file = path })
    os.remove(path)
    for _, certificate in ipairs { false, core.certificate(site.der) } do
      local none, message, err = anchors:find(certificate or nil)
      assert.is_nil(none)
      assert.equal("unreadable_trust", err.code)
      assert.equal(("the trusted roots in %s cannot be read any more: No such file or directory"):format(path), message)
    end
  end)

  it("and is cut at any byte gives what is whole of it, and no other", function()
    local text = one.pem .. two.pem
    for size = 0, #text, soak(1, 17) do
      local lazy = both(text:sub(1, size))
      local second_end = size >= #text - 1
      local expected = size >= #one.pem - 1 and { one, second_end and two or nil } or {}
      assert.same(ders(unpack(expected)), found(lazy))
    end
  end)
end)

-- 64-bit numbers as eight bytes, the lowest first.
local function xor(a, b)
  local result = {}
  for i = 1, 8 do
    local x, y, sum = a[i], b[i], 0
    for bit = 0, 7 do
      if x % 2 ~= y % 2 then sum = sum + 2 ^ bit end
      x, y = math.floor(x / 2), math.floor(y / 2)
    end
    result[i] = sum
  end
  return result
end

local function times(a, b)
  local result = { 0, 0, 0, 0, 0, 0, 0, 0 }
  for i = 1, 8 do
    local carry = 0
    for j = 1, 9 - i do
      local sum = result[i + j - 1] + a[i] * b[j] + carry
      result[i + j - 1], carry = sum % 256, math.floor(sum / 256)
    end
  end
  return result
end

local function number(hex)
  local result = {}
  for i = 8, 1, -1 do result[#result + 1] = tonumber(hex:sub(2 * i - 1, 2 * i), 16) end
  return result
end

describe("two certificates of one hash", function()
  local factor = number "9e3779b97f4a7c15"

  -- store.c's hash, of words in the order of bytes that machines have: what it is before the word at `stop`.
  local function word(text, at, big)
    local bytes = { text:byte(at, at + 7) }
    if not big then return bytes end
    local turned = {}
    for i = 1, 8 do turned[i] = bytes[9 - i] end
    return turned
  end

  local function mixed(value, more)
    value = times(xor(value, more), factor)
    return xor(value, { value[5], value[6], value[7], value[8], 0, 0, 0, 0 })
  end

  local function state(text, stop, big)
    local size = #text
    local value = xor(number "cbf29ce484222325", { size % 256, math.floor(size / 256), 0, 0, 0, 0, 0, 0 })
    for at = 1, stop - 1, 8 do value = mixed(value, word(text, at, big)) end
    return value
  end

  -- Another signature, of which one word is changed and the next one makes up for it.
  local function twin(text, big)
    local at = #text - #text % 8 - 39
    assert((at - 1) % 8 == 0)
    local before = state(text, at, big)
    local changed = word(text, at, big)
    changed[4] = (changed[4] + 1) % 256
    local difference = xor(mixed(before, word(text, at, big)), mixed(before, changed))
    local mended = xor(word(text, at + 8, big), difference)
    local result = {}
    for i = 1, 8 do
      local place = big and 9 - i or i
      result[i], result[i + 8] = string.char(changed[place]), string.char(mended[place])
    end
    result = text:sub(1, at - 1) .. table.concat(result) .. text:sub(at + 16)
    assert.equal(#text, #result)
    assert.same(state(text, at + 16, big), state(result, at + 16, big))
    return result
  end

  for _, big in ipairs { false, true } do
    it("are both kept, " .. (big and "highest" or "lowest") .. " byte first", function()
      local same_hash = twin(one.der, big)
      assert.is_true(same_hash ~= one.der)
      local expected = { one.der, same_hash }
      table.sort(expected)

      local store = core.trust()
      assert.equal(1, store:text(one.der))
      assert.equal(1, store:text(same_hash))
      assert.equal(0, store:text(same_hash))
      assert.same(expected, found(store))
      assert.same(expected, found(store, one.subject))

      local lazy, whole, count = both(one.pem .. core.pem("CERTIFICATE", same_hash) .. one.pem)
      assert.equal(2, count)
      assert.same(expected, found(whole, one.subject))
      assert.same(expected, found(lazy, one.subject))
    end)
  end
end)

describe("a file of roots that was changed at random", function()
  local seed = 20261124
  local function random(n)
    seed = (seed * 16807) % 2147483647
    return seed % n + 1
  end

  local certificates = { one, two, three }
  for i = 4, 9 do
    certificates[i] = chains.certificate { ca = true,
      subject = chains.name { { "organisation", ("o"):rep(30 * i) }, { "cn", "Root " .. i } } }
  end

  local digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
  local value = {}
  for i = 1, 64 do value[digits:sub(i, i)] = i - 1 end

  -- Base64 as base64.c has it, by another way.
  local function decoded(text)
    text = text:gsub("[ \t\r\n]", "")
    local data, padding = text:match("^([A-Za-z0-9+/]*)(=*)$")
    if not data or #data % 4 == 1 or #padding > 2 then return nil end
    if #padding > 0 and (#data % 4 == 0 or (#data + #padding) % 4 ~= 0) then return nil end
    local bytes = {}
    for at = 1, #data, 4 do
      local sum, count = 0, 0
      for i = at, at + 3 do
        local digit = value[data:sub(i, i)]
        if digit then count = count + 1 end
        sum = sum * 64 + (digit or 0)
      end
      bytes[#bytes + 1] = string.char(math.floor(sum / 65536), math.floor(sum / 256) % 256, sum % 256):sub(1, count - 1)
    end
    return table.concat(bytes)
  end

  -- The certificates of a text: a list of DER, the number of the first that is broken (or nil).
  local function expected(text)
    local list, place, number_of, at = {}, nil, 0, 1
    local function broken() place = place or number_of end
    while true do
      local start = at
      local from, to
      repeat
        from, to = text:find("-----BEGIN ", start, true)
        start = to and to + 1
      until not from or from == at or text:sub(from - 1, from - 1):find("[\n\r\t ]")
      if not from then return list, place end
      local label = text:sub(to + 1, to + 64):match("^(.-)%-%-%-%-%-")
      local last = label and "-----END " .. label .. "-----"
      local end_from, end_to
      if label then end_from, end_to = text:find(last, to + #label + 6, true) end
      if not end_from then
        number_of = number_of + 1
        broken()
        return list, place
      end
      if label == "CERTIFICATE" or label == "X509 CERTIFICATE" then
        number_of = number_of + 1
        local bytes = decoded(text:sub(to + #label + 6, end_from - 1))
        if bytes and core.trust():text(block(core.base64(bytes))) then
          list[#list + 1] = bytes
        else
          broken()
        end
      end
      at = end_to + 1
    end
  end

  local pieces = { "\n", "\r\n", " ", "-", "-----", "-----BEGIN ", "-----BEGIN CERTIFICATE-----",
    "-----END CERTIFICATE-----", "=", "==", "A", "AAAA", "*", "\0", "\255", "# a comment\n" }

  local changes = {
    function(text, at) return text:sub(1, at - 1) .. text:sub(at + random(3)) end,
    function(text, at) return text:sub(1, at) .. text:sub(at + random(500)) end,
    function(text, at) return text:sub(1, at) .. pieces[random(#pieces)] .. text:sub(at + 1) end,
    function(text, at) return text:sub(1, at - 1) .. pieces[random(#pieces)] .. text:sub(at + 1) end,
    function(text, at)
      local digit = random(64)
      return text:sub(1, at - 1) .. digits:sub(digit, digit) .. text:sub(at + 1)
    end,
    function(text, at) return text:sub(1, at) .. ("%s\n"):format(("y-"):rep(random(10000))) .. text:sub(at + 1) end,
    function(text, at) return text:sub(1, at) .. (" "):rep(random(20000)) .. text:sub(at + 1) end,
    function(text, at) return text:sub(1, at) .. text:sub(random(at), at) .. text:sub(at + 1) end,
  }

  local function bundle()
    local text = {}
    for i = 1, random(12) do
      local pem = certificates[random(#certificates)].pem
      local kind = random(8)
      if kind == 1 then pem = pem:gsub("\n", "\r\n") end
      if kind == 2 then pem = pem:gsub("CERTIFICATE", pieces[random(2)] == "\n" and "X509 CERTIFICATE" or "KEY") end
      if kind == 3 then pem = ("#"):rep(random(9000)) .. "\n" .. pem end
      text[i] = pem
    end
    return table.concat(text)
  end

  it("gives what a reader of all of it gives", function()
    local whole_files, broken_files = 0, 0
    for round = 1, soak(20000, 150) do
      local text = bundle()
      for _ = 2, random(4) do text = changes[random(#changes)](text, random(#text)) end
      if text:byte() == 0x30 then text = " " .. text end
      local list, place = expected(text)
      local full = core.trust()
      for _, one_der in ipairs(list) do assert(full:text(one_der)) end
      local lazy, whole, count, message, path = both(text)
      local what = ("round %d, %s: %s"):format(round, path, tostring(message))
      assert.same(found(full), found(lazy), what)
      for _, certificate in ipairs(certificates) do
        assert.same(found(full, certificate.subject), found(lazy, certificate.subject), what)
      end
      if place then
        broken_files = broken_files + 1
        assert.is_nil(count, what)
        assert.equal(("%s: certificate %d in it is broken"):format(path, place), message)
      else
        whole_files = whole_files + 1
        assert.equal(#found(full), count, what)
        assert.same(found(full), found(whole), what)
      end
      os.remove(path)
    end
    assert.is_true(whole_files > 10 and broken_files > 10)
  end)

  it("has base64 as RFC 4648 tells it, with white space in it", function()
    for _ = 1, soak(100000, 3000) do
      local text = {}
      for i = 1, random(40) do
        local kind, digit = random(40), random(64)
        text[i] = kind == 1 and " " or kind == 2 and "\r\n" or kind == 3 and "=" or kind == 4 and "-" or
          digits:sub(digit, digit)
      end
      text = table.concat(text) .. ("="):rep(random(3) - 1)
      local bytes = not text:find("-", 1, true) and decoded(text)
      if bytes == "" then bytes = nil end
      local list = core.pem_decode(block(text), "CERTIFICATE")
      assert.equal(bytes or nil, list and list[1], text)
    end
  end)
end)

-- The public suffix list's own test rows, by that list; and cookies by the list that the system has.
local cookies = require "tlsconnect.https.cookies"
local core = require "tlsconnect.core"
local optional = require "tlsconnect.optional"
local corpora = require "spec.support.corpora"
local tmp = require "spec.support.tmp"

describe("public suffixes", function()
  local rows, list = corpora.read "psl/test_psl.txt", corpora.read "psl/public_suffix_list.dat"
  if not rows or not list then
    it("skipped: no corpora", function() assert.is_nil(rows and list) end)
    return
  end
  if not optional.suffixes then
    it("skipped: built without libpsl", function() assert.is_nil(optional.suffixes) end)
    return
  end

  local cases = {}
  for line in rows:gmatch("[^\n]+") do
    local name, expected = line:match("^checkPublicSuffix%('([^']*)', (.*)%);")
    if name then cases[#cases + 1] = { name = name, expected = expected:match("^'(.*)'$") } end
  end

  -- The registered name of a host as cookies meet it: A-labels in lower case. nil when there is none.
  local function registrable(suffixes, name)
    local ascii = core.to_ascii(name)
    return ascii and suffixes:registrable(ascii)
  end

  it("are as the list's rows have them", function()
    local suffixes = assert(optional.suffixes(tmp.file(list, "public_suffix_list.dat")))
    assert.is_true(#cases > 70, #cases)
    for _, case in ipairs(cases) do
      local expected = case.expected and core.to_ascii(case.expected)
      assert.equal(expected, registrable(suffixes, case.name), case.name)
      local ascii = core.to_ascii(case.name)
      if ascii then assert.equal(expected == nil, suffixes:public(ascii), case.name) end
    end
  end)

  it("get no cookie, by the system's list, and what is registered below them does", function()
    local count = 0
    for _, case in ipairs(cases) do
      local host = core.to_ascii(case.name)
      if host then
        count = count + 1
        local jar = cookies.jar()
        local below = "https://www." .. host .. "/"
        if case.expected then
          assert.is_true(jar:set(below, "a=b; Domain=" .. core.to_ascii(case.expected)), case.name)
          assert.equal("a=b", jar:header("https://" .. core.to_ascii(case.expected) .. "/"))
        else
          assert.is_false(jar:set(below, "a=b; Domain=" .. host), case.name)
        end
      end
    end
    assert.is_true(count > 60, count)
  end)

  it("are read from a file, or the file is refused", function()
    local suffixes, _, cause = optional.suffixes "/no/such/list"
    assert.is_nil(suffixes)
    assert.equal("unreadable_file", cause.code)
  end)
end)

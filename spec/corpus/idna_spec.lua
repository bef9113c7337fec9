-- The web platform's rows of names with letters of all kinds, against core.to_ascii. The rows say what browsers
-- do; where this module does otherwise, the reasons stand here. It refuses more: what has two readings, or
-- none that a name server knows, is no name.
local core = require "tlsconnect.core"
local corpora = require "spec.support.corpora"

-- Refused here, and taken by browsers.
local refused = {}
local function because(reason, inputs)
  for _, input in ipairs(inputs) do refused[input] = reason end
end

because("RFC 5891 5.4, 5.5: an A-label that is none (bad Punycode, or what no U-label may hold) is not looked up; "
  .. "browsers leave a name alone that is ASCII already",
  { "xn--a", "xn--a.xn--zca", "xn--1ug.example", "xn--a-yoc", "xn--zn7c.com", "xn--0.com" })
because("RFC 5891 4.2.3.1: no hyphen at either end of an international label, nor third and fourth",
  { "a\226\128\160--", "-\226\128\160" })
because("RFC 952, RFC 1123 2.1 (UseSTD3ASCIIRules): no =, < or > in a host's name, nor a sign that is one of them "
  .. "with a stroke", { "xn--ls8h=", "\226\137\160", "\226\137\174", "\226\137\175", "=\204\184", "<\204\184",
  ">\204\184", "=\194\173\204\184", "<\194\173\204\184", ">\194\173\204\184" })
because("signs that UTS 46 ignores only since Unicode 15.1, newer than this libidn2's tables",
  { "look\225\160\142out.net", "look\226\129\171out.net" })
because("letters whose lower case is newer than this libidn2's tables",
  { "\211\128.com", "\240\175\161\168.com", "\226\134\131.com" })

-- Read otherwise here.
local other = {
  ["\225\186\158.com"] = { "ss.com",
    "capital sharp s becomes ss by the tables before Unicode 15.1, and sharp s by later ones" },
  ["\225\186\158.foo.com"] = { "ss.foo.com", "as above" },
  ["look\214\190out.net"] = { "xn--lookout-40i.net", "libidn2 does not ask which way a Hebrew hyphen is written; "
    .. "the name is an A-label, and no other's" },
}

-- RFC 1035 2.3.4: browsers leave it to the resolver.
local function too_long(name)
  for label in name:gmatch("[^.]+") do
    if #label > 63 then return true end
  end
  return #name > 253
end

-- Why a row may come out as it does; nil when it may not.
local function reason_for(row, got)
  local expected = type(row.output) == "string" and row.output or nil
  if got == expected then return "the same" end
  if got == nil and too_long(expected) then return "too long" end
  if got == nil and expected:find("..", 1, true) then return "an empty label" end
  if got == nil then return refused[row.input] end
  return other[row.input] and other[row.input][1] == got and other[row.input][2] or nil
end

describe("international names", function()
  local rows = corpora.json "url/toascii.json"
  if not rows then
    it("skipped: no corpora", function() assert.is_nil(rows) end)
    return
  end

  it("are as the web platform has them, but for what is listed here with its reason", function()
    local count, same = 0, 0
    for _, row in ipairs(rows) do
      if type(row) == "table" then
        local got = core.to_ascii(row.input)
        local reason = reason_for(row, got)
        assert.is_string(reason, ("%q: %s, not %s"):format(row.input, tostring(got), tostring(row.output)))
        count = count + 1
        if reason == "the same" then same = same + 1 end
      end
    end
    assert.is_true(count > 80 and same >= 52, same .. " of " .. count)
  end)

  it("D6 are one name however they were written", function()
    for _, row in ipairs(rows) do
      if type(row) == "table" then
        local got = core.to_ascii(row.input)
        if got then assert.equal(got, core.to_ascii(got), row.input) end
      end
    end
  end)
end)

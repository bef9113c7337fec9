-- src/priority.c: what a ClientHello offers first, as its bytes tell.
local core = require "tlsconnect.core"

local X25519, AES_128_GCM, AES_256_GCM, CHACHA20 = 0x001d, 0x1301, 0x1302, 0x1303

local function number(bytes, at)
  local high, low = bytes:byte(at, at + 1)
  return high * 256 + low
end

local function position(list, value)
  for i, each in ipairs(list) do
    if each == value then return i end
  end
end

-- The suites, groups and key shares of the first flight (RFC 8446 4.1.2).
local function offered(text)
  local context = assert(core.context())
  if text then assert(context:priority(text)) end
  local session = assert(context:session("client", { memory = true, trace = true, server_name = "a.test" }))
  assert.equal("want_read", select(2, session:handshake()))
  local hello = session:messages()[1]
  assert.equal("ClientHello", hello.name)
  local bytes, lists = hello.bytes, { suites = {}, groups = {}, shares = {} }
  local at = 35 + 1 + bytes:byte(35)
  for i = at + 2, at + 1 + number(bytes, at), 2 do table.insert(lists.suites, number(bytes, i)) end
  at = at + 2 + number(bytes, at)
  at = at + 1 + bytes:byte(at) + 2
  while at < #bytes do
    local kind, size, first = number(bytes, at), number(bytes, at + 2), at + 4
    if kind == 10 then
      for i = first + 2, first + size - 2, 2 do table.insert(lists.groups, number(bytes, i)) end
    elseif kind == 51 then
      local share = first + 2
      while share < first + size do
        table.insert(lists.shares, number(bytes, share))
        share = share + 4 + number(bytes, share + 2)
      end
    end
    at = first + size
  end
  session:close()
  return lists
end

local function cpu_has_aes()
  local file = io.open("/proc/cpuinfo")
  local text = file and file:read("*a") or ""
  if file then file:close() end
  return text:find("%f[%w]aes%f[%W]") ~= nil
end

describe("what is offered", function()
  it("has one key share, and X25519 before the other curves", function()
    local lists = offered()
    assert.equal(1, #lists.shares)
    assert.equal(lists.groups[1], lists.shares[1])
    local place = assert(position(lists.groups, X25519))
    for _, curve in ipairs { 23, 24, 25 } do -- secp256r1, secp384r1, secp521r1
      local other = position(lists.groups, curve)
      assert.is_true(not other or place < other)
    end
  end)

  it("names no suite and no group twice", function()
    local lists = offered()
    for _, list in pairs(lists) do
      for i, value in ipairs(list) do assert.equal(i, position(list, value)) end
    end
  end)

  it("begins with AES-128-GCM, and leaves ChaCha20 for the end, where the CPU computes AES", function()
    local suites = offered().suites
    local first, second, last = position(suites, AES_128_GCM), position(suites, AES_256_GCM),
      position(suites, CHACHA20)
    assert.is_truthy(first and second and last)
    if cpu_has_aes() then
      assert.equal(1, first)
      assert.is_true(last > second)
    end
  end)

  it("is what the program's own text leaves of it", function()
    local lists = offered("-AES-128-GCM:-GROUP-X25519")
    assert.is_nil(position(lists.suites, AES_128_GCM))
    assert.is_truthy(position(lists.suites, AES_256_GCM))
    assert.is_nil(position(lists.groups, X25519))
    assert.equal(lists.groups[1], lists.shares[1])
  end)
end)

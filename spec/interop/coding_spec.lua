-- Compressed bodies from nginx: made as they are sent, and a bomb.
local core = require "tlsconnect.core"
local https = require "tlsconnect.https"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local run = require "spec.support.run"
local tmp = require "spec.support.tmp"

local authority = pki.shared()

local coded = {}
for _, name in ipairs(core.codings) do coded[name] = true end

-- Kilobytes of this process in memory, where the system tells.
local function resident()
  local file = io.open("/proc/self/status")
  if not file then return nil end
  local kilobytes = file:read("*a"):match("VmRSS:%s*(%d+)")
  file:close()
  return tonumber(kilobytes)
end

describe("compressed bodies from nginx", function()
  local server, text

  setup(function()
    local root = tmp.directory()
    run.check { "chmod", "755", root }
    local lines = {}
    for i = 1, 20000 do lines[i] = ("line %d of a page that nginx compresses\n"):format(i * 7919 % 20011) end
    text = table.concat(lines)
    tmp.write(root .. "/page.txt", text)
    -- 10 MB that say they are 10 GB: one member of 64 MiB, 160 times.
    run.check(("head -c 67108864 /dev/zero | gzip -n -9 >'%s/member'"):format(root))
    run.check(("for i in $(seq 160); do cat '%s/member'; done >'%s/bomb'"):format(root, root))
    server = peers.nginx { cert = authority:issue { name = "localhost", ip = "127.0.0.1" }, root = root,
      modules = { "http_brotli_filter" },
      server = "gzip on; gzip_types *; brotli on; brotli_types *;",
      locations = { ["= /bomb"] = "gzip off; brotli off; add_header Content-Encoding gzip;" } }
  end)

  local function get(path, options)
    options.timeout, options.ca_file = 60, authority.ca_file
    return https.get(("https://127.0.0.1:%d%s"):format(server.port, path), options)
  end

  for _, name in ipairs { "gzip", "br" } do
    it("come as they were before: " .. name, function()
      if not coded[name] then return end
      local page = assert(get("/page.txt", { headers = { ["Accept-Encoding"] = name } }))
      assert.equal(name, page.headers["content-encoding"])
      assert.equal(text, page.body)
    end)
  end

  it("come compressed when nobody says anything", function()
    if not coded.gzip then return end
    assert.is_string(assert(get("/page.txt", {})).headers["content-encoding"])
    local plain = assert(get("/page.txt", { decompress = false }))
    assert.is_nil(plain.headers["content-encoding"])
    assert.equal(text, plain.body)
  end)

  it("H15 a bomb of 10 GB is stopped at the limit, in flat memory", function()
    if not coded.gzip then return end
    collectgarbage()
    local before, most, seen = resident(), 0, 0
    local page, message, err, _
    page, message, err = get("/bomb", { sink = function(data)
      seen = seen + #(data or "")
      if seen % 1048576 == 0 then most = math.max(most, resident() or 0) end
      return true
    end })
    assert.is_nil(page)
    assert.equal("too_long", err.code)
    assert.truthy(message:find("grows beyond 67108864 bytes as it is decoded", 1, true), message)
    assert.is_true(seen <= 67108864, seen)
    -- AddressSanitizer keeps what was freed for a while.
    if before and not os.getenv("TLSCONNECT_PRELOAD") then assert.is_true(most - before < 16384, most - before) end
    page, _, err = get("/bomb", { max_body = 1000000 })
    assert.is_nil(page)
    assert.equal("too_long", err.code)
  end)
end)

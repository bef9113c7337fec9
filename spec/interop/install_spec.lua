-- What is installed works from another folder: by luarocks, and by make install.
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local process = require "spec.support.process"
local run = require "spec.support.run"
local tmp = require "spec.support.tmp"

-- LuaJIT uses what is built for 5.1.
local version = process.lua() == "luajit" and "5.1" or process.lua():match("%d%.%d")

describe("what is installed", function()
  local authority, server, source

  setup(function()
    authority = pki.shared()
    server = peers.nginx { cert = authority:issue { name = "localhost", ip = "127.0.0.1" },
      locations = { ["/"] = "return 200 'a page';" } }
    -- A copy: specs of several interpreters build at the same time.
    source = tmp.directory()
    run.check { "cp", "-rp", "Makefile", "LICENSE", "README.md", "src", "lua", "rockspec", source }
    -- With what is compiled already: times are kept, so that make install need not do it again.
    local built = "build/" .. process.lua()
    run.check { "sh", "-c", ("mkdir %s/build; if test -d %s; then cp -rp %s %s/build; fi")
      :format(source, built, built, source) }
  end)

  -- Runs a command in an empty folder, in which nothing of this tree can be found.
  local function elsewhere(words, environment)
    environment = environment or {}
    environment.SSL_CERT_FILE = authority.ca_file
    local line = "unset LUA_PATH LUA_CPATH LUA_INIT; "
    for name, value in pairs(environment) do line = line .. name .. "=" .. process.quote(value) .. " " end
    return run(line .. process.command(words), { directory = tmp.directory(), timeout = 300 })
  end

  local function fetch(paths)
    local result = elsewhere({ process.lua(), "-e", ([[
      local tlsconnect = require "tlsconnect"
      local page = assert(tlsconnect.https.get("https://localhost:%d/"))
      print(page.status, page.body)
    ]]):format(server.port) }, paths)
    assert.equal("", result.err)
    assert.equal("200\ta page\n", result.out)
  end

  local function tool(path, paths)
    local result = elsewhere({ path, "--version" }, paths)
    assert.equal("", result.err)
    assert.matches("^tlsconnect %d", result.out)
    result = elsewhere({ path, "get", ("https://localhost:%d/"):format(server.port) }, paths)
    assert.equal("", result.err)
    assert.equal("a page", result.out)
    result = elsewhere({ path, "get", ("https://localhost:%d/"):format(server.port),
      "--no-such-flag" }, paths)
    assert.equal(2, result.code)
  end

  it("is used by a program, when luarocks made it", function()
    if os.getenv("TLSCONNECT_PRELOAD") then return pending("compiles its own module") end
    local tree = tmp.directory()
    local made = run({ "luarocks", "--lua-version", version, "make", "--tree", tree,
      "rockspec/tlsconnect-scm-1.rockspec", "CFLAGS=-O0 -fPIC" }, { directory = source, timeout = 300 })
    assert.equal(0, made.code, made.out .. made.err)
    assert.matches("is now installed in", made.out)
    fetch {
      LUA_PATH = ("%s/share/lua/%s/?.lua;;"):format(tree, version),
      LUA_CPATH = ("%s/lib/lua/%s/?.so;;"):format(tree, version),
    }
    tool(tree .. "/bin/tlsconnect")
  end)

  it("is used by a program, when make install made it", function()
    if os.getenv("TLSCONNECT_PRELOAD") then return pending("compiles its own module") end
    local root = tmp.directory()
    local made = run({ "make", "-s", "install", "LUA=" .. process.lua(), "CFLAGS=-O0",
      "DESTDIR=" .. root, "PREFIX=/opt/some where" },
      { directory = source, timeout = 300 })
    assert.equal(0, made.code, made.out .. made.err)
    local paths = {
      LUA_PATH = ("%s/opt/some where/share/lua/%s/?.lua;;"):format(root, version),
      LUA_CPATH = ("%s/opt/some where/lib/lua/%s/?.so;;"):format(root, version),
    }
    fetch(paths)
    tool(root .. "/opt/some where/bin/tlsconnect", paths)
  end)

  it("names the development files that are missing", function()
    local made = run({ "make", "PKG_CONFIG=false", "GNUTLS_CFLAGS=-nostdinc", "BUILD=build/none" },
      { directory = source })
    assert.is_true(made.code ~= 0)
    assert.matches("no headers of lua5.4 found", made.err)
    assert.matches("liblua5.4%-dev", made.err)
    made = run({ "make", "GNUTLS_CFLAGS=-nostdinc", "BUILD=build/none" }, { directory = source })
    assert.is_true(made.code ~= 0)
    assert.matches("no headers of GnuTLS 3.7 or later found", made.err)
  end)
end)

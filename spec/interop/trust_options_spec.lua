-- Each option of step 5, wherever it may be given: to connect, to a page, to a client of pages, to a context of these.
local https = require("tlsconnect").https
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local run = require "spec.support.run"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

local HOST = "127.0.0.1"
local authority, other = pki.new(), pki.new()
local plain, any = authority:issue { ip = HOST }, authority:issue { ip = HOST, purpose = "any" }
local elsewhere, revoked = authority:issue { name = "b.test" }, authority:issue { ip = HOST, fresh = true }
local over = authority:issue { ip = HOST, not_before = -9 * 86400, not_after = -86400 }
local strange = other:issue { ip = HOST }
local backup = "sha256/" .. ("A"):rep(43) .. "="
authority:revoke(revoked)
local lists = authority:crl()

-- A file that knows the server under another key.
local function known(server)
  local path = tmp.file(("# tlsconnect known hosts 1\n%s %d %s 2026-11-24\n# end\n"):format(HOST, server.port, backup))
  run.check { "chmod", "600", path }
  return { known_hosts = path }
end

local function folder()
  local path = tmp.directory()
  run.check { "cp", other.ca_file, path .. "/other.pem" }
  return path
end

-- The option; all options, or a function(server) that gives them; the server's certificate; what comes of it, and
-- what does without the option (nil: it is let in).
local rows = {
  { "profile", { profile = "strict" }, any, "pedantic" },
  { "revocation", { revocation = "hard" }, plain, "revocation_unknown" },
  { "crl_file", { crl_file = lists }, revoked, "revoked" },
  { "pins", { pins = { backup } }, plain, "pin_mismatch" },
  { "known_hosts", known, plain, "known_host_changed" },
  { "verify", { verify = function() return nil, "no" end }, plain, "verify_refused" },
  { "verify_time", { verify_time = os.time { year = 2020, month = 1, day = 1 } }, plain, "not_yet_valid" },
  { "ca_file", { ca_file = other.ca_file }, plain, "unknown_issuer" },
  { "ca_path", { ca_path = folder() }, plain, "unknown_issuer" },
  { "ca", { ca = tmp.read(other.ca_file) }, plain, "unknown_issuer" },
  { "trust", { trust = tlsconnect.trust { ca_file = other.ca_file } }, plain, "unknown_issuer" },
  { "insecure_skip_issuer", { insecure_skip_issuer = true }, strange, nil, "unknown_issuer" },
  { "insecure_skip_dates", { insecure_skip_dates = true }, over, nil, "expired" },
  { "insecure_skip_revocation", { crl_file = lists, insecure_skip_revocation = true }, revoked, nil, "revoked" },
  { "insecure_skip_name", { insecure_skip_name = true }, elsewhere, nil, "name_mismatch" },
  { "insecure_skip_verify", { insecure_skip_verify = true }, strange, nil, "unknown_issuer" },
}

local function connected(server, options)
  local connection, _, err = tlsconnect.connect(HOST, server.port, options)
  if connection then connection:close() end
  return err
end

local function page(server, options)
  return (select(3, https.get(("https://%s:%d/"):format(HOST, server.port), options)))
end

local function client(server, options)
  local one = https.client(options)
  local _, _, err = one:get(("https://%s:%d/"):format(HOST, server.port))
  one:close()
  return err
end

local ways = { { "connect", connected }, { "https.get", page }, { "https.client", client } }

local own_roots = { ca_file = true, ca_path = true, ca = true, trust = true }

local function with(given, roots)
  local options = { timeout = 60, ca_file = roots and authority.ca_file or nil }
  for name, value in pairs(given) do options[name] = value end
  return options
end

describe("where it is given does not matter:", function()
  for _, row in ipairs(rows) do
    local name, given, certificate, code, without = row[1], row[2], row[3], row[4], row[5]
    it("the option " .. name, function()
      local server = peers.nginx { cert = certificate, locations = { ["/"] = "return 200 x;" } }
      if type(given) == "function" then given = given(server) end
      local options, bare = with(given, not own_roots[name]), {}
      for option, value in pairs(options) do bare[option] = option ~= name and value or nil end
      bare.ca_file = bare.ca_file or authority.ca_file
      for _, way in ipairs(ways) do
        local err = way[2](server, bare)
        assert.equal(without, err and err.code, way[1] .. " without")
        err = way[2](server, options)
        assert.equal(code, err and err.code, way[1])
        err = way[2](server, { context = assert(tlsconnect.context(options)), timeout = 60 })
        assert.equal(code, err and err.code, "a context of " .. way[1])
      end
    end)
  end
end)

-- nginx on a Unix socket, as services on one machine are reached.
local https = require "tlsconnect.https"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

local authority = pki.shared()

describe("a Unix socket", function()
  local path, plain_path

  setup(function()
    local directory = tmp.directory()
    path, plain_path = directory .. "/secure", directory .. "/plain"
    local locations = { ["/"] = "return 200 '$host $server_port. $connection';" }
    peers.nginx { cert = authority:issue { name = "service.test" }, locations = locations,
      server = "listen unix:" .. path .. " ssl;" }
    peers.nginx { locations = locations, server = "listen unix:" .. plain_path .. ";" }
  end)

  local function get(url, more)
    local options = { timeout = 30, ca_file = authority.ca_file, keep_alive = false }
    for name, value in pairs(more) do options[name] = value end
    return https.get(url, options)
  end

  it("takes the place of the host's addresses; the URL gives the name, which is verified", function()
    local page = assert(get("https://service.test/", { unix_socket = path, trace = true }))
    assert.equal("service.test", page.body:match("^%S+"))
    assert.is_true(page.trace[5].ok)
    assert.equal("unix", page.trace[2].family)
    local _, _, err = get("https://other.test/", { unix_socket = path })
    assert.same({ "verify", "name_mismatch" }, { err.step, err.code })
  end)

  it("speaks http, too, and keeps its connections apart from a host's", function()
    local client = https.client { timeout = 30, unix_socket = plain_path }
    local first = assert(client:get "http://service.test/").body
    assert.equal(first, assert(client:get "http://service.test/").body)
    local _, _, err = client:get("http://127.0.0.1:1/", { unix_socket = plain_path .. ".none" })
    assert.same({ "tcp", "not_found" }, { err.step, err.code })
    client:close()
  end)

  it("goes by no proxy", function()
    local page = assert(get("http://service.test/", { unix_socket = plain_path, proxy = "http://127.0.0.1:1" }))
    assert.equal(200, page.status)
  end)

  it("is reached by connect", function()
    local connection = assert(tlsconnect.connect("service.test", 443, { timeout = 30, unix_socket = path,
      ca_file = authority.ca_file }))
    assert.equal("TLS1.3", connection:info().version)
    connection:close()
  end)
end)

-- What proves who asks, over real connections: it stays with the origin that it was given for.
local https = require "tlsconnect.https"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local tlsconnect = require "tlsconnect"

local authority = pki.shared()

describe("a client certificate", function()
  local own, other, context, given
  local client = authority:issue { name = "client.test", purpose = "client" }

  setup(function()
    local site = authority:issue { name = "localhost", ip = "127.0.0.1" }
    local shown = "return 200 '$ssl_client_verify $ssl_client_s_dn';"
    local function server(locations)
      locations["= /who"] = shown
      return peers.nginx { cert = site, client_ca = authority.ca_file, verify_client = "optional",
        locations = locations }
    end
    other = server {}
    own = server { ["= /away"] = ("return 302 https://127.0.0.1:%d/who;"):format(other.port),
      ["= /stay"] = "return 302 /who;" }
    context = assert(tlsconnect.context { ca_file = authority.ca_file, certificate = client.chain, key = client.key })
    given = { ca_file = authority.ca_file, certificate = client.chain, key = client.key, timeout = 30 }
  end)

  local function url(server, path)
    return ("https://127.0.0.1:%d%s"):format(server.port, path)
  end

  local named = "SUCCESS CN=client.test"

  it("H9 stays behind when a redirect leaves the origin, also one that is part of a context", function()
    for _, options in ipairs { given, { context = context, timeout = 30 } } do
      assert.equal(named, assert(https.get(url(own, "/stay"), options)).body)
      -- Twice: the second time there are connections and sessions to take up again.
      for _ = 1, 2 do
        local page = assert(https.get(url(own, "/away"), options))
        assert.same({ url(other, "/who"), "NONE " }, { page.url, page.body })
      end
      -- Who asks there by himself is somebody else.
      assert.equal(named, assert(https.get(url(other, "/who"), options)).body)
      assert.equal("NONE ", assert(https.get(url(own, "/away"), options)).body)
      assert.equal(named, assert(https.get(url(own, "/stay"), options)).body)
    end
  end)

  it("of a client with a base is shown to its origin alone", function()
    for _, options in ipairs { given, { context = context, timeout = 30 } } do
      local api = assert(https.client { base = url(own, "/"), context = options.context, ca_file = options.ca_file,
        certificate = options.certificate, key = options.key, timeout = 30 })
      assert.equal(named, assert(api:get "who").body)
      assert.equal("NONE ", assert(api:get(url(other, "/who"))).body)
      assert.is_true(api:close())
    end
  end)

  it("leaves roots that are added later to the context on both sides", function()
    local stranger = pki.new()
    local far = peers.nginx { cert = stranger:issue { name = "localhost", ip = "127.0.0.1" } }
    local leading = peers.nginx { cert = authority:issue { name = "localhost", ip = "127.0.0.1" },
      locations = { ["/"] = ("return 302 https://127.0.0.1:%d/;"):format(far.port) } }
    local trust = assert(tlsconnect.trust { ca_file = authority.ca_file })
    local with_trust = assert(tlsconnect.context { trust = trust, certificate = client.chain, key = client.key })
    local page, _, err = https.get(url(leading, "/"), { context = with_trust, timeout = 30 })
    assert.is_nil(page)
    assert.equal("unknown_issuer", err.code)
    assert(trust:add(require("spec.support.tmp").read(stranger.ca_file)))
    page = assert(https.get(url(leading, "/"), { context = with_trust, timeout = 30 }))
    assert.equal("hello from nginx\n", page.body)
  end)
end)

describe("a context's defaults", function()
  it("hold for https, too: its times, and its proxy", function()
    local stalled = peers.raw [[ peer:head() peer:stall() ]]
    local address = ("http://127.0.0.1:%d/"):format(stalled.port)
    local page, _, err = https.get(address, { context = assert(tlsconnect.context { timeout = 0.2 }) })
    assert.is_nil(page)
    assert.equal("timeout", err.code)
    page, _, err = https.get(address, { context = assert(tlsconnect.context { timeouts = { first_byte = 0.2 } }) })
    assert.is_nil(page)
    assert.equal("timeout", err.code)
    local proxy = peers.raw [[ peer:send("HTTP/1.1 503 " .. peer:line() .. "\r\n\r\n") ]]
    local context = assert(tlsconnect.context { proxy = "http://127.0.0.1:" .. proxy.port })
    page, _, err = https.get("https://a.test/", { context = context, timeout = 30 })
    assert.is_nil(page)
    assert.equal("proxy_refused", err.code)
    page = assert(https.get("http://a.test/", { context = context, timeout = 30 }))
    assert.equal("GET http://a.test/ HTTP/1.1", page.reason)
    -- A call's own word goes before.
    page, _, err = https.get(address, { context = context, proxy = false, timeout = 0.2 })
    assert.is_nil(page)
    assert.equal("timeout", err.code)
  end)
end)

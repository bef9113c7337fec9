local challenges = require "tlsconnect.https.challenges"
local encoding = require "tlsconnect.encoding"
local fake = require "spec.support.fake_https"
local tmp = require "spec.support.tmp"

local ok, redirect = fake.ok, fake.redirect

describe("https auth", function()
  local network = fake.new()
  after_each(function() network:restore() end)

  local function authorization(head)
    return head:match("\r\nAuthorization: ([^\r]*)\r\n")
  end

  local function refused(challenge)
    return "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: " .. challenge .. "\r\nContent-Length: 0\r\n\r\n"
  end

  it("sends basic credentials, from the option or from the URL", function()
    local https, opened = network:serve { { ok, ok, ok, ok } }
    assert(https.get("http://a.test/", { auth = { basic = { "Aladdin", "open sesame" } } }))
    local page = assert(https.get "http://Aladdin:open%20sesame@a.test/")
    assert(https.get("http://x:y@a.test/", { auth = { basic = { "Aladdin", "open sesame" } } }))
    assert(https.get("http://x:y@a.test/", { headers = { authorization = "Mine" } }))
    local heads = fake.heads(opened[1].connection)
    for i = 1, 3 do assert.equal("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", authorization(heads[i])) end
    assert.matches("authorization: Mine\r\n", heads[4], 1, true)
    assert.is_nil(heads[4]:find("Basic", 1, true))
    assert.equal("http://a.test/", page.url)
  end)

  it("sends a bearer token", function()
    local https, opened = network:serve { ok }
    assert(https.get("http://a.test/", { auth = { bearer = "a.b-c_d~e+f/g==" } }))
    assert.equal("Bearer a.b-c_d~e+f/g==", authorization(fake.heads(opened[1].connection)[1]))
  end)

  it("H14 refuses credentials that would be something else on the wire", function()
    local https = network:serve {}
    for _, auth in ipairs { { basic = { "a:b", "c" } }, { basic = { "a", "b\r\nX: y" } }, { basic = { "a\0", "b" } },
      { bearer = "a b" }, { bearer = "a\r\nX: y" }, { bearer = "" } } do
      local page, message, err = https.get("http://a.test/", { auth = auth })
      assert.is_nil(page)
      assert.equal("bad_auth", err.code)
      assert.is_nil(message:find("X: y", 1, true))
    end
    assert.is_nil(https.get "http://a%0d:b@a.test/")
  end)

  it("answers a digest challenge as RFC 7616 3.9.1 does", function()
    local random = encoding.random
    finally(function() encoding.random = random end)
    function encoding.random() return "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ" end
    for algorithm, response in pairs {
      MD5 = "8ca523f5e9506fed4657c9700eebdbec",
      ["SHA-256"] = "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
    } do
      local https, opened = network:serve { { refused('Digest realm="http-auth@example.org", qop="auth, auth-int", '
        .. "algorithm=" .. algorithm .. ', nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", '
        .. 'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'), ok, ok } }
      local given = { auth = { digest = { "Mufasa", "Circle of Life" } } }
      local page = assert(https.get("http://a.test/dir/index.html", given))
      assert.same({ 200, 0 }, { page.status, #page.history })
      local heads = fake.heads(opened[1].connection)
      assert.is_nil(authorization(heads[1]))
      local sent = authorization(heads[2])
      for _, part in ipairs { 'username="Mufasa"', 'realm="http-auth@example.org"', 'uri="/dir/index.html"',
        "algorithm=" .. algorithm, "nc=00000001", "qop=auth", 'response="' .. response .. '"',
        'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"' } do
        assert.matches(part, sent, 1, true)
      end
      -- the nonce is used again without asking, with the next count
      assert(https.get("http://a.test/dir/index.html", given))
      assert.matches("nc=00000002", authorization(fake.heads(opened[1].connection)[3]), 1, true)
    end
  end)

  it("takes a new nonce when the old one is stale, and gives a wrong password up", function()
    local stale = refused('Digest realm="r", nonce="two", stale=true, qop="auth"')
    local https, opened = network:serve { { refused 'Digest realm="r", nonce="one", qop="auth"', stale, ok,
      refused 'Digest realm="r", nonce="x", qop="auth"', refused 'Digest realm="r", nonce="x", qop="auth"' } }
    local given = { auth = { digest = { "u", "p" } } }
    assert.equal(200, assert(https.get("http://a.test/", given)).status)
    assert.matches('nonce="two"', authorization(fake.heads(opened[1].connection)[3]), 1, true)
    assert.equal(401, assert(https.get("http://a.test/", given)).status)
    assert.equal(5, #fake.heads(opened[1].connection))
  end)

  it("leaves a challenge alone that it cannot answer", function()
    for _, challenge in ipairs { 'Digest realm="r", nonce="n", algorithm=SHA-512-256', 'Digest realm="r"',
      'Basic realm="r"',
      'Digest realm="r", nonce="n", qop="auth-int"', 'Digest realm="r", nonce="n", nonce="m"', "Digest", "" } do
      local https = network:serve { refused(challenge) }
      assert.equal(401, assert(https.get("http://a.test/", { auth = { digest = { "u", "p" } } })).status)
    end
  end)

  it("H18 keeps what a server said for digest to that server's origin", function()
    local https, opened = network:serve {
      { refused 'Digest realm="r", nonce="n1", qop="auth"', ok },
      { refused 'Digest realm="r", nonce="n2", qop="auth"', ok },
    }
    local given = { auth = { digest = { "u", "p" } } }
    assert(https.get("http://a.test/", given))
    assert(https.get("http://b.test/", given))
    assert.is_nil(authorization(fake.heads(opened[2].connection)[1]))
    assert.matches('nonce="n2"', authorization(fake.heads(opened[2].connection)[2]), 1, true)
  end)

  it("H9 drops credentials when a redirect leaves the origin, for good, and keeps them within it", function()
    for _, auth in ipairs { { basic = { "u", "s3cret" } }, { bearer = "s3cret" } } do
      local https, opened = network:serve { { redirect(302, "/x"), redirect(302, "http://b.test/"), ok },
        redirect(302, "http://a.test/") }
      assert(https.get("http://a.test/", { auth = auth }))
      local heads = fake.heads(opened[1].connection)
      assert.is_string(authorization(heads[2]))
      assert.is_nil(authorization(heads[3]))
      assert.is_nil(authorization(fake.heads(opened[2].connection)[1]))
    end
    local https, opened = network:serve { { redirect(302, "http://b.test/"), ok }, redirect(302, "http://v:w@a.test/") }
    assert(https.get "http://u:s3cret@a.test/")
    assert.is_nil(authorization(fake.heads(opened[2].connection)[1]))
    assert.is_nil(authorization(fake.heads(opened[1].connection)[2]))
  end)

  it("X4 tells the password of a URL nowhere: not in url, history, text or error", function()
    local https = network:serve { { redirect(302, "http://v:s3cret@a.test/x"), ok }, { refuse = "refused" } }
    local page = assert(https.get "http://u:s3cret@a.test/")
    local _, message, err = https.get "http://u:s3cret@b.test/"
    local told = { page.url, tostring(page), page.history[1].url, message, err.detail, tostring(err) }
    for _, value in pairs(err) do told[#told + 1] = tostring(value) end
    for _, text in ipairs(told) do assert.is_nil(text:find("s3cret", 1, true), text) end
    for _, wrong in ipairs { "http://u:s3cret@", "http://u:s3cret@a b/", "http://u:s3cret\n@a.test/",
      "http://u:s3cret@a.test:x/" } do
      message = select(2, https.get(wrong))
      assert.is_nil(message:find("s3cret", 1, true), message)
    end
  end)

  it("finds names and passwords in a netrc file", function()
    local path = tmp.file([[
      # machine a.test login commented password out
      machine b.test login x password y
      macdef init
      machine a.test login macro password macro

      machine A.test
        login "Alad\"din"  password "open # sesame"
      machine a.test login second password second
      default login any password one
    ]], "netrc")
    local https, opened = network:serve { ok, ok, ok }
    local given = { auth = { netrc = path } }
    assert(https.get("http://a.test/", given))
    assert(https.get("http://c.test/", given))
    assert(https.get("http://u:v@c.test/", { keep_alive = false }))
    assert.equal("Basic " .. encoding.base64 'Alad"din:open # sesame',
      authorization(fake.heads(opened[1].connection)[1]))
    assert.equal("Basic " .. encoding.base64 "any:one", authorization(fake.heads(opened[2].connection)[1]))
  end)

  it("H12 never looks up a host that a redirect leads to", function()
    local path = tmp.file("machine a.test login u password s3cret\nmachine b.test login u password s3cret\n", "netrc")
    local https, opened = network:serve { { redirect(302, "/x"), redirect(302, "http://b.test/") },
      redirect(302, "http://c.test/"), ok }
    assert(https.get("http://a.test/", { auth = { netrc = path } }))
    assert.is_string(authorization(fake.heads(opened[1].connection)[2]))
    for i = 2, 3 do assert.is_nil(authorization(fake.heads(opened[i].connection)[1])) end
  end)

  it("says which netrc file cannot be read", function()
    local https = network:serve {}
    for _, path in ipairs { "/nowhere/netrc", tmp.file('machine a login "', "netrc"), tmp.file("login x", "netrc"),
      tmp.file("machine a logon x", "netrc") } do
      local page, message, err = https.get("http://a.test/", { auth = { netrc = path } })
      assert.is_nil(page)
      assert.same({ "setup", "unreadable_file" }, { err.step, err.code })
      assert.matches("netrc", message, 1, true)
    end
  end)

  it("names the wrong field of auth", function()
    local https = network:serve {}
    local _, message = pcall(https.get, "http://a.test/", { auth = { baisc = { "u", "p" } } })
    assert.matches("auth.baisc", message, 1, true)
    _, message = pcall(https.get, "http://a.test/", { auth = { basic = {} } })
    assert.matches("auth.basic", message, 1, true)
  end)
end)

describe("challenges", function()
  it("reads lists of them as RFC 9110 11.6.1 writes them", function()
    local list = challenges.parse { 'Newauth realm="apps", type=1, title="Login to \\"apps\\"", Basic realm="simple"',
      "Negotiate , NTLM abc+/==, Digest nonce = x" }
    local seen = {}
    for _, one in ipairs(list) do
      seen[#seen + 1] = one.scheme .. ":" .. tostring(one.token) .. ":" .. tostring(one.parameters.realm)
    end
    assert.equal("newauth:nil:apps basic:nil:simple negotiate:nil:nil ntlm:abc+/==:nil digest:nil:nil",
      table.concat(seen, " "))
    assert.equal('Login to "apps"', list[1].parameters.title)
    assert.equal("x", list[5].parameters.nonce)
  end)

  it("ends on anything", function()
    for _, text in ipairs { "", ",,,", "=", 'Basic realm="', 'Basic realm="\\', "Basic =", "Basic a=,b=", "\255",
      ("a "):rep(1000), ("a,"):rep(10000), 'x a="' .. ('\\"'):rep(10000) } do
      assert.is_table(challenges.parse { text })
    end
  end)
end)

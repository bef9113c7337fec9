-- Revocation with real answers: of `openssl ocsp`, over HTTP and stapled by nginx; lists of `openssl ca`; and
-- servers that misbehave. Every row is met under each policy.
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local ports = require "spec.support.ports"
local revocation = require "tlsconnect.trust.revocation"
local scheduler = require "spec.support.scheduler"
local tlsconnect = require "tlsconnect"
local tmp = require "spec.support.tmp"

local DAY = 86400

local authority = pki.new()
local trust = assert(tlsconnect.trust { ca_file = authority.ca_file })

-- An HTTP server that answers each path from a file of its folder; some paths misbehave.
local place, folder
local script = [[
  local head = peer:head()
  local path = head and head:match("^%u+ /(%S*)")
  if not path then return peer:close() end
  local log = io.open(FOLDER .. "/asked", "a")
  log:write(path, "\n")
  log:close()
  peer:read(tonumber(head:match("[Ll]ength: (%d+)")) or 0)
  local to = path:match("^to=(.*)$")
  if to then
    return peer:send("HTTP/1.1 302 Found\r\nLocation: " .. to .. "\r\nContent-Length: 0\r\n\r\n")
  elseif path == "silent" then return peer:stall()
  elseif path == "slow" then
    return peer:drip("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" .. ("x"):rep(1000), 0.05)
  elseif path == "huge" then
    peer:send("HTTP/1.1 200 OK\r\n\r\n")
    for _ = 1, 2000 do if not peer:send(("x"):rep(65536)) then return peer:close() end end
    return
  elseif path == "missing" then return peer:send("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
  end
  local file = io.open(FOLDER .. "/" .. path, "rb")
  local body = file:read("*a")
  file:close()
  peer:send("HTTP/1.1 200 OK\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body)
]]

local function start()
  revocation.forget()
  folder = tmp.directory()
  local server = peers.raw((script:gsub("FOLDER", ("%q"):format(folder))))
  place = "http://127.0.0.1:" .. server.port .. "/"
end

local function asked()
  local list = {}
  for line in tmp.read(folder .. "/asked"):gmatch("%S+") do list[#list + 1] = line end
  return list
end

local function serve(name, bytes)
  tmp.write(folder .. "/" .. name, bytes)
  return place .. name
end

local function verify(certificate, policy, more)
  local options = { name = "a.test", revocation = policy, insecure_fetch_private = true, timeout = 10 }
  for name, value in pairs(more or {}) do options[name] = value end
  local ok, verification, err = trust:verify(tmp.read(certificate.chain), options)
  if ok then return true, verification.revocation end
  return false, err.verification.revocation, err
end

-- A certificate whose responder, list, or both stand at these URLs.
local function site(given)
  given.name, given.fresh = "a.test", true
  return authority:issue(given)
end

-- Lets the policies pass on one certificate: what is not known passes "soft", and not "hard".
local function unknown(certificate, code, more)
  local ok, found = verify(certificate, "soft", more)
  assert.is_true(ok)
  assert.equal("unknown", found.answer)
  assert.equal(code, found.code)
  local passed, _, err = verify(certificate, "hard", more)
  assert.is_false(passed)
  assert.equal("revocation_unknown", err.code)
  assert.equal("verify", err.step)
  local calm, quiet = verify(certificate, "staple", more)
  assert.is_true(calm)
  assert.equal("no_answer", quiet.code)
  return found, err
end

local function revoked(certificate, source, more)
  for _, policy in ipairs { "soft", "hard" } do
    revocation.forget()
    local ok, found, err = verify(certificate, policy, more)
    assert.is_false(ok)
    assert.equal("revoked", err.code)
    assert.equal(source, found.source)
  end
end

local function good(certificate, source, more)
  for _, policy in ipairs { "soft", "hard" } do
    revocation.forget()
    local ok, found = verify(certificate, policy, more)
    assert.is_true(ok)
    assert.equal("yes", found.answer)
    assert.equal(source, found.source)
  end
end

-- What openssl ocsp says of a certificate, the bytes.
local function answer(certificate, options)
  return tmp.read(authority:staple(certificate, options))
end

-- The same with another second in it, which nobody has signed. All of the time is looked for: a digit and a Z
-- alone are the head of a sequence of 90 bytes, too.
local function forged(bytes)
  return (bytes:gsub("(" .. ("%d"):rep(13) .. ")(%d)Z", function(time, digit)
    return ("%s%dZ"):format(time, (tonumber(digit) + 1) % 10)
  end, 1))
end

-- How an answer can be made, and the code that it is worth; "good" and "revoked" are themselves.
local rows = {
  { "good", function(certificate) return answer(certificate) end, "good" },
  { "revoked", function(certificate)
    authority:revoke(certificate, "keyCompromise")
    return answer(certificate)
  end, "revoked" },
  { "unknown to the responder", function(certificate) return answer(certificate, { status = "unknown" }) end,
    "status_unknown" },
  { "stale", function(certificate) return answer(certificate, { at = -3 * DAY }) end, "stale" },
  { "not yet valid", function(certificate) return answer(certificate, { at = 2 * DAY }) end, "not_yet_valid" },
  { "without an end", function(certificate) return answer(certificate, { days = false }) end, "stale" },
  { "forged", function(certificate) return forged(answer(certificate)) end, "bad_signer" },
  { "signed by one without the usage", function(certificate)
    return answer(certificate, { signer = authority:issue { name = "b.test" } })
  end, "bad_signer" },
  { "signed by a delegate", function(certificate)
    return answer(certificate, { signer = authority:issue { cn = "Responder", purpose = "ocsp", san = false } })
  end, "good" },
  { "about another certificate", function() return answer(authority:issue { name = "b.test" }) end,
    "wrong_certificate" },
  { "about others and then this one", function(certificate)
    return answer(certificate, { others = { authority:issue { name = "b.test" } } })
  end, "good" },
  { "an error", function() return "\48\3\10\1\3" end, "responder_error" },
  { "empty", function() return "" end, "bad_response" },
  { "junk", function() return "<html>" end, "bad_response" },
}

describe("an OCSP answer that is fetched", function()
  before_each(start)

  for i, row in ipairs(rows) do
    it("is judged as a stapled one: " .. row[1], function()
      local certificate = site { ocsp_uri = place .. i }
      serve(tostring(i), row[2](certificate))
      if row[3] == "good" then
        good(certificate, "ocsp")
      elseif row[3] == "revoked" then
        revoked(certificate, "ocsp")
      else
        unknown(certificate, row[3])
      end
    end)
  end

  it("Q4 Q5 is kept until it ends, and judged again each time, by the clock as it is then", function()
    local certificate = site { ocsp_uri = place .. "kept" }
    serve("kept", answer(certificate))
    assert.is_true(verify(certificate, "hard"))
    serve("kept", "junk")
    assert.is_true(verify(certificate, "hard"))
    assert.equal(1, #asked())
    local ok, found = verify(certificate, "soft", { time = os.time() + 5 * DAY })
    assert.is_true(ok)
    assert.equal("unknown", found.answer)
    assert.equal(2, #asked())
  end)

  it("is not kept when it is no good, but asked for again", function()
    local certificate = site { ocsp_uri = place .. "later" }
    serve("later", "junk")
    assert.is_false((verify(certificate, "hard")))
    serve("later", answer(certificate))
    assert.is_true((verify(certificate, "hard")))
  end)

  it("leaves a responder alone for a while that gave soft nothing", function()
    local certificate = site { ocsp_uri = place .. "missing" }
    for _ = 1, 3 do assert.is_true((verify(certificate, "soft"))) end
    assert.equal(1, #asked())
    assert.is_false((verify(certificate, "hard")))
    assert.equal(2, #asked())
  end)
end)

describe("a responder", function()
  before_each(start)

  it("that does not answer, or not well, is named in the error", function()
    local nobody = ports.free()
    local _, err = unknown(site { ocsp_uri = "http://127.0.0.1:" .. nobody .. "/" }, "fetch_failed")
    assert.equal(("it is not known whether a.test's certificate is revoked: the answer could not be fetched"
      .. " (http://127.0.0.1:%d/: 127.0.0.1:%d refused the connection)"):format(nobody, nobody), err.message)
    _, err = unknown(site { ocsp_uri = place .. "missing" }, "fetch_failed")
    assert.matches("the answer was HTTP 404", err.message, 1, true)
  end)

  it("that is slow or silent costs no more than the limit", function()
    for _, path in ipairs { "slow", "silent" } do
      local certificate = site { ocsp_uri = place .. path }
      local began = tlsconnect.now()
      local found = unknown(certificate, "fetch_failed", { fetch_timeout = 0.4 })
      assert.is_true(tlsconnect.now() - began < 20)
      assert.matches("time", found.detail)
    end
  end)

  it("R8 that sends without end is cut off", function()
    local found = unknown(site { ocsp_uri = place .. "huge" }, "fetch_failed")
    assert.matches("longer than 65536 bytes", found.detail, 1, true)
    revocation.forget()
    found = unknown(site { crl_uri = place .. "huge" }, "fetch_failed")
    assert.matches("longer than 8388608 bytes", found.detail, 1, true)
  end)

  it("R8 that redirects for ever is left", function()
    local found = unknown(site { ocsp_uri = place .. "to=/to=/to=/to=/to=/x" }, "fetch_failed")
    assert.is_true(#asked() <= 12)
    assert.is_string(found.detail)
    local loop = serve("loop", "")
    found = unknown(site { ocsp_uri = place .. "to=" .. loop:gsub("loop", "to=" .. place .. "loop") }, "bad_response")
    assert.equal("ocsp", found.source)
  end)

  it("may redirect to where the answer is", function()
    local certificate = site { ocsp_uri = place .. "to=/there" }
    serve("there", answer(certificate))
    good(certificate, "ocsp")
  end)

  it("R7 behind a URL that is not http is not asked", function()
    for _, url in ipairs { "file:///etc/passwd", "ldap://127.0.0.1/x", "https://127.0.0.1/", "gopher://a.test/" } do
      local found = unknown(site { ocsp_uri = url }, "fetch_failed")
      assert.equal("its URL is no http URL", found.detail)
    end
    for _, url in ipairs { "https://127.0.0.1:1/", "file:///etc/passwd" } do
      local found = unknown(site { ocsp_uri = place .. "to=" .. url }, "fetch_failed")
      assert.matches(url:match("^https") and "it redirects to https" or "scheme is neither", found.detail, 1, true)
    end
  end)

  it("R7 at a private or local address is not asked, unless that is allowed", function()
    for _, host in ipairs { "127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1", "169.254.169.254",
      "0.0.0.0" } do
      local certificate = site { ocsp_uri = "http://" .. host .. ":" .. place:match(":(%d+)") .. "/x" }
      local found = unknown(certificate, "fetch_failed", { insecure_fetch_private = false })
      assert.matches("allowed", found.detail)
    end
    assert.has_error(function() tmp.read(folder .. "/asked") end)
  end)
end)

describe("a revocation list that is fetched", function()
  before_each(start)

  local function list(options)
    return tmp.read(authority:crl(nil, options))
  end

  it("says good or revoked, as PEM or DER", function()
    local certificate = site { crl_uri = place .. "list" }
    serve("list", list())
    good(certificate, "crl")
    authority:revoke(certificate)
    serve("list", pki.der(authority:crl(), "crl"))
    revoked(certificate, "crl")
  end)

  it("is kept for all certificates of its issuer", function()
    local one, two = site { crl_uri = place .. "shared" }, site { crl_uri = place .. "shared" }
    serve("shared", list())
    assert.is_true((verify(one, "hard")))
    assert.is_true((verify(two, "hard")))
    assert.equal(1, #asked())
  end)

  it("R6 that is old, another issuer's, partial, a delta or forged is never a plain good", function()
    local stranger = pki.new()
    local function refused(bytes, code)
      local certificate = site { crl_uri = place .. "list" }
      serve("list", bytes)
      unknown(certificate, code)
      revocation.forget()
    end
    refused(list { last_update = -3 * DAY, next_update = -DAY }, "stale")
    refused(list { last_update = DAY, next_update = 2 * DAY }, "not_yet_valid")
    refused(tmp.read(stranger:crl()), "bad_signer")
    refused(tmp.read(authority:crl(authority:authority { cn = "Neighbour" })), "bad_crl")
    local point = "issuingDistributionPoint = critical, @point\n[point]\nonlysomereasons = keyCompromise"
    refused(list { extensions = point }, "partial_crl")
    refused(list { extensions = "2.5.29.27 = critical, ASN1:INTEGER:1" }, "partial_crl")
    local bytes = pki.der(authority:crl(), "crl")
    refused(bytes:sub(1, -2) .. string.char((bytes:byte(-1) + 1) % 256), "bad_signer")
    refused("junk", "bad_crl")
  end)

  it("is asked for where the responder has no answer", function()
    local certificate = site { ocsp_uri = place .. "missing", crl_uri = place .. "list" }
    serve("list", list())
    good(certificate, "crl")
    assert.same({ "missing", "list" }, { asked()[1], asked()[2] })
  end)
end)

describe("the path", function()
  before_each(start)

  it("is asked about below its root, all certificates at once", function()
    local middle = authority:authority { cn = "Middle", ocsp_uri = place .. "middle", fresh = true }
    local leaf = authority:issue { name = "a.test", ca = middle, ocsp_uri = place .. "leaf", fresh = true }
    serve("middle", answer(middle))
    serve("leaf", answer(leaf))
    local ok, found = verify(leaf, "hard")
    assert.is_true(ok)
    assert.equal(2, #found.certificates)
    assert.equal("ocsp", found.certificates[2].source)
    revocation.forget()
    authority:revoke(middle)
    serve("middle", answer(middle))
    local _, about, err = verify(leaf, "soft")
    assert.equal("revoked", err.code)
    assert.equal(2, about.certificate)
    assert.matches("its issuer Middle was revoked", err.message, 1, true)
  end)

  it("with a certificate that names nobody to ask passes soft and not hard", function()
    local middle = authority:authority { cn = "Silent", fresh = true }
    local leaf = authority:issue { name = "a.test", ca = middle, ocsp_uri = place .. "leaf", fresh = true }
    serve("leaf", answer(leaf))
    local found, err = unknown(leaf, "no_source")
    assert.equal(2, found.certificate)
    assert.equal("it is not known whether Silent, an issuer of a.test's certificate, is revoked: "
      .. "it names nobody to ask", err.message)
  end)

  it("is not asked about when it fails otherwise, or when the answer is muted", function()
    local certificate = site { ocsp_uri = place .. "x" }
    serve("x", answer(certificate))
    assert.is_false((verify(certificate, "hard", { name = "b.test" })))
    assert.is_true((verify(certificate, "hard", { insecure_skip_revocation = true })))
    assert.has_error(function() tmp.read(folder .. "/asked") end)
  end)
end)

-- nginx and a responder that run: the whole way of a connection.
describe("a connection", function()
  local function connect(server, more)
    local options = { ca_file = authority.ca_file, server_name = "a.test", timeout = 10,
      insecure_fetch_private = true }
    for name, value in pairs(more) do options[name] = value end
    local connection, message, err = tlsconnect.connect(server.host, server.port, options)
    if not connection then return nil, err.verification and err.verification.revocation, err, message end
    local found = connection:verification().revocation
    connection:close()
    return true, found
  end

  before_each(function() revocation.forget() end)

  it("asks a responder that runs: good, revoked, unknown", function()
    local port = ports.free()
    local certificate = site { ocsp_uri = "http://127.0.0.1:" .. port .. "/" }
    local function responder(database)
      return peers.start("openssl ocsp", function()
        return { "openssl", "ocsp", "-port", port, "-index", database, "-CA", authority.root.cert, "-rsigner",
          authority.root.cert, "-rkey", authority.root.key, "-ndays", "1", "-ignore_err" }
      end, { port = port })
    end
    local server = peers.nginx { cert = certificate }
    local one = responder(authority.root.database)
    for _, policy in ipairs { "soft", "hard" } do
      local ok, found = connect(server, { revocation = policy })
      assert.is_true(ok)
      assert.equal("ocsp", found.source)
    end
    one:stop()
    revocation.forget()
    one = responder(authority:database())
    assert.is_true((connect(server, { revocation = "soft" })))
    local _, _, err = connect(server, { revocation = "hard" })
    assert.equal("revocation_unknown", err.code)
    one:stop()
    revocation.forget()
    authority:revoke(certificate, "superseded")
    responder(authority.root.database)
    for _, policy in ipairs { "soft", "hard" } do
      _, _, err = connect(server, { revocation = policy })
      assert.equal("revoked", err.code)
      assert.matches("it was replaced", err.message, 1, true)
      revocation.forget()
    end
    assert.is_true((connect(server, { revocation = "staple" })))
  end)

  it("waits by the program's own wait while it asks", function()
    start()
    local certificate = site { ocsp_uri = place .. "x" }
    serve("x", answer(certificate))
    local server = peers.nginx { cert = certificate }
    scheduler.run(function(spawn, wait, _, join)
      local tasks = {}
      for i = 1, 4 do tasks[i] = spawn(connect, server, { revocation = "hard", wait = wait }) end
      for i = 1, 4 do assert.is_true((join(tasks[i]))) end
    end)
  end)

  it("ends in time when the responder is silent, and leaves no descriptor", function()
    start()
    local server = peers.nginx { cert = site { ocsp_uri = place .. "silent" } }
    local ok, found, err = connect(server, { revocation = "hard", fetch_timeout = 0.3 })
    assert.is_nil(ok)
    assert.equal("fetch_failed", found.why)
    assert.equal("revocation_unknown", err.code)
    assert.is_true((connect(server, { revocation = "soft", fetch_timeout = 0.3 })))
  end)

  for i, row in ipairs(rows) do
    if row[1] ~= "empty" and row[1] ~= "junk" then -- nginx reads what it staples
      it("takes nginx's staple under each policy: " .. row[1], function()
        local certificate, strict = site {}, site { must_staple = true }
        for _, one in ipairs { certificate, strict } do
          local file = tmp.file(row[2](one), "staple" .. i)
          local server = peers.nginx { cert = one, staple = file }
          for _, policy in ipairs { "staple", "soft", "hard" } do
            local ok, found, err = connect(server, { revocation = policy })
            if row[3] == "good" then
              assert.is_true(ok)
              assert.equal("staple", found.source)
            elseif row[3] == "revoked" then
              assert.is_nil(ok)
              assert.equal("revoked", err.code)
            elseif one == strict then
              assert.is_nil(ok)
              assert.equal("missing_staple", err.code)
            else
              assert.equal(policy ~= "hard" or nil, ok)
            end
          end
          server:stop()
        end
      end)
    end
  end
end)

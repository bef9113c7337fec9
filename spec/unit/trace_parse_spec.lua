local parse = require "tlsconnect.trace.parse"
local names = require "tlsconnect.trace.names"
local handshakes = require "spec.support.handshakes"

local function bytes(hex)
  return (hex:gsub("%s", ""):gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end))
end

-- Every message of a recorded handshake: {from =, number =, body =}.
local function recorded(name)
  local result = {}
  for i, line in ipairs(handshakes[name]) do
    local message = bytes(line:sub(2))
    result[i] = { from = line:sub(1, 1) == ">" and "client" or "server", number = message:byte(1),
                  body = message:sub(5) }
  end
  return result
end

local function parsed(name)
  local context, result = {}, {}
  for i, message in ipairs(recorded(name)) do
    result[i] = parse.message(message.number, message.body, context)
    assert.is_nil(result[i].malformed)
  end
  return result
end

local function types(list)
  local result = {}
  for i, message in ipairs(list) do result[i] = message.type end
  return table.concat(result, " ")
end

describe("the handshake parser", function()
  it("reads a full handshake of TLS 1.3", function()
    local list = parsed "tls13"
    assert.equal("ClientHello ServerHello EncryptedExtensions Certificate CertificateVerify Finished " ..
                 "Finished NewSessionTicket NewSessionTicket", types(list))
    local hello = list[1]
    assert.equal("TLS1.2", hello.legacy_version)
    assert.same({ "TLS1.3", "TLS1.2", "TLS1.1", "TLS1.0" }, hello.versions)
    assert.equal(64, #hello.random)
    assert.equal("TLS_AES_256_GCM_SHA384", hello.suites[1])
    assert.equal("x25519", hello.groups[1])
    assert.same({ { group = "x25519", length = 32 } }, hello.key_shares)
    assert.equal("a.test", hello.server_name)
    assert.same({ "h2", "http/1.1" }, hello.alpn)
    assert.same({ "psk_dhe_ke" }, hello.psk_modes)
    assert.equal("server_name", hello.extensions[1].name)
    assert.equal(11, hello.extensions[1].length)
    assert.is_true(hello.staple_asked)
    assert.is_false(hello.early_data)
    assert.equal("TLS1.3", list[2].version)
    assert.equal("TLS_AES_256_GCM_SHA384", list[2].suite)
    assert.equal("x25519", list[2].group)
    assert.equal("h2", list[3].alpn)
    assert.equal(1, #list[4].certificates)
    assert.equal(420, #list[4].certificates[1].der)
    assert.equal(824, list[4].certificates[1].staple_length)
    assert.equal("ecdsa_secp256r1_sha256", list[5].signature_scheme)
    assert.equal(96, #list[6].verify_data)
    assert.equal(7200, list[8].lifetime)
    assert.equal(208, list[8].ticket_length)
  end)

  it("reads a HelloRetryRequest and a demand for a client certificate", function()
    local list = parsed "tls13_retry_client"
    assert.equal("ClientHello HelloRetryRequest ClientHello ServerHello EncryptedExtensions " ..
                 "CertificateRequest Certificate CertificateVerify Finished Certificate CertificateVerify " ..
                 "Finished NewSessionTicket NewSessionTicket", types(list))
    assert.equal("secp384r1", list[2].group)
    assert.same({ { group = "secp384r1", length = 97 } }, list[3].key_shares)
    assert.same({ "CN=Test CA,O=Example\\, Trust,C=NL" }, list[6].authorities)
    assert.equal(2, #list[7].certificates)
  end)

  it("reads TLS 1.2 with ECDHE, a staple and a client certificate", function()
    local list = parsed "tls12_ecdhe"
    assert.equal("TLS1.2", list[2].version)
    assert.equal("h2", list[2].alpn)
    assert.is_true(list[2].extended_master_secret)
    assert.equal("CertificateStatus", list[4].type)
    assert.equal(824, list[4].length)
    assert.equal("x25519", list[5].group)
    assert.equal("ecdsa_secp256r1_sha256", list[5].signature_scheme)
    assert.same({ "rsa_sign", "dss_sign", "ecdsa_sign" }, list[6].certificate_types)
    assert.same({ "CN=Test CA,O=Example\\, Trust,C=NL" }, list[6].authorities)
    assert.equal(24, #list[11].verify_data)
  end)

  it("reads TLS 1.2 with DHE and with RSA", function()
    local dhe, rsa = parsed "tls12_dhe", parsed "tls12_rsa"
    assert.equal("DHE_RSA", dhe[4].exchange)
    assert.equal(2048, dhe[4].prime_bits)
    assert.equal("rsa_pss_rsae_sha256", dhe[4].signature_scheme)
    assert.equal("RSA", rsa[5].exchange)
    assert.equal(256, rsa[5].encrypted_length)
  end)

  it("tells by the random that a server was made to do worse", function()
    local body = "0303" .. ("00"):rep(24) .. "444f574e47524401" .. "00" .. "c02f" .. "00"
    assert.equal("TLS1.2", parse.message(2, bytes(body)).downgrade)
  end)

  it("says where a message is cut short, for every place it can be cut at", function()
    for name in pairs(handshakes) do
      local context = {}
      for _, message in ipairs(recorded(name)) do
        local whole = parse.message(message.number, message.body, context)
        assert.is_nil(whole.malformed)
        local step = #message.body > 200 and 7 or 1
        for cut = 0, #message.body - 1, step do
          local version, suite = context.version, context.suite
          local part = parse.message(message.number, message.body:sub(1, cut),
            { version = version, suite = suite })
          -- A hello may end before its extensions, and a Finished has no length of its own.
          if whole.type ~= "Finished" and not (whole.extensions and not part.malformed) then
            assert.matches("^malformed at offset %d+: ", part.malformed)
            assert.is_true(part.offset >= 0 and part.offset <= cut)
          end
        end
      end
    end
  end)

  it("keeps what it read before the fault", function()
    local hello = recorded("tls13")[1].body
    local part = parse.message(1, hello:sub(1, 60))
    assert.equal(64, #part.random)
    assert.is_nil(part.suites)
    assert.matches("^malformed at offset 35: the session id is cut short",
      parse.message(1, hello:sub(1, 40)).malformed)
  end)

  it("refuses bytes too many, an extension twice and an empty list of protocols", function()
    local start = "0303" .. ("aa"):rep(32) .. "00" .. "00021301" .. "0100"
    local function malformed(rest) return parse.message(1, bytes(start .. rest)).malformed end
    assert.is_nil(malformed "0000")
    assert.equal("malformed at offset 43: 1 bytes too many after the ClientHello", malformed "000000")
    assert.equal("malformed at offset 47: extension extended_master_secret twice",
      malformed "00080017000000170000")
    assert.matches("an empty list of protocols", malformed "0006001000020000")
    assert.matches("1 bytes too many after an empty extension", malformed "000500170001ff")
  end)

  it("caps every list and counts what it left out", function()
    local suites = ("1301"):rep(30000)
    local hello = parse.message(1, bytes("0303" .. ("aa"):rep(32) .. "00" .. ("%04x"):format(60000) ..
                                         suites .. "0100"))
    assert.is_nil(hello.malformed)
    assert.equal(512, #hello.suites)
    assert.equal(30000 - 512, hello.suites_more)
    local certificates = ("000001aa0000"):rep(1000)
    local chain = parse.message(11, bytes("00" .. ("%06x"):format(6000) .. certificates),
      { version = 0x0304 })
    assert.is_nil(chain.malformed)
    assert.equal(64, #chain.certificates)
    assert.equal(936, chain.certificates_more)
  end)

  it("names what is not known by its number, and GREASE", function()
    assert.equal("0x6400", names.group(0x6400))
    assert.equal("GREASE", names.group(0x2a2a))
    assert.equal("GREASE", names.suite(0xfafa))
    assert.equal("0x0a1a", names.extension(0x0a1a))
    assert.equal("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", names.suite(0xcca8))
    assert.equal("0x63", names.handshake_type(0x63))
    assert.equal("0x63", parse.message(0x63, "anything").type)
  end)

  it("splits a stream of messages and hands back an unfinished one", function()
    local first, second = bytes(handshakes.tls12_rsa[4]:sub(2)), bytes(handshakes.tls12_rsa[1]:sub(2))
    local list, rest = parse.stream(first .. second .. second:sub(1, 30))
    assert.equal("ServerHelloDone ClientHello", types(list))
    assert.equal(30, #rest)
  end)

  -- A generator of its own, so that every interpreter sees the same bytes.
  local function generator(seed)
    return function(limit)
      seed = (seed * 16807) % 2147483647
      return seed % limit
    end
  end

  it("never raises on mutated bytes, and never reads past them", function()
    local random, broken, count = generator(20261124), 0, 0
    for _, name in ipairs { "tls13", "tls13_retry_client", "tls12_ecdhe", "tls12_dhe", "tls12_rsa" } do
      local context = {}
      for _, message in ipairs(recorded(name)) do
        parse.message(message.number, message.body, context)
        for _ = 1, 100 do
          local body = message.body
          for _ = 0, random(3) do
            local at = random(#body + 1)
            local kind = random(4)
            if kind == 0 then
              body = body:sub(1, at)
            elseif kind == 1 then
              body = body:sub(1, at) .. string.char(random(256)) .. body:sub(at + 2)
            elseif kind == 2 then
              body = body:sub(1, at) .. string.char(random(256), random(256)) .. body:sub(at + 1)
            else
              body = body:sub(1, at) .. body:sub(at + 2)
            end
          end
          local m = parse.message(random(20) == 0 and random(30) or message.number, body,
            { version = context.version, suite = context.suite })
          count = count + 1
          assert.is_table(m)
          if m.malformed then
            broken = broken + 1
            assert.is_true(m.offset <= #body)
          end
        end
      end
    end
    assert.is_true(count > 4000)
    assert.is_true(broken > count / 2)
  end)
end)

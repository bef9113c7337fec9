-- tlsconnect cert HOST[:PORT] | FILE: certificates as people read them.

local arguments = require "tlsconnect.cli.arguments"
local flags = require "tlsconnect.cli.flags"
local output = require "tlsconnect.cli.output"
local summary = require "tlsconnect.cli.summary"
local text = require "tlsconnect.cli.text"
local verification = require "tlsconnect.trace.verification"

local cert = {}

local own = {
  { "--pem", key = "pem", help = "as PEM" },
  { "--json", key = "json", help = "as JSON" },
  { "--starttls", value = "PROTOCOL", key = "starttls",
    values = { "smtp", "imap", "pop3", "xmpp", "ftp", "postgres", "ldap" }, help = "ask for TLS first" },
}

local NAMES = 100

local function fields(certificate)
  local key, names = certificate:key() or {}, certificate:names() or {}
  local result = {
    subject = certificate:subject() or "", issuer = certificate:issuer() or "", serial = certificate:serial(),
    not_before = certificate:not_before(), not_after = certificate:not_after(),
    key = { type = key.type, bits = key.bits, curve = key.curve }, signature = (certificate:signature()),
    fingerprint = certificate:fingerprint(), pin = certificate:pin(), names = {},
  }
  for i = 1, math.min(#names, NAMES) do result.names[i] = names[i].text end
  if #names > NAMES then result.names_more = #names - NAMES end
  return result
end

local function key_text(key)
  return ("%s%s"):format((key.type or "unknown"):upper(), key.curve and " " .. key.curve or
    key.bits and " " .. key.bits .. " bits" or "")
end

local function put_certificate(index, row, now)
  local clean = output.clean
  local names = {}
  for i, name in ipairs(row.names) do names[i] = clean(name) end
  if row.names_more then names[#names + 1] = ("%d more"):format(row.names_more) end
  local width = (output.columns(1) or 110) - 14
  output.write(("%2d %s\n"):format(index, clean(row.subject ~= "" and row.subject or "(no subject)")))
  local function put(label, value)
    local head = ("   %-11s"):format(label)
    for _, line in ipairs(text.wrap(value, math.max(width, 40))) do
      output.write(head .. line .. "\n")
      head = (" "):rep(14)
    end
  end
  if #names > 0 then put("for", table.concat(names, ", ")) end
  put("issued by", clean(row.issuer))
  put("valid", ("%s to %s (%s)"):format(text.date(row.not_before), text.date(row.not_after),
    row.not_before and row.not_before > now and "not yet valid" or summary.left(row.not_after, now)))
  put("key", key_text(row.key))
  put("pin", "sha256/" .. row.pin)
  put("signature", clean(row.signature or "unknown"))
  put("serial", clean(row.serial or ""))
  put("SHA-256", clean(row.fingerprint))
end

-- The chain of a server: {certificate, ...}, the four answers, the error where it is not verified; or nil
-- and an error.
local function of_server(host, port, given, options, cli)
  options.insecure_skip_verify = true
  local good, connection, _, err = cli.try(function()
    if given.starttls then
      return require("tlsconnect.starttls").connect(host, port, given.starttls, options)
    end
    return require("tlsconnect").connect(host, port, options)
  end)
  if not good then return nil, { usage = connection } end
  if not connection then return nil, err end
  local chain, answers = connection:peer_chain(), connection:verification()
  connection:close()
  return chain or {}, answers and verification.fields(answers)
end

local function of_file(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local data, reason = file:read("*a")
  file:close()
  if not data then return nil, { step = "setup", code = "unreadable_file", message = path .. ": " .. reason } end
  local list, message, err = require("tlsconnect").certificate.list(data)
  if not list then return nil, err or message end
  if #list == 0 then return nil, { step = "setup", code = "bad_pem", message = path .. " holds no certificate" } end
  return list
end

-- The first answer that is not well, as a sentence.
local function trouble(answers)
  for _, check in ipairs(summary.checks) do
    local answer = answers[check[1]]
    if answer and (answer.answer == "no" or answer.answer ~= "yes" and check[1] ~= "revocation") then
      return answer
    end
  end
  return nil
end

local function put_json(chain, shown, answers, good)
  local rows = {}
  for i, certificate in ipairs(chain) do
    rows[i] = fields(certificate)
    rows[i].pem = certificate:pem()
  end
  output.write(require("tlsconnect.cli.json").encode {
    format = "tlsconnect-cert", version = 1, source = shown, verified = good, verification = answers,
    certificates = rows,
  } .. "\n")
end

function cert.main(words, cli)
  local list = flags.of(own)
  local given, problem = arguments.read(list, words, 2)
  if not given then return cli.usage(problem, "cert") end
  if given.help then
    output.write("tlsconnect cert [OPTIONS] HOST[:PORT] | FILE\n\n" .. arguments.help(list))
    return cli.OK
  end
  if #given ~= 1 then return cli.usage("one HOST[:PORT] or FILE is wanted", "cert") end

  local shown, answers = given[1], nil
  local chain, err = of_file(given[1])
  if err then return cli.fail(err) end
  if not chain then
    local usual = given.starttls and require("tlsconnect.starttls").ports[given.starttls] or 443
    local host, port = flags.target(given[1], usual)
    if not host then return cli.usage(port, "cert") end
    local options
    options, problem = flags.options(given)
    if not options then return cli.usage(problem, "cert") end
    chain, answers = of_server(host, port, given, options, cli)
    if not chain then
      err = answers
      if err.usage then return cli.usage(err.usage, "cert") end
      return cli.fail(err)
    end
    shown = summary.endpoint(output.clean(host), port)
  end

  local bad = answers and trouble(answers)
  local now = given.at or os.time()
  if given.pem then
    for _, certificate in ipairs(chain) do output.write(certificate:pem()) end
  elseif given.json then
    local good
    if answers then good = not bad end
    put_json(chain, shown, answers, good)
  else
    output.write(("%s   %s%s\n\n"):format(output.clean(shown), text.count(#chain, "certificate"),
      answers and (bad and ", NOT VERIFIED" or ", verified") or ""))
    for i, certificate in ipairs(chain) do put_certificate(i, fields(certificate), now) end
    if answers then
      local row = { step = "verify" }
      for name, value in pairs(answers) do row[name] = value end
      output.write("\n" .. summary.line(row, output.clean, now) .. "\n")
      for _, line in ipairs(summary.details(row, output.clean, now)) do output.write(line .. "\n") end
    end
  end
  if bad and not given.insecure_skip_verify then
    return cli.fail { step = "verify", code = bad.code, message = bad.reason or bad.code }
  end
  return cli.OK
end

return cert

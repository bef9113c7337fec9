-- What each step of a trace says to a person: one line, and the details below it. The text report and the
-- page are both made of these. Everything returned is clean: see text.clean.

local text = require "tlsconnect.cli.text"

local summary = {}

-- "TLS1.3" as "TLS 1.3".
local function version(name)
  return name and (name:gsub("^(%u+)(%d)", "%1 %2")) or "an unknown version"
end
summary.version = version

local function join(parts) return table.concat(parts, ", ") end

local function some(list, limit, more, clean)
  local result = {}
  for i = 1, math.min(#list, limit) do result[i] = clean(list[i]) end
  local left = #list - #result + (more or 0)
  if left > 0 then result[#result + 1] = ("%d more"):format(left) end
  return join(result)
end

-- The suite's cipher as people say it: "AES-128-GCM".
local function cipher(suite)
  if not suite then return nil end
  local name = suite:match("_WITH_(.+)$") or suite:match("^TLS_(.+)$") or suite
  name = name:gsub("_SHA%d*$", "")
  return (name:gsub("_", "-"))
end
summary.cipher = cipher

-- An address that never breaks a reading of "address:port".
local function endpoint(address, port)
  if not address then return "?" end
  if not port then return address end
  if address:find(":", 1, true) then address = "[" .. address .. "]" end
  return ("%s:%d"):format(address, port)
end
summary.endpoint = endpoint

--- Whole days from now to a date: "61 days left", "expired 3 days ago".
function summary.left(not_after, now)
  if type(not_after) ~= "number" then return "end unknown" end
  local days = (not_after - now) / 86400
  local whole = math.floor(math.abs(days))
  local span = whole >= 1 and text.count(whole, "day") or
    text.count(math.floor(math.abs(days) * 24), "hour")
  return days >= 0 and span .. " left" or "expired " .. span .. " ago"
end

local lines, details = {}, {}

function lines.dns(step, clean)
  if step.literal then return "an address already: nothing to look up" end
  local list = {}
  for _, address in ipairs(step.addresses or {}) do list[#list + 1] = address end
  local result = #list > 0 and some(list, 4, nil, clean) or "no address"
  if step.loopback then result = result .. " (this machine: nothing to look up)" end
  if step.cached then result = result .. " (remembered)" end
  return result
end

local family_names = { inet = "IPv4", inet6 = "IPv6" }

function details.dns(step, clean)
  local result = {}
  if step.ascii and step.name and step.ascii ~= step.name then
    result[#result + 1] = ("%s is asked for as %s"):format(clean(step.name), clean(step.ascii))
  end
  for _, family in ipairs(step.families or {}) do
    local what = family.error and (clean(family.error):gsub("_", " ")) or
      #(family.addresses or {}) == 0 and "no address" or some(family.addresses, 8, nil, clean)
    result[#result + 1] = ("%s%s: %s"):format(family_names[family.family] or clean(family.family),
      family.elapsed and " after " .. text.duration(family.elapsed, true) or "", what)
  end
  return result
end

function lines.tcp(step, clean)
  if step.path then return "the local socket " .. clean(step.path) end
  local attempts = step.attempts or {}
  if step.address then
    local result = endpoint(clean(step.address), step.port) .. (#attempts > 1 and " won" or "")
    local others = {}
    for _, attempt in ipairs(attempts) do
      if not attempt.ok and attempt.address then
        others[#others + 1] = clean(attempt.address) .. " " ..
          clean(attempt.code or attempt.result or "not needed")
      end
    end
    if #others > 0 then result = result .. "; " .. some(others, 3, nil, tostring) end
    for _, hop in ipairs(step.proxy or {}) do
      result = result .. ("; %s proxy %s to %s"):format(clean(hop.kind or "a"),
        endpoint(clean(hop.host or "?"), hop.port), clean(hop.target or "?"))
    end
    return result
  end
  local failed = {}
  for _, attempt in ipairs(attempts) do
    failed[#failed + 1] = clean(attempt.address or "?") .. " " ..
      clean(attempt.code or attempt.result or "failed")
  end
  return #failed > 0 and some(failed, 4, nil, tostring) or "no address to try"
end

function details.tcp(step, clean)
  local result = {}
  for _, attempt in ipairs(step.attempts or {}) do
    result[#result + 1] = ("%s: %s%s%s"):format(endpoint(clean(attempt.address), attempt.port),
      attempt.ok and "connected" or clean(attempt.message or attempt.code or attempt.result or "given up"),
      attempt.started and ", begun at " .. text.duration(attempt.started, true) or "",
      attempt.elapsed and ", took " .. text.duration(attempt.elapsed, true) or "")
  end
  if step.local_address then
    result[#result + 1] = "from " .. endpoint(clean(step.local_address), step.local_port)
  end
  return result
end

local function versions(list)
  local result = {}
  for _, name in ipairs(list or {}) do
    if name ~= "GREASE" then result[#result + 1] = (version(name):gsub("^TLS ", "")) end
  end
  if #result == 0 then return "no version" end
  return "TLS " .. table.concat(result, " and ")
end

function lines.client_hello(step, clean)
  if not step.random then return "sent" end
  local shares = {}
  for _, share in ipairs(step.key_shares or {}) do
    if share.group ~= "GREASE" then shares[#shares + 1] = share.group end
  end
  local suites = #(step.suites or {}) + (step.suites_more or 0)
  local parts = { versions(step.versions), text.count(suites, "suite") }
  if #shares > 0 then parts[#parts + 1] = table.concat(shares, " and ") .. " offered" end
  if step.server_name then parts[#parts + 1] = "for " .. clean(step.server_name) end
  if step.alpn then parts[#parts + 1] = "ALPN " .. some(step.alpn, 4, nil, clean) end
  if step.psk_identities then parts[#parts + 1] = "offers to resume" end
  if step.early_data then parts[#parts + 1] = "sends early data" end
  if step.retry then
    parts[#parts + 1] = ("asked again%s"):format(step.retry.group and " for " .. step.retry.group or "")
  end
  return join(parts)
end

local function extension_list(list)
  local result = {}
  for _, extension in ipairs(list or {}) do
    result[#result + 1] = ("%s (%d)"):format(extension.name, extension.length)
  end
  return result
end

function details.client_hello(step, clean)
  local result = {}
  local function add(label, list, more)
    if list and #list > 0 then result[#result + 1] = label .. ": " .. some(list, 40, more, clean) end
  end
  if step.random then result[#result + 1] = "random: " .. step.random end
  if step.session_id and step.session_id ~= "" then
    result[#result + 1] = "session id: " .. step.session_id
  end
  add("suites", step.suites, step.suites_more)
  add("groups", step.groups)
  add("signature schemes", step.signature_schemes)
  add("extensions", extension_list(step.extensions), step.extensions_more)
  if step.second then
    result[#result + 1] = "second hello: key share " ..
      (step.second.key_shares and step.second.key_shares[1] and step.second.key_shares[1].group or "?")
  end
  if step.malformed then result[#result + 1] = clean(step.malformed) end
  return result
end

function lines.server_hello(step, clean)
  if not step.version then return "no answer yet" end
  local parts = { version(step.version), cipher(step.suite) }
  if step.group then parts[#parts + 1] = step.group end
  if step.certificates then
    parts[#parts + 1] = text.count(#step.certificates + (step.certificates_more or 0), "certificate")
    if step.staple_length then parts[#parts + 1] = "stapled answer" end
  else
    parts[#parts + 1] = "no certificate"
  end
  if step.alpn then parts[#parts + 1] = "ALPN " .. clean(step.alpn) end
  if step.client_certificate_asked then parts[#parts + 1] = "asks for a client certificate" end
  if step.downgrade then parts[#parts + 1] = "says it was made to do worse than it can" end
  return join(parts)
end

function details.server_hello(step, clean)
  local result = {}
  if step.random then result[#result + 1] = "random: " .. step.random end
  for i, certificate in ipairs(step.certificates or {}) do
    result[#result + 1] = ("certificate %d: %s, issued by %s, until %s"):format(i,
      clean(certificate.subject ~= "" and certificate.subject or "(no subject)"),
      clean(certificate.issuer or "?"), text.date(certificate.not_after))
  end
  local extensions = extension_list(step.extensions)
  for _, name in ipairs(extension_list(step.encrypted_extensions)) do extensions[#extensions + 1] = name end
  if #extensions > 0 then result[#result + 1] = "extensions: " .. some(extensions, 40, nil, clean) end
  local asked = step.client_certificate_asked
  if asked then
    local from = asked.authorities or {}
    result[#result + 1] = "client certificate of: " ..
      (#from > 0 and some(from, 10, asked.authorities_more, clean) or "anybody")
  end
  if step.malformed then result[#result + 1] = clean(step.malformed) end
  return result
end

local checks = {
  { "issuer", yes = "issuer ok", no = "issuer NO", unknown = "issuer unknown" },
  { "dates", yes = "dates ok", no = "dates NO", unknown = "dates unknown" },
  { "revocation", yes = "not revoked", no = "revocation NO", unknown = "revocation unknown" },
  { "name", yes = "name ok", no = "name NO", unknown = "name unknown" },
}
summary.checks = checks

local function answer_of(step, check)
  local value = step[check[1]]
  if type(value) ~= "table" then return nil end
  return value
end

function lines.verify(step, clean, now)
  if step.skipped then return "NOT DONE: verification was switched off" end
  local parts = {}
  for _, check in ipairs(checks) do
    local value = answer_of(step, check)
    if value then
      local part = check[value.answer] or check.unknown
      if check[1] == "dates" and value.answer == "yes" and step.not_after then
        part = ("%s (%s)"):format(part, summary.left(step.not_after, now))
      elseif check[1] == "revocation" and value.answer == "unknown" and (value.code or value.reason) then
        part = ("%s (%s)"):format(part, clean((value.code or value.reason):gsub("_", " ")))
      end
      parts[#parts + 1] = part
    end
  end
  return #parts > 0 and join(parts) or "the certificate is checked"
end

function details.verify(step, clean)
  local result = {}
  if step.path and #step.path > 0 then
    local names = {}
    for i, name in ipairs(step.path) do
      -- The common name says enough here.
      names[i] = clean(name:match("CN=([^,]+)") or name)
    end
    result[1] = table.concat(names, " < ")
  end
  for _, check in ipairs(checks) do
    local value = answer_of(step, check)
    -- That nobody was asked about revocation is everyday: the line has said so.
    local everyday = check[1] == "revocation" and value and value.answer == "unknown"
    if value and value.answer ~= "yes" and value.reason and not everyday then
      result[#result + 1] = check[1] .. ": " .. clean(value.reason)
    end
  end
  return result
end

local kinds = {
  ECDHE = "ECDHE", DHE = "DHE", RSA = "RSA: the secret is encrypted to the server's key", PSK = "PSK",
  hybrid = "hybrid", resumed = "of the session before",
  ["ECDHE+PSK"] = "ECDHE with a key of the session before",
  ["DHE+PSK"] = "DHE with a key of the session before",
  ["hybrid+PSK"] = "hybrid with a key of the session before",
}

function lines.key_exchange(step, clean)
  if not step.kind then return "the secret is agreed on" end
  local parts = { kinds[step.kind] or clean(step.kind) }
  if step.group then parts[1] = parts[1] .. " over " .. step.group end
  if step.prime_bits and not step.group then parts[#parts + 1] = step.prime_bits .. " bits" end
  if step.server_signature then parts[#parts + 1] = "server signed with " .. step.server_signature end
  if step.client_signature then parts[#parts + 1] = "client signed with " .. step.client_signature end
  if step.resumed then parts[#parts + 1] = "resumed" end
  return join(parts)
end

function lines.session_keys(step)
  if not step.suite then return "the keys are made" end
  local parts = { cipher(step.suite) }
  if step.key_bits then parts[#parts + 1] = step.key_bits .. "-bit keys" end
  if step.mac and step.mac ~= "AEAD" then parts[#parts + 1] = "MAC " .. step.mac end
  if step.prf then parts[#parts + 1] = "keys by " .. step.prf end
  parts[#parts + 1] = step.forward_secrecy and "forward secrecy" or "NO forward secrecy"
  return join(parts)
end

function details.session_keys(step)
  return { "suite: " .. tostring(step.suite) }
end

function lines.finished(step)
  local parts = {}
  if step.client and step.server then
    parts[1] = "both sides agree"
  elseif step.server or step.client then
    parts[1] = ("only the %s has finished"):format(step.server and "server" or "client")
  end
  if step.round_trips then parts[#parts + 1] = text.count(step.round_trips, "round trip") end
  if step.early_data and step.early_data ~= "not offered" then
    parts[#parts + 1] = "early data " .. step.early_data
  end
  return #parts > 0 and join(parts) or "the handshake is over"
end

function lines.data(step, clean)
  local parts = {}
  if step.request and not step.answer then
    parts[1] = "no answer to " .. clean(step.request)
  elseif step.answer then
    parts[1] = clean(step.answer)
  end
  if step.bytes_out then
    parts[#parts + 1] = ("%s out, %s in"):format(text.bytes(step.bytes_out), text.bytes(step.bytes_in or 0))
  end
  if step.first_byte then parts[#parts + 1] = "first byte after " .. text.duration(step.first_byte, true) end
  if step.tickets and step.tickets > 0 then parts[#parts + 1] = text.count(step.tickets, "ticket") end
  if step.key_updates and step.key_updates > 0 then
    parts[#parts + 1] = text.count(step.key_updates, "key update")
  end
  return join(parts)
end

function lines.close(step)
  if step.truncated and not step.sent then return "TRUNCATED: the server ended the stream without close_notify" end
  if step.sent and step.received then
    return ("close_notify both ways%s"):format(step.first and ", the " .. step.first .. " first" or "")
  elseif step.sent then
    return "close_notify sent, none came back"
  elseif step.received then
    return "the server sent close_notify"
  end
  return "not closed"
end

-- Advice by code; %s is the host.
local advice = {
  bad_host = "Check the spelling: a host is letters, digits, hyphens and dots, or an address.",
  unknown_host = "Check the spelling, and whether the name server knows it: `getent hosts %s`.",
  no_address = "Try the other family: leave out -4 or -6.",
  lookup_failed = "The name server did not answer: check /etc/resolv.conf and the network.",
  refused = "Nothing listens there: check the port, and that the server runs.",
  unreachable = "There is no route: check the network, or try -4 or -6.",
  all_failed = "Every address was tried: see the attempts with -v.",
  timeout = "Give more time with --timeout, or look for a firewall that swallows packets.",
  not_tls = "The server speaks something else there: check the port, or use --starttls.",
  version_refused = "The server wants another TLS version: only 1.2 and 1.3 are spoken here.",
  no_common_suite = "The server allows no suite that is safe: it must be brought up to date.",
  no_common_group = "The server allows no group in common: it must be brought up to date.",
  no_common_alpn = "The server speaks none of these protocols: leave out --alpn, or offer others.",
  no_common_parameters = "The server liked none of what was offered: see `-v` for what that was.",
  unrecognized_name = "The server does not know the name: check it, or set --server-name.",
  expired = "The server's owner must renew it; `--at DATE` shows the rest of the flow.",
  not_yet_valid = "Check this machine's clock (it is %t); `--at DATE` shows the rest of the flow.",
  self_signed = "If it is your own, give it with --ca FILE; `--insecure` shows the rest of the flow.",
  unknown_issuer = "Give its root with --ca FILE, or have the server send its intermediate.",
  name_mismatch = "The certificate must name the host: check the name, or use --server-name.",
  wrong_purpose = "The certificate was not issued for this use: the owner needs another one.",
  revoked = "Its issuer has withdrawn it: the owner needs another one.",
  weak_key = "The owner needs a certificate with a stronger key.",
  missing_staple = "The certificate demands a stapled answer: the server must be set to send one.",
  revocation_unknown = "Only --insecure goes on without knowing.",
  not_a_ca = "The server sends a chain that no issuer made so: see it with `tlsconnect cert`.",
  bad_certificate = "The owner needs a certificate that keeps the rules: see `tlsconnect cert`.",
  access_denied = "The server knows the client certificate, and does not let it in.",
  password_required = "Give the key's password with --password-file.",
  address_in_use = "Another program listens there: choose another --port, or 0 for a free one.",
  permission = "Ports below 1024 need more rights: choose another.",
  downgrade = "Something between here and the server meddles with the handshake.",
  weak_signature = "The owner needs a certificate with a stronger signature.",
  certificate_required = "Give a client certificate with --cert and --key.",
  certificate_rejected = "The server does not accept the client certificate: check --cert.",
  reset = "The server, or something between, broke it off: see how far it came above.",
  closed = "The server ended it: see how far it came above, and the server's log.",
  truncated = "The server ended without saying so: what came may not be all.",
  unreadable_file = "Check the path and its permissions.",
  unreadable_trust = "Check the path and its permissions.",
  no_trust = "Install the system's roots (ca-certificates), or give --ca FILE.",
  wrong_password = "Give the key's password with --password-file.",
  key_mismatch = "Give the --key that belongs to --cert.",
  starttls_refused = "The server does not offer TLS there: check the port, or its configuration.",
  plaintext_before_tls = "Bytes came in clear after the go-ahead: somebody may be injecting commands.",
}

summary.advices = advice

--- A line of advice for an error, or nil.
function summary.advice(err, clean, now)
  local line = err and advice[err.code]
  if not line then return nil end
  line = line:gsub("%%t", function() return text.date(now or os.time()) end)
  return (line:gsub("%%s", function() return clean(err.host or "HOST") end))
end

--- The step's line. step: a row of a trace; clean: a function that makes a peer's text harmless; now:
-- seconds since the epoch.
function summary.line(step, clean, now)
  return lines[step.step](step, clean, now)
end

-- What must have been seen for a failed step's line to say something.
local seen = { tcp = "attempts", client_hello = "random", server_hello = "version", verify = "issuer" }

--- The lines below a failed step: what was seen of it, without the sentence that was said already.
function summary.failed(step, clean, now, said, verbose)
  local result = {}
  local field = seen[step.step]
  if field and step[field] then
    result[1] = summary.line(step, clean, now)
    if verbose or step.step == "verify" or step.step == "tcp" then
      for _, line in ipairs(summary.details(step, clean, now)) do
        local sentence = line:match("^%w+: (.*)$")
        if line ~= said and sentence ~= said then result[#result + 1] = line end
      end
    end
  end
  return result
end

--- The step's details: a list of lines.
function summary.details(step, clean, now)
  local more = details[step.step]
  return more and more(step, clean, now) or {}
end

return summary

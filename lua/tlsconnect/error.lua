-- Errors as a program and a person meet them. The core says what happened (a cause); here the step,
-- the host and the sentence are added. Every function that the world can fail returns
-- `nil, message, err`: see errors.fail.
local errors = {}

-- Every code: where it can happen, and what it means to the person who reads it. The README's table
-- is this list (a spec compares them). `retry`: the same call may well work when it is made again.
-- A code of several steps names them all; "any" is every step that waits or uses memory.
errors.codes = {
  { "bad_host", "dns",
    "the host is neither a name nor an address: odd bytes, or a label that IDNA refuses" },
  { "unknown_host", "dns", "no such name" },
  { "no_address", "dns", "the name exists, but has no address of the family that was asked for" },
  { "lookup_failed", "dns", "the name server did not answer, or answered with a failure", retry = true },
  { "too_many_lookups", "dns", "more than a thousand look-ups are waiting in this process", retry = true },
  { "forked", "dns data",
    "a look-up that was begun, or a connection that was opened, before a fork: it is the parent's", retry = true },
  { "bad_address", "tcp", "no IP address written in full" },
  { "bad_path", "tcp", "no path for a Unix socket: empty, too long, or a NUL in it" },
  { "refused", "tcp", "nothing listens on that port", retry = true },
  { "unreachable", "tcp", "there is no route to the address", retry = true },
  { "all_failed", "tcp",
    "every address failed, not all in the same way; `err.attempts` lists them", retry = true },
  { "address_refused", "tcp", "`allow_address` refused every address" },
  { "address_not_available", "tcp",
    "`local_address`, or the address to listen on, is not one of this machine's" },
  { "address_in_use", "tcp", "the address to listen on is taken" },
  { "permission", "tcp", "the system does not allow it" },
  { "not_found", "tcp", "there is no such socket or file" },
  { "too_many_files", "tcp", "the process or the system has no descriptor left", retry = true },
  { "plaintext_before_tls", "client_hello",
    "bytes in clear came before the handshake (STARTTLS injection)" },
  { "starttls_refused", "client_hello", "the server does not offer TLS by that protocol, or said no" },
  { "not_tls", "server_hello", "the peer speaks something else; `err.first_bytes` are its first bytes" },
  { "version_refused", "server_hello", "no TLS version that both sides allow" },
  { "no_common_suite", "server_hello", "no cipher suite that both sides allow" },
  { "no_common_group", "server_hello", "no key exchange group that both sides allow" },
  { "no_common_alpn", "server_hello", "none of the `alpn` protocols was agreed on" },
  { "early_protocol", "finished", "early data was taken, and another protocol agreed on for it (RFC 8446 4.2.10)" },
  { "downgrade", "server_hello", "somebody between the two lowered the version" },
  { "no_common_parameters", "server_hello",
    "the server refused the ClientHello: no version, suite or group in common" },
  { "unrecognized_name", "server_hello", "the server does not know the name that was asked for (SNI)" },
  { "no_certificate", "server_hello", "the peer sent no certificate" },
  { "too_many_certificates", "server_hello", "the peer sent more certificates than any real chain has" },
  { "expired", "verify", "a certificate's time is over" },
  { "not_yet_valid", "verify", "a certificate's time has not begun" },
  { "self_signed", "verify", "the certificate is signed by its own key, and is not trusted" },
  { "unknown_issuer", "verify", "no trusted root stands above the certificate" },
  { "name_mismatch", "verify", "the certificate is for other names" },
  { "wrong_purpose", "verify", "the certificate may not be used for this (extended key usage)" },
  { "revoked", "verify", "the issuer has revoked a certificate" },
  { "weak_key", "verify", "a key of a kind or size that is no longer safe" },
  { "weak_signature", "verify", "a signature with a hash that is no longer safe" },
  { "bad_certificate", "verify", "a certificate that breaks the rules, or cannot be read" },
  { "unknown_critical", "verify", "a certificate demands something that is not known here" },
  { "not_a_ca", "verify", "a certificate was issued by one that may not issue any" },
  { "wrong_issuer", "verify", "a certificate's signature is not its issuer's: forged or damaged" },
  { "path_too_long", "verify", "more certificates up to the root than are allowed" },
  { "name_not_permitted", "verify",
    "a certificate has a name that an issuer above it may not vouch for (name constraints)" },
  { "no_policy", "verify",
    "an issuer demands a certificate policy that a certificate below it does not have" },
  { "too_complex", "verify", "more certificates, names or work than any real chain needs" },
  { "missing_staple", "verify",
    "the certificate obliges the server to send a good revocation answer, and it did not" },
  { "revocation_unknown", "verify", "whether it is revoked cannot be told, and the policy asks for it" },
  { "pin_mismatch", "verify", "no certificate of the path has one of the pinned keys (`pins`)" },
  { "known_host_changed", "verify",
    "the host has another key than in the file of `known_hosts`; `err.known` and `err.pin` are both" },
  { "bad_known_hosts", "verify", "the file of `known_hosts` cannot be read, written or locked, or was cut" },
  { "verify_refused", "verify", "the function of the option `verify` did not return true" },
  { "pedantic", "verify", "`profile = \"strict\"`: a rule that many sites break; the message names it" },
  { "certificate_refused", "verify", "the certificate was not accepted" },
  { "unreadable_trust", "verify", "the trusted roots cannot be read" },
  { "no_trust", "verify", "no trusted roots were found on this system" },
  { "bad_signature", "key_exchange", "the peer's signature is wrong: it does not hold the key" },
  { "weak_group", "key_exchange", "the peer's Diffie-Hellman prime is too small" },
  { "certificate_required", "finished data", "the server wants a client certificate" },
  { "certificate_rejected", "finished data", "the peer refused our certificate; `err.alert` says why" },
  { "access_denied", "finished data", "the peer knows us, and does not let us in" },
  { "alert", "client_hello server_hello verify key_exchange finished data",
    "the peer ended it with another alert, named in `err.alert`" },
  { "protocol_error", "client_hello server_hello key_exchange finished data",
    "the peer broke the rules of TLS" },
  { "bad_record", "finished data", "a record was forged or damaged on the way" },
  { "renegotiation_refused", "data", "the peer wanted to renegotiate; that is refused" },
  { "too_long", "data http", "a line, a head, a body or a message is longer than its limit" },
  { "not_ready", "data", "the handshake is not complete" },
  { "not_available", "data",
    "this connection has no such exporter or binding that is safe (TLS 1.2 without extended master secret)" },
  { "reset", "tcp client_hello server_hello verify key_exchange finished data",
    "the peer, or something between, broke the connection off", retry = true },
  { "closed", "client_hello server_hello verify key_exchange finished data close http",
    "the stream has ended, or was closed here", retry = true },
  { "truncated", "data close http",
    "the stream ended without close_notify, or before the answer was whole", retry = true },
  { "busy", "data", "another coroutine is in the middle of the same call on this connection" },
  { "abandoned", "data",
    "an earlier call on this connection was left half-way (its wait raised an error): it cannot go on" },
  { "timeout", "dns tcp client_hello server_hello verify key_exchange finished data close",
    "the time given was over; `err.step` says where", retry = true },
  { "cancelled", "dns tcp client_hello server_hello verify key_exchange finished data close",
    "the `wait` function gave up; the message is its own" },
  { "bad_url", "http", "the URL is no http or https URL, or holds what no URL may" },
  { "bad_method", "http", "the request's method is no HTTP method" },
  { "bad_header", "http", "a header, of the request or of the answer, that HTTP does not allow" },
  { "bad_body", "http", "the request's body failed, or is not as long as announced" },
  { "bad_auth", "http", "credentials that the kind of authorization asked for cannot say" },
  { "bad_json", "http", "the answer is no JSON, or the value to send cannot be made JSON" },
  { "not_http", "http", "the answer is not HTTP/1" },
  { "bad_status", "http", "an answer with 101 that nobody asked for, or interim answers without end" },
  { "bad_framing", "http", "the answer does not say in one clear way where its body ends" },
  { "bad_chunk", "http", "a chunk of the answer is not as HTTP wants it" },
  { "bad_coding", "http", "the body's compression is damaged, cut short, or not known here" },
  { "no_events", "http", "the answer is no event stream (200, text/event-stream), and `reconnect` asked for one" },
  { "status", "http", "raised by `raise_for_status()`: an answer of 400 or more, in `err.response`" },
  { "bad_redirect", "http", "a redirect to what is no http or https URL" },
  { "redirect_refused", "http", "a redirect from https to http" },
  { "too_many_redirects", "http", "more redirects than `redirects` allows" },
  { "body_spent", "http", "a redirect of a request whose body cannot be sent again" },
  { "bad_proxy", "proxy", "the option `proxy`, or the environment's, says nothing that can be used" },
  { "proxy_auth", "proxy", "the proxy wants a user name and a password, or others than it was given" },
  { "proxy_refused", "proxy",
    "the proxy did not connect to the host: `err.status` (HTTP) or `err.reply` (SOCKS5) says why" },
  { "bad_answer", "proxy", "the proxy answered what its protocol does not allow" },
  { "bad_pem", "setup", "the text is no PEM, or damaged" },
  { "bad_der", "setup", "the bytes are no DER of the kind expected" },
  { "wrong_password", "setup", "the key is encrypted with another password" },
  { "password_required", "setup", "the key is encrypted, and no password was given" },
  { "bad_key", "setup", "the numbers of a key do not fit together" },
  { "no_key", "setup", "PKCS #12 data without a private key" },
  { "too_large", "setup", "a key, a name or the work that a password asks for is beyond all use" },
  { "key_mismatch", "setup", "the key does not belong to the certificate" },
  { "no_credentials", "setup", "a server needs a certificate and its key" },
  { "bad_priority", "setup", "GnuTLS does not understand the `priority`" },
  { "unreadable_file", "setup", "a file cannot be read; the message says why" },
  { "unwritable_file", "setup", "a file cannot be written; the message says why" },
  { "memory", "any", "out of memory" },
  { "unsupported", "any", "this system or this GnuTLS cannot do it" },
  { "system", "any", "another error of the system, in `err.errno`" },
  { "tls", "any", "another error of GnuTLS, in `err.gnutls`" },
}

local known = {}
for _, row in ipairs(errors.codes) do known[row[1]] = row end
errors.known = known

-- The sentences, where the core's own words ({cause}) are not the best. {peer} is host:port, {host} the
-- host; {while} is " while waiting for ...", or empty.
local sentences = {
  bad_host = "{host} is not a host name: {cause}",
  unknown_host = "{host}: no such host",
  no_address = "{host} has no address{family}",
  lookup_failed = "{host}: the name look-up failed: {cause}",
  refused = "{peer} refused the connection",
  unreachable = "{peer} cannot be reached: {cause}",
  address_refused = "{host}: none of its addresses is allowed",
  address_not_available = "{peer}: the address is not one of this machine's",
  address_in_use = "{peer}: the address is already in use",
  too_many_files = "{peer}: no descriptor left: {cause}",
  reset = "connection reset by {peer}{while}",
  closed = "{peer} closed the connection{while}",
  truncated = "{peer} ended the connection without close_notify{while}: data may be missing",
  timeout = "{peer}: time is over{while}",
  plaintext_before_tls = "{peer} sent bytes in clear before the TLS handshake",
  not_tls = "{peer} does not speak TLS{first}",
  version_refused = "{peer} and this side allow no common version of TLS{alert}",
  no_common_suite = "{peer} and this side allow no common cipher suite{alert}",
  no_common_group = "{peer} and this side allow no common key exchange group{alert}",
  no_common_parameters = "{peer} and this side allow no common version, cipher suite or group{alert}",
  no_certificate = "{peer} sent no certificate",
  bad_signature = "{peer} does not hold the key of its certificate: its signature is wrong",
  weak_group = "{peer} uses a Diffie-Hellman prime that is too small",
  bad_record = "{peer} sent a record that was forged or damaged",
  renegotiation_refused = "{peer} wanted to renegotiate, which is refused",
  busy = "{peer}: another coroutine is in the middle of the same call",
  abandoned = "{peer}: an earlier call was left half-way, so the connection cannot go on",
  memory = "{peer}: out of memory",
}

-- Where LuaSocket has a word, programs compare with it: it is the whole message, and the sentence is in
-- err.detail. Only the clean end of a stream that was open is "closed": one that is reset, truncated, or
-- ended in the middle of the handshake never is.
local function word(err)
  if err.code == "timeout" then return "timeout" end
  if err.code == "closed" and (err.step == "data" or err.step == "close" or err.step == "tcp") then
    return "closed"
  end
  return nil
end

-- What the first bytes of a peer that is no TLS server show.
local greetings = {
  { "^HTTP/", "an HTTP server" },
  { "^SSH%-", "an SSH server" },
  { "^220[ %-]", "an SMTP or FTP server (STARTTLS?)" },
  { "^%* OK", "an IMAP server (STARTTLS?)" },
  { "^%+OK", "a POP3 server (STLS?)" },
  { "^<", "XML or HTML" },
}

local escapes = { ["\r"] = "\\r", ["\n"] = "\\n", ["\t"] = "\\t", ["\\"] = "\\\\", ['"'] = '\\"' }

--- Bytes of a peer as printable ASCII: everything else becomes \xNN, so that none of it reaches a
-- terminal or a log raw. Cut after `limit` bytes (default 64), with "..." then.
function errors.escape(bytes, limit)
  limit = limit or 64
  local text = bytes:sub(1, limit):gsub('[%c"\\\127-\255]', function(byte)
    return escapes[byte] or ("\\x%02X"):format(byte:byte())
  end)
  return #bytes > limit and text .. "..." or text
end

--- "example.org:443", "[::1]:443", or "the peer" when nothing is known.
function errors.peer(host, port)
  if not host then return "the peer" end
  host = errors.escape(host, 255)
  if not port then return host end
  if host:find(":", 1, true) then host = "[" .. host .. "]" end
  return ("%s:%d"):format(host, port)
end

local parts = {
  peer = function(err) return errors.peer(err.host, err.port) end,
  host = function(err) return err.host and errors.escape(err.host, 255) or "the host" end,
  cause = function(err) return err.cause and errors.escape(err.cause, 300) or "unknown reason" end,
  rest = function(err) return errors.escape(err.cause:match("^the peer( .*)"), 300) end,
  family = function(err)
    local names = { inet = " of IPv4", inet6 = " of IPv6" }
    return names[err.family] or ""
  end,
  alert = function(err) return err.alert and (" (alert %s)"):format(err.alert) or "" end,
  first = function(err)
    local bytes = err.first_bytes
    if not bytes or bytes == "" then return "" end
    local kind = ""
    for _, greeting in ipairs(greetings) do
      if bytes:find(greeting[1]) then kind = ", it looks like " .. greeting[2] break end
    end
    return ('%s: its first bytes are "%s"'):format(kind, errors.escape(bytes, 32))
  end,
  ["while"] = function(err) return err.doing and " while " .. err.doing or "" end,
}

local function sentence(err)
  local template = sentences[err.code]
  if not template then
    -- The core calls the peer "the peer"; here it has a name.
    template = err.cause and err.cause:find("^the peer ") and "{peer}{rest}{while}"
      or err.cause and "{peer}: {cause}{while}" or "{peer}: {code}{while}"
  end
  return (template:gsub("{(%w+)}", function(name)
    if parts[name] then return parts[name](err) end
    return tostring(err[name])
  end))
end

local meta = {
  __name = "tlsconnect.error",
  __tostring = function(err) return err.message end,
}

--- Whether a value is an error made here.
function errors.is(value)
  return getmetatable(value) == meta
end

--- Makes an error of the fields given (the table itself becomes the error).
-- code (string, of errors.codes) and step (one of the ten, "proxy", "http" or "setup"); host, port,
-- alert, errno, gnutls, first_bytes, certificate, attempts, ... as they are known; message: the
-- line a person reads, made from the code when absent; doing: "waiting for ServerHello".
-- Adds detail (that line, also where message is one of LuaSocket's words) and retryable.
function errors.new(err)
  err.detail = err.detail or err.message or sentence(err)
  err.message = word(err) or err.message or err.detail
  if err.retryable == nil then
    err.retryable = (known[err.code] and known[err.code].retry) or false
  end
  return setmetatable(err, meta)
end

--- An error from a cause of the core ({code=, message=, gnutls=, errno=, alert=, at=, ...}) and what
-- the caller knows: {step=, host=, port=, doing=, ...}. What the core knows of step and doing wins.
function errors.from(cause, context)
  if errors.is(cause) then return cause end
  local err = {}
  for key, value in pairs(context) do err[key] = value end
  for key, value in pairs(cause) do
    if key ~= "message" and key ~= "at" then err[key] = value end
  end
  err.cause = cause.message
  if cause.at then
    err.at = cause.at
    -- `awaited`: the peer was silent; else, unless it sent an alert, the message itself was at fault.
    err.doing = (cause.awaited == false and not cause.alert and "reading " or "waiting for ") .. cause.at
  end
  return errors.new(err)
end

--- The three results of a function that failed: nil, message, err.
function errors.fail(err)
  return nil, err.message, err
end

--- What a wait that did not return true means: nil, message, err. `context` as in errors.from.
function errors.waited(message, context)
  local err = {}
  for key, value in pairs(context) do err[key] = value end
  if message == "timeout" or message == nil then
    err.code = "timeout"
  else
    err.code, err.message = "cancelled", tostring(message)
  end
  return errors.fail(errors.new(err))
end

return errors

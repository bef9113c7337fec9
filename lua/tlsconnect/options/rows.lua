-- The options of connections, contexts and listeners, and of what they share with https and resolve.
--
-- A row is { name, types, help }, with
--   on       the functions that take it, one word each
--   default  what holds when it is absent, as the manual prints it
--   unit     of a number
--   values   the strings that are allowed
--   of       the types of each element, where a list is allowed
--   sizes    { least, most } bytes of a string, also of a list's
--   counts   { least, most } elements of a list
--   min      the least number
--   whole    true where it has no fraction
--   fields   the rows of a table option; fields_of those of each element of a list
--   needed   true where it may not be absent (a field)
--   fixed    true where it is part of a context: not allowed beside the option `context`
-- Types are Lua's own names, and for what tlsconnect makes "certificate", "key", "trust"; "a|b" for several.
-- No NUL byte is ever allowed in a string of `path`.

local function limit(name, help)
  return { name, "number", help, unit = "s", min = 0 }
end

local client = "connect wrap context https client"
local client_only = "connect context https client"
local server = "listen"
local both = client .. " " .. server

return {
  -- the call
  { "context", "table",
    "a `tlsconnect.context{}`: trust, credentials and defaults shared by many calls",
    on = "connect wrap https client listen" },
  { "timeout", "number",
    "limit of the whole call, and then of each later call on the connection",
    unit = "s", min = 0, default = "60 to connect, then none", on = both .. " resolve verify" },
  { "timeouts", "table", "limits of single steps, which only shorten `timeout`", on = both, fields = {
    limit("dns", "limit of the name look-up"),
    limit("tcp", "limit of the race over the addresses"),
    limit("handshake", "limit of the TLS handshake, verification included"),
    limit("first_byte", "limit until an answer begins (https)"),
    limit("idle", "limit of each pause within an answer (https)"),
  } },
  { "wait", "function", "waits for a descriptor in place of `tlsconnect.wait`", on = both .. " resolve verify" },
  { "trace", "boolean|function",
    "keeps the ten steps for `connection:trace()`, or calls the function with each",
    on = "connect wrap https client listen" },
  -- steps 1 and 2
  { "family", "string",
    "addresses of one family only",
    values = { "inet", "inet6" }, default = "both, raced", on = "connect context https client resolve" },
  { "local_address", "string",
    "the address of this machine to connect from", on = "connect context https client" },
  { "allow_address", "function|string",
    "`\"public\"`, or function(address, family, host), asked about each address before it is dialled",
    values = { "public" }, on = "connect context https client" },
  { "unix_socket", "string",
    "path of a Unix socket, connected to in place of the host's addresses", path = true, on = client_only },
  { "proxy", "string|table|boolean",
    "a proxy's URL (http, https, socks5, socks5h), or a table with `url` and the options of its own connection; "
      .. "true: the environment's; false: none", default = "the environment's for https, else none",
    on = client_only, fields = {
      { "url", "string", "where it is" },
      { "user", "string", "its user name" },
      { "password", "string", "its password" },
      { "digest", "boolean", "whether an HTTP proxy is told them as a digest (RFC 7616) only", default = "false" },
      { "allow_address", "function|string", "of the proxy", values = { "public" } },
      { "context", "table", "of an https proxy's TLS: a `tlsconnect.context{}`" },
      { "server_name", "string", "the name that an https proxy's certificate must have" },
      { "trust", "table|userdata", "of an https proxy" },
      { "ca_file", "string", "of an https proxy", path = true },
      { "ca_path", "string", "of an https proxy", path = true },
      { "ca", "string|table|userdata", "of an https proxy" },
      { "certificate", "string|userdata|table", "one's own, shown to an https proxy", path = true },
      { "key", "string|userdata", "its key", path = true },
      { "insecure_skip_verify", "boolean", "of an https proxy: accepts any certificate" },
    } },
  -- steps 3 and 4
  { "server_name", "string",
    "the name for SNI and for the certificate", default = "the host", on = "connect wrap https" },
  { "alpn", "table|string",
    "application protocols, the best first; one of them must then be agreed on (a server serves clients that offer"
      .. " none, too)",
    of = "string", sizes = { 1, 255 }, counts = { 0, 8 }, on = both },
  { "min_version", "string",
    "the lowest TLS version",
    values = { "TLS1.2", "TLS1.3", "1.2", "1.3" }, default = "TLS1.2", fixed = true, on = both },
  { "max_version", "string",
    "the highest TLS version",
    values = { "TLS1.2", "TLS1.3", "1.2", "1.3" }, default = "TLS1.3", fixed = true, on = both },
  { "priority", "string",
    "a GnuTLS priority string, appended to the system's policy", path = true, fixed = true, on = both },
  { "keylog", "boolean|string|function",
    "where the session's secrets are logged (for tshark)", default = "nowhere", path = true, on = both },
  { "session_cache", "boolean",
    "whether what servers give is kept, to take a session up again", default = "true",
    on = "connect context https client" },
  -- step 5
  { "trust", "trust",
    "a `tlsconnect.trust{}`", default = "the system's roots", fixed = true, on = both },
  { "ca_file", "string",
    "PEM file of roots, trusted in place of the system's", path = true, fixed = true, on = both .. " trust" },
  { "ca_path", "string",
    "directory of PEM roots, trusted in place of the system's", path = true, fixed = true, on = both .. " trust" },
  { "ca", "string|certificate|table",
    "roots as PEM text, a certificate, or a list of these",
    of = "string|certificate", fixed = true, on = both .. " trust" },
  { "verify_time", "number",
    "the time that certificates are judged by", unit = "s since 1970", min = 0, default = "now", on = client },
  { "system", "boolean",
    "the system's roots too", default = "true where no other option gives roots", on = "trust" },
  { "names", "table", "the only hosts and addresses that these roots may vouch for, those below a host with it",
    of = "string", on = "add" },
  { "name", "string", "the host name that the certificate must be for", on = "verify" },
  { "ip", "string", "the address that the certificate must be for", on = "verify" },
  { "purpose", "string",
    "what the certificate is used for", values = { "server", "client" }, default = "server", on = "verify" },
  { "time", "number", "the time to judge at", unit = "s since the epoch", min = 0, default = "now", on = "verify" },
  { "profile", "string",
    "`\"strict\"` adds rules of RFC 5280 and the CA/Browser Forum that some real sites break",
    values = { "default", "strict" }, default = "default", on = both .. " verify" },
  { "max_depth", "number",
    "intermediates allowed between the certificate and a root", min = 0, whole = true, default = "10",
    on = "verify" },
  { "staple", "string",
    "an OCSP response about the certificate: its DER; of a server also the path of a file that holds it",
    fixed = true, on = "verify listen wrap context" },
  { "staples", "table", "OCSP responses, one for each of the chain, false where there is none",
    of = "string|boolean", on = "verify" },
  { "crls", "string|table", "revocation lists: PEM text, DER, or a list of DER", of = "string", on = "verify" },
  { "revocation", "string",
    "`\"staple\"`: what came with the handshake; `\"soft\"` asks OCSP responders and fetches revocation lists, and "
    .. "lets pass what is still not known; `\"hard\"` refuses that", values = { "staple", "soft", "hard" },
    default = "staple", on = both .. " verify" },
  { "crl_file", "string",
    "file of revocation lists (PEM), obeyed; read again after a minute", path = true, on = both },
  { "aia", "boolean", "fetches issuers that the peer did not send from where its certificate says",
    default = "false", on = both .. " verify" },
  { "fetch_timeout", "number", "limit of all that is fetched to verify one peer, within `timeout`",
    unit = "s", min = 0, default = "10", on = both .. " verify" },
  { "insecure_fetch_private", "boolean",
    "fetches from private and local addresses, too, when a certificate says so", default = "false",
    on = both .. " verify" },
  { "pins", "table",
    "keys, one of which the peer's verified path must have: `\"sha256/...\"` of each, a backup among them",
    of = "string", on = client .. " verify" },
  { "known_hosts", "string",
    "file in which the key of each host is kept when it is met first; another key later is refused",
    path = true, on = client },
  { "verify", "function",
    "function(verification, info), asked last about a peer that has passed all else: returns true, or nil and why not",
    on = both },
  { "insecure_skip_verify", "boolean", "accepts any certificate", default = "false", on = client .. " verify" },
  { "insecure_skip_issuer", "boolean",
    "does not ask who issued the certificate", default = "false", on = client .. " verify" },
  { "insecure_skip_dates", "boolean",
    "does not ask for the certificates' dates", default = "false", on = client .. " verify" },
  { "insecure_skip_revocation", "boolean",
    "does not ask whether a certificate is revoked", default = "false", on = client .. " verify" },
  { "insecure_skip_name", "boolean",
    "does not ask for whom the certificate is", default = "false", on = client .. " verify" },
  -- one's own certificate
  { "certificate", "string|certificate|table",
    "one's own certificate with its chain: PEM file, PEM text, or certificates",
    path = true, of = "certificate", counts = { 1, 16 }, fixed = true, on = both },
  { "key", "string|key",
    "its private key: PEM file, PEM text, or a key", path = true, fixed = true, on = both },
  { "password", "string|function",
    "of an encrypted key; a function returns it when it is needed", path = true, fixed = true, on = both },
  { "certificates", "table",
    "more certificates, chosen by the name that a client asks for (SNI; wildcards too) and by the keys that it can"
      .. " take; else the first: a list of {certificate=, key=, password=, staple=}",
    of = "table", fixed = true, on = "listen wrap context", fields_of = {
      { "certificate", "string|certificate|table", "as `certificate`", path = true, of = "certificate",
        counts = { 1, 16 }, needed = true },
      { "key", "string|key", "as `key`", path = true },
      { "password", "string|function", "as `password`", path = true },
      { "staple", "string", "as `staple`" },
    } },
  { "client_certificate", "string",
    "whether a client must show a certificate",
    values = { "none", "request", "require" }, default = "require where roots are given, else none",
    fixed = true, on = "listen wrap context" },
  { "tickets", "boolean|string",
    "whether a server lets its clients take sessions up again; a key of 64 bytes: with other processes that have it",
    sizes = { 64, 64 }, default = "true", fixed = true, on = "listen wrap context" },
  -- before the handshake is complete
  { "early_data", "string",
    "the first bytes to send: as early data (0-RTT) when a session is taken up whose server allows it, else as soon as"
      .. " may be; whoever records them can send them again: only what may be done twice", on = "connect" },
  { "early_data", "boolean",
    "whether a server takes early data from clients that take a session up, each flight once: see `early()`",
    default = "false", fixed = true, on = "listen wrap context" },
  -- wrap, listen
  { "role", "string",
    "which end of the handshake this is",
    values = { "client", "server" }, default = "client", on = "wrap" },
  { "backlog", "number",
    "connections that the system queues before `accept`",
    min = 1, whole = true, default = "128", on = server },
}

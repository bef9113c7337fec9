-- The flags that the subcommands share, and how they become options of tlsconnect.connect. Their help is
-- that of the options they set, where they set one.

local options = require "tlsconnect.options"

local flags = {}

local function option_help(name)
  for _, row in ipairs(options.rows) do
    if row[1] == name then return row[3] end
  end
  return nil
end

-- { flag, option it sets, value, more }
local rows = {
  { "--ca", "ca_file", "FILE" },
  { "--ca-path", "ca_path", "DIR" },
  { "--cert", "certificate", "FILE", help = "one's own certificate with its chain: a PEM file" },
  { "--key", "key", "FILE", help = "its private key: a PEM file" },
  { "--password-file", "password_file", "FILE", help = "a file whose first line is the key's password" },
  { "--server-name", "server_name", "NAME" },
  { "--alpn", "alpn", "LIST", kind = "list", help = "application protocols, with commas between: h2,http/1.1" },
  { "--tls", "tls", "VERSION", values = { "1.2", "1.3" }, help = "this TLS version only: 1.2 or 1.3" },
  { "--priority", "priority", "TEXT", help = "a GnuTLS priority string, added to the system's policy" },
  { "--timeout", "timeout", "SECONDS", kind = "number", help = "limit of the whole call" },
  { "--unix", "unix_socket", "PATH", help = "connect to this Unix socket; the host only gives the name" },
  { "-4", "family", set = "inet", help = "IPv4 only" },
  { "-6", "family", set = "inet6", help = "IPv6 only" },
  { "--at", "at", "DATE", kind = "date", help = "verify as if it were this date (UTC)" },
  { "--insecure", "insecure_skip_verify", help = "go on past a failed verification" },
  { "--keylog", "keylog", "FILE", help = "add the secrets to a key log, for tshark" },
}

local proxy = { "--proxy", "proxy", "URL", help = "go through this proxy" }

flags.connect = {}
for _, row in ipairs(rows) do
  flags.connect[#flags.connect + 1] = {
    row[1], key = row[2], value = row[3], kind = row.kind, values = row.values, set = row.set,
    help = row.help or option_help(row[2]) or "",
  }
end

--- All flags of a subcommand: its own, then the shared ones.
function flags.of(own)
  local list = {}
  for _, flag in ipairs(own) do list[#list + 1] = flag end
  for _, flag in ipairs(flags.connect) do list[#list + 1] = flag end
  if options.of("connect").proxy then
    list[#list + 1] = { proxy[1], key = proxy[2], value = proxy[3], help = proxy.help }
  end
  list[#list + 1] = { "--help", short = "-h", key = "help", help = "this text" }
  return list
end

local plain = { "ca_file", "ca_path", "certificate", "key", "server_name", "alpn", "priority", "timeout",
                "family", "unix_socket", "keylog", "insecure_skip_verify", "proxy" }

local function read_password(path)
  local file, reason = io.open(path, "rb")
  if not file then return nil, reason end
  local line = file:read("*l")
  file:close()
  return line and line:gsub("\r$", "") or ""
end

--- Options for connect from what was read. Or nil and what is wrong.
function flags.options(given)
  local result = {}
  for _, name in ipairs(plain) do result[name] = given[name] end
  if given.tls then result.min_version, result.max_version = given.tls, given.tls end
  if given.at then result.verify_time = given.at end
  if given.password_file then
    local password, reason = read_password(given.password_file)
    if not password then return nil, "--password-file: " .. reason end
    result.password = password
  end
  return result
end

--- A host and a port from "HOST", "HOST:PORT", "[ADDRESS]:PORT" or a URL, and its path where it has one.
-- Or nil and what is wrong.
function flags.target(word, default)
  local scheme, rest = word:match("^(%a[%w+.-]*)://(.*)$")
  local path
  if scheme then
    scheme = scheme:lower()
    if scheme ~= "https" then return nil, "only https:// URLs and HOST[:PORT] can be traced" end
    rest, path = rest:match("^([^/?#]*)([^#]*)")
    rest = rest:match("([^@]*)$")
    if path == "" then path = "/" end
    if path:sub(1, 1) == "?" then path = "/" .. path end
    default = 443
  else
    rest = word
  end
  local host, port = rest:match("^%[([^%]]*)%]:?(%d*)$")
  if not host then
    local _, colons = rest:gsub(":", "")
    if colons > 1 then
      host, port = rest, ""
    else
      host, port = rest:match("^([^:]*):?(.*)$")
    end
  end
  if host == "" then return nil, "a host is missing" end
  if port == "" then return host, default, path end
  if not port:find("^%d+$") or #port > 5 or tonumber(port) < 1 or tonumber(port) > 65535 then
    return nil, "a port is a number from 1 to 65535"
  end
  return host, tonumber(port), path
end

return flags

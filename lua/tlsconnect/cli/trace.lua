-- tlsconnect trace HOST[:PORT]: the ten steps of a connection, as text, JSON or a page.
--
-- The JSON: { "format": "tlsconnect-trace", "version": 1, "host", "port", "ok" (the connection stands and
-- its peer is verified), "verified", "insecure" (--insecure was given), "error" (null, or { "step", "code",
-- "message", ... }), "elapsed", "handshake" (seconds), "date" (when, seconds since 1970), "tool", "steps" }.
-- steps are ten objects in order: "step", "started" and "elapsed" (seconds; from the beginning), "ok" (true,
-- false, or absent: not reached), "error" in the one that failed, and its fields, named as
-- lua/tlsconnect/trace.lua and trace/handshake.lua name them. Within a version fields are added, never
-- renamed or removed. Strings are cut after 4096 bytes, bytes that are no UTF-8 are written as \xNN.

local arguments = require "tlsconnect.cli.arguments"
local core = require "tlsconnect.core"
local flags = require "tlsconnect.cli.flags"
local output = require "tlsconnect.cli.output"
local report = require "tlsconnect.cli.report"
local steps = require "tlsconnect.steps"
local verification = require "tlsconnect.trace.verification"

local trace = {}

local protocols = { "smtp", "imap", "pop3", "xmpp", "ftp", "postgres", "ldap" }

local own = {
  { "--json", key = "json", help = "as JSON, in a stable form" },
  { "--html", value = "FILE", key = "html", help = "as a page that needs nothing else" },
  { "--verbose", short = "-v", key = "verbose", help = "everything that was seen in each step" },
  { "--starttls", value = "PROTOCOL", key = "starttls", values = protocols,
    help = "ask for TLS first: " .. table.concat(protocols, ", ") },
  { "--no-request", key = "no_request", help = "no HEAD request on port 443 and for URLs" },
}

-- How long the server has to answer a request and to end its side, in seconds; and how long the head of an
-- answer may be.
local ANSWER, FAREWELL, HEAD = 10, 2, 65536

local scalar = { string = true, number = true, boolean = true }

local function plain_error(err)
  if not err then return nil end
  local result = {}
  for name, value in pairs(err) do
    if scalar[type(value)] then result[name] = value end
  end
  return result
end

-- A request, so that step 9 shows something: the time to the first byte of an answer.
local function ask(connection, host, path, limit)
  connection:setdeadline(core.now() + math.min(limit or ANSWER, ANSWER))
  connection.recorder:add("data", { request = "HEAD " .. path })
  local name = host:find(":", 1, true) and "[" .. host:gsub("%%.*", "") .. "]" or host
  local sent, message, _, err = connection:send(("HEAD %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: tlsconnect\r\n" ..
    "Accept: */*\r\nConnection: close\r\n\r\n"):format(path, name))
  if not sent then return nil, message, err end
  local head
  head, message, err = connection:read("head", HEAD)
  if not head then return nil, message, err end
  connection.recorder:add("data", { answer = head:match("^[^\r\n]*") })
  return true
end

-- Ends our side and sees how the server ends its own. What it says then may be why it did not like the
-- handshake: with TLS 1.3 a client certificate is judged after it.
local function end_well(connection)
  connection:setdeadline(core.now() + FAREWELL)
  connection:shutdown("send")
  local left = 64
  while left > 0 do
    local data, _, err = connection:read("some", 16384)
    if not data then
      if err.code == "alert" or err.alert then return nil, err end
      return true
    end
    left = left - 1
  end
  return true
end

-- Ends like these are how servers are; the step `close` tells them.
local ended = { closed = true, truncated = true, reset = true, timeout = true }

local function follow(connection, given, host, path)
  local err
  local ok, _
  if path then
    ok, _, err = ask(connection, host, path, given.timeout)
    if ok or ended[err.code] and not err.alert then err = nil end
  end
  if not err then
    ok, err = end_well(connection)
    if ok then err = nil end
  end
  connection:close()
  local rows = connection:trace()
  if err then
    connection.recorder:fail(err.step, err)
    rows = connection.recorder:steps()
  end
  return rows, err, given
end

local function write_page(path, page)
  local file, reason = io.open(path, "wb")
  if not file then return nil, reason end
  local ok
  ok, reason = file:write(page)
  local closed, why = file:close()
  if not ok then return nil, reason end
  if not closed then return nil, why end
  return true
end

local function as_json(given)
  local json = require "tlsconnect.cli.json"
  return json.encode {
    format = "tlsconnect-trace", version = 1, host = given.host, port = given.port,
    ok = not given.err and given.verified or false, verified = given.verified or false,
    insecure = given.insecure or false, error = plain_error(given.err),
    elapsed = report.elapsed(given.steps), handshake = report.handshake_elapsed(given.steps),
    date = given.now, tool = given.program, steps = given.steps,
  } .. "\n"
end

local function open(host, port, given, options)
  if given.starttls then
    return require("tlsconnect.starttls").connect(host, port, given.starttls, options)
  end
  return require("tlsconnect").connect(host, port, options)
end

function trace.main(words, cli)
  local list = flags.of(own)
  local given, problem = arguments.read(list, words, 2)
  if not given then return cli.usage(problem, "trace") end
  if given.help then
    output.write("tlsconnect trace [OPTIONS] HOST[:PORT] | https://HOST/PATH\n\n" .. arguments.help(list))
    return cli.OK
  end
  if #given ~= 1 then return cli.usage("one HOST[:PORT] is wanted", "trace") end
  local usual = given.starttls and require("tlsconnect.starttls").ports[given.starttls] or 443
  local host, port, path = flags.target(given[1], usual)
  if not host then return cli.usage(port, "trace") end
  if port == 443 and not path and not given.starttls then path = "/" end
  if given.no_request or given.starttls then path = nil end

  local options
  options, problem = flags.options(given)
  if not options then return cli.usage(problem, "trace") end
  options.trace = true

  local good, connection, message, err = cli.try(open, host, port, given, options)
  if not good then return cli.usage(connection, "trace") end
  local rows
  if connection then
    rows, err = follow(connection, given, host, path)
  else
    rows = err.trace
    if not rows or not (steps.index[err.step] or err.step == "proxy") then return cli.fail(err) end
    if err.step == "proxy" then
      -- The way through a proxy is part of reaching the host.
      local tcp = rows[steps.index.tcp]
      tcp.ok, tcp.error = false, tcp.error or plain_error(err)
    end
  end

  local shown = {
    host = host, port = port, steps = rows, err = err, now = os.time(), program = cli.version(),
    verified = not err and verification.good(rows[steps.index.verify]), insecure = given.insecure_skip_verify,
    ascii = not output.utf8(), colour = output.colour(1), columns = output.columns(1), verbose = given.verbose,
    message = message,
  }
  if given.html then
    local ok, reason = write_page(given.html, require("tlsconnect.cli.html").render(shown))
    if not ok then
      output.say(("tlsconnect: %s could not be written: %s"):format(output.clean(given.html), reason))
      return cli.UNWRITTEN
    end
  end
  if given.json then
    output.write(as_json(shown))
  elseif not given.html then
    output.write(require("tlsconnect.cli.waterfall").render(shown))
  end
  if shown.insecure and not shown.verified then
    output.say("WARNING: not verified (--insecure): anybody could be at the other end")
  end
  if not err then return cli.OK end
  -- On a terminal the report has said it.
  if not given.json and not given.html and core.terminal(1) then return cli.exit_code(err) end
  return cli.fail(err)
end

return trace

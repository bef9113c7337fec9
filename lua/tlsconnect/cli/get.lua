-- tlsconnect get URL: a page, verified.

local arguments = require "tlsconnect.cli.arguments"
local flags = require "tlsconnect.cli.flags"
local output = require "tlsconnect.cli.output"
local text = require "tlsconnect.cli.text"

local core = require "tlsconnect.core"
local encoding = require "tlsconnect.encoding"

local get = {}

local own = {
  { "--output", short = "-o", value = "FILE", key = "output", help = "write the body to a file, with progress" },
  { "--include", short = "-i", key = "include", help = "show the status line and the headers, too" },
  { "--verbose", short = "-v", key = "verbose", help = "tell the ten steps and both heads on standard error" },
  { "--header", short = "-H", value = "'NAME: VALUE'", key = "headers", kind = "many", help = "send a header" },
  { "--data", short = "-d", value = "DATA", key = "data", help = "send a body: text, @FILE, or @- (standard input)" },
  { "--request", short = "-X", value = "METHOD", key = "method", help = "the method" },
  { "--location", short = "-L", key = "follow", help = "follow redirects" },
  { "--fail", short = "-f", key = "fail", help = "an answer of 400 or more is a failure (exit code 21)" },
}

-- A file is sent as it is read; standard input is read first: its length is not known, and not every server takes
-- a body without one.
local function read_body(value)
  local name = value:match("^@(.+)$")
  if not name then return value end
  if name == "-" then return io.stdin:read("*a") end
  local file, reason = io.open(name, "rb")
  -- A folder can be opened, too.
  local readable = file
  if file then readable, reason = file:read(0) end
  if not readable and reason then return nil, reason end
  return file
end

local function read_headers(list)
  local headers = {}
  for _, line in ipairs(list or {}) do
    local name, value = line:match("^([^:%s]+):%s*(.-)%s*$")
    if not name then return nil, ("--header wants 'NAME: VALUE', got '%s'"):format(text.clean(line, true, 60)) end
    local before = headers[name]
    if type(before) == "table" then
      before[#before + 1] = value
    else
      headers[name] = before and { before, value } or value
    end
  end
  return headers
end

-- Names whose values are secrets: what stands on a screen is seen over shoulders and pasted into reports.
local secrets = {
  authorization = true, ["proxy-authorization"] = true, cookie = true, ["set-cookie"] = true,
  ["x-api-key"] = true, ["api-key"] = true, ["x-auth-token"] = true, ["x-csrf-token"] = true,
}

local function shown_header(name, value, mask)
  if mask and secrets[name:lower()] then
    -- The scheme of a credential and the name of a cookie are no secrets.
    local kind = value:match("^(%a+) ") or value:match("^([%w!#$%%&'*+.^_`|~-]+)=")
    return (kind and kind .. " " or "") .. "[masked]"
  end
  return value
end

--- A URL without the password it may hold.
function get.shown_url(url)
  return (url:gsub("^(%a[%w+.-]*://)([^/?#]*)@", function(scheme, user)
    local name = user:match("^([^:]*):")
    return scheme .. (name and name .. ":[masked]" or "[masked]") .. "@"
  end))
end

local function put_head(answer, put, clean, mask)
  put(("HTTP/1.1 %d %s"):format(answer.status, clean(answer.reason or "")))
  for name, value in answer.headers:each() do
    put(clean(name) .. ": " .. clean(shown_header(name, value, mask)))
  end
  put("")
end

-- A line that is written over again and again: how much has come, how fast, how long it still takes.
local function progress_bar(clean_name)
  local columns = output.columns(2)
  if not columns or output.quiet then return nil end
  local begun, last = core.now(), 0
  local ascii = not output.utf8()
  return function(received, total, ended)
    local now = core.now()
    if not ended and now - last < 0.1 then return end
    last = now
    local seconds = now - begun
    local rate = seconds > 0 and received / seconds or 0
    local tail
    if ended then
      tail = ("%s in %s (%s/s)"):format(text.bytes(received), text.duration(seconds, true),
        text.bytes(math.floor(rate)))
    elseif total and total > 0 then
      tail = ("%3.0f%%  %s of %s  %s/s  %s left"):format(received / total * 100, text.bytes(received),
        text.bytes(total), text.bytes(math.floor(rate)),
        rate > 0 and text.duration((total - received) / rate, true) or "?")
    else
      tail = ("%s  %s/s"):format(text.bytes(received), text.bytes(math.floor(rate)))
    end
    local line = clean_name .. "  "
    local room = columns - 1 - text.width(line) - #tail - 2
    if total and total > 0 and room >= 10 then
      local width = math.min(room, 40)
      local full = math.floor(math.min(received / total, 1) * width)
      local on, off = "\226\150\136", "\226\150\145"
      if ascii then on, off = "#", "." end
      line = line .. on:rep(full) .. off:rep(width - full) .. "  "
    end
    io.stderr:write("\r", line, tail, "\27[K", ended and "\n" or "")
    io.stderr:flush()
  end
end

local NOTEWORTHY = 1024 * 1024 -- bytes; less than this leaves at once

-- The bar of a file that is sent, or nil where none is wanted.
local function uploads(path, size)
  local bar = (size or 0) >= NOTEWORTHY and progress_bar(output.clean(path))
  return bar and function(sent) bar(sent, size, sent == size) end or nil
end

-- Where the body goes: {sink =, finish = function(ok) -> true | nil, reason}.
local function to_file(path)
  -- A name of its own, that nobody has laid a link under; and what is no file is not put in the place of.
  local device = path:find("^/dev/")
  local part = device and path or ("%s.%s.part"):format(path, encoding.random(4))
  local file, reason
  if device then file, reason = io.open(path, "wb") else file, reason = core.file(part, "new") end
  if not file then return nil, ("%s cannot be written: %s"):format(output.clean(path), reason) end
  local bar = progress_bar(output.clean(path))
  local received, total, unwritten = 0, nil, nil
  return {
    unwritten = function() return unwritten end,
    sink = function(data, answer)
      local ok, why = file:write(data)
      if not ok then
        unwritten = why
        return nil, why
      end
      received = received + #data
      if not total and not answer.headers["content-encoding"] then
        total = tonumber(answer.headers["content-length"])
      end
      if bar then bar(received, total) end
      return true
    end,
    finish = function(good)
      local closed, why = file:close()
      if good and closed and not device then closed, why = os.rename(part, path) end
      if not (good and closed or device) then os.remove(part) end
      if bar and received > 0 then bar(received, total, true) end
      if good and not closed then return nil, why end
      return true
    end,
  }
end

local function to_output()
  local terminal = core.terminal(1) ~= nil
  return {
    sink = function(data)
      if terminal then
        -- Line by line, so that what the server sent cannot move the cursor or change colours.
        data = data:gsub("\r\n", "\n"):gsub("[^\n\t]+", function(piece) return text.clean(piece,
          not output.utf8(), #piece) end)
      end
      if output.write(data) then return true end
      return nil, "standard output: " .. output.lost
    end,
    finish = function() return true end,
    unwritten = function() return output.lost end,
  }
end

local function report_steps(trace, err)
  local waterfall = require "tlsconnect.cli.waterfall"
  local host, port
  for _, row in ipairs(trace or {}) do
    if row.step == "dns" then host = row.name end
    if row.step == "tcp" then port = row.port end
  end
  if not trace then return end
  output.say((waterfall.render {
    steps = trace, err = err, verified = not err and not trace[5].skipped and trace[5].ok,
    host = host or "?", port = port, now = os.time(), ascii = not output.utf8(),
    colour = output.colour(2), columns = output.columns(2),
  }):gsub("\n$", ""))
end

local function unwritten_file(path, reason, cli)
  output.say(("tlsconnect: %s could not be written: %s"):format(output.clean(path), output.clean(reason)))
  return cli.UNWRITTEN
end

function get.main(words, cli)
  local table_of_flags = flags.of(own)
  local given, problem = arguments.read(table_of_flags, words, 2)
  if not given then return cli.usage(problem, "get") end
  if given.help then
    output.write("tlsconnect get [OPTIONS] URL\n\n" .. arguments.help(table_of_flags))
    return cli.OK
  end
  if #given ~= 1 then return cli.usage("one URL is wanted", "get") end
  local url = given[1]
  if not url:find("^%a[%w+.-]*://") then url = "https://" .. url end

  local options
  options, problem = flags.options(given)
  if not options then return cli.usage(problem, "get") end
  options.url, options.method = url, given.method
  options.headers, problem = read_headers(given.headers)
  if not options.headers then return cli.usage(problem, "get") end
  if given.data then
    options.body, problem = read_body(given.data)
    if not options.body then return cli.fail { step = "setup", message = "--data: " .. problem } end
    local typed = false
    for name in pairs(options.headers) do typed = typed or name:lower() == "content-type" end
    if not typed then options.headers["content-type"] = "application/x-www-form-urlencoded" end
  end
  if given.data and type(options.body) ~= "string" then
    options.upload_progress = uploads(given.data:sub(2), options.body:seek "end")
    options.body:seek "set"
  end
  options.redirects = given.follow and 10 or 0
  options.keep_alive = false
  options.trace = given.verbose or nil

  local target
  if given.output and given.output ~= "-" then
    target, problem = to_file(given.output)
    if not target then return cli.fail { step = "setup", message = problem } end
  else
    target = to_output()
  end

  local shown = false
  local function show(answer)
    if shown or not given.include then return end
    shown = true
    local terminal = core.terminal(1) ~= nil
    put_head(answer, function(line) output.write(line .. "\n") end,
      function(s) return text.clean(s, not output.utf8() and terminal) end, terminal)
  end
  options.sink = function(data, answer)
    show(answer)
    if not data then return true end
    return target.sink(data, answer)
  end
  if given.insecure_skip_verify then
    output.say("WARNING: not verified (--insecure): anybody could be at the other end")
  end
  if given.verbose then
    output.say("> " .. (given.method or given.data and "POST" or "GET") .. " " .. output.clean(get.shown_url(url)))
    for name, value in pairs(options.headers) do
      for _, one in ipairs(type(value) == "table" and value or { value }) do
        output.say("> " .. output.clean(name) .. ": " .. output.clean(shown_header(name, one, true)))
      end
    end
  end

  local ok, answer, _, err = cli.try(require("tlsconnect").https.request, options)
  if not ok then
    target.finish(false)
    return cli.usage(answer, "get")
  end
  if given.verbose then report_steps(answer and answer.trace or err and err.trace, err) end
  if not answer then
    target.finish(false)
    -- A full disk is not the server's fault.
    if output.lost then return cli.UNWRITTEN end
    if target.unwritten() then return unwritten_file(given.output, target.unwritten(), cli) end
    return cli.fail(err)
  end
  show(answer)
  if given.verbose then
    put_head(answer, function(line) output.say("< " .. line) end, output.clean, true)
  end
  local written
  written, problem = target.finish(true)
  if not written then return unwritten_file(given.output, problem, cli) end
  if given.fail and answer.status >= 400 then
    return cli.fail { step = "http", message = ("%s answered %d %s"):format(get.shown_url(url), answer.status,
      answer.reason or "") }
  end
  return cli.OK
end

return get

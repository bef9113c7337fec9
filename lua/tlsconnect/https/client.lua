--- A client: defaults, a pool of connections, and the story of a request, from its URL to its answer.

local connection = require "tlsconnect.connection"
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local http1 = require "tlsconnect.https.http1"
local late = require "tlsconnect.late"
local options = require "tlsconnect.options"
local pool = require "tlsconnect.https.pool"
local request = require "tlsconnect.https.request"
local response = require "tlsconnect.https.response"
local url = require "tlsconnect.https.url"
local waiter = require "tlsconnect.wait"

local now, read_head, new_answer = waiter.now, http1.read_head, response.new

local Client = {}
Client.__index = Client

local M = {}

local unpack = table.unpack or unpack

local GIGABYTE = 1024 * 1024 * 1024
local PAUSE = 300 -- seconds that a peer may say nothing, or take nothing
local DRAIN = 65536 -- what is read of a body that nobody wants, to keep the connection

-- Opening -----------------------------------------------------------------------------------------

-- The proxy on the way to a URL: a route, nil when there is none, or nil, message, err.
local function route_to(call, target)
  local option = call.options.proxy
  if option == false then return nil end
  if option == nil then
    if not core.proxied() then return nil end
    option = true
  end
  if call.options.unix_socket then return nil end
  local route, message, err = require("tlsconnect.proxy").of(option, target.scheme, target.host, target.port)
  return route or nil, message, err
end

-- RFC 9110 9.2.1: what may travel as early data (RFC 8470 4).
local safe = { GET = true, HEAD = true, OPTIONS = true, TRACE = true }

-- A new connection for a request, within its deadline. A request without a body may leave before the handshake is
-- complete: then first_sent of the connection says so.
local function open(call, outgoing, route)
  local target = outgoing.url
  local given = {}
  for name, value in pairs(call.options) do
    if options.of("connect")[name] then given[name] = value end
  end
  given.tls = target.scheme == "https"
  given.proxy = route or false
  given.early_data = nil
  if given.tls and outgoing.body == nil then given.first = outgoing:head() end
  if call.early then given.early_data = given.first and safe[outgoing.method] and given.first or "" end
  if call.deadline then given.timeout = math.max(0, call.deadline - now()) end
  local opened, message, err = connection.open(url.dialled(target), target.port, given)
  if not opened then return nil, message, err end
  return opened
end

-- One exchange ------------------------------------------------------------------------------------

-- Failures that say that the connection was gone before the request got through.
local gone = { closed = true, reset = true, truncated = true }

-- Sends a request and reads the head of its answer. What http1.read_head() gives. A peer that answers before it
-- has everything, and maybe breaks off then, is heard; it is not asked again. gone_out: it has been sent.
local function ask(sent_on, outgoing, call, gone_out)
  local sent, message, err = gone_out, nil, nil
  if not sent then sent, message, err = outgoing:send(sent_on, call) end
  local target, answered = outgoing.url, outgoing.answered
  if sent and answered then return unpack(answered, 1, 5) end
  if sent then return read_head(sent_on, target, call, outgoing.method ~= "HEAD" and call.at_once or nil) end
  local answer, kind, length, _, more
  if not err then
    answer, kind, length, _, more = unpack(answered, 1, 5)
  elseif gone[err.code] and outgoing.started then
    answer, kind, length, _, more = read_head(sent_on, target, call)
    if not answer then return nil, kind, length end
  end
  if not answer then return nil, message, err end
  return answer, kind, length, false, more
end

-- The same on a connection of the pool, which has been quiet() where the request has a body.
local function ask_again(idle, outgoing, call)
  if outgoing.body ~= nil then return ask(idle, outgoing, call) end
  return http1.ask(idle, outgoing:head(), outgoing.url, call, outgoing.method ~= "HEAD" and call.at_once or nil)
end

-- A connection that has the answer's head behind it, its key in the pool, whether it had been used before, and
-- what http1.read_head() gives; or nil, message, err. An idle connection may have died unnoticed: then once more
-- on a new one, where doing it twice does no harm.
local function exchange(call, outgoing, time)
  local target, key = outgoing.url, nil
  local client = call.client
  local route, problem, failure = route_to(call, target)
  if failure then return nil, problem, failure end
  if route and target.scheme == "http" then
    local ok, message, err = outgoing:forward(route)
    if not ok then return nil, message, err end
  end
  if call.keep then
    key = pool.key(target.origin, call.options, route)
    local idle = client.pool:take(key, time, outgoing.body == nil)
    if idle then
      local answer, kind, length, keep, more, whole = ask_again(idle, outgoing, call)
      if answer then return idle, key, true, answer, kind, length, keep, more, whole end
      idle:close()
      if not (length and gone[length.code] and outgoing:repeatable()) then return nil, kind, length end
    end
  end
  local fresh, message, err = open(call, outgoing, route)
  if not fresh then return nil, message, err end
  call.went_early = fresh.first_sent == "early"
  local answer, kind, length, keep, more, whole = ask(fresh, outgoing, call, fresh.first_sent)
  if answer then return fresh, key, false, answer, kind, length, keep, more, whole end
  fresh:close()
  if fresh.recorder and fresh.recorder.tracing and type(length) == "table" then length.trace = fresh:trace() end
  return nil, kind, length
end

-- What becomes of a connection whose answer has been read, to its end (done) or not.
local function settle(call, used, answer, done, keep, more, key, time)
  if not (key and done and keep) then return used:close() end
  local seconds = more and answer.headers["keep-alive"]
  seconds = seconds and tonumber((seconds:match("timeout=(%d+)")))
  if used.deadline then used:setdeadline(nil) end
  if used.session_key then used:keep_session() end
  return call.client.pool:give(key, used, seconds and seconds - 1, time)
end

-- What reads a body that did not come with its head.
local function reader_of(used, target, kind, length, call)
  return late.load("tlsconnect.https.body").new(used, target, kind, length, call)
end

-- Reads a body that nobody wants, as far as that is cheaper than a new connection.
local function drain(reader)
  local left = DRAIN
  if reader.length and reader.length > left then return end
  while left > 0 do
    local data = reader:read(left)
    if not data then return end
    left = left - #data
  end
end

-- The whole call ----------------------------------------------------------------------------------

-- The end of an exchange: its times, its trace, and what becomes of the connection.
local function conclude(call, used, answer, done, keep, more, key, problem)
  local times, ended = answer.timings, now()
  times.data, times.total = ended - call.answered, ended - call.began
  settle(call, used, answer, done, keep, more, key, ended)
  local recorder = used.recorder
  if recorder and recorder.tracing then (problem or answer).trace = used:trace() end
end

-- The answer with its body, where that did not come with its head; or with the means to read it.
local function complete(call, used, answer, reader, keep, more, key)
  local given = call.options
  local coded = more and given.decompress ~= false and answer.headers["content-encoding"]
  local poured = given.stream or given.sink or given.progress
  local function finish(problem) conclude(call, used, answer, reader.done, keep, more, key, problem) end
  local source = reader
  if coded then
    local message, err
    source, message, err = require("tlsconnect.https.coding").decode(reader, answer, given.max_body)
    if not source then
      finish(err)
      return nil, message, err
    end
  end
  if poured then
    return require("tlsconnect.https.streaming").attach(answer, source, finish, given, call.max_body)
  end
  local whole, message, err = source:all(call.max_body)
  finish(err)
  if not whole then return nil, message, err end
  answer.body = whole
  return answer
end

-- The request for a URL, as the call is now; or nil, message, err. `before`: the request that it repeats.
local function make(call, target, before)
  if before and before.offset then call.body:seek("set", before.offset) end
  if target.scheme == "http" then
    if call.hsts and call.client.hsts then target = call.client.hsts:secure(target) end
  elseif call.method == "GET" and not (call.headers or call.body ~= nil or call.auth or call.jar) then
    return request.plain(target, call.decodes)
  end
  local outgoing, message, err = request.new(call.method, target, call.headers, call.body, call.kind, call.decodes)
  if not outgoing then return nil, message, err end
  if call.auth and not outgoing.authorized then
    local ok
    ok, message, err = require("tlsconnect.https.auth").apply(call, outgoing)
    if not ok then return nil, message, err end
  end
  if call.jar and not outgoing.has_cookies then
    local ok
    ok, message, err = call.jar:apply(call, outgoing)
    if not ok then return nil, message, err end
  end
  return outgoing
end

local skips = { "insecure_skip_verify", "insecure_skip_issuer", "insecure_skip_dates", "insecure_skip_name" }

-- Keeps what an answer wants to be remembered. What came from nobody knows whom sets no rule (RFC 6797 8.1).
local function remember(call, target, answer)
  local fields = answer.headers
  if call.jar and fields["set-cookie"] then call.jar:receive(target, fields) end
  if call.hsts and target.scheme == "https" and fields["strict-transport-security"] then
    local context = call.options.context and call.options.context.given
    for _, skip in ipairs(skips) do
      if call.options[skip] or context and context[skip] then return end
    end
    local client = call.client
    client.hsts = client.hsts or require("tlsconnect.https.hsts").store()
    client.hsts:receive(target, fields:list("strict-transport-security")[1])
  end
end

-- The jar of a call, or nil.
local function jar_of(client, given)
  local jar = given.cookies
  if type(given.hsts) == "string" then
    error("bad option 'hsts' to https (a file is kept by a client: give it to https.client)", 5)
  end
  if jar == nil then return client.jar end
  if not jar then return nil end
  if jar == true and client.jar then return client.jar end
  if jar == true or type(jar) == "string" then
    error("bad option 'cookies' to https (a jar lasts as long as its client: give it to https.client)", 5)
  end
  if not require("tlsconnect.https.cookies").is(jar) then error("bad option 'cookies' to https (a jar expected)", 5) end
  return jar
end

-- The first request of a call, or nil, message, err.
local function prepare(call)
  local given = call.options
  local target, problem = url.parse(call.url)
  if target and given.query then
    local query = given.query
    if type(query) == "table" then query = require("tlsconnect.https.query").encode(query, "query") end
    target, problem = url.with_query(target, query)
  end
  if not target then
    return errors.fail(errors.new { step = "http", code = "bad_url", message = problem })
  end
  if given.form or given.json ~= nil or given.multipart then
    local message, err
    call.body, call.kind, err = require("tlsconnect.https.content").encode(given)
    message = call.kind
    if not call.body then return nil, message, err end
  end
  call.method = call.method or call.body ~= nil and "POST" or "GET"
  if target.userinfo and not call.auth then
    local user, password = target.userinfo:match("^([^:]*):?(.*)$")
    call.auth = { basic = { url.decode(user), url.decode(password) } }
  end
  return make(call, target)
end

-- The request that an answer leads to: a redirect's, or the same with the credentials that were asked for, or not
-- as early data.
-- Nothing when the answer is the last one; nil, message, err. The second result says that it is a redirect.
local function next_request(call, outgoing, answer, count)
  local status = answer.status
  if status == 401 and call.auth and require("tlsconnect.https.auth").challenged(call, outgoing, answer) then
    return make(call, outgoing.url, outgoing)
  end
  if status == 425 and call.went_early then
    -- RFC 8470 5.2: once more, and not as early data
    call.early, call.went_early = nil, nil
    return outgoing
  end
  if call.redirects > 0 and status >= 300 and status < 400 and answer.headers.location then
    local target, message, err = require("tlsconnect.https.redirect").follow(call, outgoing, answer, count)
    if not target then return nil, message, err end
    local following
    following, message, err = make(call, target, outgoing)
    if not following then return nil, message, err end
    return following, true
  end
end

-- The request once more, with the digest that the proxy wants to hear; or nil, message, err.
local function known_to_proxy(call, outgoing, answer)
  local connect = require "tlsconnect.proxy.connect"
  local route, wanted = outgoing.absolute, answer.headers:list "proxy-authenticate"
  local tries = call.proxy_tries or 0
  if outgoing.started and not outgoing.replayable or not connect.challenged(route, wanted, tries) then
    return connect.unauthorized(route, wanted)
  end
  call.proxy_tries = tries + 1
  return make(call, outgoing.url, outgoing)
end

-- The call from its first request to its last answer. The rest of the arguments are the first request and what its
-- exchange gave, where that is behind us.
local function run(call, outgoing, used, key, reused, answer, kind, length, keep, more, whole)
  local asked, history = call.began, {}
  local message, err
  if not outgoing then
    outgoing, message, err = prepare(call)
    if not outgoing then return nil, message, err end
  end
  while true do
    if not used then
      used, key, reused, answer, kind, length, keep, more, whole = exchange(call, outgoing, asked)
      if not used then return nil, key, reused end
    end
    local answered, target, status = now(), outgoing.url, answer.status
    call.answered = answered
    if outgoing.method == "HEAD" then
      kind, length, keep = "none", nil, kind and keep
    elseif not kind then
      used:close()
      return http1.refuse(target, "bad_framing", "%s", length)
    end
    local following, redirected
    if status == 407 and outgoing.absolute then -- the proxy's answer, and none of the URL's
      following, message, err = known_to_proxy(call, outgoing, answer)
      if not following then
        used:close()
        return nil, message, err
      end
    else
      call.proxy_tries = nil
      if more then remember(call, target, answer) end
    end
    if status >= 300 and not following then
      following, redirected, err = next_request(call, outgoing, answer, #history)
      if err then
        used:close()
        return nil, redirected, err
      end
    end
    new_answer(answer, target.text or url.text(target), history)
    if not following then
      local times = not reused and used._timings and used:_timings() or {}
      times.first_byte, times.data, times.total = answered - asked, 0, answered - call.began
      answer.timings = times
      if call.json_codec then answer.json_codec = call.json_codec end
      if whole and call.at_once then
        answer.body = whole
        conclude(call, used, answer, true, keep, more, key)
        return answer
      end
      return complete(call, used, answer, reader_of(used, target, kind, length, call), keep, more, key)
    end
    if not whole then
      local reader = reader_of(used, target, kind, length, call)
      drain(reader)
      whole = reader.done
    end
    asked = now()
    settle(call, used, answer, whole, keep, more, key, asked)
    if redirected then
      history[#history + 1] = { status = status, reason = answer.reason, headers = answer.headers,
        url = answer.url }
    end
    outgoing, used = following, nil
  end
end

-- What a call goes by where its options say nothing. The limits are those of http1.lua, body.lua and request.lua;
-- `deadline` is theirs, too. at_once: the longest body that is read along with its head, nil: none is.
local usual = {
  hsts = true, keep = true, decodes = true, redirects = 10, max_body = GIGABYTE, at_once = GIGABYTE,
  max_head = 131072, max_headers = 1000, first_byte = PAUSE, idle = PAUSE,
}
usual.__index = usual

local function new_call(client, method, address, given, began)
  return setmetatable({ client = client, options = given, method = method, url = address, jar = client.jar,
    began = began }, usual)
end

--- A GET without options, or with no more than a timeout, over an idle connection. Most bring a whole answer that asks
-- for nothing more: then there is no more to do, either. For all others run() goes on from where they are. What
-- perform() gives; or nothing, where nothing has been done yet, for perform() to do.
function Client:again(address, timeout)
  local target = url.known(address)
  local outgoing = target and target.plain
  if not outgoing or self.jar or core.proxied() then return end
  local began, key, pool_of = now(), target.origin, self.pool
  local used = pool_of:take(key, began, true)
  if not used then return end
  local limits = timeout and setmetatable({ deadline = began + timeout }, usual) or usual
  local answer, kind, length, keep, more, whole = http1.ask(used, outgoing.bytes, target, limits, GIGABYTE)
  if whole and keep and not more and answer.status < 300 and not used.session_key then
    if timeout then used:setdeadline(nil) end
    local ended = now()
    local took = ended - began
    answer.timings, answer.body = { first_byte = took, data = 0, total = took }, whole
    pool_of:give(key, used, nil, ended)
    return new_answer(answer, target.text or url.text(target), {})
  elseif answer then
    local call = new_call(self, "GET", address, { timeout = timeout }, began)
    call.deadline = limits.deadline
    return run(call, outgoing, used, key, true, answer, kind, length, keep, more, whole)
  end
  used:close()
  if not (length and gone[length.code]) then return nil, kind, length end
end

--- Closes the connections that are idle. The client goes on with new ones.
function Client:close()
  self.pool:close()
end

-- What a context says for all its calls, where this layer goes by it.
local of_context = { "timeout", "timeouts", "proxy", "unix_socket" }

local function with_context(given)
  local said = given.context.given
  if not said then return given end -- no context at all: to be complained of where it is used
  local merged = {}
  for name, value in pairs(given) do merged[name] = value end
  for _, name in ipairs(of_context) do
    if merged[name] == nil then merged[name] = said[name] end
  end
  return merged
end

local function adopt(call, given)
  local pauses = given.timeouts
  call.headers, call.body, call.auth, call.json_codec = given.headers, given.body, given.auth, given.json_codec
  call.redirects, call.max_head, call.max_headers = given.redirects, given.max_head, given.max_headers
  call.early, call.uploaded = given.early_data, given.upload_progress
  if given.hsts == false then call.hsts = false end
  if given.keep_alive == false then call.keep = false end
  if given.decompress == false then call.decodes = false end
  if given.cookies ~= nil or given.hsts ~= nil then call.jar = jar_of(call.client, given) end
  if given.max_body then call.max_body, call.at_once = given.max_body, given.max_body end
  if given.stream or given.sink or given.progress then call.at_once = false end
  if given.timeout then call.deadline = call.began + given.timeout end
  if pauses then call.first_byte, call.idle = pauses.first_byte, pauses.idle end
end

--- Sends a request with options that were checked, and returns its answer, or nil, message, err.
function Client:perform(method, address, given)
  local name, value = next(given)
  if method == "GET" and (name == nil or name == "timeout" and next(given, name) == nil) then
    local answer, message, err = self:again(address, value)
    if answer or err then return answer, message, err end
  end
  if given.context then given = with_context(given) end
  if given.retries and given.retries ~= 0 then
    local verb = method or (given.body or given.form or given.json ~= nil or given.multipart) and "POST" or "GET"
    return require("tlsconnect.https.retry").perform(function(changed)
      return self:perform(method, address, changed)
    end, verb, given)
  end
  if given.save then
    return require("tlsconnect.https.download").fetch(function(changed)
      changed.save = nil
      return self:perform(method, address, changed)
    end, address, given)
  end
  if given.reconnect then
    return require("tlsconnect.https.events").open(function(changed)
      return self:perform(method, address, changed)
    end, given)
  end
  if type(given.sink) == "userdata" and io.type(given.sink) ~= "file" then
    error("bad option 'sink' to https (a function or an open file expected)", 3)
  end
  local call = new_call(self, method, address, given, now())
  if next(given) then adopt(call, given) end
  return run(call)
end

--- A client with a pool of its own.
-- @param limits of the pool, nil for the usual ones
function M.new(limits)
  return setmetatable({
    nonces = {}, -- of digest authorization, by origin
    pool = pool.new(limits or { idle = 60, idle_per_host = 256, idle_total = 256 }),
  }, Client)
end

return M

-- How a connection comes to be: the ten steps, from a host's name to the first byte of data. What can be
-- done with it then is in stream.lua.
local core = require "tlsconnect.core"
local contexts = require "tlsconnect.context"
local dial = require "tlsconnect.dial"
local errors = require "tlsconnect.error"
local judge = require "tlsconnect.judge"
local late = require "tlsconnect.late"
local sessions = require "tlsconnect.sessions"
local Connection = require "tlsconnect.stream"
local steps = require "tlsconnect.steps"
local trace = require "tlsconnect.trace"
local waiter = require "tlsconnect.wait"

local now = core.now

local connection = {}

-- Seconds that connecting may take when no timeout is given.
local TIMEOUT = 60

local function earlier(a, b)
  if a and b then return a < b and a or b end
  return a or b
end

-- Who the peer is ---------------------------------------------------------------------------------

-- A host as it is verified: {name=} (an A-label name, no trailing dot) or {ip=}. Or nil, message, err.
local function identify(host)
  local inside = host:match("^%[(.*)%]$")
  local ip = core.literal(inside or host)
  if ip then return { ip = ip } end
  local name, cause = nil, { code = "bad_host", message = "brackets hold an IPv6 address" }
  if not inside then
    local _
    name, _, cause = core.to_ascii(host)
  end
  if name then return { name = name } end
  return errors.fail(errors.from(cause, { step = "dns", host = host }))
end

-- What a call goes by -----------------------------------------------------------------------------

local none = {}

-- The options of a call and its context's defaults, read once.
local function settings(given, context, role)
  judge.check(given)
  local terms = context:options(given)
  local timeout, alpn = terms.timeout, terms.alpn
  if type(alpn) == "string" then alpn = { alpn } end
  if alpn and not alpn[1] then alpn = nil end -- an empty list: none, whatever the context says
  return {
    given = given, terms = terms, context = context, role = role,
    timeout = timeout, limits = terms.timeouts or none, deadline = now() + (timeout or TIMEOUT),
    waiter = terms.wait or waiter.wait,
    alpn = alpn,
    recorder = given.recorder or trace.recorder(terms.trace),
    keylog = terms.keylog and late.load("tlsconnect.keylog").sink(terms.keylog) or nil,
  }
end

local function new(call, fields)
  fields.limit, fields.recorder = call.timeout, call.recorder
  if call.waiter ~= Connection.waiter then fields.waiter = call.waiter end
  if call.recorder.tracing then call.recorder:peer(fields.host, fields.port, call.role) end
  if core.forks() > 0 then fields.born = core.forks() end
  return setmetatable(fields, Connection)
end

-- Ends what has failed: nothing stays open, and the error tells all that was seen.
local function give_up(self, call, err)
  local recorder = call.recorder
  if self.session then recorder:handshake(self.session, call.role) end
  if steps.index[err.step] then recorder:fail(err.step, err) end
  if recorder.tracing then err.trace = recorder:steps() end
  Connection._drop(self)
  return errors.fail(err)
end

-- Steps 3 to 8 ------------------------------------------------------------------------------------

-- Makes the session on what the connection stands on. True, or nil, message, err.
local function start(self, call)
  local under, first = self.under, call.first
  local session, _, cause = call.context.core:session(call.role, {
    socket = not under and self.socket or nil, session = under and under.session,
    server_name = call.role == "client" and call.peer.name or nil, ticket = call.ticket,
    -- Who names protocols needs one of them (RFC 7301 3.2); a server serves clients that name none, too.
    alpn = call.alpn, alpn_mandatory = true,
    trace = call.recorder.tracing, keylog = call.keylog ~= nil,
    false_start = first ~= nil, words_follow = first ~= nil and not call.insist,
  })
  if not session then
    return give_up(self, call, errors.from(cause, { step = "client_hello",
      host = self.host, port = self.port }))
  end
  self.session = session
  if not first then return true end
  local ready
  ready, cause = require("tlsconnect.early").offer(self, call)
  if ready then return true end
  if ready == nil then
    return give_up(self, call, errors.from(cause, { step = "client_hello", host = self.host, port = self.port }))
  end
  session:close()
  call.ticket, call.early = nil, nil
  return start(self, call)
end

-- The step that a connection stands in while its session waits, and what for.
local function step_of(self)
  local message, step = self.session:awaiting()
  return step or "server_hello", message and "waiting for " .. message
end

-- Hands the secrets that are there over to the key log. True, or nil, message, err.
local function log_keys(session, sink)
  local lines, _, cause = session:keylog()
  if not lines then return errors.fail(errors.from(cause, { step = "session_keys" })) end
  if lines == "" then return true end
  return sink(lines)
end

-- The handshake, or what is left of it, from the first message to the judged peer. The connection, or nil, message,
-- err. early: stops as soon as there is early data to hand out: the data.
local function secure(self, call, early)
  if not self.session then
    local ok, message, err = start(self, call)
    if not ok then return nil, message, err end
  end
  local session, recorder = self.session, call.recorder
  local deadline = call.deadline
  if call.limits.handshake then deadline = earlier(deadline, now() + call.limits.handshake) end
  call.deadline = deadline
  local refused
  repeat
    local ok, want, cause = session:handshake()
    if recorder.tracing then recorder:messages(session) end
    if call.keylog then
      local kept, _, err = log_keys(session, call.keylog)
      if not kept then return give_up(self, call, err) end
    end
    if not ok then
      if want == "want_verify" then
        -- GnuTLS stands still between the peer's Certificate and our answer to it; this may wait.
        local good, err, alert = judge.judge(self, call)
        if self.closed then
          return errors.fail(errors.new { step = "verify", code = "closed",
            host = self.host, port = self.port })
        end
        refused = not good and err or nil
        session:verdict(good or false, alert)
      elseif want == "want_read" or want == "want_write" then
        local data = early and session:early() or ""
        if data ~= "" then
          self.half = true
          return data
        end
        local ready, _, err = Connection._pause(self, "reader", want, deadline, step_of)
        if not ready then return give_up(self, call, refused or err) end
      else
        return give_up(self, call, refused
          or errors.from(cause, { step = "server_hello", host = self.host, port = self.port }))
      end
    end
  until ok
  -- A resumed session never asked: judge it like any other. So does one without certificates.
  if not call.judged and not (call.offered and require("tlsconnect.early").judged(self, call)) then
    local good, err = judge.judge(self, call)
    if not good and call.ticket and session:resumed() then
      -- What it carries is no longer good; what the server shows now may be.
      Connection._drop(self)
      return nil, "again"
    end
    if not good then return give_up(self, call, err) end
  end
  local kept, _, err = judge.complete(self, call)
  if not kept then return give_up(self, call, err) end
  if self.closed then
    return errors.fail(errors.new { step = "verify", code = "closed", host = self.host, port = self.port })
  end
  if recorder.tracing then
    recorder:handshake(session, call.role)
  else
    recorder:leave(session)
    self.recorder = nil
  end
  self.stream, self.begin, self.socket = session, nil, nil
  if call.first then
    kept, _, err = require("tlsconnect.early").deliver(self, call)
    if not kept then return give_up(self, call, err) end
    -- The answer to what is said first takes its time.
    if session:pending() == 0 then self.still = true end
  end
  return self
end

-- Steps 1 and 2 ------------------------------------------------------------------------------------

-- A connection object on another connection, which is left as if closed when it is in clear: its socket
-- moves over; one with TLS carries what comes.
local function ride(call, below, host, port)
  if below.session then return new(call, { host = host, port = port, under = below, fd = below.fd }) end
  local socket, fd = below.socket, below.fd
  below.closed, below.stream, below.socket, below.fd = true, nil, nil, -1
  return new(call, { host = host, port = port, socket = socket, fd = fd })
end

-- By way of a proxy. As reach().
local function by_proxy(call, host, port, terms)
  local proxy = require "tlsconnect.proxy"
  local route, message, err = proxy.of(call.terms.proxy, "https", host, port)
  if not route then return route, message, err end
  terms.timeouts, terms.tls = call.limits, call.given.tls
  local below
  below, message, err = proxy.reach(host, port, route, terms)
  if not below then return nil, message, err end
  return ride(call, below, host, port)
end

-- A connection object, not secured yet, or nil, message, err.
local function reach(call, host, port)
  local options, limits = call.terms, call.limits
  local terms = {
    deadline = call.deadline, wait = call.waiter, recorder = call.recorder, family = options.family,
    local_address = options.local_address, allow_address = options.allow_address,
    dns_deadline = limits.dns and now() + limits.dns, tcp_limit = limits.tcp,
  }
  local path = not port and host or options.unix_socket
  if not path and options.proxy then
    local self, message, err = by_proxy(call, host, port, terms)
    if self ~= false then return self, message, err end
  end
  local socket, message, err
  if path then
    terms.tcp_deadline = limits.tcp and now() + limits.tcp
    socket, message, err = dial.unix(path, terms)
  else
    socket, message, err = dial.tcp(host, port, terms)
  end
  if not socket then return nil, message, err end
  -- With room for what a connection has most often.
  return new(call, { host = host, port = port, socket = socket, fd = socket:getfd(), recorder = call.recorder,
    limit = nil, session = nil, stream = nil })
end

-- The whole way to a connection, with a session to take up or without. The connection, or nil, message,
-- err; nil, "again" when that session was of no use.
local function establish(call, host, port)
  -- 1 dns, 2 tcp: to the host itself, or by way of a proxy or a Unix socket
  local self, message, err = reach(call, host, port)
  if not self then
    if call.recorder.tracing then err.trace = call.recorder:steps() end
    return nil, message, err
  end
  if call.given.tls == false then
    if self.under then -- http:// that an https proxy is asked for: the hop itself
      self.under.limit, self.under.recorder = call.timeout, call.recorder
      return self.under
    end
    self.stream = self.socket
    return self
  end

  -- 3 client_hello to 8 finished
  return secure(self, call)
end

-- Sessions ----------------------------------------------------------------------------------------

-- The key that a session of this call is kept by, or nil. What is on the way is part of it: a proxy that
-- opens TLS itself must not be offered what the host gave, nor the other way round (CVE-2021-22890).
local function session_key(call, host, port)
  local terms = call.terms
  if call.given.tls == false then return nil end
  local hop = terms.unix_socket
  local proxy = not hop and terms.proxy
  if proxy then
    local route = require("tlsconnect.proxy").of(proxy, "https", host, port)
    if route == nil then return nil end
    hop = route and ("%s://%s:%d"):format(route.kind, route.host, route.port)
  end
  return sessions.key(terms, call.given, host, port, call.peer, call.alpn, hop)
end

-- Whose certificate is expected: the host's, or of a Unix socket that stands for no host, nobody's.
local function expect(host, port, call)
  local given, terms = call.given, call.terms
  local name = given.server_name or port and host
  if name then return identify(name) end
  if given.tls ~= false and not (terms.insecure_skip_verify or terms.insecure_skip_name) then
    error("bad option 'server_name' to connect (the name that the certificate must have is needed)", 4)
  end
  return {}
end

--- Opens a connection: host and port to the first byte of data, one deadline over all of it.
-- host: without a port it is the path of a Unix socket. options: those of connect, already checked;
-- tls = false stops after step 2 (http). A connection, or nil, message, err.
function connection.open(host, port, options)
  local context, message, err = contexts.of(options, "connect")
  if not context then return nil, message, err end
  local call = settings(options, context, "client")
  if call.recorder.tracing then call.recorder:peer(host, port) end
  call.peer, message, err = expect(host, port, call)
  if not call.peer then
    call.recorder:fail("dns", err)
    if call.recorder.tracing then err.trace = call.recorder:steps() end
    return nil, message, err
  end
  local key = session_key(call, host, port)
  if key then call.ticket, call.early = context:sessions():take(key, context:generation()) end
  -- `first` is sent in a false start or not at all; early_data in any case.
  local early = options.early_data
  call.insist = early ~= nil and early ~= ""
  call.first = options.tls ~= false and (call.insist and early or options.first) or nil
  if not call.insist then call.early = nil end
  local self
  self, message, err = establish(call, host, port)
  if not self and (message == "again" or call.offered and require("tlsconnect.early").again(call, err)) then
    call.ticket, call.judged, call.early, call.offered = nil, nil, nil, nil
    self, message, err = establish(call, host, port)
  end
  -- Only now has everything been checked.
  if self and key then self.session_key = { key, context, early ~= nil } end
  return self, message, err
end

-- What connection/wrap.lua and connection/accepted.lua stand on.
connection.TIMEOUT, connection.earlier, connection.identify, connection.new = TIMEOUT, earlier, identify, new
connection.ride, connection.secure, connection.settings = ride, secure, settings

late.methods(Connection, "tlsconnect.connection.accepted", "handshake early")

return connection

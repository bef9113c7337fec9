-- The methods of a connection: what can be done once it is there, the same over TLS and in clear.
-- How it gets there is connection.lua's story.
--
-- The fields of a connection, of which an idle one has six, and with a timeout and a coroutine that waits eight: then
-- its table is full. A ninth would double it.
--   stream     what bytes go through: the session, or the socket of a connection in clear. It is nil
--              before the handshake of an accepted connection, and after close
--   session, socket, under   TLS, the descriptor, and the connection below (TLS in TLS); after a handshake the session
--              alone has the socket, until it is asked for
--   fd         the descriptor that is waited on, -1 after close
--   limit      seconds that each call may take (settimeout), nil for no limit
--   deadline   a time that no call may pass (setdeadline), nil for none
--   waiter     the wait of this connection, where it is not the process's
--   reader, writer   the coroutine that waits in a receive or a send, while it waits
--   host, port       for messages
--   recorder         of its steps; nil where the session keeps the times: after the handshake, when nobody traces
--   gathered   what setvbuf holds back: {text, ..., count =, size =, limit =}
--   still            true where nothing that has come is left inside: the next read waits before it looks
--   session_key      where its session is kept, until it has been: {key, context, whether what early data needs is kept
--                    beside it}; nil: nowhere
--   judged           the verification of the peer, which may be shared with other connections (trust/memory.lua)
--   first_sent       how a client's first words left: "early", "false_start", "late"; nil: they have not
--   half             a handshake was left half done to hand out early data
--   born             core.forks() of the process that made it, nil for 0
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"
local late = require "tlsconnect.late"

local now = core.now
local running = coroutine.running

local Connection = { waiter = require("tlsconnect.wait").wait }
Connection.__index = Connection
Connection.__name = "tlsconnect.connection"

-- The longest line that receive("l") reads, in bytes, and the longest wait of close() for room to
-- say good-bye in, in seconds.
local LINE_LIMIT = 1024 * 1024
local CLOSE_LIMIT = 10

local patterns = { ["*l"] = "l", l = "l", ["*L"] = "L", L = "L", ["*a"] = "a", a = "a" }

-- Errors ------------------------------------------------------------------------------------------

local function context(self, step)
  return { step = step or "data", host = self.host, port = self.port }
end

-- nil, message, err of a call on this connection.
local function failed(self, cause, step)
  if type(cause) ~= "table" then cause = { code = "tls", message = tostring(cause) } end
  local err = errors.from(cause, context(self, step))
  local recorder = self.recorder
  if err.code == "truncated" and recorder and recorder.tracing and not self.session:counters().close_sent then
    recorder:add("close", { truncated = true })
  end
  return nil, err.message, err
end

local function named(self, code, step)
  local err = context(self, step)
  err.code = code
  return errors.fail(errors.new(err))
end

-- Waiting -----------------------------------------------------------------------------------------

-- The time that ends a call which begins now.
local function deadline_of(self)
  local limit, deadline = self.limit, self.deadline
  if limit then
    local last = now() + limit
    if not deadline or last < deadline then return last end
  end
  return deadline
end

-- Whether the coroutine noted in self.reader or self.writer can still come back from its wait. It
-- cannot when it is dead, or when it is the one that runs now: then its wait raised an error.
local function alive(noted)
  return noted ~= nil and noted ~= (running() or true)
    and not (type(noted) == "thread" and coroutine.status(noted) == "dead")
end

local function socket_of(self)
  local socket, session = self.socket, self.session
  if not socket and session then socket = session:socket() end
  return socket
end
Connection._socket = socket_of

local drop

-- Frees everything: at once, or, where a coroutine still waits on the descriptor, when that one comes
-- back: the number must not become another file's while a loop watches it.
local function release(self)
  if alive(self.reader) or alive(self.writer) then return end
  local socket, session, under = socket_of(self), self.session, self.under
  self.fd = -1
  local left = (session or socket):take()
  if left ~= "" then self.left = left end
  if session then
    local recorder = self.recorder
    if recorder and recorder.tracing then recorder:traffic(session, true) end
    session:close()
  end
  if socket then socket:close() end
  if under and self.dropped then
    drop(under)
  elseif under then
    under:close()
  end
end

-- Wakes who waits for the descriptor. Only then: another process may have the same socket after a fork,
-- and closing a descriptor leaves that one alone.
local function wake(self)
  if not (alive(self.reader) or alive(self.writer)) then return end
  local bottom = self
  while bottom.under do bottom = bottom.under end
  local socket = socket_of(bottom)
  if socket then socket:shutdown("both") end
end

-- Whether the connection was opened before a fork, by the parent, who may still use it.
local function inherited(self)
  return core.forks() ~= (self.born or 0)
end

-- Ends a connection without a word to the peer, and without waiting.
function drop(self)
  if self.closed then return end
  self.closed, self.dropped, self.stream = true, true, nil
  wake(self)
  release(self)
end

local events = { want_read = "r", want_write = "w", both = "rw" }

-- Waits for the descriptor, until the stream can go on. `side` is "reader" or "writer". True, or nil, message, err.
-- step: the one that this is, or a function of the connection that returns it and what it was doing: called only when
-- somebody is to be told.
local function pause(self, side, want, deadline, step)
  local ok, message
  if self.limit == 0 then
    message = "timeout"
  else
    self[side] = running() or true
    ok, message = self.waiter(self.fd, events[want], deadline)
    self[side] = nil
    if ok and not self.closed then return true end
  end
  if step == "closing" then return ok end -- by close(), which goes on
  local doing
  if type(step) == "function" then step, doing = step(self) end
  if self.closed then
    release(self)
    return named(self, "closed", step)
  end
  local where = context(self, step)
  where.doing = doing
  return errors.waited(message, where)
end

-- What a call gets that finds another one in its wait.
local function occupied(self, side)
  if alive(self[side]) then return named(self, "busy") end
  -- That wait raised an error in the middle of a call. What it left half done is nobody's to go on
  -- with: the connection ends here.
  drop(self)
  return named(self, "abandoned")
end

-- What a call gets that finds no stream: an accepted connection makes its handshake now.
local function absent(self)
  if self.closed or not self.begin then return named(self, "closed") end
  return self:handshake()
end

-- Address, port and family of one end of a socket; nothing once the peer has reset it.
local function ends(socket, which)
  local address, port, family = socket[which](socket)
  if address then return address, port, family end
end

-- For the other files whose methods these are: connection.lua, stream/*.
for name, value in pairs {
  absent = absent, context = context, deadline_of = deadline_of, drop = drop, ends = ends, failed = failed,
  named = named, occupied = occupied, pause = pause,
} do
  Connection["_" .. name] = value
end

-- Reading -----------------------------------------------------------------------------------------

-- The rest of a read that had to wait, or failed. Data, or nil, message, err.
local function read_on(self, what, limit, fields, body, want, cause)
  local deadline = deadline_of(self)
  while true do
    if want ~= "want_read" and want ~= "want_write" then return failed(self, cause) end
    local ok, message, err = pause(self, "reader", want, deadline)
    if not ok then return nil, message, err end
    local data, fourth, fifth, sixth
    data, want, cause, fourth, fifth, sixth = self.stream:read(what, limit, fields, body)
    if data ~= nil then return data, want, cause, fourth, fifth, sixth end
  end
end

--- Reads, waiting as long as the timeout and the deadline allow.
-- what: a number (exactly so many bytes), "l" (a line without its end), "L" (with it), "a" (all until
-- the end), "some" (what is there, at least one byte), "head" (through the first empty line), or "answer" (an HTTP
-- answer's head, taken apart: input.c says how, with `fields` and `body`).
-- limit: in bytes; more than that is an error with code "too_long".
-- The data, or nil, message, err. What had come before an error stays, for the next call or take().
function Connection:read(what, limit, fields, body)
  local stream = self.stream
  if not stream then
    local ok, message, err = absent(self)
    if not ok then return nil, message, err end
    stream = self.stream
  end
  if self.reader then return occupied(self, "reader") end
  if self.still then
    self.still = nil
    if self.limit ~= 0 then return read_on(self, what, limit, fields, body, "want_read") end
  end
  local data, want, cause, fourth, fifth, sixth = stream:read(what, limit, fields, body)
  if data ~= nil then return data, want, cause, fourth, fifth, sixth end
  return read_on(self, what, limit, fields, body, want, cause)
end

late.methods(Connection, "tlsconnect.stream.bodies", "pour offer")

--- The bytes that have come and that no call has returned yet.
function Connection:take()
  local left = self.left
  if left then
    self.left = nil
    return left
  end
  return self.stream and self.stream:take() or ""
end

--- Receives as LuaSocket does. pattern: a number of bytes, "*l" or "l" (a line without its end; the
-- default), "*L" or "L" (a line with its end), "*a" or "a" (all until the peer ends the stream).
-- prefix: put before the data; its bytes count in a number. A line may have 1 MiB.
-- The data, or nil, message, partial, err: message is "timeout", "closed" (the peer ended the stream
-- properly), or a sentence; partial is what had come, prefix included. A stream that ends without
-- close_notify is an error with code "truncated", also for "*a": what is missing nobody knows.
function Connection:receive(pattern, prefix)
  local what, limit = pattern, nil
  if type(pattern) == "number" then
    if pattern < 0 or pattern ~= pattern then
      error("bad argument #1 to 'receive' (a size or a pattern expected)", 2)
    end
    if prefix then
      prefix = tostring(prefix)
      what = pattern - #prefix
      if what <= 0 then return prefix end
    end
  else
    what = pattern == nil and "l" or patterns[pattern]
    if not what then error("bad argument #1 to 'receive' (a size or a pattern expected)", 2) end
    if what ~= "a" then limit = LINE_LIMIT end
  end
  local data, message, err = self:read(what, limit)
  if data then return prefix and prefix .. data or data end
  local partial = self.reader and "" or self:take()
  return nil, message, prefix and prefix .. partial or partial, err
end

--- An iterator over the lines (or what another pattern of receive reads); the last one may lack its
-- end. Raises the error (a table, as err) when the stream does not end properly, as io.lines does:
-- a loop never takes half for the whole. On Lua 5.1 an iterator cannot yield: where `wait`
-- yields, call receive in a `while` there.
function Connection:lines(pattern)
  return function()
    local data, _, partial, err = self:receive(pattern)
    if data then
      if pattern == "*a" or pattern == "a" then return data ~= "" and data or nil end
      return data
    end
    if err.code ~= "closed" then error(err, 0) end
    return partial ~= "" and partial or nil
  end
end

-- Writing -----------------------------------------------------------------------------------------

-- The rest of a send that had to wait, or failed: last, or nil, message, last, err. The stream's write
-- gives nil, want, last or nil, message, cause, last.
local function write_on(self, data, j, want, last, cause_last)
  local deadline = deadline_of(self)
  while true do
    if want ~= "want_read" and want ~= "want_write" then
      local _, message, err = failed(self, last)
      return nil, message, cause_last, err
    end
    local ok, message, err = pause(self, "writer", want, deadline)
    if not ok then return nil, message, last, err end
    local done
    done, want, last, cause_last = self.stream:write(data, last + 1, j)
    if done then return done end
  end
end

-- What is sent for a send()'s argument that is no string: a number's digits, as LuaSocket does.
local function text_of(data)
  if type(data) == "number" then return tostring(data) end
  error("bad argument #1 to 'send' (string expected, got " .. type(data) .. ")", 3)
end
Connection._text_of = text_of

--- Sends data[i..j], as LuaSocket does (i and j as in string.sub; default: all). The index of the
-- last byte sent, or nil, message, last, err: going on with send(data, last + 1, j) loses and
-- repeats nothing.
function Connection:send(data, i, j)
  if type(data) ~= "string" then data = text_of(data) end
  local stream = self.stream
  if not stream then
    local ok, message, err = absent(self)
    if not ok then return nil, message, (i or 1) - 1, err end
    stream = self.stream
  end
  if self.writer then
    local _, message, err = occupied(self, "writer")
    return nil, message, (i or 1) - 1, err
  end
  local done, want, last, cause_last = stream:write(data, i or 1, j or -1)
  if done then return done end
  return write_on(self, data, j or -1, want, last, cause_last)
end

--- Sends all of a request, where nothing has come since the last answer was read (as quiet() says), and reads the
-- head of the answer: what read("answer", limit, fields, body) gives. Where something has come, even the end, nothing
-- is sent: nil, message, err with code "closed", and the connection is of no more use.
function Connection:ask(data, limit, fields, body)
  local stream = self.stream
  if not stream then return named(self, "closed") end
  if self.reader or self.writer then return occupied(self, self.reader and "reader" or "writer") end
  local sent, want, last, cause_last = nil, "heard", nil, nil
  if self.session then sent, want, last, cause_last = stream:ask(data) end
  if not sent then
    if want == "heard" then -- a late ticket, maybe
      if not self:quiet() then return named(self, "closed") end
      sent, want, last, cause_last = stream:write(data)
    end
    if not sent then
      local _, message, err
      sent, message, _, err = write_on(self, data, -1, want, last, cause_last)
      if not sent then return nil, message, err end
    end
  end
  self.still = nil
  return read_on(self, "answer", limit, fields, body, "want_read")
end

-- Gathering ---------------------------------------------------------------------------------------

local function gathering()
  return late.load "tlsconnect.stream.gathering"
end

--- Sends what was gathered (see setvbuf). True, or nil, message, err; then the rest stays gathered, and
-- flush() goes on with it.
function Connection:flush()
  local gathered = self.gathered
  if not gathered or gathered.size == 0 then return true end
  return gathering().flush(self)
end

--- Whether sends are gathered, as io's setvbuf has it. mode: "no" (the default: each send leaves at once) or
-- "full": until there are `size` bytes (a record of 16 KiB by default), or until flush, a receive, shutdown
-- or close. What a send of gathered bytes fails with, a later call may be told, too. True, or nil,
-- message, err when what was gathered cannot be sent now.
function Connection:setvbuf(mode, size)
  if mode ~= "no" and mode ~= "full" then
    error("bad argument #1 to 'setvbuf' ('no' or 'full' expected)", 2)
  end
  if size ~= nil and (type(size) ~= "number" or size < 1 or size % 1 ~= 0) then
    error("bad argument #2 to 'setvbuf' (a number of bytes expected)", 2)
  end
  return gathering().set(self, mode, size)
end

-- Keeping -----------------------------------------------------------------------------------------

--- Keeps what the server has given to take this session up again, once it has come.
function Connection:keep_session()
  local kept = self.session_key
  if not kept then return end
  local ticket, life, limit = self.session:ticket()
  if not ticket then return end
  self.session_key = nil
  local key, origin, judged = kept[1], kept[2], self.judged
  local beside = kept[3] and require("tlsconnect.early").remember(self, limit) or nil
  origin:sessions():give(key, ticket, life, origin:generation(), judged and judged["until"], beside)
end

-- Ending ------------------------------------------------------------------------------------------

-- Sends close_notify, waiting for room until the deadline. step: as for pause(). True, or nil, message, err.
local function farewell(self, deadline, step)
  local session = self.session
  while true do
    local ok, want, cause = session:close_notify(false)
    if ok then return true end
    if want ~= "want_write" and want ~= "want_read" then return failed(self, cause, "close") end
    local message, err
    ok, message, err = pause(self, "writer", want, deadline, step)
    if not ok then return nil, message, err end
  end
end

--- Ends one direction or both. what: "send" (the default: the peer sees the end of the stream, and its
-- own bytes still come), "receive" or "both". True, or nil, message, err.
function Connection:shutdown(what)
  what = what or "send"
  if what ~= "send" and what ~= "receive" and what ~= "both" then
    error("bad argument #1 to 'shutdown' ('send', 'receive' or 'both' expected)", 2)
  end
  if not self.stream then return named(self, "closed", "close") end
  if self.gathered and what ~= "receive" then
    local ok, message, err = self:flush()
    if not ok then return nil, message, err end
  end
  if self.session and what ~= "receive" then
    if self.writer then return occupied(self, "writer") end
    local ok, message, err = farewell(self, deadline_of(self), "close")
    if not ok then return nil, message, err end
    if what == "send" then return true end
  end
  local socket = socket_of(self)
  if not socket then return true end
  local ok, _, cause = socket:shutdown(what)
  if not ok then return failed(self, cause, "close") end
  return true
end

--- Says good-bye (close_notify) and frees everything. It waits for room to say so no longer than the
-- timeout and ten seconds allow, and never for the peer. A call of another coroutine that waits on
-- this connection returns "closed". Closing twice does nothing. Returns true.
function Connection:close()
  if self.closed then return true end
  if self.gathered and self.stream and not self.writer then
    gathering().finish(self, CLOSE_LIMIT)
    if self.closed then return true end
  end
  local stream, session, socket = self.stream, self.session, socket_of(self)
  self.socket = socket
  if stream then self:keep_session() end
  self.closed, self.stream, self.begin = true, nil, nil
  local ours = stream and not session and not inherited(self)
  if stream and session and not self.writer then
    local deadline, last = deadline_of(self), now() + CLOSE_LIMIT
    ours = farewell(self, deadline and deadline < last and deadline or last, "closing")
  end
  if ours and socket and not self.reader then
    -- What the peer sent and nobody read would turn the close into a reset, which may destroy what was
    -- sent last: throw it away first. Not where the bytes are for another process (fork).
    socket:drop()
  end
  wake(self)
  release(self)
  return true
end

Connection.__close = function(self)
  -- A closing block may not wait.
  if self.gathered and self.stream and not self.writer then
    self.stream:write(gathering().text(self.gathered))
  end
  if self.stream and self.session then self.session:close_notify(false) end
  drop(self)
end

-- Settings and views ------------------------------------------------------------------------------

--- Seconds that each later call may take in all (0: never wait), nil or a negative number for no
-- limit. LuaSocket's second argument is accepted; both of its modes mean the same here.
function Connection:settimeout(seconds)
  if seconds ~= nil and (type(seconds) ~= "number" or seconds ~= seconds) then
    error("bad argument #1 to 'settimeout' (a number of seconds or nil expected)", 2)
  end
  self.limit = seconds and seconds >= 0 and seconds or nil
  return true
end

--- A time on tlsconnect.now()'s clock that no later call passes; nil for none.
function Connection:setdeadline(deadline)
  if deadline ~= nil and (type(deadline) ~= "number" or deadline ~= deadline) then
    error("bad argument #1 to 'setdeadline' (a time or nil expected)", 2)
  end
  self.deadline = deadline
  return true
end

--- The descriptor to wait on, or -1 after close.
function Connection:getfd()
  return self.fd
end

--- How many bytes have come that no call has returned yet, as far as they are decrypted already.
function Connection:buffered()
  return self.stream and self.stream:buffered() or 0
end

--- Whether bytes have come that `poll` does not see: then receive will not wait for the first one.
function Connection:dirty()
  local stream = self.stream
  if not stream then return false end
  return (self.session and stream:pending() or stream:buffered()) > 0
end

--- Whether an idle connection is still as it was left: nothing has come on it, neither bytes nor its
-- end. Does not wait. What TLS itself sends late (tickets) is taken in, and changes nothing.
function Connection:quiet()
  local stream = self.stream
  if not stream or self.reader or self.writer or not self.session and inherited(self) then return false end
  if not stream:quiet() then
    local data, want = stream:read("some", 1)
    if data or want ~= "want_read" then return false end
  end
  self.still = true
  return true
end

--- "r" or "w": what the last call waited for.
function Connection:want()
  return self.session and self.stream and self.session:want() or "r"
end

-- cqueues polls any object that has these three.
Connection.pollfd = Connection.getfd
Connection.events = Connection.want

--- Seconds until a call that begins now would end; 0 where bytes are ready, nil where there is no limit.
function Connection:timeout()
  if self:dirty() then return 0 end
  local deadline = deadline_of(self)
  return deadline and math.max(0, deadline - now())
end

--- The four answers of the verification: {issuer=, dates=, revocation=, name=, path=, anchor=}; nil
-- where none was made.
function Connection:verification()
  local judged = self.judged
  if judged and judged.shared then
    judged = require("tlsconnect.trust.memory").own(judged)
    self.judged = judged
  end
  return judged
end

--- How long each of its steps took: as timings() of its recorder.
function Connection:_timings()
  local recorder = self.recorder
  if recorder then return recorder:timings() end
  return late.load("tlsconnect.trace").timings(self.session)
end

--- Its recorder, or one that has the times its session keeps.
function Connection:_recorder()
  return self.recorder or require("tlsconnect.trace").of(self.session)
end

late.methods(Connection, "tlsconnect.stream.unwrap", "unwrap")
late.methods(Connection, "tlsconnect.stream.views",
  "info peer_chain peer_certificate trace export channel_binding")

function Connection:__tostring()
  local state = self.closed and "closed" or not self.session and (self.begin and "new" or "in clear")
    or self.stream and self.session:info().version or "closed"
  return ("tlsconnect connection: %s (%s)"):format(errors.peer(self.host, self.port), state)
end

return Connection

-- A client's first words, said before the handshake is complete: as early data (0-RTT, RFC 8446 2.3), or in
-- a false start of TLS 1.2 (RFC 7918). How they leave is early.c's matter; here is what must be known first.
--
-- Early data goes to a peer that shows nothing this time. So what it showed when its ticket was given is
-- kept beside the ticket, and is judged anew before a byte leaves: by the roots, the time, the name, the
-- pins and the program's own `verify` as they are now.
local errors = require "tlsconnect.error"
local judge = require "tlsconnect.judge"

local M = {}

-- More is not sent as early data (see early.c); and what a peer showed, in bytes, of which more is not kept.
local LIMIT, SIZE = 8192, 65536

-- What a peer showed, as a session shows it to the judge.
local Shown = {}
Shown.__index = Shown

function Shown:peer_certificates()
  return self.chain
end

function Shown:staples()
  return self.saved_staples
end

function Shown:resumed() -- luacheck: ignore 212
  return true
end

--- What a connection keeps beside its ticket for early data. limit: bytes that the ticket allows. Nil: nothing.
function M.remember(self, limit)
  if limit == 0 then return nil end
  local session = self.session
  local chain, staples, size = session:peer_certificates(), session:staples(), 0
  for i, der in ipairs(chain) do size = size + #der + #(staples[i] or "") end
  if size > SIZE then return nil end
  return setmetatable({ limit = limit, alpn = session:info().alpn, chain = chain, saved_staples = staples,
    size = size }, Shown)
end

--- The same as bytes, for a file: a line of numbers (the limit, and of the protocol, then of each certificate and its
-- staple the size; "-" for none), and what they are the sizes of.
function M.pack(shown)
  local numbers, texts = { ("%d"):format(shown.limit) }, {}
  local function add(text)
    numbers[#numbers + 1] = text and ("%d"):format(#text) or "-"
    texts[#texts + 1] = text or ""
  end
  add(shown.alpn)
  for i, der in ipairs(shown.chain) do
    add(der)
    add(shown.saved_staples[i])
  end
  return table.concat(numbers, " ") .. "\n" .. table.concat(texts)
end

--- What pack() made of it; nil when that is something else.
function M.unpack(bytes)
  local line, at = bytes:match("^(%d[%d -]*)\n()")
  if not line then return nil end
  local limit, rest = line:match("^(%d+)(.*)$")
  local texts, count = {}, 0
  for number in rest:gmatch(" ([^ ]*)") do
    count = count + 1
    if number ~= "-" then
      local stop = at + (tonumber(number) or #bytes + 1)
      if stop > #bytes + 1 then return nil end
      texts[count], at = bytes:sub(at, stop - 1), stop
    end
  end
  if at ~= #bytes + 1 or count % 2 == 0 or #bytes > SIZE + #line + 256 then return nil end
  local shown = { limit = tonumber(limit), alpn = texts[1], chain = {}, saved_staples = {}, size = 0 }
  for i = 1, (count - 1) / 2 do
    local der, staple = texts[2 * i], texts[2 * i + 1]
    if not der then return nil end
    shown.chain[i], shown.saved_staples[i] = der, staple or false
    shown.size = shown.size + #der + #(staple or "")
  end
  return setmetatable(shown, Shown)
end

--- Gives a session that has not begun the first words of its call. True; false when what the peer once showed is no
-- longer good, and neither is the ticket; or nil, cause.
function M.offer(self, call)
  local first, shown = call.first, call.early
  if shown and #first <= shown.limit and #first <= LIMIT then
    call.shown = shown
    local good = judge.judge(self, call)
    call.shown, call.judged = nil, nil
    if not good then return false end
    call.offered = shown
  end
  local ok, _, cause = self.session:first(first, call.offered ~= nil)
  if not ok then return nil, cause end
  return true
end

--- Whether the peer of a complete handshake is the one that was judged before its early data left.
function M.judged(self, call)
  local shown = call.offered
  if not shown or not self.session:resumed() then return false end
  local chain = self.session:peer_certificates()
  for i = 1, math.max(#chain, #shown.chain) do
    if chain[i] ~= shown.chain[i] then return false end
  end
  return true
end

--- Sees to it that the first words have been said, once, when the handshake is complete and its peer judged. True,
-- or nil, message, err.
function M.deliver(self, call)
  local session = self.session
  local how = session:first_sent()
  -- RFC 8446 4.2.10: early data is of the protocol that was agreed on before.
  if how == "early" and session:info().alpn ~= call.offered.alpn then
    return errors.fail(errors.new { step = "finished", code = "early_protocol", host = self.host, port = self.port,
      message = errors.peer(self.host, self.port) .. " took early data, and agreed on another protocol for it" })
  end
  self.first_sent = how
  if how or not call.insist then return true end
  self.deadline = call.deadline
  local sent, message, _, err = self:send(call.first)
  self.deadline = nil
  if not sent then return nil, message, err end
  self.first_sent = "late"
  return true
end

-- Failures that are the program's or the deadline's, and no word of the peer's about early data.
local final = { timeout = true, cancelled = true, abandoned = true, forked = true }

--- Whether a handshake with early data that failed is to be tried once more without: some peers, and things on the way,
-- cannot bear it. What the peer showed and was refused for is not among that.
function M.again(call, err)
  return call.offered and err.step ~= "dns" and err.step ~= "tcp" and err.step ~= "verify" and not final[err.code]
end

return M

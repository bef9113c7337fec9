-- RFC 4511 4.14: the StartTLS extended operation, in BER.
local REQUEST = "0\29\2\1\1w\24\128\22" .. "1.3.6.1.4.1.1466.20037"
local LIMIT = 65536

-- A tag and the length of what follows; reads exactly those bytes.
local function header(talk)
  local start = talk:exactly(2)
  if not start then return nil end
  local tag, length = start:byte(1, 2)
  if length >= 128 then
    local bytes = talk:exactly(length - 128 < 1 and 1 or math.min(length - 128, 4))
    if not bytes then return nil end
    length = 0
    for i = 1, #bytes do length = length * 256 + bytes:byte(i) end
  end
  return tag, length
end

-- The tag, the contents and what is behind them; nil when the bytes are no BER of a short form.
local function element(text)
  local tag, length = text:byte(1, 2)
  if not length or length >= 128 or #text < 2 + length then return nil end
  return tag, text:sub(3, 2 + length), text:sub(3 + length)
end

return function(talk)
  talk:say(REQUEST)
  local tag, length = header(talk)
  if not tag then return nil end
  if tag ~= 0x30 or length > LIMIT then return talk:refuse("no LDAP answer") end
  local message = talk:exactly(length)
  if not message then return nil end
  -- messageID, then [APPLICATION 24] with the result code first.
  local kind, id, rest = element(message)
  local answer, inside
  if kind == 0x02 and id == "\1" then answer = rest:byte(1) end
  if answer == 0x78 then
    -- Its own length may be long: the code stands right behind it.
    local size = rest:byte(2) or 0
    inside = rest:sub(size >= 128 and 3 + size - 128 or 3)
  end
  local result, code = element(inside or "")
  if result ~= 0x0a or #code ~= 1 then return talk:refuse("no answer to StartTLS") end
  if code ~= "\0" then return talk:refuse(("result code %d"):format(code:byte())) end
end

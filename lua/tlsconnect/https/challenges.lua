--- WWW-Authenticate and Proxy-Authenticate (RFC 9110 11.6.1): a list of challenges, each a scheme with
-- either one token or parameters.

local find, lower, match, sub = string.find, string.lower, string.match, string.sub

local M = {}

local TOKEN = "^([%w!#$%%&'*+%-.^_`|~]+)()"

-- A quoted string from its opening quote on. Its text and where it ends; nil when it does not end.
local function quoted(text, position)
  local parts = {}
  position = position + 1
  while true do
    local stop = find(text, '[\\"]', position)
    if not stop then return nil end
    parts[#parts + 1] = sub(text, position, stop - 1)
    if sub(text, stop, stop) == '"' then return table.concat(parts), stop + 1 end
    parts[#parts + 1] = sub(text, stop + 1, stop + 1)
    position = stop + 2
  end
end

local function parse(text, list)
  local position = 1
  local challenge
  while #list < 20 do
    position = match(text, "^[ \t,]*()", position)
    local name, after = match(text, TOKEN, position)
    if not name then return end
    local value_at = match(text, "^[ \t]*=[ \t]*()", after)
    if challenge and value_at and not find(text, "^=*[ \t]*,", value_at) and not find(text, "^=*[ \t]*$", value_at) then
      local value
      if sub(text, value_at, value_at) == '"' then
        value, position = quoted(text, value_at)
      else
        value, position = match(text, TOKEN, value_at)
      end
      if not value then return end
      name = lower(name)
      -- A parameter said twice is said by two: the challenge is not to be trusted.
      challenge.broken = challenge.broken or challenge.parameters[name] ~= nil
      challenge.parameters[name] = value
    else
      challenge = { scheme = lower(name), parameters = {} }
      list[#list + 1] = challenge
      position = after
      -- token68: letters and digits that end in "=" or nothing, before a comma or the end
      local token, stop = match(text, "^[ \t]+([%w%-._~+/]+=*)[ \t]*()", after)
      if token and (stop > #text or sub(text, stop, stop) == ",") then
        challenge.token = token
        position = stop
      end
    end
  end
end

--- Parses the values of the header, in order.
-- @return a list of { scheme = in lower case, token =, parameters = { name in lower case = value } }
function M.parse(values)
  local list = {}
  for _, value in ipairs(values) do parse(value, list) end
  local kept = {}
  for _, challenge in ipairs(list) do
    if not challenge.broken then kept[#kept + 1] = challenge end
  end
  return kept
end

return M

--- response.links: what the Link headers say (RFC 8288). A list of { url =, rel =, ... } in order, and the
-- first of each relation under its name: page.links.next.url.

local lower, match, sub = string.lower, string.match, string.sub

local M = {}

local MAX_LINKS = 200

local function parse(text, base, links)
  local url = require "tlsconnect.https.url"
  local position = 1
  while #links < MAX_LINKS do
    local reference, after = match(text, "^[ \t,]*<([^<>]*)>()", position)
    if not reference then return end
    local target = url.resolve(base, reference)
    local link = { url = target and url.text(target) or reference }
    position = after
    while true do
      local name, behind = match(text, "^[ \t]*;[ \t]*([%w!#$&+%-.^_`|~*]*)[ \t]*()", position)
      if not name then break end
      local value
      if sub(text, behind, behind) == "=" then
        value, position = match(text, '^=[ \t]*"([^"]*)"()', behind)
        if not value then value, position = match(text, "^=[ \t]*([^ \t;,\"]*)()", behind) end
        if not position then return end
      else
        position = behind
      end
      name = lower(name)
      if name ~= "" and name ~= "url" and link[name] == nil then link[name] = value or true end
    end
    links[#links + 1] = link
    if type(link.rel) == "string" then
      for relation in lower(link.rel):gmatch("%S+") do
        if links[relation] == nil then links[relation] = link end
      end
    end
  end
end

--- Makes the list for an answer.
function M.links(response)
  local links = {}
  local base = require("tlsconnect.https.url").parse(response.url)
  for _, value in ipairs(response.headers:list "link") do parse(value, base, links) end
  return links
end

return M

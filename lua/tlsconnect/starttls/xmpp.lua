-- RFC 6120 5. Just enough XML: the stream's features up to their end, and one element.
local LIMIT = 16384

local function attribute(host)
  return (host:gsub("[&<>'\"]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ["'"] = "&apos;",
                                  ['"'] = "&quot;" }))
end

return function(talk)
  talk:say("<?xml version='1.0'?><stream:stream to='" .. attribute(talk.host) .. "' version='1.0' " ..
           "xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>")
  -- An empty <stream:features/> ends at once; </stream:stream> ends it all.
  local features = talk:through("</stream:features%s*>$", LIMIT)
  if not features then return nil end
  if not features:find("<starttls[%s/>]") then return talk:refuse() end
  talk:say("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
  local answer = talk:through(">$", LIMIT)
  if not answer then return nil end
  if not answer:match("^%s*<proceed%s[^>]*/>$") then
    return talk:refuse(answer)
  end
end

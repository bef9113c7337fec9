-- RFC 4217.
return function(talk)
  local code, lines = talk:reply()
  -- 120: ready in a moment; the real greeting follows.
  if code == "120" then code, lines = talk:reply() end
  if not code then return nil end
  if code ~= "220" then return talk:refuse(lines[#lines]) end
  talk:say("AUTH TLS\r\n")
  code, lines = talk:reply()
  if code and code ~= "234" then return talk:refuse(lines[#lines]) end
end

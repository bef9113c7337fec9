-- RFC 2595 4.
return function(talk)
  local line = talk:line()
  if not line then return nil end
  if not line:match("^%+OK") then return talk:refuse(line) end
  talk:say("STLS\r\n")
  line = talk:line()
  if line and not line:match("^%+OK") then return talk:refuse(line) end
end

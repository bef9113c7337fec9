-- RFC 3501 6.2.1.
return function(talk)
  local line = talk:line()
  if not line then return nil end
  if not line:match("^%* OK") then return talk:refuse(line) end
  talk:say("a1 STARTTLS\r\n")
  repeat
    line = talk:line()
    if not line then return nil end
    if line:match("^%* BYE") then return talk:refuse(line) end
  until line:match("^a1 ")
  if not line:match("^a1 OK") then return talk:refuse(line) end
end

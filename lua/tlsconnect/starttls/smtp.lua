-- RFC 3207.
return function(talk)
  local code, lines = talk:reply()
  if not code then return nil end
  if code ~= "220" then return talk:refuse(lines[#lines]) end
  talk:say("EHLO [127.0.0.1]\r\n")
  code, lines = talk:reply()
  if not code then return nil end
  if code ~= "250" then return talk:refuse(lines[#lines]) end
  local offered = false
  for i = 2, #lines do
    if lines[i]:upper():match("^STARTTLS%s*$") then offered = true end
  end
  if not offered then return talk:refuse() end
  talk:say("STARTTLS\r\n")
  code, lines = talk:reply()
  if code and code ~= "220" then return talk:refuse(lines[#lines]) end
end

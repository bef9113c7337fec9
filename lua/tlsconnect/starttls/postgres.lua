-- PostgreSQL's frontend/backend protocol: SSLRequest. The answer is one byte, never more (CVE-2021-23222).
return function(talk)
  talk:say("\0\0\0\8\4\210\22\47") -- length 8, code 80877103
  local answer = talk:exactly(1)
  if answer and answer ~= "S" then return talk:refuse(answer == "N" and "" or answer) end
end

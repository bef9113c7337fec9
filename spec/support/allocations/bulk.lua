-- Run by alloc_fail: long reads, and what is written to a file, from one socket to another. What a read could not
-- hand out is there for the next one.
local sockets = require "spec.support.sockets"

local SIZE = 5 * 1024 * 1024 -- enough for a string that is written in place, and for large pages

-- Status 11: a problem (alloc_fail.c).
local function lost(what)
  print(what)
  os.exit(11)
end

return function()
  local core = require "tlsconnect.core"
  local near, far = sockets.pair()
  local data = ("0123456789abcdef"):rep(SIZE / 16)
  local sent = 0

  -- Sends what the socket takes, and calls; each failure is tried again once.
  local function finish(call)
    local failures = 0
    while true do
      if sent < #data then
        local last, _, upto = far:write(data, sent + 1)
        sent = last or type(upto) == "number" and upto or sent
      end
      -- In a coroutine of its own, in which every call needs memory.
      local ok, got, want, cause, extra = pcall(function() return coroutine.wrap(call)() end)
      if not ok then
        got, want, cause, extra = nil, got, "raised", nil
      end
      if got then return got end
      if want == "want_read" then
        if sent == #data then
          local _, why = core.poll(near:getfd(), "r", core.now() + 10)
          if why == "timeout" then lost "bytes that a read took and did not hand out" end
        end
      else
        failures = failures + 1
        if failures > 1 then error(want) end
        if cause ~= "raised" and extra and extra > 0 then return extra end
      end
    end
  end

  if finish(function() return near:read(SIZE) end) ~= data then lost "bytes of a long string" end
  sent = #data - 300000
  local file, left = assert(io.tmpfile()), 300000
  while left > 100000 do left = left - finish(function() return near:pour(file, left - 100000) end) end
  file:seek("set")
  local text = file:read("*a")
  if text ~= data:sub(-300000, -100001) then lost "bytes of a file" end
  if finish(function() return near:read(50000) end) ~= data:sub(-100000, -50001) then lost "bytes of a string" end
  -- A part of what is awaited, given up.
  sent = #data - 2 * 1024 * 1024 - 50000
  pcall(near.read, near, SIZE)
  near:take()
  far:close()
  file:close()
  near:close()
end

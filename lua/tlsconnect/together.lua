-- Several calls at once where only one wait is allowed: each runs as a task of a loop that is itself a task, so
-- that the caller's `wait` sees a single descriptor.
local loops = require "tlsconnect.loop"

local together = {}

--- Runs functions at the same time, until all have ended. Each is called with a `wait` of its own, and
-- stores what it finds where the caller looks for it. wait: the one that is really waited with.
-- True, or nil, message, err when not even a poller can be had.
function together.run(functions, wait)
  if #functions == 0 then return true end
  local loop, message, err = loops.new(wait)
  if not loop then return nil, message, err end
  for _, f in ipairs(functions) do loop:spawn(f, loop.wait) end
  loop:run()
  loop:close()
  return true
end

return together

-- How long specs take that want minutes: whole with SOAK=1 in the environment (make soak), else in short form.
--   for _ = 1, soak(10000, 100) do ... end
local M = {}

M.whole = os.getenv("SOAK") ~= nil

--- Whether sizes of this process mean anything: the sanitizers and valgrind keep what was freed.
M.sizes = not os.getenv("SANITIZE") and not os.getenv("VALGRIND")

--- The memory that this process has, in bytes, after all garbage is gone; nil where that cannot be known.
function M.memory()
  collectgarbage()
  collectgarbage()
  local file = M.sizes and io.open("/proc/self/status")
  if not file then return nil end
  local text = file:read(65536)
  file:close()
  local kilobytes = text:match("VmRSS:%s*(%d+)")
  return kilobytes and tonumber(kilobytes) * 1024
end

return setmetatable(M, { __call = function(_, whole, short) return M.whole and whole or short end })

-- Free loopback ports. They are taken below the range from which the system picks ports for
-- outgoing connections (32768 and up), from blocks that are reserved between processes by
-- making a folder, so that two spec runs side by side never meet.
local process = require "spec.support.process"

local M = {}

local first, block_size, blocks = 20000, 20, 600

--- Whether something listens on a TCP port, by the kernel's own table.
function M.listening(port)
  local pattern = ":" .. string.format("%04X", port) .. " %x+:%x+ 0A "
  for _, path in ipairs { "/proc/net/tcp", "/proc/net/tcp6" } do
    local file = io.open(path)
    if file then
      local text = file:read("*a")
      file:close()
      if text:find(pattern) then return true end
    end
  end
  return false
end

local function reserve(number)
  local parent = (os.getenv("TMPDIR") or "/tmp") .. "/tlsconnect-spec-ports"
  local path = parent .. "/" .. number
  local owner = process.output("mkdir -m 777 " .. process.quote(parent) .. " 2>/dev/null; mkdir " ..
    process.quote(path) .. " 2>/dev/null && echo " .. process.id() .. " >" .. process.quote(path .. "/owner") ..
    "; cat " .. process.quote(path .. "/owner") .. " 2>/dev/null")
  if tonumber(owner) == process.id() then
    process.remove_at_end(path)
    return true
  end
  if tonumber(owner) and not process.alive(tonumber(owner)) then
    -- Its owner was killed together with its keeper.
    os.execute("rm -rf " .. process.quote(path))
  end
  return false
end

local block, used
--- A port of 127.0.0.1 and ::1 on which nothing listens.
function M.free()
  for try = 0, blocks * block_size do
    if not block or used == block_size then
      block, used = (process.id() * 7 + try) % blocks, 0
      if not reserve(block) then block = nil end
    end
    if block then
      local port = first + block * block_size + used
      used = used + 1
      if not M.listening(port) then return port end
    end
  end
  error("no free port found")
end

return M

-- What went over loopback, as tshark dissects it.
--   local capture = capture.start(port)        -- needs the right to capture (root)
--   ... one connection ...
--   capture:stop()
--   capture:rows("tls.handshake.type == 1", { "tls.handshake.random" }, { keylog = path })
local process = require "spec.support.process"
local run = require "spec.support.run"
local tmp = require "spec.support.tmp"

local M = {}

local Capture = {}
Capture.__index = Capture

--- Starts to capture what goes to and from a TCP port of loopback; ready when the call returns.
function M.start(port)
  local self = setmetatable({ port = port, file = tmp.path("capture.pcapng"), log = tmp.file("", "capture.log") },
    Capture)
  self.pid = process.start({ "dumpcap", "-q", "-i", "lo", "-f", "tcp port " .. port, "-w", self.file },
    { log = self.log })
  local ready = process.eventually(function()
    local file = io.open(self.file, "rb")
    if file then
      local size = file:seek("end")
      file:close()
      return size > 0
    end
    return not process.alive(self.pid) and "ended"
  end)
  if ready ~= true then error("dumpcap does not capture:\n" .. tmp.read(self.log), 2) end
  return self
end

-- How many ends of streams (FIN, RST) the capture holds so far. A pcapng file is a list of blocks; a packet
-- of loopback has an Ethernet header before its IPv4 and TCP headers.
local function ends(data)
  local count, at = 0, 1
  local function u32(position)
    local a, b, c, d = data:byte(position, position + 3)
    return d and a + b * 256 + c * 65536 + d * 16777216
  end
  while true do
    local kind, size = u32(at), u32(at + 4)
    if not size or size < 12 or #data < at + size - 1 then return count end
    if kind == 6 then
      local ip = at + 28 + 14
      local flags = data:byte(ip + data:byte(ip) % 16 * 4 + 13)
      -- FIN is bit 0, RST bit 2.
      if flags % 2 == 1 or flags % 8 >= 4 then count = count + 1 end
    end
    at = at + size
  end
end

--- Ends the capture once both ends of `count` connections (1) are closed in it.
function Capture:stop(count)
  local closed = process.eventually(function() return ends(tmp.read(self.file)) >= 2 * (count or 1) end)
  process.stop(self.pid)
  if not closed then error("the capture shows no end of the connection", 2) end
end

--- The values of fields in each packet that a display filter lets through: a list of rows, each a table from the
-- field's name to a list of its values. options: keylog = path.
function Capture:rows(filter, fields, options)
  local words = { "tshark", "-r", self.file, "-Y", filter, "-d", "tcp.port==" .. self.port .. ",tls", "-T", "fields",
    "-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=;" }
  if options and options.keylog then
    words[#words + 1] = "-o"
    words[#words + 1] = "tls.keylog_file:" .. options.keylog
  end
  for _, field in ipairs(fields) do
    words[#words + 1] = "-e"
    words[#words + 1] = field
  end
  local rows = {}
  for line in run.check(words):gmatch("([^\n]*)\n") do
    local row, i = {}, 0
    for value in (line .. "\t"):gmatch("([^\t]*)\t") do
      i = i + 1
      local list = {}
      for item in value:gmatch("[^;]+") do list[#list + 1] = item end
      row[fields[i]] = list
    end
    rows[#rows + 1] = row
  end
  return rows
end

return M

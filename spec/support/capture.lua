-- What went over loopback, as tshark dissects it.
--   local capture = capture.start { port, ... }        -- needs the right to capture (root)
--   ... connections ...
--   capture:stop(number of connections)
--   capture:rows("tls.handshake.type == 1", { "tls.handshake.random" }, { keylog = path })
local process = require "spec.support.process"
local run = require "spec.support.run"
local tmp = require "spec.support.tmp"

local M = {}

local Capture = {}
Capture.__index = Capture

--- Starts to capture what goes to and from TCP ports of loopback; ready when the call returns.
function M.start(ports)
  local self = setmetatable({ ports = ports, file = tmp.path("capture.pcapng"), log = tmp.file("", "capture.log") },
    Capture)
  self.pid = process.start({ "dumpcap", "-q", "-i", "lo", "-f", "tcp port " .. table.concat(ports, " or tcp port "),
    "-w", self.file }, { log = self.log })
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

-- How many connections the capture holds to their end: both streams' (FIN), or a reset (RST). A pcapng file is a
-- list of blocks; a packet of loopback has an Ethernet header before its IPv4 and TCP headers.
local function ended(data)
  local ends, count, at = {}, 0, 1
  local function u32(position)
    local a, b, c, d = data:byte(position, position + 3)
    return d and a + b * 256 + c * 65536 + d * 16777216
  end
  while true do
    local kind, size = u32(at), u32(at + 4)
    if not size or size < 12 or #data < at + size - 1 then return count end
    if kind == 6 then
      local ip = at + 28 + 14
      local tcp = ip + data:byte(ip) % 16 * 4
      local flags = data:byte(tcp + 13)
      local fin, reset = flags % 2 == 1, flags % 8 >= 4 -- bits 0 and 2
      if fin or reset then
        local from, to = data:sub(tcp, tcp + 1), data:sub(tcp + 2, tcp + 3)
        local key = from < to and from .. to or to .. from
        local before = ends[key] or 0
        ends[key] = before + (reset and 2 or 1)
        if before < 2 and ends[key] >= 2 then count = count + 1 end
      end
    end
    at = at + size
  end
end

--- Ends the capture once `count` connections are closed in it, at both ends.
function Capture:stop(count)
  local closed = process.eventually(function() return ended(tmp.read(self.file)) >= count end)
  process.stop(self.pid)
  if not closed then
    error(("the capture shows the ends of %d connections, not of %d:\n%s"):format(ended(tmp.read(self.file)), count,
      tmp.read(self.log)), 2)
  end
end

--- The values of fields in each packet that a display filter lets through: a list of rows, each a table from the
-- field's name to a list of its values. options: keylog = path.
function Capture:rows(filter, fields, options)
  local words = { "tshark", "-r", self.file, "-Y", filter, "-T", "fields",
    "-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=;" }
  for _, port in ipairs(self.ports) do
    words[#words + 1] = "-d"
    words[#words + 1] = "tcp.port==" .. port .. ",tls"
  end
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

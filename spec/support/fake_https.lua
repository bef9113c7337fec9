-- https over a scripted network, fresh for each call of serve():
--
--   local network = require "spec.support.fake_https".new()
--   local https, opened = network:serve { "HTTP/1.1 200 OK\r\n...", { first, second, at_end = "closed" } }
--   network:restore()

local fakes = require "spec.support.fake_connection"

local M = {}
local Network = {}
Network.__index = Network

function M.new() return setmetatable({}, Network) end

--- Puts the script in place. Replies as in fake_connection.serve(). Returns https with an empty pool, and
-- the list of the connections that it opens.
function Network:serve(replies)
  self:restore()
  package.loaded["tlsconnect.https"] = nil
  local https = require "tlsconnect.https"
  local opened
  opened, self.undo = fakes.serve(replies)
  return https, opened
end

function Network:restore()
  if self.undo then self.undo() end
  self.undo = nil
end

M.ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

function M.redirect(status, location)
  return ("HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n"):format(status, location)
end

--- The heads of the requests on a connection, as sent.
function M.heads(connection)
  local heads = {}
  for head in connection:written():gmatch("%u+ %S+ HTTP/1%.1\r\n.-\r\n\r\n") do heads[#heads + 1] = head end
  return heads
end

return M

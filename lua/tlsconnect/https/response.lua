--- An answer: status, reason, headers, body, url, history, timings. What needs more code than a plain
-- answer does stands in files of its own, loaded when it is first called.

local errors = require "tlsconnect.error"

local M = {}

-- Method to the file that has it.
local homes = { read = "streaming", lines = "streaming", chunks = "streaming", close = "streaming",
  json = "json", save = "download", text = "charset",
  event = "events", events = "events" }

local methods = {}

--- The answer itself when its status is below 400; else raises an error (a table: code "status", and the
-- answer as err.response).
function methods:raise_for_status()
  if self.status < 400 then return self end
  local host = self.url:match("^%a+://([^/?#]*)")
  error(errors.new { step = "http", code = "status", status = self.status, response = self,
    message = ("%s answered %d%s"):format(host, self.status,
      self.reason ~= "" and " " .. errors.escape(self.reason, 100) or "") }, 0)
end

local metatable = {}

function metatable.__index(response, name)
  local home = homes[name]
  if home then return require("tlsconnect.https." .. home)[name] end
  if name == "links" then
    local links = require("tlsconnect.https.links").links(response)
    rawset(response, "links", links)
    return links
  end
  if name == "cookies" then
    local found = require("tlsconnect.https.set_cookie").of(response)
    rawset(response, "cookies", found)
    return found
  end
  return methods[name]
end

function metatable.__tostring(response)
  return ("%d %s (%s)"):format(response.status, response.reason, response.url)
end

--- Makes an answer of what http1.read_head() gave: status, reason, version and headers are in it.
function M.new(answer, url, history)
  answer.url, answer.history = url, history
  return setmetatable(answer, metatable)
end

return M

--- An answer: status, reason, headers, body, url, history, timings. What needs more code than a plain
-- answer does stands in files of its own, loaded when it is first called.

local M = {}

-- Method to the file that has it.
local homes = { read = "streaming", lines = "streaming", chunks = "streaming", close = "streaming",
  json = "json", save = "download" }

local metatable = {}

function metatable.__index(_, name)
  local home = homes[name]
  return home and require("tlsconnect.https." .. home)[name] or nil
end

function metatable.__tostring(response)
  return ("%d %s (%s)"):format(response.status, response.reason, response.url)
end

--- Makes an answer of what http1.read_head() gave.
function M.new(answer, url, history)
  return setmetatable({
    status = answer.status, reason = answer.reason, version = answer.version, headers = answer.headers,
    url = url, history = history,
  }, metatable)
end

return M

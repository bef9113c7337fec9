-- Temporary files and folders, removed when the process ends.
local process = require "spec.support.process"

local M = {}

--- A new, empty folder.
function M.directory()
  local path = process.output("mktemp -d \"${TMPDIR:-/tmp}/tlsconnect-spec.XXXXXX\"")
  assert(path ~= "", "mktemp failed")
  process.remove_at_end(path)
  return path
end

local own, count
--- The path of a file that does not exist yet, in a folder of this process.
function M.path(name)
  own, count = own or M.directory(), (count or 0) + 1
  return own .. "/" .. count .. "-" .. (name or "file")
end

--- Writes a file, and returns its path.
function M.write(path, data)
  local file = assert(io.open(path, "wb"))
  assert(file:write(data))
  assert(file:close())
  return path
end

--- A new file with that content; returns its path.
function M.file(data, name)
  return M.write(M.path(name), data)
end

--- The whole content of a file.
function M.read(path)
  local file = assert(io.open(path, "rb"))
  local data = file:read("*a")
  file:close()
  return data
end

return M

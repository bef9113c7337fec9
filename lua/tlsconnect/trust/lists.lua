-- Revocation lists that a program keeps in a file (the option `crl_file`): PEM, several one after the other, or DER.
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"

local M = {}

local LIMIT = 64 * 1024 * 1024
-- How long what was read stands, in seconds; and how many files are remembered.
local STANDS, FILES = 60, 16

local known, count = {}, 0

local function fail(path, code, text)
  return errors.fail(errors.new { step = "setup", code = code,
    message = ("%s (option 'crl_file') %s"):format(errors.escape(path, 200), text) })
end

local function read(path)
  local file, reason = io.open(path, "rb")
  if not file then return fail(path, "unreadable_file", "cannot be read: " .. reason:gsub("^.*: ", "")) end
  local text, why = file:read(LIMIT)
  file:close()
  if not text then return fail(path, "unreadable_file", "cannot be read: " .. (why or "it is empty")) end
  if #text == LIMIT then return fail(path, "too_large", "is too large") end
  local lists = core.pem_decode(text, "X509 CRL")
  if not lists or not lists[1] then return fail(path, "bad_pem", "holds no revocation list") end
  return lists
end

--- The lists in a file, DER; read again after a minute. nil, message, err when there is none that can be read.
function M.read(path)
  local entry = known[path]
  if entry and core.now() < entry.till then return entry.lists end
  local lists, message, err = read(path)
  if not lists then return nil, message, err end
  if count >= FILES then known, count = {}, 0 end
  if not known[path] then count = count + 1 end
  known[path] = { lists = lists, till = core.now() + STANDS }
  return lists
end

return M

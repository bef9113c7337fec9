--- Names and passwords in a .netrc file: auth = { netrc = true } or { netrc = "path" }. Without a path it is the
-- file that NETRC names, else ~/.netrc. Only the host that the program asked for is looked up, never one that
-- a redirect leads to.

local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"

local find, lower, match, sub = string.find, string.lower, string.match, string.sub

local M = {}

local LIMIT = 1024 * 1024

-- The words of the text: plain ones, or in double quotes with backslashes. "#" begins a comment where a word
-- could begin a line.
local function words_of(text)
  local words, position = {}, 1
  while true do
    local start = find(text, "[^ \t\r\n]", position)
    if not start then return words end
    local first = sub(text, start, start)
    if first == "#" and (position == 1 or sub(text, position, start - 1):find("\n", 1, true)) then
      position = find(text, "\n", start, true) or #text + 1
    elseif first == '"' then
      local pieces, at = {}, start + 1
      while true do
        local stop = find(text, '[\\"]', at)
        if not stop then return nil end
        pieces[#pieces + 1] = sub(text, at, stop - 1)
        at = stop + 1
        if sub(text, stop, stop) == '"' then break end
        pieces[#pieces + 1] = sub(text, at, at)
        at = at + 1
      end
      words[#words + 1] = table.concat(pieces)
      position = at
    else
      local word, after = match(text, "^([^ \t\r\n]+)()", start)
      words[#words + 1] = word
      position = after
      if word == "macdef" then
        -- A macro runs to the first empty line.
        words[#words] = nil
        local stop = find(text, "\n[ \t\r]*\n", position)
        position = stop and stop + 1 or #text + 1
      end
    end
  end
end

--- The entry of a host in a netrc text: { login, password }; nil when there is none; nil, problem when the
-- text cannot be read. The first entry of that name counts, "default" after all others.
function M.find(text, host)
  local words = words_of(text)
  if not words then return nil, "a quote without an end" end
  local found, default, entry
  local i = 1
  while words[i] do
    local word = words[i]
    local value = words[i + 1]
    if word == "machine" and value then
      entry = {}
      if not found and lower(value) == host then found = entry end
      i = i + 2
    elseif word == "default" then
      entry = {}
      default = default or entry
      i = i + 1
    elseif (word == "login" or word == "password" or word == "account") and value then
      if not entry then return nil, "a login before any machine" end
      entry[word] = value
      i = i + 2
    else
      return nil, "a word that netrc does not have: " .. errors.escape(word, 20)
    end
  end
  found = found or default
  if not found or not found.login then return nil end
  return { found.login, found.password or "" }
end

--- Looks a host up. where: a path, or true for the usual one.
-- @return { user, password }; nil when there is no entry; nil, message, err
function M.lookup(where, host)
  local home = os.getenv "HOME"
  local path = where ~= true and where or os.getenv "NETRC" or home and home .. "/.netrc"
  if not path then return nil end
  local file, reason, number = io.open(path, "rb")
  local text
  if file then
    text, reason = file:read(LIMIT)
    file:close()
    if not text and not reason then return nil end -- empty
  elseif where == true and not os.getenv "NETRC" then
    return nil
  end
  local found
  if text then
    found, reason = M.find(text, host)
    if found or not reason then return found end
  else
    reason = number and core.strerror(number) or reason
  end
  return errors.fail(errors.new { step = "setup", code = "unreadable_file",
    message = ("%s (option 'auth.netrc') cannot be read: %s"):format(errors.escape(path, 200), reason) })
end

return M

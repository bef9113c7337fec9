--- What a request carries when it is not plain bytes: a form, JSON, or parts.

local M = {}

local function form(given)
  return require("tlsconnect.https.query").encode(given, "form"), "application/x-www-form-urlencoded"
end

local function json(given, codec)
  local text, message, err = require("tlsconnect.https.json").encode(given, codec)
  if not text then return nil, message, err end
  return text, "application/json"
end

local function multipart(given)
  return require("tlsconnect.https.multipart").encode(given)
end

--- The body that the options ask for.
-- @param given the options
-- @return the body and its type, or nil, message, err; nothing when they ask for none
function M.encode(given)
  local count = 0
  for _, name in ipairs { "body", "form", "json", "multipart" } do
    if given[name] ~= nil then count = count + 1 end
  end
  if count > 1 then error("bad options (only one of body, form, json and multipart can be sent)", 0) end
  if given.form then return form(given.form) end
  if given.json ~= nil then return json(given.json, given.json_codec) end
  if given.multipart then return multipart(given.multipart) end
end

return M

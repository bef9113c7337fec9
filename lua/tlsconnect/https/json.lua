--- JSON by whatever encoder the program has: the option `json_codec` = { encode =, decode = }, or the first
-- of these modules that is installed.

local errors = require "tlsconnect.error"

local M = {}

local modules = { "cjson", "dkjson", "lunajson", "rapidjson", "json" }

local found

local function find_codec()
  if found then return found end
  for _, name in ipairs(modules) do
    local ok, module = pcall(require, name)
    if ok and type(module) == "table" and module.encode and module.decode then
      found = module
      return found
    end
  end
  return nil
end

local function run(f, value, doing)
  -- Some raise, some return nil and why, some (dkjson) nil, a position and why.
  local ok, result, first, second = pcall(f, value)
  if ok and result ~= nil then return true, result end
  local reason = not ok and result or type(second) == "string" and second or first
  if ok and reason == nil then return true, nil end
  return errors.fail(errors.new { step = "http", code = "bad_json",
    message = doing .. ": " .. errors.escape(tostring(reason), 200) })
end

local function codec_or_error(codec)
  codec = codec or find_codec()
  if codec then return codec end
  return errors.fail(errors.new { step = "setup", code = "unsupported",
    message = "no JSON module was found (cjson, dkjson, lunajson); the option 'json_codec' can name one" })
end

--- A value as JSON text; nil, message, err.
function M.encode(value, codec)
  local message, err
  codec, message, err = codec_or_error(codec)
  if not codec then return nil, message, err end
  local ok, text
  ok, text, err = run(codec.encode, value, "the value cannot be made JSON")
  if not ok then return nil, text, err end
  return text
end

--- The value of a JSON text; nil, message, err. Text that is JSON's null gives what the decoder gives.
function M.decode(text, codec)
  local message, err
  codec, message, err = codec_or_error(codec)
  if not codec then return nil, message, err end
  local ok, value
  ok, value, err = run(codec.decode, text, "the answer is no JSON")
  if not ok then return nil, value, err end
  return value
end

--- response:json(): the body as a value; nil, message, err when it is no JSON.
function M.json(response)
  local body = response.body
  if not body then
    local message, err
    body, message, err = response:read "a"
    if not body then return nil, message, err end
  end
  -- RFC 8259 8.1: no byte order mark is written, but one may be overlooked
  if body:sub(1, 3) == "\239\187\191" then body = body:sub(4) end
  return M.decode(body, response.json_codec)
end

return M

-- Third-party test data that stands beside the project: the folder that CORPORA names, or
-- ../shared/corpora. Specs of it say "skipped: no corpora" where it is absent.

local M = {}

local folder = os.getenv("CORPORA") or "../shared/corpora"

--- The text of a file of the corpora, or nil.
function M.read(name)
  local file = io.open(folder .. "/" .. name, "rb")
  if not file then return nil end
  local text = file:read("*a")
  file:close()
  return text
end

--- A JSON file of the corpora as a table, or nil.
function M.json(name)
  local text = M.read(name)
  return text and assert(require("dkjson").decode(text))
end

local digits = {}
for i = 0, 63 do
  digits[("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"):byte(i + 1)] = i
end

--- Decodes base64.
function M.base64(text)
  return (text:gsub("%s", ""):gsub("(..)(..)", function(first, second)
    local a, b = first:byte(1, 2)
    local c, d = second:byte(1, 2)
    local bits = digits[a] * 262144 + digits[b] * 4096 + (digits[c] or 0) * 64 + (digits[d] or 0)
    local bytes = string.char(math.floor(bits / 65536), math.floor(bits / 256) % 256, bits % 256)
    return bytes:sub(1, second == "==" and 1 or d == 61 and 2 or 3)
  end))
end

return M

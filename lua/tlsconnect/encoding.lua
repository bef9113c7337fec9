-- Base64, hashes in hexadecimal and random text, for the layers above the core.
local core = require "tlsconnect.core"

local encoding = {}

--- Bytes as base64 (RFC 4648 4), on one line.
encoding.base64 = core.base64

--- Bytes as hexadecimal digits, in lower case.
function encoding.hex(bytes)
  return (bytes:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end

--- The hash of a text in hexadecimal. name: "MD5", "SHA-1", "SHA-256" or "SHA-512". A string, or nil, message, cause
-- where the system's policy does not allow that hash.
function encoding.hash(name, text)
  local digest, message, cause = core.message_digest(name, text)
  if not digest then return nil, message, cause end
  return encoding.hex(digest)
end

--- A text of 2n hexadecimal digits that nobody can guess.
function encoding.random(n)
  return encoding.hex(core.random(n))
end

return encoding

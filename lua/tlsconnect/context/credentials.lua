-- A context's certificates and keys: what its options give, as files, text and objects.
local core = require "tlsconnect.core"
local errors = require "tlsconnect.error"

local M = {}

-- No credential file is longer.
local FILE_LIMIT = 16 * 1024 * 1024

local function setup(code, message)
  return errors.fail(errors.new { step = "setup", code = code, message = message })
end

-- A cause of the core, told about an option: "the key in site.key: ...".
local function from(cause, what)
  local err = { step = "setup", message = what .. ": " .. cause.message }
  for name, value in pairs(cause) do
    if name ~= "message" then err[name] = value end
  end
  return errors.fail(errors.new(err))
end

local function is_pem(text)
  return text:find("-----BEGIN", 1, true) ~= nil
end

-- The bytes that an option gives: PEM text itself, or what the file of that name holds, and how to
-- call it in a message.
local function bytes_of(value, option)
  if is_pem(value) then return value, "option '" .. option .. "'" end
  local file, reason, number = io.open(value, "rb")
  local text
  if file then
    text, reason, number = file:read(FILE_LIMIT)
    -- An empty file reads as nil without a reason.
    if not text and not reason then text = "" end
    file:close()
  end
  local shown = errors.escape(value, 200)
  if not text then
    reason = number and core.strerror(number) or reason
    return setup("unreadable_file", ("%s (option '%s') cannot be read: %s"):format(shown, option, reason))
  end
  return text, shown
end

-- A list of certificates from an option: a path, PEM text, a certificate, or a list of certificates.
local function certificates_of(value, option)
  if type(value) == "userdata" then return { value } end
  if type(value) == "table" then return value end
  local text, shown, err = bytes_of(value, option)
  if not text then return nil, shown, err end
  local list, _, cause = core.certificates(text)
  if not list then return from(cause, shown) end
  if #list == 0 then return setup("bad_pem", shown .. " holds no certificate") end
  return list, text
end

-- The key from an option: a path, PEM text or a key. The password, a string or a function that
-- returns one, is asked for only when the key wants it.
local function key_of(value, option, password)
  if type(value) == "userdata" then return value end
  local text, shown, err = bytes_of(value, option)
  if not text then return nil, shown, err end
  local secret = type(password) == "string" and password or nil
  local key, _, cause = core.key(text, secret)
  if not key and cause.code == "password_required" and type(password) == "function" then
    secret = password(shown)
    if secret ~= nil and type(secret) ~= "string" then
      error("bad option 'password' (the function returned a " .. type(secret) .. ", a string expected)", 0)
    elseif secret and secret:find("\0", 1, true) then
      error("bad option 'password' (the function returned a string with a NUL byte in it)", 0)
    end
    if secret then key, _, cause = core.key(text, secret) end
  end
  if not key then return from(cause, "the key of " .. shown) end
  return key
end

-- The OCSP response from an option: its DER, or what the file of that name holds.
local function staple_of(value, option)
  if value:find("^0[\128-\255]") then return value, "option '" .. option .. "'" end
  if value:find("\0", 1, true) then
    error(("bad option '%s' (neither a path nor an OCSP response in DER)"):format(option), 0)
  end
  return bytes_of(value, option)
end

--- Adds one certificate and its key to a context. given: certificate, key, password, staple; prefix: what stands before
-- their names in messages. True, or nil, message, err.
function M.add(self, given, prefix)
  local list, text, err = certificates_of(given.certificate, prefix .. "certificate")
  if not list then return nil, text, err end
  local source, option = given.key, prefix .. "key"
  if source == nil then
    if type(text) ~= "string" then
      return setup("no_credentials",
        ("option '%scertificate' needs a '%skey' beside it"):format(prefix, prefix))
    end
    source, option = given.certificate, prefix .. "certificate" -- both in one file
  end
  local key, message
  key, message, err = key_of(source, option, given.password)
  if not key and given.key == nil and err.code == "bad_pem" then
    return setup("no_credentials", ("option '%skey' is missing, and beside the certificate there is none")
      :format(prefix))
  end
  if not key then return nil, message, err end
  local staple, shown
  if given.staple then
    staple, shown, err = staple_of(given.staple, prefix .. "staple")
    if not staple then return nil, shown, err end
  end
  local ok, _, cause = self.core:certificate(list, key, staple)
  if not ok then
    if staple and cause.code == "bad_der" then return from(cause, "the OCSP response of " .. shown) end
    if cause.code == "key_mismatch" then
      return setup("key_mismatch",
        ("the key (option '%skey') does not belong to the certificate"):format(prefix))
    end
    return from(cause, "option '" .. prefix .. "certificate'")
  end
  self.fingerprints = self.fingerprints or {}
  table.insert(self.fingerprints, list[1]:fingerprint())
  return true
end

return M

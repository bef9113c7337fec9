--- One Set-Cookie header, read as RFC 6265bis 5.6 reads it: what a server writes oddly is read in the one way
-- that browsers do, or not at all.

local byte, find, gmatch, lower, match, sub =
  string.byte, string.find, string.gmatch, string.lower, string.match, string.sub

local M = {}

local MAX_PAIR, MAX_ATTRIBUTE = 4096, 1024
local LONGEST = 400 * 86400 -- 5.6.1, 5.6.2: no cookie lives longer

-- Takes the blanks round a value off. In steps of one: "%s+$" is quadratic.
local function trim(value)
  local from, to = 1, #value
  while from <= to do
    local c = byte(value, from)
    if c ~= 32 and c ~= 9 then break end
    from = from + 1
  end
  while to >= from do
    local c = byte(value, to)
    if c ~= 32 and c ~= 9 then break end
    to = to - 1
  end
  return sub(value, from, to)
end

local months = { jan = 1, feb = 2, mar = 3, apr = 4, may = 5, jun = 6, jul = 7, aug = 8, sep = 9, oct = 10, nov = 11,
  dec = 12 }

-- Seconds since 1970 of a time in UTC.
local function epoch(year, month, day, hour, minute, second)
  if month <= 2 then year, month = year - 1, month + 12 end
  local days = 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
    + math.floor((153 * (month - 3) + 2) / 5) + day - 719469
  return ((days * 24 + hour) * 60 + minute) * 60 + second
end

local month_days = { 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }

--- RFC 6265bis 5.1.1: a date in any of the forms that have ever been sent. Seconds since 1970, or nil.
function M.date(text)
  local hour, minute, second, day, month, year
  for token in gmatch(text, "[^\9\32-\47\59-\64\91-\96\123-\126]+") do
    local h, m, s = match(token, "^(%d%d?):(%d%d?):(%d%d?)%f[^%d]")
    local number = match(token, "^%d+")
    if h and not hour then
      hour, minute, second = tonumber(h), tonumber(m), tonumber(s)
    elseif number and #number <= 2 and not day then
      day = tonumber(number)
    elseif months[lower(sub(token, 1, 3))] and not month then
      month = months[lower(sub(token, 1, 3))]
    elseif number and #number <= 4 and #number >= 2 and not year then
      year = tonumber(number)
    end
  end
  if not (hour and day and month and year) then return nil end
  if year >= 70 and year <= 99 then year = year + 1900 elseif year <= 69 then year = year + 2000 end
  if day < 1 or day > month_days[month] or year < 1601 or hour > 23 or minute > 59 or second > 59 then return nil end
  if month == 2 and day == 29 and (year % 4 ~= 0 or year % 100 == 0 and year % 400 ~= 0) then return nil end
  return epoch(year, month, day, hour, minute, second)
end

local attributes = {}

function attributes.expires(cookie, value, now)
  local time = M.date(value)
  if time then cookie.expires = math.min(time, now + LONGEST) end
end

attributes["max-age"] = function(cookie, value, now)
  local sign, digits = match(value, "^(%-?)(%d+)$")
  if not digits then return end
  digits = match(digits, "^0*(%d*)$")
  local seconds = sign == "-" and 0 or #digits > 9 and LONGEST or math.min(tonumber(digits) or 0, LONGEST)
  cookie.lasts = seconds <= 0 and 0 or now + seconds
end

function attributes.domain(cookie, value)
  if value ~= "" then cookie.domain = lower(sub(value, 1, 1) == "." and sub(value, 2) or value) end
end

function attributes.path(cookie, value)
  cookie.path = sub(value, 1, 1) == "/" and value or nil
end

function attributes.secure(cookie) cookie.secure = true end
function attributes.httponly(cookie) cookie.http_only = true end

function attributes.samesite(cookie, value)
  value = lower(value)
  cookie.same_site = (value == "none" or value == "strict" or value == "lax") and value or nil
end

--- Reads a Set-Cookie header.
-- @param now seconds since 1970
-- @return { name, value, expires (seconds since 1970, 0 for "gone"; nil: with the session), domain, path,
--   secure, http_only, same_site }, as the header has them; or nil for what is ignored
function M.parse(text, now)
  -- O4: what could be read as two lines, or as the end of one
  if find(text, "[%z\1-\8\10-\31\127]") then return nil end
  local pair, rest = match(text, "^([^;]*)(.*)$")
  local name, value = match(pair, "^([^=]*)=(.*)$")
  if not name then name, value = "", pair end
  name, value = trim(name), trim(value)
  -- A tab inside is allowed there, and is the end of a field in a cookie file.
  if #name + #value > MAX_PAIR or name == "" and value == "" or find(name .. value, "\t", 1, true) then return nil end
  local cookie = { name = name, value = value }
  for attribute in gmatch(rest, ";([^;]*)") do
    local key, argument = match(attribute, "^([^=]*)=?(.*)$")
    argument = trim(argument)
    local set = attributes[lower(trim(key))]
    if set and #argument <= MAX_ATTRIBUTE then set(cookie, argument, now) end
  end
  if cookie.lasts then cookie.expires, cookie.lasts = cookie.lasts, nil end -- 5.7: Max-Age before Expires
  return cookie
end

--- What an answer's Set-Cookie headers say, by name: { name = value }; what they take away is left out.
function M.of(response)
  local found, now = {}, os.time()
  for _, text in ipairs(response.headers:list "set-cookie") do
    local cookie = M.parse(text, now)
    if cookie then
      found[cookie.name] = not (cookie.expires and cookie.expires <= now) and cookie.value or nil
    end
  end
  return found
end

return M

-- Lua-cURL: one handle, kept for all requests (or told to connect anew, with its session cache).
local measure = require "spec.bench.clients.measure"
local curl = require "curl"
local socket = require "socket"

local workloads = {}

local function handle(terms, path)
  local easy = curl.easy_init()
  easy:setopt(curl.OPT_URL, terms.url .. path)
  easy:setopt(curl.OPT_CAINFO, terms.ca_file)
  easy:setopt(curl.OPT_SSL_VERIFYPEER, 1)
  easy:setopt(curl.OPT_SSL_VERIFYHOST, 2)
  easy:setopt(curl.OPT_BUFFERSIZE, 512 * 1024)
  return easy
end

local function fetch(easy)
  local pieces, n = {}, 0
  easy:setopt(curl.OPT_WRITEFUNCTION, function(data)
    n = n + 1
    pieces[n] = data
    return #data
  end)
  assert(easy:perform())
  return table.concat(pieces)
end

function workloads.get(terms)
  local easy = handle(terms, "/1k")
  return function() assert(#fetch(easy) == 1024) end
end

function workloads.resumed(terms)
  local easy = handle(terms, "/1k")
  easy:setopt(curl.OPT_FORBID_REUSE, 1)
  return function() assert(#fetch(easy) == 1024) end
end

function workloads.bulk(terms)
  local easy = handle(terms, "/big")
  return function() return #fetch(easy) end
end

function workloads.file(terms)
  local easy = handle(terms, "/big")
  return function()
    local file, size = measure.file(), 0
    easy:setopt(curl.OPT_WRITEFUNCTION, function(data)
      size = size + #data
      assert(file:write(data))
      return #data
    end)
    assert(easy:perform())
    file:close()
    return size
  end
end

function workloads.upload(terms)
  local easy, body = handle(terms, "/up"), ("x"):rep(measure.upload_size)
  easy:setopt(curl.OPT_POST, 1)
  easy:setopt(curl.OPT_POSTFIELDSIZE, #body)
  easy:setopt(curl.OPT_POSTFIELDS, body)
  return function()
    fetch(easy)
    return #body
  end
end

measure.run(workloads, socket.gettime)

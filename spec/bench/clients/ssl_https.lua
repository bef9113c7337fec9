-- LuaSec's ssl.https, told to verify: the bundle is read for each request, and nothing is kept alive.
local measure = require "spec.bench.clients.measure"
local https = require "ssl.https"
local ltn12 = require "ltn12"
local socket = require "socket"

https.TIMEOUT = 60

local workloads = {}

local function request(terms, path, sink, body)
  local ok, status = https.request { url = terms.url .. path, sink = sink, verify = "peer", cafile = terms.ca_file,
    options = { "all", "no_tlsv1", "no_tlsv1_1" }, method = body and "POST" or "GET",
    source = body and ltn12.source.string(body), headers = body and { ["content-length"] = #body } }
  assert(ok and status == 200, status)
end

function workloads.get(terms)
  return function()
    local pieces = {}
    request(terms, "/1k", (ltn12.sink.table(pieces)))
    assert(#table.concat(pieces) == 1024)
  end
end
workloads.resumed = workloads.get

function workloads.bulk(terms)
  return function()
    local pieces = {}
    request(terms, "/big", (ltn12.sink.table(pieces)))
    return #table.concat(pieces)
  end
end

function workloads.file(terms)
  return function()
    local file, size = measure.file(), 0
    request(terms, "/big", function(data)
      if data then
        size = size + #data
        assert(file:write(data))
      end
      return 1
    end)
    file:close()
    return size
  end
end

function workloads.upload(terms)
  local body = ("x"):rep(measure.upload_size)
  return function()
    request(terms, "/up", ltn12.sink.null(), body)
    return #body
  end
end

function workloads.flights(terms)
  return function()
    local start = socket.gettime()
    request(terms, "/1k", ltn12.sink.null())
    io.write(("new=%.4f "):format(socket.gettime() - start))
    return 1
  end
end

measure.run(workloads, socket.gettime, { flights = true })

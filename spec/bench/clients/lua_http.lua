-- lua-http, on cqueues and luaossl: one context, one kept connection.
local measure = require "spec.bench.clients.measure"
local cqueues = require "cqueues"
local http_client = require "http.client"
local http_tls = require "http.tls"
local new_headers = require "http.headers".new
local openssl_context = require "openssl.ssl.context"
local store = require "openssl.x509.store"

local workloads = {}

local function context_of(terms)
  local context = http_tls.new_client_context()
  context:setVerify(openssl_context.VERIFY_PEER)
  local trusted = store.new()
  trusted:add(terms.ca_file)
  context:setStore(trusted)
  return context
end

local function connect(terms, context)
  local connection = assert(http_client.connect({ host = measure.host, port = terms.port, tls = true,
    sendname = measure.name, version = 1.1, ctx = context }, 60))
  connection.socket:setmode("b", "bf")
  return connection
end

local function exchange(connection, method, path, body, take)
  local stream = assert(connection:new_stream())
  local headers = new_headers()
  headers:append(":method", method)
  headers:append(":scheme", "https")
  headers:append(":authority", measure.name)
  headers:append(":path", path)
  if body then headers:append("content-length", ("%d"):format(#body)) end
  assert(stream:write_headers(headers, body == nil, 60))
  if body then assert(stream:write_body_from_string(body, 60)) end
  local answer = assert(stream:get_headers(60))
  assert(answer:get(":status") == "200")
  local size = 0
  if take then
    for chunk in stream:each_chunk() do
      size = size + #chunk
      take(chunk)
    end
  else
    size = #assert(stream:get_body_as_string(60))
  end
  return size
end

function workloads.handshake(terms)
  local context = context_of(terms)
  return function() connect(terms, context):close() end
end
workloads.seen = workloads.handshake

function workloads.resumed(terms)
  local context = context_of(terms)
  return function()
    local connection = connect(terms, context)
    assert(exchange(connection, "GET", "/1k") == 1024)
    connection:close()
  end
end

function workloads.get(terms)
  local connection = connect(terms, context_of(terms))
  return function() assert(exchange(connection, "GET", "/1k") == 1024) end
end

function workloads.bulk(terms)
  local connection = connect(terms, context_of(terms))
  return function() return exchange(connection, "GET", "/big") end
end

function workloads.file(terms)
  local connection = connect(terms, context_of(terms))
  return function()
    local file = measure.file()
    local size = exchange(connection, "GET", "/big", nil, function(data) assert(file:write(data)) end)
    file:close()
    return size
  end
end

function workloads.upload(terms)
  local connection, body = connect(terms, context_of(terms)), ("x"):rep(measure.upload_size)
  return function()
    exchange(connection, "POST", "/up", body)
    return #body
  end
end

function workloads.idle(terms)
  local context = context_of(terms)
  connect(terms, context):close()
  local all = {}
  return function()
    for i = 1, 1000 do
      all[i] = connect(terms, context)
      exchange(all[i], "GET", "/1k")
    end
    return #all
  end
end

local function many(terms, count)
  local context, connections = context_of(terms), {}
  for i = 1, count do connections[i] = connect(terms, context) end
  return function()
    local loop, left = cqueues.new(), 2000
    for i = 1, count do
      loop:wrap(function()
        while left > 0 do
          left = left - 1
          assert(exchange(connections[i], "GET", "/1k") == 1024)
        end
      end)
    end
    assert(loop:loop())
    return 2000
  end
end

function workloads.many16(terms) return many(terms, 16) end
function workloads.many256(terms) return many(terms, 256) end

measure.run(workloads, cqueues.monotime, { idle = true })

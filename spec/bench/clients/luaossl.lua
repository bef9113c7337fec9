-- cqueues' sockets with luaossl's TLS, by hand: one shared context, the name checked, kept connections.
local measure = require "spec.bench.clients.measure"
local cqueues = require "cqueues"
local socket = require "cqueues.socket"
local openssl_context = require "openssl.ssl.context"
local openssl_ssl = require "openssl.ssl"
local verify_param = require "openssl.x509.verify_param"
local store = require "openssl.x509.store"

local workloads = {}

local function context_of(terms)
  local context = openssl_context.new("TLS", false)
  context:setVerify(openssl_context.VERIFY_PEER)
  local trusted = store.new()
  trusted:add(terms.ca_file)
  context:setStore(trusted)
  return context
end

local function connect(terms, context)
  local connection = assert(socket.connect { host = measure.host, port = terms.port, nodelay = true })
  local tls = openssl_ssl.new(context)
  tls:setHostName(measure.name)
  local parameters = verify_param.new()
  parameters:setHost(measure.name)
  tls:setParam(parameters)
  connection:onerror(function(_, _, why) return why end)
  assert(connection:starttls(tls))
  connection:setmode("b", "bn")
  return connection
end

local function get(connection, path, take, piece)
  assert(connection:write(measure.head("GET", path)))
  local line, length = assert(connection:read("*l")), nil
  assert(line:find("^HTTP/1.1 200"), line)
  repeat
    line = assert(connection:read("*l")):gsub("\r$", "")
    length = line:match("^Content%-Length: (%d+)") or length
  until line == ""
  local left = tonumber(length)
  while left > 0 do
    local data = assert(connection:read(math.min(left, piece or 65536)))
    left = left - #data
    if take then take(data) end
  end
  return tonumber(length)
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
    assert(get(connection, "/1k") == 1024)
    connection:close()
  end
end

function workloads.get(terms)
  local connection = connect(terms, context_of(terms))
  return function() assert(get(connection, "/1k") == 1024) end
end

function workloads.bulk(terms)
  local connection = connect(terms, context_of(terms))
  return function() return get(connection, "/big", nil, math.huge) end
end

function workloads.pieces(terms)
  local connection = connect(terms, context_of(terms))
  return function() return get(connection, "/big") end
end

function workloads.file(terms)
  local connection = connect(terms, context_of(terms))
  return function()
    local file = measure.file()
    local size = get(connection, "/big", function(data) assert(file:write(data)) end)
    file:close()
    return size
  end
end

local function sends(terms, mode)
  local connection, block = connect(terms, context_of(terms)), ("x"):rep(100)
  return function()
    connection:setmode("b", mode)
    assert(connection:write(measure.head("POST", "/up", measure.sends * 100)))
    for _ = 1, measure.sends do assert(connection:write(block)) end
    assert(connection:flush())
    local line
    repeat line = assert(connection:read("*l")) until #line < 2
    return measure.sends
  end
end

function workloads.writes(terms) return sends(terms, "bn") end
function workloads.gathered(terms) return sends(terms, "bf") end

function workloads.trust(terms)
  return function() context_of(terms) end
end

function workloads.idle(terms)
  local context = context_of(terms)
  connect(terms, context):close()
  local all = {}
  return function()
    for i = 1, 1000 do
      all[i] = connect(terms, context)
      get(all[i], "/1k")
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
          assert(get(connections[i], "/1k") == 1024)
        end
      end)
    end
    assert(loop:loop())
    return 2000
  end
end

function workloads.many16(terms) return many(terms, 16) end
function workloads.many256(terms) return many(terms, 256) end

measure.run(workloads, cqueues.monotime, { trust = true, idle = true })

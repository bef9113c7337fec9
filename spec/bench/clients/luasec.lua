-- LuaSec on LuaSocket, by hand: one shared context, kept connections. It checks no name and keeps no session.
local measure = require "spec.bench.clients.measure"
local socket = require "socket"
local ssl = require "ssl"

local workloads = {}

local function context_of(terms)
  return assert(ssl.newcontext { mode = "client", protocol = "any", options = { "all", "no_tlsv1", "no_tlsv1_1" },
    verify = "peer", cafile = terms.ca_file,
    ciphersuites = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384" })
end

local function connect(terms, context)
  local plain = assert(socket.connect(measure.host, terms.port))
  plain:setoption("tcp-nodelay", true)
  local connection = assert(ssl.wrap(plain, context))
  connection:sni(measure.name)
  assert(connection:dohandshake())
  return connection
end

local function ignore() end

function workloads.handshake(terms)
  local context = context_of(terms)
  return function() connect(terms, context):close() end
end
workloads.seen = workloads.handshake

function workloads.resumed(terms)
  local context = context_of(terms)
  return function()
    local connection = connect(terms, context)
    assert(connection:send(measure.head("GET", "/1k", nil, true)))
    assert(#assert(connection:receive(measure.read_head(connection))) == 1024)
    connection:close()
  end
end

function workloads.get(terms)
  local connection = connect(terms, context_of(terms))
  return function()
    assert(connection:send(measure.head("GET", "/1k")))
    assert(#assert(connection:receive(measure.read_head(connection))) == 1024)
  end
end

function workloads.bulk(terms)
  local connection = connect(terms, context_of(terms))
  return function()
    assert(connection:send(measure.head("GET", "/big")))
    return #assert(connection:receive(measure.read_head(connection)))
  end
end

function workloads.pieces(terms)
  local connection = connect(terms, context_of(terms))
  return function()
    assert(connection:send(measure.head("GET", "/big")))
    return measure.read_body(connection, measure.read_head(connection), ignore)
  end
end

function workloads.file(terms)
  local connection = connect(terms, context_of(terms))
  return function()
    local file = measure.file()
    assert(connection:send(measure.head("GET", "/big")))
    local size = measure.read_body(connection, measure.read_head(connection),
      function(data) assert(file:write(data)) end)
    file:close()
    return size
  end
end

function workloads.upload(terms)
  local connection, body = connect(terms, context_of(terms)), ("x"):rep(measure.upload_size)
  return function()
    assert(connection:send(measure.head("POST", "/up", #body)))
    assert(connection:send(body))
    measure.read_body(connection, measure.read_head(connection), ignore)
    return #body
  end
end

function workloads.writes(terms)
  local connection, block = connect(terms, context_of(terms)), ("x"):rep(100)
  return function()
    assert(connection:send(measure.head("POST", "/up", measure.sends * 100)))
    for _ = 1, measure.sends do assert(connection:send(block)) end
    measure.read_body(connection, measure.read_head(connection), ignore)
    return measure.sends
  end
end
workloads.gathered = workloads.writes

function workloads.trust(terms)
  return function() context_of(terms) end
end

function workloads.idle(terms)
  local context = context_of(terms)
  connect(terms, context):close()
  local all = {}
  return function()
    for i = 1, 1000 do
      local connection = connect(terms, context)
      assert(connection:send(measure.head("GET", "/1k")))
      assert(connection:receive(measure.read_head(connection)))
      all[i] = connection
    end
    return #all
  end
end

function workloads.flights(terms)
  local context = context_of(terms)
  return function()
    local start = socket.gettime()
    local connection = connect(terms, context)
    local function get()
      assert(connection:send(measure.head("GET", "/1k")))
      assert(connection:receive(measure.read_head(connection)))
      return socket.gettime() - start
    end
    local new = get()
    start = socket.gettime()
    io.write(("new=%.4f kept=%.4f "):format(new, get()))
    return 1
  end
end

measure.run(workloads, socket.gettime, { trust = true, idle = true, flights = true })

-- tlsconnect as a program uses it: https with no option, connect with none but the name.
local measure = require "spec.bench.clients.measure"
local tlsconnect = require "tlsconnect"

local workloads = {}

local function connect(terms, options)
  options = options or {}
  options.server_name = measure.name
  return assert(tlsconnect.connect(measure.host, terms.port, options))
end

-- The same certificates a moment ago are remembered; judged at a time given, they are not.
function workloads.handshake(terms)
  return function() connect(terms, { verify_time = os.time(), session_cache = false }):close() end
end

function workloads.seen(terms)
  return function() connect(terms, { session_cache = false }):close() end
end

function workloads.resumed(terms)
  local https, options, url = tlsconnect.https, { keep_alive = false }, terms.url .. "/1k"
  return function()
    local page = assert(https.get(url, options))
    assert(page.status == 200 and #page.body == 1024)
  end
end

function workloads.get(terms)
  local https, url = tlsconnect.https, terms.url .. "/1k"
  return function()
    local page = assert(https.get(url))
    assert(page.status == 200 and #page.body == 1024)
  end
end

function workloads.bulk(terms)
  local https, url = tlsconnect.https, terms.url .. "/big"
  return function()
    local page = assert(https.get(url))
    assert(page.status == 200)
    return #page.body
  end
end

-- In pieces, by hand.
function workloads.pieces(terms)
  local connection = connect(terms)
  return function()
    assert(connection:send(measure.head("GET", "/big")))
    return measure.read_body(connection, measure.read_head(connection), function() end)
  end
end

function workloads.file(terms)
  local https, url = tlsconnect.https, terms.url .. "/big"
  return function()
    local file = measure.file()
    local page = assert(https.get(url, { sink = file }))
    assert(page.status == 200)
    file:close()
    return tonumber(page.headers["content-length"])
  end
end

function workloads.upload(terms)
  local https, url, body = tlsconnect.https, terms.url .. "/up", ("x"):rep(measure.upload_size)
  return function()
    assert(assert(https.post(url, { body = body })).status == 200)
    return #body
  end
end

local function sends(terms, mode)
  local connection, block = connect(terms), ("x"):rep(100)
  assert(connection:setvbuf(mode))
  return function()
    assert(connection:send(measure.head("POST", "/up", measure.sends * 100)))
    for _ = 1, measure.sends do assert(connection:send(block)) end
    measure.read_body(connection, measure.read_head(connection), function() end)
    return measure.sends
  end
end

function workloads.writes(terms)
  return sends(terms, "no")
end

function workloads.gathered(terms)
  return sends(terms, "full")
end

function workloads.trust(terms)
  local trust = require "tlsconnect.trust"
  local leaf = assert(tlsconnect.certificate(assert(io.open(terms.ca_file .. ".leaf")):read("*a")))
  return function()
    assert(#assert(trust.system():find(leaf)) == 1)
  end
end

function workloads.idle(terms)
  connect(terms, { session_cache = false }):close()
  local all = {}
  return function()
    for i = 1, 1000 do
      local connection = connect(terms, { session_cache = false })
      assert(connection:send(measure.head("GET", "/1k")))
      measure.read_body(connection, measure.read_head(connection), function() end)
      all[i] = connection
    end
    return #all
  end
end

local function many(terms, count)
  local https, url = tlsconnect.https, terms.url .. "/1k"
  local loop = assert(tlsconnect.loop())
  tlsconnect.wait = loop.wait
  return function()
    local left = 2000
    local function ask()
      while left > 0 do
        left = left - 1
        local page = assert(https.get(url))
        assert(page.status == 200 and #page.body == 1024)
      end
    end
    for _ = 1, count do loop:spawn(ask) end
    loop:run()
    return 2000
  end
end

function workloads.many16(terms) return many(terms, 16) end
function workloads.many256(terms) return many(terms, 256) end

function workloads.flights(terms)
  return function()
    local https, now = tlsconnect.https, tlsconnect.now
    local function timed(f, ...)
      local start = now()
      assert(f(...))
      return now() - start
    end
    -- Loads what there is to load, and keeps no session: the time of that is no flight.
    assert(https.get(terms.url .. "/1k", { keep_alive = false, session_cache = false }))
    local new = timed(https.get, terms.url .. "/1k", { keep_alive = false })
    local resumed = timed(https.get, terms.url .. "/1k", { keep_alive = false })
    https.get(terms.url .. "/1k")
    local kept = timed(https.get, terms.url .. "/1k")
    local early = { keep_alive = false, early_data = true }
    assert(https.get(terms.url .. "/1k", early)) -- leaves a session that early data can be sent by
    early = timed(https.get, terms.url .. "/1k", early)
    io.write(("new=%.4f resumed=%.4f kept=%.4f early=%.4f "):format(new, resumed, kept, early))
    return 1
  end
end

measure.run(workloads, tlsconnect.now, { trust = true, idle = true, flights = true })

-- TLS that ends while the connection goes on: in clear, or in the session around it.
local far_end = require "spec.support.far_end"
local open = require("tlsconnect.connection").open
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local scheduler = require "spec.support.scheduler"
local sockets = require "spec.support.sockets"
local tlsconnect = require "tlsconnect"

local authority = pki.shared()
local site = authority:issue { name = "a.test" }

-- What a read may fail with, too.
local of_data = { truncated = true, reset = true, busy = true }

local function refused(code, connection)
  local below, message, err = connection:unwrap()
  assert.is_nil(below)
  assert.equal(code, err.code)
  if not of_data[code] then assert.equal("close", err.step) end
  assert.equal(err.message, message)
  return err
end

for version, priority in pairs { ["TLS 1.3"] = "-VERS-TLS1.2", ["TLS 1.2"] = "-VERS-TLS1.3" } do
  describe("unwrap over " .. version, function()
    local far
    before_each(function() far = far_end.session { priority = priority } end)
    after_each(function() far:close() end)

    it("gives a connection in clear, which begins with what came behind close_notify", function()
      local tls, long = far.connection, ("0123456789"):rep(10000)
      local fd = tls:getfd()
      tls:settimeout(7)
      far:queue(far:close_notify() .. "220 in clear\r\n" .. long .. "end\n")
      local plain = assert(tls:unwrap())
      assert.equal(fd, plain:getfd())
      assert.equal(7, plain.limit)
      assert.is_true(plain:dirty())
      assert.equal("220 in clear", plain:receive())
      assert.equal(long, plain:receive(#long))
      assert.equal("end", plain:receive())
      assert.equal(5, plain:send("hello"))
      -- The peer gets our close_notify, and then that in clear.
      local bytes = sockets.read(far.socket, "some", 1000)
      assert.equal("hello", bytes:sub(-5))
      far.server:feed(bytes:sub(1, -6))
      assert.equal("closed", (select(3, far.server:read("some"))).code)
      assert.equal(("tlsconnect connection: a.test:%d (in clear)"):format(plain.port), tostring(plain))
      -- The connection with TLS is over, and no way to the socket any more.
      assert.equal(-1, tls:getfd())
      assert.equal("closed", (select(2, tls:receive())))
      assert.equal("closed", (select(2, tls:send("x"))))
      assert.equal("closed", refused("closed", tls).message)
      assert.is_true(tls:close())
      assert.equal(5, plain:send("again"))
      assert.equal("again", sockets.read(far.socket, 5))
      plain:close()
      assert.equal("closed", (select(3, sockets.read(far.socket, 1))).code)
    end)

    it("hands back all of what was read ahead of a fast stream", function()
      -- As much as any socket takes at once.
      local data, clear = ("x"):rep(16384), ("in clear\n"):rep(4000)
      far:queue(far:encrypt(data) .. far:close_notify() .. clear)
      assert.equal(data, far.connection:receive(#data))
      assert.is_true(far.connection.session:pending() > 16384)
      local plain = assert(far.connection:unwrap())
      assert.is_true(plain:buffered() > 16384)
      assert.equal(clear, plain:receive(#clear))
      plain:close()
    end)

    it("loses and mixes nothing, wherever the bytes are cut", function()
      local offset, size = 0, 1
      while offset < size do
        local bye = far:close_notify()
        local bytes = bye .. "in clear\n"
        size = #bytes
        if offset > 0 then far:queue(bytes:sub(1, offset)) end
        local plain
        if offset < #bye then
          if offset > 0 then refused("timeout", far.connection) end
          far:queue(bytes:sub(offset + 1))
          plain = assert(far.connection:unwrap())
        else
          plain = assert(far.connection:unwrap())
          far:queue(bytes:sub(offset + 1))
        end
        assert.equal("in clear", plain:receive())
        plain:close()
        far:close()
        far = far_end.session { priority = priority }
        offset = offset + 1
      end
    end)

    it("leaves data that came before close_notify to be read", function()
      far:queue(far:encrypt("late data") .. far:encrypt("and more") .. far:close_notify() .. "clear\n")
      local err = refused("unread_data", far.connection)
      assert.equal(("a.test:%d sent data that is to be read before TLS can end"):format(far.connection.port),
        err.detail)
      assert.equal("late data", far.connection:receive(9))
      refused("unread_data", far.connection)
      assert.equal("and more", (select(3, far.connection:receive("*l"))))
      local plain = assert(far.connection:unwrap())
      assert.equal("clear", plain:receive())
      plain:close()
    end)

    it("says nothing to the peer while there is data that nobody has read", function()
      far:queue(far:encrypt("two\nlines\n"))
      assert.equal("two", far.connection:receive())
      refused("unread_data", far.connection)
      assert.equal("want_read", (select(2, far.socket:read("some", 100))))
      assert.equal(2, far.connection:send("on"))
      assert.equal("lines", far.connection:receive())
    end)

    it("waits as long as it may, and goes on where it is called again", function()
      refused("timeout", far.connection)
      -- Our own direction has ended (RFC 8446 6.1), the peer's has not.
      assert.is_nil((far.connection:send("x")))
      far:queue(far:encrypt("still here\n"))
      assert.equal("still here", far.connection:receive())
      refused("timeout", far.connection)
      far:queue(far:close_notify())
      local plain = assert(far.connection:unwrap())
      assert.is_false(plain:dirty())
      assert.equal("timeout", (select(2, plain:receive())))
      far:queue("in clear\n")
      assert.equal("in clear", plain:receive())
      plain:close()
    end)

    it("takes no other end for close_notify", function()
      far:queue(far_end.finish)
      refused("truncated", far.connection)
      far:close()
      far = far_end.session { priority = priority }
      far:queue(far_end.reset)
      refused("reset", far.connection)
      far:close()
      far = far_end.session { priority = priority }
      far:queue("no TLS at all, and much too long for a header\n")
      assert.is_nil((far.connection:unwrap()))
      assert.is_not_nil(far.connection.session)
    end)

    it("comes after an end that was read already", function()
      far:queue(far:encrypt("bye\n") .. far:close_notify() .. "in clear\n")
      assert.equal("bye", far.connection:receive())
      assert.equal("closed", (select(2, far.connection:receive())))
      local plain = assert(far.connection:unwrap())
      assert.equal("in clear", plain:receive())
      plain:close()
    end)

    it("sends first what is gathered", function()
      far.connection:setvbuf("full")
      far.connection:send("gathered")
      far:queue(far:close_notify())
      local plain = assert(far.connection:unwrap())
      far.server:feed((sockets.read(far.socket, "some", 1000)))
      assert.equal("gathered", far.server:read(8))
      assert.equal("closed", (select(3, far.server:read(1))).code)
      plain:close()
    end)

    it("hands back nothing before the peer's close_notify", function()
      local session = far.connection.session
      assert.has_error(function() session:hand_back() end)
    end)
  end)
end

describe("unwrap", function()
  it("is refused where there is no TLS", function()
    local server = peers.raw [[ peer:drain() ]]
    local plain = assert(open(server.host, server.port, { tls = false }))
    refused("in_clear", plain)
    assert.equal(1, plain:send("x"))
    plain:close()
    refused("closed", plain)
  end)

  it("ends TLS with openssl s_server and gnutls-serv", function()
    for _, server in ipairs { peers.openssl_server { cert = site, mode = "-rev" },
      peers.gnutls_server { cert = site, mode = "--echo" } } do
      local tls = assert(tlsconnect.connect(server.host, server.port, { server_name = "a.test",
        ca_file = authority.ca_file, timeout = 30, trace = true }))
      assert(tls:send("abc\n"))
      assert.is_truthy(tls:receive())
      local plain = assert(tls:unwrap())
      local steps = {}
      for _, step in ipairs(plain:trace()) do steps[step.step] = step end
      assert.is_true(steps.close.sent and steps.close.received)
      assert.same({ nil, "closed" }, { (function(a, b) return a, b end)(plain:receive()) })
      plain:close()
    end
  end)

  it("gives the outer connection of TLS in TLS, then one in clear, and TLS may begin again, on both sides", function()
    local before = sockets.open_descriptors()
    scheduler.run(function(spawn, wait, _, join)
      local listener = assert(tlsconnect.listen("127.0.0.1", 0, { certificate = site.chain, key = site.key, wait = wait,
        timeout = 30 }))
      local _, port = listener:address()
      local own = { role = "server", certificate = site.chain, key = site.key, wait = wait }
      local other = { server_name = "a.test", ca_file = authority.ca_file, wait = wait }
      local function answer(connection, text)
        assert.equal(text, connection:receive())
        assert(connection:send(text .. " too\n"))
      end
      local function ask(connection, text)
        assert(connection:send(text .. "\n"))
        assert.equal(text .. " too", connection:receive())
      end
      local server = spawn(function()
        local outer = assert(listener:accept())
        assert(outer:handshake())
        local inner = assert(tlsconnect.wrap(outer, own))
        answer(inner, "inside")
        assert.equal(outer, inner:unwrap())
        answer(outer, "outside")
        local plain = assert(outer:unwrap())
        answer(plain, "in clear")
        local again = assert(tlsconnect.wrap(plain, own))
        answer(again, "again")
        again:close()
      end)
      local outer = assert(tlsconnect.connect("127.0.0.1", port, { server_name = "a.test", ca_file = authority.ca_file,
        wait = wait, timeout = 30 }))
      local inner = assert(tlsconnect.wrap(outer, other))
      ask(inner, "inside")
      assert.equal(outer, inner:unwrap())
      inner:close()
      ask(outer, "outside")
      local plain = assert(outer:unwrap())
      ask(plain, "in clear")
      local again = assert(tlsconnect.wrap(plain, other))
      ask(again, "again")
      again:close()
      join(server)
      listener:close()
    end)
    assert.is_true(sockets.at_most_open(before))
  end)

  it("does not come into the middle of another call, and ends with close()", function()
    scheduler.run(function(spawn, wait, sleep, join)
      local far = far_end.session()
      far.connection.waiter = wait
      local reading = spawn(function() return far.connection:receive() end)
      sleep(0)
      refused("busy", far.connection)
      assert(far.socket:write(far:encrypt("line\n")))
      assert.equal("line", join(reading))
      local unwrapping = spawn(function() return far.connection:unwrap() end)
      while far.connection.reader == nil do sleep(0) end
      assert.equal("busy", (select(4, far.connection:receive())).code)
      far.connection:close()
      local _, message, err = join(unwrapping)
      assert.same({ "closed", "closed" }, { message, err.code })
      far:close()
    end)
  end)
end)

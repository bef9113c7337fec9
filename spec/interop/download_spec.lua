-- Downloads whose whole process is killed half-way, and what a next one makes of it.
local https = require "tlsconnect.https"
local peers = require "spec.support.peers"
local pki = require "spec.support.pki"
local process = require "spec.support.process"
local run = require "spec.support.run"
local tmp = require "spec.support.tmp"

local authority = pki.shared()

-- Bytes of which no two places look alike.
local function image(seed)
  local lines = {}
  for i = 1, 250000 do lines[i] = ("%08d %s\n"):format(i * seed % 99999989, seed) end
  return table.concat(lines)
end

describe("a download whose process is killed", function()
  local first, second = image(7919), image(104729)
  local server, folder

  setup(function()
    local root = tmp.directory()
    run.check { "chmod", "755", root }
    server = peers.nginx { cert = authority:issue { name = "localhost", ip = "127.0.0.1" }, root = root,
      locations = { ["/slow/"] = ("alias %s/; limit_rate 2m;"):format(root), ["/"] = "" } }
    server.root = root
  end)

  before_each(function()
    folder = tmp.directory() .. "/"
    tmp.write(server.root .. "/image", first)
  end)

  local function url(path)
    return ("https://127.0.0.1:%d%s"):format(server.port, path)
  end

  -- Starts the download in a process of its own, and kills that once a part has come. The name of the part.
  local function killed(resume)
    local script = tmp.file(([[
      print(assert(require("tlsconnect.https").get(%q, { ca_file = %q, save = %q, resume = %s })).saved)
    ]]):format(url "/slow/image", authority.ca_file, folder .. "image", tostring(resume)), "download.lua")
    local log = tmp.path("log")
    local pid = process.start({ process.lua(), script }, { log = log })
    local part
    assert(process.eventually(function()
      part = run.check { "find", folder, "-name", "image*.part", "-size", "+500k" }:match("[^\n]+")
      return part or not process.alive(pid)
    end))
    assert.is_string(part, tmp.read(log))
    os.execute("kill -KILL " .. pid)
    assert(process.eventually(function() return not process.alive(pid) end))
    assert.equal("", tmp.read(log))
    local have = tmp.read(part)
    assert.is_true(#have > 500000 and #have < #first)
    assert.equal(first:sub(1, #have), have)
    return part, #have
  end

  local function names()
    return (run.check({ "ls", "-A", folder }):gsub("\n", " "):gsub(" $", ""))
  end

  local function resume(path)
    local least
    local page = assert(https.get(url(path or "/image"), { ca_file = authority.ca_file, timeout = 60,
      save = folder .. "image", resume = true, progress = function(now) least = least or now end }))
    return page, least
  end

  it("goes on where it was, byte for byte the same", function()
    local part, have = killed(true)
    assert.equal(folder .. "image.part", part)
    local page, least = resume "/slow/image"
    assert.equal(206, page.status)
    assert.is_true(least > have, least)
    assert.is_true(tmp.read(folder .. "image") == first)
    assert.equal("image", names())
  end)

  it("goes on after it was killed time and again", function()
    local _, have = killed(true)
    tmp.write(folder .. "image", "old")
    local script = tmp.file(([[
      require("tlsconnect.https").get(%q, { ca_file = %q, save = %q, resume = true, progress = function(now)
        if now > %d then os.execute("kill -KILL " .. io.open("/proc/self/stat"):read("*n")) end
      end })
    ]]):format(url "/slow/image", authority.ca_file, folder .. "image", have + 1000000), "download.lua")
    run.run({ process.lua(), script })
    assert.equal("old", tmp.read(folder .. "image"))
    local more = #tmp.read(folder .. "image.part")
    assert.is_true(more > have and more < #first, more)
    local page, least = resume "/slow/image"
    assert.equal(206, page.status)
    assert.is_true(least > more)
    assert.is_true(tmp.read(folder .. "image") == first)
  end)

  it("begins anew when the file has changed meanwhile, or another one is asked for", function()
    killed(true)
    tmp.write(server.root .. "/image", second)
    local page = resume "/slow/image"
    assert.equal(200, page.status)
    assert.is_true(tmp.read(folder .. "image") == second)
    assert.equal("image", names())
    tmp.write(server.root .. "/image", first)
    killed(true)
    page = resume "/image" -- another URL: nothing says that these are the same bytes
    assert.equal(200, page.status)
    assert.is_true(tmp.read(folder .. "image") == first)
  end)

  it("leaves the old file whole where it was only to be saved", function()
    tmp.write(folder .. "image", "old")
    local part = killed(false)
    assert.equal("old", tmp.read(folder .. "image"))
    assert.is_true(part ~= folder .. "image.part")
    local page = assert(https.get(url "/image", { ca_file = authority.ca_file, timeout = 60,
      save = folder .. "image" }))
    assert.equal(200, page.status)
    assert.is_true(tmp.read(folder .. "image") == first)
  end)
end)

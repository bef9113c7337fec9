-- Loaded by busted before any spec (see .busted): stops what a spec or a spec file has started when
-- it ends, however it ends, and keeps the support modules across busted's insulation of files.
local busted = require "busted"
local peers = require "spec.support.peers"
require "spec.support.pki"

local mark
busted.subscribe({ "test", "start" }, function() mark = peers.mark() return nil, true end)
busted.subscribe({ "test", "end" }, function() peers.stop_since(mark or 0) return nil, true end)
busted.subscribe({ "file", "end" }, function() peers.stop_since(0) return nil, true end)

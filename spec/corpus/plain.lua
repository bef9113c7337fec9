-- The cases of x509-limbo as a careful client on GnuTLS alone answers them (plain.c, compiled when it is asked).
local limbo = require "spec.corpus.limbo"
local run = require "spec.support.run"
local tmp = require "spec.support.tmp"

local M = {}

-- One case as plain.c reads it.
local function text_of(case)
  local options = limbo.options(case)
  local lines = { ("time %d"):format(math.floor(options.time or os.time())), "purpose " .. options.purpose }
  if options.name then lines[#lines + 1] = "host " .. options.name end
  if options.ip then lines[#lines + 1] = "ip " .. options.ip end
  if options.max_depth then lines[#lines + 1] = ("depth %d"):format(options.max_depth) end
  local function section(name, texts)
    lines[#lines + 1] = name
    for _, text in ipairs(texts) do lines[#lines + 1] = (text:gsub("%s+$", "")) end
  end
  section("roots", case.trusted_certs)
  section("chain", { case.peer_certificate })
  for _, text in ipairs(case.untrusted_intermediates) do lines[#lines + 1] = (text:gsub("%s+$", "")) end
  if #case.crls > 0 then section("crls", case.crls) end
  lines[#lines + 1] = "end\n"
  return table.concat(lines, "\n")
end

--- How a plain client answers: a function(case) for limbo.run.
function M.judge(cases)
  local program = tmp.path("plain")
  run.check(("cc -std=c11 -D_GNU_SOURCE -O1 -o %s spec/corpus/plain.c $(pkg-config --cflags --libs gnutls)")
    :format(program))
  local texts, answers = {}, {}
  for i, case in ipairs(cases) do texts[i] = text_of(case) end
  local i = 0
  for answer in run.check({ program }, { stdin = table.concat(texts) }):gmatch("[^\n]+") do
    i = i + 1
    answers[cases[i]] = answer == "1"
  end
  assert(i == #cases, "not every case was answered")
  return function(case) return answers[case] end
end

return M

-- Whether figures are worse than those that were kept. Only ratios hold on another machine, so only they count.
local M = {}

local function sorted(set)
  local names = {}
  for name in pairs(set) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- Ratios are a peer's cost to ours: the more, the better. Flights are counts: the fewer, the better.
local function ratios(name, before, now, lines)
  for _, peer in ipairs(sorted(before.ratios)) do
    local old, new = before.ratios[peer], now.ratios[peer]
    if not new then
      lines[#lines + 1] = ("GONE   %s: no ratio to %s, it was %.2f"):format(name, peer, old)
    elseif new < old * 0.9 then
      lines[#lines + 1] = ("WORSE  %s: the ratio to %s was %.2f, is %.2f"):format(name, peer, old, new)
    end
  end
end

local function flights(before, now, lines)
  local old, new = before.contenders.tlsconnect, now.contenders.tlsconnect
  for _, kind in ipairs(sorted(old)) do
    -- Not a whole flight: the relay's delay is only as exact as the machine's clock and load.
    if not new[kind] or new[kind] > old[kind] + 0.5 then
      lines[#lines + 1] = ("WORSE  flights, %s: were %.1f, are %s"):format(kind, old[kind],
        new[kind] and ("%.1f"):format(new[kind]) or "not measured")
    end
  end
end

--- A line for each ratio that is more than a tenth worse than the kept one, and for each that is gone.
-- wanted: function(name) -> whether this workload was measured at all.
function M.worse(kept, figures, wanted)
  local lines = {}
  for _, name in ipairs(sorted(kept)) do
    local before, now = kept[name], figures[name]
    if wanted(name) then
      if not now then
        lines[#lines + 1] = ("GONE   %s: not measured any more"):format(name)
      elseif name == "flights" then
        flights(before, now, lines)
      else
        ratios(name, before, now, lines)
      end
    end
  end
  return lines
end

return M

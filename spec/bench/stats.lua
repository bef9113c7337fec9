-- Medians: other programs of the machine disturb a few samples, and never the middle one.
local M = {}

function M.median(list)
  local sorted = {}
  for i, value in ipairs(list) do sorted[i] = value end
  table.sort(sorted)
  local n = #sorted
  if n % 2 == 1 then return sorted[(n + 1) / 2] end
  return (sorted[n / 2] + sorted[n / 2 + 1]) / 2
end

local function column(samples, field)
  local list = {}
  for i, sample in ipairs(samples) do list[i] = sample[field] end
  return list
end

--- The median of each field.
function M.medians(samples)
  local result = {}
  for field in pairs(samples[1]) do result[field] = M.median(column(samples, field)) end
  return result
end

--- The median of the ratios of samples that were taken one after the other.
function M.ratio(samples, others, field)
  local list = {}
  for i, sample in ipairs(samples) do list[i] = sample[field] / others[i][field] end
  return M.median(list)
end

--- How far the samples lie from their median, in the middle, as a part of it.
function M.spread(samples, field)
  local list = column(samples, field)
  local middle = M.median(list)
  local away = {}
  for i, value in ipairs(list) do away[i] = math.abs(value - middle) end
  return middle > 0 and M.median(away) / middle or 0
end

return M

--- The fields of one table, and those of another in their place.
return function(given, changes)
  local result = {}
  for name, value in pairs(given) do result[name] = value end
  for name, value in pairs(changes) do result[name] = value end
  return result
end

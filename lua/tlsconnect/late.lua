-- Loading late: what few programs use is loaded when it is first used, so that none of the others wait for it.
local late = {}

local loaded = package.loaded

--- As require. Where that fails (memory, a file that cannot be read), the next call tries again: on Lua 5.1 require
-- itself would only say that there was an error before.
function late.load(name)
  local module = loaded[name]
  if type(module) == "table" then return module end
  local ok
  ok, module = pcall(require, name)
  if ok then return module end
  loaded[name] = nil
  error(module, 0)
end

--- Gives a class methods that a module of their own defines, over these, once one of them is called. names: with a
-- space between. Not for methods whose errors are raised at their caller: on Lua 5.1 it would not be found.
function late.methods(class, module, names)
  for name in names:gmatch("%S+") do
    class[name] = function(...)
      late.load(module)
      return class[name](...)
    end
  end
end

return late

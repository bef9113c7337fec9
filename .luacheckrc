-- "min" is what all of Lua 5.1 to 5.4 and LuaJIT have; beside it, what is looked for before use.
std = "min"
read_globals = { "unpack", "loadstring", "jit", table = { fields = { "unpack", "pack" } }, utf8 = { fields = { "char" } } }
max_line_length = 120
files["spec"] = { std = "min+busted" }

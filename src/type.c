/* Userdata types: core.so and optional.so make theirs alike. */
#include "core.h"

#include <string.h>

void core_type(lua_State *L, const char *type, const luaL_Reg *methods, const luaL_Reg *meta) {
  luaL_newmetatable(L, type);
  luaL_setfuncs(L, meta, 0);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_setfield(L, -2, "__index");
  lua_pushstring(L, type);
  lua_setfield(L, -2, "__metatable");
  lua_pop(L, 1);
}

void *core_new(lua_State *L, const char *type, size_t size) {
  void *data = lua_newuserdata(L, size);
  memset(data, 0, size);
  luaL_getmetatable(L, type);
  lua_setmetatable(L, -2);
  return data;
}

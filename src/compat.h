/* The only place that knows Lua versions: 5.1 and LuaJIT get the few calls of 5.2 and later that
 * the core uses. */
#ifndef TLSCONNECT_COMPAT_H
#define TLSCONNECT_COMPAT_H

#include <lauxlib.h>
#include <lua.h>

#if LUA_VERSION_NUM == 501

#define LUA_OK 0
#define lua_rawlen lua_objlen

static inline int compat_absindex(lua_State *L, int index) {
  return index > 0 || index <= LUA_REGISTRYINDEX ? index : lua_gettop(L) + index + 1;
}

static inline void compat_setfuncs(lua_State *L, const luaL_Reg *functions, int upvalues) {
  luaL_checkstack(L, upvalues + 1, "too many upvalues");
  for (; functions->name; functions++) {
    for (int i = 0; i < upvalues; i++)
      lua_pushvalue(L, -upvalues);
    lua_pushcclosure(L, functions->func, upvalues);
    lua_setfield(L, -(upvalues + 2), functions->name);
  }
  lua_pop(L, upvalues);
}

static inline void *compat_testudata(lua_State *L, int index, const char *type) {
  void *data = lua_touserdata(L, index);
  if (!data || !lua_getmetatable(L, index)) return NULL;
  luaL_getmetatable(L, type);
  if (!lua_rawequal(L, -1, -2)) data = NULL;
  lua_pop(L, 2);
  return data;
}

/* LuaJIT declares some of these itself; the macros keep one build good for both. */
#undef lua_absindex
#undef luaL_setfuncs
#undef luaL_testudata
#define lua_absindex compat_absindex
#define luaL_setfuncs compat_setfuncs
#define luaL_testudata compat_testudata

#endif

#if LUA_VERSION_NUM >= 504
/* Room for a value beside it, which nobody here asks for, would cost 24 bytes. */
#undef lua_newuserdata
#define lua_newuserdata(L, size) lua_newuserdatauv(L, size, 0)
#endif

#if LUA_VERSION_NUM < 503
#define lua_isinteger(L, index)                                                                    \
  (lua_type(L, index) == LUA_TNUMBER &&                                                            \
   (lua_Number)(long long)lua_tonumber(L, index) == lua_tonumber(L, index))
#endif

#endif

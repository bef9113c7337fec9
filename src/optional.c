/* luaopen_tlsconnect_optional: what stands on libraries that few programs use and this build may be
 * without. A module of its own, so that a program that neither gets a compressed body nor keeps
 * cookies does not wait until they are loaded. */
#include "core.h"

__attribute__((visibility("default"))) int luaopen_tlsconnect_optional(lua_State *L);
int luaopen_tlsconnect_optional(lua_State *L) {
  lua_newtable(L);
  coding_open(L);
  suffix_open(L);
  return 1;
}

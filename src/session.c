#include "core.h"

void session_open(lua_State *L) {
  (void)L;
}

#include "core.h"

void socket_open(lua_State *L) {
  (void)L;
}

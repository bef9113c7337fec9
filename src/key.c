#include "core.h"

void key_open(lua_State *L) {
  (void)L;
}

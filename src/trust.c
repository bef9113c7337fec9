#include "core.h"

void trust_open(lua_State *L) {
  (void)L;
}

#include "core.h"

void resolver_open(lua_State *L) {
  (void)L;
}

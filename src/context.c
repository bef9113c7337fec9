#include "core.h"

void context_open(lua_State *L) {
  (void)L;
}

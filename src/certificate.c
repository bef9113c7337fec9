#include "core.h"

void certificate_open(lua_State *L) {
  (void)L;
}

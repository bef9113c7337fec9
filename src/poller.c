#include "core.h"

void poller_open(lua_State *L) {
  (void)L;
}

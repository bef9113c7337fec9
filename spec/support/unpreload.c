/* Preloaded after the sanitizers' libraries, which only the interpreter needs: takes LD_PRELOAD out
 * of its environment, so that the shells and servers that the specs start run without them. */
#include <stdlib.h>

__attribute__((constructor)) static void unpreload(void) {
  unsetenv("LD_PRELOAD");
}

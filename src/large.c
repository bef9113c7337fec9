/* Blocks and Lua strings of many megabytes stand in large pages, where the system has them and lets
 * programs ask: a page fault for each 4 KB costs more than the bytes' decryption does. */
#include "core.h"

#include <stdlib.h>
#include <sys/mman.h>

#define PAGE ((size_t)1 << 21)

/* A hint: nothing depends on whether it is taken. */
static void ask_for_large_pages(void *block, size_t size) {
#ifdef MADV_HUGEPAGE
  uintptr_t start = ((uintptr_t)block + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
  uintptr_t end = ((uintptr_t)block + size) & ~(uintptr_t)(PAGE - 1);
  if (start < end) madvise((void *)start, end - start, MADV_HUGEPAGE);
#else
  (void)block;
  (void)size;
#endif
}

bool large_enough(size_t size) {
  return size >= 2 * PAGE;
}

void *large_block(size_t size) {
  void *block;
  if (posix_memalign(&block, PAGE, size)) return NULL;
  ask_for_large_pages(block, size);
  return block;
}

/* The state's own allocator, and what is between it and the state while a string is made. */
typedef struct {
  lua_Alloc allocate;
  void *owner;
} Allocator;

static void *allocate(void *data, void *block, size_t old, size_t size) {
  const Allocator *own = data;
  void *result = own->allocate(own->owner, block, old, size);
  if (result && !block && large_enough(size)) ask_for_large_pages(result, size);
  return result;
}

static int push(lua_State *L) {
  const gnutls_datum_t *bytes = lua_touserdata(L, 1);
  lua_pushlstring(L, (const char *)bytes->data, bytes->size);
  return 1;
}

/* Lua writes a string as soon as it has room for it. So the hint must be given in between: by an
 * allocator that asks the state's own one, and that is there for this call alone, whatever it ends
 * with. */
void large_push(lua_State *L, const void *data, size_t size) {
  gnutls_datum_t bytes = {(unsigned char *)data, (unsigned)size};
  if (!large_enough(size) || bytes.size != size) {
    lua_pushlstring(L, data, size);
    return;
  }
  luaL_checkstack(L, 2, NULL);
  lua_pushcfunction(L, push);
  lua_pushlightuserdata(L, &bytes);
  Allocator own;
  own.allocate = lua_getallocf(L, &own.owner);
  lua_setallocf(L, allocate, &own);
  int status = lua_pcall(L, 1, 1, 0);
  lua_setallocf(L, own.allocate, own.owner);
  if (status) lua_error(L);
}

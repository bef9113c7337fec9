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

/* What stands between the state and its own allocator while a string is made. */
typedef struct {
  lua_Alloc allocate;
  void *owner;
  const char *bytes; /* of the string */
  size_t size;
  bool first;           /* the next block is the first one that lua_pushlstring asks for */
  LargeString *written; /* takes that one's place; NULL: none does */
  unsigned char *block; /* the first one */
  size_t block_size;
} Making;

static void *allocate(void *data, void *block, size_t old, size_t size) {
  Making *making = data;
  bool first = making->first && !block && size > 0;
  if (first) making->first = false;
  if (first && making->written && size == making->written->size) {
    making->written->taken = true;
    return making->written->block;
  }
  void *result = making->allocate(making->owner, block, old, size);
  if (result && !block && large_enough(size)) ask_for_large_pages(result, size);
  if (first) {
    making->block = result;
    making->block_size = size;
  }
  return result;
}

static int push(lua_State *L) {
  Making *making = lua_touserdata(L, 1);
  making->first = true;
  lua_pushlstring(L, making->bytes, making->size);
  making->first = false;
  return 1;
}

/* Lua writes a string as soon as it has room for it. So what is to happen in between needs an
 * allocator that asks the state's own one, and that is there for this call alone, whatever it ends
 * with. Returns what lua_pcall does. */
static int make(lua_State *L, Making *making) {
  lua_pushcfunction(L, push);
  lua_pushlightuserdata(L, making);
  making->allocate = lua_getallocf(L, &making->owner);
  lua_setallocf(L, allocate, making);
  int status = lua_pcall(L, 1, 1, 0);
  lua_setallocf(L, making->allocate, making->owner);
  return status;
}

void large_push(lua_State *L, const void *data, size_t size) {
  Making making = {.bytes = data, .size = size};
  if (!large_enough(size))
    lua_pushlstring(L, data, size);
  else if (make(L, &making))
    lua_error(L);
}

/* A string that is written before Lua makes it: in a block of the state's own allocator, of the
 * size that Lua is going to ask for, which it then gets. What Lua copies stands where it is to be,
 * so that nothing moves, and no page is touched twice. From Lua 5.4 on the first block that
 * lua_pushlstring asks for is the string's, and no finaliser's error comes out of it; before, the
 * collector may run first. */
#if LUA_VERSION_NUM >= 504

/* Of Lua's strings: where the bytes begin, and how much more than they a block holds. The same in
 * every state of the process. */
static size_t string_start, string_more;

void large_open(lua_State *L) {
  char text[256] = "";
  Making making = {.bytes = text, .size = sizeof text};
  if (make(L, &making)) lua_error(L);
  const unsigned char *bytes = (const unsigned char *)lua_tostring(L, -1), *block = making.block;
  if (block && bytes > block && bytes + sizeof text < block + making.block_size) {
    string_start = (size_t)(bytes - block);
    string_more = making.block_size - sizeof text;
  }
  lua_pop(L, 1);
}

LargeString *large_string(lua_State *L, size_t length) {
  if (!string_more) return NULL;
  LargeString *string = malloc(sizeof *string);
  if (!string) return NULL;
  *string = (LargeString){.length = length, .size = length + string_more};
  string->allocate = lua_getallocf(L, &string->owner);
  string->block = string->allocate(string->owner, NULL, LUA_TSTRING, string->size);
  if (!string->block) {
    free(string);
    return NULL;
  }
  string->bytes = string->block + string_start;
  ask_for_large_pages(string->block, string->size);
  return string;
}

#else

void large_open(lua_State *L) {
  (void)L;
}

LargeString *large_string(lua_State *L, size_t length) {
  (void)L;
  (void)length;
  return NULL;
}

#endif

int large_finish(lua_State *L, LargeString *string) {
  Making making = {.bytes = (const char *)string->bytes, .size = string->length, .written = string};
  return make(L, &making);
}

void large_drop(LargeString *string) {
  if (!string->taken) string->allocate(string->owner, string->block, string->size, 0);
  free(string);
}

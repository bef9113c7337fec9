/* Public suffixes: names under which anybody registers, which no cookie may be for. libpsl knows
 * them, where it was there when this was built. */
#include "core.h"

#ifdef HAVE_PSL

#include <libpsl.h>
#include <pthread.h>
#include <string.h>

#define LIST_TYPE "tlsconnect.suffixes"

static const psl_ctx_t *system_list;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* The newer one of the list within libpsl and the system's file; kept as long as the process. */
static void find_system_list(void) {
  system_list = psl_latest(NULL);
  if (!system_list) system_list = psl_builtin();
}

typedef struct {
  const psl_ctx_t *list;
  psl_ctx_t *own; /* freed with it; NULL for the system's list */
} List;

static const psl_ctx_t *check_list(lua_State *L) {
  List *list = luaL_checkudata(L, 1, LIST_TYPE);
  return list->list;
}

/* suffixes(path): the public suffix list in that file, or the system's. A list, or nil, message,
 * cause. */
static int suffix_list(lua_State *L) {
  const char *path = luaL_optstring(L, 1, NULL);
  List *list = core_new(L, LIST_TYPE, sizeof *list);
  if (path)
    list->list = list->own = psl_load_file(path);
  else {
    pthread_once(&once, find_system_list);
    list->list = system_list;
  }
  if (!list->list) return error_named(L, "unreadable_file", "there is no list of public suffixes");
  return 1;
}

static int list_gc(lua_State *L) {
  List *list = luaL_checkudata(L, 1, LIST_TYPE);
  if (list->own) psl_free(list->own);
  list->list = list->own = NULL;
  return 0;
}

/* list:public(name): whether the name, of A-labels in lower case, is a public suffix. */
static int list_public(lua_State *L) {
  const psl_ctx_t *list = check_list(L);
  lua_pushboolean(L, list && psl_is_public_suffix(list, luaL_checkstring(L, 2)));
  return 1;
}

/* list:registrable(name): what of it was registered ("example.co.uk" of "www.example.co.uk"), or
 * nil for a public suffix. */
static int list_registrable(lua_State *L) {
  const psl_ctx_t *list = check_list(L);
  const char *name = luaL_checkstring(L, 2);
  lua_pushstring(L, list ? psl_registrable_domain(list, name) : NULL);
  return 1;
}

static const luaL_Reg methods[] = {
    {"public", list_public}, {"registrable", list_registrable}, {NULL, NULL}};
static const luaL_Reg meta[] = {{"__gc", list_gc}, {NULL, NULL}};

void suffix_open(lua_State *L) {
  core_type(L, LIST_TYPE, methods, meta);
  lua_pushcfunction(L, suffix_list);
  lua_setfield(L, -2, "suffixes");
}

#else

/* Without libpsl optional.suffixes is nil. */
void suffix_open(lua_State *L) {
  (void)L;
}

#endif

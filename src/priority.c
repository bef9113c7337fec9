/* The order of groups and ciphers: the system's policy says which, this says which first.
 *
 * X25519 stands before the other curves (a third of P-256's cost here, and the one key share that a
 * client sends). AES-128-GCM is the first cipher, and ChaCha20 the last one where the CPU computes
 * AES. Nothing is added that GnuTLS's default, and so the policy, leaves out. */
#include "session.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#if defined __aarch64__ && defined __linux__
#include <sys/auxv.h>
#endif

static char order[1024];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static bool cpu_has_aes(void) {
#if defined __x86_64__ || defined __i386__
  return __builtin_cpu_supports("aes");
#elif defined __aarch64__ && defined __linux__
  return getauxval(AT_HWCAP) & 1 << 3; /* HWCAP_AES */
#else
  return false;
#endif
}

static bool add(const char *prefix, const char *name) {
  size_t used = strlen(order), room = sizeof order - used;
  int size = snprintf(order + used, room, "%s%s%s", used ? ":" : "", prefix, name);
  return size > 0 && (size_t)size < room;
}

/* Curves other than X25519: what it goes before. A hybrid group that the policy prefers stays
 * first.
 */
static bool plain_curve(unsigned group) {
  return group == GNUTLS_GROUP_SECP256R1 || group == GNUTLS_GROUP_SECP384R1 ||
         group == GNUTLS_GROUP_SECP521R1;
}

static bool order_groups(const unsigned *list, int count) {
  bool has = false, done = false;
  for (int i = 0; i < count; i++)
    has = has || list[i] == GNUTLS_GROUP_X25519;
  if (!has) return true;
  if (!add("", "-GROUP-ALL")) return false;
  for (int i = 0; i < count; i++) {
    bool here = !done && (plain_curve(list[i]) || list[i] == GNUTLS_GROUP_X25519);
    if (here && !add("+GROUP-", gnutls_group_get_name(GNUTLS_GROUP_X25519))) return false;
    done = done || here;
    if (list[i] == GNUTLS_GROUP_X25519) continue;
    const char *name = gnutls_group_get_name((gnutls_group_t)list[i]);
    if (!name || !add("+GROUP-", name)) return false;
  }
  return true;
}

/* 0: first, 2: last. */
static int rank(unsigned cipher, bool aes) {
  if (!aes) return 1;
  if (cipher == GNUTLS_CIPHER_AES_128_GCM) return 0;
  return cipher == GNUTLS_CIPHER_CHACHA20_POLY1305 ? 2 : 1;
}

static bool order_ciphers(const unsigned *list, int count) {
  bool aes = cpu_has_aes();
  if (count <= 0 || !add("", "-CIPHER-ALL")) return count <= 0;
  for (int turn = 0; turn < 3; turn++) {
    for (int i = 0; i < count; i++) {
      if (rank(list[i], aes) != turn) continue;
      const char *name = gnutls_cipher_get_name((gnutls_cipher_algorithm_t)list[i]);
      if (!name || !add("+", name)) return false;
    }
  }
  return true;
}

static void find_order(void) {
  gnutls_priority_t priority, tried;
  const unsigned *groups, *ciphers;
  if (gnutls_priority_init2(&priority, NULL, NULL, 0) < 0) return;
  int group_count = gnutls_priority_group_list(priority, &groups);
  int cipher_count = gnutls_priority_cipher_list(priority, &ciphers);
  bool good = order_groups(groups, group_count) && order_ciphers(ciphers, cipher_count);
  gnutls_priority_deinit(priority);
  /* A name that this GnuTLS prints and does not read costs the order, never the connection. */
  if (good && gnutls_priority_init2(&tried, order, NULL, GNUTLS_PRIORITY_INIT_DEF_APPEND) >= 0)
    gnutls_priority_deinit(tried);
  else
    order[0] = 0;
}

const char *priority_order(void) {
  pthread_once(&once, find_order);
  return order;
}

/* has_group(name): whether this GnuTLS can do a key exchange by that group ("X25519-MLKEM768"),
 * which its version does not tell: what it was built with counts. */
static int priority_has_group(lua_State *L) {
  gnutls_priority_t priority;
  const unsigned *list;
  const char *name = luaL_checkstring(L, 1);
  const char *text = lua_pushfstring(L, "NORMAL:-GROUP-ALL:+GROUP-%s", name);
  bool has = gnutls_priority_init(&priority, text, NULL) >= 0;
  if (has) {
    has = gnutls_priority_group_list(priority, &list) > 0;
    gnutls_priority_deinit(priority);
  }
  lua_pushboolean(L, has);
  return 1;
}

void priority_open(lua_State *L) {
  lua_pushcfunction(L, priority_has_group);
  lua_setfield(L, -2, "has_group");
}

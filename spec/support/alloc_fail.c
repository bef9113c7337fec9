/* alloc_fail WHO HOW SCRIPT [ARGUMENT...]: runs a Lua script again and again, and lets its first,
 * second, third ... allocation fail, until one run has no such allocation any more. The script
 * returns a function, which gets the arguments, and in which allocations fail. It may fail or
 * succeed; a crash, a hang, a leak, a block freed twice or used when it was freed, and a Lua error
 * thrown through GnuTLS are what is looked for.
 *
 * WHO: "lua" (Lua's own allocator), "core" (the module's malloc), "gnutls" (malloc as GnuTLS and
 * libtasn1 see it). HOW: "once" (that allocation) or "all" (that one and all that follow).
 * Environment: FIRST, LAST and STEP bound the runs.
 *
 * Every run is a fork of a process that has already run the script without a failure, so that what
 * libraries keep for good is there. Its last line is "RUNS runs, PROBLEMS problems", and its status
 * is 0 when there was no problem. GnuTLS's own leaks after its own allocations have failed are
 * counted and shown, but are not problems of the module's. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <link.h>
#include <lua.h>
#include <lualib.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void __libc_free(void *block);

enum { NOBODY, LUA, CORE, GNUTLS };
enum { HANDLED = 0, NOT_REACHED = 10, PROBLEM = 11, GNUTLS_LEAK = 12, GNUTLS_CRASH = 13 };
enum { FRAMES = 24, BLOCKS = 1 << 17 };

typedef struct {
  void *at;
  size_t size;
  int who;
  bool freed;
  void *frames[FRAMES];
  int depth;
} Block;

typedef struct {
  uintptr_t from, to;
  int who;
} Range;

static Range ranges[16];
static int range_count;

static Block *blocks; /* what was allocated since the fork, by address */
static Block *used[BLOCKS / 2];
static int used_count;
static bool counting;  /* only in a run */
static int target;     /* whose allocations fail */
static bool for_good;  /* and all that follow */
static long countdown; /* allocations until the one that fails */
static bool reached;
static void *failed_frames[FRAMES];
static int failed_depth;
static bool problem;
static pthread_t main_thread;

/* Whose code it is -------------------------------------------------------------------------- */

static int add_range(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size, (void)data;
  static const struct {
    const char *name;
    int who;
  } known[] = {{"/core.so", CORE},
               {"/optional.so", CORE},
               {"/libgnutls.so", GNUTLS},
               {"/libtasn1.so", GNUTLS}};
  for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
    if (!strstr(info->dlpi_name, known[k].name)) continue;
    for (int i = 0; i < info->dlpi_phnum; i++) {
      const ElfW(Phdr) *part = &info->dlpi_phdr[i];
      if (part->p_type != PT_LOAD || !(part->p_flags & PF_X) || range_count == 16) continue;
      uintptr_t from = info->dlpi_addr + part->p_vaddr;
      ranges[range_count++] = (Range){from, from + part->p_memsz, known[k].who};
    }
  }
  return 0;
}

static int whose(const void *code) {
  for (int i = 0; i < range_count; i++)
    if ((uintptr_t)code >= ranges[i].from && (uintptr_t)code < ranges[i].to) return ranges[i].who;
  return NOBODY;
}

static void show(const char *what, void **frames, int depth) {
  dprintf(1, "  %s\n", what);
  backtrace_symbols_fd(frames, depth, 1);
}

static void complain(const char *what) {
  if (!problem) {
    dprintf(1, "problem: %s\n", what);
    if (failed_depth) show("the allocation that failed:", failed_frames, failed_depth);
  } else {
    dprintf(1, "  and: %s\n", what);
  }
  problem = true;
}

/* Blocks -------------------------------------------------------------------------------------- */

static Block *find(const void *at) {
  size_t i = ((uintptr_t)at >> 4) * 2654435761u % BLOCKS;
  while (blocks[i].at && blocks[i].at != at)
    i = (i + 1) % BLOCKS;
  return &blocks[i];
}

static void remember(void *at, size_t size, int who) {
  bool was = counting;
  counting = false;
  Block *block = find(at);
  if (used_count == BLOCKS / 2) abort();
  used[used_count++] = block;
  block->at = at;
  block->size = size;
  block->who = who;
  block->freed = false;
  block->depth = backtrace(block->frames, FRAMES);
  counting = was;
}

/* Whether this allocation is to fail. */
static bool fails(int who) {
  if (who != target || countdown > 1) {
    if (who == target) countdown--;
    return false;
  }
  if (countdown < 1 && !for_good) return false;
  countdown = 0;
  bool was = counting;
  counting = false;
  failed_depth = backtrace(failed_frames, FRAMES);
  counting = was;
  reached = true;
  return true;
}

static bool ours(void) {
  return counting && pthread_equal(pthread_self(), main_thread);
}

static void *allocate(size_t size, void *caller) {
  int who = whose(caller);
  if (who == NOBODY) return __libc_malloc(size);
  if (fails(who)) return NULL;
  void *block = __libc_malloc(size);
  if (block) remember(block, size, who);
  return block;
}

/* What was freed stays reserved and is overwritten: whoever uses it still, sees it. */
static bool release(void *at) {
  Block *block = find(at);
  if (!block->at) return false;
  if (block->freed) {
    complain("a block is freed twice");
    show("allocated:", block->frames, block->depth);
    return true;
  }
  block->freed = true;
  memset(at, 0xdd, block->size);
  return true;
}

void *malloc(size_t size) {
  return ours() ? allocate(size, __builtin_return_address(0)) : __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
  if (!ours()) return __libc_calloc(count, size);
  if (size && count > SIZE_MAX / size) return NULL;
  void *block = allocate(count * size, __builtin_return_address(0));
  if (block) memset(block, 0, count * size);
  return block;
}

void *realloc(void *at, size_t size) {
  if (!ours()) return __libc_realloc(at, size);
  Block *block = at ? find(at) : NULL;
  int who = whose(__builtin_return_address(0));
  if (who == NOBODY && (!block || !block->at)) return __libc_realloc(at, size);
  if (!at) return allocate(size, __builtin_return_address(0));
  if (!block->at) {
    /* From before the fork. */
    if (fails(who)) return NULL;
    void *moved = __libc_realloc(at, size);
    return moved;
  }
  if (size == 0) {
    release(at);
    return NULL;
  }
  void *moved = allocate(size, __builtin_return_address(0));
  if (!moved) return NULL;
  memcpy(moved, at, size < block->size ? size : block->size);
  release(at);
  return moved;
}

void free(void *at) {
  if (at && ours() && release(at)) return;
  __libc_free(at);
}

/* Lua tries once more, after it has collected: that must fail too. */
static void *lua_allocator(void *state, void *at, size_t old, size_t size) {
  static bool again;
  (void)state;
  if (size == 0) {
    __libc_free(at);
    return NULL;
  }
  bool larger = !at || size > old;
  if (counting && larger && target == LUA) {
    bool fail = again || fails(LUA);
    again = fail && !again;
    if (fail) return NULL;
  }
  return __libc_realloc(at, size);
}

/* A Lua error leaves all frames below its pcall: none of them may be GnuTLS's. */
__attribute__((noreturn)) void __longjmp_chk(jmp_buf where, int value) {
  static __attribute__((noreturn)) void (*real)(jmp_buf, int);
  if (!real) *(void **)&real = dlsym(RTLD_NEXT, "__longjmp_chk");
  if (counting) {
    counting = false;
    void *frames[128];
    int depth = backtrace(frames, 128);
    for (int i = 0; i < depth; i++)
      if (whose(frames[i]) == GNUTLS) {
        complain("a Lua error is thrown through GnuTLS");
        show("thrown:", frames, depth);
        break;
      }
    counting = true;
  }
  real(where, value);
}

/* Runs ---------------------------------------------------------------------------------------- */

static int run_script(int argc, char **argv, bool loud) {
  lua_State *L = lua_newstate(lua_allocator, NULL);
  int status = LUA_ERRMEM;
  if (L) {
    /* Opening the libraries is Lua's business, and reading the script: what the function does that
     * it returns, is ours. */
    bool was = counting;
    counting = false;
    luaL_openlibs(L);
    status = luaL_loadfile(L, argv[0]);
    if (status == LUA_OK) status = lua_pcall(L, 0, 1, 0);
    if (status == LUA_OK) {
      for (int i = 1; i < argc; i++)
        lua_pushstring(L, argv[i]);
      counting = was;
      status = lua_pcall(L, argc - 1, 0, 0);
    }
    counting = was;
    if (status != LUA_OK && loud) printf("%s\n", lua_tostring(L, -1));
    lua_close(L);
  }
  return status;
}

/* The place in the module from which a stack has left it. */
static void *way_out(void **frames, int depth) {
  for (int i = 0; i < depth; i++)
    if (whose(frames[i]) == CORE) return frames[i];
  return NULL;
}

/* GnuTLS, libtasn1 and GMP do not all survive a failed allocation of their own. When the crash
 * comes from the very call in which the allocation failed, the module had no say in it. */
static void crashed(int number) {
  counting = false;
  void *frames[FRAMES * 2];
  int depth = backtrace(frames, FRAMES * 2);
  void *out = way_out(frames, depth);
  if (target == GNUTLS && number != SIGALRM && out && out == way_out(failed_frames, failed_depth) &&
      whose(frames[3]) != CORE)
    _exit(GNUTLS_CRASH);
  complain(number == SIGALRM ? "it hangs" : "it crashes");
  show("there:", frames, depth);
  _exit(PROBLEM);
}

/* What is still allocated: a leak. Lua's memory is all freed by lua_close, if only it returns. */
static int leaks(void) {
  int left = 0, of_gnutls = 0;
  for (int i = 0; i < used_count; i++) {
    Block *block = used[i];
    if (block->freed) continue;
    if (block->who == CORE || target != GNUTLS) {
      if (left++ < 2) {
        complain("a block is never freed");
        show("allocated:", block->frames, block->depth);
      }
    } else {
      of_gnutls++;
    }
  }
  return of_gnutls;
}

static int one_run(long n, int argc, char **argv) {
  static const int signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE, SIGALRM};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
    signal(signals[i], crashed);
  /* glibc complains there of what GnuTLS frees in a crash of its own; what is told here is on
   * standard output. */
  if (target == GNUTLS) {
    int nowhere = open("/dev/null", O_WRONLY);
    if (nowhere >= 0) dup2(nowhere, STDERR_FILENO);
  }
  alarm(60);
  countdown = n;
  counting = true;
  run_script(argc, argv, false);
  counting = false;
  int of_gnutls = leaks();
  if (problem) return PROBLEM;
  if (!reached) return NOT_REACHED;
  return of_gnutls ? GNUTLS_LEAK : HANDLED;
}

static long number(const char *name, long fallback) {
  const char *text = getenv(name);
  return text ? strtol(text, NULL, 10) : fallback;
}

/* What glibc says to stderr when GnuTLS frees what it never set is no news: crashed() tells whose
 * it was, to stdout. */
static void hush(void) {
  int nowhere = open("/dev/null", O_WRONLY);
  if (nowhere < 0 || dup2(nowhere, STDERR_FILENO) < 0) _exit(PROBLEM);
}

int main(int argc, char **argv) {
  static const char *const names[] = {"", "lua", "core", "gnutls"};
  if (argc < 4) {
    fprintf(stderr, "usage: alloc_fail lua|core|gnutls once|all SCRIPT [ARGUMENT...]\n");
    return 2;
  }
  for (int i = LUA; i <= GNUTLS; i++)
    if (strcmp(argv[1], names[i]) == 0) target = i;
  for_good = strcmp(argv[2], "all") == 0;
  main_thread = pthread_self();
  blocks = __libc_calloc(BLOCKS, sizeof *blocks);
  void *frames[4];
  backtrace(frames, 4); /* loads what it needs */
  for (int i = 0; i < 2; i++)
    if (run_script(argc - 3, argv + 3, true) != LUA_OK) {
      printf("the script fails by itself\n");
      return 2;
    }
  dl_iterate_phdr(add_range, NULL);
  long runs = 0, problems = 0, gnutls_leaks = 0, gnutls_crashes = 0;
  long step = number("STEP", 1), last = number("LAST", 1000000);
  for (long n = number("FIRST", 1); n <= last; n += step) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
      if (target == GNUTLS) hush();
      _exit(one_run(n, argc - 3, argv + 3));
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child) return 2;
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : PROBLEM;
    if (code == NOT_REACHED) break;
    runs++;
    if (code == GNUTLS_LEAK) gnutls_leaks++;
    if (code == GNUTLS_CRASH) gnutls_crashes++;
    if (code != HANDLED && code != GNUTLS_LEAK && code != GNUTLS_CRASH) {
      problems++;
      printf("in run %ld (status %d)\n", n, status);
    }
    if (problems >= number("PROBLEMS", 5)) break;
  }
  if (gnutls_leaks) printf("%ld runs in which GnuTLS left blocks of its own\n", gnutls_leaks);
  if (gnutls_crashes) printf("%ld runs in which GnuTLS crashed within one call\n", gnutls_crashes);
  printf("%ld runs, %ld problems\n", runs, problems);
  return problems > 0;
}

/* Step 1, dns: names looked up by getaddrinfo on helper threads, so that /etc/hosts, nsswitch and
 * mDNS work and nothing blocks.
 *
 * A look-up is a job with a count of holders: the userdata, and the queue or the thread that has
 * it. The last one frees it, so a look-up may be given up at any time. Everything shared is guarded
 * by one mutex; a job's answer is written once, before `done`, and not changed after. */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/eventfd.h>
#endif

#define LOOKUP_TYPE "tlsconnect.lookup"

enum {
  THREADS = 16,    /* running at once in the process */
  QUEUED = 1024,   /* waiting for one */
  ADDRESSES = 256, /* kept of an answer */
  STACK = 1 << 20  /* of a thread */
};

typedef struct Job {
  struct Job *next_queued;
  struct Job *next, **link; /* among all jobs */
  int holders;
  bool held; /* by a userdata */
  bool queued, done, forked;
  int bell[2]; /* bell[0] becomes readable when done; -1 once nobody listens */
  int family;
  int error, system_error; /* of getaddrinfo, and errno with EAI_SYSTEM */
  size_t count;
  Address *addresses;
  char name[IDNA_MAX + 1];
} Job;

typedef struct {
  Job *job; /* NULL when closed */
} Lookup;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Job *jobs, *first_queued, **last_queued = &first_queued;
static int threads, queued;

/* The bell: an eventfd, or a pipe --------------------------------------------------------------*/

static bool bell_open(int bell[2]) {
#ifdef __linux__
  bell[0] = bell[1] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return bell[0] >= 0;
#else
  if (pipe(bell) != 0) return false;
  for (int i = 0; i < 2; i++) {
    fcntl(bell[i], F_SETFD, FD_CLOEXEC);
    fcntl(bell[i], F_SETFL, O_NONBLOCK);
  }
  return true;
#endif
}

static void bell_close(int bell[2]) {
  if (bell[1] >= 0 && bell[1] != bell[0]) close(bell[1]);
  if (bell[0] >= 0) close(bell[0]);
  bell[0] = bell[1] = -1;
}

static void bell_ring(const int bell[2]) {
  uint64_t one = 1;
  ssize_t written;
  if (bell[1] < 0) return;
  do
    written = write(bell[1], &one, sizeof one);
  while (written < 0 && errno == EINTR);
}

/* A ringing bell of the child's own under the same number: the end of a pipe. */
static void bell_replace(int bell[2]) {
  int fd = bell[0], ends[2];
  if (fd < 0) return;
  bell_close(bell); /* which makes room for the two */
  if (pipe(ends) != 0) return;
  close(ends[1]);
  if (ends[0] != fd) {
    dup2(ends[0], fd);
    close(ends[0]);
  }
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  bell[0] = fd;
}

/* Jobs; all with the lock held ---------------------------------------------------------------- */

static void job_release(Job *job) {
  if (--job->holders > 0) return;
  *job->link = job->next;
  if (job->next) job->next->link = job->link;
  bell_close(job->bell);
  free(job->addresses);
  free(job);
}

static void job_enqueue(Job *job) {
  job->queued = true;
  job->holders++;
  *last_queued = job;
  last_queued = &job->next_queued;
  queued++;
}

static void job_dequeue(Job *job) {
  Job **at = &first_queued;
  while (*at != job)
    at = &(*at)->next_queued;
  *at = job->next_queued;
  if (last_queued == &job->next_queued) last_queued = at;
  job->next_queued = NULL;
  job->queued = false;
  queued--;
}

/* The thread ---------------------------------------------------------------------------------- */

/* Keeps each address once: answers repeat, and a hostile one may be endless. */
static size_t keep_addresses(const struct addrinfo *list, Address *kept) {
  size_t count = 0;
  for (; list && count < ADDRESSES; list = list->ai_next) {
    Address address;
    memset(&address, 0, sizeof address); /* all of it: it is compared as bytes */
    if (list->ai_addrlen > sizeof address.storage) continue;
    address.length = list->ai_addrlen;
    memcpy(&address.storage, list->ai_addr, list->ai_addrlen);
    size_t same = 0;
    while (same < count && memcmp(&kept[same], &address, sizeof address) != 0)
      same++;
    if (same == count) kept[count++] = address;
  }
  return count;
}

static void look_up(const char *name, int family, Job *answer) {
  const struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_STREAM};
  struct addrinfo *list = NULL;
  answer->error = getaddrinfo(name, NULL, &hints, &list);
  answer->system_error = errno;
  if (answer->error) return;
  size_t count = 0;
  for (const struct addrinfo *at = list; at && count < ADDRESSES; at = at->ai_next)
    count++;
  answer->addresses = calloc(count ? count : 1, sizeof *answer->addresses);
  if (answer->addresses)
    answer->count = keep_addresses(list, answer->addresses);
  else
    answer->error = EAI_MEMORY;
  freeaddrinfo(list);
}

static void *work(void *unused) {
  pthread_mutex_lock(&lock);
  while (first_queued) {
    Job *job = first_queued;
    job_dequeue(job); /* its hold is the thread's now */
    pthread_mutex_unlock(&lock);
    Job answer = {0};
    look_up(job->name, job->family, &answer);
    pthread_mutex_lock(&lock);
    job->error = answer.error;
    job->system_error = answer.system_error;
    job->count = answer.count;
    job->addresses = answer.addresses;
    job->done = true;
    bell_ring(job->bell);
    job_release(job);
  }
  threads--;
  pthread_mutex_unlock(&lock);
  return unused;
}

/* The program's signal handlers go on running where they always did: not here. Returns 0 or an
 * errno. */
static int start_thread(void) {
  pthread_attr_t attributes;
  pthread_t thread;
  sigset_t all, before;
  int error = pthread_attr_init(&attributes);
  if (error) return error;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, STACK);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  error = pthread_create(&thread, &attributes, work, NULL);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  return error;
}

/* Returns 0 or an errno; the lock is held. */
static int submit(Job *job) {
  job_enqueue(job);
  if (threads == THREADS) return 0;
  int error = start_thread();
  if (!error) {
    threads++;
    return 0;
  }
  if (threads > 0) return 0; /* one of those that run will take it */
  job_dequeue(job);
  job_release(job);
  return error;
}

/* Fork ---------------------------------------------------------------------------------------- */

static void before_fork(void) {
  pthread_mutex_lock(&lock);
}

static void after_fork(void) {
  pthread_mutex_unlock(&lock);
}

/* The child has no helper threads: what was under way there fails by name, at once and awake. A
 * job that only a thread held stays where it is; freeing is not for a fork handler. */
static void after_fork_in_child(void) {
  for (Job *job = jobs; job; job = job->next) {
    job->queued = false;
    job->next_queued = NULL;
    if (job->done || !job->held) continue;
    job->holders = 1;
    job->done = job->forked = true;
    bell_replace(job->bell);
  }
  first_queued = NULL;
  last_queued = &first_queued;
  queued = threads = 0;
  pthread_mutex_unlock(&lock);
}

static void watch_forks(void) {
  pthread_atfork(before_fork, after_fork, after_fork_in_child);
}

/* The userdata -------------------------------------------------------------------------------- */

static Lookup *check_lookup(lua_State *L) {
  return luaL_checkudata(L, 1, LOOKUP_TYPE);
}

/* close() -> true. The second time, too. The look-up is given up; its thread, if it has one, is
 * left to end by itself. */
static int lookup_close(lua_State *L) {
  Lookup *lookup = check_lookup(L);
  pthread_mutex_lock(&lock);
  Job *job = lookup->job;
  lookup->job = NULL;
  if (job) {
    job->held = false;
    bell_close(job->bell);
    if (job->queued) {
      job_dequeue(job);
      job_release(job);
    }
    job_release(job);
  }
  pthread_mutex_unlock(&lock);
  lua_pushboolean(L, 1);
  return 1;
}

/* lookup(host, "inet" | "inet6") -> lookup
 * The host is a name as to_ascii gives it. */
static int resolver_lookup(lua_State *L) {
  static const char *const names[] = {"inet", "inet6", NULL};
  static const int families[] = {AF_INET, AF_INET6};
  size_t size;
  const char *name = luaL_checklstring(L, 1, &size);
  int family = families[luaL_checkoption(L, 2, NULL, names)];
  const char *fault = idna_fault(name, size);
  if (fault) return error_named(L, "bad_host", "%s", fault);
  Lookup *lookup = core_new(L, LOOKUP_TYPE, sizeof *lookup);
  Job *job = calloc(1, sizeof *job);
  if (!job) return error_errno(L, ENOMEM);
  job->family = family;
  memcpy(job->name, name, size);
  if (!bell_open(job->bell)) {
    int error = errno;
    free(job);
    return error_errno(L, error);
  }
  pthread_mutex_lock(&lock);
  job->holders = 1;
  job->held = true;
  job->next = jobs;
  job->link = &jobs;
  if (job->next) job->next->link = &job->next;
  jobs = job;
  lookup->job = job;
  bool full = queued >= QUEUED;
  int error = full ? 0 : submit(job);
  pthread_mutex_unlock(&lock);
  if (full) return error_named(L, "too_many_lookups", "too many look-ups are under way");
  return error ? error_errno(L, error) : 1;
}

/* getfd() -> fd, readable when there is a result; -1 when closed */
static int lookup_getfd(lua_State *L) {
  const Lookup *lookup = check_lookup(L);
  lua_pushinteger(L, lookup->job ? lookup->job->bell[0] : -1);
  return 1;
}

/* result() -> list of addresses, each once, at least one | nil, "want_read" */
static int lookup_result(lua_State *L) {
  const Lookup *lookup = check_lookup(L);
  const Job *job = lookup->job;
  if (!job) return error_named(L, "closed", "closed");
  pthread_mutex_lock(&lock);
  bool done = job->done;
  pthread_mutex_unlock(&lock);
  if (!done) return error_want(L, false);
  if (job->forked) return error_named(L, "forked", "the look-up was begun in the parent process");
  if (job->error) return error_gai(L, job->error, job->system_error);
  if (job->count == 0) return error_named(L, "no_address", "the answer holds no address");
  lua_createtable(L, (int)job->count, 0);
  for (size_t i = 0; i < job->count; i++) {
    char text[ADDRESS_TEXT];
    address_format(&job->addresses[i], text);
    lua_pushstring(L, text);
    lua_rawseti(L, -2, (int)i + 1);
  }
  return 1;
}

static const luaL_Reg methods[] = {
    {"close", lookup_close}, {"getfd", lookup_getfd}, {"result", lookup_result}, {NULL, NULL}};

static const luaL_Reg meta[] = {{"__gc", lookup_close}, {"__close", lookup_close}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"lookup", resolver_lookup}, {NULL, NULL}};

void resolver_open(lua_State *L) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, watch_forks);
  core_type(L, LOOKUP_TYPE, methods, meta);
  luaL_setfuncs(L, functions, 0);
}

/* Step 1, dns: names made canonical, and looked up by getaddrinfo on helper threads, so that
 * /etc/hosts, nsswitch and mDNS work and nothing blocks.
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
  NAME = 253,      /* RFC 1035 2.3.4, as text without the last dot */
  LABEL = 63,
  STACK = 1 << 20 /* of a thread */
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
  char name[NAME + 1];
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

/* Names --------------------------------------------------------------------------------------- */

static bool is_digit(char byte) {
  return byte >= '0' && byte <= '9';
}

static bool is_name_byte(char byte) {
  return is_digit(byte) || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
         byte == '-' || byte == '_';
}

static size_t span(const char *text, size_t size, const char *set) {
  size_t count = 0;
  while (count < size && text[count] && strchr(set, text[count]))
    count++;
  return count;
}

/* WHATWG URL, "ends in a number": inet_aton and some resolvers read such a name as an address in
 * its short, octal or hexadecimal form. No top-level domain looks so. */
static bool is_number(const char *label, size_t size) {
  if (span(label, size, "0123456789") == size) return true;
  return size >= 2 && label[0] == '0' && (label[1] == 'x' || label[1] == 'X') &&
         span(label + 2, size - 2, "0123456789abcdefABCDEF") == size - 2;
}

/* NULL when the ASCII name can be looked up, else what is wrong with it. No dot at the end. */
static const char *name_fault(const char *name, size_t size) {
  if (size == 0) return "the name is empty";
  if (size > NAME) return "the name is longer than 253 bytes";
  const char *end = name + size, *label = name;
  for (;;) {
    const char *at = label;
    while (at < end && is_name_byte(*at))
      at++;
    if (at < end && *at != '.') return "the name holds a character that no host name has";
    if (at == label) return "the name has an empty label";
    if (at - label > LABEL) return "the name has a label longer than 63 bytes";
    if (at == end) break;
    label = at + 1;
  }
  return is_number(label, (size_t)(end - label)) ? "the name ends in a number" : NULL;
}

static int invalid(lua_State *L, const char *fault) {
  return error_named(L, "bad_host", "%s", fault);
}

/* Calls GnuTLS's mapping with a result that the collector frees. Leaves it on the stack. */
static const gnutls_datum_t *idna(lua_State *L,
                                  int (*map)(const char *, unsigned, gnutls_datum_t *, unsigned),
                                  const char *text, size_t size, int *error) {
  gnutls_datum_t *mapped = core_datum(L);
  *error = map(text, (unsigned)size, mapped, 0);
  return mapped;
}

static bool is_ascii(const char *text, size_t size) {
  for (size_t i = 0; i < size; i++)
    if ((unsigned char)text[i] >= 0x80) return false;
  return true;
}

/* UTS 46 ignores these: they may disappear. */
static bool is_ignorable(const unsigned char *text, size_t size) {
  uint32_t point = 0;
  if (size == 2) point = (uint32_t)(text[0] & 0x1f) << 6 | (text[1] & 0x3f);
  if (size == 3)
    point = (uint32_t)(text[0] & 0x0f) << 12 | (uint32_t)(text[1] & 0x3f) << 6 | (text[2] & 0x3f);
  return point == 0xad || point == 0x200b || (point >= 0xfe00 && point <= 0xfe0f);
}

/* libidn2 leaves out what UTS 46 forbids beside STD3's letters, such as a full-width slash, and the
 * rest would be another host's name. Tells by mapping each character between two others. */
static bool loses_character(lua_State *L, const char *label, size_t size) {
  for (size_t i = 0; i < size;) {
    size_t length = 1;
    while (i + length < size && ((unsigned char)label[i + length] & 0xc0) == 0x80)
      length++;
    if (length > 1 && length <= 4 && !is_ignorable((const unsigned char *)label + i, length)) {
      char probe[6] = "a";
      memcpy(probe + 1, label + i, length);
      probe[length + 1] = 'a';
      int error;
      const gnutls_datum_t *mapped = idna(L, gnutls_idna_map, probe, length + 2, &error);
      bool lost = error >= 0 && mapped->size == 2;
      lua_pop(L, 1);
      if (lost) return true;
    }
    i += length;
  }
  return false;
}

/* RFC 5891: a label with other than ASCII letters becomes its A-label. Adds it to the buffer that
 * has room for LABEL bytes; returns what is wrong, or NULL. */
static const char *map_label(lua_State *L, const char *label, size_t size, char *out,
                             size_t *written) {
  static const char *const fault = "the name has a label that is no valid international one";
  int error;
  if (memchr(label, '_', size) || loses_character(L, label, size)) return fault;
  const gnutls_datum_t *mapped = idna(L, gnutls_idna_map, label, size, &error);
  const char *result = NULL;
  if (error == GNUTLS_E_UNIMPLEMENTED_FEATURE)
    result = "this GnuTLS was built without international names";
  else if (error < 0 || mapped->size == 0 || memchr(mapped->data, '.', mapped->size) ||
           !is_ascii((char *)mapped->data, mapped->size))
    result = fault;
  else if (mapped->size > LABEL)
    result = "the name has a label longer than 63 bytes";
  else
    memcpy(out, mapped->data, *written = mapped->size);
  lua_pop(L, 1);
  return result;
}

/* An A-label must be the one that its own Unicode form has: there is one spelling for a host. */
static const char *check_a_label(lua_State *L, const char *label, size_t size) {
  int error, again = 0;
  const gnutls_datum_t *unicode = idna(L, gnutls_idna_reverse_map, label, size, &error);
  bool good = error == GNUTLS_E_UNIMPLEMENTED_FEATURE;
  if (error >= 0 && !is_ascii((char *)unicode->data, unicode->size)) {
    const gnutls_datum_t *mapped =
        idna(L, gnutls_idna_map, (char *)unicode->data, unicode->size, &again);
    good = again >= 0 && mapped->size == size && memcmp(mapped->data, label, size) == 0;
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return good ? NULL : "the name has an xn-- label that stands for nothing";
}

/* The length of a label separator at `text`: RFC 3490's ideographic and full-width dots, too. */
static size_t separator(const char *text, size_t left) {
  if (*text == '.') return 1;
  if (left >= 3 && (memcmp(text, "\xe3\x80\x82", 3) == 0 || memcmp(text, "\xef\xbc\x8e", 3) == 0 ||
                    memcmp(text, "\xef\xbd\xa1", 3) == 0))
    return 3;
  return 0;
}

/* to_ascii(name) -> the one spelling of that host: A-labels, lower case, no dot at the end
 * The code of what is refused is "bad_host". UTS 46 and RFC 5891, on UTF-8. */
static int resolver_to_ascii(lua_State *L) {
  size_t size;
  const char *name = luaL_checklstring(L, 1, &size);
  char out[NAME + 1 + LABEL + 1];
  size_t length = 0, start = 0;
  const char *fault = NULL;
  while (start < size && !fault) {
    size_t end = start, dot = 0, written = 0;
    while (end < size && (dot = separator(name + end, size - end)) == 0)
      end++;
    const char *label = name + start;
    size_t label_size = end - start;
    char *to = out + length;
    if (label_size > 4 * LABEL + 4)
      fault = "the name has a label longer than 63 bytes";
    else if (!is_ascii(label, label_size))
      for (size_t i = 0; i < label_size && !fault; i++) {
        bool plain = (unsigned char)label[i] >= 0x80 || is_name_byte(label[i]);
        if (!plain) fault = "the name holds a character that no host name has";
      }
    else if (label_size > LABEL)
      fault = "the name has a label longer than 63 bytes";
    else
      memcpy(to, label, written = label_size);
    if (!fault && !is_ascii(label, label_size))
      fault = map_label(L, label, label_size, to, &written);
    for (size_t i = 0; i < written; i++)
      if (to[i] >= 'A' && to[i] <= 'Z') to[i] = (char)(to[i] - 'A' + 'a');
    if (!fault && written >= 4 && memcmp(to, "xn--", 4) == 0) fault = check_a_label(L, to, written);
    length += written;
    start = end + dot;
    if (dot && start < size && !fault) out[length++] = '.';
    if (length > NAME && !fault) fault = "the name is longer than 253 bytes";
    if (dot && written == 0 && !fault) fault = "the name has an empty label";
  }
  if (!fault) fault = name_fault(out, length);
  if (fault) return invalid(L, fault);
  lua_pushlstring(L, out, length);
  return 1;
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
  const char *fault = name_fault(name, size);
  if (fault) return invalid(L, fault);
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

static const luaL_Reg functions[] = {
    {"lookup", resolver_lookup}, {"to_ascii", resolver_to_ascii}, {NULL, NULL}};

void resolver_open(lua_State *L) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, watch_forks);
  core_type(L, LOOKUP_TYPE, methods, meta);
  luaL_setfuncs(L, functions, 0);
}

/* The roots. Of those in a file a hash of each subject name and where it stands is kept; a
 * certificate is read when a chain asks for it. What a hash finds is compared byte by byte. Files
 * are watched: each is compared by device, number, size and times before a verification, and all
 * are read again when one has changed. */
#include "trust.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FILE = 64 << 20, REMEMBERED = 64, USUAL_ROOT = 1500 /* bytes of PEM */ };

/* The coarsest clock of a file system, FAT's, in seconds. Others count in a kernel's ticks, in one
 * of which a file may change twice as well. */
enum { FILE_CLOCK = 2 };

typedef struct {
  char *path;
  struct stat seen;
  bool directory, lazy, member; /* member: found in a directory, gone with the next reading */
  bool fresh;                   /* had changed a moment before it was read */
} Source;

typedef struct {
  uint64_t subject, whole; /* hashes of the subject and, when the source is not lazy, of the DER */
  size_t source;           /* HANDED_IN, SYSTEM: `der` holds it */
  size_t offset, size;     /* of the base64 (or, with `binary`, of the DER) in the file */
  bool binary, broken;
  unsigned char *der;
  unsigned char *limits; /* name constraints that hold for this root; NULL: none */
  size_t limits_size;
  View *view;
} Root;

/* Of roots that are in no file: handed in, and kept; GnuTLS's view of the system, asked for again
 * when the files have changed. */
static const size_t HANDED_IN = (size_t)-1, SYSTEM = (size_t)-2;

static bool in_file(const Root *root) {
  return root->source < SYSTEM;
}

struct Store {
  Source *sources;
  size_t source_count, source_room;
  Root *roots;
  size_t root_count, root_room;
  View *remembered[REMEMBERED];
  size_t next_remembered, remembered_count, loaded, broken;
  unsigned long generation;
  bool stale, starved; /* starved: a root was not read for want of memory */
};

/* Reading ------------------------------------------------------------------------------------- */

/* Eight bytes at a time: all of a bundle's subjects are hashed at first use. */
static uint64_t hash(Bytes bytes) {
  uint64_t value = 0xcbf29ce484222325u ^ bytes.size, word;
  for (; bytes.size >= sizeof word; bytes.data += sizeof word, bytes.size -= sizeof word) {
    memcpy(&word, bytes.data, sizeof word);
    value = (value ^ word) * 0x9e3779b97f4a7c15u;
    value ^= value >> 32;
  }
  for (size_t i = 0; i < bytes.size; i++)
    value = (value ^ bytes.data[i]) * 0x9e3779b97f4a7c15u;
  return value ^ value >> 32;
}

static bool same_file(const struct stat *a, const struct stat *b) {
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
         a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
         a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/* A change of a file within the same tick as the last one before it was read cannot be seen in its
 * times, so it is read once more when that tick is surely over. */
static bool just_changed(const struct stat *seen) {
  time_t since = time(NULL) - seen->st_ctim.tv_sec;
  return since >= 0 && since <= FILE_CLOCK;
}

static int read_all(int fd, size_t offset, size_t size, unsigned char *out) {
  while (size) {
    ssize_t got = pread(fd, out, size, (off_t)offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got < 0 ? -errno : -EIO;
    out += got;
    offset += (size_t)got;
    size -= (size_t)got;
  }
  return 0;
}

static bool grow(void **array, size_t count, size_t *room, size_t each) {
  if (count < *room) return true;
  size_t more = *room ? *room * 2 : 16;
  void *bigger = realloc(*array, more * each);
  if (!bigger) return false;
  *array = bigger;
  *room = more;
  return true;
}

/* Room for the roots of a bundle of that size, more or less. */
static bool reserve(Store *store, size_t size) {
  size_t room = store->root_count + size / USUAL_ROOT + 1;
  if (room <= store->root_room) return true;
  Root *roots = realloc(store->roots, room * sizeof *roots);
  if (!roots) return false;
  store->roots = roots;
  store->root_room = room;
  return true;
}

static Root *add_root(Store *store) {
  if (!grow((void **)&store->roots, store->root_count, &store->root_room, sizeof(Root)))
    return NULL;
  Root *root = &store->roots[store->root_count++];
  *root = (Root){.source = HANDED_IN};
  return root;
}

/* Reads the DER of a root in a file: its size, -EBADMSG, -ESTALE when the file has changed, or
 * -errno. */
static long read_root(const Store *store, const Root *root, unsigned char **der) {
  const Source *source = &store->sources[root->source];
  struct stat now;
  int fd = open(source->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0 || fstat(fd, &now) < 0 || !same_file(&now, &source->seen)) {
    if (fd >= 0) close(fd);
    return -ESTALE;
  }
  unsigned char *text = malloc(root->size + 1), *out = malloc(root->size + 1);
  long rc = text && out ? read_all(fd, root->offset, root->size, text) : -ENOMEM;
  close(fd);
  if (rc == 0 && root->binary) {
    memcpy(out, text, root->size);
    rc = (long)root->size;
  } else if (rc == 0) {
    rc = base64_decode((Bytes){text, root->size}, out);
    if (rc <= 0) rc = -EBADMSG;
  }
  free(text);
  *der = rc > 0 ? out : NULL;
  if (rc <= 0) free(out);
  return rc;
}

/* Whether a file that was read whole has this certificate already. 1, 0 or -ENOMEM. */
static int known_in_files(const Store *store, uint64_t whole, Bytes der) {
  for (size_t i = 0; i < store->root_count; i++) {
    const Root *root = &store->roots[i];
    if (root->whole != whole || !in_file(root)) continue;
    unsigned char *other;
    long size = read_root(store, root, &other);
    if (size == -ENOMEM) return -ENOMEM;
    bool same = size > 0 && bytes_equal(der, (Bytes){other, (size_t)size});
    if (size > 0) free(other);
    if (same) return 1;
  }
  return 0;
}

/* Notes one certificate of a file. 1: noted; 0: known; -errno. */
static int note(Store *store, size_t source, const Block *block) {
  uint64_t whole = store->sources[source].lazy ? 0 : hash(block->der) | 1;
  int known = whole ? known_in_files(store, whole, block->der) : 0;
  if (known) return known < 0 ? known : 0;
  Root *root = add_root(store);
  if (!root) return -ENOMEM;
  root->subject = hash(block->subject);
  root->whole = whole;
  root->source = source;
  root->offset = block->offset;
  root->size = block->size;
  root->binary = block->binary;
  return 1;
}

/* A broken certificate is passed over where the source is lazy, which would not find all that is
 * broken anyway. */
static long index_bundle(Store *store, size_t source, Bundle *bundle) {
  Block block;
  long added = 0, rc;
  while ((rc = bundle_next(bundle, &block)) != 0) {
    if (rc == -EBADMSG && bundle->lazy) continue;
    if (rc > 0) rc = note(store, source, &block);
    if (rc < 0) return rc;
    added += rc;
  }
  return added;
}

static long index_file(Store *store, size_t source) {
  int fd = open(store->sources[source].path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return -errno;
  struct stat *seen = &store->sources[source].seen;
  long rc;
  if (fstat(fd, seen) < 0) {
    rc = -errno;
  } else if (!S_ISREG(seen->st_mode)) {
    rc = S_ISDIR(seen->st_mode) ? -EISDIR : -EINVAL;
  } else if (seen->st_size > MAX_FILE) {
    rc = -EFBIG;
  } else {
    Bundle bundle = {.fd = fd, .size = (size_t)seen->st_size, .lazy = store->sources[source].lazy};
    store->sources[source].fresh = just_changed(seen);
    rc = reserve(store, bundle.size) ? index_bundle(store, source, &bundle) : -ENOMEM;
    if (rc == -EBADMSG) store->broken = bundle.count;
    bundle_free(&bundle);
  }
  close(fd);
  return rc;
}

static long add_source(Store *store, const char *path, size_t *source) {
  if (!grow((void **)&store->sources, store->source_count, &store->source_room, sizeof(Source)))
    return -ENOMEM;
  Source *new = &store->sources[store->source_count];
  memset(new, 0, sizeof *new);
  new->path = strdup(path);
  if (!new->path) return -ENOMEM;
  *source = store->source_count++;
  return 0;
}

static bool known_file(const Store *store, const struct stat *file) {
  for (size_t i = 0; i < store->source_count; i++)
    if (store->sources[i].member && store->sources[i].seen.st_dev == file->st_dev &&
        store->sources[i].seen.st_ino == file->st_ino)
      return true;
  return false;
}

/* Every regular file of the folder once, whatever its name and however many links lead to it; one
 * that holds no certificate is passed over. */
static long index_directory(Store *store, size_t directory) {
  DIR *folder = opendir(store->sources[directory].path);
  if (!folder) return -errno;
  long added = 0, rc = 0;
  if (fstat(dirfd(folder), &store->sources[directory].seen) < 0) rc = -errno;
  store->sources[directory].fresh = just_changed(&store->sources[directory].seen);
  struct dirent *entry;
  while (rc >= 0 && (entry = readdir(folder))) {
    struct stat file;
    if (entry->d_name[0] == '.' || fstatat(dirfd(folder), entry->d_name, &file, 0) < 0 ||
        !S_ISREG(file.st_mode) || known_file(store, &file))
      continue;
    const char *base = store->sources[directory].path;
    size_t size = strlen(base) + strlen(entry->d_name) + 2, source;
    char *path = malloc(size);
    if (!path) {
      rc = -ENOMEM;
      break;
    }
    snprintf(path, size, "%s/%s", base, entry->d_name);
    rc = add_source(store, path, &source);
    free(path);
    if (rc < 0) break;
    store->sources[source].member = true;
    store->sources[source].seen = file;
    long found = index_file(store, source);
    if (found > 0) added += found;
    if (found == -ENOMEM) rc = found;
  }
  closedir(folder);
  return rc < 0 ? rc : added;
}

/* The store ----------------------------------------------------------------------------------- */

Store *store_new(void) {
  Store *store = calloc(1, sizeof *store);
  if (store) store->generation = 1;
  return store;
}

static void free_view(View *view) {
  if (!view) return;
  view_free(view);
  free(view);
}

static void free_root(Root *root) {
  free_view(root->view);
  free(root->der);
  free(root->limits);
}

void store_free(Store *store) {
  if (!store) return;
  for (size_t i = 0; i < store->root_count; i++)
    free_root(&store->roots[i]);
  for (size_t i = 0; i < store->source_count; i++)
    free(store->sources[i].path);
  for (size_t i = 0; i < store->remembered_count; i++) {
    free((void *)store->remembered[i]->der.data);
    free_view(store->remembered[i]);
  }
  free(store->roots);
  free(store->sources);
  free(store);
}

long store_file(Store *store, const char *path, bool lazy) {
  size_t source;
  long rc = add_source(store, path, &source);
  if (rc < 0) return rc;
  store->sources[source].lazy = lazy;
  store->generation++;
  return index_file(store, source);
}

long store_directory(Store *store, const char *path) {
  size_t source;
  long rc = add_source(store, path, &source);
  if (rc < 0) return rc;
  store->sources[source].directory = true;
  store->generation++;
  return index_directory(store, source);
}

/* Gives a root its limits, in place of those it had. */
static bool limit(Root *root, Bytes limits) {
  if (!limits.data) return true;
  unsigned char *copy = malloc(limits.size);
  if (!copy) return false;
  memcpy(copy, limits.data, limits.size);
  free(root->limits);
  root->limits = copy;
  root->limits_size = limits.size;
  if (root->view) root->view->limits = (Bytes){copy, limits.size};
  return true;
}

/* Of those that were handed in: one that a file has, too, is kept beside it, for the file's is
 * forgotten when the file changes. */
static Root *find_der(Store *store, uint64_t whole, Bytes der) {
  for (size_t i = 0; i < store->root_count; i++) {
    Root *root = &store->roots[i];
    if (root->whole == whole && root->source == HANDED_IN &&
        bytes_equal((Bytes){root->der, root->size}, der))
      return root;
  }
  return NULL;
}

static long add_der(Store *store, Bytes der, size_t source, Bytes limits) {
  Bytes subject;
  if (!bundle_subject(der, &subject)) return -EBADMSG;
  uint64_t whole = hash(der) | 1;
  Root *known = find_der(store, whole, der);
  if (known) {
    if (limits.data) store->generation++;
    return limit(known, limits) ? 0 : -ENOMEM;
  }
  unsigned char *copy = malloc(der.size);
  if (!copy) return -ENOMEM;
  Root *root = add_root(store);
  if (!root) {
    free(copy);
    return -ENOMEM;
  }
  memcpy(copy, der.data, der.size);
  root->der = copy;
  root->source = source;
  root->size = der.size;
  root->subject = hash(subject);
  root->whole = whole;
  store->generation++;
  return limit(root, limits) ? 1 : -ENOMEM;
}

long store_text(Store *store, Bytes text, Bytes limits) {
  if (text.size && text.data[0] == DER_SEQUENCE) return add_der(store, text, HANDED_IN, limits);
  Bytes rest = text;
  Pem pem;
  long added = 0;
  int more;
  while ((more = pem_next(&rest, &pem)) > 0) {
    if (!bundle_takes(&pem)) continue;
    unsigned char *der = malloc(pem.body.size + 1);
    if (!der) return -ENOMEM;
    long got = base64_decode(pem.body, der);
    long rc = got <= 0 ? -EBADMSG : add_der(store, (Bytes){der, (size_t)got}, HANDED_IN, limits);
    free(der);
    if (rc < 0) return rc;
    added += rc;
  }
  if (more < 0) return -EBADMSG;
  return added;
}

/* Reads root `i` whole. NULL when it is broken, or its file has changed. */
static View *load(Store *store, size_t i) {
  Root *root = &store->roots[i];
  if (root->view || root->broken) return root->view;
  size_t size = root->size;
  if (in_file(root)) {
    Bytes subject;
    unsigned char *der;
    long got = read_root(store, root, &der);
    if (got == -ESTALE) store->stale = true;
    if (got == -ENOMEM) store->starved = true;
    if (got == -EBADMSG) root->broken = true;
    if (got <= 0) return NULL;
    size = (size_t)got;
    if (!bundle_subject((Bytes){der, size}, &subject)) {
      free(der);
      root->broken = true;
      return NULL;
    }
    root->der = der;
  }
  root->view = malloc(sizeof(View));
  if (!root->view) {
    store->starved = true;
    if (in_file(root)) {
      free(root->der);
      root->der = NULL;
    }
    return NULL;
  }
  view_read(root->view, (Bytes){root->der, size});
  if (root->limits) root->view->limits = (Bytes){root->limits, root->limits_size};
  store->loaded++;
  return root->view;
}

size_t store_find(Store *store, Bytes subject, View **views, size_t room) {
  uint64_t wanted = hash(subject);
  size_t found = 0;
  for (size_t i = 0; i < store->root_count && found < room; i++) {
    if (store->roots[i].subject != wanted) continue;
    View *view = load(store, i);
    if (!view || !bytes_equal(view->subject, subject)) continue;
    bool again = false;
    for (size_t j = 0; j < found; j++) {
      if (!bytes_equal(views[j]->der, view->der)) continue;
      again = true;
      if (view->limits.data) views[j] = view; /* in the system's file, and with limits beside it */
    }
    if (!again) views[found++] = view;
  }
  return found;
}

Bytes store_at(Store *store, size_t index) {
  View *view = index < store->root_count ? load(store, index) : NULL;
  return view ? view->der : (Bytes){NULL, 0};
}

long store_system(Store *store) {
  gnutls_x509_trust_list_t list;
  gnutls_x509_trust_list_iter_t iterator = NULL;
  gnutls_x509_crt_t crt;
  long added = 0;
  if (gnutls_x509_trust_list_init(&list, 0) < 0) return -ENOMEM;
  gnutls_x509_trust_list_add_system_trust(list, 0, 0);
  while (added >= 0 && gnutls_x509_trust_list_iter_get_ca(list, &iterator, &crt) >= 0) {
    gnutls_datum_t der;
    if (gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_DER, &der) >= 0) {
      Bytes bytes = {der.data, der.size}, subject;
      View *same[16];
      bool known = false;
      if (bundle_subject(bytes, &subject)) {
        size_t count = store_find(store, subject, same, 16);
        for (size_t i = 0; i < count; i++)
          known = known || bytes_equal(same[i]->der, bytes);
        if (!known) {
          long rc = add_der(store, bytes, SYSTEM, (Bytes){NULL, 0});
          added = rc == -ENOMEM ? rc : added + (rc > 0);
        }
      }
      gnutls_free(der.data);
    }
    gnutls_x509_crt_deinit(crt);
  }
  gnutls_x509_trust_list_iter_deinit(iterator);
  gnutls_x509_trust_list_deinit(list, 1);
  return added;
}

static bool changed(const Source *source) {
  struct stat now;
  return (source->fresh && !just_changed(&source->seen)) || stat(source->path, &now) < 0 ||
         !same_file(&now, &source->seen);
}

int store_refresh(Store *store, const char **path) {
  bool again = store->stale;
  for (size_t i = 0; i < store->source_count && !again; i++)
    again = changed(&store->sources[i]);
  if (!again) return 0;
  /* Forget what came from files; what was handed in as text stays. */
  size_t kept = 0;
  for (size_t i = 0; i < store->root_count; i++) {
    if (store->roots[i].source == HANDED_IN)
      store->roots[kept++] = store->roots[i];
    else
      free_root(&store->roots[i]);
  }
  store->root_count = kept;
  size_t sources = 0;
  for (size_t i = 0; i < store->source_count; i++) {
    if (store->sources[i].member)
      free(store->sources[i].path);
    else
      store->sources[sources++] = store->sources[i];
  }
  store->source_count = sources;
  store->generation++;
  store->stale = true; /* until all of them could be read */
  for (size_t i = 0; i < sources; i++) {
    long rc = store->sources[i].directory ? index_directory(store, i) : index_file(store, i);
    if (rc < 0) {
      *path = store->sources[i].path;
      return (int)rc;
    }
  }
  store->stale = false;
  return 0;
}

bool store_stale(const Store *store) {
  return store->stale;
}

bool store_starved(Store *store) {
  bool starved = store->starved;
  store->starved = false;
  return starved;
}

unsigned long store_generation(const Store *store) {
  return store->generation;
}

size_t store_broken(const Store *store) {
  return store->broken;
}

size_t store_count(const Store *store) {
  return store->root_count;
}

size_t store_loaded(const Store *store) {
  return store->loaded;
}

void store_remember(Store *store, Bytes der) {
  for (size_t i = 0; i < store->remembered_count; i++)
    if (bytes_equal(store->remembered[i]->der, der)) return;
  View *view = malloc(sizeof *view);
  unsigned char *copy = malloc(der.size);
  if (!view || !copy) {
    free(view);
    free(copy);
    return;
  }
  memcpy(copy, der.data, der.size);
  view_read(view, (Bytes){copy, der.size});
  size_t place = store->next_remembered;
  store->next_remembered = (place + 1) % REMEMBERED;
  if (place < store->remembered_count) {
    free((void *)store->remembered[place]->der.data);
    free_view(store->remembered[place]);
  } else {
    store->remembered_count++;
  }
  store->remembered[place] = view;
}

size_t store_remembered(Store *store, View **views, size_t room) {
  size_t count = store->remembered_count < room ? store->remembered_count : room;
  memcpy(views, store->remembered, count * sizeof *views);
  return count;
}

/* The roots. One pass over a PEM bundle keeps a hash of each subject name and where it stands; a
 * certificate is read when a chain asks for it. Files are watched: each is compared by device,
 * number, size and times before a verification, and all are read again when one has changed. */
#include "trust.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILE = 64 << 20, REMEMBERED = 64, HEAD = 512 };

typedef struct {
  char *path;
  struct stat seen;
  bool directory, lazy, member; /* member: found in a directory, gone with the next reading */
} Source;

typedef struct {
  uint64_t subject, text; /* hashes of the subject and, when the source is not lazy, of the PEM */
  size_t source;          /* HANDED_IN, SYSTEM: `der` holds it */
  size_t offset, size;    /* of the base64 (or, with `binary`, of the DER) in the file */
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
  size_t next_remembered, remembered_count, loaded;
  unsigned long generation;
  bool stale;
};

/* Reading ------------------------------------------------------------------------------------- */

static uint64_t hash(Bytes bytes) {
  uint64_t value = 0xcbf29ce484222325u; /* FNV-1a */
  for (size_t i = 0; i < bytes.size; i++)
    value = (value ^ bytes.data[i]) * 0x100000001b3u;
  return value;
}

/* Steps over an element's header without asking that all of the element is there. */
static bool enter(Bytes *in) {
  unsigned char first = in->size > 1 ? in->data[1] : 0x80;
  size_t header = 2 + (first & 0x80 ? first & 0x7f : 0);
  if (header == 2 && first == 0x80) return false;
  if (header > 6 || in->size < header) return false;
  in->data += header;
  in->size -= header;
  return true;
}

/* The subject name of a certificate of which only the beginning may be there. */
static bool head_subject(Bytes in, Bytes *subject) {
  unsigned tag;
  Bytes content, whole;
  if (!enter(&in) || !enter(&in)) return false;
  for (int i = 0, skip = der_peek(&in) == (DER_CONSTRUCTED | 0) ? 5 : 4; i < skip; i++)
    if (!der_next(&in, &tag, &content, NULL)) return false; /* version ... validity */
  if (!der_next(&in, &tag, &content, &whole)) return false;
  *subject = whole;
  return true;
}

static bool same_file(const struct stat *a, const struct stat *b) {
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
         a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
         a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
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

static Root *add_root(Store *store) {
  if (!grow((void **)&store->roots, store->root_count, &store->root_room, sizeof(Root)))
    return NULL;
  Root *root = &store->roots[store->root_count++];
  *root = (Root){.source = HANDED_IN};
  return root;
}

static bool known_text(const Store *store, uint64_t text) {
  for (size_t i = 0; i < store->root_count; i++)
    if (store->roots[i].text == text) return true;
  return false;
}

/* Notes one certificate of a file. 1: noted; 0: skipped; -errno. */
static int index_block(Store *store, size_t source, const unsigned char *file, Bytes block,
                       bool binary) {
  unsigned char head[HEAD], *whole = NULL;
  Bytes der = {head, 0}, subject;
  bool lazy = store->sources[source].lazy;
  uint64_t text = lazy ? 0 : hash(block) | 1;
  if (text && known_text(store, text)) return 0;
  if (binary) {
    der = block;
  } else {
    long got = lazy ? base64_decode(block, head, sizeof head) : 0;
    if (got < 0) return -EBADMSG;
    der.size = (size_t)got;
  }
  if (!head_subject(der, &subject) && !binary) {
    whole = malloc(block.size + 3);
    if (!whole) return -ENOMEM;
    long got = base64_decode(block, whole, block.size + 3);
    der = (Bytes){whole, got < 0 ? 0 : (size_t)got};
    if (got <= 0) {
      free(whole);
      return -EBADMSG;
    }
  }
  int rc = 0;
  if (head_subject(der, &subject)) {
    Root *root = add_root(store);
    rc = root ? 1 : -ENOMEM;
    if (root) {
      root->subject = hash(subject);
      root->text = text;
      root->source = source;
      root->offset = (size_t)(block.data - file);
      root->size = block.size;
      root->binary = binary;
    }
  }
  free(whole);
  return rc;
}

static bool is_certificate(const Pem *pem) {
  return pem_is(pem, "CERTIFICATE") || pem_is(pem, "X509 CERTIFICATE");
}

static long index_bytes(Store *store, size_t source, const unsigned char *file, size_t size) {
  Bytes text = {file, size};
  Pem pem;
  long added = 0;
  int more;
  if (der_peek(&text) == DER_SEQUENCE) return index_block(store, source, file, text, true);
  while ((more = pem_next(&text, &pem)) > 0) {
    if (!is_certificate(&pem)) continue;
    int rc = index_block(store, source, file, pem.body, false);
    if (rc == -ENOMEM || (rc < 0 && !store->sources[source].lazy)) return rc;
    added += rc > 0;
  }
  if (more < 0 && !store->sources[source].lazy) return -EBADMSG;
  return added;
}

static long index_file(Store *store, size_t source) {
  int fd = open(store->sources[source].path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return -errno;
  struct stat *seen = &store->sources[source].seen;
  unsigned char *file = NULL;
  long rc = 0;
  if (fstat(fd, seen) < 0) {
    rc = -errno;
  } else if (!S_ISREG(seen->st_mode)) {
    rc = S_ISDIR(seen->st_mode) ? -EISDIR : -EINVAL;
  } else if (seen->st_size > MAX_FILE) {
    rc = -EFBIG;
  } else {
    size_t size = (size_t)seen->st_size;
    file = malloc(size + 1);
    rc = file ? read_all(fd, 0, size, file) : -ENOMEM;
    if (rc == 0) rc = index_bytes(store, source, file, size);
  }
  free(file);
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

/* A root of that hash; of those that were handed in, when `own`. */
static Root *find_text(Store *store, uint64_t text, bool own) {
  for (size_t i = 0; i < store->root_count; i++)
    if (store->roots[i].text == text && (!own || store->roots[i].source == HANDED_IN))
      return &store->roots[i];
  return NULL;
}

static long add_der(Store *store, Bytes der, size_t source, Bytes limits) {
  Bytes subject;
  if (!head_subject(der, &subject)) return -EBADMSG;
  uint64_t text = hash(der) | 1;
  /* One that a file has, too, is kept beside it: the file's is forgotten when the file changes. */
  Root *known = find_text(store, text, limits.data != NULL);
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
  root->text = text;
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
    if (!is_certificate(&pem)) continue;
    unsigned char *der = malloc(pem.body.size + 1);
    if (!der) return -ENOMEM;
    long got = base64_decode(pem.body, der, pem.body.size);
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
    const Source *source = &store->sources[root->source];
    struct stat now;
    int fd = open(source->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &now) < 0 || !same_file(&now, &source->seen)) {
      if (fd >= 0) close(fd);
      store->stale = true;
      return NULL;
    }
    unsigned char *text = malloc(size + 1), *der = malloc(size + 3);
    int rc = text && der ? read_all(fd, root->offset, size, text) : -ENOMEM;
    close(fd);
    long got = -1;
    if (rc == 0 && root->binary) {
      memcpy(der, text, size);
      got = (long)size;
    } else if (rc == 0) {
      got = base64_decode((Bytes){text, size}, der, size + 3);
    }
    free(text);
    if (got <= 0) {
      free(der);
      root->broken = rc == 0;
      return NULL;
    }
    root->der = der;
    size = (size_t)got;
  }
  root->view = malloc(sizeof(View));
  if (!root->view) {
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
      if (head_subject(bytes, &subject)) {
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
  return stat(source->path, &now) < 0 || !same_file(&now, &source->seen);
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

unsigned long store_generation(const Store *store) {
  return store->generation;
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

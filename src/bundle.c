/* The certificates in a file: PEM blocks among other text, or one in DER. A bundle of roots is some
 * 200 KB, of which a lazy reader wants the subjects: it goes through a window that stays small, and
 * decodes each block step by step until its subject is there. The file may change or shrink while
 * it is read, so it is not mapped. */
#include "trust.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WINDOW = 16 << 10, FIRST_DER = 4 << 10, LONGEST = 64 << 20 };

/* Bytes of most certificates before the issuer's name has begun, and of the dates. */
enum { BEFORE_ISSUER = 64, DATES = 36 };

bool bundle_takes(const Pem *pem) {
  return pem_is(pem, "CERTIFICATE") || pem_is(pem, "X509 CERTIFICATE");
}

/* How far one has come in a certificate of which the beginning is there. */
typedef struct {
  size_t at;    /* of the next element */
  int elements; /* passed: the two that hold the rest, then the version (or none) ... the dates */
} Progress;

/* How many bytes have to be there before the element at `at` can be passed; 0: they are; SIZE_MAX:
 * it is none. `into`: its header alone, of which the length is not looked at. */
static size_t pass(Bytes der, size_t *at, bool into) {
  Bytes rest = {der.data + *at, der.size - *at};
  if (!into && der_next(&rest, NULL, NULL, NULL)) {
    *at = der.size - rest.size;
    return 0;
  }
  if (rest.size < 2) return *at + 2;
  size_t size = rest.data[1], octets = size & 0x80 ? size & 0x7f : 0;
  if (size == 0x80 || octets > 4) return SIZE_MAX;
  if (rest.size < 2 + octets) return *at + 2 + octets;
  if (into) {
    *at += 2 + octets;
    return 0;
  }
  if (octets) size = 0;
  for (size_t i = 0; i < octets; i++)
    size = size << 8 | rest.data[2 + i];
  if (size > LONGEST || 2 + octets + size <= rest.size) return SIZE_MAX;
  return *at + 2 + octets + size;
}

/* Goes on to the subject, with the same results. */
static size_t find_subject(Bytes der, Progress *progress, Bytes *subject) {
  enum { HOLDERS = 2, VERSION = 2, SUBJECT = 7 };
  for (;;) {
    size_t start = progress->at, need;
    if (progress->elements == VERSION) {
      if (start >= der.size) return start + 1;
      if (der.data[start] != (DER_CONSTRUCTED | 0)) progress->elements++; /* it is left out */
    }
    bool holder = progress->elements < HOLDERS;
    if (holder && start < der.size && der.data[start] != DER_SEQUENCE) return SIZE_MAX;
    need = pass(der, &progress->at, holder);
    if (need) return need;
    if (progress->elements == SUBJECT) {
      *subject = (Bytes){der.data + start, progress->at - start};
      return 0;
    }
    progress->elements++;
  }
}

bool bundle_subject(Bytes der, Bytes *subject) {
  Progress progress = {0};
  return der_only(der, DER_SEQUENCE, &(Bytes){0}) && find_subject(der, &progress, subject) == 0;
}

/* Moves what was not looked at to the window's front and reads on behind it. */
static int read_more(Bundle *bundle) {
  size_t kept = bundle->text.size;
  if (kept) memmove(bundle->window, bundle->text.data, kept);
  if (kept > bundle->room / 2 || !bundle->window) {
    size_t room = bundle->window ? bundle->room * 2 : WINDOW;
    if (room > bundle->size) room = bundle->size;
    unsigned char *window = realloc(bundle->window, room);
    if (!window) return -ENOMEM;
    bundle->window = window;
    bundle->room = room;
  }
  bundle->text = (Bytes){bundle->window, kept};
  size_t want = bundle->size - bundle->read;
  if (want > bundle->room - kept) want = bundle->room - kept;
  ssize_t got;
  do
    got = pread(bundle->fd, bundle->window + kept, want, (off_t)bundle->read);
  while (got < 0 && errno == EINTR);
  if (got <= 0) return got < 0 ? -errno : -EIO;
  bundle->read += (size_t)got;
  bundle->text.size += (size_t)got;
  return 0;
}

/* Reads a block's body: until its subject is there when that suffices, else whole. */
static int decode(Bundle *bundle, Bytes body, Block *block) {
  if (bundle->der_room < body.size + 3) {
    size_t room = body.size + 3 > FIRST_DER ? body.size + 3 : FIRST_DER;
    free(bundle->der);
    bundle->der = malloc(room);
    bundle->der_room = bundle->der ? room : 0;
    if (!bundle->der) return -ENOMEM;
  }
  Base64 in = {.next = body.data, .left = body.size};
  block->der = (Bytes){bundle->der, 0};
  Progress progress = {0};
  size_t need = BEFORE_ISSUER;
  while (need) {
    /* What follows the issuer, the dates, is of one length: no step of its own. */
    size_t want = bundle->lazy ? need + DATES - block->der.size : body.size;
    long got = base64_read(&in, bundle->der + block->der.size, want);
    if (got < 0) return -EBADMSG;
    block->der.size += (size_t)got;
    need = find_subject(block->der, &progress, &block->subject);
    if (need == SIZE_MAX || (need && in.left == 0)) return -EBADMSG;
  }
  if (!bundle->lazy && !bundle_subject(block->der, &block->subject)) return -EBADMSG;
  return 1;
}

static int whole_file(Bundle *bundle, Block *block) {
  while (bundle->read < bundle->size) {
    int rc = read_more(bundle);
    if (rc < 0) return rc;
  }
  *block = (Block){.size = bundle->size, .binary = true, .der = bundle->text};
  bundle->text = (Bytes){bundle->window, 0};
  bundle->count++;
  return bundle_subject(block->der, &block->subject) ? 1 : -EBADMSG;
}

int bundle_next(Bundle *bundle, Block *block) {
  if (bundle->read == 0 && bundle->size) {
    int rc = read_more(bundle);
    if (rc < 0) return rc;
    if (der_peek(&bundle->text) == DER_SEQUENCE) return whole_file(bundle, block);
  }
  for (;;) {
    Bytes rest = bundle->text;
    Pem pem;
    int found = pem_next(&rest, &pem);
    if (found > 0) {
      const unsigned char *end = rest.data + rest.size;
      bundle->text = rest;
      if (!bundle_takes(&pem)) continue;
      bundle->count++;
      *block =
          (Block){.offset = bundle->read - (size_t)(end - pem.body.data), .size = pem.body.size};
      return decode(bundle, pem.body, block);
    }
    if (bundle->read == bundle->size) {
      bundle->text = (Bytes){bundle->window, 0};
      if (found < 0) bundle->count++;
      return found < 0 ? -EBADMSG : 0;
    }
    if (found == 0) pem_keep(&bundle->text);
    int rc = read_more(bundle);
    if (rc < 0) return rc;
  }
}

void bundle_free(Bundle *bundle) {
  free(bundle->window);
  free(bundle->der);
}

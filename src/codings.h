/* The body codings of this build: core.so names them in requests, optional.so decodes them. */
#ifndef TLSCONNECT_CODINGS_H
#define TLSCONNECT_CODINGS_H

#include <stddef.h>

typedef enum { CODING_NONE, CODING_GZIP, CODING_DEFLATE, CODING_BR, CODING_ZSTD } Coding;

typedef struct {
  const char *name;
  Coding coding;
} CodingName;

/* Those of the IANA registry that this build decodes, the best first. */
static const CodingName codings[] = {
#ifdef HAVE_ZSTD
    {"zstd", CODING_ZSTD},
#endif
#ifdef HAVE_BROTLI
    {"br", CODING_BR},
#endif
#ifdef HAVE_ZLIB
    {"gzip", CODING_GZIP}, {"deflate", CODING_DEFLATE},
#endif
    {NULL, CODING_NONE},
};

#endif

/* Body codings: gzip and deflate (zlib), br (libbrotlidec), zstd (libzstd), each where its library
 * was there when this was built. A decoder takes bytes and gives bytes, never more at once than
 * asked for: how much is too much is for its caller to say. */
#include "codings.h"
#include "core.h"

#include <string.h>

#ifdef HAVE_ZLIB
#include <zlib.h>
#endif
#ifdef HAVE_BROTLI
#include <brotli/decode.h>
#endif
#ifdef HAVE_ZSTD
#include <zstd.h>
#endif

#define DECODER_TYPE "tlsconnect.decoder"

/* What one call gives at most. */
#define PIECE 32768
/* RFC 9659: a window of 8 MB is what every decoder of a zstd coding has. */
#define ZSTD_WINDOW_LOG 23

typedef struct {
  Coding coding; /* CODING_NONE: closed */
  bool begun;    /* the first byte has been seen */
  bool ended;    /* at the end of the stream, or of one of several behind one another */
  const char *failed;
#ifdef HAVE_ZLIB
  z_stream zlib;
  bool inflating;
#endif
#ifdef HAVE_BROTLI
  BrotliDecoderState *brotli;
#endif
#ifdef HAVE_ZSTD
  ZSTD_DCtx *zstd;
#endif
} Decoder;

/* Where one step of a decoder reads and writes. */
typedef struct {
  const unsigned char *in;
  size_t in_left;
  unsigned char *out;
  size_t out_left;
} Window;

#if defined HAVE_ZLIB || defined HAVE_BROTLI || defined HAVE_ZSTD
static const char junk[] = "it is followed by bytes that do not belong to it";
#endif
static const char damaged[] = "it is damaged";
static const char no_memory[] = "there is no memory to decode it";

/* zlib ---------------------------------------------------------------------------------------- */

#ifdef HAVE_ZLIB

static const char *zlib_begin(Decoder *decoder, unsigned char first) {
  int bits = 15 + 16; /* gzip */
  /* RFC 9110 8.4.1.2: "deflate" is the zlib format; some servers leave its wrapper out. A zlib
   * header says method 8 in its first byte, which no encoder writes in front of bare data. */
  if (decoder->coding == CODING_DEFLATE) bits = (first & 15) == 8 ? 15 : -15;
  if (inflateInit2(&decoder->zlib, bits) != Z_OK) return no_memory;
  decoder->inflating = true;
  return NULL;
}

static const char *zlib_step(Decoder *decoder, Window *window) {
  z_stream *z = &decoder->zlib;
  if (decoder->ended) {
    /* RFC 1952 2.2: one member may follow another. */
    if (window->in_left == 0) return NULL;
    if (decoder->coding != CODING_GZIP || window->in[0] != 0x1f) return junk;
    if (inflateReset(z) != Z_OK) return damaged;
    decoder->ended = false;
  }
  size_t in = window->in_left > PIECE * 4 ? PIECE * 4 : window->in_left;
  z->next_in = (unsigned char *)window->in;
  z->avail_in = (uInt)in;
  z->next_out = window->out;
  z->avail_out = (uInt)window->out_left;
  int rc = inflate(z, Z_NO_FLUSH);
  window->in += in - z->avail_in;
  window->in_left -= in - z->avail_in;
  window->out += window->out_left - z->avail_out;
  window->out_left = z->avail_out;
  if (rc == Z_STREAM_END) {
    decoder->ended = true;
    return NULL;
  }
  if (rc == Z_OK || rc == Z_BUF_ERROR) return NULL;
  if (rc == Z_MEM_ERROR) return no_memory;
  if (rc == Z_DATA_ERROR && z->msg && strstr(z->msg, "check")) return "its checksum is wrong";
  if (rc == Z_DATA_ERROR && z->msg && strstr(z->msg, "header")) return "it does not begin as such";
  return damaged;
}

#endif

/* Brotli -------------------------------------------------------------------------------------- */

#ifdef HAVE_BROTLI

static const char *brotli_begin(Decoder *decoder) {
  decoder->brotli = BrotliDecoderCreateInstance(NULL, NULL, NULL);
  return decoder->brotli ? NULL : no_memory;
}

static const char *brotli_step(Decoder *decoder, Window *window) {
  if (decoder->ended) return window->in_left == 0 ? NULL : junk;
  BrotliDecoderResult rc = BrotliDecoderDecompressStream(
      decoder->brotli, &window->in_left, &window->in, &window->out_left, &window->out, NULL);
  if (rc == BROTLI_DECODER_RESULT_SUCCESS) decoder->ended = true;
  return rc == BROTLI_DECODER_RESULT_ERROR ? damaged : NULL;
}

#endif

/* Zstandard ----------------------------------------------------------------------------------- */

#ifdef HAVE_ZSTD

static const char *zstd_begin(Decoder *decoder) {
  decoder->zstd = ZSTD_createDCtx();
  if (!decoder->zstd) return no_memory;
  ZSTD_DCtx_setParameter(decoder->zstd, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG);
  return NULL;
}

static const char *zstd_step(Decoder *decoder, Window *window) {
  /* At the end of a frame another may follow: only a call with bytes begins it. */
  if (decoder->ended && window->in_left == 0) return NULL;
  ZSTD_inBuffer in = {window->in, window->in_left, 0};
  ZSTD_outBuffer out = {window->out, window->out_left, 0};
  bool follows = decoder->ended;
  size_t rc = ZSTD_decompressStream(decoder->zstd, &out, &in);
  window->in += in.pos;
  window->in_left -= in.pos;
  window->out += out.pos;
  window->out_left -= out.pos;
  if (!ZSTD_isError(rc)) {
    decoder->ended = rc == 0;
    return NULL;
  }
  const char *name = ZSTD_getErrorName(rc);
  if (strstr(name, "too much memory")) return "it needs a window of more than 8 MiB";
  if (strstr(name, "checksum")) return "its checksum is wrong";
  if (strstr(name, "Unknown frame")) return follows ? junk : "it does not begin as such";
  return damaged;
}

#endif

/* A decoder ----------------------------------------------------------------------------------- */

static const char *begin(Decoder *decoder, unsigned char first) {
  (void)first;
  decoder->begun = true;
  switch (decoder->coding) {
#ifdef HAVE_ZLIB
  case CODING_GZIP:
  case CODING_DEFLATE:
    return zlib_begin(decoder, first);
#endif
#ifdef HAVE_BROTLI
  case CODING_BR:
    return brotli_begin(decoder);
#endif
#ifdef HAVE_ZSTD
  case CODING_ZSTD:
    return zstd_begin(decoder);
#endif
  default:
    return damaged;
  }
}

static const char *step(Decoder *decoder, Window *window) {
  switch (decoder->coding) {
#ifdef HAVE_ZLIB
  case CODING_GZIP:
  case CODING_DEFLATE:
    return zlib_step(decoder, window);
#endif
#ifdef HAVE_BROTLI
  case CODING_BR:
    return brotli_step(decoder, window);
#endif
#ifdef HAVE_ZSTD
  case CODING_ZSTD:
    return zstd_step(decoder, window);
#endif
  default:
    (void)window;
    return damaged;
  }
}

static Decoder *check_decoder(lua_State *L) {
  Decoder *decoder = luaL_checkudata(L, 1, DECODER_TYPE);
  luaL_argcheck(L, decoder->coding != CODING_NONE, 1, "the decoder is closed");
  return decoder;
}

/* decode(data, from, room): decodes the bytes of data from index `from` on (1 by default), as far
 * as `room` bytes (by default, and at most, 32,768) hold what comes out. Returns them and the index
 * of the first byte that was not used. "" says that there is nothing more in what was given. Or
 * nil, message, cause (bad_coding), now and for each later call. */
static int decoder_decode(lua_State *L) {
  Decoder *decoder = check_decoder(L);
  size_t size;
  const char *data = luaL_checklstring(L, 2, &size);
  lua_Integer from = luaL_optinteger(L, 3, 1);
  lua_Integer room = luaL_optinteger(L, 4, PIECE);
  luaL_argcheck(L, from >= 1 && (size_t)from <= size + 1, 3, "an index of data expected");
  luaL_argcheck(L, room >= 1, 4, "1 or more expected");
  if (room > PIECE) room = PIECE;
  unsigned char out[PIECE];
  Window window = {(const unsigned char *)data + from - 1, size - (size_t)from + 1, out,
                   (size_t)room};
  if (!decoder->failed && !decoder->begun && window.in_left > 0)
    decoder->failed = begin(decoder, window.in[0]);
  while (!decoder->failed && decoder->begun && window.out_left > 0) {
    size_t in = window.in_left, room_left = window.out_left;
    decoder->failed = step(decoder, &window);
    if (in == window.in_left && room_left == window.out_left) break;
  }
  /* What came out before the damage is given first; the next call tells of it. */
  if (decoder->failed && window.out == out)
    return error_named(L, "bad_coding", "%s", decoder->failed);
  /* A push that raises loses what came out: what follows would be a body with a hole in it. */
  const char *failed = decoder->failed;
  decoder->failed = no_memory;
  lua_pushlstring(L, (const char *)out, (size_t)(window.out - out));
  decoder->failed = failed;
  lua_pushinteger(L, (lua_Integer)(size - window.in_left + 1));
  return 2;
}

/* finished(): whether what was decoded so far is a whole. */
static int decoder_finished(lua_State *L) {
  Decoder *decoder = check_decoder(L);
  lua_pushboolean(L, decoder->begun && decoder->ended && !decoder->failed);
  return 1;
}

static int decoder_close(lua_State *L) {
  Decoder *decoder = luaL_checkudata(L, 1, DECODER_TYPE);
#ifdef HAVE_ZLIB
  if (decoder->inflating) inflateEnd(&decoder->zlib);
  decoder->inflating = false;
#endif
#ifdef HAVE_BROTLI
  if (decoder->brotli) BrotliDecoderDestroyInstance(decoder->brotli);
  decoder->brotli = NULL;
#endif
#ifdef HAVE_ZSTD
  if (decoder->zstd) ZSTD_freeDCtx(decoder->zstd);
  decoder->zstd = NULL;
#endif
  decoder->coding = CODING_NONE;
  return 0;
}

/* decoder(coding): a decoder, or nil, message, cause (unsupported). */
static int coding_decoder(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  for (const CodingName *known = codings; known->name; known++) {
    if (strcmp(name, known->name) != 0) continue;
    Decoder *decoder = core_new(L, DECODER_TYPE, sizeof *decoder);
    decoder->coding = known->coding;
    return 1;
  }
  return error_named(L, "unsupported", "it cannot be decoded by this build");
}

static const luaL_Reg methods[] = {{"decode", decoder_decode},
                                   {"finished", decoder_finished},
                                   {"close", decoder_close},
                                   {NULL, NULL}};
static const luaL_Reg meta[] = {{"__gc", decoder_close}, {NULL, NULL}};

void coding_open(lua_State *L) {
  core_type(L, DECODER_TYPE, methods, meta);
  lua_pushcfunction(L, coding_decoder);
  lua_setfield(L, -2, "decoder");
}

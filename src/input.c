/* Buffered reading by pattern, the same for sockets and sessions.
 *
 * read(what, limit) answers with one string:
 *   n       exactly n bytes
 *   "l"     a line without its end (LF or CR LF); "L" the same with its end
 *   "head"  everything through the first empty line (a first line that is empty counts)
 *   "a"     everything until the end of the stream, "" too
 *   "some"  what is there, at least 1 byte and at most limit (16 KiB unless told)
 * but
 *   "answer", limit, fields, body
 *           reads a "head" of so many fields, and answers as head_push() does; where the body's
 *           length is known, no more than `body`, where it is here already and not encoded, it
 * comes as one more value. What head_push() refuses has been taken off the stream. limit is in
 * bytes and counts what is returned (of a line, without its end); none unless told. When it is
 * passed the cause's code is "too_long". Whatever had come before a want or an error stays
 * buffered: the same call goes on from there, and take() hands it out.
 *
 * The bytes live in one block that grows as they come, beyond 64 KB never as a length promises, and
 * is given back once empty. */
#include "core.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
  CHUNK = 16384,  /* least room offered to a pull: a whole TLS record */
  TURN = 1 << 20, /* bytes pulled in one call before a busy stream is paused */
  LARGE = 1 << 20,
  GROWTH = 64,
  BLOCK = 65536,  /* written to a file at once, and made at once where so much is awaited */
  NO_MEMORY = -2, /* beside what a pull returns */
  KEEP = 1024     /* so little waiting in a larger block is moved to a block of its size */
};

typedef enum { EXACTLY, ANSWER, LINE, LINE_AND_END, HEAD, ALL, SOME } Pattern;

typedef struct {
  Pattern pattern;
  size_t count;  /* of EXACTLY */
  size_t limit;  /* SIZE_MAX: none */
  size_t fields; /* of ANSWER */
  size_t body;
} Request;

static const char *const pattern_names[] = {"answer", "l", "L", "head", "a", "some", NULL};
static const Pattern patterns[] = {ANSWER, LINE, LINE_AND_END, HEAD, ALL, SOME};

static size_t check_size(lua_State *L, int index) {
  lua_Number number = luaL_checknumber(L, index);
  luaL_argcheck(L, number >= 0 && number <= 9007199254740992.0 && floor(number) == number, index,
                "a number of bytes expected");
  return number < (lua_Number)(SIZE_MAX / 4) ? (size_t)number : SIZE_MAX / 4;
}

static Request check_request(lua_State *L, int index) {
  Request request = {.limit = SIZE_MAX};
  if (lua_type(L, index) == LUA_TNUMBER)
    request.count = check_size(L, index);
  else
    request.pattern = patterns[luaL_checkoption(L, index, NULL, pattern_names)];
  if (!lua_isnoneornil(L, index + 1))
    request.limit = check_size(L, index + 1);
  else if (request.pattern == SOME)
    request.limit = CHUNK;
  if (request.pattern == ANSWER) {
    request.fields = check_size(L, index + 2);
    request.body = lua_isnoneornil(L, index + 3) ? 0 : check_size(L, index + 3);
  }
  luaL_argcheck(L, request.pattern != SOME || request.limit > 0, index + 1,
                "at least 1 byte expected");
  return request;
}

static size_t waiting(const Input *input) {
  return input->end - input->start;
}

static void free_block(Input *input) {
  if (input->string)
    large_drop(input->string);
  else
    free(input->data);
  input->string = NULL;
  input->data = NULL;
}

void input_free(Input *input) {
  free_block(input);
  memset(input, 0, sizeof *input);
}

/* Moves what waits to a block of that size, or to a string's. */
static bool resize(Input *input, size_t size, LargeString *string) {
  size_t count = waiting(input);
  unsigned char *data;
  if (!string && !input->string && input->start == 0 && !large_enough(size)) {
    data = realloc(input->data, size);
    if (!data) return false;
  } else {
    data = string ? string->bytes : large_enough(size) ? large_block(size) : malloc(size);
    if (!data) return false;
    if (count) memcpy(data, input->data + input->start, count);
    free_block(input);
  }
  input->string = string;
  input->data = data;
  input->start = 0;
  input->end = count;
  input->size = size;
  return true;
}

/* Makes room behind what waits, on the way to `total` waiting bytes. Blocks double, and bytes are
 * moved down only when there are fewer of them than have been handed out: both cost each byte a
 * constant, however the stream is cut. With L, `total` bytes are what will be handed out. */
static bool make_room(Input *input, size_t total, lua_State *L) {
  size_t count = waiting(input);
  size_t least = total <= BLOCK || total < count + CHUNK ? total : count + CHUNK;
  if (input->size - input->start >= least && input->size > input->end) return true;
  if (input->size >= least && input->start >= count) {
    memmove(input->data, input->data + input->start, count);
    input->start = 0;
    input->end = count;
    return true;
  }
  size_t size = input->size * 2 > least ? input->size * 2 : least;
  /* Megabytes have come and more are awaited: room that no byte has touched costs nothing, and
   * moving them once more would. */
  if (count >= LARGE && total < SIZE_MAX / 4 && total / GROWTH < count) size = total;
  if (size > total) size = total > CHUNK ? total : CHUNK;
  LargeString *string = L && size == total && large_enough(size) ? large_string(L, size) : NULL;
  return resize(input, size, string);
}

/* An idle stream keeps no block, or a small one. */
static void settle(Input *input) {
  if (waiting(input) == 0)
    input_free(input);
  else if (waiting(input) <= KEEP && input->size > 2 * KEEP)
    resize(input, waiting(input), NULL);
}

/* A push may have run a finaliser, and that one may have closed the stream: then nothing is left.
 */
static void consume(Input *input, size_t count) {
  if (count > waiting(input)) count = waiting(input);
  input->start += count;
  input->scanned = 0;
  if (waiting(input) == 0) input_free(input);
}

/* Pushes all that waits, which is a string. It is nobody else's meanwhile: a finaliser may close
 * the stream. */
static int hand_out_string(lua_State *L, Input *input) {
  Input whole = *input;
  memset(input, 0, sizeof *input);
  int status = large_finish(L, whole.string);
  if (status && !whole.string->taken && !input->data) {
    *input = whole;
  } else {
    large_drop(whole.string);
  }
  return status ? lua_error(L) : 1;
}

/* Pushes `shown` bytes and takes `count` off. The push may raise, and then nothing is lost. */
static int hand_out(lua_State *L, Input *input, size_t shown, size_t count) {
  if (count == 0) {
    lua_pushliteral(L, "");
    return 1;
  }
  if (input->string && shown == count && count == input->string->length)
    return hand_out_string(L, input);
  large_push(L, input->data + input->start, shown);
  consume(input, count);
  return 1;
}

/* Looks at each byte once: where a search ended without success the next one begins. Returns the
 * number of bytes through the end that was looked for, or 0. */
static size_t search(Input *input, Pattern pattern) {
  const unsigned char *bytes = input->data + input->start;
  size_t count = waiting(input);
  bool head = pattern == HEAD || pattern == ANSWER;
  if (input->scanned_head != head) input->scanned = 0;
  input->scanned_head = head;
  while (input->scanned < count) {
    const unsigned char *found = memchr(bytes + input->scanned, '\n', count - input->scanned);
    if (!found) {
      input->scanned = count;
      return 0;
    }
    size_t at = (size_t)(found - bytes);
    size_t before = at > 0 && bytes[at - 1] == '\r' ? at - 1 : at; /* where the line's text ends */
    if (!head || before == 0 || bytes[before - 1] == '\n') {
      input->scanned = at;
      return at + 1;
    }
    input->scanned = at + 1;
  }
  return 0;
}

/* Bytes of a line that ends with an LF at `count`, without its end. */
static size_t line_text(const Input *input, size_t count) {
  const unsigned char *line = input->data + input->start;
  return count > 1 && line[count - 2] == '\r' ? count - 2 : count - 1;
}

static int too_long(lua_State *L, const Request *request) {
  static const char *const nouns[] = {"data", "head", "line", "line", "head", "data", "data"};
  return error_named(L, "too_long", "%s longer than the limit of %.0f bytes",
                     nouns[request->pattern], (double)request->limit);
}

/* A head of so many bytes, and maybe its body. A finaliser that a push runs may close the stream,
 * so the head is read from elsewhere. */
static int answer(lua_State *L, Input *input, const Request *request, size_t size) {
  char usual[2048];
  const char *text = usual;
  if (size > sizeof usual) {
    lua_pushlstring(L, (const char *)input->data + input->start, size);
    text = lua_tostring(L, -1);
  } else {
    memcpy(usual, input->data + input->start, size);
  }
  Answer found;
  int results = head_push(L, text, size, request->fields, &found);
  if (found.framing == FRAMED_LENGTH && !found.encoded && found.length <= request->body &&
      waiting(input) >= size && found.length <= waiting(input) - size) {
    lua_pushlstring(L, (const char *)input->data + input->start + size, (size_t)found.length);
    size += (size_t)found.length;
    results++;
  }
  consume(input, size);
  return results;
}

/* Answers from what waits, or returns 0. */
static int serve(lua_State *L, Input *input, const Request *request) {
  size_t count = waiting(input);
  size_t limit = request->limit;
  switch (request->pattern) {
  case EXACTLY:
    if (request->count > limit) return too_long(L, request);
    return count >= request->count ? hand_out(L, input, request->count, request->count) : 0;
  case SOME:
    if (count == 0) return 0;
    if (count > limit) count = limit;
    return hand_out(L, input, count, count);
  case ALL:
    return count > limit ? too_long(L, request) : 0;
  case LINE:
  case LINE_AND_END:
  case HEAD:
  case ANSWER:
    break;
  }
  bool head = request->pattern == HEAD || request->pattern == ANSWER;
  size_t found = count ? search(input, request->pattern) : 0;
  if (!found) {
    /* A CR that is the last byte may belong to the line's end. */
    bool over = count > limit && (count - 1 > limit || head || input->data[input->end - 1] != '\r');
    return over ? too_long(L, request) : 0;
  }
  size_t text = head ? found : line_text(input, found);
  if (text > limit) return too_long(L, request);
  if (request->pattern == ANSWER) return answer(L, input, request, found);
  return hand_out(L, input, request->pattern == LINE ? text : found, found);
}

int input_read(lua_State *L, int index, Input *input, input_pull pull, input_fail fail,
               void *owner) {
  Request request = check_request(L, index);
  size_t pulled = 0;
  for (;;) {
    int results = serve(L, input, &request);
    if (results) return results;
    size_t total = request.pattern == EXACTLY ? request.count : SIZE_MAX / 2;
    if (request.pattern != EXACTLY && request.limit < total - CHUNK) total = request.limit + CHUNK;
    if (total < CHUNK) total = CHUNK;
    if (pulled >= TURN && input->pollable) return error_want(L, false);
    bool exactly = request.pattern == EXACTLY && total == request.count;
    if (!make_room(input, total, exactly ? L : NULL)) return error_errno(L, ENOMEM);
    input->pollable = false;
    ssize_t got = pull(owner, input->data + input->end, input->size - input->end);
    if (got > 0) {
      input->end += (size_t)got;
      pulled += (size_t)got;
      continue;
    }
    settle(input);
    if (got == 0 && request.pattern == ALL)
      return hand_out(L, input, waiting(input), waiting(input));
    return fail(L, owner, got);
  }
}

bool input_add(Input *input, const void *data, size_t size) {
  if (!make_room(input, waiting(input) + size, NULL)) return false;
  memcpy(input->data + input->end, data, size);
  input->end += size;
  return true;
}

/* Pulls until `wanted` bytes wait or no more come. What the last pull returned, or 1. */
static ssize_t fill(Input *input, size_t wanted, input_pull pull, void *owner) {
  while (waiting(input) < wanted) {
    if (!make_room(input, wanted > CHUNK ? wanted : CHUNK, NULL)) return NO_MEMORY;
    input->pollable = false;
    ssize_t got = pull(owner, input->data + input->end, input->size - input->end);
    if (got <= 0) return got;
    input->end += (size_t)got;
  }
  return 1;
}

/* pour(file, most): moves what comes to a file, `most` bytes of it and no more, with no string in
 * between: their number, once it has come to a pause or to `most`; or nil, want; or nil, message,
 * cause, and how many were written before. cause.file is true when it is the file that failed: what
 * it did not take stays. */
int input_pour(lua_State *L, int index, Input *input, input_pull pull, input_fail fail,
               void *owner) {
  size_t most = check_size(L, index + 1), done = 0;
  OpenFile file = file_begin(L, index);
  ssize_t got = 1;
  int problem = file.problem;
  while (done < most && got > 0 && !problem && !(done >= TURN && input->pollable)) {
    size_t left = most - done, count;
    got = fill(input, left < BLOCK ? left : BLOCK, pull, owner);
    count = waiting(input) < left ? waiting(input) : left;
    while (count > 0 && !problem) {
      ssize_t wrote = write(file.fd, input->data + input->start, count);
      if (wrote < 0 && errno != EINTR) problem = errno;
      if (wrote < 0) continue;
      consume(input, (size_t)wrote);
      count -= (size_t)wrote;
      done += (size_t)wrote;
    }
  }
  settle(input);
  if (!problem) problem = file_end(&file);
  int results = 0;
  if (problem) {
    results = error_errno(L, problem);
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, "file");
  } else if (got == NO_MEMORY) {
    results = error_errno(L, ENOMEM);
  } else if (got <= 0 && done < most) {
    results = fail(L, owner, got);
  }
  if (results == 2 && !done) return 2;
  lua_pushinteger(L, (lua_Integer)done);
  return results == 3 ? 4 : 1;
}

int input_take(lua_State *L, Input *input) {
  return hand_out(L, input, waiting(input), waiting(input));
}

/* An answer's head (RFC 9112): its status line, its fields, and how they frame the body (6.3).
 * Whatever two readers could read differently is refused.
 *
 * Most fields of most answers are never looked at, so they stay what they were, bytes: one userdata
 * holds the text and where each name and value stands in it, and a string is made of what is asked
 * for. */
#include "core.h"

#include <string.h>

#define HEAD_TYPE "tlsconnect.headers"

/* Fields that most heads have room in, before they are counted. */
enum { USUAL = 32, MAX_CODINGS = 4, MAX_DIGITS = 16 };

typedef struct {
  uint32_t name, name_size, value, value_size; /* from the first field's name on */
} Field;

typedef struct {
  uint32_t count;
  Field fields[]; /* behind them stands the text */
} Head;

/* What reading a head has found so far. */
typedef struct {
  const char *text; /* the first field */
  size_t size;
  size_t count;
  Field fields[USUAL]; /* the first of them */
  /* Where the fields stand that frame the body, the first of each, and how many there are. */
  Field length, coding, connection;
  unsigned lengths, codings, connections;
  bool encoded; /* it has a Content-Encoding */
  bool more;    /* that, or another field that asks for more than to be handed out */
} Reading;

/* Letters ------------------------------------------------------------------------------------- */

/* RFC 9110 5.6.2: tchar, a bit for each. */
static bool is_token(unsigned char c) {
  static const uint32_t set[8] = {0, 0x03FF6CFA, 0xC7FFFFFE, 0x57FFFFFF};
  return set[c >> 5] >> (c & 31) & 1;
}

static bool is_blank(char c) {
  return c == ' ' || c == '\t';
}

static bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

static char lower(char c) {
  return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

/* Whether two texts of that size are the same in any case. */
static bool alike(const char *a, const char *b, size_t size) {
  for (size_t i = 0; i < size; i++)
    if (a[i] != b[i] && lower(a[i]) != lower(b[i])) return false;
  return true;
}

/* `name` is in lower case. */
static bool is(const char *text, size_t size, const char *name) {
  return size == strlen(name) && alike(text, name, size);
}

/* Fields -------------------------------------------------------------------------------------- */

static void note(Field *first, unsigned *count, const Field *field) {
  if ((*count)++ == 0) *first = *field;
}

/* Notes what the rest of this file, or the caller, has to look at. */
static void notice(Reading *reading, const Field *field) {
  const char *name = reading->text + field->name;
  switch (field->name_size) {
  case 10:
    if (alike(name, "connection", 10)) note(&reading->connection, &reading->connections, field);
    if (alike(name, "keep-alive", 10) || alike(name, "set-cookie", 10)) reading->more = true;
    break;
  case 14:
    if (alike(name, "content-length", 14)) note(&reading->length, &reading->lengths, field);
    break;
  case 16:
    if (alike(name, "content-encoding", 16)) reading->encoded = reading->more = true;
    break;
  case 17:
    if (alike(name, "transfer-encoding", 17)) note(&reading->coding, &reading->codings, field);
    break;
  case 25:
    if (alike(name, "strict-transport-security", 25)) reading->more = true;
    break;
  default:
    break;
  }
}

/* A line without its end. False when it is no field: no name, a blank before the colon, a folded
 * line, a CR in it. */
static bool read_field(const char *text, const char *line, const char *stop, Field *field) {
  const char *at = line;
  while (at < stop && is_token((unsigned char)*at))
    at++;
  if (at == line || at == stop || *at != ':') return false;
  if (memchr(at, '\r', (size_t)(stop - at))) return false;
  field->name = (uint32_t)(line - text);
  field->name_size = (uint32_t)(at - line);
  for (at++; at < stop && is_blank(*at);)
    at++;
  while (stop > at && is_blank(stop[-1]))
    stop--;
  field->value = (uint32_t)(at - text);
  field->value_size = (uint32_t)(stop - at);
  return true;
}

/* Reads the fields through the empty line into `fields`, as far as there is room, and counts all.
 * NULL, or the offending line and its size. */
static const char *read_fields(Reading *reading, Field *fields, size_t room, size_t *bad) {
  const char *line = reading->text, *end = line + reading->size;
  reading->count = 0;
  for (;;) {
    const char *next = memchr(line, '\n', (size_t)(end - line));
    *bad = (size_t)((next ? next : end) - line);
    if (!next) return line;
    const char *stop = next > line && next[-1] == '\r' ? next - 1 : next;
    if (stop == line) return NULL;
    Field field;
    if (!read_field(reading->text, line, stop, &field)) return line;
    if (reading->count < room) fields[reading->count] = field;
    reading->count++;
    if (fields == reading->fields) notice(reading, &field);
    line = next + 1;
  }
}

static char *text_of(Head *head) {
  return (char *)(head->fields + head->count);
}

/* The next field of that name from the i-th on; the count where there is none. */
static size_t find(Head *head, size_t i, const char *name, size_t size) {
  const char *text = text_of(head);
  for (; i < head->count; i++)
    if (head->fields[i].name_size == size && alike(text + head->fields[i].name, name, size)) break;
  return i;
}

static void push_text(lua_State *L, Head *head, uint32_t at, uint32_t size) {
  lua_pushlstring(L, text_of(head) + at, size);
}

static void push_one(lua_State *L, Head *head, size_t i) {
  push_text(L, head, head->fields[i].value, head->fields[i].value_size);
}

/* The value of a name: repeats joined (RFC 9110 5.3), but of Set-Cookie, which cannot be joined,
 * the first. */
static void push_value(lua_State *L, Head *head, const char *name, size_t size) {
  size_t i = find(head, 0, name, size), following;
  if (i == head->count) {
    lua_pushnil(L);
    return;
  }
  following = find(head, i + 1, name, size);
  if (following == head->count || is(name, size, "set-cookie")) {
    push_one(L, head, i);
    return;
  }
  luaL_Buffer joined;
  luaL_buffinit(L, &joined);
  for (;;) {
    luaL_addlstring(&joined, text_of(head) + head->fields[i].value, head->fields[i].value_size);
    i = find(head, i + 1, name, size);
    if (i == head->count) break;
    luaL_addlstring(&joined, ", ", 2);
  }
  luaL_pushresult(&joined);
}

/* Framing ------------------------------------------------------------------------------------- */

/* A member of a list: what stands before the next comma, or `end`, without blanks round it. */
static const char *member(const char *at, const char *end, const char **from, const char **to) {
  const char *comma = memchr(at, ',', (size_t)(end - at));
  *from = at;
  *to = comma ? comma : end;
  while (*from < *to && is_blank(**from))
    (*from)++;
  while (*to > *from && is_blank((*to)[-1]))
    (*to)--;
  return comma ? comma + 1 : NULL;
}

/* Each number that a Content-Length holds is the one number (RFC 9112 6.3: "42, 42" is 42), and
 * below 2^53. */
static bool read_length(const char *at, const char *end, bool *known, uint64_t *length) {
  const char *from, *to;
  while (at) {
    at = member(at, end, &from, &to);
    if (from == to) return false;
    while (to - from > 1 && *from == '0')
      from++;
    if (to - from > MAX_DIGITS) return false;
    uint64_t number = 0;
    for (; from < to; from++) {
      if (!is_digit(*from)) return false;
      number = number * 10 + (uint64_t)(*from - '0');
    }
    if (number >= 9007199254740992u || (*known && number != *length)) return false;
    *known = true;
    *length = number;
  }
  return true;
}

static bool read_lengths(Head *head, const Reading *reading, uint64_t *length) {
  bool known = false;
  if (reading->lengths == 1) {
    const char *value = reading->text + reading->length.value;
    return read_length(value, value + reading->length.value_size, &known, length);
  }
  for (size_t i = 0; (i = find(head, i, "content-length", 14)) < head->count; i++) {
    const char *value = text_of(head) + head->fields[i].value;
    if (!read_length(value, value + head->fields[i].value_size, &known, length)) return false;
  }
  return true;
}

/* A name outside the registry ("xchunked") is a reader's chance to disagree with another. */
static bool registered(const char *name, size_t size) {
  static const char *const names[] = {"chunked",  "compress",   "deflate", "gzip",
                                      "identity", "x-compress", "x-gzip"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (is(name, size, names[i])) return true;
  return false;
}

/* How Transfer-Encoding frames the body: by chunks, or to the end when chunked is not the last
 * coding. */
static Framing read_coding(const Reading *reading) {
  const char *at = reading->text + reading->coding.value, *end = at + reading->coding.value_size;
  const char *from, *to;
  Framing framing = FRAMED_BADLY;
  if (reading->codings > 1) return FRAMED_BADLY;
  for (int codings = 0; at; codings++) {
    at = member(at, end, &from, &to);
    if (codings == MAX_CODINGS || !registered(from, (size_t)(to - from))) return FRAMED_BADLY;
    framing = is(from, (size_t)(to - from), "chunked") ? FRAMED_CHUNKED : FRAMED_CLOSE;
  }
  return framing;
}

/* Whether a list holds a word, blanks left out wherever they are. */
static bool lists(const char *at, const char *end, const char *word) {
  const char *left = word;
  bool same = true;
  for (;; at++) {
    if (at == end || *at == ',') {
      if (same && !*left) return true;
      if (at == end) return false;
      left = word;
      same = true;
    } else if (!is_blank(*at)) {
      same = same && *left && lower(*at) == *left;
      if (same) left++;
    }
  }
}

/* Whether the connection may carry another request after this answer (RFC 9112 9.3). */
static bool persistent(lua_State *L, Head *head, const Reading *reading, bool modern) {
  if (reading->connections == 0) return modern;
  push_value(L, head, "connection", 10);
  size_t size;
  const char *value = lua_tolstring(L, -1, &size);
  bool keep =
      !lists(value, value + size, "close") && (modern || lists(value, value + size, "keep-alive"));
  lua_pop(L, 1);
  return keep;
}

/* Pushes false, what is wrong, and the value that is shown with it or nil; returns 3. */
static int push_unframed(lua_State *L, Head *head, const char *problem, const char *name) {
  lua_pushboolean(L, 0);
  lua_pushstring(L, problem);
  if (name)
    push_value(L, head, name, strlen(name));
  else
    lua_pushnil(L);
  return 3;
}

/* A whole number, where lua_Integer has 32 bits, too. */
static void push_size(lua_State *L, uint64_t size) {
  if (size <= (uint64_t)PTRDIFF_MAX)
    lua_pushinteger(L, (lua_Integer)size);
  else
    lua_pushnumber(L, (lua_Number)size);
}

static bool bodiless(int status) {
  return status / 100 == 1 || status == 204 || status == 304;
}

/* Pushes kind, length, persistent; or as push_unframed(). Returns 3. */
static int push_framing(lua_State *L, Head *head, const Reading *reading, bool modern, size_t whole,
                        Answer *answer) {
  static const char *const kinds[] = {"none", "length", "chunked", "close"};
  answer->framing = FRAMED_CLOSE;
  if (bodiless(answer->status)) {
    answer->framing = FRAMED_NONE;
  } else if (reading->codings) {
    if (reading->lengths)
      return push_unframed(L, head, "sent both Transfer-Encoding and Content-Length", NULL);
    if (!modern)
      return push_unframed(L, head, "sent a Transfer-Encoding in an HTTP/1.0 answer", NULL);
    answer->framing = read_coding(reading);
    if (answer->framing == FRAMED_BADLY)
      return push_unframed(
          L, head, "sent a Transfer-Encoding that is not understood: ", "transfer-encoding");
  } else if (reading->lengths) {
    answer->framing = FRAMED_LENGTH;
    if (!read_lengths(head, reading, &answer->length))
      return push_unframed(L, head,
                           "sent a Content-Length that is not one number: ", "content-length");
  }
  lua_pushstring(L, kinds[answer->framing]);
  if (answer->framing == FRAMED_LENGTH || answer->status / 100 == 1)
    push_size(L, answer->framing == FRAMED_LENGTH ? answer->length : whole);
  else
    lua_pushnil(L);
  lua_pushboolean(L, persistent(L, head, reading, modern));
  return 3;
}

/* The head ------------------------------------------------------------------------------------ */

/* Pushes false, a code, a message, and the bytes that are shown with it or nil; returns 4. */
static int refuse(lua_State *L, const char *code, const char *message, const char *bytes,
                  size_t size) {
  lua_pushboolean(L, 0);
  lua_pushstring(L, code);
  lua_pushstring(L, message);
  if (bytes)
    lua_pushlstring(L, bytes, size);
  else
    lua_pushnil(L);
  return 4;
}

/* HTTP/d.d ddd, then nothing or a blank and the reason. The line's end, or NULL. */
static const char *status_line(const char *text, const char *end) {
  static const char shape[] = "HTTP/d.d ddd";
  const char *at = text;
  for (const char *s = shape; *s; s++, at++) {
    if (at == end) return NULL;
    if (*s == 'd' ? !is_digit(*at) : *at != *s) return NULL;
  }
  const char *stop = memchr(at, '\n', (size_t)(end - at));
  if (!stop) return NULL;
  if (stop > at && stop[-1] == '\r') stop--;
  if ((stop > at && *at != ' ') || memchr(at, '\r', (size_t)(stop - at))) return NULL;
  return stop;
}

static Head *push_head(lua_State *L, Reading *reading) {
  size_t size = sizeof(Head) + reading->count * sizeof(Field);
  Head *head = core_new(L, HEAD_TYPE, size + reading->size);
  head->count = (uint32_t)reading->count;
  memcpy(text_of(head), reading->text, reading->size);
  if (reading->count <= USUAL) {
    memcpy(head->fields, reading->fields, reading->count * sizeof(Field));
  } else {
    size_t bad;
    read_fields(reading, head->fields, reading->count, &bad);
  }
  return head;
}

int head_push(lua_State *L, const char *text, size_t size, size_t most, Answer *answer) {
  const char *end = text + size;
  *answer = (Answer){.framing = FRAMED_BADLY};
  luaL_checkstack(L, 12, NULL);
  if (memchr(text, 0, size))
    return refuse(L, "bad_header", "sent a head with a NUL byte in it", NULL, 0);
  const char *stop = size < UINT32_MAX ? status_line(text, end) : NULL;
  if (!stop) {
    size_t line = 0;
    while (line < size && text[line] != '\r' && text[line] != '\n')
      line++;
    return refuse(L, "not_http", "does not answer in HTTP: ", text, line);
  }
  char major = text[5], minor = text[7];
  if (major != '1' && (major != '0' || minor != '9')) {
    lua_pushfstring(L, "answered in an unknown version: HTTP/%d.%d", major - '0', minor - '0');
    int results = refuse(L, "not_http", lua_tostring(L, -1), NULL, 0);
    lua_remove(L, -results - 1);
    return results;
  }
  Reading reading = {.text = *stop == '\r' ? stop + 2 : stop + 1};
  reading.size = (size_t)(end - reading.text);
  size_t bad;
  const char *line = read_fields(&reading, reading.fields, USUAL, &bad);
  if (line) return refuse(L, "bad_header", "sent a malformed header line: ", line, bad);
  if (reading.count > most) {
    lua_pushfstring(L, "sent more than %d header lines", (int)most);
    int results = refuse(L, "too_long", lua_tostring(L, -1), NULL, 0);
    lua_remove(L, -results - 1);
    return results;
  }
  const char *reason = text + 12;
  while (reason < stop && *reason == ' ')
    reason++;
  answer->status = (text[9] - '0') * 100 + (text[10] - '0') * 10 + (text[11] - '0');
  answer->encoded = reading.encoded;
  lua_createtable(L, 0, 8); /* room for what https/client.lua puts in */
  lua_pushinteger(L, answer->status);
  lua_setfield(L, -2, "status");
  lua_pushlstring(L, reason, (size_t)(stop - reason));
  lua_setfield(L, -2, "reason");
  lua_pushnumber(L, major == '0' ? 0.9 : minor == '0' ? 1.0 : 1.1);
  lua_setfield(L, -2, "version");
  Head *head = push_head(L, &reading);
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "headers");
  int results = push_framing(L, head, &reading, major == '1' && minor != '0', size, answer);
  lua_pushboolean(L, reading.more);
  lua_remove(L, -results - 2); /* the fields are the answer's */
  return results + 2;
}

/* head(text, most) -> as connection:read("answer") of stream.lua */
static int head_read(lua_State *L) {
  size_t size;
  const char *text = luaL_checklstring(L, 1, &size);
  lua_Integer most = luaL_checkinteger(L, 2);
  Answer answer;
  return head_push(L, text, size, most < 0 ? 0 : (size_t)most, &answer);
}

/* The fields as Lua sees them ------------------------------------------------------------------ */

static Head *check_head(lua_State *L) {
  return luaL_checkudata(L, 1, HEAD_TYPE);
}

/* headers:get(name) -> the value, or nil: what headers[name] gives, for a name that is a method's,
 * too */
static int headers_get(lua_State *L) {
  Head *head = check_head(L);
  size_t size;
  const char *name = luaL_checklstring(L, 2, &size);
  push_value(L, head, name, size);
  return 1;
}

/* headers:list(name) -> every value, in order */
static int headers_list(lua_State *L) {
  Head *head = check_head(L);
  size_t size;
  const char *name = luaL_checklstring(L, 2, &size);
  lua_newtable(L);
  int n = 0;
  for (size_t i = 0; (i = find(head, i, name, size)) < head->count; i++) {
    push_one(L, head, i);
    lua_rawseti(L, -2, ++n);
  }
  return 1;
}

static int next_field(lua_State *L) {
  Head *head = lua_touserdata(L, lua_upvalueindex(1));
  size_t i = (size_t)lua_tointeger(L, lua_upvalueindex(2));
  if (i >= head->count) return 0;
  lua_pushinteger(L, (lua_Integer)i + 1);
  lua_replace(L, lua_upvalueindex(2));
  push_text(L, head, head->fields[i].name, head->fields[i].name_size);
  push_one(L, head, i);
  return 2;
}

/* for name, value in headers:each() do: all fields as they came */
static int headers_each(lua_State *L) {
  check_head(L);
  lua_settop(L, 1);
  lua_pushinteger(L, 0);
  lua_pushcclosure(L, next_field, 2);
  return 1;
}

/* headers[name]. A field's name never hides a method, nor the other way round: see get(). */
static int headers_index(lua_State *L) {
  Head *head = check_head(L);
  size_t size;
  if (lua_type(L, 2) != LUA_TSTRING) return 0;
  lua_pushvalue(L, 2);
  lua_rawget(L, lua_upvalueindex(1));
  if (!lua_isnil(L, -1)) return 1;
  const char *name = lua_tolstring(L, 2, &size);
  push_value(L, head, name, size);
  return 1;
}

static const luaL_Reg methods[] = {
    {"each", headers_each},
    {"get", headers_get},
    {"list", headers_list},
    {NULL, NULL},
};

static const luaL_Reg meta[] = {{NULL, NULL}};

void head_open(lua_State *L) {
  core_type(L, HEAD_TYPE, methods, meta);
  luaL_getmetatable(L, HEAD_TYPE);
  lua_getfield(L, -1, "__index");
  lua_pushcclosure(L, headers_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  lua_pushcfunction(L, head_read);
  lua_setfield(L, -2, "head");
}

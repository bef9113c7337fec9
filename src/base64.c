/* Base64 in one pass, and no further than wanted: a bundle of roots is read for the first few
 * hundred bytes of each, step by step. */
#include "trust.h"

/* 0 to 63: a digit; with bit 6, 64: white space; 65: '='; 66: anything else */
static const unsigned char digits[256] = {
    66, 66, 66, 66, 66, 66, 66, 66, 66, 64, 64, 66, 66, 64, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66,
    66, 66, 66, 66, 66, 66, 66, 66, 64, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 62, 66, 66, 66, 63,
    52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 66, 66, 66, 65, 66, 66, 66, 0,  1,  2,  3,  4,  5,  6,
    7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 66, 66, 66, 66, 66,
    66, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48,
    49, 50, 51, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66,
    66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66,
    66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66,
    66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66,
    66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66,
    66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66, 66};

/* Whole groups, as nearly all of them come: without white space inside. Returns how many were
 * read. */
static size_t read_groups(const unsigned char *p, unsigned char *out, size_t most) {
  size_t count = 0;
  for (; count < most; count++, p += 4, out += 3) {
    unsigned a = digits[p[0]], b = digits[p[1]], c = digits[p[2]], d = digits[p[3]];
    if ((a | b | c | d) & 64) break;
    unsigned bits = a << 18 | b << 12 | c << 6 | d;
    out[0] = (unsigned char)(bits >> 16);
    out[1] = (unsigned char)(bits >> 8);
    out[2] = (unsigned char)bits;
  }
  return count;
}

long base64_read(Base64 *in, unsigned char *out, size_t want) {
  size_t count = 0;
  while (in->left && count < want) {
    if (in->held == 0 && in->padding == 0) {
      size_t most = (want - count + 2) / 3;
      if (most > in->left / 4) most = in->left / 4;
      size_t groups = read_groups(in->next, out + count, most);
      in->next += 4 * groups;
      in->left -= 4 * groups;
      count += 3 * groups;
      if (in->left == 0 || count >= want) break;
    }
    unsigned digit = digits[*in->next++];
    in->left--;
    if (digit == 64) continue;
    if (digit == 66) return -1;
    if (digit == 65) {
      if (in->held < 2 || ++in->padding > 2) return -1;
      continue;
    }
    if (in->padding) return -1;
    in->bits = in->bits << 6 | digit;
    if (++in->held == 4) {
      out[count++] = (unsigned char)(in->bits >> 16);
      out[count++] = (unsigned char)(in->bits >> 8);
      out[count++] = (unsigned char)in->bits;
      in->held = 0;
    }
  }
  if (in->left || in->held == 0) return (long)count;
  unsigned held = in->held;
  in->held = 0;
  if (held == 1 || (in->padding && held + in->padding != 4)) return -1;
  out[count++] = (unsigned char)(in->bits >> (held == 2 ? 4 : 10));
  if (held == 3) out[count++] = (unsigned char)(in->bits >> 2);
  return (long)count;
}

long base64_decode(Bytes body, unsigned char *out) {
  Base64 in = {.next = body.data, .left = body.size};
  return base64_read(&in, out, body.size);
}

/* Base64 in one pass, and no further than wanted: a bundle of roots is read for the first few
 * hundred bytes of each. */
#include "trust.h"

/* 0 to 63: a digit; 64: white space; 65: '='; 66: anything else */
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

long base64_decode(Bytes body, unsigned char *out, size_t want) {
  const unsigned char *p = body.data, *end = p + body.size;
  size_t count = 0;
  unsigned long bits = 0;
  unsigned held = 0, padding = 0;
  while (p < end && count < want) {
    /* four digits at once, as nearly all of them come */
    if (held == 0 && padding == 0 && end - p >= 4 && want - count >= 3) {
      unsigned a = digits[p[0]], b = digits[p[1]], c = digits[p[2]], d = digits[p[3]];
      if ((a | b | c | d) < 64) {
        bits = a << 18 | b << 12 | c << 6 | d;
        out[count++] = (unsigned char)(bits >> 16);
        out[count++] = (unsigned char)(bits >> 8);
        out[count++] = (unsigned char)bits;
        p += 4;
        continue;
      }
    }
    unsigned digit = digits[*p++];
    if (digit == 64) continue;
    if (digit == 66) return -1;
    if (digit == 65) {
      if (held < 2 || ++padding > 2) return -1;
      continue;
    }
    if (padding) return -1;
    bits = bits << 6 | digit;
    if (++held == 4) {
      for (int shift = 16; shift >= 0 && count < want; shift -= 8)
        out[count++] = (unsigned char)(bits >> shift);
      held = 0;
    }
  }
  if (count >= want) return (long)count;
  if (held == 1 || (padding && held + padding != 4)) return -1;
  if (held >= 2) out[count++] = (unsigned char)(bits >> (held == 2 ? 4 : 10));
  if (held == 3 && count < want) out[count++] = (unsigned char)(bits >> 2);
  return (long)count;
}

/* UTF-8: validity, decoding, maximal subparts (Unicode 15, section 3.9, table 3-7). */
#ifndef SK_UTF8_H
#define SK_UTF8_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes one scalar value from s[0..n), n > 0. Returns its length 1..4 and sets *ret_cp. On ill-formed input returns
 * minus the length of the maximal subpart (-1..-3) that U+FFFD replaces, *ret_cp = 0xFFFD. */
int sk_utf8_next(const char *s, size_t n, uint32_t *ret_cp);
/* Bytes written (1..4) to out[4]; cp must be a scalar value. */
int sk_utf8_put(uint32_t cp, char out[4]);
bool sk_utf8_valid(const char *s, size_t n);
/* Length of the incomplete but so far well-formed sequence at the end of s[0..n): 0..3. */
size_t sk_utf8_partial(const char *s, size_t n);

#endif

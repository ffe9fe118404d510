/* Text from elsewhere, made fit for a terminal: it must never move the cursor, set colours or turn the writing around.
 */
#ifndef SK_PLAIN_H
#define SK_PLAIN_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/buf.h"

/* A control character (C0 but \n and \t, DEL, C1) or one that overrides the direction of writing. */
bool sk_plain_is_control(uint32_t cp);
/* Appends s[0..n); such characters become \x1b or \u202e, ill-formed UTF-8 becomes U+FFFD. */
int sk_plain_put(struct sk_buf *b, const char *s, size_t n);
/* The same into dst[size], cut between characters, NUL-terminated; line ends become blanks. */
void sk_plain_line(char *dst, size_t size, const char *s, size_t n);

#endif

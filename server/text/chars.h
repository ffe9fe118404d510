/* Properties of characters and the Unicode normal forms, as the Rust libraries under Hugging Face's tokenizers define
 * them. Together with normalize.c the only user of utf8proc.h. */
#ifndef SK_CHARS_H
#define SK_CHARS_H
#include <stdbool.h>
#include <stdint.h>

bool sk_chars_is_space(uint32_t cp);   /* White_Space */
bool sk_chars_is_numeric(uint32_t cp); /* Nd, Nl, No */
bool sk_chars_is_mark(uint32_t cp);    /* Mn, Mc, Me */
bool sk_chars_is_word(uint32_t cp);    /* \w of UTS 18: letters, marks, decimal numbers, connectors, joiners */

#endif

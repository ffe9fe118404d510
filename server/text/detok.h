/* Streaming decode of one choice: tokens in, text out that will never be taken back. Holds back an incomplete UTF-8
 * character and whatever could still become a stop string. The stop string that is complete first, byte by byte, ends
 * the answer, wherever the tokens end; of two at the same byte the longer. The text is that of sk_token_decode, except
 * that bytes of a row of byte-fallback tokens that have come out as characters stay so when the row later turns out not
 * to be UTF-8. No allocation after init. */
#ifndef SK_DETOK_H
#define SK_DETOK_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/buf.h"
#include "comm/dir/vocab.h"

struct sk_stop { /* stop strings of a request: borrowed, alive as long as the detok */
    uint32_t n;
    const char *const *str;
    const uint32_t *len; /* bytes, >= 1 */
    bool include;        /* include_stop_str_in_output */
};

struct sk_detok; /* one a choice */

int sk_detok_new(const struct sk_vocab *v, const struct sk_stop *stop, bool skip_special, struct sk_detok **ret);
void sk_detok_free(struct sk_detok *d);
/* Before the first push: the text continues that of a prompt with this token in it, so that a word at its start keeps
 * the space that the first word of a text loses. A special token that is skipped does not count. */
void sk_detok_follow(struct sk_detok *d, int32_t id);
/* Takes one token; appends text that is now certain to `out`. `check_stop` false (below min_tokens): the token's text
 * cannot end the answer. Returns 0, 1 when a stop string is complete (index in sk_detok_stop; nothing after it comes
 * out any more), or -SK_ETOOBIG. */
int sk_detok_push(struct sk_detok *d, int32_t id, bool check_stop, struct sk_buf *out);
/* End of the answer: what was held back comes out; an incomplete character as U+FFFD. */
int sk_detok_flush(struct sk_detok *d, struct sk_buf *out);
int sk_detok_stop(const struct sk_detok *d); /* index of the stop string that matched, -1 = none */

#endif

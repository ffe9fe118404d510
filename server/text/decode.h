/* Bytes of tokens to text; what sk_token_decode and the streaming sk_detok share. */
#ifndef SK_DECODE_H
#define SK_DECODE_H
#include <stddef.h>
#include "comm/base/buf.h"
#include "comm/dir/vocab_format.h"

#define SK_DECODE_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

/* Makes *s, *n well-formed UTF-8: untouched where it is, else copied behind what is in `buf`, with U+FFFD for each
 * maximal subpart that is ill-formed (as WHATWG's decoder and Python do), and *s, *n are the copy. 0, -SK_ETOOBIG,
 * -SK_ENOMEM. */
int sk_decode_lossy(struct sk_buf *buf, const char **s, size_t *n);

/* How many of its leading bytes the word loses as the first of the text: the spaces, where the decoder is Metaspace. */
static inline size_t sk_decode_leading(const struct sk_vocab *v, const struct sk_vocab_word *w)
{
    size_t n = 0;
    if (v->head->flags & SK_VOCAB_DROP_FIRST)
        while (n < w->bytes.n && sk_vocab_at(v, w->bytes)[n] == ' ')
            n++;
    return n;
}

#endif

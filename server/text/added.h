/* Finds added tokens ("<|im_end|>") in text: leftmost, the longest among those that begin there. */
#ifndef SK_ADDED_H
#define SK_ADDED_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "comm/dir/vocab.h"
#include "server/text/normalize.h"

struct sk_added; /* immutable after new */

/* Of the added tokens those with the NORMALIZED flag, spelled as `z` normalizes them, or those without. */
int sk_added_new(const struct sk_vocab *v, struct sk_normalize *z, bool normalized, struct sk_added **ret,
                 struct sk_err *err);
void sk_added_free(struct sk_added *a); /* NULL is allowed */

struct sk_added_match {
    uint32_t id;
    size_t start, end; /* white space that the token takes is included */
};

/* What may match, and where: the text searched and what of it is done. */
struct sk_added_text {
    const char *s;
    size_t n;
    size_t done;   /* nothing before it is part of a match */
    size_t from;   /* where the search goes on */
    bool guarded;  /* there may be SK_TOKEN_GUARDs: passed over, and a token around one is no match */
    bool specials; /* special tokens match, too */
};

/* The next match; moves t->done and t->from behind it. A spelling that may not match is passed over whole: nothing is
 * found inside. */
bool sk_added_next(const struct sk_added *a, struct sk_added_text *t, struct sk_added_match *ret);

#endif

/* Byte-pair encoding of one pre-token: symbols (bytes or characters) to ids, merged by rank. */
#ifndef SK_BPE_H
#define SK_BPE_H
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "comm/dir/vocab.h"

struct sk_bpe; /* used by one thread at a time: it holds scratch and a small cache of short pre-tokens */

struct sk_bpe_ids { /* the output: grows, at most max */
    int32_t *p;     /* owned by whoever has the struct (sk_free) */
    size_t n, cap, max;
};

int sk_bpe_new(const struct sk_vocab *v, struct sk_bpe **ret, struct sk_err *err);
void sk_bpe_free(struct sk_bpe *b); /* NULL is allowed */
void sk_bpe_trim(struct sk_bpe *b); /* gives large scratch back */

/* Appends the tokens of s[0..n), well-formed UTF-8 that ends at character boundaries. O(n log n). -SK_ETOOBIG,
 * -SK_ENOMEM. */
int sk_bpe_word(struct sk_bpe *b, const char *s, size_t n, struct sk_bpe_ids *out);
int sk_bpe_ids_add(struct sk_bpe_ids *ids, uint32_t id);

#endif

/* The normalizer program of a tokenizer: text in, text out. */
#ifndef SK_NORMALIZE_H
#define SK_NORMALIZE_H
#include <stddef.h>
#include "comm/base/buf.h"
#include "comm/base/err.h"
#include "comm/dir/vocab.h"

struct sk_normalize; /* used by one thread at a time: it holds scratch */

int sk_normalize_new(const struct sk_vocab *v, struct sk_normalize **ret, struct sk_err *err);
void sk_normalize_free(struct sk_normalize *z); /* NULL is allowed */
void sk_normalize_trim(struct sk_normalize *z); /* gives large scratch back */

/* Normalizes s[0..n), well-formed UTF-8. *ret_s is s itself where nothing changes, else borrowed until the next call;
 * well-formed. Time and memory O(n) whatever the text. -SK_ETOOBIG, -SK_ENOMEM. */
int sk_normalize_run(struct sk_normalize *z, const char *s, size_t n, const char **ret_s, size_t *ret_n);

#endif

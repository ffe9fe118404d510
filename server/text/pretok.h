/* The pre-tokenizer program of a tokenizer: cuts a text into the pieces that are merged each by itself. */
#ifndef SK_PRETOK_H
#define SK_PRETOK_H
#include <stdbool.h>
#include <stddef.h>
#include "comm/base/err.h"
#include "comm/dir/vocab.h"

struct sk_pretok; /* used by one thread at a time: it holds scratch */

/* Takes one piece, never empty, borrowed for the call. Other than 0 ends the run with that. */
typedef int sk_pretok_fn(void *arg, const char *s, size_t n);

int sk_pretok_new(const struct sk_vocab *v, sk_pretok_fn *emit, void *arg, struct sk_pretok **ret, struct sk_err *err);
void sk_pretok_free(struct sk_pretok *p); /* NULL is allowed */
void sk_pretok_trim(struct sk_pretok *p); /* gives large scratch back */

/* Emits the pieces of s[0..n), well-formed UTF-8, in order. `first`: it is the start of the whole text. Holds no list
 * of pieces: memory O(1), or O(n) where a step rewrites the text. -SK_ETOOBIG (a regex's limit), -SK_ENOMEM, or what
 * emit returned. */
int sk_pretok_run(struct sk_pretok *p, const char *s, size_t n, bool first);

#endif

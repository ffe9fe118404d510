/* Regular expressions of tokenizers: PCRE2 with UTF and UCP, compiled by its JIT where there is one. The only user of
 * pcre2.h. Tokenizers write them for Oniguruma; the compiler of the tokenizer refuses what PCRE2 reads otherwise. */
#ifndef SK_REGEX_H
#define SK_REGEX_H
#include <stdbool.h>
#include <stddef.h>
#include "comm/base/err.h"

struct sk_regex; /* used by one thread at a time: it holds match data and a stack */

/* `literal`: the pattern is a plain string. -SK_EFORMAT with PCRE2's message and the offset. */
int sk_regex_new(const char *pattern, size_t n, bool literal, struct sk_regex **ret, struct sk_err *err);
void sk_regex_free(struct sk_regex *r); /* NULL is allowed */

/* The first match at or after `from` in s[0..n), well-formed UTF-8; both must be character boundaries. Returns 1 and
 * the bounds (ret_start >= from, ret_end >= ret_start), 0 = no match, -SK_ETOOBIG: the match took more steps or stack
 * than is allowed. */
int sk_regex_next(struct sk_regex *r, const char *s, size_t n, size_t from, size_t *ret_start, size_t *ret_end);

#endif

/* Encode: text -> token ids with the compiled tokenizer. The only user of pcre2.h and utf8proc.h. A struct sk_token may be used by
 * one thread at a time (it holds match data and scratch); the vocab behind it is shared. */
#ifndef SK_TOKEN_H
#define SK_TOKEN_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "comm/dir/vocab.h"

/* What in the text may become an added token. */
enum sk_token_mode {
    SK_TOKEN_SPECIALS, /* all added tokens are recognised: raw prompts of /v1/completions */
    SK_TOKEN_PLAIN     /* special ones (and control spellings) are ordinary text; other added tokens are recognised */
};

/* A UTF-8 non-character (U+FDD0) that the template helper puts inside user-supplied spellings of control tokens, so that they survive
 * rendering as plain text; sk_token_encode removes it and does not let the token around it match. Refused in input. */
#define SK_TOKEN_GUARD "\xEF\xB7\x90"

struct sk_token;
int sk_token_new(const struct sk_vocab *v, struct sk_token **ret, struct sk_err *err);
void sk_token_free(struct sk_token *t);

/* Encodes s[0..n) (ill-formed UTF-8: maximal subparts count as U+FFFD). Adds BOS/EOS as the post-processor says when `add_bos`.
 * *ret_ids is malloced, free with sk_free. -SK_ETOOBIG: more than max_tok tokens. */
int sk_token_encode(struct sk_token *t, const char *s, size_t n, enum sk_token_mode mode, bool add_bos, size_t max_tok, int32_t **ret_ids,
                    size_t *ret_n, struct sk_err *err);

/* Decodes ids to text; ill-formed UTF-8 in the result becomes U+FFFD. Ids outside the vocabulary are -SK_ERANGE. */
struct sk_buf;
int sk_token_decode(const struct sk_vocab *v, const int32_t *ids, size_t n, bool skip_special, struct sk_buf *out, struct sk_err *err);

#endif

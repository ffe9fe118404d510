/* Encode: text -> token ids with the compiled tokenizer, and back. A struct sk_token may be used by one thread at a
 * time (it holds match data and scratch); the vocab behind it is shared. O(n log n) whatever the text. */
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
    SK_TOKEN_PLAIN     /* special ones are ordinary text; other added tokens are recognised (tokenizers'
                        * encode_special_tokens).     User text in a chat needs guards, which keep control spellings that
                        * are     not special apart, too */
};

/* A UTF-8 non-character (U+FDD0) that the template helper puts inside user-supplied spellings of control tokens, so
 * that they survive rendering as plain text; sk_token_encode removes it and does not let the token around it match, in
 * either mode. Refused in input. */
#define SK_TOKEN_GUARD "\xEF\xB7\x90"

struct sk_token;
int sk_token_new(const struct sk_vocab *v, struct sk_token **ret, struct sk_err *err);
void sk_token_free(struct sk_token *t);

/* Encodes s[0..n) (ill-formed UTF-8: maximal subparts count as U+FFFD). Adds BOS/EOS as the post-processor says when
 * `add_bos`. *ret_ids is malloced, free with sk_free. -SK_ETOOBIG: more than max_tok tokens, more than 64 MiB of text,
 * or text on which the tokenizer's regex takes too many steps. */
int sk_token_encode(struct sk_token *t, const char *s, size_t n, enum sk_token_mode mode, bool add_bos, size_t max_tok,
                    int32_t **ret_ids, size_t *ret_n, struct sk_err *err);

/* Decodes ids to text; ill-formed UTF-8 in the result becomes U+FFFD: one for each maximal subpart, but one for each
 * byte of a row of byte-fallback tokens that is not UTF-8 as a whole (as tokenizers does). Ids outside the vocabulary
 * are -SK_ERANGE. */
struct sk_buf;
int sk_token_decode(const struct sk_vocab *v, const int32_t *ids, size_t n, bool skip_special, struct sk_buf *out,
                    struct sk_err *err);

#endif

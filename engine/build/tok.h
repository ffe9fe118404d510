/* Compiles a tokenizer into vocab.skv (comm/dir/vocab.h says what that holds). */
#ifndef SK_BUILD_TOK_H
#define SK_BUILD_TOK_H
#include <stdint.h>
#include "comm/base/err.h"

struct sk_gguf;

/* What the rest of skein-build needs to know of a tokenizer. The templates are owned (sk_free) or NULL. */
struct sk_tok_info {
    int32_t bos, eos; /* -1 = none */
    char bos_token[128], eos_token[128];
    char *chat_template;  /* chat_template.jinja wins over tokenizer_config.json's */
    char *tools_template; /* the one named tool_use, where templates are a list */
};

/* From DIR/tokenizer.json, tokenizer_config.json and special_tokens_map.json. n_vocab is the model's, out_path the file
 * to write. -SK_ENOENT, -SK_EFORMAT, -SK_EUNSUP (names what it does not know), -SK_EIO. */
int sk_tok_from_hf(const char *dir, uint32_t n_vocab, const char *out_path, struct sk_tok_info *ret,
                   struct sk_err *err);
/* From a GGUF file's tokenizer.* metadata. */
int sk_tok_from_gguf(const struct sk_gguf *g, uint32_t n_vocab, const char *out_path, struct sk_tok_info *ret,
                     struct sk_err *err);

#endif

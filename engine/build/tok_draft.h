/* A tokenizer on its way into vocab.skv: filled from tokenizer.json or GGUF metadata, then written. */
#ifndef SK_BUILD_TOK_DRAFT_H
#define SK_BUILD_TOK_DRAFT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/buf.h"
#include "comm/base/err.h"
#include "comm/dir/vocab_format.h"

enum { SK_TOK_MAX_STEPS = 8 };

/* One step of the decoder, applied to each word by itself when the draft is written. */
struct sk_tok_step {
    enum sk_tok_step_kind {
        SK_TOK_STEP_BYTE_LEVEL, /* the byte-level alphabet undone; a word with another character in it stays as it is */
        SK_TOK_STEP_BYTE_FALLBACK, /* <0xNN> becomes a byte */
        SK_TOK_STEP_REPLACE,       /* a by b */
        SK_TOK_STEP_STRIP          /* at most `start` spaces in front, `stop` behind */
    } kind;
    struct sk_vocab_str a, b;
    uint32_t start, stop;
};

struct sk_tok_text {
    const char *s;
    size_t n;
};

struct sk_tok_draft {
    uint32_t n_vocab; /* ids are below */
    struct sk_vocab_word *words;
    uint32_t n_word, cap_word;
    uint32_t *hash; /* the file's section; made by sk_tok_draft_index */
    uint32_t n_hash;
    struct sk_vocab_merge *merges; /* as in the file, too: an open table */
    uint32_t n_slot;
    struct sk_vocab_added *added;
    uint32_t n_added, cap_added;
    struct sk_vocab_op norm[SK_VOCAB_MAX_OPS], pretok[SK_VOCAB_MAX_OPS];
    uint32_t n_norm, n_pretok;
    uint32_t prefix[SK_VOCAB_MAX_AFFIX], suffix[SK_VOCAB_MAX_AFFIX];
    uint32_t n_prefix, n_suffix;
    struct sk_tok_step steps[SK_TOK_MAX_STEPS];
    uint32_t n_step;
    uint32_t flags, unk, strip_start; /* of the head */
    struct sk_buf blob;
    struct sk_buf scratch;
};

void sk_tok_draft_init(struct sk_tok_draft *d, uint32_t n_vocab);
void sk_tok_draft_done(struct sk_tok_draft *d);

/* Each of these returns 0, -SK_EFORMAT, -SK_EUNSUP or -SK_ENOMEM with a message. */
int sk_tok_draft_str(struct sk_tok_draft *d, const char *s, size_t n, struct sk_vocab_str *ret, struct sk_err *err);
/* Gives an id its word; the id must have none yet. `flags` are SK_TOK_*. */
int sk_tok_draft_word(struct sk_tok_draft *d, uint32_t id, const char *s, size_t n, unsigned flags, struct sk_err *err);
/* All words of the model are there: find and merge work from here on. */
int sk_tok_draft_index(struct sk_tok_draft *d, struct sk_err *err);
int sk_tok_draft_find(const struct sk_tok_draft *d, const char *s, size_t n); /* id, -1 = none */
/* Room for n merges in all. */
int sk_tok_draft_merges(struct sk_tok_draft *d, size_t n, struct sk_err *err);
/* The same pair again replaces the first. */
void sk_tok_draft_merge(struct sk_tok_draft *d, struct sk_vocab_merge m);
/* The merge of two words as written; they and what they make must be words. */
int sk_tok_draft_pair(struct sk_tok_draft *d, uint32_t rank, struct sk_tok_text a, struct sk_tok_text b,
                      struct sk_err *err);
/* An added token: a word of the model, or a new one. `flags` are SK_VOCAB_LSTRIP and so on. An id past the model's is
 * left out: the model could not read it. */
int sk_tok_draft_added(struct sk_tok_draft *d, const struct sk_vocab_added *a, const char *s, size_t n, bool special,
                       struct sk_err *err);

/* Appends to a program. `a` and `b` may be NULL. */
int sk_tok_draft_norm(struct sk_tok_draft *d, enum sk_vocab_op_kind kind, uint32_t arg, const char *a, const char *b,
                      struct sk_err *err);
/* A regex is checked for what PCRE2 would read otherwise than Oniguruma. */
int sk_tok_draft_pretok(struct sk_tok_draft *d, enum sk_vocab_op_kind kind, uint32_t arg, const char *a,
                        struct sk_err *err);
int sk_tok_draft_step(struct sk_tok_draft *d, enum sk_tok_step_kind kind, const char *a, const char *b,
                      struct sk_err *err);

/* Decodes the words and writes the file (tok_write.c). -SK_EIO, too. */
int sk_tok_draft_write(struct sk_tok_draft *d, const char *path, struct sk_err *err);

/* GPT-2's split, which ByteLevel does with use_regex (its tokenizer, encoder.py). */
#define SK_TOK_GPT2_SPLIT "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

struct cJSON;
/* A parsed tokenizer.json (tok_hf.c). */
int sk_tok_read_json(struct sk_tok_draft *d, const struct cJSON *root, struct sk_err *err);
/* Its normalizer, pre_tokenizer, decoder and post_processor (tok_program.c); the words are there. */
int sk_tok_program(struct sk_tok_draft *d, const struct cJSON *root, struct sk_err *err);

#endif

/* The compiled tokenizer, vocab.skv: written once by skein-build from tokenizer.json or GGUF metadata, mapped when
 * serving; no process parses tokenizer.json then. Holds what encode and decode need and nothing else: words (id ->
 * bytes, kind flags), a hash table to find them, merges as a table (left id, right id) -> (rank, new id), added tokens
 * with their flags (special, lstrip, rstrip, single_word, normalized), control spellings, normalizer program (prepend,
 * replace, NFC / NFD / NFKC / NFKD, lowercase, strip), pre-tokenizer program (Split by a regex with its behaviour,
 * Digits, ByteLevel with its add_prefix_space, Metaspace), decoder program, post-processor (bos / eos to add). The file
 * is position-independent: a header with (offset, count) sections, each checked against the size at open. */
#ifndef SK_VOCAB_H
#define SK_VOCAB_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"

struct sk_vocab; /* immutable after open; any thread may read */

/* flags of a token */
enum {
    SK_TOK_SPECIAL = 1, /* added token with special = true: dropped by skip_special_tokens */
    SK_TOK_ADDED = 2,
    SK_TOK_BYTE = 4,    /* byte-fallback token <0xNN> */
    SK_TOK_CONTROL = 8, /* user text must never become this token: special ones, and <|fim_prefix|> and the like */
    SK_TOK_UNUSED = 16, /* an id below n_vocab without a word */
    SK_TOK_MODEL = 32   /* in the model's own vocabulary: what merging can give */
};

int sk_vocab_open(const char *path, struct sk_vocab **ret, struct sk_err *err);
/* Over bytes in memory, 8-byte aligned, that outlive the vocab (fuzzing, tests). */
int sk_vocab_open_mem(const void *p, size_t n, struct sk_vocab **ret, struct sk_err *err);
void sk_vocab_close(struct sk_vocab *v);

uint32_t sk_vocab_size(const struct sk_vocab *v); /* ids are 0 .. size-1; the model's n_vocab may be larger (padding) */
/* The token's raw bytes (byte-level alphabet undone; <0xNN> is one byte; metaspace is a space). Borrowed. */
const char *sk_vocab_bytes(const struct sk_vocab *v, uint32_t id, size_t *ret_n);
/* The token as written in tokenizer.json ("Ġthe", "<0x0A>", "▁a"). Borrowed, not NUL-terminated. */
const char *sk_vocab_word(const struct sk_vocab *v, uint32_t id, size_t *ret_n);
unsigned sk_vocab_flags(const struct sk_vocab *v, uint32_t id);
int sk_vocab_find(const struct sk_vocab *v, const char *word, size_t n); /* id of that word as written, or -1 */
int sk_vocab_max_token_bytes(const struct sk_vocab *v);
/* The control spellings: ids with SK_TOK_CONTROL, i in 0 .. sk_vocab_n_controls - 1. */
uint32_t sk_vocab_n_controls(const struct sk_vocab *v);
uint32_t sk_vocab_control(const struct sk_vocab *v, uint32_t i);

#endif

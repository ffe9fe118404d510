/* Tokenizers and their golden cases for the tests of encode and decode. */
#ifndef SK_TESTS_TEXT_GOLDEN_H
#define SK_TESTS_TEXT_GOLDEN_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "comm/dir/vocab.h"

struct cJSON;

/* PATH below the source tree, or absolute. Borrowed until the next call. */
const char *golden_path(const char *path);
/* Where the golden data lies that cannot be in the tree: $SK_SHARED or ../shared; NULL = `path` is not there. */
const char *golden_shared(const char *path);

/* Compiles PATH, a tokenizer.json or its .xz, and opens the result; fails the test where that fails. */
struct sk_vocab *golden_vocab(const char *path);

/* The same words and merges by way of GGUF metadata: model "gpt2" with `pre`, or "llama" (pre NULL), where each word's
 * score is minus the rank of the merge that makes it. */
struct sk_vocab *golden_vocab_gguf(const char *path, const char *model, const char *pre);

/* The lines of a .jsonl file. A NUL in a text is written as U+E000, as our JSON reader takes none: see golden_text. */
struct golden_lines {
    FILE *f;
    char *line;
    size_t cap;
    struct cJSON *v;
};
void golden_open(struct golden_lines *g, const char *path);
const struct cJSON *golden_next(struct golden_lines *g); /* NULL = that was all; closes */

/* A string of a case, with its NULs; NULL = absent or null. Malloced. */
char *golden_text(const struct cJSON *v, const char *key, size_t *ret_n);
/* A list of ids; NULL = absent. Malloced. */
int32_t *golden_ids(const struct cJSON *v, const char *key, size_t *ret_n);
/* What `bytes_hex` spells. Malloced. */
char *golden_bytes(const struct cJSON *v, size_t *ret_n);

#endif

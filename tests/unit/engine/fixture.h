/* A small model with random weights, in memory: what engine tests run when no particular model is meant. The same
 * arguments give the same bits everywhere. Asserts on failure: a fixture that cannot be made is no test. */
#ifndef SK_FIXTURE_H
#define SK_FIXTURE_H
#include <stdint.h>
#include "comm/dir/dir.h"

struct fixture {
    struct sk_dir dir; /* eos {2}, bos 1, selftest_ids set, selftest_logprobs zero; owns nothing outside this struct */
    struct sk_weights w; /* in memory: not for sk_weights_close */
    struct sk_dir_entry *entry;
    void *block; /* owned; w.base is inside it, aligned to 4096 */
};

/* A llama-like description: 96 words, 2 layers, 4 query and 2 KV heads of 16, 256 positions; n_embd and n_ffn 64.
 * Change what the test is about before fixture_open. */
void fixture_desc(struct sk_desc *ret);

/* Makes weights for *desc (checked here). dtype is that of the matrices except pos_embed; q8 and q4 need n_embd and
 * n_ffn in multiples of 32. Row-split tensors: o has slabs of a head (two where blocks of 32 need it), down of
 * 32 inputs where they divide, else one slab. */
void fixture_open(struct fixture *f, const struct sk_desc *desc, enum sk_dtype dtype, uint64_t seed);
void fixture_close(struct fixture *f);

#endif

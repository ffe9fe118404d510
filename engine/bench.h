/* skein-engine --bench: tokens a second straight through the batch manager, without HTTP. */
#ifndef SK_BENCH_H
#define SK_BENCH_H
#include <stdbool.h>
#include <stdint.h>
#include "engine/load.h"

enum { SK_BENCH_MAX_LIST = 16 };
struct sk_bench_list {
    uint32_t n, v[SK_BENCH_MAX_LIST];
};
struct sk_bench_conf {
    struct sk_bench_list prefill, depth; /* prompts' lengths, each timed after each number of tokens */
    struct sk_bench_list prompt, seqs;   /* prompts' lengths, each decoded after by each number of sequences at once */
    uint32_t decode_tok;                 /* of each answer */
    uint32_t n_rep;                      /* runs: the median, least and most are printed */
    bool json;                           /* one object a line, in place of the table */
};
void sk_bench_default(struct sk_bench_conf *c); /* prefill 512; 128 tokens after 128 at 1, 8, 32 sequences; 3 runs */
/* Sets one of: "prefill", "depth", "prompt", "seqs" (lists, "1,8"), "decode", "reps". -SK_EINVAL, -SK_ENOENT. */
int sk_bench_set(struct sk_bench_conf *c, const char *name, const char *value, struct sk_err *err);
/* Prints one line a measurement to stdout. -SK_ERANGE: more sequences than max-seqs, more tokens than
 * max-model-len, or a depth that is not a multiple of max-step-tokens; what the loop says. */
int sk_bench_run(const struct sk_bench_conf *c, const struct sk_load *load, struct sk_loop *loop, struct sk_err *err);

#endif

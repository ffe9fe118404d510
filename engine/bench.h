/* skein-engine --bench: tokens a second straight through the batch manager, without HTTP. */
#ifndef SK_BENCH_H
#define SK_BENCH_H
#include <stdint.h>
#include "engine/load.h"

enum { SK_BENCH_MAX_SEQS = 16 };
struct sk_bench_conf {
    uint32_t prefill_tok;             /* length of the prompt whose prefill is timed */
    uint32_t prompt_tok, decode_tok;  /* prompt and answer of each sequence whose decoding is timed */
    uint32_t seqs[SK_BENCH_MAX_SEQS]; /* numbers of sequences at once */
    uint32_t n_seqs, n_rep;           /* the median of n_rep is printed */
};
void sk_bench_default(struct sk_bench_conf *c); /* 512; 128 + 128 at 1, 8, 32 sequences; 3 */
/* Sets one of: "prefill", "prompt", "decode", "seqs" (a list), "reps". -SK_EINVAL, -SK_ENOENT. */
int sk_bench_set(struct sk_bench_conf *c, const char *name, const char *value, struct sk_err *err);
/* Prints one line a measurement to stdout. */
int sk_bench_run(const struct sk_bench_conf *c, const struct sk_load *load, struct sk_loop *loop, struct sk_err *err);

#endif

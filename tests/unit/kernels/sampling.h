/* What the tests of sampling share: rows of logits of many kinds, what is asked of each, and what comes out. */
#ifndef SAMPLING_H
#define SAMPLING_H
#include "tests/unit/kernels/kern.h"

enum { SAMPLING_ROWS = 32, SAMPLING_SLOTS = 4, SAMPLING_LEN = 60 };

struct sampling_input {
    uint32_t n_vocab, ld;
    float *logits; /* [SAMPLING_ROWS][ld] */
    struct sk_samp samp[SAMPLING_ROWS];
    int32_t token[SAMPLING_SLOTS * SAMPLING_LEN];
};

struct sampling_output {
    struct sk_result_row result[SAMPLING_ROWS];
    int32_t token[SAMPLING_SLOTS * SAMPLING_LEN];
    float *work; /* as the logits */
};

extern const int32_t sampling_list[15]; /* of struct sk_op_logits; its ids are below 5 */

/* Row r by its number: all filters and penalties, alone and together, come by; token[slot][pos] differs from row to
 * row. */
struct sk_samp sampling_samp(uint32_t r);
/* Only filters, no log-probs: each bit of `which` switches one on. */
struct sk_samp sampling_filters(uint32_t which, uint32_t r);

enum sampling_shape {
    SAMPLING_PEAKED,
    SAMPLING_SOFT,
    SAMPLING_FLAT,
    SAMPLING_LUMPS,
    SAMPLING_EQUAL,
    SAMPLING_HUGE,
    SAMPLING_SHAPES
};
/* Logits and samp of rows of one kind, each with other filters. how: none is spoilt (not a number, or cannot be drawn);
 * some are; all but one; all. */
void sampling_fill(struct sampling_input *in, enum sampling_shape shape, uint32_t how, uint32_t first);

/* Rows first..first+n_row-1 in one step: logits_process, sample, top_n. */
void sampling_compute(struct sk_backend *be, const struct sampling_input *in, uint32_t first, uint32_t n_row,
                      struct sampling_output *ret);
/* The same but for roundings of log-probs. */
void sampling_check(const struct sk_result_row *want, const struct sk_result_row *got, const char *what);

#endif

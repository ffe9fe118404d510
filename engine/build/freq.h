/* Inverse frequencies of rotary embeddings with their scalings, as transformers' modeling_rope_utils.py computes them
 * (in float32, so that positions far out get the same angles). */
#ifndef SK_BUILD_FREQ_H
#define SK_BUILD_FREQ_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/err.h"

enum sk_freq_kind {
    SK_FREQ_NONE,   /* also "dynamic": it changes nothing up to the model's own length */
    SK_FREQ_LINEAR, /* all divided by factor */
    SK_FREQ_LLAMA3, /* long waves divided, short ones kept, smooth in between */
    SK_FREQ_YARN    /* Peng et al. 2023, arXiv:2309.00071, section 3.2 */
};

struct sk_freq_conf {
    enum sk_freq_kind kind;
    double theta;
    double factor, orig_len;       /* 0 = absent */
    double low_freq, high_freq;    /* LLAMA3 */
    double beta_fast, beta_slow;   /* YARN */
    double attn_factor;            /* YARN: scale of cos and sin; 0 = derived from factor and the two below */
    double mscale, mscale_all_dim; /* YARN; 0 = absent */
    bool no_truncate;              /* YARN: the ramp's ends are not rounded */
    const float *factors;          /* dim / 2 divisors (GGUF rope_freqs.weight), instead of kind; NULL = none */
};

/* Fills inv_freq[0 .. dim/2). max_len stands in for an absent orig_len. -SK_EFORMAT: values without a meaning. */
int sk_freq_fill(const struct sk_freq_conf *c, uint32_t dim, uint32_t max_len, float *inv_freq, float *ret_mscale,
                 struct sk_err *err);

#endif

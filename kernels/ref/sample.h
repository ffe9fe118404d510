/* From one row of logits to a token, for backends whose logits lie in host memory: each function is one row's work, so
 * that rows can be spread over threads. All of it is deterministic IEEE arithmetic without the C library's exp and log:
 * equal logits give equal tokens on every host. */
#ifndef SK_REF_SAMPLE_H
#define SK_REF_SAMPLE_H
#include "kernels/kernels.h"

/* A row's logits of the ids first .. first + n - 1. */
struct sk_logits_span {
    float *x;
    uint32_t first, n;
};

/* Suppression, bias and penalties of `s` on a row that holds a copy of the raw logits, in the order of kernels.h.
 * `list` is the base of sk_samp.list, `token` the slot's history, of which positions below s->pos are read; ids that
 * are not in the span are passed over. `count` is row->n zeros and is handed back so. O(history + lists), and row->n
 * where allowed ids are given. Repetition penalty (Keskar et al., CTRL, 2019): a seen token's logit is divided by it,
 * or multiplied where negative. Presence and frequency as OpenAI defines them, over generated tokens. */
void sk_logits_row(const struct sk_samp *s, const int32_t *list, const int32_t *token, const struct sk_logits_span *row,
                   uint32_t *count);

/* A token that may be drawn. Weights are whole numbers of at most 2^32, so that up to 2^21 of them have an exact sum in
 * double: whoever adds them in whatever order finds the same threshold. */
#define SK_CAND_UNIT 0x1p32f
struct sk_cand {
    int32_t id;
    float z;   /* logit / temperature */
    float w;   /* e^(z - the largest z) * SK_CAND_UNIT, a whole number: its probability up to a common factor */
    float key; /* the filters' own */
};

float sk_sample_weight(float d);          /* w of z = the largest z - d, d >= 0; within 5e-7 + 1e-7 * d relative */
float sk_sample_spread(float w, float d); /* w * d as a whole number, 0 if w is */

/* What temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff and eta_cutoff, in this order, keep of a processed
 * row, each filter seeing only what the one before it kept, renormalised; the meaning is that of the logits processors
 * of Hugging Face transformers, but exactly top_k are kept where logits tie, those of the lowest ids. `cand` has room
 * for n_vocab. Returns how many, in no stated order; 0 only if no logit is above -Inf. O(n_vocab). */
uint32_t sk_sample_filter(const struct sk_samp *s, const float *row, uint32_t n_vocab, struct sk_cand *cand);

/* The least w that eta_cutoff keeps of candidates whose w sum to `mass`, and w * (the largest z - z), each rounded to a
 * whole number, to `spread`. */
float sk_sample_eta_floor(float eta, double mass, double spread);

/* A draw from the softmax of n candidates in any order: the largest z + Gumbel noise, ties to the lowest id. Token 0
 * if there are none. */
int32_t sk_sample_draw(const struct sk_samp *s, const struct sk_cand *cand, uint32_t n);

/* The token that `s` takes from a processed row: the largest logit (SK_SAMP_GREEDY; ties to the lowest id), else a draw
 * from what the filter keeps. Token 0 if no logit is above -Inf. */
int32_t sk_sample_row(const struct sk_samp *s, const float *row, uint32_t n_vocab, struct sk_cand *cand);

/* Gumbel noise of the four tokens from 4 * quad: -log(-log(sk_rng_uniform)), within SK_GUMBEL_MIN .. SK_GUMBEL_MAX. */
void sk_sample_gumbel(const struct sk_samp *s, uint32_t quad, float ret_g[4]);
#define SK_GUMBEL_MIN (-2.9f) /* u = 2^-24 */
#define SK_GUMBEL_MAX 16.7f   /* u = 1 - 2^-24 */

/* Fills logprob, rank, n_top and top of `ret`, whose id is set, from raw logits. O(n_vocab) for n_top of 20 as well:
 * most logits fall to the first comparison. The log-sum-exp is summed in rising id order in double. */
void sk_topn_row(const float *row, uint32_t n_vocab, uint32_t n_top, struct sk_result_row *ret);
double sk_topn_sum_exp(const float *row, uint32_t n, float max); /* of row - max, in rising order */
/* The n_top <= SK_MAX_TOP largest by falling value, ties to the lowest index; returns how many. */
uint32_t sk_topn_largest(const float *row, uint32_t n, uint32_t n_top, uint32_t *ret_at);

#endif

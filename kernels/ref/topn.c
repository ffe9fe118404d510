#include "kernels/ref/sample.h"

#include <math.h>

#include "kernels/ref/fmath.h"
#include "kernels/ref/ref.h"

double sk_topn_sum_exp(const float *row, uint32_t n, float max)
{
    enum { CHUNK = 64 };
    double sum = 0;
    for (uint32_t i = 0; i < n; i += CHUNK) {
        float e[CHUNK];
        uint32_t m = n - i < CHUNK ? n - i : CHUNK;
        for (uint32_t j = 0; j < m; j++)
            e[j] = sk_fm_exp(row[i + j] - max);
        for (uint32_t j = 0; j < m; j++)
            sum += e[j];
    }
    return sum;
}

/* Ids come in rising order, so only a strictly greater logit passes one that is there. */
uint32_t sk_topn_largest(const float *row, uint32_t n_vocab, uint32_t n_top, uint32_t *ids)
{
    uint32_t n = 0;
    for (uint32_t id = 0; id < n_vocab; id++) {
        if (n == n_top && (n == 0 || !(row[id] > row[ids[n - 1]])))
            continue;
        uint32_t at = n < n_top ? n++ : n - 1;
        for (; at > 0 && row[id] > row[ids[at - 1]]; at--)
            ids[at] = ids[at - 1];
        ids[at] = id;
    }
    return n;
}

void sk_topn_row(const float *row, uint32_t n_vocab, uint32_t n_top, struct sk_result_row *ret)
{
    const float logit = row[ret->id];
    float max = -INFINITY;
    uint32_t n_greater = 0, ids[SK_MAX_TOP];
    for (uint32_t i = 0; i < n_vocab; i++) {
        max = row[i] > max ? row[i] : max;
        n_greater += row[i] > logit;
    }
    const double lse = (double)max + sk_fm_log((float)sk_topn_sum_exp(row, n_vocab, max));
    ret->logprob = (float)(logit - lse);
    ret->rank = (int32_t)n_greater + 1;
    ret->n_top = sk_topn_largest(row, n_vocab, n_top < SK_MAX_TOP ? n_top : SK_MAX_TOP, ids);
    for (uint32_t i = 0; i < ret->n_top; i++) {
        ret->top[i].id = (int32_t)ids[i];
        ret->top[i].logprob = (float)(row[ids[i]] - lse);
    }
}

void sk_ref_top_n(struct sk_backend *be, const struct sk_op_logits *op)
{
    const struct sk_samp *samp = sk_ref_ptr(op->samp);
    struct sk_result_row *result = sk_ref_ptr(op->result);
    for (uint32_t r = 0; r < op->n_row; r++) {
        if (samp[r].flags & SK_SAMP_LOGPROB)
            sk_topn_row((const float *)sk_ref_ptr(op->logits) + (size_t)r * op->ld, op->n_vocab, samp[r].n_top,
                        &result[r]);
    }
}

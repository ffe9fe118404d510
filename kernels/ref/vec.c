#include "kernels/ref/ref.h"

#include <math.h>
#include <string.h>

#include "kernels/ref/checksum.h"

/* Zeros from `from` to the end of a row. */
static void pad(float *row, uint32_t from, uint32_t width)
{
    for (uint32_t i = from; i < SK_ALIGN16(width); i++)
        row[i] = 0;
}

void sk_ref_embed(struct sk_backend *be, const struct sk_op_embed *op)
{
    const struct sk_rows *rows = op->rows;
    const int32_t *slot = sk_ref_ptr(rows->slot), *pos = sk_ref_ptr(rows->pos), *token = sk_ref_ptr(rows->token);
    const uint32_t dim = op->table->pack.n_in;
    float *add = sk_ref_scratch(be, dim * sizeof *add);
    if (add == NULL)
        return;
    for (uint32_t r = 0; r < rows->n_row; r++) {
        float *out = (float *)sk_ref_ptr(op->out) + (size_t)r * op->ld;
        const uint32_t at = (uint32_t)token[(size_t)slot[r] * rows->max_len + (uint32_t)pos[r]] - op->first;
        if (at < op->table->pack.n_out)
            sk_pack_get_row(&op->table->pack, sk_ref_ptr(op->table->data), at, out);
        pad(out, at < op->table->pack.n_out ? dim : 0, dim);
        if (op->pos_table == NULL)
            continue;
        sk_pack_get_row(&op->pos_table->pack, sk_ref_ptr(op->pos_table->data), (uint32_t)pos[r], add);
        for (uint32_t i = 0; i < dim; i++)
            out[i] += add[i];
    }
}

/* out may be x. */
static void norm_row(float *out, const float *x, const float *weight, const float *bias, uint32_t dim, double mean,
                     float eps)
{
    double sq = 0;
    for (uint32_t i = 0; i < dim; i++)
        sq += (x[i] - mean) * (x[i] - mean);
    double inv = 1 / sqrt(sq / dim + eps);
    for (uint32_t i = 0; i < dim; i++)
        out[i] = (float)((x[i] - mean) * inv * weight[i] + (bias != NULL ? bias[i] : 0));
}

void sk_ref_norm_head(float *out, const float *x, const float *weight, uint32_t dim, float eps)
{
    norm_row(out, x, weight, NULL, dim, 0, eps);
}

void sk_ref_rope(float *x, const float *cos_sin, uint32_t dim, bool interleaved)
{
    for (uint32_t i = 0; i < dim / 2; i++) {
        float *a = x + (interleaved ? 2 * i : i), *b = interleaved ? a + 1 : a + dim / 2;
        double c = cos_sin[2 * i], s = cos_sin[2 * i + 1], va = *a, vb = *b;
        *a = (float)(va * c - vb * s);
        *b = (float)(vb * c + va * s);
    }
}

static double activate(enum sk_op_act_kind kind, double x)
{
    switch (kind) {
    case SK_OP_SILU:
        return x / (1 + exp(-x));
    case SK_OP_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case SK_OP_GELU_ERF:
        return 0.5 * x * (1 + erf(x * M_SQRT1_2));
    case SK_OP_RELU:
        break;
    }
    return x > 0 ? x : 0;
}

void sk_ref_pre(const struct sk_op_pre *pre, const float *x, uint32_t n, float *ret)
{
    const bool gated = pre->kind == SK_PRE_GATED_ACT;
    double mean = 0;

    switch (pre->kind) {
    case SK_PRE_NONE:
        memcpy(ret, x, n * sizeof *ret);
        break;
    case SK_PRE_LAYER_NORM:
        for (uint32_t i = 0; i < n; i++)
            mean += x[i];
        // fallthrough
    case SK_PRE_RMS_NORM:
        norm_row(ret, x, sk_ref_ptr(pre->weight), sk_ref_ptr(pre->bias), n, mean / n, pre->eps);
        break;
    case SK_PRE_ACT:
    case SK_PRE_GATED_ACT:
        for (uint32_t i = 0; i < n; i++)
            ret[i] = (float)(activate(pre->act, x[i]) * (gated ? x[n + i] : 1));
    }
}

void sk_ref_add(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n)
{
    float *to = sk_ref_ptr(out);
    const float *from = sk_ref_ptr(x);
    for (uint64_t i = 0; i < n; i++)
        to[i] += from[i];
}

void sk_ref_narrow(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n)
{
    uint16_t *to = sk_ref_ptr(out);
    const float *from = sk_ref_ptr(x);
    for (uint64_t i = 0; i < n; i++)
        to[i] = sk_f32_to_bf16(from[i]);
}

void sk_ref_widen(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n)
{
    float *to = sk_ref_ptr(out);
    const uint16_t *from = sk_ref_ptr(x);
    for (uint64_t i = 0; i < n; i++)
        to[i] = sk_bf16_to_f32(from[i]);
}

void sk_ref_checksum(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n)
{
    const uint32_t *word = sk_ref_ptr(x);
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++)
        sum += (uint64_t)word[i] * sk_checksum_factor(i);
    memcpy(sk_ref_ptr(out), &sum, sizeof sum);
}

void sk_ref_gather(struct sk_backend *be, const struct sk_op_gather *op)
{
    const int32_t *index = sk_ref_ptr(op->index);
    for (uint32_t r = 0; r < op->n_row; r++)
        memcpy((float *)sk_ref_ptr(op->out) + (size_t)r * op->ld,
               (const float *)sk_ref_ptr(op->in) + (size_t)index[r] * op->ld, op->ld * sizeof(float));
}

#include "kernels/ref/ref.h"

#include <math.h>
#include <string.h>

static void pad(float *row, uint32_t width)
{
    for (uint32_t i = width; i < SK_ALIGN16(width); i++)
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
        int32_t id = token[(size_t)slot[r] * rows->max_len + (uint32_t)pos[r]];
        sk_pack_get_row(&op->table->pack, sk_ref_ptr(op->table->data), (uint32_t)id, out);
        pad(out, dim);
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

void sk_ref_norm(struct sk_backend *be, const struct sk_op_norm *op)
{
    for (uint32_t r = 0; r < op->n_row; r++) {
        const float *x = (const float *)sk_ref_ptr(op->x) + (size_t)r * op->ld;
        float *out = (float *)sk_ref_ptr(op->out) + (size_t)r * op->ld;
        double mean = 0;
        for (uint32_t i = 0; op->layer && i < op->dim; i++)
            mean += x[i];
        norm_row(out, x, sk_ref_ptr(op->weight), sk_ref_ptr(op->bias), op->dim, mean / op->dim, op->eps);
        pad(out, op->dim);
    }
}

/* Rotates the pairs (i, i + dim/2), or (2i, 2i + 1) when interleaved, by the angles of this position. */
static void rope(float *x, const float *cos_sin, uint32_t dim, bool interleaved)
{
    for (uint32_t i = 0; i < dim / 2; i++) {
        float *a = x + (interleaved ? 2 * i : i), *b = interleaved ? a + 1 : a + dim / 2;
        double c = cos_sin[2 * i], s = cos_sin[2 * i + 1], va = *a, vb = *b;
        *a = (float)(va * c - vb * s);
        *b = (float)(vb * c + va * s);
    }
}

static void store(const struct sk_kv_layer *kv, void *to, const float *x)
{
    for (uint32_t i = 0; i < kv->head_stride; i++) {
        float v = i < kv->head_dim ? x[i] : 0;
        if (kv->dtype == SK_F32)
            ((float *)to)[i] = v;
        else
            ((uint16_t *)to)[i] = sk_f32_to_f16(fminf(fmaxf(v, -65504), 65504));
    }
}

void sk_ref_rope_kv(struct sk_backend *be, const struct sk_op_rope_kv *op)
{
    const struct sk_kv_layer *kv = op->kv;
    const int32_t *slot = sk_ref_ptr(op->rows->slot), *pos = sk_ref_ptr(op->rows->pos);
    const float *q_norm = sk_ref_ptr(op->q_norm), *k_norm = sk_ref_ptr(op->k_norm), *angles = sk_ref_ptr(op->cos_sin);
    const uint32_t n_qk = op->n_head + kv->n_kv_head;

    for (uint32_t r = 0; r < op->rows->n_row; r++) {
        float *row = (float *)sk_ref_ptr(op->qkv) + (size_t)r * op->ld;
        const uint32_t p = (uint32_t)pos[r], entry = p % SK_KV_BLOCK;
        const uint32_t blk =
            ((const uint32_t *)sk_ref_ptr(op->table))[(size_t)slot[r] * op->ld_table + p / SK_KV_BLOCK];
        for (uint32_t h = 0; h < n_qk; h++) {
            float *x = row + (size_t)h * kv->head_stride;
            const float *weight = h < op->n_head ? q_norm : k_norm;
            if (weight != NULL)
                norm_row(x, x, weight, NULL, kv->head_dim, 0, op->eps);
            if (angles != NULL)
                rope(x, angles + (size_t)p * op->rope_dim, op->rope_dim, op->interleaved);
        }
        for (uint32_t h = 0; h < kv->n_kv_head; h++) {
            store(kv, sk_ref_kv(kv, blk, h, 0, entry), row + (size_t)(op->n_head + h) * kv->head_stride);
            store(kv, sk_ref_kv(kv, blk, h, 1, entry), row + (size_t)(n_qk + h) * kv->head_stride);
        }
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

void sk_ref_act(struct sk_backend *be, const struct sk_op_act *op)
{
    for (uint32_t r = 0; r < op->n_row; r++) {
        const float *in = (const float *)sk_ref_ptr(op->in) + (size_t)r * op->ld_in;
        float *out = (float *)sk_ref_ptr(op->out) + (size_t)r * op->ld_out;
        for (uint32_t i = 0; i < op->width; i++)
            out[i] = (float)(activate(op->kind, in[i]) * (op->gated ? in[op->width + i] : 1));
        pad(out, op->width);
    }
}

void sk_ref_add(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n)
{
    float *to = sk_ref_ptr(out);
    const float *from = sk_ref_ptr(x);
    for (uint64_t i = 0; i < n; i++)
        to[i] += from[i];
}

void sk_ref_gather(struct sk_backend *be, const struct sk_op_gather *op)
{
    const int32_t *index = sk_ref_ptr(op->index);
    for (uint32_t r = 0; r < op->n_row; r++)
        memcpy((float *)sk_ref_ptr(op->out) + (size_t)r * op->ld,
               (const float *)sk_ref_ptr(op->in) + (size_t)index[r] * op->ld, op->ld * sizeof(float));
}

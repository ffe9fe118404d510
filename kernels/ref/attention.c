#include "kernels/ref/ref.h"

#include <math.h>
#include <string.h>

enum { MAX_HEAD_DIM = 512 };

static size_t entry_bytes(enum sk_dtype dtype, uint32_t head_stride)
{
    switch (dtype) {
    case SK_F32:
        return head_stride * sizeof(float);
    case SK_BF16:
        return head_stride * sizeof(uint16_t);
    default:
        return head_stride + (head_stride + SK_QBLOCK - 1) / SK_QBLOCK * sizeof(float);
    }
}

uint64_t sk_ref_kv_block_bytes(const struct sk_backend *be, enum sk_dtype dtype, uint32_t n_kv_head,
                               uint32_t head_stride)
{
    return (uint64_t)n_kv_head * 2 * SK_KV_BLOCK * entry_bytes(dtype, head_stride);
}

enum which { KEY, VALUE };

static void *entry_at(const struct sk_kv_layer *kv, uint32_t blk, uint32_t head, enum which which, uint32_t entry)
{
    const size_t at = ((size_t)head * 2 + which) * SK_KV_BLOCK + entry;
    return (char *)sk_ref_ptr(kv->data) + blk * kv->block_bytes + at * entry_bytes(kv->dtype, kv->head_stride);
}

static float saturated(float x)
{
    const float most = 0x1.fep127f; /* of bf16 */
    return x > most ? most : x < -most ? -most : x;
}

static void store_q8(const struct sk_kv_layer *kv, int8_t *q, const float *x)
{
    float *scale = (float *)(q + kv->head_stride);

    for (uint32_t from = 0; from < kv->head_dim; from += SK_QBLOCK) {
        const uint32_t to = from + SK_QBLOCK < kv->head_dim ? from + SK_QBLOCK : kv->head_dim;
        float most = 0;
        for (uint32_t i = from; i < to; i++)
            most = fmaxf(most, fabsf(saturated(x[i])));
        const float d = scale[from / SK_QBLOCK] = most / 127;
        for (uint32_t i = from; i < to; i++)
            q[i] = d > 0 ? (int8_t)rintf(saturated(x[i]) / d) : 0;
    }
}

static void store(const struct sk_kv_layer *kv, void *to, const float *x)
{
    if (kv->dtype == SK_Q8) {
        store_q8(kv, to, x);
        return;
    }
    for (uint32_t i = 0; i < kv->head_dim; i++) {
        if (kv->dtype == SK_F32)
            ((float *)to)[i] = x[i];
        else
            ((uint16_t *)to)[i] = sk_f32_to_bf16(saturated(x[i]));
    }
}

static void load(const struct sk_kv_layer *kv, const void *from, float *ret)
{
    const float *scale = (const float *)((const int8_t *)from + kv->head_stride);

    for (uint32_t i = 0; i < kv->head_dim; i++) {
        if (kv->dtype == SK_F32)
            ret[i] = ((const float *)from)[i];
        else if (kv->dtype == SK_BF16)
            ret[i] = sk_bf16_to_f32(((const uint16_t *)from)[i]);
        else
            ret[i] = scale[i / SK_QBLOCK] * (float)((const int8_t *)from)[i];
    }
}

/* A q or k head of row r, normed and turned. */
static void turn(const struct sk_op_attention *op, struct sk_dev norm, uint32_t r, uint32_t head, float *ret)
{
    const struct sk_kv_layer *kv = op->kv;
    const uint32_t pos = ((const uint32_t *)sk_ref_ptr(op->rows->pos))[r];

    memcpy(ret, (const float *)sk_ref_ptr(op->qkv) + (size_t)r * op->ld_qkv + (size_t)head * kv->head_stride,
           kv->head_dim * sizeof *ret);
    if (norm.a != 0)
        sk_ref_norm_head(ret, ret, sk_ref_ptr(norm), kv->head_dim, op->eps);
    if (op->cos_sin.a != 0)
        sk_ref_rope(ret, (const float *)sk_ref_ptr(op->cos_sin) + (size_t)pos * op->rope_dim, op->rope_dim,
                    op->interleaved);
}

static void store_row(const struct sk_op_attention *op, uint32_t r)
{
    const struct sk_kv_layer *kv = op->kv;
    const uint32_t slot = ((const uint32_t *)sk_ref_ptr(op->rows->slot))[r],
                   pos = ((const uint32_t *)sk_ref_ptr(op->rows->pos))[r], entry = pos % SK_KV_BLOCK,
                   blk = ((const uint32_t *)sk_ref_ptr(op->table))[(size_t)slot * op->ld_table + pos / SK_KV_BLOCK];
    const float *v = (const float *)sk_ref_ptr(op->qkv) + (size_t)r * op->ld_qkv +
                     (size_t)(op->n_head + kv->n_kv_head) * kv->head_stride;
    float k[MAX_HEAD_DIM];

    for (uint32_t h = 0; h < kv->n_kv_head; h++) {
        turn(op, op->k_norm, r, op->n_head + h, k);
        store(kv, entry_at(kv, blk, h, KEY, entry), k);
        store(kv, entry_at(kv, blk, h, VALUE, entry), v + (size_t)h * kv->head_stride);
    }
}

/* Unnormalised softmax over some positions: out[i] = sum of exp(score - max) * v[i], sum = sum of exp(score - max). */
struct partial {
    double max, sum, out[MAX_HEAD_DIM];
};

/* One query head over positions lo..hi-1, all within one split. */
static void split(const struct sk_op_attention *op, const float *q, const int32_t *table, uint32_t kv_head, uint32_t lo,
                  uint32_t hi, struct partial *ret)
{
    const struct sk_kv_layer *kv = op->kv;
    double score[SK_SPLIT_TOK];
    float vec[MAX_HEAD_DIM];

    ret->max = -INFINITY;
    for (uint32_t p = lo; p < hi; p++) {
        load(kv, entry_at(kv, (uint32_t)table[p / SK_KV_BLOCK], kv_head, KEY, p % SK_KV_BLOCK), vec);
        double dot = 0;
        for (uint32_t i = 0; i < kv->head_dim; i++)
            dot += (double)q[i] * vec[i];
        score[p - lo] = dot * op->scale;
        ret->max = fmax(ret->max, score[p - lo]);
    }
    ret->sum = 0;
    memset(ret->out, 0, sizeof ret->out);
    for (uint32_t p = lo; p < hi; p++) {
        load(kv, entry_at(kv, (uint32_t)table[p / SK_KV_BLOCK], kv_head, VALUE, p % SK_KV_BLOCK), vec);
        double w = exp(score[p - lo] - ret->max);
        ret->sum += w;
        for (uint32_t i = 0; i < kv->head_dim; i++)
            ret->out[i] += w * vec[i];
    }
}

static void merge(struct partial *a, const struct partial *b, uint32_t dim)
{
    double max = fmax(a->max, b->max), wa = exp(a->max - max), wb = exp(b->max - max);
    a->max = max;
    a->sum = a->sum * wa + b->sum * wb;
    for (uint32_t i = 0; i < dim; i++)
        a->out[i] = a->out[i] * wa + b->out[i] * wb;
}

void sk_ref_attention(struct sk_backend *be, const struct sk_op_attention *op)
{
    const struct sk_kv_layer *kv = op->kv;
    const int32_t *slot = sk_ref_ptr(op->rows->slot), *pos = sk_ref_ptr(op->rows->pos);
    struct partial all, part;
    float q[MAX_HEAD_DIM];

    for (uint32_t r = 0; r < op->rows->n_row; r++)
        store_row(op, r);
    for (uint32_t r = 0; r < op->rows->n_row; r++) {
        const int32_t *table = (const int32_t *)sk_ref_ptr(op->table) + (size_t)slot[r] * op->ld_table;
        const uint32_t end = (uint32_t)pos[r] + 1;
        const uint32_t first = op->window > 0 && end > op->window ? end - op->window : 0;
        for (uint32_t h = 0; h < op->n_head; h++) {
            float *out = (float *)sk_ref_ptr(op->out) + (size_t)r * op->ld_out + (size_t)h * kv->head_stride;
            turn(op, op->q_norm, r, h, q);
            for (uint32_t lo = first, hi; lo < end; lo = hi) {
                hi = (lo / SK_SPLIT_TOK + 1) * SK_SPLIT_TOK;
                hi = hi < end ? hi : end;
                split(op, q, table, (op->head_at + h) / op->head_ratio, lo, hi, lo == first ? &all : &part);
                if (lo != first)
                    merge(&all, &part, kv->head_dim);
            }
            for (uint32_t i = 0; i < kv->head_stride; i++)
                out[i] = i < kv->head_dim ? (float)(all.out[i] / all.sum) : 0;
        }
    }
}

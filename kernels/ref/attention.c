#include "kernels/ref/ref.h"

#include <math.h>
#include <string.h>

enum { MAX_HEAD_DIM = 512 };

uint64_t sk_ref_kv_block_bytes(const struct sk_backend *be, enum sk_dtype dtype, uint32_t n_kv_head,
                               uint32_t head_stride)
{
    return (uint64_t)n_kv_head * 2 * SK_KV_BLOCK * head_stride * (dtype == SK_F16 ? 2 : 4);
}

void *sk_ref_kv(const struct sk_kv_layer *kv, uint32_t blk, uint32_t head, uint32_t which, uint32_t entry)
{
    size_t at = (((size_t)head * 2 + which) * SK_KV_BLOCK + entry) * kv->head_stride;
    return (char *)sk_ref_ptr(kv->data) + blk * kv->block_bytes + at * (kv->dtype == SK_F16 ? 2 : 4);
}

static void load(const struct sk_kv_layer *kv, const void *from, float *ret)
{
    if (kv->dtype == SK_F32)
        memcpy(ret, from, kv->head_dim * sizeof *ret);
    else
        for (uint32_t i = 0; i < kv->head_dim; i++)
            ret[i] = sk_f16_to_f32(((const uint16_t *)from)[i]);
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
        load(kv, sk_ref_kv(kv, (uint32_t)table[p / SK_KV_BLOCK], kv_head, 0, p % SK_KV_BLOCK), vec);
        double dot = 0;
        for (uint32_t i = 0; i < kv->head_dim; i++)
            dot += (double)q[i] * vec[i];
        score[p - lo] = dot * op->scale;
        ret->max = fmax(ret->max, score[p - lo]);
    }
    ret->sum = 0;
    memset(ret->out, 0, sizeof ret->out);
    for (uint32_t p = lo; p < hi; p++) {
        load(kv, sk_ref_kv(kv, (uint32_t)table[p / SK_KV_BLOCK], kv_head, 1, p % SK_KV_BLOCK), vec);
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

/* Query heads share KV heads evenly: head h reads KV head h / (n_head / n_kv_head). */
void sk_ref_attention(struct sk_backend *be, const struct sk_op_attention *op)
{
    const struct sk_kv_layer *kv = op->kv;
    const int32_t *slot = sk_ref_ptr(op->rows->slot), *pos = sk_ref_ptr(op->rows->pos);
    const uint32_t n_share = op->n_head / kv->n_kv_head;
    struct partial all, part;

    for (uint32_t r = 0; r < op->rows->n_row; r++) {
        const int32_t *table = (const int32_t *)sk_ref_ptr(op->table) + (size_t)slot[r] * op->ld_table;
        const uint32_t end = (uint32_t)pos[r] + 1;
        const uint32_t first = op->window > 0 && end > op->window ? end - op->window : 0;
        for (uint32_t h = 0; h < op->n_head; h++) {
            const float *q = (const float *)sk_ref_ptr(op->q) + (size_t)r * op->ld_q + (size_t)h * kv->head_stride;
            float *out = (float *)sk_ref_ptr(op->out) + (size_t)r * op->ld_out + (size_t)h * kv->head_stride;
            for (uint32_t lo = first, hi; lo < end; lo = hi) {
                hi = (lo / SK_SPLIT_TOK + 1) * SK_SPLIT_TOK;
                hi = hi < end ? hi : end;
                split(op, q, table, h / n_share, lo, hi, lo == first ? &all : &part);
                if (lo != first)
                    merge(&all, &part, kv->head_dim);
            }
            for (uint32_t i = 0; i < kv->head_stride; i++)
                out[i] = i < kv->head_dim ? (float)(all.out[i] / all.sum) : 0;
        }
    }
}

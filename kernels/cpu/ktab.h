/* The kernels of the x86 backend: what runs on one thread, on part of an op. Filled once, level by level in rising
 * order, so that an entry is the best one up to the chosen level. Files built for an instruction set are reached
 * through this table only.
 *
 * All pointers are host memory. Rows are f32 with pads of zeros as kernels/kernels.h says. A kernel's result for a row
 * does not depend on how many rows it is given. */
#ifndef SK_KTAB_H
#define SK_KTAB_H
#include "kernels/cpu/isa.h"
#include "kernels/kernels.h"

enum { SK_TILE_ROWS = 16 }; /* most rows of a GEMM tile */

/* Rows of activations are cut into tiles of SK_TILE_ROWS (the last may be lower) and made ready for the kernel of a
 * weight dtype once per op. A tile of n_row rows is, by dtype of the weights:
 * - f32, f16, bf16: [n_in][n_row] f32.
 * - q8, q4: per block of 32 inputs: q [n_row][32] int8, x / scale rounded to nearest even; scale [n_row] f32 = absmax /
 * 127; and what corrects for the weights' offset, [n_row]: q8: int32 -128 * sum(q), q4: f32 scale * sum(q).
 *
 * A stretch of a tile's inputs (of blocks) is a stretch of its bytes. */
typedef void (*sk_tile_fn)(const float *x, size_t ld, uint32_t n_row, uint32_t n_in, void *ret);
enum { SK_TILE_BLOCK_BYTES = SK_QBLOCK + 8 }; /* of one row and block */

static inline size_t sk_tile_row_bytes(enum sk_dtype weight, uint32_t n_in)
{
    if (weight == SK_Q8 || weight == SK_Q4)
        return (size_t)n_in / SK_QBLOCK * SK_TILE_BLOCK_BYTES;
    return (size_t)n_in * sizeof(float);
}

/* One linear op, as its kernels see it. */
struct sk_gemm {
    const struct sk_pack *pack;
    const uint8_t *weight;
    const void *x;     /* tiles, SK_TILE_ROWS rows apart */
    const float *bias; /* NULL: none */
    float *out;
    size_t ld_out;
    bool add;
};
/* Rows row..row + n_row - 1 of out, columns of n_panel panels from `panel`. row is a multiple of SK_TILE_ROWS, n_row
 * the height of its tile. */
typedef void (*sk_gemm_fn)(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row);

/* The query rows of consecutive positions of one slot and heads of one KV head: n_row * n_head <= SK_ATTN_TILE. */
enum { SK_ATTN_TILE = 12, SK_ATTN_MAX_HEAD_DIM = 512 };
struct sk_attn_tile {
    const float *q; /* first row, first head; heads head_stride apart, rows ld_q apart */
    size_t ld_q;
    uint32_t n_row, n_head, pos, window; /* pos: of the first row; window 0: none */
    float scale;
    const struct sk_kv_layer *kv;
    const int32_t *table; /* block numbers of the slot */
    uint32_t kv_head;
    uint32_t part_row; /* where its first row goes in a struct sk_attn_part, which several tiles may share */
};
/* Unnormalised softmax of a split, or of several merged: tile row r = part_row + row * n_head + head. sum is 0 where
 * the row sees no position of the split. */
struct sk_attn_part {
    float max[SK_ATTN_TILE], sum[SK_ATTN_TILE];
    float out[SK_ATTN_TILE][SK_ATTN_MAX_HEAD_DIM];
};

enum { SK_PART_MAX = 1024 };

struct sk_ktab {
    sk_gemm_fn gemm[SK_DTYPE_COUNT]; /* by dtype of the weights */
    sk_tile_fn tile[SK_DTYPE_COUNT];

    /* out may be x. weight, bias (NULL: none): [dim]. Writes zeros to out[dim..SK_ALIGN16(dim)). */
    void (*norm)(float *out, const float *x, const float *weight, const float *bias, uint32_t dim, float eps,
                 bool layer);
    /* Rotates a head in place; cos_sin: the dim / 2 pairs of this position. */
    void (*rope)(float *x, const float *cos_sin, uint32_t dim, bool interleaved);
    /* One head's key and value into entry `entry` of block `blk`. */
    void (*kv_put)(const struct sk_kv_layer *kv, int32_t blk, uint32_t kv_head, uint32_t entry, const float *k,
                   const float *v);
    /* out = act(in) * gate (NULL: none). Writes zeros to out[n..SK_ALIGN16(n)). */
    void (*act)(float *out, const float *in, const float *gate, uint32_t n, enum sk_op_act_kind kind);
    void (*add)(float *out, const float *x, uint64_t n);

    /* Split `split` (positions from split * SK_SPLIT_TOK) of a tile. */
    void (*attn_split)(const struct sk_attn_tile *t, uint32_t split, struct sk_attn_part *ret);
    /* Rows 0..n_row - 1 of p, which comes after what is in `into`; an empty `into` has sum 0 everywhere. */
    void (*attn_merge)(struct sk_attn_part *into, const struct sk_attn_part *p, uint32_t n_row, uint32_t head_stride);
    /* out = p->out[row] / p->sum[row] */
    void (*attn_out)(const struct sk_attn_part *p, uint32_t row, uint32_t head_stride, float *out);

    /* One row of logits. NaN is never the largest, never counted, never above. */
    float (*max)(const float *x, uint32_t n);       /* -INFINITY if there is none */
    uint32_t (*argmax)(const float *x, uint32_t n); /* ties to the lowest index; 0 if there is none */
    uint32_t (*count_above)(const float *x, uint32_t n, float limit);
    double (*sum_exp)(const float *x, uint32_t n, float temperature, float max); /* of x / temperature - max */
    /* Indices in rising order and values of x[i] >= limit; returns how many. Room for n. */
    uint32_t (*collect)(const float *x, uint32_t n, float limit, int32_t *ret_id, float *ret_x);
    /* The n_top <= SK_MAX_TOP largest by falling value, ties to the lowest index; returns how many. */
    uint32_t (*top)(const float *x, uint32_t n, uint32_t n_top, int32_t *ret_id);
    /* x cut into SK_PART_MAX parts, somehow: the largest of each part, -INFINITY of an empty one. */
    void (*part_max)(const float *x, uint32_t n, float ret[SK_PART_MAX]);
    /* argmax of x[i] / temperature + Gumbel noise of token i: the same bits as kernels/ref/sample.h; 0 if all are
     * -INFINITY. */
    uint32_t (*gumbel_argmax)(const float *x, uint32_t n, const struct sk_samp *s);
};

void sk_ktab_fill(struct sk_ktab *t, enum sk_isa isa); /* isa >= SK_ISA_AVX512 */

/* One function per file of kernels: puts its entries. */
void sk_gemm_f_avx512(struct sk_ktab *t);
void sk_gemm_q_avx512(struct sk_ktab *t);
void sk_gemm_q_vnni(struct sk_ktab *t);
void sk_vec_avx512(struct sk_ktab *t);
void sk_attn_avx512(struct sk_ktab *t);
void sk_logits_avx512(struct sk_ktab *t);

#endif

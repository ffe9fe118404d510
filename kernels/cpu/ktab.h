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

/* Rows of activations are cut into tiles of SK_TILE_ROWS (the last may be lower). */
enum { SK_TILE_ROWS = 16, SK_CPU_WORKER_BYTES = 1 << 20 };

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
/* How the rows of one class meet weights of one dtype. The form of a tile is the kernel's own; every file that has such
 * kernels describes it, and says what is rounded where. */
struct sk_gemm_kernel {
    /* Bytes of a tile per row; a tile may use those of SK_TILE_ROWS rows whatever its height. */
    size_t (*row_bytes)(const struct sk_pack *pack);
    /* Makes the inputs from..from + n - 1 of a tile of n_row rows: x is the first row's input `from`. `from` is a
     * multiple of SK_TILE_STRETCH, n too where the row does not end before. */
    void (*tile)(const struct sk_pack *pack, const float *x, size_t ld, uint32_t n_row, uint32_t from, uint32_t n,
                 void *ret_tile);
    /* Rows row..row + n_row - 1 of out, columns of n_panel panels from `panel`. row is a multiple of SK_TILE_ROWS,
     * n_row too where the rows do not end before. scratch: SK_CPU_WORKER_BYTES of this thread's, 64-byte aligned. */
    void (*run)(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row, void *scratch);
};
enum { SK_TILE_STRETCH = 1024 };

/* What arithmetic a row gets: kernels/kernels.h. */
enum sk_class { SK_CLASS_PROMPT, SK_CLASS_DECODE, SK_CLASS_COUNT };

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
    const struct sk_gemm_kernel *gemm[SK_CLASS_COUNT][SK_DTYPE_COUNT]; /* by dtype of the weights */

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

void sk_ktab_fill(struct sk_ktab *t, enum sk_isa isa);
/* Puts `kernel` for both classes. */
void sk_ktab_put_gemm(struct sk_ktab *t, enum sk_dtype dtype, const struct sk_gemm_kernel *kernel);

/* One function per file of kernels: puts its entries. */
void sk_gemm_f_avx512(struct sk_ktab *t);
void sk_gemm_q_avx512(struct sk_ktab *t);
void sk_gemm_q_vnni(struct sk_ktab *t);
void sk_vec_avx512(struct sk_ktab *t);
void sk_attn_avx512(struct sk_ktab *t);
void sk_logits_avx512(struct sk_ktab *t);

#endif

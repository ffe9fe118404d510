/* The kernels of the x86 backend: what runs on one thread, on part of an op. Filled once, level by level in rising
 * order, so that an entry is the best one up to the chosen level. Files built for an instruction set are reached
 * through this table only.
 *
 * All pointers are host memory. Rows are f32 with pads of zeros as kernels/kernels.h says. A kernel's result for a row
 * does not depend on how many rows it is given. */
#ifndef SK_KTAB_H
#define SK_KTAB_H
#include "kernels/cpu/attn.h"
#include "kernels/cpu/isa.h"
#include "kernels/kernels.h"

/* Rows of activations are cut into tiles of SK_TILE_ROWS (the last may be lower). */
enum { SK_TILE_ROWS = 16, SK_CPU_WORKER_BYTES = 2 << 20 };

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
enum { SK_TILE_STRETCH = 64 };

/* What arithmetic a row gets: kernels/kernels.h. */
enum sk_class { SK_CLASS_PROMPT, SK_CLASS_DECODE, SK_CLASS_COUNT };

enum { SK_PART_MAX = 1024 };

/* Tokens that may be drawn, in rising order of id; each array has SK_CAND_PAD more than n that may be read and written.
 * z and w as in kernels/ref/sample.h. */
enum { SK_CAND_PAD = 16 };
struct sk_cands {
    int32_t *id;
    float *z, *w;
    uint32_t n;
    int32_t first; /* id of the logits that `take` begins with */
    float max;     /* the largest z of the row: w is relative to it */
};
/* What a threshold is looked for in: keys and whole numbers as weights; padded in the same way. No NaN. */
struct sk_keys {
    float *key, *w;
    uint32_t n;
};
struct sk_cand_split {
    double above, equal;
    uint32_t n_equal;
};

/* What a norm takes from each value and then multiplies it by: 1 / sqrt(variance + eps). */
struct sk_norm_stat {
    float mean, inv;
};

struct sk_ktab {
    const struct sk_gemm_kernel *gemm[SK_CLASS_COUNT][SK_DTYPE_COUNT]; /* by dtype of the weights */

    /* Of a row of dim values; the mean is 0 unless `layer`. */
    struct sk_norm_stat (*norm_stat)(const float *x, uint32_t dim, float eps, bool layer);
    /* out = (x - mean) * inv * weight + bias (NULL: none), n values of a row. out may be x. Writes zeros to
     * out[n..SK_ALIGN16(n)). */
    void (*norm)(float *out, const float *x, struct sk_norm_stat stat, const float *weight, const float *bias,
                 uint32_t n);
    /* Rotates a head in place; cos_sin: the dim / 2 pairs of this position. */
    void (*rope)(float *x, const float *cos_sin, uint32_t dim, bool interleaved);
    /* One head's key and value, turned, into entry `entry` of block `blk`, saturated. */
    void (*kv_put)(const struct sk_kv_layer *kv, int32_t blk, uint32_t kv_head, uint32_t entry, const float *k,
                   const float *v);
    /* out = act(in) * gate (NULL: none). Writes zeros to out[n..SK_ALIGN16(n)). */
    void (*act)(float *out, const float *in, const float *gate, uint32_t n, enum sk_op_act_kind kind);
    void (*add)(float *out, const float *x, uint64_t n);
    /* out[i] += (part[0][at + i] + part[1][at + i]) + part[2][at + i] ...; n_part > 0 */
    void (*add_sum)(float *out, const float *const *part, uint32_t n_part, size_t at, uint64_t n);
    /* To nearest even; NaN stays NaN, denormals too. The same bits at every level. */
    void (*to_bf16)(uint16_t *out, const float *x, uint64_t n);
    void (*from_bf16)(float *out, const uint16_t *x, uint64_t n);
    /* What words at..at + n - 1, which begin at x, have of the checksum (kernels/ref/checksum.h). */
    uint64_t (*checksum)(const float *x, uint64_t at, uint64_t n);

    /* Folds splits split..split + n_split - 1 (positions from split * SK_SPLIT_TOK) of a tile into `into`, whose sums
     * are 0 where nothing came before. scratch: SK_ATTN_SCRATCH_BYTES of this thread's, 64-byte aligned. By dtype of
     * the cache. */
    sk_attn_fn attn[SK_CLASS_COUNT][SK_DTYPE_COUNT];
    /* n queries of p, which come after what is in `into`. */
    void (*attn_merge)(struct sk_attn_part *into, const struct sk_attn_part *p, uint32_t n, uint32_t head_stride);
    /* out = p->out[i] / p->sum[i] */
    void (*attn_out)(const struct sk_attn_part *p, uint32_t i, uint32_t head_stride, float *out);

    /* One row of logits. NaN is never the largest, never counted, never above. */
    float (*max)(const float *x, uint32_t n);       /* -INFINITY if there is none */
    uint32_t (*argmax)(const float *x, uint32_t n); /* ties to the lowest index; 0 if there is none */
    uint32_t (*count_above)(const float *x, uint32_t n, float limit);
    double (*sum_exp)(const float *x, uint32_t n, float max); /* of x - max */
    /* The n_top <= SK_MAX_TOP largest by falling value, ties to the lowest index; returns how many. */
    uint32_t (*top)(const float *x, uint32_t n, uint32_t n_top, int32_t *ret_id);
    /* x cut into SK_PART_MAX parts, somehow: the largest of each part, -INFINITY of an empty one. */
    void (*part_max)(const float *x, uint32_t n, float ret[SK_PART_MAX]);

    /* What sampling does with candidates: the same bits as kernels/ref/sample.h. */
    /* Into ret: the ids in rising order and z = x / temperature of x >= limit with z > -INFINITY, and w where ret_mass
     * is not NULL; *ret_mass then is the sum of the w of all x, also of those below the limit. ret->max is set. */
    void (*take)(const float *x, uint32_t n, float temperature, float limit, struct sk_cands *ret, double *ret_mass);
    /* Sets w of all from z; returns its sum. */
    double (*weigh)(struct sk_cands *c);
    /* Sum of w * (max - z), each rounded to a whole number. */
    double (*spread)(const struct sk_cands *c);
    /* Sums of the weights of keys above and equal to the pivot. */
    struct sk_cand_split (*split)(const struct sk_keys *k, float pivot);
    /* Those above (else: below) the pivot and their weights, in the same order. ret may be k. */
    void (*narrow)(const struct sk_keys *k, float pivot, bool above, struct sk_keys *ret);
    /* Keeps candidates whose key is above `limit`, and of those that are equal to it the ones of indices up to `last`.
     * key: one for each, may be c->z or c->w. */
    void (*keep)(struct sk_cands *c, const float *key, float limit, uint32_t last);
    /* The id of the largest z + Gumbel noise, ties to the lowest; n > 0, max is the largest z of c. */
    int32_t (*draw)(const struct sk_cands *c, float max, const struct sk_samp *s);
};

void sk_ktab_fill(struct sk_ktab *t, enum sk_isa isa);
/* Does a row get the same kernels in both classes, whatever the weights and the cache are made of? */
bool sk_ktab_classes_equal(const struct sk_ktab *t);
/* Put for both classes. */
void sk_ktab_put_attn(struct sk_ktab *t, enum sk_dtype dtype, sk_attn_fn fn);
void sk_ktab_put_gemm(struct sk_ktab *t, enum sk_dtype dtype, const struct sk_gemm_kernel *kernel);

/* One function per file of kernels: puts its entries. */
void sk_gemm_f_avx2(struct sk_ktab *t);
void sk_gemm_q_avx2(struct sk_ktab *t);
void sk_gemm_q_avxvnni(struct sk_ktab *t);
void sk_vec_avx2(struct sk_ktab *t);
void sk_attn_avx2(struct sk_ktab *t);
void sk_kv_avx2(struct sk_ktab *t);
void sk_logits_avx2(struct sk_ktab *t);
void sk_sample_avx2(struct sk_ktab *t);
void sk_gemm_f_avx512(struct sk_ktab *t);
void sk_gemm_f_bf16(struct sk_ktab *t);
void sk_gemm_f_amx(struct sk_ktab *t);
void sk_gemm_q_avx512(struct sk_ktab *t);
void sk_gemm_q_vnni(struct sk_ktab *t);
void sk_gemm_q_amx(struct sk_ktab *t);
void sk_vec_avx512(struct sk_ktab *t);
void sk_attn_avx512(struct sk_ktab *t);
void sk_attn_bf16(struct sk_ktab *t);
void sk_attn_amx(struct sk_ktab *t);
void sk_kv_avx512(struct sk_ktab *t);
void sk_logits_avx512(struct sk_ktab *t);
void sk_sample_avx512(struct sk_ktab *t);

#endif

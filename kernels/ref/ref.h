/* kernels/ref: every op of kernels/kernels.h in plain loops: the definition that other backends are tested against, and
 * what runs on a CPU that no other backend serves. One thread, at the time of the call. Weights are dequantised
 * exactly, activations stay f32, and each sum is taken in double, in rising order, and rounded to f32 once: so a row
 * gets the same bits whatever rows are beside it, and prompt and decode class are one. Build these files with
 * -ffp-contract=off: a fused multiply-add rounds differently from one compiler to the next. */
#ifndef SK_REF_H
#define SK_REF_H
#include "kernels/kernels.h"

struct sk_ref {
    struct sk_backend be; /* be.ctx is the struct itself */
    void *scratch;
    size_t scratch_bytes;
    bool failed; /* out of memory for scratch: wait() tells */
};

/* Backend memory is the host's. */
static inline void *sk_ref_ptr(struct sk_dev d)
{
    return (void *)(uintptr_t)d.a; // NOLINT(performance-no-int-to-ptr): the handle is the address
}
/* At least `bytes`, good until the next call; grows and stays. NULL when out of memory: the op then does nothing. */
void *sk_ref_scratch(struct sk_backend *be, size_t bytes);

/* What comes before a linear of n inputs. */
void sk_ref_pre(const struct sk_op_pre *pre, const float *x, uint32_t n, float *ret);
/* RMS norm of x, in place or not; weight [dim]. */
void sk_ref_norm_head(float *out, const float *x, const float *weight, uint32_t dim, float eps);
/* Rotates the pairs (i, i + dim/2), or (2i, 2i + 1) when interleaved, by the angles of one position. */
void sk_ref_rope(float *x, const float *cos_sin, uint32_t dim, bool interleaved);
/* A block of the cache is [head][key, value][entry]. Entry: of f32 and bf16 [head_stride]; of q8 int8 [head_stride],
 * then an f32 scale for each 32. */
uint64_t sk_ref_kv_block_bytes(const struct sk_backend *be, enum sk_dtype dtype, uint32_t n_kv_head,
                               uint32_t head_stride);

void sk_ref_embed(struct sk_backend *be, const struct sk_op_embed *op);
void sk_ref_linear(struct sk_backend *be, const struct sk_op_linear *op);
void sk_ref_attention(struct sk_backend *be, const struct sk_op_attention *op);
void sk_ref_add(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n);
void sk_ref_gather(struct sk_backend *be, const struct sk_op_gather *op);
void sk_ref_narrow(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n);
void sk_ref_widen(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n);
void sk_ref_checksum(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n);
void sk_ref_logits_process(struct sk_backend *be, const struct sk_op_logits *op);
void sk_ref_sample(struct sk_backend *be, const struct sk_op_logits *op);
void sk_ref_top_n(struct sk_backend *be, const struct sk_op_logits *op);
void sk_ref_vote(struct sk_backend *be, const struct sk_op_vote *op);
uint64_t sk_ref_vote_bytes(const struct sk_backend *be, uint32_t n_row, uint32_t n_vocab);

#endif

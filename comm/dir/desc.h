/* The neutral description of a decoder: all that engine/model needs to know of a model besides its tensors. Model names
 * do not exist past skein-build. What can be folded into weights or tables offline is folded and has no field here
 * (rope scaling lives in the stored inverse frequencies, interleaved q/k rows are un-permuted, fused tensors are
 * merged).
 *
 *   x = embed[token] (+ pos_embed[position])
 *   per layer:  h = norm(x); q,k,v = qkv(h) + bias; q,k = qk_norm(q,k); q,k = rope(q,k)
 *               x += o(attention(q,k,v)) + bias
 *               h = norm(x); x += down(act(gate(h)) * up(h)) + bias    or   down(act(up(h) + bias)) + bias
 *   logits = head(norm(x)) */
#ifndef SK_DESC_H
#define SK_DESC_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/buf.h"
#include "comm/base/err.h"

enum { SK_MAX_LAYERS = 256, SK_MAX_ROPES = 4, SK_MAX_GROUPS = 4 };
enum sk_norm { SK_NORM_RMS, SK_NORM_LAYER }; /* LAYER has mean subtraction and a bias */
enum sk_act { SK_ACT_SILU, SK_ACT_GELU_TANH, SK_ACT_GELU_ERF, SK_ACT_RELU };

struct sk_rope {
    uint32_t dim;     /* dimensions of a head that turn, even; inverse frequencies: tensor "rope.<i>" [dim/2] f32 */
    bool interleaved; /* pairs (2i, 2i+1) instead of (i, i + dim/2) */
    float mscale;     /* cos and sin are multiplied by this (YaRN); 1 otherwise */
};

struct sk_desc_layer {
    uint32_t window; /* attends to positions > pos - window; 0 = all */
    uint32_t rope;   /* index into ropes */
};

struct sk_desc {
    uint32_t n_vocab, n_embd, n_layer, n_head, n_kv_head, head_dim, n_ffn;
    uint32_t max_len; /* positions the model was made for */
    enum sk_norm norm;
    float norm_eps;
    enum sk_act act;
    bool gated;       /* MLP has a gate: act(gate) * up */
    bool qk_norm;     /* RMS norm over each head of q and k before rope, eps = norm_eps */
    bool pos_embed;   /* learned positions, tensor "pos_embed"; then n_rope = 0 */
    bool tied;        /* head is the embedding matrix; no tensor "head" */
    float attn_scale; /* multiplies q.k; 1/sqrt(head_dim) unless the model says otherwise */
    uint32_t n_rope;
    struct sk_rope ropes[SK_MAX_ROPES];
    struct sk_desc_layer layers[SK_MAX_LAYERS];
    /* Groups of layers with one window each: KV block tables are per group (derived by sk_desc_check). */
    uint32_t n_group;
    uint32_t group_window[SK_MAX_GROUPS];
    uint8_t layer_group[SK_MAX_LAYERS];
};

/* Stride in floats between heads in activations and caches: head_dim rounded up to 16; padding is zero. */
static inline uint32_t sk_desc_head_stride(const struct sk_desc *d)
{
    return (d->head_dim + 15) & ~15u;
}
/* Width in floats of the MLP's inner rows: n_ffn rounded up to 16; padding is zero. */
static inline uint32_t sk_desc_ffn_stride(const struct sk_desc *d)
{
    return (d->n_ffn + 15) & ~15u;
}

/* Checks every bound and rule (n_head % n_kv_head == 0, rope dims, ...) and derives the groups. -SK_EFORMAT. */
int sk_desc_check(struct sk_desc *d, struct sk_err *err);
struct cJSON;
int sk_desc_print(const struct sk_desc *d, struct sk_buf *b);                      /* as a JSON object */
int sk_desc_parse(const struct cJSON *v, struct sk_desc *ret, struct sk_err *err); /* then checked */
/* The decoder as about 25 lines of pseudo-code with this model's numbers. */
int sk_desc_explain(const struct sk_desc *d, struct sk_buf *b);

#endif

/* A model bound to a backend: what this rank's stage and shard have of it is found, its shape checked, handed over.
 * Immutable after open. */
#ifndef SK_MODEL_H
#define SK_MODEL_H
#include "engine/model/linear.h"

struct sk_model_norm {
    struct sk_dev weight, bias; /* bias.a == 0: none (RMS norm) */
};
struct sk_model_layer {
    struct sk_model_norm attn_norm, ffn_norm;
    struct sk_dev q_norm, k_norm;      /* a == 0: none */
    struct sk_linear qkv, o, up, down; /* up: gate, then up, side by side where the MLP has a gate */
};
struct sk_model {
    const struct sk_desc *desc;
    struct sk_backend *be;
    struct sk_group *group; /* the ranks of the stage */
    struct sk_shard shard;
    struct sk_bind bind;
    uint32_t max_len; /* positions of the rope tables */
    /* The first stage's: rows of shard.vocab; positions only on rank 0, for rows are added up over the ranks. */
    struct sk_mat embed, pos_embed;
    /* The last stage's: outputs of shard.vocab. */
    struct sk_linear head;
    struct sk_model_norm final_norm;
    struct sk_dev rope[SK_MAX_ROPES]; /* cos_sin tables that the layers use; owned */
    struct sk_model_layer *layer;     /* [shard.layer.n]; owned */
};

struct sk_model_src { /* all borrowed for the model's life */
    const struct sk_dir *dir;
    struct sk_weights *w;
    struct sk_backend *be;
    struct sk_group *group;
    uint32_t max_len;
    const struct sk_group *pp; /* the stages; NULL: one */
};
/* -SK_EFORMAT (the error names the tensor), -SK_EUNSUP (cannot be cut so), -SK_EIO, -SK_ENOMEM. */
int sk_model_open(struct sk_model *m, const struct sk_model_src *src, struct sk_err *err);
void sk_model_close(struct sk_model *m); /* also after a failed open */

struct sk_model_need {
    struct sk_shard shard;
    uint64_t weights, tables; /* bytes that open takes */
};
/* Takes nothing; w of src is not written to, its backend not looked at. Errors as open. */
int sk_model_plan(const struct sk_model_src *src, struct sk_model_need *ret, struct sk_err *err);

#endif

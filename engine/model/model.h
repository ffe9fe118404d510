/* A model bound to a backend: every tensor found, its shape checked, this rank's shard handed over. Immutable after
 * open. */
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
    struct sk_group *group;
    struct sk_shard shard;
    struct sk_bind bind;
    uint32_t max_len; /* positions of the rope tables */
    struct sk_mat embed,
        pos_embed; /* replicated, as is the head: every rank draws the same token from the same logits */
    struct sk_linear head;
    struct sk_model_norm final_norm;
    struct sk_dev rope[SK_MAX_ROPES]; /* cos_sin tables; owned */
    struct sk_model_layer *layer;     /* [desc->n_layer]; owned */
};

struct sk_model_src { /* all borrowed for the model's life */
    const struct sk_dir *dir;
    const struct sk_weights *w;
    struct sk_backend *be;
    struct sk_group *group;
    uint32_t max_len;
};
/* -SK_EFORMAT (the error names the tensor), -SK_EUNSUP (cannot be cut over the group), -SK_ENOMEM. */
int sk_model_open(struct sk_model *m, const struct sk_model_src *src, struct sk_err *err);
void sk_model_close(struct sk_model *m); /* also after a failed open */
/* Bytes of the tables that open takes besides the weights. */
uint64_t sk_model_table_bytes(const struct sk_desc *d, uint32_t max_len);

#endif

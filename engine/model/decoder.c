#include "engine/model/decoder.h"

static void norm(const struct sk_model *m, const struct sk_model_norm *w, struct sk_dev out, struct sk_dev x,
                 uint32_t n_row)
{
    struct sk_op_norm op = {.out = out,
                            .x = x,
                            .weight = w->weight,
                            .bias = w->bias,
                            .n_row = n_row,
                            .dim = m->desc->n_embd,
                            .ld = (uint32_t)SK_ALIGN16(m->desc->n_embd),
                            .eps = m->desc->norm_eps,
                            .layer = m->desc->norm == SK_NORM_LAYER};
    m->be->norm(m->be, &op);
}

static enum sk_op_act_kind act_kind(enum sk_act act)
{
    static const enum sk_op_act_kind kind[] = {
        [SK_ACT_SILU] = SK_OP_SILU,
        [SK_ACT_GELU_TANH] = SK_OP_GELU_TANH,
        [SK_ACT_GELU_ERF] = SK_OP_GELU_ERF,
        [SK_ACT_RELU] = SK_OP_RELU,
    };
    return kind[act];
}

/* q, k, v of the normed rows; rope and cache write; attention over the cache: s->h in, s->attn out. */
static void attention(const struct sk_model *m, const struct sk_kv *kv, const struct sk_scratch *s,
                      const struct sk_rows *rows, uint32_t l)
{
    const struct sk_desc *d = m->desc;
    const struct sk_model_layer *w = &m->layer[l];
    const struct sk_rope *rope = d->n_rope ? &d->ropes[d->layers[l].rope] : NULL;
    struct sk_dev table = kv->table[d->layer_group[l]];

    struct sk_linear_io qkv = {s->qkv, s->h, s->ld_qkv, s->ld_x, rows->n_row, rows->n_prompt_row};
    sk_linear_run(&w->qkv, m->be, &qkv);

    struct sk_op_rope_kv turn = {.qkv = s->qkv,
                                 .ld = s->ld_qkv,
                                 .n_head = m->shard.head.n,
                                 .q_norm = w->q_norm,
                                 .k_norm = w->k_norm,
                                 .eps = d->norm_eps,
                                 .cos_sin = rope ? m->rope[d->layers[l].rope] : (struct sk_dev){0},
                                 .rope_dim = rope ? rope->dim : 0,
                                 .interleaved = rope && rope->interleaved,
                                 .rows = rows,
                                 .table = table,
                                 .ld_table = kv->need.ld_table,
                                 .kv = &kv->layer[l]};
    m->be->rope_kv(m->be, &turn);

    struct sk_op_attention attend = {.out = s->attn,
                                     .q = s->qkv,
                                     .ld_out = s->ld_attn,
                                     .ld_q = s->ld_qkv,
                                     .n_head = m->shard.head.n,
                                     .window = d->layers[l].window,
                                     .scale = d->attn_scale,
                                     .rows = rows,
                                     .table = table,
                                     .ld_table = kv->need.ld_table,
                                     .kv = &kv->layer[l]};
    m->be->attention(m->be, &attend);
}

/* act(gate) * up, or act(up): s->h in, s->act out. */
static void mlp(const struct sk_model *m, const struct sk_scratch *s, const struct sk_rows *rows, uint32_t l)
{
    struct sk_linear_io up = {s->up, s->h, s->ld_up, s->ld_x, rows->n_row, rows->n_prompt_row};
    sk_linear_run(&m->layer[l].up, m->be, &up);

    struct sk_op_act act = {.out = s->act,
                            .in = s->up,
                            .n_row = rows->n_row,
                            .width = m->shard.ffn.n,
                            .ld_out = s->ld_act,
                            .ld_in = s->ld_up,
                            .kind = act_kind(m->desc->act),
                            .gated = m->desc->gated};
    m->be->act(m->be, &act);
}

/* Only that it moves matters, and whoever looks does so seconds apart: no order to keep. */
static void tick(_Atomic uint64_t *progress)
{
    if (progress)
        atomic_fetch_add_explicit(progress, 1, memory_order_relaxed);
}

int sk_decoder_run(const struct sk_model *m, const struct sk_kv *kv, const struct sk_scratch *s,
                   const struct sk_rows *rows, _Atomic uint64_t *progress)
{
    struct sk_op_embed embed = {.out = s->x,
                                .ld = s->ld_x,
                                .table = &m->embed,
                                .pos_table = m->desc->pos_embed ? &m->pos_embed : NULL,
                                .rows = rows};
    struct sk_linear_io o = {s->x, s->attn, s->ld_x, s->ld_attn, rows->n_row, rows->n_prompt_row};
    struct sk_linear_io down = {s->x, s->act, s->ld_x, s->ld_act, rows->n_row, rows->n_prompt_row};
    int rc = 0;

    m->be->embed(m->be, &embed);
    for (uint32_t l = 0; !rc && l < m->desc->n_layer; l++) {
        const struct sk_model_layer *w = &m->layer[l];

        norm(m, &w->attn_norm, s->h, s->x, rows->n_row);
        attention(m, kv, s, rows, l);
        rc = sk_linear_reduce(&w->o, m->be, &o, m->group, s->partial);
        tick(progress);
        if (rc)
            break;

        norm(m, &w->ffn_norm, s->h, s->x, rows->n_row);
        mlp(m, s, rows, l);
        rc = sk_linear_reduce(&w->down, m->be, &down, m->group, s->partial);
        tick(progress);
    }
    return rc;
}

void sk_decoder_head(const struct sk_model *m, const struct sk_scratch *s, struct sk_dev index, uint32_t n_row,
                     uint32_t n_prompt_row)
{
    struct sk_op_gather pick = {.out = s->head_x, .in = s->x, .index = index, .n_row = n_row, .ld = s->ld_x};
    struct sk_linear_io head = {s->logits, s->head_h, s->ld_logits, s->ld_x, n_row, n_prompt_row};

    m->be->gather(m->be, &pick);
    norm(m, &m->final_norm, s->head_h, s->head_x, n_row);
    sk_linear_run(&m->head, m->be, &head);
}

#include "engine/model/decoder.h"

static struct sk_op_pre norm(const struct sk_model *m, const struct sk_model_norm *w)
{
    return (struct sk_op_pre){.kind = m->desc->norm == SK_NORM_LAYER ? SK_PRE_LAYER_NORM : SK_PRE_RMS_NORM,
                              .weight = w->weight,
                              .bias = w->bias,
                              .eps = m->desc->norm_eps};
}

/* act(gate) * up, or act(up) */
static struct sk_op_pre act(const struct sk_desc *d)
{
    static const enum sk_op_act_kind kind[] = {
        [SK_ACT_SILU] = SK_OP_SILU,
        [SK_ACT_GELU_TANH] = SK_OP_GELU_TANH,
        [SK_ACT_GELU_ERF] = SK_OP_GELU_ERF,
        [SK_ACT_RELU] = SK_OP_RELU,
    };
    return (struct sk_op_pre){.kind = d->gated ? SK_PRE_GATED_ACT : SK_PRE_ACT, .act = kind[d->act]};
}

static struct sk_linear_io io(const struct sk_rows *rows, struct sk_dev out, uint32_t ld_out, struct sk_dev x,
                              uint32_t ld_x)
{
    return (struct sk_linear_io){
        .out = out, .x = x, .ld_out = ld_out, .ld_x = ld_x, .n_row = rows->n_row, .n_prompt_row = rows->n_prompt_row};
}

/* q, k, v of the normed rows; rope and cache write; attention over the cache: s->x in, s->attn out. */
static void attention(const struct sk_model *m, const struct sk_kv *kv, const struct sk_scratch *s,
                      const struct sk_rows *rows, uint32_t l)
{
    const struct sk_desc *d = m->desc;
    const struct sk_model_layer *w = &m->layer[l];
    const struct sk_rope *rope = d->n_rope ? &d->ropes[d->layers[l].rope] : NULL;

    struct sk_linear_io qkv = io(rows, s->qkv, s->ld_qkv, s->x, s->ld_x);
    qkv.pre = norm(m, &w->attn_norm);
    sk_linear_run(&w->qkv, m->be, &qkv);

    struct sk_op_attention attend = {.out = s->attn,
                                     .qkv = s->qkv,
                                     .ld_out = s->ld_attn,
                                     .ld_qkv = s->ld_qkv,
                                     .n_head = m->shard.head.n,
                                     .window = d->layers[l].window,
                                     .scale = d->attn_scale,
                                     .eps = d->norm_eps,
                                     .q_norm = w->q_norm,
                                     .k_norm = w->k_norm,
                                     .cos_sin = rope ? m->rope[d->layers[l].rope] : (struct sk_dev){0},
                                     .rope_dim = rope ? rope->dim : 0,
                                     .interleaved = rope && rope->interleaved,
                                     .rows = rows,
                                     .table = kv->table[d->layer_group[l]],
                                     .ld_table = kv->need.ld_table,
                                     .kv = &kv->layer[l]};
    m->be->attention(m->be, &attend);
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
    struct sk_linear_io o = io(rows, s->x, s->ld_x, s->attn, s->ld_attn);
    struct sk_linear_io up = io(rows, s->up, s->ld_up, s->x, s->ld_x);
    struct sk_linear_io down = io(rows, s->x, s->ld_x, s->up, s->ld_up);
    int rc = 0;

    down.pre = act(m->desc);
    m->be->embed(m->be, &embed);
    for (uint32_t l = 0; !rc && l < m->desc->n_layer; l++) {
        const struct sk_model_layer *w = &m->layer[l];

        attention(m, kv, s, rows, l);
        rc = sk_linear_reduce(&w->o, m->be, &o, m->group, s->partial);
        tick(progress);
        if (rc)
            break;

        up.pre = norm(m, &w->ffn_norm);
        sk_linear_run(&w->up, m->be, &up);
        rc = sk_linear_reduce(&w->down, m->be, &down, m->group, s->partial);
        tick(progress);
    }
    return rc;
}

void sk_decoder_head(const struct sk_model *m, const struct sk_scratch *s, struct sk_dev index, uint32_t n_row,
                     uint32_t n_prompt_row)
{
    struct sk_op_gather pick = {.out = s->head_x, .in = s->x, .index = index, .n_row = n_row, .ld = s->ld_x};
    struct sk_linear_io head = {.out = s->logits,
                                .x = s->head_x,
                                .ld_out = s->ld_logits,
                                .ld_x = s->ld_x,
                                .n_row = n_row,
                                .n_prompt_row = n_prompt_row,
                                .pre = norm(m, &m->final_norm)};

    m->be->gather(m->be, &pick);
    sk_linear_run(&m->head, m->be, &head);
}

#include "engine/model/decoder.h"

#include "comm/base/clock.h"
#include "engine/model/timeline.h"

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

/* q, k, v of the normed rows; rope and cache write; attention over the cache: s->x in, s->attn out. l counts the layers
 * that are here. */
static void attention(const struct sk_model *m, const struct sk_kv *kv, const struct sk_scratch *s,
                      const struct sk_rows *rows, uint32_t l)
{
    const struct sk_desc *d = m->desc;
    const struct sk_model_layer *w = &m->layer[l];
    const uint32_t id = m->shard.layer.first + l;
    const struct sk_rope *rope = d->n_rope ? &d->ropes[d->layers[id].rope] : NULL;

    struct sk_linear_io qkv = io(rows, s->qkv, s->ld_qkv, s->x, s->ld_x);
    qkv.pre = norm(m, &w->attn_norm);
    sk_linear_run(&w->qkv, m->be, &qkv);

    struct sk_op_attention attend = {.out = s->attn,
                                     .qkv = s->qkv,
                                     .ld_out = s->ld_attn,
                                     .ld_qkv = s->ld_qkv,
                                     .n_head = m->shard.head.n,
                                     .head_ratio = m->shard.head_ratio,
                                     .head_at = m->shard.head_at,
                                     .window = d->layers[id].window,
                                     .scale = d->attn_scale,
                                     .eps = d->norm_eps,
                                     .q_norm = w->q_norm,
                                     .k_norm = w->k_norm,
                                     .cos_sin = rope ? m->rope[d->layers[id].rope] : (struct sk_dev){0},
                                     .rope_dim = rope ? rope->dim : 0,
                                     .interleaved = rope && rope->interleaved,
                                     .rows = rows,
                                     .table = kv->table[d->layer_group[id]],
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

/* Embeddings, each rank adding the words that it has. */
static int look_up(const struct sk_model *m, const struct sk_scratch *s, const struct sk_rows *rows)
{
    struct sk_op_embed embed = {.out = s->x,
                                .ld = s->ld_x,
                                .first = m->shard.vocab.first,
                                .table = &m->embed,
                                .pos_table = m->pos_embed.data.a ? &m->pos_embed : NULL,
                                .rows = rows};
    m->be->embed(m->be, &embed);
    return m->group->size > 1 ? m->group->all_reduce(m->group, m->be, s->x.a, (size_t)rows->n_row * s->ld_x) : 0;
}

/* The time that a sum took is what the group counted, and most of that is its end: waiting for the others. */
static int add_up(const struct sk_model *m, const struct sk_linear *l, const struct sk_linear_io *io,
                  const struct sk_scratch *s, const struct sk_decoder_watch *watch)
{
    uint64_t before = m->group->collective_us;
    int rc = sk_linear_reduce(l, m->be, io, m->group, s->partial);
    if (watch->timeline && m->group->size > 1)
        sk_timeline_add(watch->timeline, SK_TIMELINE_COLLECTIVE, sk_clock_us() - (m->group->collective_us - before),
                        (uint64_t)io->n_row * io->ld_out);
    tick(watch->progress);
    return rc;
}

int sk_decoder_run(const struct sk_model *m, const struct sk_kv *kv, const struct sk_scratch *s,
                   const struct sk_rows *rows, const struct sk_decoder_watch *watch)
{
    struct sk_linear_io o = io(rows, s->x, s->ld_x, s->attn, s->ld_attn);
    struct sk_linear_io up = io(rows, s->up, s->ld_up, s->x, s->ld_x);
    struct sk_linear_io down = io(rows, s->x, s->ld_x, s->up, s->ld_up);
    int rc = m->shard.first ? look_up(m, s, rows) : 0;

    down.pre = act(m->desc);
    for (uint32_t l = 0; !rc && l < m->shard.layer.n; l++) {
        const struct sk_model_layer *w = &m->layer[l];

        attention(m, kv, s, rows, l);
        rc = add_up(m, &w->o, &o, s, watch);
        if (rc)
            break;

        up.pre = norm(m, &w->ffn_norm);
        sk_linear_run(&w->up, m->be, &up);
        rc = add_up(m, &w->down, &down, s, watch);
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

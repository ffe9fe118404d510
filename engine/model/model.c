#include "engine/model/model.h"

#include <stdio.h>
#include <string.h>

#include "comm/base/mem.h"
#include "engine/model/rope.h"

struct name {
    char s[SK_DIR_NAME_MAX];
};

/* Of the stage's layer l. */
static struct name layer_name(const struct sk_model *m, uint32_t l, const char *what)
{
    struct name n;
    snprintf(n.s, sizeof n.s, "layer.%u.%s", m->shard.layer.first + l, what);
    return n;
}

static int bind_norm(struct sk_model *m, const char *name, struct sk_model_norm *ret, struct sk_err *err)
{
    int rc = sk_bind_vector(&m->bind, name, m->desc->n_embd, &ret->weight, err);
    if (rc || m->desc->norm == SK_NORM_RMS)
        return rc;
    char bias[SK_DIR_NAME_MAX];
    snprintf(bias, sizeof bias, "%s.bias", name);
    return sk_bind_vector(&m->bind, bias, m->desc->n_embd, &ret->bias, err);
}

static int bind_attention(struct sk_model *m, uint32_t l, struct sk_err *err)
{
    const struct sk_desc *d = m->desc;
    struct sk_model_layer *layer = &m->layer[l];
    uint32_t hs = sk_desc_head_stride(d);
    struct sk_span in = {m->shard.head.first * hs, m->shard.head.n * hs};
    struct name o = layer_name(m, l, "o");

    int rc = bind_norm(m, layer_name(m, l, "attn_norm").s, &layer->attn_norm, err);
    if (!rc)
        rc = sk_linear_qkv(&layer->qkv, &m->bind, d, &m->shard, layer_name(m, l, "qkv").s, err);
    if (!rc && d->qk_norm)
        rc = sk_bind_vector(&m->bind, layer_name(m, l, "q_norm").s, d->head_dim, &layer->q_norm, err);
    if (!rc && d->qk_norm)
        rc = sk_bind_vector(&m->bind, layer_name(m, l, "k_norm").s, d->head_dim, &layer->k_norm, err);
    if (!rc)
        rc = sk_linear_row(&layer->o, &m->bind, &(struct sk_bind_want){o.s, d->n_embd, d->n_head * hs}, in,
                           m->shard.rank, err);
    return rc;
}

static int bind_mlp(struct sk_model *m, uint32_t l, struct sk_err *err)
{
    const struct sk_desc *d = m->desc;
    struct sk_model_layer *layer = &m->layer[l];
    uint32_t fs = sk_desc_ffn_stride(d);
    struct name up = layer_name(m, l, d->gated ? "gate_up" : "up"), down = layer_name(m, l, "down");

    int rc = bind_norm(m, layer_name(m, l, "ffn_norm").s, &layer->ffn_norm, err);
    if (!rc && d->gated)
        rc = sk_linear_merged(&layer->up, &m->bind, &(struct sk_bind_want){up.s, 2 * fs, d->n_embd}, m->shard.ffn, err);
    else if (!rc)
        rc = sk_linear_column(&layer->up, &m->bind, &(struct sk_bind_want){up.s, fs, d->n_embd}, m->shard.ffn, err);
    if (!rc)
        rc = sk_linear_row(&layer->down, &m->bind, &(struct sk_bind_want){down.s, d->n_embd, fs}, m->shard.ffn,
                           m->shard.rank, err);
    return rc;
}

static int bind_ends(struct sk_model *m, struct sk_err *err)
{
    const struct sk_desc *d = m->desc;
    const struct sk_shard *s = &m->shard;
    struct sk_bind_want embed = {"embed", d->n_vocab, d->n_embd},
                        head = {d->tied ? "embed" : "head", d->n_vocab, d->n_embd};
    struct sk_bind_want pos = {"pos_embed", d->max_len, d->n_embd};

    int rc = s->first ? sk_bind_rows(&m->bind, &embed, s->vocab, &m->embed, err) : 0;
    if (!rc && d->pos_embed && s->first && s->rank == 0)
        rc = sk_bind_rows(&m->bind, &pos, (struct sk_span){0, d->max_len}, &m->pos_embed, err);
    if (!rc && s->last)
        rc = bind_norm(m, "final_norm", &m->final_norm, err);
    if (!rc && s->last)
        rc = sk_linear_column(&m->head, &m->bind, &head, s->vocab, err);
    return rc;
}

static bool uses_rope(const struct sk_model *m, uint32_t rope)
{
    for (uint32_t l = 0; l < m->shard.layer.n; l++)
        if (m->desc->layers[m->shard.layer.first + l].rope == rope)
            return true;
    return false;
}

static int make_ropes(struct sk_model *m, struct sk_err *err)
{
    for (uint32_t i = 0; i < m->desc->n_rope; i++) {
        const struct sk_rope *rope = &m->desc->ropes[i];
        const float *inv_freq;
        char name[SK_DIR_NAME_MAX];
        if (!uses_rope(m, i))
            continue;
        snprintf(name, sizeof name, "rope.%u", i);
        int rc = sk_bind_host(&m->bind, name, rope->dim / 2, &inv_freq, err);
        if (rc)
            return rc;
        m->rope[i] = m->be->alloc(m->be, sk_rope_bytes(rope, m->max_len));
        if (!m->rope[i].a || sk_rope_fill(rope, inv_freq, m->max_len, m->be, m->rope[i]))
            return sk_err_set(err, SK_ENOMEM, name, "no memory for the rope table of %u positions", m->max_len);
    }
    return 0;
}

/* What a layer takes on average: they have one shape, but their types may differ. */
static void weigh(const struct sk_weights *w, const struct sk_desc *d, struct sk_shard_units *ret)
{
    const struct sk_dir_entry *head = sk_weights_find(w, d->tied ? "embed" : "head");
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < w->n_tensor; i++)
        if (strncmp(w->tensors[i].name, "layer.", 6) == 0)
            bytes += w->tensors[i].bytes;
    ret->layer_bytes = bytes / d->n_layer;
    ret->head_bytes = head ? head->bytes : 0;
}

/* All layers have the slabs of layer 0, or binding says which has not. */
static int make_shard(struct sk_model *m, const struct sk_group *pp, struct sk_err *err)
{
    const struct sk_desc *d = m->desc;
    uint32_t hs = sk_desc_head_stride(d), fs = sk_desc_ffn_stride(d), o_slab, down_slab;
    int rc = sk_bind_slab(&m->bind, &(struct sk_bind_want){"layer.0.o", d->n_embd, d->n_head * hs}, &o_slab, err);
    if (!rc)
        rc = sk_bind_slab(&m->bind, &(struct sk_bind_want){"layer.0.down", d->n_embd, fs}, &down_slab, err);
    if (rc)
        return rc;
    if (o_slab % hs)
        return sk_err_set(err, SK_EFORMAT, "layer.0.o", "tensor layer.0.o: slab of %u cuts a head of %u", o_slab, hs);
    struct sk_shard_units unit = {o_slab / hs, down_slab, 0, 0};
    while (unit.ffn % SK_PANEL) /* a cut must suit the rows of gate and up too */
        unit.ffn += down_slab;
    if (m->group->size == 1) /* nothing is cut, so nothing has a unit */
        unit = (struct sk_shard_units){1, 1, 0, 0};
    weigh(m->bind.w, d, &unit);
    struct sk_shard_place place = {(uint32_t)m->group->rank, (uint32_t)m->group->size, pp ? (uint32_t)pp->rank : 0,
                                   pp ? (uint32_t)pp->size : 1};
    return sk_shard_init(&m->shard, d, &place, &unit, err);
}

static int bind_all(struct sk_model *m, const struct sk_group *pp, struct sk_err *err)
{
    int rc = make_shard(m, pp, err);
    if (rc)
        return rc;
    m->layer = sk_calloc(m->shard.layer.n, sizeof *m->layer);
    if (!m->layer)
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for the tables of %u layers", m->shard.layer.n);
    rc = bind_ends(m, err);
    for (uint32_t l = 0; !rc && l < m->shard.layer.n; l++) {
        rc = bind_attention(m, l, err);
        if (!rc)
            rc = bind_mlp(m, l, err);
    }
    return rc;
}

int sk_model_open(struct sk_model *m, const struct sk_model_src *src, struct sk_err *err)
{
    *m = (struct sk_model){.desc = &src->dir->desc, .be = src->be, .group = src->group, .max_len = src->max_len};
    if (sk_bind_init(&m->bind, src->w, src->be))
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for the list of %u tensors", src->w->n_tensor);
    int rc = bind_all(m, src->pp, err);
    if (!rc)
        rc = make_ropes(m, err);
    if (!rc)
        sk_weights_seal(src->w);
    return rc;
}

void sk_model_close(struct sk_model *m)
{
    for (uint32_t i = 0; m->desc && i < m->desc->n_rope; i++)
        if (m->rope[i].a)
            m->be->free(m->be, m->rope[i], sk_rope_bytes(&m->desc->ropes[i], m->max_len));
    sk_bind_done(&m->bind);
    sk_free(m->layer);
    *m = (struct sk_model){0};
}

int sk_model_plan(const struct sk_model_src *src, struct sk_model_need *ret, struct sk_err *err)
{
    struct sk_model m = {.desc = &src->dir->desc, .group = src->group, .max_len = src->max_len};
    if (sk_bind_count(&m.bind, src->w))
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for the list of %u tensors", src->w->n_tensor);
    int rc = bind_all(&m, src->pp, err);
    if (!rc) {
        *ret = (struct sk_model_need){.shard = m.shard, .weights = m.bind.bytes};
        for (uint32_t i = 0; i < m.desc->n_rope; i++)
            ret->tables += uses_rope(&m, i) ? sk_rope_bytes(&m.desc->ropes[i], m.max_len) : 0;
    }
    sk_model_close(&m);
    return rc;
}

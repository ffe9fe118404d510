#include "engine/model/rank.h"

#include <string.h>

#include "comm/base/mem.h"

_Static_assert((int)SK_PLAN_MAX_GROUPS == (int)SK_MAX_GROUPS, "a plan's limits have every group of a description");
_Static_assert((int)SK_MAX_TOP == (int)SK_MAX_LOGPROBS, "a result row has room for what parameters may ask for");

static uint64_t result_bytes(const struct sk_rank_conf *c)
{
    return (uint64_t)c->max_result * sizeof(struct sk_result_row) + sizeof(uint64_t);
}

static struct sk_kv_conf kv_conf(const struct sk_rank_conf *c, const struct sk_shard *s)
{
    struct sk_kv_conf r = {.bytes = c->kv_bytes,
                           .dtype = c->kv_dtype,
                           .max_slot = c->max_slot,
                           .max_len = c->max_len,
                           .max_row = c->max_row,
                           .n_kv_head = s->kv_head.n,
                           .layer = s->layer};
    memcpy(r.n_blk, c->n_blk, sizeof r.n_blk);
    return r;
}

static bool votes(const struct sk_shard *s)
{
    return s->last && s->size > 1;
}

static int check_conf(const struct sk_rank_conf *c, const struct sk_desc *d, struct sk_err *err)
{
    if (c->max_slot < 1 || c->max_row < 1 || c->max_result < 1)
        return sk_err_set(err, SK_EINVAL, NULL, "a rank needs at least one slot, row and result row");
    if (c->max_len < 1 || c->max_len > d->max_len)
        return sk_err_set(err, SK_EINVAL, "max-model-len", "%u tokens asked for, the model was made for %u", c->max_len,
                          d->max_len);
    if (c->kv_dtype != SK_F32 && c->kv_dtype != SK_BF16 && c->kv_dtype != SK_Q8)
        return sk_err_set(err, SK_EINVAL, "kv-dtype", "the KV cache is f32, bf16 or q8, not %s",
                          sk_dtype_name(c->kv_dtype));
    return 0;
}

static struct sk_model_src model_src(const struct sk_grid *grid, struct sk_group *self)
{
    return (struct sk_model_src){.group = grid && grid->tp ? grid->tp : self, .pp = grid ? grid->pp : NULL};
}

int sk_rank_plan(const struct sk_dir *dir, const struct sk_weights *w, struct sk_backend *be,
                 const struct sk_grid *grid, const struct sk_rank_conf *conf, struct sk_rank_need *ret,
                 struct sk_err *err)
{
    const struct sk_desc *d = &dir->desc;
    struct sk_group one = {.size = 1};
    struct sk_model_src src = model_src(grid, &one);
    struct sk_model_need model;
    struct sk_kv_need kv;
    src.dir = dir;
    src.w = (struct sk_weights *)w; /* which is not written to */
    src.max_len = conf->max_len;
    int rc = check_conf(conf, d, err);
    if (!rc)
        rc = sk_model_plan(&src, &model, err);
    if (rc)
        return rc;
    const struct sk_shard *s = &model.shard;
    struct sk_kv_conf kc = kv_conf(conf, s);
    rc = sk_kv_plan(d, be, &kc, &kv, err);
    if (rc)
        return rc;

    struct sk_rank_need r = {.kv = kv.bytes,
                             .scratch = sk_scratch_bytes(d, s, conf->max_row) + sk_rank_staging_bytes(conf) +
                                        result_bytes(conf),
                             .slots = sk_slots_bytes(conf->max_slot, conf->max_len) + kv.table_bytes,
                             .weights = model.weights + model.tables,
                             .first_layer = s->layer.first,
                             .n_layer = s->layer.n,
                             .first_head = s->head.first,
                             .n_head = s->head.n,
                             .first_vocab = s->vocab.first,
                             .n_vocab = s->vocab.n};
    if (votes(s))
        r.scratch += sk_vote_bytes(be, s->size, s->vocab.n);
    for (uint32_t g = 0; g < d->n_group; g++) {
        r.kv_block += kv.block[g];
        r.n_blk[g] = kv.n_blk[g];
    }
    *ret = r;
    return 0;
}

static int open_step_memory(struct sk_rank *r, struct sk_err *err)
{
    const struct sk_rank_conf *c = &r->conf;
    const struct sk_shard *s = &r->model.shard;
    r->staging.size = sk_rank_staging_bytes(c);
    r->staging.host = sk_malloc(r->staging.size);
    r->staging.dev = r->be->alloc(r->be, r->staging.size);
    r->result = sk_calloc(1, result_bytes(c));
    r->result_dev = r->be->alloc(r->be, result_bytes(c));
    if (!r->staging.host || !r->staging.dev.a || !r->result || !r->result_dev.a ||
        sk_scratch_open(&r->scratch, r->model.desc, s, c->max_row, r->be) ||
        (votes(s) && sk_vote_open(&r->vote, r->be, r->model.group, s->vocab.n)))
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for the scratch of steps of %u rows", c->max_row);
    return 0;
}

int sk_rank_open(const struct sk_dir *dir, struct sk_weights *w, struct sk_backend *be, const struct sk_grid *grid,
                 const struct sk_rank_conf *conf, struct sk_rank **ret, struct sk_err *err)
{
    int rc = check_conf(conf, &dir->desc, err);
    if (rc)
        return rc;
    struct sk_rank *r = sk_calloc(1, sizeof *r);
    if (!r)
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for a rank");
    *r = (struct sk_rank){.conf = *conf, .dir = dir, .w = w, .be = be};
    if (grid)
        r->grid = *grid;
    if (!r->grid.tp && sk_group_self(&r->self)) {
        rc = sk_err_set(err, SK_ENOMEM, NULL, "no memory for a rank");
        goto out;
    }

    struct sk_model_src src = model_src(grid, r->self);
    src.dir = dir;
    src.w = w;
    src.be = be;
    src.max_len = conf->max_len;
    rc = sk_model_open(&r->model, &src, err);
    if (rc)
        goto out;
    struct sk_kv_conf kc = kv_conf(conf, &r->model.shard);
    rc = sk_kv_open(&r->kv, &dir->desc, be, &kc, err);
    if (!rc)
        rc = sk_slots_open(&r->slots, dir, &r->kv, conf->max_slot, conf->max_len, err);
    if (!rc)
        rc = open_step_memory(r, err);
out:
    if (rc)
        sk_rank_close(r);
    else
        *ret = r;
    return rc;
}

void sk_rank_close(struct sk_rank *r)
{
    if (!r)
        return;
    sk_vote_close(&r->vote);
    sk_scratch_close(&r->scratch);
    if (r->result_dev.a)
        r->be->free(r->be, r->result_dev, result_bytes(&r->conf));
    if (r->staging.dev.a)
        r->be->free(r->be, r->staging.dev, r->staging.size);
    sk_free(r->result);
    sk_free(r->staging.host);
    sk_slots_close(&r->slots);
    sk_kv_close(&r->kv);
    sk_model_close(&r->model);
    if (r->self)
        r->self->close(r->self);
    sk_free(r);
}

void sk_rank_limits(const struct sk_rank *r, struct sk_plan_limits *ret)
{
    const struct sk_desc *d = r->model.desc;
    *ret = (struct sk_plan_limits){.max_slot = r->conf.max_slot,
                                   .max_len = r->conf.max_len,
                                   .n_vocab = d->n_vocab,
                                   .n_group = d->n_group,
                                   .max_row = r->conf.max_row,
                                   .max_result = r->conf.max_result};
    memcpy(ret->n_blk, r->kv.need.n_blk, sizeof ret->n_blk);
}

void sk_rank_watch(struct sk_rank *r, _Atomic uint64_t *progress)
{
    r->progress = progress;
}

void sk_rank_times(const struct sk_rank *r, struct sk_rank_times *ret)
{
    *ret = r->times;
}

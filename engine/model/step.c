#include "engine/model/step.h"

#include <string.h>

#include "comm/base/buf.h"
#include "comm/base/mem.h"
#include "engine/model/decoder.h"
#include "engine/model/sample.h"

_Static_assert((int)SK_PLAN_MAX_GROUPS == (int)SK_MAX_GROUPS, "a plan's limits have every group of a description");
_Static_assert((int)SK_MAX_TOP == (int)SK_MAX_LOGPROBS, "a result row has room for what parameters may ask for");

/* Index arrays of a step: filled on the host, sent in one upload. */
struct stage {
    char *host;
    struct sk_dev dev;
    uint64_t used, size;
};

struct sk_rank {
    struct sk_rank_conf conf;
    const struct sk_dir *dir;
    const struct sk_weights *w;
    struct sk_backend *be;
    struct sk_group *self; /* owned; NULL where the caller gave a group */
    struct sk_model model;
    struct sk_kv kv;
    struct sk_slots slots;
    struct sk_scratch scratch;
    struct stage stage;
    struct sk_dev result_dev;     /* struct sk_result_row [max_result] */
    struct sk_result_row *result; /* the same on the host */
    uint32_t n_result;            /* of the last step */
    _Atomic uint64_t *progress;   /* borrowed; NULL = nobody looks */
};

/* ---- memory ---- */

static uint64_t align64(uint64_t n)
{
    return (n + 63) & ~(uint64_t)63;
}

static uint64_t stage_bytes(const struct sk_rank_conf *c)
{
    return 2 * align64(c->max_row * sizeof(int32_t)) + align64(c->max_result * sizeof(int32_t)) +
           align64(c->max_result * sizeof(struct sk_samp));
}

static uint64_t result_bytes(const struct sk_rank_conf *c)
{
    return (uint64_t)c->max_result * sizeof(struct sk_result_row);
}

static struct sk_kv_conf kv_conf(const struct sk_rank_conf *c, uint32_t n_kv_head)
{
    return (struct sk_kv_conf){c->kv_bytes, c->kv_dtype, c->max_slot, c->max_len, c->max_row, n_kv_head};
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

int sk_rank_plan(const struct sk_dir *dir, const struct sk_weights *w, struct sk_backend *be,
                 const struct sk_rank_conf *conf, struct sk_rank_need *ret, struct sk_err *err)
{
    const struct sk_desc *d = &dir->desc;
    const struct sk_group one = {.size = 1};
    struct sk_kv_conf kc = kv_conf(conf, d->n_kv_head);
    struct sk_shard whole;
    struct sk_kv_need kv;
    int rc = check_conf(conf, d, err);
    if (!rc)
        rc = sk_shard_init(&whole, d, &one, (struct sk_shard_units){1, 1}, err);
    if (!rc)
        rc = sk_kv_plan(d, be, &kc, &kv, err);
    if (rc)
        return rc;

    struct sk_rank_need r = {.kv = kv.bytes,
                             .scratch =
                                 sk_scratch_bytes(d, &whole, conf->max_row) + stage_bytes(conf) + result_bytes(conf),
                             .slots = sk_slots_bytes(conf->max_slot, conf->max_len) + kv.table_bytes,
                             .weights = sk_model_table_bytes(d, conf->max_len)};
    for (uint32_t i = 0; i < w->n_tensor; i++)
        r.weights += w->tensors[i].bytes;
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
    r->stage.size = stage_bytes(c);
    r->stage.host = sk_malloc(r->stage.size);
    r->stage.dev = r->be->alloc(r->be, r->stage.size);
    r->result = sk_calloc(c->max_result, sizeof *r->result);
    r->result_dev = r->be->alloc(r->be, result_bytes(c));
    if (!r->stage.host || !r->stage.dev.a || !r->result || !r->result_dev.a ||
        sk_scratch_open(&r->scratch, r->model.desc, &r->model.shard, c->max_row, r->be))
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for the scratch of steps of %u rows", c->max_row);
    return 0;
}

int sk_rank_open(const struct sk_dir *dir, const struct sk_weights *w, struct sk_backend *be, struct sk_group *group,
                 const struct sk_rank_conf *conf, struct sk_rank **ret, struct sk_err *err)
{
    int rc = check_conf(conf, &dir->desc, err);
    if (rc)
        return rc;
    struct sk_rank *r = sk_calloc(1, sizeof *r);
    if (!r)
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for a rank");
    *r = (struct sk_rank){.conf = *conf, .dir = dir, .w = w, .be = be};
    if (!group && sk_group_self(&r->self)) {
        rc = sk_err_set(err, SK_ENOMEM, NULL, "no memory for a rank");
        goto out;
    }

    struct sk_model_src src = {dir, w, be, group ? group : r->self, conf->max_len};
    rc = sk_model_open(&r->model, &src, err);
    if (rc)
        goto out;
    struct sk_kv_conf kc = kv_conf(conf, r->model.shard.kv_head.n);
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
    sk_scratch_close(&r->scratch);
    if (r->result_dev.a)
        r->be->free(r->be, r->result_dev, result_bytes(&r->conf));
    if (r->stage.dev.a)
        r->be->free(r->be, r->stage.dev, r->stage.size);
    sk_free(r->result);
    sk_free(r->stage.host);
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

/* ---- one step ---- */

/* A step's arrays, host and backend side. */
struct arrays {
    int32_t *slot, *pos;  /* of sk_rows */
    int32_t *pick;        /* [n_result] row that each result row looks at */
    struct sk_samp *samp; /* [n_result] */
    struct sk_dev pick_dev, samp_dev;
    struct sk_rows rows;
    uint32_t n_result, n_prompt_result; /* result rows of prompt class come first, as their runs do */
};

static void *stage_take(struct stage *s, uint64_t bytes, struct sk_dev *ret)
{
    sk_assert(bytes <= s->size - s->used);
    void *p = s->host + s->used;
    *ret = sk_dev_at(s->dev, s->used);
    s->used = align64(s->used + bytes);
    return p;
}

static void lay_out(struct sk_rank *r, const void *plan, struct arrays *a)
{
    const struct sk_plan_head *head = plan;
    struct stage *s = &r->stage;
    *a = (struct arrays){.rows = {.token = r->slots.token, .max_len = r->conf.max_len}};
    s->used = 0;
    a->slot = stage_take(s, head->n_row * sizeof *a->slot, &a->rows.slot);
    a->pos = stage_take(s, head->n_row * sizeof *a->pos, &a->rows.pos);
    a->pick = stage_take(s, head->n_result * sizeof *a->pick, &a->pick_dev);
    a->samp = stage_take(s, head->n_result * sizeof *a->samp, &a->samp_dev);
}

static struct sk_samp *add_result(struct arrays *a, uint32_t row, bool prompt_class)
{
    uint32_t i = a->n_result++;
    a->n_prompt_result += prompt_class;
    a->pick[i] = (int32_t)row;
    return &a->samp[i];
}

static void add_run(const struct sk_rank *r, const struct sk_plan_run *run, struct arrays *a)
{
    const struct sk_slot *slot = &r->slots.slot[run->slot];
    struct sk_rows *rows = &a->rows;
    uint32_t first = rows->n_row, end = run->pos + run->n;
    bool prompt_class = run->pos < slot->n_prompt;

    for (uint32_t i = 0; i < run->n; i++) {
        a->slot[first + i] = (int32_t)run->slot;
        a->pos[first + i] = (int32_t)(run->pos + i);
    }
    rows->n_row += run->n;
    rows->n_prompt_row += prompt_class ? run->n : 0;
    if (run->n > rows->max_run_row)
        rows->max_run_row = run->n;
    if (end - 1 > rows->max_pos)
        rows->max_pos = end - 1;

    uint32_t n_target = sk_slot_prompt_results(slot, run);
    for (uint32_t i = 0; i < n_target; i++)
        sk_sample_fill_target(&r->slots, run->slot, run->pos + i + 1, add_result(a, first + i, prompt_class));
    for (uint32_t i = run->n - 1 - run->n_draft; (run->want & SK_RUN_SAMPLE) && i < run->n; i++)
        sk_sample_fill_draw(&r->slots, run->slot, run->pos + i + 1, run->want, add_result(a, first + i, prompt_class));
}

static bool any_with(const struct sk_samp *samp, uint32_t n, uint32_t flag)
{
    for (uint32_t i = 0; i < n; i++)
        if (samp[i].flags & flag)
            return true;
    return false;
}

/* Result rows first .. first + n - 1, n <= SK_HEAD_SLICE: logits, draw, log-probs.
 *
 * Rows that draw after drafts write the token array where others of their slot read it: row i draws the token at p + i,
 * where draft i stands, and penalties, bad words and n-grams of the rows after it look at that place. What they see
 * there is the draft or the token that was drawn, whichever slice and thread was first; and that makes no difference,
 * since a row counts only if every draft before it is the token that was drawn: then both are one. The other rows'
 * draws are thrown away, and the next plan's trim takes what they wrote out of the slot. */
static void run_head(struct sk_rank *r, const struct arrays *a, uint32_t first, uint32_t n)
{
    uint32_t n_prompt = a->n_prompt_result > first ? a->n_prompt_result - first : 0;
    sk_decoder_head(&r->model, &r->scratch, sk_dev_at(a->pick_dev, first * sizeof *a->pick), n,
                    n_prompt < n ? n_prompt : n);

    struct sk_op_logits op = {.logits = r->scratch.logits,
                              .work = r->scratch.work,
                              .samp = sk_dev_at(a->samp_dev, first * sizeof *a->samp),
                              .list = r->slots.list,
                              .token = r->slots.token,
                              .result = sk_dev_at(r->result_dev, first * sizeof *r->result),
                              .n_row = n,
                              .n_vocab = r->model.desc->n_vocab,
                              .ld = r->scratch.ld_logits,
                              .max_len = r->conf.max_len};
    if (any_with(a->samp + first, n, SK_SAMP_PROCESS))
        r->be->logits_process(r->be, &op);
    r->be->sample(r->be, &op);
    if (any_with(a->samp + first, n, SK_SAMP_LOGPROB))
        r->be->top_n(r->be, &op);
    if (r->progress)
        atomic_fetch_add_explicit(r->progress, 1, memory_order_relaxed);
}

int sk_rank_step(struct sk_rank *r, const void *plan, size_t n, struct sk_err *err)
{
    struct sk_plan_limits lim;
    sk_rank_limits(r, &lim);
    int rc = sk_plan_check(plan, n, &lim, err);
    if (!rc)
        rc = sk_slots_check(&r->slots, plan, err);
    if (rc)
        return rc;

    struct arrays a;
    sk_slots_commit(&r->slots, plan);
    lay_out(r, plan, &a);
    for (const struct sk_plan_rec *rec = sk_plan_first(plan); rec; rec = sk_plan_next(plan, rec))
        if (rec->kind == SK_PLAN_RUN)
            add_run(r, (const void *)rec, &a);
    r->n_result = a.n_result;
    if (a.rows.n_row == 0)
        return 0;

    r->be->upload(r->be, r->stage.dev, r->stage.host, r->stage.used);
    rc = sk_decoder_run(&r->model, &r->kv, &r->scratch, &a.rows, r->progress);
    if (rc)
        return sk_err_set(err, -rc, NULL, "a rank was lost in the middle of a step");
    for (uint32_t i = 0; i < a.n_result; i += SK_HEAD_SLICE)
        run_head(r, &a, i, a.n_result - i < SK_HEAD_SLICE ? a.n_result - i : SK_HEAD_SLICE);
    if (a.n_result)
        r->be->fetch(r->be, r->result, r->result_dev, a.n_result);
    return 0;
}

int sk_rank_wait(struct sk_rank *r, const struct sk_result_row **ret_rows, uint32_t *ret_n, struct sk_err *err)
{
    int rc = r->be->wait(r->be);
    if (rc)
        return sk_err_set(err, -rc, NULL, "backend %s failed in a step", r->be->name);
    *ret_rows = r->result;
    *ret_n = r->n_result;
    return 0;
}

/* ---- self-test ---- */

enum { SELFTEST_PLAN_BYTES = 4096 };

/* One sequence in slot 0, first block of every group: log-probs of tokens 1..7 as prompt tokens. */
static int put_selftest(struct sk_buf *b, const struct sk_dir *dir)
{
    const int32_t blk = 0;
    struct sk_plan_open open = {.n_prompt = SK_SELFTEST_TOKENS};
    sk_params_default(&open.params);
    open.params.max_tokens = 0;
    open.params.n_prompt_logprobs = 0;
    sk_plan_begin(b, 0);
    sk_plan_put_open(b, &open, NULL);
    for (uint32_t g = 0; g < dir->desc.n_group; g++)
        sk_plan_put_append(b, 0, g, &blk, 1);
    sk_plan_put_tok(b, 0, 0, dir->selftest_ids, SK_SELFTEST_TOKENS);
    sk_plan_put_run(b, 0, 0, SK_SELFTEST_TOKENS, SK_RUN_PROMPT_LOGPROBS, 0);
    return sk_plan_end(b, SK_SELFTEST_TOKENS, SK_SELFTEST_TOKENS - 1);
}

static int put_close(struct sk_buf *b)
{
    sk_plan_begin(b, 0);
    sk_plan_put_close(b, 0);
    return sk_plan_end(b, 0, 0);
}

int sk_rank_selftest(struct sk_rank *r, float ret[SK_SELFTEST_TOKENS - 1], struct sk_err *err)
{
    const struct sk_result_row *rows = NULL;
    uint32_t n = 0;
    struct sk_buf b;
    sk_buf_init(&b, SELFTEST_PLAN_BYTES);
    int rc = put_selftest(&b, r->dir);
    if (rc) {
        sk_err_set(err, -rc, NULL, "no memory for the self-test");
        goto out;
    }
    rc = sk_rank_step(r, b.p, b.n, err);
    if (!rc)
        rc = sk_rank_wait(r, &rows, &n, err);
    for (uint32_t i = 0; !rc && i < n; i++)
        ret[i] = rows[i].logprob;
    if (!rc)
        rc = put_close(&b);
    if (!rc)
        rc = sk_rank_step(r, b.p, b.n, err);
out:
    sk_buf_done(&b);
    return rc;
}

/* Largest difference of one log-prob that arithmetic explains. Activations in int8 blocks move single log-probs of
 * SmolLM2 by up to 0.6 (mean 0.05) against the build's f32, those in bf16, which meet bf16 weights, by up to 0.1; a
 * broken kernel or a wrong tensor is off by several. */
static float selftest_tolerance(const struct sk_rank *r)
{
    static const float by_dtype[SK_DTYPE_COUNT] = {
        [SK_F32] = 0.005f, [SK_F16] = 0.02f, [SK_BF16] = 0.2f, [SK_Q8] = 0.75f, [SK_Q4] = 0.75f, [SK_Q4S] = 0.75f};
    float most = by_dtype[SK_F32];
    for (uint32_t i = 0; i < r->w->n_tensor; i++)
        if (by_dtype[r->w->tensors[i].dtype] > most)
            most = by_dtype[r->w->tensors[i].dtype];
    return r->conf.kv_dtype == SK_F32 ? most : most + (r->conf.kv_dtype == SK_BF16 ? 0.05f : 0.1f);
}

int sk_rank_selfcheck(struct sk_rank *r, struct sk_err *err)
{
    float got[SK_SELFTEST_TOKENS - 1];
    int rc = sk_rank_selftest(r, got, err);
    if (rc)
        return rc;
    float limit = selftest_tolerance(r);
    for (int i = 0; i < SK_SELFTEST_TOKENS - 1; i++) {
        float want = r->dir->selftest_logprobs[i];
        if (!(got[i] - want <= limit && want - got[i] <= limit)) /* NaN is a mismatch too */
            return sk_err_set(
                err, SK_EFORMAT, NULL,
                "self-test: log-prob of token %d is %.4f on backend %s (%s), the build had %.4f, tolerance %.3f", i + 1,
                (double)got[i], r->be->name, r->be->isa, (double)want, (double)limit);
    }
    return 0;
}

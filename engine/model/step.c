#include "engine/model/rank.h"

#include <string.h>

#include "comm/base/clock.h"
#include "engine/model/decoder.h"
#include "engine/model/sample.h"
#include "engine/model/timeline.h"

/* ---- arrays ---- */

static uint64_t align64(uint64_t n)
{
    return (n + 63) & ~(uint64_t)63;
}

uint64_t sk_rank_staging_bytes(const struct sk_rank_conf *c)
{
    return 2 * align64(c->max_row * sizeof(int32_t)) + align64(c->max_result * sizeof(int32_t)) +
           align64(c->max_result * sizeof(struct sk_samp));
}

/* A step's arrays, host and backend side. */
struct arrays {
    int32_t *slot, *pos;  /* of sk_rows */
    int32_t *pick;        /* [n_result] row that each result row looks at */
    struct sk_samp *samp; /* [n_result] */
    struct sk_dev pick_dev, samp_dev;
    struct sk_rows rows;
    uint32_t n_result, n_prompt_result; /* result rows of prompt class come first, as their runs do */
};

static void *staging_take(struct sk_rank_staging *s, uint64_t bytes, struct sk_dev *ret)
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
    struct sk_rank_staging *s = &r->staging;
    *a = (struct arrays){.rows = {.token = r->slots.token, .max_len = r->conf.max_len}};
    s->used = 0;
    a->slot = staging_take(s, head->n_row * sizeof *a->slot, &a->rows.slot);
    a->pos = staging_take(s, head->n_row * sizeof *a->pos, &a->rows.pos);
    a->pick = staging_take(s, head->n_result * sizeof *a->pick, &a->pick_dev);
    a->samp = staging_take(s, head->n_result * sizeof *a->samp, &a->samp_dev);
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
static int run_head(struct sk_rank *r, const struct arrays *a, uint32_t first, uint32_t n)
{
    uint32_t n_prompt = a->n_prompt_result > first ? a->n_prompt_result - first : 0;
    int rc = 0;
    sk_decoder_head(&r->model, &r->scratch, sk_dev_at(a->pick_dev, first * sizeof *a->pick), n,
                    n_prompt < n ? n_prompt : n);

    struct sk_op_logits op = {.logits = r->scratch.logits,
                              .work = r->scratch.work,
                              .samp = sk_dev_at(a->samp_dev, first * sizeof *a->samp),
                              .list = r->slots.list,
                              .token = r->slots.token,
                              .result = sk_dev_at(r->result_dev, first * sizeof *r->result),
                              .n_row = n,
                              .first = r->model.shard.vocab.first,
                              .n_vocab = r->model.shard.vocab.n,
                              .ld = r->scratch.ld_logits,
                              .max_len = r->conf.max_len};
    if (any_with(a->samp + first, n, SK_SAMP_PROCESS))
        r->be->logits_process(r->be, &op);
    if (r->model.shard.size > 1) {
        rc = sk_vote_run(&r->vote, &op, a->samp + first);
    } else {
        r->be->sample(r->be, &op);
        if (any_with(a->samp + first, n, SK_SAMP_LOGPROB))
            r->be->top_n(r->be, &op);
    }
    if (r->progress)
        atomic_fetch_add_explicit(r->progress, 1, memory_order_relaxed);
    return rc;
}

/* ---- a stage among others ---- */

/* 4-byte words that a stage gives the next one. */
static size_t wire_words(const struct sk_rank *r, uint32_t n_row)
{
    return (size_t)n_row * r->scratch.ld_x / (r->grid.narrow ? 2 : 1);
}

static int receive(struct sk_rank *r, uint32_t n_row)
{
    struct sk_group *pp = r->grid.pp;
    const struct sk_scratch *s = &r->scratch;
    struct sk_dev at = r->grid.narrow ? s->wire : s->x;
    const uint64_t from = sk_clock_us();
    int rc = pp->recv(pp, r->be, at.a, wire_words(r, n_row), pp->rank - 1);
    if (!rc && r->grid.narrow)
        r->be->widen(r->be, s->x, s->wire, (uint64_t)n_row * s->ld_x);
    r->times.recv_us += sk_clock_us() - from;
    sk_timeline_add(r->grid.timeline, SK_TIMELINE_RECV, from, wire_words(r, n_row));
    return rc;
}

static int hand_on(struct sk_rank *r, uint32_t n_row)
{
    struct sk_group *pp = r->grid.pp;
    const struct sk_scratch *s = &r->scratch;
    struct sk_dev at = r->grid.narrow ? s->wire : s->x;
    const uint64_t from = sk_clock_us();
    if (r->grid.narrow)
        r->be->narrow(r->be, s->wire, s->x, (uint64_t)n_row * s->ld_x);
    int rc = pp->send(pp, r->be, at.a, wire_words(r, n_row), pp->rank + 1);
    r->times.collective_us += sk_clock_us() - from;
    sk_timeline_add(r->grid.timeline, SK_TIMELINE_SEND, from, wire_words(r, n_row));
    return rc;
}

static int run_layers(struct sk_rank *r, const struct sk_rows *rows)
{
    const struct sk_decoder_watch watch = {r->progress, r->grid.timeline};
    int rc = r->model.shard.first ? 0 : receive(r, rows->n_row);
    if (rc)
        return rc;
    const uint64_t from = sk_clock_us();
    rc = sk_decoder_run(&r->model, &r->kv, &r->scratch, rows, &watch);
    sk_timeline_add(r->grid.timeline, SK_TIMELINE_LAYERS, from, rows->n_row);
    return rc;
}

/* The last stage's half: result rows. The others': their rows go on. */
static int run_end(struct sk_rank *r, const struct arrays *a)
{
    if (!r->model.shard.last)
        return hand_on(r, a->rows.n_row);
    const uint64_t from = sk_clock_us();
    int rc = 0;
    for (uint32_t i = 0; !rc && i < a->n_result; i += SK_HEAD_SLICE)
        rc = run_head(r, a, i, a->n_result - i < SK_HEAD_SLICE ? a->n_result - i : SK_HEAD_SLICE);
    sk_timeline_add(r->grid.timeline, SK_TIMELINE_HEAD, from, a->n_result);
    return rc;
}

/* Result rows, and behind them the checksum of the rows in x where one is due: there is somebody to compare it with. */
static void fetch(struct sk_rank *r, const struct arrays *a, uint64_t step)
{
    const uint64_t bytes = (uint64_t)r->n_result * sizeof *r->result;
    const bool sum = r->model.shard.size > 1 && step % SK_RANK_SUM_STEPS == 0;
    if (sum) {
        r->be->checksum(r->be, sk_dev_at(r->result_dev, bytes), r->scratch.x,
                        (uint64_t)a->rows.n_row * r->scratch.ld_x);
        r->sum_step = step;
    }
    r->sum_due = sum;
    if (bytes || sum)
        r->be->fetch(r->be, r->result, r->result_dev, bytes + (sum ? sizeof r->times.sum : 0));
}

static int run_rows(struct sk_rank *r, const struct arrays *a, uint64_t step)
{
    struct sk_group *tp = r->model.group;
    const uint64_t before = tp->collective_us;
    r->be->upload(r->be, r->staging.dev, r->staging.host, r->staging.used);
    int rc = run_layers(r, &a->rows);
    if (!rc)
        rc = run_end(r, a);
    if (!rc)
        fetch(r, a, step);
    r->times.collective_us += tp->collective_us - before;
    return rc;
}

int sk_rank_step(struct sk_rank *r, const void *plan, size_t n, struct sk_err *err)
{
    const struct sk_plan_head *head = plan;
    const uint64_t from = sk_clock_us();
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
    r->n_result = r->model.shard.last ? a.n_result : 0;
    r->sum_due = false;
    r->times = (struct sk_rank_times){.sum_step = r->times.sum_step, .sum = r->times.sum};
    if (a.rows.n_row > 0)
        rc = run_rows(r, &a, head->step);
    r->times.step_us = sk_clock_us() - from;
    sk_timeline_add(r->grid.timeline, SK_TIMELINE_STEP, from, head->step);
    return rc ? sk_err_set(err, -rc, NULL, "a rank was lost in the middle of a step") : 0;
}

int sk_rank_wait(struct sk_rank *r, const struct sk_result_row **ret_rows, uint32_t *ret_n, struct sk_err *err)
{
    const uint64_t from = sk_clock_us();
    int rc = r->be->wait(r->be);
    if (rc)
        return sk_err_set(err, -rc, NULL, "backend %s failed in a step", r->be->name);
    r->times.step_us += sk_clock_us() - from;
    if (r->sum_due) {
        r->times.sum_step = r->sum_step;
        memcpy(&r->times.sum, r->result + r->n_result, sizeof r->times.sum);
        r->sum_due = false;
    }
    *ret_rows = r->result;
    *ret_n = r->n_result;
    return 0;
}

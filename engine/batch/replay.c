/* Runs a recording again. On the ISA and grid of the recording every row is the same, bit for bit. On others a token
 * may be another one where two are nearly as likely; then plans are given the tokens that were recorded, which the
 * first of several stages needs anyway, where the recording's only stage drew them itself. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "comm/base/mem.h"
#include "engine/batch/record.h"

enum { ROW_WORDS = 4 /* before its top */ };

struct drawn { /* a token that was recorded and that the ranks have not been told */
    uint32_t slot, pos;
    int32_t id;
};

struct replay {
    struct sk_crew *crew;
    bool exact;
    struct sk_buf again; /* rows of the replay, as they are in a record */
    struct sk_buf plan;  /* the recorded one with tokens of `drawn` */
    struct drawn *drawn;
    uint32_t n_drawn, max_drawn;
    uint32_t *n_prompt; /* of each slot */
    struct sk_replay_stats stats;
};

/* ---- comparing ---- */

static uint32_t word_at(const struct sk_buf *b, size_t i)
{
    uint32_t w = 0;
    if (i < b->n / 4)
        memcpy(&w, b->p + i * 4, 4);
    return w;
}

static float float_at(const struct sk_buf *b, size_t i)
{
    uint32_t w = word_at(b, i);
    float f;
    memcpy(&f, &w, 4);
    return f;
}

static size_t row_words(const struct sk_buf *b, size_t i)
{
    return ROW_WORDS + 2 * (size_t)word_at(b, i + 3);
}

/* Names the first row that differs, in words of the recorded form. */
static int name_difference(const struct sk_buf *want, const struct sk_buf *got, uint64_t step, struct sk_err *err)
{
    size_t i = 0, n_word = (want->n > got->n ? want->n : got->n) / 4;
    uint32_t row = 0;
    for (;; row++) {
        size_t len = row_words(want, i), k = 0;
        while (k < len && i + k < n_word && word_at(want, i + k) == word_at(got, i + k))
            k++;
        if (k < len || i + len >= n_word)
            break;
        i += len;
    }
    return sk_err_set(err, SK_EFORMAT, NULL,
                      "step %" PRIu64 ", row %u: recorded token %d (log-prob %.9g, rank %d), now %d (%.9g, %d)", step,
                      row, (int32_t)word_at(want, i), (double)float_at(want, i + 1), (int32_t)word_at(want, i + 2),
                      (int32_t)word_at(got, i), (double)float_at(got, i + 1), (int32_t)word_at(got, i + 2));
}

/* Both have as many rows, or the plan was not run as it stands. */
static void count_differences(struct replay *r, const struct sk_buf *want)
{
    const struct sk_buf *got = &r->again;
    size_t i = 0, k = 0;
    while (i < want->n / 4 && k < got->n / 4) {
        size_t n_want = row_words(want, i), n_got = row_words(got, k);
        double differ = fabs((double)float_at(want, i + 1) - (double)float_at(got, k + 1));
        if (n_want > want->n / 4 - i || n_got > got->n / 4 - k)
            break;
        r->stats.n_tok_differ += word_at(want, i) != word_at(got, k);
        r->stats.n_row_differ += n_want != n_got || memcmp(want->p + i * 4, got->p + k * 4, n_want * 4) != 0;
        r->stats.max_differ = fmax(r->stats.max_differ, differ);
        i += n_want;
        k += n_got;
    }
}

static int compare(struct replay *r, const struct sk_buf *want, uint64_t step, struct sk_err *err)
{
    const struct sk_buf *got = &r->again;
    if (!want || (want->n == got->n && (want->n == 0 || memcmp(want->p, got->p, want->n) == 0)))
        return 0;
    if (r->exact)
        return name_difference(want, got, step, err);
    count_differences(r, want);
    return 0;
}

/* ---- tokens as they were recorded ---- */

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Result rows stand in the order of the runs; a run's drawn ones behind its prompt log-probs. */
static void keep_drawn(struct replay *r, const void *plan, const struct sk_buf *rows)
{
    size_t at = 0;
    for (const struct sk_plan_rec *rec = sk_plan_first(plan); rec; rec = sk_plan_next(plan, rec)) {
        const struct sk_plan_open *open = (const void *)rec;
        const struct sk_plan_run *run = (const void *)rec;
        if (rec->kind == SK_PLAN_OPEN)
            r->n_prompt[open->slot] = open->n_prompt;
        if (rec->kind != SK_PLAN_RUN)
            continue;
        uint32_t last = r->n_prompt[run->slot] - 1;
        uint32_t n_score =
            (run->want & SK_RUN_PROMPT_LOGPROBS) && run->pos < last ? min_u32(run->n, last - run->pos) : 0;
        uint32_t n_drawn = run->want & SK_RUN_SAMPLE ? 1 + run->n_draft : 0;
        for (uint32_t i = 0; i < n_score; i++)
            at += row_words(rows, at);
        for (uint32_t i = 0; i < n_drawn && at < rows->n / 4 && r->n_drawn < r->max_drawn; i++) {
            r->drawn[r->n_drawn++] = (struct drawn){
                .slot = run->slot, .pos = run->pos + run->n - run->n_draft + i, .id = (int32_t)word_at(rows, at)};
            at += row_words(rows, at);
        }
    }
}

/* What a plan closes, or trims off, is of no use to it. */
static bool is_gone(const void *plan, const struct drawn *d)
{
    for (const struct sk_plan_rec *rec = sk_plan_first(plan); rec; rec = sk_plan_next(plan, rec)) {
        const struct sk_plan_close *close = (const void *)rec;
        const struct sk_plan_trim *trim = (const void *)rec;
        if ((rec->kind == SK_PLAN_CLOSE && close->slot == d->slot) ||
            (rec->kind == SK_PLAN_TRIM && trim->slot == d->slot && d->pos >= trim->pos))
            return true;
    }
    return false;
}

/* The plan with those tokens before its runs. */
static int put_drawn(struct replay *r, const void *plan)
{
    const struct sk_plan_head *head = plan;
    struct sk_plan_head *out;
    bool put = false;
    uint32_t n_rec = 0;
    sk_plan_begin(&r->plan, head->step);
    for (const struct sk_plan_rec *rec = sk_plan_first(plan);; rec = sk_plan_next(plan, rec)) {
        for (uint32_t i = 0; (!rec || rec->kind == SK_PLAN_RUN) && !put && i < r->n_drawn; i++)
            if (!is_gone(plan, &r->drawn[i]))
                sk_plan_put_tok(&r->plan, r->drawn[i].slot, r->drawn[i].pos, &r->drawn[i].id, 1);
        put = put || !rec || rec->kind == SK_PLAN_RUN;
        if (!rec)
            break;
        sk_buf_add(&r->plan, rec, rec->bytes);
        n_rec++;
    }
    r->n_drawn = 0;
    if (r->plan.failed)
        return r->plan.failed;
    out = (struct sk_plan_head *)r->plan.p;
    out->n_rec += n_rec; /* those that were copied; it has counted the others */
    return sk_plan_end(&r->plan, head->n_row, head->n_result);
}

/* ---- a step ---- */

static int step(struct replay *r, const void *plan, size_t n, const struct sk_buf *want, struct sk_err *err)
{
    uint64_t number = ((const struct sk_plan_head *)plan)->step;
    struct sk_crew_result res;
    const void *run = plan;
    size_t n_run = n;
    if (!r->exact) {
        int failed = put_drawn(r, plan);
        if (failed)
            return sk_err_set(err, -failed, NULL, "no memory for plan %" PRIu64, number);
        run = r->plan.p;
        n_run = r->plan.n;
    }
    int rc = sk_crew_submit(r->crew, run, n_run, err);
    if (!rc)
        rc = sk_crew_collect(r->crew, true, &res, err);
    if (rc < 0)
        return rc;
    r->stats.n_step++;
    r->stats.n_row += res.n;
    r->stats.n_bare += want == NULL;
    sk_buf_clear(&r->again);
    rc = sk_record_put_rows(&r->again, res.rows, res.n);
    if (rc)
        return sk_err_set(err, -rc, NULL, "no memory for %u rows", res.n);
    if (want && !r->exact)
        keep_drawn(r, plan, want);
    return compare(r, want, number, err);
}

int sk_replay(struct sk_player *p, struct sk_crew *crew, bool exact, struct sk_replay_stats *ret, struct sk_err *err)
{
    const struct sk_plan_limits *lim = sk_player_limits(p);
    struct replay r = {.crew = crew, .exact = exact, .max_drawn = lim->max_result};
    const void *plan;
    const struct sk_buf *want;
    size_t n;
    int rc;
    sk_buf_init(&r.again, SK_RECORD_MAX + 8);
    sk_buf_init(&r.plan, 2 * (size_t)SK_RECORD_MAX);
    r.drawn = sk_calloc(lim->max_result, sizeof *r.drawn);
    r.n_prompt = sk_calloc(lim->max_slot, sizeof *r.n_prompt);
    if (!r.drawn || !r.n_prompt) {
        rc = sk_err_set(err, SK_ENOMEM, NULL, "no memory for a replay");
        goto out;
    }
    while ((rc = sk_player_next(p, &plan, &n, &want, err)) == 1) {
        rc = step(&r, plan, n, want, err);
        if (rc)
            goto out;
    }
    if (rc == 0)
        *ret = r.stats;
out:
    sk_free(r.drawn);
    sk_free(r.n_prompt);
    sk_buf_done(&r.again);
    sk_buf_done(&r.plan);
    return rc;
}

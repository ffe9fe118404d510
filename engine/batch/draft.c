#include "engine/batch/draft.h"

#include "engine/batch/loop.h"

#define FIRST_RATE 0.5f
#define MEMORY     (1.0f / 8) /* share of the last token in the rate */
#define MARGIN     1.25       /* by which a row must pay: forecasts err, and near break-even there is nothing to win */
enum {
    FREE_MISSES = 1, /* in a row, before it waits: a copy that leaves its original for a token comes back */
    FIRST_GAP = 8,
    PROBE_ROWS = 4 /* of a step that finds out what rows take */
};

/* ---- a sequence's record ---- */

float sk_draft_rate(const struct sk_draft_pace *p)
{
    return p->rate > 0 ? p->rate : FIRST_RATE;
}

void sk_draft_learn(struct sk_draft_pace *p, uint32_t n, uint32_t n_right)
{
    float rate = sk_draft_rate(p);
    for (uint32_t i = 0; i < n_right; i++)
        rate += MEMORY * (1 - rate);
    if (n_right < n)
        rate -= MEMORY * rate;
    p->rate = rate;
    p->n_miss = n_right > 0 ? 0 : p->n_miss + 1;
    uint32_t shift = p->n_miss > FREE_MISSES ? p->n_miss - FREE_MISSES - 1 : 0;
    p->wait = p->n_miss <= FREE_MISSES ? 0 : shift < 6 ? 1u << shift : SK_DRAFT_MAX_WAIT;
}

/* ---- a step ---- */

struct extend {
    struct sk_loop *l;
    double us, n_tok; /* of the step as it is so far: its time, and tokens that it is expected to bring */
    uint32_t left;    /* draft rows */
    uint32_t n_probe; /* rows that may be drafted whatever they take */
};

static double row_us(const struct sk_loop *l, uint32_t pos)
{
    const double *us = l->cost.rate.us;
    return us[SK_COST_DECODE_ROW] + us[SK_COST_DECODE_PAIR] * (pos + 1.0);
}

/* A token more with probability p, for one row's time: is that above what the step brings so far? */
static bool pays(const struct extend *x, double p, uint32_t pos)
{
    return p * x->us > MARGIN * row_us(x->l, pos) * x->n_tok;
}

/* One row that continues an answer: others are chunks, which may be computed again and draw at most one token. */
static bool is_decode(const struct sk_sched_run *r)
{
    return r->pos >= r->seq->n_prompt && r->n == 1 && (r->want & SK_RUN_SAMPLE);
}

static struct extend begin(struct sk_loop *l)
{
    const struct sk_sched_out *todo = &l->todo;
    struct sk_cost_work work = sk_cost_no_work();
    uint32_t left = l->conf.max_row - todo->n_row, most = l->conf.max_row / SK_DRAFT_ROW_PART;
    struct extend x = {.l = l, .left = left < most ? left : most};
    x.n_probe = l->step >= l->probe.next_step ? PROBE_ROWS : 0;
    for (uint32_t i = 0; i < todo->n_run; i++) {
        const struct sk_sched_run *r = &todo->run[i];
        sk_cost_add(&work, r->pos < r->seq->n_prompt, r->pos, r->n);
        x.n_tok += (r->want & SK_RUN_SAMPLE) != 0;
    }
    x.us = sk_cost_us(&l->cost.rate, &work);
    return x;
}

/* Drafts of one sequence that may be asked about: every row of a run has the same flags, and none is past the answer's
 * end. */
static uint32_t room(const struct sk_loop *l, const struct sk_sched_run *r)
{
    const struct sk_seq *q = r->seq;
    uint32_t n_gen = sk_seq_n_gen(q), end = r->want & SK_RUN_MIN_TOKENS ? q->params.min_tokens : q->max_gen;
    if (end > q->max_gen)
        end = q->max_gen;
    uint32_t n = end - n_gen - 1;
    return n < l->conf.draft.max ? n : l->conf.draft.max;
}

/* What follows its text by lookup: q->n_draft tokens, none if even a sure one would not pay. */
static void propose(struct extend *x, const struct sk_sched_run *r)
{
    struct sk_loop *l = x->l;
    struct sk_seq *q = r->seq;
    bool always = l->conf.draft.always;
    q->n_draft = 0;
    if (!is_decode(r) || (!always && x->n_probe == 0 && !pays(x, 1, r->pos)))
        return;
    if (q->draft_pace.wait > 0 && !always) {
        q->draft_pace.wait--;
        return;
    }
    uint32_t n_miss = always ? 0 : q->draft_pace.n_miss, span = SK_LOOKUP_N_TABLE - 1;
    uint32_t n_match = SK_LOOKUP_MIN_NGRAM + (n_miss < span ? n_miss : span);
    q->n_draft = sk_lookup_draft(&q->lookup, q->tok, q->n_tok, n_match, room(l, r), q->draft);
}

/* Should the run have a k-th draft (k from 1)? The first one after a wait is a try. */
static bool wants(const struct extend *x, const struct sk_sched_run *r, uint32_t k, double p)
{
    const struct sk_draft_pace *pace = &r->seq->draft_pace;
    return x->l->conf.draft.always || x->n_probe > 0 || pays(x, p, r->pos + k) ||
           (k == 1 && pace->n_miss > FREE_MISSES && pays(x, 1, r->pos + k));
}

/* Blocks for one row more: those that it has, or that nobody else wants in this step. */
static bool take_block(struct sk_loop *l, struct sk_seq *q, uint32_t n_pos)
{
    if (sk_kvpool_blocks(&l->conf.kv, n_pos) > q->n_blk)
        for (uint32_t g = 0; g < l->conf.kv.n_group; g++)
            if (sk_kvpool_avail(l->pool, g) == 0)
                return false;
    sk_apply_grow(l, q, n_pos);
    return true;
}

/* Everyone's first draft comes before anyone's second: the likelier ones. */
static void grant(struct extend *x)
{
    struct sk_loop *l = x->l;
    struct sk_sched_out *todo = &l->todo;
    bool more = true;
    for (uint32_t k = 1; more && k <= l->conf.draft.max; k++) {
        more = false;
        for (uint32_t i = 0; i < todo->n_run && x->left > 0; i++) {
            struct sk_sched_run *r = &todo->run[i];
            struct sk_seq *q = r->seq;
            if (r->n_draft + 1 != k || k > q->n_draft)
                continue;
            q->draft_p = k == 1 ? sk_draft_rate(&q->draft_pace) : q->draft_p * sk_draft_rate(&q->draft_pace);
            if (!wants(x, r, k, q->draft_p) || !take_block(l, q, r->pos + 1 + k))
                continue;
            r->n_draft = k;
            x->us += row_us(l, r->pos + k);
            x->n_tok += q->draft_p;
            x->left--;
            x->n_probe -= x->n_probe > 0;
            more = true;
        }
    }
}

void sk_draft_extend(struct sk_loop *l)
{
    struct sk_sched_out *todo = &l->todo;
    if (l->conf.draft.max == 0)
        return;
    struct extend x = begin(l);
    for (uint32_t i = 0; i < todo->n_run; i++)
        propose(&x, &todo->run[i]);
    grant(&x);
    uint32_t n = 0;
    for (uint32_t i = 0; i < todo->n_run; i++) {
        struct sk_sched_run *r = &todo->run[i];
        r->n += r->n_draft;
        r->n_result += r->n_draft;
        n += r->n_draft;
    }
    todo->n_row += n;
    todo->n_result += n;
    if (l->step >= l->probe.next_step && n > 0) {
        l->probe.gap = l->probe.gap ? l->probe.gap * 2 : FIRST_GAP;
        if (l->probe.gap > SK_DRAFT_MAX_GAP)
            l->probe.gap = SK_DRAFT_MAX_GAP;
        l->probe.next_step = l->step + l->probe.gap;
    }
}

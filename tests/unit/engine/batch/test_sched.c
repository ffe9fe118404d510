/* Decisions on states made by hand; that nothing is changed by deciding. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "comm/base/err.h"
#include "comm/base/mem.h"
#include "comm/wire/plan.h"
#include "engine/batch/sched.h"

enum { BT = 4, MAX_BLK = 64, MAX_SEQ = 16 };

struct state {
    struct sk_sched_conf conf;
    struct sk_seqs *seqs;
    struct sk_kvpool *pool;
    struct sk_sched_out out;
    int32_t table[MAX_SEQ][MAX_BLK];
    uint32_t n;
    uint64_t step;
};

static void state_open(struct state *s, uint32_t n_blk, uint32_t max_row, uint32_t max_seqs)
{
    struct sk_kvpool_conf kc = {.n_group = 1, .block_tok = BT, .n_blk = {n_blk}, .keep = true, .classes_equal = true};
    *s = (struct state){.conf = {.max_seqs = max_seqs, .max_row = max_row, .max_open_word = 1000, .n_stage = 1}};
    assert_int_equal(sk_seqs_open(MAX_SEQ, &s->seqs), 0);
    assert_int_equal(sk_kvpool_open(&kc, &s->pool), 0);
    assert_int_equal(sk_sched_open(&s->conf, &s->out), 0);
}

static void state_close(struct state *s)
{
    sk_seqs_close(s->seqs);
    sk_kvpool_close(s->pool);
    sk_sched_close(&s->out);
}

/* A sequence of n_prompt + n_gen tokens, its text beginning with `stem`; waiting. */
static struct sk_seq *add(struct state *s, uint32_t n_prompt, uint32_t n_gen, int32_t stem)
{
    struct sk_seq_job *j = sk_seq_job_new(s->seqs, ++s->n);
    assert_non_null(j);
    j->n_choice = 1;
    struct sk_seq *q = sk_seq_new(s->seqs, j, 0);
    sk_params_default(&q->params);
    q->n_prompt = n_prompt;
    q->n_tok = n_prompt + n_gen;
    q->max_gen = n_gen + 10;
    q->tok = sk_calloc(n_prompt + q->max_gen, sizeof *q->tok);
    assert_non_null(q->tok);
    for (uint32_t i = 0; i < q->n_tok; i++)
        q->tok[i] = stem + (int32_t)i;
    sk_seq_to(s->seqs, q, SK_SEQ_WAIT);
    return q;
}

/* As add, running, with n_computed positions computed and the blocks for them. */
static struct sk_seq *add_running(struct state *s, uint32_t n_prompt, uint32_t n_gen, uint32_t n_computed, int32_t stem)
{
    struct sk_seq *q = add(s, n_prompt, n_gen, stem);
    q->blk[0] = s->table[s->n];
    q->n_computed = q->n_planned = n_computed;
    q->n_blk = (n_computed + BT - 1) / BT;
    assert_int_equal(sk_kvpool_take(s->pool, 0, q->n_blk, q->blk[0]), 0);
    sk_seq_to(s->seqs, q, SK_SEQ_RUN);
    return q;
}

static void next(struct state *s)
{
    uint32_t avail = sk_kvpool_avail(s->pool, 0), n_run = s->seqs->run.n, n_wait = s->seqs->wait.n;
    sk_sched_next(&s->conf, s->seqs, s->pool, &s->out);
    assert_int_equal(sk_kvpool_avail(s->pool, 0), avail);
    assert_int_equal(s->seqs->run.n, n_run);
    assert_int_equal(s->seqs->wait.n, n_wait);
}

/* The last step was of this kind. */
static void went(struct state *s, enum sk_seq_kind kind)
{
    s->seqs->last_step[kind] = ++s->step;
}

static void is_run(const struct state *s, uint32_t i, const struct sk_seq *q, uint32_t pos, uint32_t n, uint32_t want)
{
    assert_true(i < s->out.n_run);
    assert_ptr_equal(s->out.run[i].seq, q);
    assert_int_equal(s->out.run[i].pos, pos);
    assert_int_equal(s->out.run[i].n, n);
    assert_int_equal(s->out.run[i].want, want);
}

/* Decode rows come first out of the budget, the rest goes to the oldest chunk; in the plan the prompt class stands
 * first. */
static void test_budget(void **unused)
{
    struct state s;
    state_open(&s, 60, 16, 8);
    struct sk_seq *old = add_running(&s, 40, 0, 8, 0), *a = add_running(&s, 8, 3, 10, 100),
                  *b = add_running(&s, 8, 1, 8, 200);
    struct sk_seq *mid = add_running(&s, 30, 0, 4, 300);
    next(&s);
    assert_int_equal(s.out.n_run, 3); /* nothing is left for mid */
    is_run(&s, 0, old, 8, 14, 0);
    is_run(&s, 1, a, 10, 1, SK_RUN_SAMPLE);
    is_run(&s, 2, b, 8, 1, SK_RUN_SAMPLE);
    assert_int_equal(s.out.n_row, 16);
    assert_int_equal(s.out.n_result, 2);
    old->n_computed = old->n_planned = 36; /* its last chunk leaves room */
    next(&s);
    is_run(&s, 0, old, 36, 4, SK_RUN_SAMPLE);
    is_run(&s, 1, mid, 4, 10, 0);
    state_close(&s);
}

/* A run has one class: what was generated is computed again after the prompt, apart from it. */
static void test_classes(void **unused)
{
    struct state s;
    state_open(&s, 60, 16, 8);
    struct sk_seq *q = add(&s, 6, 7, 0);
    q->params.min_tokens = 8;
    next(&s);
    assert_int_equal(s.out.n_admit, 1);
    is_run(&s, 0, q, 0, 6, 0); /* draws nothing: the next tokens are there */
    state_close(&s);

    state_open(&s, 60, 16, 8);
    q = add_running(&s, 6, 7, 6, 0);
    q->params.min_tokens = 8;
    next(&s);
    is_run(&s, 0, q, 6, 7, SK_RUN_SAMPLE | SK_RUN_MIN_TOKENS);
    q->params.min_tokens = 7;
    next(&s);
    is_run(&s, 0, q, 6, 7, SK_RUN_SAMPLE);
    state_close(&s);
}

/* Prompt log-probs: none for positions whose log-probs were delivered before a preemption; no row for the last
 * position. */
static void test_scores(void **unused)
{
    struct state s;
    state_open(&s, 60, 64, 8);
    struct sk_seq *q = add(&s, 20, 0, 0);
    q->params.n_prompt_logprobs = 0;
    next(&s);
    is_run(&s, 0, q, 0, 20, SK_RUN_SAMPLE | SK_RUN_PROMPT_LOGPROBS);
    assert_int_equal(s.out.n_result, 20); /* 19 scores and a draw */
    q->n_scored = 9;
    next(&s);
    is_run(&s, 0, q, 0, 9, 0);
    q->max_gen = 0;
    q->n_scored = 0;
    next(&s);
    is_run(&s, 0, q, 0, 20, SK_RUN_PROMPT_LOGPROBS);
    assert_int_equal(s.out.n_result, 19);
    state_close(&s);
}

/* No block left: the youngest goes, its run with it; the oldest stays whatever happens. */
static void test_preempt(void **unused)
{
    struct state s;
    state_open(&s, 9, 16, 8);
    struct sk_seq *a = add_running(&s, 8, 5, 12, 0), *b = add_running(&s, 8, 5, 12, 100),
                  *c = add_running(&s, 8, 4, 11, 200);
    next(&s);
    assert_int_equal(s.out.n_preempt, 1);
    assert_ptr_equal(s.out.preempt[0], c);
    assert_int_equal(s.out.n_run, 2);
    is_run(&s, 0, a, 12, 1, SK_RUN_SAMPLE);
    is_run(&s, 1, b, 12, 1, SK_RUN_SAMPLE);
    assert_int_equal(s.out.n_admit, 0);
    state_close(&s);

    state_open(&s, 6, 16, 8); /* the youngest lacks one: it waits, and takes nothing from the older */
    a = add_running(&s, 8, 4, 11, 0);
    b = add_running(&s, 8, 5, 12, 100);
    next(&s);
    assert_int_equal(s.out.n_preempt, 0);
    assert_int_equal(s.out.n_run, 1);
    is_run(&s, 0, a, 11, 1, SK_RUN_SAMPLE);
    state_close(&s);
}

/* Blocks that others hold too are not won by preempting one of their holders. */
static void test_preempt_shared(void **unused)
{
    struct state s;
    state_open(&s, 6, 16, 8);
    struct sk_seq *a = add_running(&s, 8, 5, 12, 0), *b = add_running(&s, 8, 5, 12, 100),
                  *c = add_running(&s, 8, 1, 0, 200);
    memcpy(s.table[3], b->blk[0], 2 * sizeof(int32_t)); /* c holds two of b's, and nothing else */
    s.pool->groups[0].blocks[b->blk[0][0]].refs++;
    s.pool->groups[0].blocks[b->blk[0][1]].refs++;
    c->n_blk = 2;
    c->n_computed = c->n_planned = 8;
    next(&s);
    assert_int_equal(s.out.n_preempt, 2);
    assert_ptr_equal(s.out.preempt[0], c);
    assert_ptr_equal(s.out.preempt[1], b);
    assert_int_equal(s.out.n_run, 1);
    is_run(&s, 0, a, 12, 1, SK_RUN_SAMPLE);
    state_close(&s);
}

static void test_admission(void **unused)
{
    struct state s;
    state_open(&s, 10, 64, 3);
    struct sk_seq *a = add(&s, 16, 0, 0), *b = add(&s, 16, 0, 100), *c = add(&s, 4, 0, 200);
    next(&s);
    assert_int_equal(s.out.n_admit, 2); /* 4 + 4 blocks; the last two are the margin of those two */
    assert_ptr_equal(s.out.admit[0].seq, a);
    assert_ptr_equal(s.out.admit[1].seq, b);
    state_close(&s);

    state_open(&s, 10, 64, 3); /* b does not fit: c must not overtake it */
    add(&s, 16, 0, 0);
    add(&s, 24, 0, 100);
    c = add(&s, 4, 0, 200);
    next(&s);
    assert_int_equal(s.out.n_admit, 1);
    c->params.priority = -1; /* unless it comes before it in order */
    sk_seq_to(s.seqs, c, SK_SEQ_RUN);
    sk_seq_to(s.seqs, c, SK_SEQ_WAIT);
    next(&s);
    assert_ptr_equal(s.out.admit[0].seq, c);
    state_close(&s);
}

/* no_evict counts what a sequence may still come to: 16 + 10 - 1 tokens are 7 blocks. */
static void test_no_evict(void **unused)
{
    for (uint32_t n_blk = 13; n_blk <= 14; n_blk++) {
        struct state s;
        state_open(&s, n_blk, 64, 3);
        s.conf.no_evict = true;
        add(&s, 16, 0, 0);
        add(&s, 16, 0, 100);
        next(&s);
        assert_int_equal(s.out.n_admit, n_blk == 13 ? 1 : 2);
        state_close(&s);
    }
}

/* The same prompt twice: the second waits while the first computes it, unless it must not read the cache or has another
 * salt. */
static void test_coming(void **unused)
{
    struct state s;
    state_open(&s, 60, 64, 8);
    add(&s, 22, 0, 0);
    struct sk_seq *same = add(&s, 22, 0, 0), *other = add(&s, 22, 0, 500);
    next(&s);
    assert_int_equal(s.out.n_admit, 2);
    assert_ptr_equal(s.out.admit[1].seq, other);
    same->params.flags = SK_PARAMS_NO_CACHE;
    next(&s);
    assert_int_equal(s.out.n_admit, 3);
    same->params.flags = 0;
    same->params.salt = 1;
    next(&s);
    assert_int_equal(s.out.n_admit, 2 + 1);
    same->params.salt = 0;
    same->tok[11] = 999; /* less than half in common: not worth waiting */
    next(&s);
    assert_int_equal(s.out.n_admit, 3);
    same->tok[11] = 11;
    same->tok[12] = 999; /* 12 of 22 */
    next(&s);
    assert_int_equal(s.out.n_admit, 2);
    state_close(&s);
}

static struct sk_seq *suspect(struct sk_seq *q)
{
    q->probation = SK_SEQ_PROBATION;
    return q;
}

/* The rows of the others and the suspect's take turns, the others first; no step has both. */
static void test_suspect_turns(void **unused)
{
    struct state s;
    state_open(&s, 60, 16, 8);
    struct sk_seq *a = add_running(&s, 8, 1, 8, 0), *b = suspect(add_running(&s, 8, 1, 8, 100)),
                  *c = add_running(&s, 30, 0, 4, 200);
    next(&s);
    assert_int_equal(s.out.kind, SK_SEQ_KIND_ORDINARY);
    assert_int_equal(s.out.n_run, 2);
    is_run(&s, 0, c, 4, 15, 0);
    is_run(&s, 1, a, 8, 1, SK_RUN_SAMPLE);
    went(&s, SK_SEQ_KIND_ORDINARY);
    next(&s);
    assert_int_equal(s.out.kind, SK_SEQ_KIND_SUSPECT);
    assert_int_equal(s.out.n_run, 1);
    is_run(&s, 0, b, 8, 1, SK_RUN_SAMPLE);
    b->probation = 0; /* it has passed */
    next(&s);
    assert_int_equal(s.out.kind, SK_SEQ_KIND_ORDINARY);
    assert_int_equal(s.out.n_run, 3);
    state_close(&s);
}

/* One suspect at a time: the first that waits is admitted in its own step, the others when it is done. */
static void test_suspect_admission(void **unused)
{
    struct state s;
    state_open(&s, 60, 64, 3);
    struct sk_seq *a = suspect(add(&s, 8, 0, 0));
    suspect(add(&s, 8, 0, 100));
    struct sk_seq *c = add(&s, 8, 0, 200);
    next(&s);
    assert_int_equal(s.out.n_admit, 1);
    assert_ptr_equal(s.out.admit[0].seq, c);
    went(&s, SK_SEQ_KIND_ORDINARY);
    next(&s);
    assert_int_equal(s.out.n_admit, 1);
    assert_ptr_equal(s.out.admit[0].seq, a);
    assert_int_equal(s.out.kind, SK_SEQ_KIND_SUSPECT);

    a->blk[0] = s.table[0]; /* as if it ran */
    sk_seq_to(s.seqs, a, SK_SEQ_RUN);
    next(&s);
    assert_int_equal(s.out.n_admit, 0);
    is_run(&s, 0, a, 0, 8, SK_RUN_SAMPLE);
    went(&s, SK_SEQ_KIND_SUSPECT);
    next(&s);
    assert_ptr_equal(s.out.admit[0].seq, c);
    state_close(&s);
}

/* Where one of the two can do nothing, the other goes on. */
static void test_suspect_alone(void **unused)
{
    struct state s;
    state_open(&s, 10, 64, 1);
    struct sk_seq *a = suspect(add(&s, 8, 0, 0));
    next(&s); /* nobody else is there */
    assert_int_equal(s.out.kind, SK_SEQ_KIND_SUSPECT);
    assert_int_equal(s.out.n_admit, 1);
    struct sk_seq *b = add_running(&s, 8, 1, 8, 100);
    went(&s, SK_SEQ_KIND_ORDINARY);
    next(&s); /* no slot for it */
    assert_int_equal(s.out.kind, SK_SEQ_KIND_ORDINARY);
    assert_int_equal(s.out.n_run, 1);
    is_run(&s, 0, b, 8, 1, SK_RUN_SAMPLE);
    s.conf.max_seqs = 4;
    a->n_tok = a->n_prompt = 36; /* 9 blocks, 8 are left */
    a->tok = sk_realloc(a->tok, 50 * sizeof *a->tok);
    assert_non_null(a->tok);
    memset(a->tok, 0, 50 * sizeof *a->tok);
    next(&s);
    assert_int_equal(s.out.kind, SK_SEQ_KIND_ORDINARY);
    is_run(&s, 0, b, 8, 1, SK_RUN_SAMPLE);
    state_close(&s);
}

/* Who comes after a suspect that waits for room does not take it, nor does one wait for what a suspect computes. */
static void test_suspect_room(void **unused)
{
    struct state s;
    state_open(&s, 20, 64, 8);
    add_running(&s, 40, 1, 40, 0); /* 10 of 20 blocks, and soon one more */
    struct sk_seq *a = suspect(add(&s, 40, 0, 100));
    add(&s, 4, 0, 200);
    next(&s);
    assert_int_equal(s.out.n_admit, 0);
    a->n_tok = a->n_prompt = 20;
    next(&s);
    assert_int_equal(s.out.n_admit, 1);
    state_close(&s);

    state_open(&s, 60, 64, 8);
    suspect(add_running(&s, 22, 0, 4, 0));
    add(&s, 22, 0, 0);
    next(&s);
    assert_int_equal(s.out.n_admit, 1);
    state_close(&s);
}

/* In blocks and age it is a sequence as any other: preempted by the older, and preempts the younger in its own step. */
static void test_suspect_preempts(void **unused)
{
    for (int is_older = 0; is_older < 2; is_older++) {
        struct state s;
        state_open(&s, 4, 64, 8);
        struct sk_seq *a = add_running(&s, 8, 1, 8, 0), *b = add_running(&s, 8, 1, 8, 100);
        suspect(is_older ? a : b);
        went(&s, SK_SEQ_KIND_ORDINARY);
        next(&s);
        assert_int_equal(s.out.n_preempt, 1); /* the younger one could do nothing even in its turn */
        assert_ptr_equal(s.out.preempt[0], b);
        assert_int_equal(s.out.kind, is_older ? SK_SEQ_KIND_SUSPECT : SK_SEQ_KIND_ORDINARY);
        is_run(&s, 0, a, 8, 1, SK_RUN_SAMPLE);
        state_close(&s);
    }
}

static struct sk_seq *urgent(struct sk_seq *q)
{
    q->urgent = true;
    return q;
}

/* Rows of urgent ones are together and without others'; steps of the kinds take turns. */
static void test_urgent_turns(void **unused)
{
    struct state s;
    state_open(&s, 60, 16, 8);
    struct sk_seq *a = add_running(&s, 8, 1, 8, 0), *b = urgent(add_running(&s, 30, 0, 4, 100)),
                  *c = urgent(add_running(&s, 8, 0, 4, 200)), *d = suspect(add_running(&s, 8, 1, 8, 300));
    b->n_computed = b->n_planned = b->n_prompt - 8;
    b->n_blk = 6;
    next(&s);
    assert_int_equal(s.out.kind, SK_SEQ_KIND_URGENT);
    assert_int_equal(s.out.n_run, 2);
    is_run(&s, 0, b, 22, 8, SK_RUN_SAMPLE);
    is_run(&s, 1, c, 4, 4, SK_RUN_SAMPLE);
    for (int i = 0; i < 3; i++) { /* whatever there is to do: one of each */
        went(&s, SK_SEQ_KIND_URGENT);
        next(&s);
        assert_int_equal(s.out.n_run, 1);
        is_run(&s, 0, a, 8, 1, SK_RUN_SAMPLE);
        went(&s, SK_SEQ_KIND_ORDINARY);
        next(&s);
        assert_int_equal(s.out.n_run, 1);
        is_run(&s, 0, d, 8, 1, SK_RUN_SAMPLE);
        went(&s, SK_SEQ_KIND_SUSPECT);
        next(&s);
        assert_int_equal(s.out.n_run, 2);
        is_run(&s, 0, b, 22, 8, SK_RUN_SAMPLE);
    }
    b->urgent = c->urgent = false; /* they have their first tokens */
    next(&s);
    assert_int_equal(s.out.kind, SK_SEQ_KIND_ORDINARY);
    assert_int_equal(s.out.n_run, 3);
    is_run(&s, 0, b, 22, 8, SK_RUN_SAMPLE);
    is_run(&s, 1, c, 4, 4, SK_RUN_SAMPLE);
    is_run(&s, 2, a, 8, 1, SK_RUN_SAMPLE);
    state_close(&s);
}

/* One that comes while others run has the next step, but takes no room for which an older one waits. */
static void test_urgent_admission(void **unused)
{
    struct state s;
    state_open(&s, 60, 64, 8);
    add_running(&s, 8, 1, 8, 0);
    struct sk_seq *b = add(&s, 8, 0, 100), *c = urgent(add(&s, 8, 0, 200));
    went(&s, SK_SEQ_KIND_ORDINARY);
    next(&s);
    assert_int_equal(s.out.kind, SK_SEQ_KIND_URGENT);
    assert_int_equal(s.out.n_admit, 2);
    assert_ptr_equal(s.out.admit[0].seq, b); /* it was there first, but has no rows yet */
    assert_int_equal(s.out.n_run, 1);
    is_run(&s, 0, c, 0, 8, SK_RUN_SAMPLE);
    s.conf.max_seqs = s.out.cap = 2; /* one slot is left, and it is b's */
    next(&s);
    assert_int_equal(s.out.kind, SK_SEQ_KIND_ORDINARY);
    assert_int_equal(s.out.n_admit, 1);
    assert_ptr_equal(s.out.admit[0].seq, b);
    state_close(&s);

    state_open(&s, 20, 64, 8);
    struct sk_seq *a = add_running(&s, 40, 1, 40, 0);
    add(&s, 40, 0, 100); /* lacks room */
    urgent(add(&s, 4, 0, 200));
    went(&s, SK_SEQ_KIND_ORDINARY);
    next(&s);
    assert_int_equal(s.out.kind, SK_SEQ_KIND_ORDINARY);
    assert_int_equal(s.out.n_admit, 0);
    is_run(&s, 0, a, 40, 1, SK_RUN_SAMPLE);
    state_close(&s);
}

/* It may find no block: then the others go on. */
static void test_urgent_waits(void **unused)
{
    struct state s;
    state_open(&s, 4, 64, 8);
    struct sk_seq *a = add_running(&s, 8, 3, 10, 0);
    urgent(add_running(&s, 8, 0, 4, 100));
    sk_kvpool_take(s.pool, 0, 1, s.table[0]);
    went(&s, SK_SEQ_KIND_ORDINARY);
    next(&s);
    assert_int_equal(s.out.kind, SK_SEQ_KIND_ORDINARY);
    assert_int_equal(s.out.n_run, 1);
    is_run(&s, 0, a, 10, 1, SK_RUN_SAMPLE);
    state_close(&s);
}

/* A state in which a prompt row takes 1 ms, a decode row 2 ms and a step 3 ms; 60 ms are the target. */
static void state_open_timed(struct state *s, struct sk_cost_rate *rate)
{
    *rate = (struct sk_cost_rate){
        .us = {[SK_COST_PROMPT_ROW] = 1000, [SK_COST_DECODE_ROW] = 2000, [SK_COST_STEP] = 3000}, .spread = 1};
    state_open(s, 250, 128, 8);
    s->conf.rate = rate;
    s->conf.itl_target_us = 60000;
}

/* While answers are generated, chunks take what the decode rows leave of the target, the oldest first; else all. */
static void test_target(void **unused)
{
    struct state s;
    struct sk_cost_rate rate;
    state_open_timed(&s, &rate);
    struct sk_seq *a = add_running(&s, 200, 0, 8, 0);
    next(&s);
    is_run(&s, 0, a, 8, 128, 0);
    struct sk_seq *b = add_running(&s, 8, 1, 8, 1000), *c = add_running(&s, 8, 1, 8, 2000);
    next(&s);
    assert_int_equal(s.out.n_run, 3);
    is_run(&s, 0, a, 8, 60 - 3 - 2 * 2, 0);
    is_run(&s, 1, b, 8, 1, SK_RUN_SAMPLE);
    is_run(&s, 2, c, 8, 1, SK_RUN_SAMPLE);
    rate.spread = 1.25; /* steps that take longer than foreseen */
    next(&s);
    is_run(&s, 0, a, 8, 48 - 3 - 2 * 2, 0);
    rate.spread = 1;
    rate.us[SK_COST_PROMPT_PAIR] = 10; /* later rows of the prompt take longer: these from 1.97 to 2.46 ms */
    s.conf.itl_target_us = 120000;
    a->n_computed = a->n_planned = 96;
    a->n_blk = 24;
    next(&s);
    is_run(&s, 0, a, 96, 50, 0);
    state_close(&s);
}

/* Several prompts share the time of a step: what the oldest leaves goes to the next, and then nobody is admitted. */
static void test_target_shared(void **unused)
{
    struct state s;
    struct sk_cost_rate rate;
    state_open_timed(&s, &rate);
    add_running(&s, 8, 1, 8, 0);
    struct sk_seq *a = add_running(&s, 40, 0, 10, 1000), *b = add(&s, 100, 0, 2000);
    add(&s, 100, 0, 3000);
    next(&s);
    is_run(&s, 0, a, 10, 30, SK_RUN_SAMPLE);
    is_run(&s, 1, b, 0, 60 - 3 - 2 - 30, 0);
    assert_int_equal(s.out.n_run, 3);
    assert_int_equal(s.out.n_admit, 1);
    assert_ptr_equal(s.out.admit[0].seq, b);
    state_close(&s);
}

/* Where the decode rows alone take longer than the target, prompts go on all the same. */
static void test_target_least(void **unused)
{
    struct state s;
    struct sk_cost_rate rate;
    state_open_timed(&s, &rate);
    rate.us[SK_COST_DECODE_ROW] = 1e6;
    struct sk_seq *a = add_running(&s, 200, 0, 8, 0), *b = add_running(&s, 200, 0, 8, 1000);
    add_running(&s, 8, 1, 8, 2000);
    next(&s);
    is_run(&s, 0, a, 8, SK_SCHED_LEAST_CHUNK, 0);
    assert_int_equal(s.out.n_run, 2);
    a->n_computed = a->n_planned = 190; /* it leaves something of that */
    a->n_blk = 48;
    next(&s);
    is_run(&s, 0, a, 190, 10, SK_RUN_SAMPLE);
    is_run(&s, 1, b, 8, SK_SCHED_LEAST_CHUNK - 10, 0);
    state_close(&s);
}

/* Without a number: prompts take as long as the answers do, and a step at least what nobody minds. */
static void test_target_automatic(void **unused)
{
    struct state s;
    struct sk_cost_rate rate;
    state_open_timed(&s, &rate);
    s.conf.itl_target_us = 0;
    rate.us[SK_COST_PROMPT_ROW] = 400;
    struct sk_seq *a = add_running(&s, 200, 0, 8, 0);
    add_running(&s, 8, 1, 8, 1000);
    next(&s);
    is_run(&s, 0, a, 8, 50, 0); /* 25 - 3 - 2 ms */
    rate.us[SK_COST_DECODE_ROW] = 17000;
    add_running(&s, 8, 1, 8, 2000);
    next(&s);
    is_run(&s, 0, a, 8, 92, 0); /* 3 + 2 * 17 ms */
    state_close(&s);
}

/* Steps of another kind are between two tokens too: each kind has its part of the target. */
static void test_target_kinds(void **unused)
{
    struct state s;
    struct sk_cost_rate rate;
    state_open_timed(&s, &rate);
    struct sk_seq *a = urgent(add_running(&s, 200, 0, 8, 0)), *b = add_running(&s, 200, 0, 8, 1000);
    struct sk_seq *c = add_running(&s, 8, 1, 8, 2000);
    s.conf.itl_target_us = 90000;
    next(&s);
    assert_int_equal(s.out.kind, SK_SEQ_KIND_URGENT);
    is_run(&s, 0, a, 8, 45 - 3, 0);
    went(&s, SK_SEQ_KIND_URGENT);
    next(&s);
    assert_int_equal(s.out.kind, SK_SEQ_KIND_ORDINARY);
    is_run(&s, 0, b, 8, 45 - 3 - 2, 0);
    is_run(&s, 1, c, 8, 1, SK_RUN_SAMPLE);
    s.conf.itl_target_us = 0; /* without one the urgent have all of the 25 ms, the others the least */
    rate.us[SK_COST_PROMPT_ROW] = 400;
    next(&s);
    is_run(&s, 0, b, 8, SK_SCHED_LEAST_CHUNK, 0);
    went(&s, SK_SEQ_KIND_ORDINARY);
    next(&s);
    is_run(&s, 0, a, 8, 55, 0); /* 25 - 3 ms */
    rate.spread = 2;
    next(&s);
    is_run(&s, 0, a, 8, 55, 0);
    rate.spread = 1;
    went(&s, SK_SEQ_KIND_URGENT);
    sk_seq_to(s.seqs, c, SK_SEQ_WAIT); /* nobody generates now */
    went(&s, SK_SEQ_KIND_ORDINARY);
    next(&s);
    is_run(&s, 0, a, 8, 128, 0);
    state_close(&s);
}

static void test_peak(void **unused)
{
    struct sk_kvpool_conf c = {.n_group = 2, .block_tok = 4, .window = {0, 6}, .n_blk = {10, 4}};
    assert_int_equal(sk_sched_peak(&c, 0, 1, 100), 1);
    assert_int_equal(sk_sched_peak(&c, 0, 17, 1), 5);
    assert_int_equal(sk_sched_peak(&c, 1, 4, 1), 1);
    /* every window of 6 + chunk - 1 positions, wherever it begins, touches no more blocks than that */
    for (uint32_t chunk = 1; chunk < 20; chunk++)
        for (uint32_t pos = 0; pos + chunk <= 80; pos++) {
            uint32_t first = sk_kvpool_first(&c, 1, pos), last = (pos + chunk - 1) / 4;
            assert_true(last - first + 1 <= sk_sched_peak(&c, 1, 80, chunk));
        }
    assert_true(sk_sched_fits(&c, 30, 11)); /* the last token is not computed: 40 positions, 10 blocks */
    assert_false(sk_sched_fits(&c, 30, 12));
    assert_true(sk_sched_fits(&c, 40, 0));
    c.n_blk[1] = 2;
    assert_false(sk_sched_fits(&c, 30, 11));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_scores),
        cmocka_unit_test(test_preempt),
        cmocka_unit_test(test_preempt_shared),
        cmocka_unit_test(test_admission),
        cmocka_unit_test(test_no_evict),
        cmocka_unit_test(test_coming),
        cmocka_unit_test(test_peak),
        cmocka_unit_test(test_suspect_turns),
        cmocka_unit_test(test_suspect_admission),
        cmocka_unit_test(test_suspect_alone),
        cmocka_unit_test(test_suspect_room),
        cmocka_unit_test(test_suspect_preempts),
        cmocka_unit_test(test_urgent_turns),
        cmocka_unit_test(test_urgent_admission),
        cmocka_unit_test(test_urgent_waits),
        cmocka_unit_test(test_target),
        cmocka_unit_test(test_target_shared),
        cmocka_unit_test(test_target_least),
        cmocka_unit_test(test_target_automatic),
        cmocka_unit_test(test_target_kinds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "tests/unit/engine/batch/workload.h"

#include <string.h>

#include "tests/unit/engine/batch/invariants.h"

uint32_t roll(struct dice *d, uint32_t n)
{
    d->x = d->x * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(d->x >> 33) % n;
}

void workload_make(struct workload *w, uint32_t i, const struct sk_loop_conf *c, struct dice *d)
{
    struct front_req *q = &w->req[i];
    uint32_t n_stem = roll(d, 40), n = n_stem + 1 + roll(d, 24);
    rig_ramp(w->prompt[i], n_stem, (int32_t)roll(d, N_STEM));
    for (uint32_t k = n_stem; k < n; k++)
        w->prompt[i][k] = (int32_t)roll(d, roll(d, 2) ? 2 : PRETEND_VOCAB);
    *q = (struct front_req){
        .prompt = w->prompt[i], .n_prompt = n, .n_choice = roll(d, 4) ? 1 : 1 + roll(d, 5), .list = w->stop[i]};
    sk_params_default(&q->params);
    q->params.seed = roll(d, 5);
    q->params.salt = roll(d, 6) == 0;
    q->params.max_tokens = 1 + roll(d, 40);
    q->params.min_tokens = roll(d, 3) ? 0 : roll(d, q->params.max_tokens + 1);
    q->params.flags = (roll(d, 3) ? 0 : SK_PARAMS_IGNORE_EOS) | (roll(d, 8) ? 0 : SK_PARAMS_NO_CACHE);
    q->params.n_logprobs = (int32_t)roll(d, 4) - 1;
    q->params.n_prompt_logprobs = roll(d, 6) ? -1 : (int32_t)roll(d, 3);
    q->params.priority = roll(d, 5) ? 0 : (int32_t)roll(d, 3) - 1;
    q->params.n_stop_ids = roll(d, 3);
    q->suspect = roll(d, 7) == 0;
    q->urgent = roll(d, 5) == 0;
    for (uint32_t k = 0; k < 2; k++)
        w->stop[i][k] = (int32_t)roll(d, PRETEND_VOCAB);
    if (q->n_choice == 1 && roll(d, 6) == 0) { /* re-admitted: a part of its answer is there */
        uint32_t finish, n_all = pretend_expect(c, q->prompt, n, &q->params, q->list, 0, w->done[i], &finish);
        q->n_done = n_all > 0 ? roll(d, n_all) : 0;
        q->done = w->done[i];
    }
}

static void expect_cancelled(const struct rig *r, uint32_t seq, const struct front_req *q)
{
    const struct front_seq *s = &r->front.seqs[seq];
    int32_t want[PRETEND_MAX_LEN], got[FRONT_MAX_ITEMS];
    uint32_t finish,
        n = pretend_expect(&r->conf, q->prompt, q->n_prompt, &q->params, q->list, s->choice, want, &finish),
        n_got = front_answer(s, got);
    assert_true(s->finish == SK_FINISH_CANCEL || s->finish == finish);
    assert_true(n_got <= n - q->n_done);
    assert_memory_equal(got, want + q->n_done, n_got * sizeof *got);
}

void workload_expect(const struct workload *w, const struct rig *r)
{
    for (uint32_t i = 0; i < N_REQ; i++)
        for (uint32_t k = w->first[i]; k < w->first[i] + w->req[i].n_choice; k++) {
            if (w->cancelled[k])
                expect_cancelled(r, k, &w->req[i]);
            else
                rig_expect(r, k, &w->req[i]);
        }
}

void workload_run(const struct sk_loop_conf *c, uint32_t n_stage, uint64_t seed, struct sk_wire_stats *ret_stats)
{
    static struct workload w;
    struct rig r;
    struct dice d = {seed};
    memset(&w, 0, sizeof w);
    rig_open_stages(&r, c, n_stage, seed);
    for (uint32_t i = 0; i < N_REQ; i++) {
        workload_make(&w, i, c, &d);
        w.first[i] = front_submit(&r.front, &w.req[i]);
        for (uint32_t n = roll(&d, 4); n > 0; n--) {
            const struct sk_seq *oldest = r.loop->seqs->run.first;
            uint64_t id = oldest ? oldest->id : 0;
            uint32_t before = oldest ? oldest->n_preempt : 0;
            front_step(&r.front);
            invariants_check(r.loop);
            assert_true(!oldest || oldest->id != id || oldest->n_preempt == before); /* the oldest is never preempted */
        }
        if (roll(&d, 8) == 0) {
            uint32_t victim = roll(&d, r.front.n_seq);
            w.cancelled[victim] = true;
            front_cancel(&r.front, victim);
            invariants_check(r.loop);
        }
    }
    rig_run(&r);
    workload_expect(&w, &r);
    sk_loop_stats(r.loop, ret_stats);
    rig_close(&r);
}

/* The leader's loop over a pretended rank, property by property. */
#include <stdio.h>
#include <string.h>

#include "comm/base/mem.h"
#include "tests/unit/engine/batch/invariants.h"
#include "tests/unit/engine/batch/rig.h"

/* The whole prompt is cached, to the last full block: its last token is computed all the same, and what is drawn is
 * right. */
static void test_full_hit(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t prompt[32];
    rig_ramp(prompt, 32, 1);
    rig_open(&r, &c);
    struct front_req q = rig_greedy(prompt, 32, 5);
    uint32_t a = front_submit(&r.front, &q);
    rig_run(&r);
    uint64_t computed = r.loop->stats.prompt_tok;
    uint32_t b = front_submit(&r.front, &q);
    rig_run(&r);
    rig_expect(&r, a, &q);
    rig_expect(&r, b, &q);
    assert_int_equal(computed, 32);
    assert_int_equal(r.loop->stats.prompt_tok - computed, 4); /* its last block: that is not the shared one */
    assert_int_equal(r.front.seqs[a].n_cached, 0);
    assert_int_equal(r.front.seqs[b].n_cached, 28);
    rig_close(&r);
}

/* Bigger than the pool, or than the context: refused at once, and the next request is served. */
static void test_never_fits(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t prompt[200];
    rig_ramp(prompt, 200, 3);
    c.kv.n_blk[0] = 8;
    rig_open(&r, &c);
    struct front_req big = rig_greedy(prompt, 20, 14), fits = rig_greedy(prompt, 20, 13),
                     prompt_only = rig_greedy(prompt, 40, 1), full = rig_greedy(prompt, 128, 1),
                     longer = rig_greedy(prompt, 200, 1);
    uint32_t a = front_submit(&r.front, &big), b = front_submit(&r.front, &prompt_only),
             d = front_submit(&r.front, &full), e = front_submit(&r.front, &longer), f = front_submit(&r.front, &fits);
    rig_run(&r);
    assert_int_equal(r.front.seqs[a].finish, SK_FINISH_ERROR);
    assert_int_equal(r.front.seqs[a].reason, SK_ENOBLK);
    assert_int_equal(r.front.seqs[b].reason, SK_ENOBLK);
    assert_int_equal(r.front.seqs[d].reason, SK_ECTX); /* no room for a token of the answer */
    assert_int_equal(r.front.seqs[e].reason, SK_ECTX);
    rig_expect(&r, f, &fits);
    assert_int_equal(r.loop->stats.preemptions, 0);
    rig_close(&r);
}

/* Two that fit one by one but not together: the younger is preempted, and neither loses or doubles a token. */
static void test_preempt(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t p[3][16];
    c.kv.n_blk[0] = 16;
    rig_open(&r, &c);
    struct front_req q[3];
    uint32_t s[3];
    for (int i = 0; i < 3; i++) {
        rig_ramp(p[i], 16, 5 * i);
        q[i] = rig_greedy(p[i], 16, 40);
        s[i] = front_submit(&r.front, &q[i]);
    }
    rig_run(&r);
    for (int i = 0; i < 3; i++)
        rig_expect(&r, s[i], &q[i]);
    assert_int_equal(r.front.seqs[s[0]].n_preempt, 0);
    assert_true(r.front.seqs[s[1]].n_preempt + r.front.seqs[s[2]].n_preempt > 0);
    rig_close(&r);
}

/* Choices of a job wait for the first one's full prompt blocks and share them; so does the same prompt sent twice. */
static void shared_prompt(bool choices, uint32_t max_row)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t prompt[42];
    rig_ramp(prompt, 42, 2);
    c.max_row = max_row;
    rig_open(&r, &c);
    struct front_req q = rig_greedy(prompt, 42, 6);
    q.n_choice = choices ? 4 : 1;
    uint32_t first = front_submit(&r.front, &q);
    for (int i = 1; i < 4 && !choices; i++)
        front_submit(&r.front, &q);
    front_step(&r.front);
    assert_int_equal(r.loop->seqs->run.n, 1);
    assert_int_equal(r.loop->seqs->wait.n, 3);
    rig_run(&r);
    assert_int_equal(r.loop->stats.prompt_tok, 42 + 3 * 2); /* 40 of 42 are full blocks */
    for (uint32_t i = 0; i < 4; i++)
        rig_expect(&r, first + i, &q);
    rig_close(&r);
}

static void test_shared_prompt(void **state)
{
    for (uint32_t max_row = 10; max_row <= 90; max_row += 40) {
        shared_prompt(true, max_row);
        shared_prompt(false, max_row);
    }
}

/* The one that others wait for is cancelled: they go on without it. */
static void test_cancel_leader(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t prompt[60];
    rig_ramp(prompt, 60, 2);
    c.max_row = 16;
    rig_open(&r, &c);
    struct front_req q = rig_greedy(prompt, 60, 6);
    q.n_choice = 3;
    uint32_t first = front_submit(&r.front, &q);
    front_step(&r.front);
    assert_int_equal(r.loop->seqs->wait.n, 2);
    front_cancel(&r.front, first);
    rig_run(&r);
    assert_int_equal(r.front.seqs[first].finish, SK_FINISH_CANCEL);
    rig_expect(&r, first + 1, &q);
    rig_expect(&r, first + 2, &q);
    rig_close(&r);
}

/* A cancelled sequence gives its blocks back before any further step, and says nothing more but that. */
static void test_cancel(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t prompt[20], got[FRONT_MAX_ITEMS];
    rig_ramp(prompt, 20, 2);
    rig_open(&r, &c);
    struct front_req q = rig_greedy(prompt, 20, 100);
    uint32_t a = front_submit(&r.front, &q);
    for (int i = 0; i < 5; i++)
        front_step(&r.front);
    uint32_t n = front_answer(&r.front.seqs[a], got);
    assert_int_equal(n, 5);
    front_cancel(&r.front, a);
    assert_int_equal(sk_kvpool_avail(r.loop->pool, 0), c.kv.n_blk[0]);
    rig_run(&r);
    assert_int_equal(r.front.seqs[a].finish, SK_FINISH_CANCEL);
    assert_int_equal(front_answer(&r.front.seqs[a], got), n);
    front_cancel(&r.front, a); /* again, too late: nothing */
    rig_run(&r);
    rig_close(&r);
}

/* Other salts, and requests that must not read the cache, find nothing; what the latter compute is there for others. */
static void test_salt_and_no_cache(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t prompt[24];
    rig_ramp(prompt, 24, 2);
    rig_open(&r, &c);
    struct front_req q = rig_greedy(prompt, 24, 2), salted = q, no_cache = q;
    salted.params.salt = 9;
    no_cache.params.flags |= SK_PARAMS_NO_CACHE;
    const struct front_req *order[] = {&no_cache, &no_cache, &q, &salted, &salted, &q};
    const uint32_t cached[] = {0, 0, 20, 0, 20, 20};
    for (int i = 0; i < 6; i++) {
        uint32_t s = front_submit(&r.front, order[i]);
        rig_run(&r);
        rig_expect(&r, s, order[i]);
        assert_int_equal(r.front.seqs[s].n_cached, cached[i]);
    }
    rig_close(&r);
}

/* Generated tokens' blocks serve later prompts only where the classes give the same bits. */
static void test_classes(void **state)
{
    for (int equal = 0; equal < 2; equal++) {
        struct rig r;
        struct sk_loop_conf c = rig_conf();
        int32_t prompt[64];
        rig_ramp(prompt, 8, 2);
        c.kv.classes_equal = equal;
        rig_open(&r, &c);
        struct front_req q = rig_greedy(prompt, 8, 17);
        uint32_t s = front_submit(&r.front, &q);
        rig_run(&r);
        front_answer(&r.front.seqs[s], prompt + 8);
        struct front_req longer = rig_greedy(prompt, 25, 3);
        s = front_submit(&r.front, &longer);
        rig_run(&r);
        rig_expect(&r, s, &longer);
        assert_int_equal(r.front.seqs[s].n_cached, equal ? 24 : 8);
        /* the same tokens as a re-admission find their own class */
        struct front_req again = q;
        again.done = prompt + 8;
        again.n_done = 14;
        s = front_submit(&r.front, &again);
        rig_run(&r);
        rig_expect(&r, s, &again);
        assert_int_equal(r.loop->stats.cache_hit_tok, equal ? 24 + 8 : 8 + 8);
        rig_close(&r);
    }
}

/* Re-admission after m tokens, for every m: the rest comes, nothing twice; what is complete ends at once. */
static void test_readmit(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t prompt[10], all[40];
    uint32_t finish;
    rig_ramp(prompt, 10, 4);
    rig_open(&r, &c);
    struct front_req q = rig_greedy(prompt, 10, 12);
    q.params.min_tokens = 6;
    q.params.n_prompt_logprobs = 2;
    uint32_t n = pretend_expect(&c, prompt, 10, &q.params, NULL, 0, all, &finish);
    assert_int_equal(n, 12);
    for (uint32_t m = 1; m <= n; m++) {
        q.done = all;
        q.n_done = m;
        uint32_t s = front_submit(&r.front, &q);
        rig_run(&r);
        rig_expect(&r, s, &q);
    }
    rig_close(&r);
}

/* Prompt log-probs come in the pieces that chunks make, once each, also over a preemption; and nothing is drawn where
 * max_tokens is 0. */
static void test_prompt_logprobs(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t prompt[2][50];
    c.max_row = 16;
    c.kv.n_blk[0] = 18;
    rig_open(&r, &c);
    rig_ramp(prompt[0], 40, 1);
    rig_ramp(prompt[1], 50, 30);
    struct front_req old = rig_greedy(prompt[0], 20, 40), scored = rig_greedy(prompt[1], 50, 0),
                     none = rig_greedy(prompt[0], 1, 0);
    scored.params.n_prompt_logprobs = none.params.n_prompt_logprobs = 3;
    scored.params.flags = none.params.flags |= SK_PARAMS_NO_CACHE;
    uint32_t a = front_submit(&r.front, &old);
    front_step(&r.front);
    uint32_t b = front_submit(&r.front, &scored), d = front_submit(&r.front, &none);
    rig_run(&r);
    rig_expect(&r, a, &old);
    rig_expect(&r, b, &scored);
    assert_int_equal(r.front.seqs[d].finish, SK_FINISH_LENGTH);
    assert_int_equal(r.front.seqs[d].n_item, 0);
    rig_close(&r);
}

static void test_ends(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t prompt[100], list[1], all[PRETEND_MAX_LEN];
    uint32_t finish, seen = 0;
    rig_ramp(prompt, 100, 4);
    rig_open(&r, &c);
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct front_req q = rig_greedy(prompt, 9, 200); /* more than the context: it ends there */
        q.params.seed = seed;
        q.params.flags = seed & 1 ? SK_PARAMS_IGNORE_EOS : 0;
        pretend_expect(&c, prompt, 9, &q.params, NULL, 0, all, &finish);
        if (seed % 3 == 0) {
            list[0] = all[3];
            q.list = list;
            q.params.n_stop_ids = 1;
        }
        if (seed % 4 == 0)
            q.params.min_tokens = 20;
        uint32_t s = front_submit(&r.front, &q);
        rig_run(&r);
        rig_expect(&r, s, &q);
        seen |= 1u << r.front.seqs[s].finish;
    }
    assert_int_equal(seen, 1u << SK_FINISH_EOS | 1u << SK_FINISH_STOP_ID | 1u << SK_FINISH_LENGTH);
    rig_close(&r);
}

/* Past the credit there is no place: refused, and said so. */
static void test_queue_full(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t prompt[4];
    rig_ramp(prompt, 4, 4);
    c.max_seqs = 2;
    c.max_queue = 3;
    rig_open(&r, &c);
    assert_int_equal(sk_loop_credit(r.loop), 5);
    struct front_req q = rig_greedy(prompt, 4, 4);
    q.n_choice = 3;
    front_submit(&r.front, &q);
    front_submit(&r.front, &q);
    rig_run(&r);
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(r.front.seqs[i].finish, i < 5 ? SK_FINISH_LENGTH : SK_FINISH_ERROR);
    assert_int_equal(r.front.seqs[5].reason, SK_EQUEUE);
    rig_close(&r);
}

/* Lower priority values first, then the order of arrival. */
static void test_priority(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t prompt[4];
    rig_ramp(prompt, 4, 4);
    c.max_seqs = 1;
    rig_open(&r, &c);
    const int32_t priority[] = {0, 5, 0, -3};
    const uint32_t rank[] = {1, 3, 2, 0};
    for (int i = 0; i < 4; i++) {
        struct front_req q = rig_greedy(prompt, 4, 3);
        q.params.priority = priority[i];
        front_submit(&r.front, &q);
    }
    for (uint32_t n_done = 0; n_done < 4;) {
        assert_true(front_step(&r.front));
        uint32_t n = 0;
        for (uint32_t i = 0; i < 4; i++)
            n += r.front.seqs[i].finish != SK_FINISH_NONE;
        for (uint32_t i = 0; i < 4 && n > n_done; i++)
            if (rank[i] == n_done)
                assert_int_equal(r.front.seqs[i].finish, SK_FINISH_LENGTH);
        n_done = n;
    }
    rig_close(&r);
}

/* After the first requests, steps allocate nothing. */
static void test_no_allocation(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t prompt[60];
    rig_ramp(prompt, 60, 4);
    c.kv.n_blk[0] = 40;
    rig_open(&r, &c);
    for (int i = 0; i < 10; i++) {
        struct front_req q = rig_greedy(prompt, 20 + 3 * (uint32_t)i, 30);
        q.params.n_logprobs = q.params.n_prompt_logprobs = i % 2 ? 20 : -1;
        q.params.seed = (uint64_t)i;
        front_submit(&r.front, &q);
    }
    uint64_t before = sk_mem_count();
    front_run(&r.front);
    assert_int_equal(sk_mem_count(), before);
    assert_true(r.loop->stats.preemptions > 0);
    invariants_idle(r.loop);
    rig_close(&r);
}

/* ---- the protocol ---- */

static int feed_one(struct rig *r)
{
    struct sk_err err = {0};
    int rc = sk_loop_frame(r->loop, (const struct sk_frame *)r->front.in.p, &r->front.out, &err);
    sk_buf_clear(&r->front.in);
    assert_true(rc == 0 || err.msg[0]);
    return rc;
}

static void test_protocol(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t prompt[4] = {1, 2, 3, 4}, wrong[2] = {1, PRETEND_VOCAB};
    rig_open(&r, &c);
    struct sk_buf *in = &r.front.in;
    struct sk_wire_seq s = {.job = 7};
    sk_params_default(&s.params);

    sk_wire_put_seq(in, &s, NULL, NULL); /* of no job */
    assert_int_equal(feed_one(&r), -SK_EPROTO);
    sk_wire_put_prompt(in, 7, 1, wrong, 2);
    assert_int_equal(feed_one(&r), -SK_EPROTO);
    sk_wire_put_prompt(in, 7, 1, prompt, 0);
    assert_int_equal(feed_one(&r), -SK_EPROTO);
    sk_wire_put_prompt(in, 7, 0, prompt, 4);
    assert_int_equal(feed_one(&r), -SK_EPROTO);
    sk_wire_put_prompt(in, 7, 2, prompt, 4);
    assert_int_equal(feed_one(&r), 0);
    sk_wire_put_prompt(in, 7, 2, prompt, 4); /* twice */
    assert_int_equal(feed_one(&r), -SK_EPROTO);
    s.params.temperature = -1;
    sk_wire_put_seq(in, &s, NULL, NULL);
    assert_int_equal(feed_one(&r), -SK_EPROTO);
    s.params.temperature = 1;
    s.n_done = 2;
    sk_wire_put_seq(in, &s, NULL, wrong);
    assert_int_equal(feed_one(&r), -SK_EPROTO);
    s.n_done = 0;
    sk_wire_put_seq(in, &s, NULL, NULL);
    assert_int_equal(feed_one(&r), 0);
    sk_wire_put_seq(in, &s, NULL, NULL); /* the same choice */
    assert_int_equal(feed_one(&r), -SK_EPROTO);
    sk_wire_put_state(in, 0, 0, "not for an engine");
    assert_int_equal(feed_one(&r), -SK_EPROTO);
    sk_wire_put_cancel(in, 99, SK_WIRE_ALL); /* finished on its way */
    assert_int_equal(feed_one(&r), 0);
    sk_wire_put_cancel(in, 7, SK_WIRE_ALL); /* with a choice that has not come, and will not */
    assert_int_equal(feed_one(&r), 0);

    struct sk_err err = {0};
    assert_int_equal(sk_loop_step(r.loop, &r.front.out, &err), 0);
    const struct sk_wire_tokens *t = (const void *)r.front.out.p;
    assert_int_equal(t->frame.kind, SK_FRAME_TOKENS);
    assert_int_equal(sk_wire_first(t)->finish, SK_FINISH_CANCEL);
    assert_int_equal(t->n_entry, 1);
    sk_buf_clear(&r.front.out);
    invariants_idle(r.loop);
    rig_close(&r);
}

static void test_hello(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    struct sk_wire_hello h = {.magic = SK_WIRE_MAGIC, .version = SK_WIRE_VERSION + 1};
    snprintf(c.digest, sizeof c.digest, "abc");
    rig_open(&r, &c);
    sk_wire_put_hello(&r.front.in, &h);
    assert_int_equal(feed_one(&r), -SK_EPROTO);
    h.version = SK_WIRE_VERSION;
    snprintf(h.digest, sizeof h.digest, "abd");
    sk_wire_put_hello(&r.front.in, &h);
    assert_int_equal(feed_one(&r), -SK_EPROTO);
    snprintf(h.digest, sizeof h.digest, "abc");
    sk_wire_put_hello(&r.front.in, &h);
    assert_int_equal(feed_one(&r), 0);
    r.loop->greeted = false;
    sk_wire_put_beat(&r.front.in, 1, 0);
    assert_int_equal(feed_one(&r), -SK_EPROTO); /* HELLO comes first */
    rig_close(&r);
}

static void test_beat(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    rig_open(&r, &c);
    sk_wire_put_beat(&r.front.in, 42, 0);
    assert_int_equal(feed_one(&r), 0);
    const struct sk_wire_beat *b = (const void *)r.front.out.p;
    const struct sk_wire_stats *s = (const void *)(b + 1);
    assert_int_equal(b->frame.kind, SK_FRAME_BEAT);
    assert_int_equal(b->number, 42);
    assert_int_equal(s->frame.kind, SK_FRAME_STATS);
    assert_int_equal(s->blk_total, c.kv.n_blk[0]);
    assert_int_equal(s->blk_free, c.kv.n_blk[0]);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_hit),
        cmocka_unit_test(test_never_fits),
        cmocka_unit_test(test_preempt),
        cmocka_unit_test(test_shared_prompt),
        cmocka_unit_test(test_cancel_leader),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_salt_and_no_cache),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_readmit),
        cmocka_unit_test(test_prompt_logprobs),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_queue_full),
        cmocka_unit_test(test_priority),
        cmocka_unit_test(test_no_allocation),
        cmocka_unit_test(test_protocol),
        cmocka_unit_test(test_hello),
        cmocka_unit_test(test_beat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

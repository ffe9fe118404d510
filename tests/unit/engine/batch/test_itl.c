/* The target for the time between two tokens, through the whole loop, by a clock that the rank moves on. */
#include "comm/base/clock.h"
#include "tests/unit/engine/batch/invariants.h"
#include "tests/unit/engine/batch/rig.h"

enum { STEP_US = 2000, ROW_US = 1000, TARGET_US = 60000, MAX_ROW = 128, N_PROMPT = 200, N_TOK = 40 };

static void open_timed(struct rig *r, bool times_chunks, double target_us)
{
    struct sk_loop_conf c = rig_conf();
    c.max_row = MAX_ROW;
    c.max_len = PRETEND_MAX_LEN;
    c.kv.n_blk[0] = PRETEND_MAX_BLK;
    c.times_chunks = times_chunks;
    c.itl_target_us = target_us;
    sk_clock_set(1000000);
    rig_open(r, &c);
    pretend_slow(r->crew, STEP_US);
    pretend_slow_rows(r->crew, ROW_US);
}

static void close_timed(struct rig *r)
{
    rig_run(r);
    rig_close(r);
    sk_clock_set(0);
}

static uint32_t submit(struct rig *r, int32_t *prompt, uint32_t n_prompt, int32_t first)
{
    rig_ramp(prompt, n_prompt, first);
    struct front_req q = rig_greedy(prompt, n_prompt, N_TOK);
    q.params.flags |= SK_PARAMS_NO_CACHE;
    return front_submit(&r->front, &q);
}

static uint64_t step(struct rig *r)
{
    uint64_t begin = sk_clock_us();
    assert_true(front_step(&r->front));
    invariants_check(r->loop);
    return sk_clock_us() - begin;
}

/* A stream has its next token within the target whatever prompts come, and these go on as fast as that allows. */
static void test_streams_go_on(void **unused)
{
    struct rig r;
    int32_t tok[N_PROMPT];
    open_timed(&r, true, TARGET_US);
    uint32_t stream = submit(&r, tok, 8, 1);
    step(&r);
    step(&r); /* what each kind of row takes is known now */
    for (int32_t i = 0; i < 4; i++)
        submit(&r, tok, N_PROMPT, 2 + i);
    for (uint32_t n = r.front.seqs[stream].n_item; r.loop->stats.prompt_tok < 8 + 4 * N_PROMPT; n++) {
        uint64_t prompt_tok = r.loop->stats.prompt_tok, us = step(&r);
        assert_int_equal(r.front.seqs[stream].n_item, n + 1);
        assert_true(us <= TARGET_US);
        if (r.loop->stats.prompt_tok < 8 + 4 * N_PROMPT) /* little of the time was left */
            assert_true(us > TARGET_US * 3 / 4 && r.loop->stats.prompt_tok > prompt_tok);
    }
    close_timed(&r);
}

/* Nobody waits for a token: whole steps. */
static void test_nobody_waits(void **unused)
{
    struct rig r;
    int32_t tok[N_PROMPT];
    open_timed(&r, true, TARGET_US);
    submit(&r, tok, N_PROMPT, 1);
    for (int i = 0; i < 3; i++)
        submit(&r, tok, N_PROMPT, 2 + i);
    assert_int_equal(step(&r), STEP_US + MAX_ROW * ROW_US);
    close_timed(&r);
}

static void test_no_target(void **unused)
{
    struct rig r;
    int32_t tok[N_PROMPT];
    open_timed(&r, false, TARGET_US);
    submit(&r, tok, 8, 1);
    step(&r);
    submit(&r, tok, N_PROMPT, 2);
    assert_int_equal(step(&r), STEP_US + MAX_ROW * ROW_US);
    close_timed(&r);
}

/* A target that cannot be kept: prompts go on by the least chunk. */
static void test_hopeless(void **unused)
{
    struct rig r;
    int32_t tok[N_PROMPT];
    open_timed(&r, true, 1);
    submit(&r, tok, 8, 1);
    step(&r);
    submit(&r, tok, N_PROMPT, 2);
    for (uint32_t n = 8; n < 8 + N_PROMPT / SK_SCHED_LEAST_CHUNK * SK_SCHED_LEAST_CHUNK;) {
        step(&r);
        n += SK_SCHED_LEAST_CHUNK;
        assert_int_equal(r.loop->stats.prompt_tok, n);
    }
    close_timed(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams_go_on),
        cmocka_unit_test(test_nobody_waits),
        cmocka_unit_test(test_no_target),
        cmocka_unit_test(test_hopeless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

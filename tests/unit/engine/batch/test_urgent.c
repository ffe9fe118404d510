/* Urgent sequences through the whole loop: soon at their first token, without holding up the others. */
#include "tests/unit/engine/batch/invariants.h"
#include "tests/unit/engine/batch/rig.h"

enum { N_TOK = 30, N_PROMPT = 70 };

static struct front_req next_req(int32_t *prompt, uint32_t n_prompt, int32_t i, bool urgent)
{
    rig_ramp(prompt, n_prompt, i);
    struct front_req q = rig_greedy(prompt, n_prompt, N_TOK);
    q.params.flags |= SK_PARAMS_NO_CACHE;
    q.urgent = urgent;
    return q;
}

static uint32_t step_until(struct rig *r, uint32_t seq, uint32_t n_item)
{
    uint32_t n = 0;
    for (; r->front.seqs[seq].n_item < n_item; n++) {
        assert_true(front_step(&r->front));
        invariants_check(r->loop);
    }
    return n;
}

/* Behind prompts that would fill many steps, its own has every other one; from its first token on it is as any. */
static void test_first_token(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t p[N_PROMPT];
    c.kv.n_blk[0] = 256;
    rig_open(&r, &c);
    for (int32_t i = 0; i < 6; i++) {
        struct front_req q = next_req(p, N_PROMPT, i, false);
        front_submit(&r.front, &q);
    }
    front_step(&r.front);
    struct front_req q = next_req(p, N_PROMPT, 6, true);
    uint32_t i = front_submit(&r.front, &q), n_own = (N_PROMPT + c.max_row - 1) / c.max_row;
    assert_int_equal(step_until(&r, i, 1), 2 * n_own - 1);
    assert_true(step_until(&r, i, N_TOK) <= N_TOK);
    rig_expect(&r, i, &q);
    rig_run(&r);
    rig_close(&r);
}

/* However many urgent ones come, the others have every other step. */
static void test_no_starving(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t p[N_PROMPT], first[10];
    c.kv.n_blk[0] = 256;
    rig_open(&r, &c);
    struct front_req one = next_req(first, 10, 1, false);
    uint32_t is = front_submit(&r.front, &one), n = 0;
    for (int32_t i = 0; r.front.seqs[is].finish == SK_FINISH_NONE; i++, n++) {
        struct front_req q = next_req(p, N_PROMPT, i % 50, true);
        if (r.front.n_open < 40)
            front_submit(&r.front, &q);
        assert_true(front_step(&r.front));
        invariants_check(r.loop);
    }
    assert_true(n <= 2 * N_TOK);
    rig_expect(&r, is, &one);
    rig_run(&r);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_token),
        cmocka_unit_test(test_no_starving),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

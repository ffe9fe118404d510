#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "tests/unit/engine/driver.h"
#include "tests/unit/engine/fixture.h"

/* Two groups: layer 0 sees all, layer 1 the last 40 positions. */
struct env {
    struct fixture f;
    struct sk_backend *be;
    struct sk_rank *rank;
    struct driver d;
    uint32_t n_embed; /* steps that reached the decoder */
    void (*embed)(struct sk_backend *be, const struct sk_op_embed *op);
};
static struct env e;

static void counting_embed(struct sk_backend *be, const struct sk_op_embed *op)
{
    e.n_embed++;
    e.embed(be, op);
}

static int setup(void **state)
{
    static const struct sk_rank_conf conf = {
        .max_slot = 4, .max_len = 256, .max_row = 64, .max_result = 64, .kv_bytes = 2 << 20, .kv_dtype = SK_F32};
    struct sk_desc desc;
    struct sk_err err;
    fixture_desc(&desc);
    desc.layers[1].window = 40;
    fixture_open(&e.f, &desc, SK_F32, 3);
    sk_assert(sk_ref_open(&(struct sk_backend_conf){.n_thread = 1}, &e.be, &err) == 0);
    sk_assert(sk_rank_open(&e.f.dir, &e.f.w, e.be, NULL, &conf, &e.rank, &err) == 0);
    driver_init(&e.d, e.rank);
    e.embed = e.be->embed;
    e.be->embed = counting_embed;

    /* What the plans below start from: slot 1 has a prompt of 64, all computed, and a drawn token; slot 0 is free. */
    int32_t prompt[64];
    for (int i = 0; i < 64; i++)
        prompt[i] = i;
    driver_begin(&e.d);
    driver_open(&e.d, 1, prompt, 64, 96, NULL, NULL);
    driver_run(&e.d, 1, 0, 64, SK_RUN_SAMPLE);
    driver_go(&e.d, NULL);
    driver_begin(&e.d);
    e.n_embed = 0;
    return 0;
}

static int teardown(void **state)
{
    driver_done(&e.d);
    sk_rank_close(e.rank);
    e.be->close(e.be);
    fixture_close(&e.f);
    return 0;
}

static void refused(const char *why)
{
    struct sk_err err = {0};
    assert_int_equal(driver_try(&e.d, &err), -SK_EPROTO);
    if (!strstr(err.msg, why))
        print_error("%s\n", err.msg);
    assert_non_null(strstr(err.msg, why));
    assert_int_equal(e.n_embed, 0); /* nothing ran ... */
    driver_begin(&e.d);
    driver_run(&e.d, 1, 64, 1, SK_RUN_SAMPLE); /* ... and nothing changed: the slot goes on where it was */
    driver_go(&e.d, NULL);
    assert_int_equal(e.n_embed, 1);
}

static uint32_t windowed(void)
{
    return e.f.dir.desc.layer_group[1];
}

static void put_open(uint32_t slot, uint32_t n_prompt)
{
    struct sk_plan_open o = {.slot = slot, .n_prompt = n_prompt};
    sk_params_default(&o.params);
    e.d.n_prompt[slot] = n_prompt;
    sk_plan_put_open(&e.d.plan, &o, NULL);
}

static void open_slot_is_not_opened(void **state)
{
    put_open(1, 4);
    refused("slot is open");
}

static void closed_slot_takes_nothing(void **state)
{
    const int32_t x = 1;
    sk_plan_put_append(&e.d.plan, 0, 0, &x, 1);
    refused("not open");
    sk_plan_begin(&e.d.plan, 9);
    e.n_embed = 0;
    e.d.n_row = e.d.n_result = 0;
    sk_plan_put_close(&e.d.plan, 2);
    struct sk_err err;
    assert_int_equal(driver_try(&e.d, &err), -SK_EPROTO);
}

static void a_later_record_undoes_the_earlier_ones(void **state)
{
    const int32_t tok[2] = {1, 2};
    put_open(0, 2);
    sk_plan_put_tok(&e.d.plan, 0, 0, tok, 2);
    sk_plan_put_tok(&e.d.plan, 1, 70, tok, 1); /* known: 65 */
    refused("gap");
    driver_begin(&e.d);
    put_open(0, 2); /* was not opened by the refused plan */
    driver_go(&e.d, NULL);
}

static void tokens_must_be_known(void **state)
{
    driver_run(&e.d, 1, 65, 1, 0);
    refused("not known");
}

static void a_plan_does_not_read_what_it_draws(void **state)
{
    driver_run(&e.d, 1, 64, 1, SK_RUN_SAMPLE);
    driver_run(&e.d, 1, 65, 1, SK_RUN_SAMPLE);
    refused("not known");
}

static void a_run_is_of_one_class(void **state)
{
    driver_run(&e.d, 1, 60, 5, 0);
    refused("both classes");
}

static void prompt_runs_come_first(void **state)
{
    driver_run(&e.d, 1, 64, 1, 0);
    driver_run(&e.d, 1, 60, 2, 0);
    refused("prompt-class run after");
}

static void no_prompt_token_is_drawn(void **state)
{
    driver_run(&e.d, 1, 10, 5, SK_RUN_SAMPLE);
    refused("would be drawn");
}

static void targets_must_be_known(void **state)
{
    const int32_t tok[4] = {1, 2, 3, 4}, blk = 0;
    put_open(0, 8);
    sk_plan_put_append(&e.d.plan, 0, 0, &blk, 1);
    sk_plan_put_append(&e.d.plan, 0, 1, &blk, 1);
    sk_plan_put_tok(&e.d.plan, 0, 0, tok, 4);
    driver_run(&e.d, 0, 0, 4, SK_RUN_PROMPT_LOGPROBS);
    refused("log-prob is wanted");
}

static void positions_need_blocks(void **state)
{
    const int32_t tok[40] = {0}, blk[2] = {0, 1};
    put_open(0, 40);
    sk_plan_put_append(&e.d.plan, 0, 0, blk, 2);
    sk_plan_put_append(&e.d.plan, 0, 1, blk, 1);
    sk_plan_put_tok(&e.d.plan, 0, 0, tok, 40);
    driver_run(&e.d, 0, 0, 33, 0);
    refused("no block");
}

static void a_window_needs_its_blocks(void **state)
{
    sk_plan_put_drop(&e.d.plan, 1, windowed(), 1);
    driver_run(&e.d, 1, 64, 1, 0); /* looks back to 25 */
    refused("no block");
}

static void dropping_behind_the_window_is_fine(void **state)
{
    for (uint32_t pos = 64; pos < 80; pos++) {
        driver_begin(&e.d);
        if (pos == 71) /* looks back to 32 */
            sk_plan_put_drop(&e.d.plan, 1, windowed(), 1);
        driver_run(&e.d, 1, pos, 1, SK_RUN_SAMPLE);
        driver_go(&e.d, NULL);
    }
    driver_begin(&e.d);
    e.n_embed = 0;
    struct sk_err err;
    sk_plan_put_drop(&e.d.plan, 1, windowed(), 3); /* two are left */
    assert_int_equal(driver_try(&e.d, &err), -SK_EPROTO);
}

static void tables_have_an_end(void **state)
{
    int32_t blk[6] = {0};
    sk_plan_put_append(&e.d.plan, 1, 0, blk, 6); /* 3 + 6 > 256 / 32 */
    refused("longest sequence");
}

static void trim_gives_back_and_forgets(void **state)
{
    struct sk_err err;
    sk_plan_put_trim(&e.d.plan, 1, 33);
    driver_go(&e.d, NULL);
    driver_begin(&e.d);
    driver_run(&e.d, 1, 33, 1, 0);
    assert_int_equal(driver_try(&e.d, &err), -SK_EPROTO); /* token 33 is forgotten */
    driver_begin(&e.d);
    sk_plan_put_trim(&e.d.plan, 1, 34);
    assert_int_equal(driver_try(&e.d, &err), -SK_EPROTO);
    const int32_t tok[40] = {0};
    driver_begin(&e.d);
    sk_plan_put_tok(&e.d.plan, 1, 33, tok, 31);
    driver_run(&e.d, 1, 33, 31, 0); /* block 1 was kept */
    driver_go(&e.d, NULL);
    driver_begin(&e.d);
    sk_plan_put_tok(&e.d.plan, 1, 64, tok, 1);
    driver_run(&e.d, 1, 64, 1, 0);
    assert_int_equal(driver_try(&e.d, &err), -SK_EPROTO); /* block 2 was given back */
}

static void drafts_are_of_an_answer(void **state)
{
    const int32_t draft[3] = {1, 2, 3};
    sk_plan_put_tok(&e.d.plan, 1, 63, draft, 1);
    driver_draft(&e.d, 1, 62, 1);
    refused("a prompt has no drafts");
}

static void drafts_are_known_before_they_run(void **state)
{
    const int32_t draft[3] = {1, 2, 3};
    sk_plan_put_tok(&e.d.plan, 1, 65, draft, 2);
    driver_draft(&e.d, 1, 64, 3);
    refused("not known");
}

/* After the run the slot has all drafts and the last draw; the trim says which it keeps. */
static void drafts_are_trimmed(void **state)
{
    const int32_t draft[3] = {1, 2, 3};
    struct sk_err err;
    sk_plan_put_tok(&e.d.plan, 1, 65, draft, 3);
    driver_draft(&e.d, 1, 64, 3);
    uint32_t n;
    driver_go(&e.d, &n);
    assert_int_equal(n, 4);
    driver_begin(&e.d);
    sk_plan_put_trim(&e.d.plan, 1, 70);
    assert_int_equal(driver_try(&e.d, &err), -SK_EPROTO); /* it knows 69 tokens */
    driver_begin(&e.d);
    sk_plan_put_trim(&e.d.plan, 1, 67);
    driver_run(&e.d, 1, 66, 1, SK_RUN_SAMPLE);
    driver_go(&e.d, NULL);
}

static void results_are_counted(void **state)
{
    driver_run(&e.d, 1, 64, 1, SK_RUN_SAMPLE);
    e.d.n_result = 2;
    refused("result rows");
}

static void a_slot_is_used_again(void **state)
{
    const int32_t tok[2] = {1, 2};
    sk_plan_put_close(&e.d.plan, 1);
    put_open(1, 2);
    sk_plan_put_tok(&e.d.plan, 1, 0, tok, 2);
    driver_go(&e.d, NULL);
    driver_begin(&e.d);
    struct sk_err err;
    driver_run(&e.d, 1, 0, 2, 0); /* its blocks went with the old sequence */
    assert_int_equal(driver_try(&e.d, &err), -SK_EPROTO);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(open_slot_is_not_opened),
        CASE(closed_slot_takes_nothing),
        CASE(a_later_record_undoes_the_earlier_ones),
        CASE(tokens_must_be_known),
        CASE(a_plan_does_not_read_what_it_draws),
        CASE(a_run_is_of_one_class),
        CASE(prompt_runs_come_first),
        CASE(no_prompt_token_is_drawn),
        CASE(targets_must_be_known),
        CASE(positions_need_blocks),
        CASE(a_window_needs_its_blocks),
        CASE(dropping_behind_the_window_is_fine),
        CASE(tables_have_an_end),
        CASE(trim_gives_back_and_forgets),
        CASE(drafts_are_of_an_answer),
        CASE(drafts_are_known_before_they_run),
        CASE(drafts_are_trimmed),
        CASE(results_are_counted),
        CASE(a_slot_is_used_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

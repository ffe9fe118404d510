#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/model/sample.h"

static struct sk_slot slot[3];
static const struct sk_slots slots = {.max_slot = 3, .max_len = 64, .slot = slot, .n_eos = 2};

static struct sk_samp draw(const struct sk_params *p, uint32_t pos, uint32_t want)
{
    struct sk_samp s;
    slot[2] =
        (struct sk_slot){.open = true, .n_prompt = 10, .choice = 4, .n_bad_word = p->n_bad_word ? 2 : 0, .params = *p};
    sk_sample_fill_draw(&slots, 2, pos, want, &s);
    return s;
}

static void nothing_to_process_is_the_fast_path(void **state)
{
    struct sk_params p;
    sk_params_default(&p);
    p.seed = 0x123456789abcdefull;
    p.top_k = 40;
    p.top_p = 0.9f;
    p.n_logprobs = 7;
    struct sk_samp s = draw(&p, 10, 0);
    assert_int_equal(s.flags, SK_SAMP_LOGPROB);
    assert_true(s.slot == 2 && s.pos == 10 && s.n_prompt == 10 && s.choice == 4 && s.n_top == 7);
    assert_true(s.seed == p.seed && s.temperature == 1 && s.top_k == 40 && s.top_p == 0.9f);
    assert_int_equal(s.n_suppress, 0);
}

static void greedy_switches_the_filters_off(void **state)
{
    struct sk_params p;
    sk_params_default(&p);
    p.temperature = 0;
    p.top_k = 40;
    p.top_p = p.typical_p = 0.9f;
    p.min_p = p.eta_cutoff = p.epsilon_cutoff = 0.1f;
    p.repetition_penalty = 1.2f;
    struct sk_samp s = draw(&p, 10, 0);
    assert_int_equal(s.flags, SK_SAMP_GREEDY | SK_SAMP_PROCESS);
    assert_true(s.temperature == 1 && s.top_k == 0 && s.top_p == 1 && s.typical_p == 1 && s.min_p == 0 &&
                s.eta_cutoff == 0 && s.epsilon_cutoff == 0);
    assert_true(s.repetition_penalty == 1.2f);
    assert_int_equal(s.n_top, 0);
}

static void each_change_of_logits_is_processed(void **state)
{
    struct sk_params p;
    sk_params_default(&p);
    p.presence_penalty = 0.5f;
    assert_int_equal(draw(&p, 10, 0).flags, 0); /* nothing is generated yet */
    assert_int_equal(draw(&p, 11, 0).flags, SK_SAMP_PROCESS);
    sk_params_default(&p);
    p.frequency_penalty = -0.5f;
    assert_int_equal(draw(&p, 11, 0).flags, SK_SAMP_PROCESS);
    sk_params_default(&p);
    p.no_repeat_ngram = 2;
    assert_int_equal(draw(&p, 10, 0).flags, SK_SAMP_PROCESS);
    sk_params_default(&p);
    p.n_bias = 1;
    assert_int_equal(draw(&p, 10, 0).flags, SK_SAMP_PROCESS);
    sk_params_default(&p);
    p.n_allowed = 1;
    assert_int_equal(draw(&p, 10, 0).flags, SK_SAMP_PROCESS);
    sk_params_default(&p);
    p.n_bad_word = 5;
    struct sk_samp s = draw(&p, 10, 0);
    assert_int_equal(s.flags, SK_SAMP_PROCESS);
    assert_int_equal(s.n_bad_word, 2); /* entries, not words of the list */
}

static void min_tokens_moves_the_list_back_over_what_ends(void **state)
{
    struct sk_params p;
    sk_params_default(&p);
    p.n_stop_ids = 3;
    p.n_bias = 1;
    struct sk_samp s = draw(&p, 10, SK_RUN_SAMPLE | SK_RUN_MIN_TOKENS);
    assert_int_equal(s.n_suppress, 5); /* 2 EOS, 3 stop ids */
    assert_int_equal(s.list, 2 * SK_SLOT_LIST);
    s = draw(&p, 10, SK_RUN_SAMPLE);
    assert_int_equal(s.n_suppress, 0);
    assert_int_equal(s.list, 2 * SK_SLOT_LIST + 5);
    assert_int_equal(s.n_bias, 1);
}

static void targets_are_of_raw_logits(void **state)
{
    struct sk_params p;
    struct sk_samp s;
    sk_params_default(&p);
    p.temperature = 0.3f;
    p.repetition_penalty = 2;
    p.n_bias = 1;
    p.n_prompt_logprobs = 4;
    draw(&p, 10, 0);
    sk_sample_fill_target(&slots, 2, 5, &s);
    assert_int_equal(s.flags, SK_SAMP_TARGET | SK_SAMP_LOGPROB);
    assert_true(s.slot == 2 && s.pos == 5 && s.n_top == 4 && s.temperature == 1 && s.repetition_penalty == 1 &&
                s.n_bias == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_to_process_is_the_fast_path),
        cmocka_unit_test(greedy_switches_the_filters_off),
        cmocka_unit_test(each_change_of_logits_is_processed),
        cmocka_unit_test(min_tokens_moves_the_list_back_over_what_ends),
        cmocka_unit_test(targets_are_of_raw_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* JSON -> struct sk_params. The refusals of all fields are tests/e2e/test_bad_input.py; here is what becomes of what is
 * accepted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "comm/base/json.h"
#include "server/api/params.h"
#include "tests/unit/server/api/fixture.h"

static struct sk_vocab *vocab;
static struct sk_token *token;
static struct sk_conf conf;
static struct sk_gen_defaults gen;
static struct sk_arena arena;
static struct sk_api_rules rules;

static int parse(enum sk_api_kind kind, const char *json, struct sk_api_params *ret, struct sk_err *err)
{
    struct cJSON *body = NULL;
    assert_int_equal(sk_json_parse(json, strlen(json), 1 << 20, &body, err), 0);
    int rc = sk_api_params_parse(kind, body, &rules, &arena, ret, err);
    sk_json_free(body);
    return rc;
}

static struct sk_api_params accepted(enum sk_api_kind kind, const char *json)
{
    struct sk_api_params p = {0};
    struct sk_params fitted;
    struct sk_err err = {0};
    if (parse(kind, json, &p, &err) != 0)
        fail_msg("%s: %s", json, err.msg);
    assert_int_equal(sk_api_params_fit(&p, kind, &rules, 3, &fitted, &err), 0);
    assert_int_equal(sk_params_check(&fitted, p.list, sk_params_list_len(&fitted), N_VOCAB), 0);
    return p;
}

static void refused(enum sk_api_kind kind, const char *json, int code, const char *param)
{
    struct sk_api_params p;
    struct sk_err err = {0};
    assert_int_equal(parse(kind, json, &p, &err), -code);
    assert_string_equal(err.param, param);
    assert_true(err.msg[0]);
}

static void assert_float(float have, float want)
{
    if (have != want)
        fail_msg("%.9g is not %.9g", (double)have, (double)want);
}

static void test_nothing_said(void **state)
{
    struct sk_api_params p = accepted(SK_API_COMPLETION, "{}");
    struct sk_params neutral;
    sk_params_default(&neutral);
    neutral.seed = p.wire.seed;
    assert_memory_equal(&p.wire, &neutral, sizeof neutral);
    assert_true(p.wire.seed != accepted(SK_API_COMPLETION, "{}").wire.seed);
    assert_int_equal(p.n, 1);
    assert_int_equal(p.max_tokens, -1);
    assert_int_equal(p.n_top, -1);
    assert_int_equal(p.n_prompt_top, -1);
    assert_int_equal(p.stream_interval, 1);
    assert_true(p.skip_special && p.add_special);
    assert_false(p.stream || p.echo || p.token_ids || p.tokens_as_ids || p.include_usage || p.stop.include);
    assert_false(accepted(SK_API_CHAT, "{}").add_special);
}

static void test_null_is_absent(void **state)
{
    struct sk_api_params p = accepted(
        SK_API_COMPLETION,
        "{\"temperature\":null,\"top_p\":null,\"n\":null,\"stop\":null,\"seed\":null,\"logprobs\":null,"
        "\"logit_bias\":null,\"stream\":null,\"stream_options\":null,\"max_tokens\":null,\"best_of\":null,"
        "\"response_format\":null,\"bad_words\":null,\"suffix\":null,\"guided_json\":null,\"cache_salt\":null}");
    assert_float(p.wire.temperature, 1);
    assert_int_equal(p.max_tokens, -1);
}

static void test_numbers(void **state)
{
    struct sk_api_params p =
        accepted(SK_API_COMPLETION, "{\"temperature\":0.7,\"top_p\":0.9,\"min_p\":0.05,\"typical_p\":0.8,\"eta_"
                                    "cutoff\":0.001,\"epsilon_cutoff\":0.002,\"top_k\":40,"
                                    "\"repetition_penalty\":1.1,\"presence_penalty\":-2,\"frequency_penalty\":2,\"no_"
                                    "repeat_ngram_size\":3,\"min_tokens\":2,\"priority\":-5,"
                                    "\"seed\":42,\"ignore_eos\":true,\"n\":3,\"best_of\":3}");
    assert_float(p.wire.temperature, 0.7f);
    assert_float(p.wire.top_p, 0.9f);
    assert_float(p.wire.min_p, 0.05f);
    assert_float(p.wire.typical_p, 0.8f);
    assert_float(p.wire.eta_cutoff, 0.001f);
    assert_float(p.wire.epsilon_cutoff, 0.002f);
    assert_float(p.wire.repetition_penalty, 1.1f);
    assert_float(p.wire.presence_penalty, -2);
    assert_float(p.wire.frequency_penalty, 2);
    assert_int_equal(p.wire.top_k, 40);
    assert_int_equal(p.wire.no_repeat_ngram, 3);
    assert_int_equal(p.wire.min_tokens, 2);
    assert_int_equal(p.wire.priority, -5);
    assert_int_equal(p.wire.seed, 42);
    assert_int_equal(p.wire.flags, SK_PARAMS_IGNORE_EOS);
    assert_int_equal(p.n, 3);
    assert_int_equal(accepted(SK_API_COMPLETION, "{\"top_k\":-1}").wire.top_k, 0);
}

static void test_greedy(void **state)
{
    struct sk_api_params p =
        accepted(SK_API_COMPLETION,
                 "{\"temperature\":1e-6,\"top_p\":0.5,\"top_k\":5,\"min_p\":0.5,\"typical_p\":0.5,\"eta_cutoff\":0.1}");
    assert_float(p.wire.temperature, 0);
    assert_float(p.wire.top_p, 1);
    assert_float(p.wire.typical_p, 1);
    assert_float(p.wire.min_p, 0);
    assert_float(p.wire.eta_cutoff, 0);
    assert_int_equal(p.wire.top_k, 0);
    assert_float(accepted(SK_API_COMPLETION, "{\"temperature\":0.001}").wire.temperature, 0.01f);
    refused(SK_API_COMPLETION, "{\"temperature\":0,\"n\":2}", SK_EINVAL, "n");
}

static void test_seed(void **state)
{
    assert_true(accepted(SK_API_COMPLETION, "{\"seed\":0}").wire.seed == 0);
    assert_true(accepted(SK_API_COMPLETION, "{\"seed\":-7}").wire.seed == (uint64_t)-7);
    assert_true(accepted(SK_API_COMPLETION, "{\"seed\":9223372036854775807}").wire.seed == INT64_MAX);
    assert_true(accepted(SK_API_COMPLETION, "{\"seed\":9007199254740993}").wire.seed == 9007199254740993);
    assert_true(accepted(SK_API_COMPLETION, "{\"seed\":-9223372036854775808}").wire.seed == (uint64_t)INT64_MIN);
    assert_true(accepted(SK_API_COMPLETION, "{\"seed\":-1}").wire.seed != (uint64_t)-1);
    refused(SK_API_COMPLETION, "{\"seed\":9223372036854775808}", SK_ERANGE, "seed");
    refused(SK_API_COMPLETION, "{\"seed\":9323372036854775807}", SK_ERANGE, "seed");
}

static void test_model_defaults(void **state)
{
    gen = (struct sk_gen_defaults){.temperature = 0.6f,
                                   .top_p = 0.95f,
                                   .min_p = 9, /* out of range: a file's mistake is not the caller's */
                                   .typical_p = 0.0f / 0.0f,
                                   .repetition_penalty = 1.2f,
                                   .eta_cutoff = 0.0f / 0.0f,
                                   .epsilon_cutoff = 0.0f / 0.0f,
                                   .top_k = 20,
                                   .no_repeat_ngram = -1,
                                   .do_sample = 1};
    rules.gen = &gen;
    struct sk_api_params p = accepted(SK_API_CHAT, "{\"top_p\":0.5}");
    assert_float(p.wire.temperature, 0.6f);
    assert_float(p.wire.top_p, 0.5f);
    assert_float(p.wire.min_p, 0);
    assert_float(p.wire.typical_p, 1);
    assert_float(p.wire.repetition_penalty, 1.2f);
    assert_int_equal(p.wire.top_k, 20);
    gen.do_sample = 0;
    assert_float(accepted(SK_API_CHAT, "{}").wire.temperature, 0);
    assert_float(accepted(SK_API_CHAT, "{\"temperature\":0.3}").wire.temperature, 0.3f);
    rules.gen = NULL;
    assert_float(accepted(SK_API_CHAT, "{}").wire.repetition_penalty, 1);
}

static void test_logprobs(void **state)
{
    struct sk_api_params p = accepted(SK_API_COMPLETION, "{\"logprobs\":3}");
    assert_int_equal(p.wire.n_logprobs, 3);
    assert_int_equal(p.wire.n_prompt_logprobs, -1);
    p = accepted(SK_API_COMPLETION, "{\"logprobs\":3,\"echo\":true,\"prompt_logprobs\":1}");
    assert_int_equal(p.wire.n_prompt_logprobs, 3);
    assert_int_equal(p.n_prompt_top, 1);
    assert_int_equal(p.wire.flags, SK_PARAMS_NO_CACHE);
    p = accepted(SK_API_CHAT, "{\"logprobs\":true}");
    assert_int_equal(p.wire.n_logprobs, 0);
    p = accepted(SK_API_CHAT, "{\"logprobs\":true,\"top_logprobs\":20}");
    assert_int_equal(p.wire.n_logprobs, 20);
    assert_int_equal(accepted(SK_API_CHAT, "{\"logprobs\":false,\"top_logprobs\":0}").n_top, -1);
    refused(SK_API_CHAT, "{\"top_logprobs\":1}", SK_EINVAL, "top_logprobs");
    p = accepted(SK_API_COMPLETION, "{\"echo\":true,\"max_tokens\":0}");
    assert_int_equal(p.wire.n_prompt_logprobs, 0);
    assert_int_equal(p.n_prompt_top, -1);
}

static void test_stop(void **state)
{
    struct sk_api_params p = accepted(SK_API_COMPLETION, "{\"stop\":\"ab\",\"include_stop_str_in_output\":true}");
    assert_int_equal(p.stop.n, 1);
    assert_string_equal(p.stop.str[0], "ab");
    assert_true(p.stop.include);
    p = accepted(SK_API_COMPLETION, "{\"stop\":[\"a\",\"\xC3\xA9\"]}");
    assert_int_equal(p.stop.n, 2);
    assert_int_equal(p.stop.len[1], 2);
    assert_int_equal(accepted(SK_API_COMPLETION, "{\"stop\":[]}").stop.n, 0);
}

static void test_list(void **state)
{
    struct sk_api_params p = accepted(SK_API_COMPLETION, "{\"bad_words\":[\"x\"],\"allowed_token_ids\":[7,8],\"logit_"
                                                         "bias\":{\"5\":1.5,\"6\":-100},\"stop_token_ids\":[9]}");
    assert_int_equal(p.wire.n_stop_ids, 1);
    assert_int_equal(p.wire.n_bias, 2);
    assert_int_equal(p.wire.n_allowed, 2);
    float bias[2];
    memcpy(bias, p.list + 3, sizeof bias);
    assert_int_equal(p.list[0], 9);
    assert_int_equal(p.list[1], 5);
    assert_int_equal(p.list[2], 6);
    assert_float(bias[0], 1.5f);
    assert_float(bias[1], -100);
    assert_int_equal(p.list[5], 7);
    assert_int_equal(p.list[6], 8);
    assert_true(p.wire.n_bad_word >= 2);
}

/* " ca" is one token of this vocabulary, "ca" is two: the two forms have different lengths, so that only the bare one
 * counts. "he" and " he" ... */
static void test_bad_words(void **state)
{
    struct sk_err err;
    int32_t *bare, *spaced;
    size_t n_bare, n_spaced, n_both = 0, n_one = 0;
    for (char c = 'A'; c <= 'z'; c++) {
        char text[] = {' ', c, '\0'}, json[40];
        if (c > 'Z' && c < 'a')
            continue;
        snprintf(json, sizeof json, "{\"bad_words\":[\"  %c\"]}", c);
        assert_int_equal(sk_token_encode(token, text + 1, 1, SK_TOKEN_SPECIALS, false, 10, &bare, &n_bare, &err), 0);
        assert_int_equal(sk_token_encode(token, text, 2, SK_TOKEN_SPECIALS, false, 10, &spaced, &n_spaced, &err), 0);
        struct sk_api_params p = accepted(SK_API_COMPLETION, json);
        bool both = n_spaced == n_bare && spaced[0] != bare[0];
        assert_int_equal(p.wire.n_bad_word, both ? 2 + 2 * n_bare : 1 + n_bare);
        assert_int_equal(p.list[0], n_bare);
        assert_int_equal(p.list[1], bare[0]);
        if (both)
            assert_int_equal(p.list[1 + n_bare + 1], spaced[0]);
        n_both += both;
        n_one += !both;
        sk_free(bare);
        sk_free(spaced);
    }
    assert_true(n_both > 0 && n_one > 0); /* else the test says nothing */
}

static void test_list_is_bounded(void **state)
{
    static char json[1 << 16];
    size_t n = (size_t)sprintf(json, "{\"stop_token_ids\":[1");
    for (int i = 1; i < SK_MAX_LIST; i++)
        n += (size_t)sprintf(json + n, ",1");
    sprintf(json + n, "]}");
    assert_int_equal(accepted(SK_API_COMPLETION, json).wire.n_stop_ids, SK_MAX_LIST);
    sprintf(json + n, "],\"logit_bias\":{\"1\":1}}");
    refused(SK_API_COMPLETION, json, SK_ERANGE, "logit_bias");
    sprintf(json + n, ",1]}");
    refused(SK_API_COMPLETION, json, SK_ERANGE, "stop_token_ids");
}

/* The tenant's tree, or a part of it; what is asked for never leads into another's. */
static void test_salt(void **state)
{
    assert_true(accepted(SK_API_COMPLETION, "{}").wire.salt == 0);
    uint64_t a = accepted(SK_API_COMPLETION, "{\"cache_salt\":\"a\"}").wire.salt;
    assert_true(a != 0);
    assert_true(a == accepted(SK_API_CHAT, "{\"cache_salt\":\"a\"}").wire.salt);
    assert_true(a != accepted(SK_API_COMPLETION, "{\"cache_salt\":\"b\"}").wire.salt);
    rules.salt = 7;
    assert_true(accepted(SK_API_COMPLETION, "{}").wire.salt == 7);
    uint64_t of_tenant = accepted(SK_API_CHAT, "{\"cache_salt\":\"a\"}").wire.salt;
    assert_true(of_tenant != a && of_tenant != 7);
    rules.salt = 0;
}

static void test_best_of(void **state)
{
    struct sk_api_params p = accepted(SK_API_COMPLETION, "{\"n\":2}");
    assert_int_equal(p.best_of, 2);
    assert_int_equal(p.wire.n_logprobs, -1);
    p = accepted(SK_API_COMPLETION, "{\"n\":2,\"best_of\":5}");
    assert_int_equal(p.n, 2);
    assert_int_equal(p.best_of, 5);
    assert_int_equal(p.wire.n_logprobs, 0); /* to choose by, */
    assert_int_equal(p.n_top, -1);          /* not to show */
    p = accepted(SK_API_COMPLETION, "{\"best_of\":5,\"logprobs\":3}");
    assert_int_equal(p.wire.n_logprobs, 3);
    p = accepted(SK_API_COMPLETION, "{\"best_of\":1,\"temperature\":0,\"stream\":true}");
    assert_int_equal(p.best_of, 1);
    accepted(SK_API_COMPLETION, "{\"n\":3,\"best_of\":3,\"stream\":true}");
    refused(SK_API_COMPLETION, "{\"best_of\":2,\"stream\":true}", SK_EINVAL, "best_of");
    refused(SK_API_COMPLETION, "{\"best_of\":2,\"temperature\":0}", SK_EINVAL, "best_of");
    refused(SK_API_COMPLETION, "{\"best_of\":2,\"n\":3}", SK_ERANGE, "best_of");
    refused(SK_API_COMPLETION, "{\"best_of\":129}", SK_ERANGE, "best_of");
    refused(SK_API_CHAT, "{\"best_of\":1}", SK_EUNSUP, "best_of");
    assert_int_equal(accepted(SK_API_CHAT, "{\"best_of\":null,\"n\":2}").best_of, 2);
}

static void test_deadlines(void **state)
{
    struct sk_api_params p = accepted(SK_API_CHAT, "{\"deadline_ms\":86400000,\"ttft_ms\":1}");
    assert_int_equal(p.deadline_ms, 86400000);
    assert_int_equal(p.ttft_ms, 1);
    p = accepted(SK_API_COMPLETION, "{\"deadline_ms\":null}");
    assert_true(p.deadline_ms == 0 && p.ttft_ms == 0);
    refused(SK_API_COMPLETION, "{\"deadline_ms\":0}", SK_ERANGE, "deadline_ms");
    refused(SK_API_COMPLETION, "{\"deadline_ms\":86400001}", SK_ERANGE, "deadline_ms");
    refused(SK_API_CHAT, "{\"ttft_ms\":-1}", SK_ERANGE, "ttft_ms");
    refused(SK_API_CHAT, "{\"ttft_ms\":\"5\"}", SK_ETYPE, "ttft_ms");
    assert_int_equal(accepted(SK_API_CHAT, "{\"priority\":-2147483648}").wire.priority, INT32_MIN);
    refused(SK_API_CHAT, "{\"priority\":2147483648}", SK_ERANGE, "priority");
}

static void test_bill(void **state)
{
    assert_true(accepted(SK_API_CHAT, "{\"usage_bill\":true}").bill);
    assert_true(
        accepted(SK_API_CHAT, "{\"usage_bill\":true,\"stream\":true,\"stream_options\":{\"include_usage\":true}}")
            .bill);
    assert_false(accepted(SK_API_CHAT, "{\"usage_bill\":false,\"stream\":true}").bill);
    refused(SK_API_CHAT, "{\"usage_bill\":true,\"stream\":true}", SK_EINVAL, "usage_bill");
    refused(SK_API_CHAT, "{\"usage_bill\":1}", SK_ETYPE, "usage_bill");
}

static void test_what_asks_for_nothing_passes(void **state)
{
    accepted(SK_API_COMPLETION,
             "{\"suffix\":\"\",\"use_beam_search\":false,\"guided_choice\":[],\"structured_outputs\":{},"
             "\"response_format\":{\"type\":\"text\"},\"best_of\":1,\"user\":5,\"no_such_field\":[]}");
    refused(SK_API_COMPLETION, "{\"logprob_token_ids\":[1]}", SK_EUNSUP, "logprob_token_ids");
    refused(SK_API_CHAT, "{\"thinking_token_budget\":0}", SK_EUNSUP, "thinking_token_budget");
}

static int fit(enum sk_api_kind kind, const char *json, size_t n_prompt, uint32_t *ret_max, struct sk_err *err)
{
    struct sk_api_params p;
    struct sk_params w = {0};
    assert_int_equal(parse(kind, json, &p, err), 0);
    int rc = sk_api_params_fit(&p, kind, &rules, n_prompt, &w, err);
    *ret_max = w.max_tokens;
    return rc;
}

static void test_fit(void **state)
{
    struct sk_err err = {0};
    uint32_t max;
    assert_int_equal(fit(SK_API_COMPLETION, "{}", 10, &max, &err), 0);
    assert_int_equal(max, 16);
    assert_int_equal(fit(SK_API_COMPLETION, "{}", MAX_LEN - 3, &max, &err), 0);
    assert_int_equal(max, 3);
    assert_int_equal(fit(SK_API_CHAT, "{}", 10, &max, &err), 0);
    assert_int_equal(max, MAX_LEN - 10);
    assert_int_equal(fit(SK_API_COMPLETION, "{}", MAX_LEN, &max, &err), -SK_ECTX);
    assert_int_equal(fit(SK_API_CHAT, "{\"max_tokens\":99,\"max_completion_tokens\":5}", 10, &max, &err), 0);
    assert_int_equal(max, 5);
    assert_int_equal(fit(SK_API_COMPLETION, "{\"max_tokens\":4}", MAX_LEN - 4, &max, &err), 0);
    assert_int_equal(fit(SK_API_COMPLETION, "{\"max_tokens\":5}", MAX_LEN - 4, &max, &err), -SK_ECTX);
    assert_string_equal(
        err.msg,
        "This model's maximum context length is 64 tokens. However, you requested 65 tokens (60 in the prompt, 5 in "
        "the completion). Please reduce the length of the prompt or completion.");
    assert_int_equal(fit(SK_API_COMPLETION, "{\"max_tokens\":0,\"echo\":true}", MAX_LEN, &max, &err), 0);
    assert_int_equal(max, 0);
    assert_int_equal(fit(SK_API_COMPLETION, "{\"min_tokens\":17}", 1, &max, &err), -SK_ERANGE);
    assert_string_equal(err.param, "min_tokens");
    conf.default_max_tokens = 9;
    assert_int_equal(fit(SK_API_CHAT, "{}", 10, &max, &err), 0);
    assert_int_equal(max, 9);
    conf.default_max_tokens = 0;
}

static void cut(const char *json, size_t n, size_t want_from, size_t want_n)
{
    struct sk_api_params p = accepted(SK_API_COMPLETION, json);
    size_t from, kept;
    sk_api_params_truncate(&p, MAX_LEN, n, &from, &kept);
    assert_int_equal(from, want_from);
    assert_int_equal(kept, want_n);
}

static void test_truncate(void **state)
{
    cut("{}", 100, 0, 100);
    cut("{\"truncate_prompt_tokens\":10}", 5, 0, 5);
    cut("{\"truncate_prompt_tokens\":10}", 100, 90, 10);
    cut("{\"truncate_prompt_tokens\":10,\"truncation_side\":\"right\"}", 100, 0, 10);
    cut("{\"truncate_prompt_tokens\":-1,\"max_tokens\":4}", 100, 40, 60);
    cut("{\"truncate_prompt_tokens\":-1}", 100, 37, 63);
}

static int set_up(void **state)
{
    struct sk_err err;
    sk_conf_defaults(&conf);
    vocab = fixture_vocab();
    assert_int_equal(sk_token_new(vocab, &token, &err), 0);
    sk_arena_init(&arena, 16 << 20);
    rules = (struct sk_api_rules){.conf = &conf, .token = token, .n_vocab = N_VOCAB, .max_len = MAX_LEN};
    return 0;
}

static int tear_down(void **state)
{
    sk_arena_done(&arena);
    sk_token_free(token);
    sk_vocab_close(vocab);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_said),
        cmocka_unit_test(test_null_is_absent),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_seed),
        cmocka_unit_test(test_model_defaults),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_bad_words),
        cmocka_unit_test(test_list_is_bounded),
        cmocka_unit_test(test_salt),
        cmocka_unit_test(test_best_of),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_bill),
        cmocka_unit_test(test_what_asks_for_nothing_passes),
        cmocka_unit_test(test_fit),
        cmocka_unit_test(test_truncate),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

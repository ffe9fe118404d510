#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "clients/bench/turn.h"
#include "clients/bench/scrape.h"
#include "comm/base/json.h"

static struct sk_load load_of(bool chat)
{
    struct sk_load l = {.chat = chat, .stream = true, .model = "m\"x", .prefixes = 1, .extra = "", .seed = 5};
    l.input = (struct sk_dist){.a = 6};
    l.output = (struct sk_dist){.a = 9};
    l.turns = (struct sk_dist){.a = 1};
    l.cancel_after = (struct sk_dist){.a = 3};
    return l;
}

/* The body of a conversation's next turn, parsed: it is valid JSON. */
static struct cJSON *ask(const struct sk_load *l, struct sk_talk *t, struct sk_ask *ret)
{
    struct sk_buf b;
    struct cJSON *v = NULL;
    struct sk_err err = {0};
    sk_buf_init(&b, SK_LOAD_MAX_BODY);
    assert_int_equal(sk_load_ask(l, t, &b, ret), 0);
    if (sk_json_parse(b.p, b.n, b.n, &v, &err))
        fail_msg("%s: %s", err.msg, b.p);
    sk_buf_done(&b);
    return v;
}

static int64_t int_at(const struct cJSON *v, const char *path)
{
    int64_t x = -1;
    sk_json_is_int(sk_json_at(v, path), &x);
    return x;
}

static size_t n_words(const char *s)
{
    size_t n = 0;
    for (; *s; s++)
        n += *s == ' ';
    return n;
}

static void test_completion(void **state)
{
    struct sk_load l = load_of(false);
    struct sk_talk t;
    struct sk_ask a;
    l.extra = "\"temperature\":0";
    l.ignore_eos = true;
    l.deadlines = 1;
    l.deadline_ms = 77;
    sk_load_talk(&l, 3, &t);
    struct cJSON *v = ask(&l, &t, &a);
    assert_string_equal(sk_json_str(sk_json_get(v, "model")), "m\"x");
    assert_int_equal(n_words(sk_json_str(sk_json_get(v, "prompt"))), 6);
    assert_int_equal(int_at(v, "max_tokens"), 9);
    assert_int_equal(int_at(v, "temperature"), 0);
    assert_int_equal(int_at(v, "deadline_ms"), 77);
    assert_true(sk_json_is_true(sk_json_at(v, "stream_options.include_usage")));
    assert_true(sk_json_is_true(sk_json_get(v, "ignore_eos")));
    assert_true(a.n_out == 9 && a.deadline_ms == 77 && a.cancel_after == 0);
    sk_json_free(v);
    sk_load_talk_done(&t);
}

static void test_reproducible(void **state)
{
    struct sk_load l = load_of(false);
    struct sk_buf b[3];
    for (uint64_t i = 0; i < 3; i++) {
        struct sk_talk t;
        struct sk_ask a;
        sk_buf_init(&b[i], SK_LOAD_MAX_BODY);
        sk_load_talk(&l, i / 2, &t); /* 0, 0, 1 */
        assert_int_equal(sk_load_ask(&l, &t, &b[i], &a), 0);
        sk_load_talk_done(&t);
    }
    assert_string_equal(b[0].p, b[1].p);
    assert_string_not_equal(b[0].p, b[2].p);
    for (int i = 0; i < 3; i++)
        sk_buf_done(&b[i]);
}

static void test_turns(void **state)
{
    struct sk_load l = load_of(true);
    struct sk_talk t;
    struct sk_ask a;
    l.turns = (struct sk_dist){.a = 3};
    l.prefix_words = 4;
    sk_load_talk(&l, 0, &t);
    assert_int_equal(t.n_turn, 3);
    for (size_t turn = 0; turn < 3; turn++) {
        struct cJSON *v = ask(&l, &t, &a);
        const struct cJSON *messages = sk_json_get(v, "messages");
        assert_int_equal(sk_json_len(messages), 2 + 2 * turn); /* system, turns so far, question */
        if (turn) {
            const struct cJSON *answer = sk_json_next(sk_json_next(sk_json_first(messages)));
            assert_string_equal(sk_json_str(sk_json_get(answer, "content")), "an \"answer\"\n");
        }
        assert_int_equal(int_at(v, "max_completion_tokens"), 9);
        sk_json_free(v);
        assert_int_equal(sk_load_answer(&l, &t, "an \\\"answer\\\"\\n", 15), 0);
    }
    sk_load_talk_done(&t);
}

static void test_prefixes(void **state)
{
    struct sk_load l = load_of(false);
    char seen[2][256] = {{0}};
    int n_seen = 0;
    l.prefixes = 2;
    l.prefix_words = 5;
    for (uint64_t i = 0; i < 20; i++) {
        struct sk_talk t;
        struct sk_ask a;
        sk_load_talk(&l, i, &t);
        struct cJSON *v = ask(&l, &t, &a);
        const char *s = sk_json_str(sk_json_get(v, "prompt")), *end = s;
        assert_int_equal(n_words(s), 11);
        for (int k = 0; k < 5; k++)
            end = strchr(end + 1, ' '); /* behind the fifth word */
        size_t n = (size_t)(end - s);
        int known = 0;
        for (int k = 0; k < n_seen; k++)
            known |= strncmp(seen[k], s, n) == 0;
        if (!known) {
            assert_true(n_seen < 2);
            memcpy(seen[n_seen++], s, n);
        }
        sk_json_free(v);
        sk_load_talk_done(&t);
    }
    assert_int_equal(n_seen, 2);
}

static void test_token_ids(void **state)
{
    struct sk_load l = load_of(false);
    struct sk_talk t;
    struct sk_ask a;
    l.token_ids = 50;
    l.prefix_words = 3;
    sk_load_talk(&l, 0, &t);
    struct cJSON *v = ask(&l, &t, &a);
    const struct cJSON *ids = sk_json_get(v, "prompt");
    assert_int_equal(sk_json_len(ids), 9);
    for (const struct cJSON *e = sk_json_first(ids); e; e = sk_json_next(e))
        assert_in_range((int)sk_json_num(e), 0, 49);
    sk_json_free(v);
    sk_load_talk_done(&t);
}

/* ---- answers ---- */

struct answer {
    struct sk_turn x;
    struct sk_round round;
};

static void give(struct answer *a, const char *s, uint64_t at_ns)
{
    sk_turn_bytes(&a->x, s, strlen(s), at_ns);
}

static void begin(struct answer *a, bool stream)
{
    sk_round_init(&a->round, 1);
    sk_turn_init(&a->x);
    sk_turn_begin(&a->x);
    a->x.round = &a->round;
    a->x.wants_stream = stream;
    a->x.wants_text = true;
    a->x.start_ns = 1000000;
    sk_turn_head(&a->x, 200, stream);
}

static int end_of(struct answer *a)
{
    sk_turn_end(&a->x, 90000000);
    int end = a->x.rec.end;
    sk_turn_done(&a->x);
    return end;
}

static const char one[] = "data: {\"choices\":[{\"text\":\"a\"}]}\n\n";
static const char last[] =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":6}}\n\ndata: [DONE]\n\n";

static void test_stream(void **state)
{
    struct answer a;
    struct sk_round_slo slo = {.ttft = 100, .tpot = 5};
    begin(&a, true);
    give(&a, ": ping\n\ndata: {\"choices\":[{\"text\":\"\"}]}\n\n", 11000000);
    give(&a, one, 21000000); /* 20 ms */
    give(&a, one, 31000000);
    give(&a, one, 51000000);
    give(&a, last, 61000000);
    assert_int_equal(a.x.text.n, 3);
    assert_int_equal(end_of(&a), SK_ROUND_OK);
    assert_int_equal(a.x.rec.n_piece, 3);
    sk_round_take(&a.round, &a.x.rec, &slo);
    assert_int_equal(a.round.n_in, 4);
    assert_int_equal(a.round.n_out, 6);
    assert_true(sk_stat_figures(&a.round.ttft).p50 == 20);
    assert_true(sk_stat_figures(&a.round.itl).mean == 15 && a.round.itl.seen == 2);
    assert_true(sk_stat_figures(&a.round.tpot).p50 == 6);
    assert_int_equal(a.round.n_good, 0); /* 6 ms > 5 */
    sk_round_done(&a.round);
}

static void check_end(const char *bytes, int want, const char *why)
{
    struct answer a;
    begin(&a, true);
    give(&a, one, 2000000);
    give(&a, bytes, 3000000);
    assert_int_equal(end_of(&a), want);
    assert_int_equal(a.x.rec.n_piece, 1); /* what came before is kept */
    assert_non_null(strstr(a.round.why[want], why));
    sk_round_done(&a.round);
}

static void test_broken_streams(void **state)
{
    check_end("data: {\"choices\":[{\"te\n\n", SK_ROUND_JSON, "line 3 of the stream: malformed JSON");
    check_end("data: {\"a\":\"\xff\"}\n\n", SK_ROUND_UTF8, "line 3 of the stream: not UTF-8");
    check_end("garbage\n\ndata: [DONE]\n\n", SK_ROUND_SSE, "line 3 of the stream");
    check_end("data: {\"choices\":[", SK_ROUND_SSE, "");
    check_end("data: {\"error\":{\"message\":\"oh \x1b[31m\"}}\n\n", SK_ROUND_EVENT, "oh \\x1b");
    check_end("", SK_ROUND_SHORT, "[DONE]");
    static char huge[SK_TURN_MAX_EVENT + 100] = "data: ";
    memset(huge + 6, 'x', sizeof huge - 7);
    check_end(huge, SK_ROUND_SSE, "3");
}

static void test_whole(void **state)
{
    struct answer a;
    begin(&a, false);
    give(&a, "{\"choices\":[{\"text\":\"hi\"}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}", 2);
    assert_int_equal(end_of(&a), SK_ROUND_OK);
    assert_int_equal(a.x.rec.n_out, 2);
    sk_round_done(&a.round);
    begin(&a, false);
    sk_turn_head(&a.x, 429, false);
    give(&a, "{\"error\":{\"message\":\"full\"}}", 2);
    assert_int_equal(end_of(&a), SK_ROUND_REFUSED);
    assert_string_equal(a.round.why[SK_ROUND_REFUSED], "status 429: full");
    sk_round_done(&a.round);
}

static void test_leaves(void **state)
{
    struct answer a;
    begin(&a, true);
    a.x.ask.cancel_after = 2;
    assert_true(sk_turn_bytes(&a.x, one, sizeof one - 1, 2000000));
    assert_false(sk_turn_bytes(&a.x, one, sizeof one - 1, 3000000));
    assert_int_equal(end_of(&a), SK_ROUND_LEFT);
    sk_round_done(&a.round);
}

static void test_metrics(void **state)
{
    struct sk_round r;
    sk_round_init(&r, 1);
    static const char before[] = "# HELP a_total x\na_total 3\nb_total{x=\"1} 2\"} 5\ngauge 7\nc_sum 1.5\n";
    static const char after[] =
        "a_total 3\nb_total{x=\"1} 2\"} 9\ngauge 9\nc_sum 2\nnew_total{k=\"v\"} 4\nodd_total\nd_total x\n";
    assert_int_equal(sk_scrape_deltas(&r, before, after), 0);
    assert_int_equal(r.n_delta, 3);
    assert_string_equal(r.deltas[0].name, "b_total{x=\"1} 2\"}");
    assert_true(r.deltas[0].by == 4 && r.deltas[1].by == 0.5 && r.deltas[2].by == 4);
    sk_round_done(&r);
}

static void test_slo(void **state)
{
    struct sk_round_slo s = {0};
    struct sk_err err = {0};
    assert_int_equal(sk_round_slo_parse("ttft:500,itl:50.5", &s, &err), 0);
    assert_true(s.ttft == 500 && s.itl == 50.5 && s.tpot == 0 && s.e2e == 0);
    static const char *const bad[] = {"ttft", "ttft:", "ttft:0", "ttft:x", "p99:4", "ttft:5;itl:3"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(sk_round_slo_parse(bad[i], &s, &err), -SK_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_completion),     cmocka_unit_test(test_reproducible), cmocka_unit_test(test_turns),
        cmocka_unit_test(test_prefixes),       cmocka_unit_test(test_token_ids),    cmocka_unit_test(test_stream),
        cmocka_unit_test(test_broken_streams), cmocka_unit_test(test_whole),        cmocka_unit_test(test_leaves),
        cmocka_unit_test(test_metrics),        cmocka_unit_test(test_slo)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

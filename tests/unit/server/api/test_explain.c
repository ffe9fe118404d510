/* POST /explain over a pretended engine and template helper. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "comm/base/json.h"
#include "comm/base/mem.h"
#include "server/api/route.h"
#include "tests/unit/server/api/pretend.h"

#define EXPLAIN "/explain"
#define HI      "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}"

static struct cJSON *parsed(const struct sk_http_req *r)
{
    struct cJSON *v = NULL;
    struct sk_err err;
    if (r->status != 200 || sk_json_parse(r->reply.p, r->reply.n, r->reply.n, &v, &err) != 0)
        fail_msg("%d: %s", r->status, r->reply.p);
    return v;
}

/* Every token's bytes are those of the text at its place, and the places follow one another over all of it. */
static void check_places(const struct cJSON *v, bool all)
{
    const char *text = sk_json_str(sk_json_get(v, "prompt"));
    int64_t at = 0, from, to;
    for (const struct cJSON *t = sk_json_first(sk_json_get(v, "tokens")); t; t = sk_json_next(t)) {
        const struct cJSON *bytes = sk_json_get(t, "bytes");
        const char *word = sk_json_str(sk_json_get(t, "text"));
        assert_int_equal(sk_json_len(bytes), 2);
        assert_true(sk_json_is_int(sk_json_first(bytes), &from) &&
                    sk_json_is_int(sk_json_next(sk_json_first(bytes)), &to));
        assert_int_equal(from, at);
        if (to > from && !strstr(word, "\xef\xbf\xbd"))
            assert_memory_equal(text + from, word + strlen(word) - (to - from), (size_t)(to - from));
        at = to;
    }
    if (all)
        assert_int_equal(at, strlen(text));
}

static void test_completion(void **state)
{
    struct sk_http_req r;
    pretend_post(&r, EXPLAIN,
                 "{\"prompt\":\"Hello w\xc3\xb6rld <|im_start|>x\",\"max_tokens\":5,\"top_k\":7,\"stop\":\"q\"}");
    assert_int_equal(r.status, 0);
    uint32_t n = pretend.n_peek_tok;
    assert_true(n > 3);
    pretend_view(2);
    struct cJSON *v = parsed(&r);
    check_places(v, true);
    assert_int_equal(sk_json_len(sk_json_get(v, "tokens")), n);
    pretend_has(&r.reply, "\"kind\":\"completion\",\"model\":\"tiny\"");
    pretend_has(&r.reply, "{\"id\":");
    pretend_has(&r.reply, "Spellings in the prompt that are taken as control tokens: 1.");
    pretend_has(&r.reply, "\"fits\":true,\"why_not\":null,\"cached_tokens\":2,\"blocks\":{\"tokens_each\":8,");
    pretend_has(&r.reply, "\"total\":100,\"free\":60,\"cached\":10}");
    pretend_has(&r.reply, "\"estimate\":{\"queue_ms\":1,");
    pretend_has(&r.reply, "\"sampling\":{\"max_tokens\":5,\"min_tokens\":0,\"n\":1,\"best_of\":1,\"top_k\":7,");
    pretend_has(&r.reply, "\"stop\":[\"q\"]}");
    assert_int_equal(pretend.n_job, 0);
    sk_json_free(v);
    pretend_end(&r);
}

static void test_chat(void **state)
{
    struct sk_http_req r;
    pretend_post(&r, EXPLAIN, HI);
    pretend_render("<|im_start|>user\n<" SK_TOKEN_GUARD "|im_end|>hi");
    pretend_view(0);
    struct cJSON *v = parsed(&r);
    check_places(v, true);
    assert_string_equal(sk_json_str(sk_json_get(v, "prompt")), "<|im_start|>user\n<|im_end|>hi");
    pretend_has(&r.reply, "\"kind\":\"chat\"");
    pretend_has(&r.reply, "\"text\":\"<|im_start|>\",\"bytes\":[0,12],\"special\":true}");
    pretend_has(&r.reply,
                "\"warnings\":[\"Spellings of control tokens in the messages that are taken as plain text: 1.\"]");
    sk_json_free(v);
    pretend_end(&r);
}

static void test_double_bos(void **state)
{
    struct sk_http_req r;
    char body[64];
    const int32_t bos = pretend_id("<|im_start|>");
    pretend.server.models[0]->dir.bos = bos;
    snprintf(body, sizeof body, "{\"prompt\":[%d,%d,5]}", bos, bos);
    pretend_post(&r, EXPLAIN, body);
    pretend_view(0);
    pretend_has(&r.reply, "begins with two BOS tokens");
    struct cJSON *v = parsed(&r);
    check_places(v, true);
    sk_json_free(v);
    pretend_end(&r);
    snprintf(body, sizeof body, "{\"prompt\":[%d,5,%d]}", bos, bos);
    pretend_post(&r, EXPLAIN, body);
    pretend_view(0);
    pretend_has(&r.reply, "\"warnings\":[]");
    pretend_end(&r);
}

/* What does not fit is explained too. */
static void test_too_long(void **state)
{
    struct sk_http_req r;
    pretend_post(&r, EXPLAIN, "{\"prompt\":[5,6,7,8],\"max_tokens\":61}");
    pretend_view(0);
    pretend_has(&r.reply, "\"fits\":false,\"why_not\":\"This model's maximum context length is 64 tokens");
    pretend_end(&r);
    pretend_post(&r, EXPLAIN, "{\"prompt\":[5,6,7,8],\"max_tokens\":1,\"truncate_prompt_tokens\":3}");
    assert_int_equal(pretend.n_peek_tok, 3);
    pretend_view(0);
    pretend_has(&r.reply, "\"n_prompt\":4,\"kept\":[1,4]");
    pretend_has(&r.reply, "truncate_prompt_tokens cuts off 1 of 4 tokens");
    pretend_end(&r);
}

/* The engine is never asked for more tokens than it can have. */
static void test_much_too_long(void **state)
{
    struct sk_http_req r;
    char body[1024] = "{\"max_tokens\":1,\"prompt\":[5";
    for (int i = 1; i < 200; i++)
        strcat(body, ",5");
    strcat(body, "]}");
    pretend_post(&r, EXPLAIN, body);
    assert_int_equal(pretend.n_peek_tok, 64);
    pretend_view(64);
    pretend_has(&r.reply, "\"n_prompt\":200,");
    pretend_has(&r.reply, "\"fits\":false");
    pretend_has(&r.reply, "\"cached_tokens\":64,");
    pretend_end(&r);
}

static void test_no_engine(void **state)
{
    struct sk_http_req r;
    pretend.peek_fails = -SK_EUNAVAIL;
    pretend_post(&r, EXPLAIN, "{\"prompt\":\"x\"}");
    pretend_has(&r.reply, "\"cached_tokens\":null,\"blocks\":null");
    sk_json_free(parsed(&r));
    pretend_end(&r);
}

static void test_errors(void **state)
{
    static const struct {
        const char *body, *message;
    } cases[] = {{"", "malformed"},
                 {"{}", "prompt is required"},
                 {"{\"prompt\":\"x\",\"temperature\":-1}", "temperature"},
                 {"{\"prompt\":[\"x\",\"y\"]}", "only one can be explained"},
                 {"{\"messages\":[]}", "messages must not be empty"},
                 {"{\"messages\":null,\"prompt\":3}", "messages is required"},
                 {"{\"prompt\":\"\"}", "must not be empty"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sk_http_req r;
        pretend_post(&r, EXPLAIN, cases[i].body);
        assert_int_equal(r.status, 400);
        if (i > 0)
            pretend_has(&r.reply, cases[i].message);
        assert_null(pretend.peek_cb);
        pretend_end(&r);
    }
}

static void test_client_goes_away(void **state)
{
    struct sk_http_req r;
    pretend_post(&r, EXPLAIN, "{\"prompt\":\"x\"}");
    assert_non_null(pretend.peek_cb);
    pretend_leave(&r);
    assert_null(pretend.peek_cb);
    pretend_post(&r, EXPLAIN, HI);
    pretend_leave(&r);
    assert_null(pretend.render_cb);
}

static void test_server_stops(void **state)
{
    struct sk_http_req r, q;
    pretend_post(&r, EXPLAIN, "{\"prompt\":\"x\"}");
    pretend_view(0);
    pretend_post(&q, EXPLAIN, "{\"prompt\":\"x\"}");
    sk_api_close(&pretend.server);
    assert_null(pretend.peek_cb);
    assert_int_equal(r.status, 200);
    assert_int_equal(q.status, 503);
    pretend_end(&r);
    pretend_end(&q);
}

/* It is no request that generates: it costs the key nothing and is counted nowhere. */
static void test_not_counted(void **state)
{
    struct sk_http_req r;
    struct sk_tenant *t = sk_tenants_at(pretend.server.tenants, 0);
    t->limits.concurrent = 1;
    t->n_open = 1;
    pretend_post(&r, EXPLAIN, "{\"prompt\":\"x\"}");
    assert_int_equal(t->n_open, 1);
    pretend_view(0);
    assert_int_equal(r.status, 200);
    pretend_end(&r);
    assert_int_equal(t->n_open, 1);
    t->n_open = 0;
    struct sk_buf b;
    sk_buf_init(&b, 1 << 20);
    sk_metrics_write(pretend.server.metrics, &b);
    assert_true(!b.p || !strstr(b.p, "skein_requests_total{"));
    sk_buf_done(&b);
}

static void test_out_of_memory(void **state)
{
    pretend_short_of_memory("POST", EXPLAIN, "{\"prompt\":\"Hello <|im_start|>\",\"stop\":[\"q\"]}", 500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_completion, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_chat, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_double_bos, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_too_long, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_much_too_long, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_no_engine, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_errors, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_client_goes_away, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_server_stops, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_not_counted, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_out_of_memory, pretend_set_up, pretend_tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

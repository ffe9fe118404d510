/* The routes of operators, over a pretended engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "comm/base/json.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "server/api/route.h"
#include "tests/unit/server/api/pretend.h"

#define STATE "/admin/state"

static void begin(struct sk_http_req *r, const char *method, const char *path, const char *body)
{
    pretend_begin(r, method, path);
    r->body = body;
    sk_api_request(&pretend.listener, r);
}

static struct cJSON *parsed(const struct sk_http_req *r)
{
    struct cJSON *v = NULL;
    struct sk_err err;
    assert_int_equal(r->status, 200);
    if (sk_json_parse(r->reply.p, r->reply.n, r->reply.n, &v, &err) != 0)
        fail_msg("%s in: %s", err.msg, r->reply.p);
    return v;
}

static void test_state(void **state)
{
    struct sk_http_req a, b, r;
    begin(&a, "POST", "/v1/completions", "{\"prompt\":[5,6],\"max_tokens\":9}");
    begin(&b, "POST", "/v1/completions", "{\"prompt\":[5,6,7]}");
    begin(&r, "GET", STATE, NULL);
    assert_int_equal(r.status, 0);
    assert_int_equal(pretend.n_peek_tok, 0);
    pretend_view(0);
    struct cJSON *v = parsed(&r);
    pretend_has(&r.reply, "\"models\":[{\"name\":\"tiny\",\"loaded\":true,\"max_model_len\":64}]");
    pretend_has(&r.reply, "\"state\":\"ready\"");
    pretend_has(&r.reply, "\"isa\":\"cpu/pretended\"");
    pretend_has(&r.reply, "\"blocks\":{\"total\":100,\"held\":30,\"cached\":10,\"free\":60}");
    pretend_has(&r.reply, "\"answers\":true,\"sequences\":2,\"jobs\":[");
    /* each job beside its own sequence: the pretended one of job i has 20 + i tokens */
    pretend_has(&r.reply, "\"prompt_tokens\":2,\"answer_tokens\":0,\"max_tokens\":9,\"priority\":0,\"suspect\":false,"
                          "\"age_s\":1.500,\"engine\":{\"state\":\"running\",\"tokens\":21,");
    pretend_has(&r.reply, "\"engine\":{\"state\":\"running\",\"tokens\":22,");
    pretend_has(&r.reply, "\"n_jobs\":2}");
    sk_json_free(v);
    pretend_end(&r);
    pretend_leave(&a);
    pretend_leave(&b);
}

/* Each once, though other programs have options of the same names. */
static void test_options_given(void **state)
{
    struct sk_http_req r;
    assert_int_equal(sk_conf_set(&pretend.conf, SK_PROG_DAEMON, "model", "m", NULL), 0);
    assert_int_equal(sk_conf_set(&pretend.conf, SK_PROG_DAEMON, "max-queue", "7", NULL), 0);
    begin(&r, "GET", STATE, NULL);
    pretend_view(0);
    pretend_has(&r.reply, "\"options_given\":[\"model\",\"max-queue\"]");
    pretend_end(&r);
}

/* What the daemon knows is answered without an engine too. */
static void test_no_engine(void **state)
{
    struct sk_http_req a, r;
    begin(&a, "POST", "/v1/completions", "{\"prompt\":[5,6]}");
    pretend.peek_fails = -SK_EUNAVAIL;
    begin(&r, "GET", STATE, NULL);
    sk_json_free(parsed(&r));
    pretend_has(&r.reply, "\"answers\":false,\"sequences\":0");
    pretend_has(&r.reply, "\"engine\":null}],\"n_jobs\":1}");
    pretend_end(&r);
    pretend.peek_fails = 0;
    begin(&r, "GET", STATE, NULL);
    pretend.peek_cb(pretend.peek_arg, NULL); /* it is lost before it answers */
    sk_json_free(parsed(&r));
    pretend_end(&r);
    pretend_leave(&a);
    pretend.server.n_engine = 0;
    begin(&r, "GET", STATE, NULL);
    sk_json_free(parsed(&r));
    pretend_has(&r.reply, "\"engines\":[]}");
    pretend_end(&r);
}

static void test_client_goes_away(void **state)
{
    struct sk_http_req r;
    begin(&r, "GET", STATE, NULL);
    assert_non_null(pretend.peek_cb);
    pretend_leave(&r);
    assert_null(pretend.peek_cb);
}

static void test_ranks(void **state)
{
    struct sk_http_req r;
    begin(&r, "GET", "/admin/ranks", NULL);
    assert_int_equal(r.status, 200);
    pretend_has(&r.reply,
                "{\"ranks\":[{\"replica\":0,\"rank\":0,\"stage\":0,\"tp_rank\":0,\"host\":\"here\",\"pid\":4711");
    pretend_has(&r.reply, "\"host\":\"the\\\"re\",\"pid\":4712");
    pretend_has(&r.reply, "\"heads\":{\"first\":5,\"count\":4}");
    pretend_has(&r.reply, "\"steps\":7,\"busy_s\":1.500000");
    pretend_end(&r);
}

static void test_flight(void **state)
{
    struct sk_http_req r;
    begin(&r, "POST", "/admin/flight", NULL);
    assert_int_equal(r.status, 200);
    pretend_has(&r.reply, "{\"path\":\"/flight/1.rec\"}");
    pretend_end(&r);
    pretend.flight_fails = -SK_ENOENT;
    begin(&r, "POST", "/admin/flight", NULL);
    assert_int_equal(r.status, 503);
    pretend_has(&r.reply, "--flight-plans");
    pretend_end(&r);
    pretend.flight_fails = -SK_EIO;
    begin(&r, "POST", "/admin/flight", NULL);
    assert_int_equal(r.status, 500);
    pretend_end(&r);
}

static void test_log_level(void **state)
{
    static const char *const bad[] = {"", "[]", "{}", "{\"level\":3}", "{\"level\":\"loud\"}", "{\"level\":\"INFO\"}"};
    struct sk_http_req r;
    sk_log_level_set(SK_LOG_WARN);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        begin(&r, "POST", "/admin/log", bad[i]);
        assert_int_equal(r.status, 400);
        assert_false(sk_log_enabled(SK_LOG_INFO));
        pretend_end(&r);
    }
    begin(&r, "POST", "/admin/log", "{\"level\":\"debug\"}");
    assert_int_equal(r.status, 200);
    assert_true(sk_log_enabled(SK_LOG_DEBUG));
    pretend_end(&r);
    sk_log_level_set(SK_LOG_WARN);
}

static void test_out_of_memory(void **state)
{
    pretend_short_of_memory("GET", STATE, NULL, 200);
}

static void test_replicas(void **state)
{
    static const struct {
        const char *path;
        int status;
        uint32_t drained, restarted;
    } cases[] = {{"/admin/replicas/restart", 200, 99, SK_ENGINE_ALL},
                 {"/admin/replicas/1/restart", 200, 99, 1},
                 {"/admin/replicas/0/drain", 200, 0, 99},
                 {"/admin/replicas/2/drain", 400, 2, 99},
                 {"/admin/replicas/99999999999/restart", 400, 99, SK_ENGINE_ALL + 1},
                 {"/admin/replicas/drain", 404, 99, 99},
                 {"/admin/replicas/", 404, 99, 99},
                 {"/admin/replicas/1", 404, 99, 99},
                 {"/admin/replicas/1/stop", 404, 99, 99}};
    struct sk_http_req r;
    begin(&r, "GET", "/admin/replicas", NULL);
    sk_json_free(parsed(&r));
    pretend_has(&r.reply, "{\"replacing_model\":false,\"engines\":[{\"restarting\":false,");
    pretend_has(&r.reply, "{\"replica\":0,\"state\":\"ready\"");
    pretend_has(&r.reply, "{\"replica\":1,\"state\":\"drained\"");
    pretend_has(&r.reply, "\"outstanding_tokens\":71,\"prefix_routed\":5");
    pretend_end(&r);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pretend.drained = pretend.restarted = 99;
        begin(&r, "POST", cases[i].path, NULL);
        assert_int_equal(r.status, cases[i].status);
        assert_int_equal(pretend.drained, cases[i].drained);
        assert_int_equal(pretend.restarted, cases[i].restarted);
        pretend_end(&r);
    }
    pretend.server.engines[pretend.server.n_engine++] = pretend.model.engine; /* a model is just being replaced */
    begin(&r, "POST", "/admin/replicas/restart", NULL);
    assert_int_equal(r.status, 503);
    pretend_end(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_replicas, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_state, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_options_given, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_no_engine, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_client_goes_away, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_ranks, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_flight, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_log_level, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_out_of_memory, pretend_set_up, pretend_tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

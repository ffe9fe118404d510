/* GET /stats, over a pretended engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "comm/base/json.h"
#include "comm/base/mem.h"
#include "server/api/route.h"
#include "tests/unit/server/api/pretend.h"

static void get(struct sk_http_req *r)
{
    pretend_begin(r, "GET", "/stats");
    sk_api_request(&pretend.listener, r);
}

static void assert_json(const struct sk_http_req *r)
{
    struct cJSON *v;
    struct sk_err err;
    assert_int_equal(r->status, 200);
    if (sk_json_parse(r->reply.p, r->reply.n, r->reply.n, &v, &err) != 0)
        fail_msg("%s in: %s", err.msg, r->reply.p);
    sk_json_free(v);
}

static void test_sequences_and_whose_they_are(void **state)
{
    struct sk_http_req a, b, r;
    pretend_post(&a, "/v1/completions", "{\"prompt\":[5,6],\"max_tokens\":9}");
    pretend_post(&b, "/v1/completions", "{\"prompt\":[5,6,7]}");
    get(&r);
    assert_int_equal(r.status, 0);
    pretend_view(0);
    assert_json(&r);
    pretend_has(&r.reply, "\"ready\":true");
    pretend_has(&r.reply, "\"isa\":\"cpu/pretended\"");
    pretend_has(&r.reply, "\"blocks\":{\"total\":100,\"held\":30,\"cached\":10,\"free\":60}");
    pretend_has(&r.reply, "\"n_sequences\":2,\"sequences\":[{\"job\":\"2\",\"choice\":0,\"running\":true,");
    pretend_has(&r.reply, "\"tokens\":22,\"computed\":0,\"cached\":0,\"blocks\":3,");
    pretend_has(&r.reply,
                "\"jobs\":[{\"job\":\"1\",\"choice\":0,\"prompt_tokens\":2,\"answer_tokens\":0,\"age_s\":1.500,"
                "\"key\":\"\"}");
    pretend_has(&r.reply, "\"n_jobs\":2}]}");
    assert_null(strstr(r.reply.p, "id-1")); /* requests' ids are for operators */
    pretend_end(&r);
    pretend_leave(&a);
    pretend_leave(&b);
}

static void test_no_engine(void **state)
{
    struct sk_http_req r;
    pretend.engine = SK_ENGINE_BUILDING;
    pretend.peek_fails = -SK_EUNAVAIL;
    get(&r);
    assert_json(&r);
    pretend_has(&r.reply, "\"engines\":[{\"ready\":false,\"text\":\"building 43 %\"");
    pretend_has(&r.reply, "\"n_sequences\":0,\"sequences\":[],\"jobs\":[],\"n_jobs\":0}]}");
    pretend_end(&r);
    pretend.peek_fails = 0;
    get(&r);
    pretend.peek_cb(pretend.peek_arg, NULL); /* it is lost before it answers */
    pretend.peek_cb = NULL;
    assert_json(&r);
    pretend_end(&r);
    pretend.server.n_engine = 0;
    get(&r);
    assert_json(&r);
    pretend_has(&r.reply, "\"engines\":[]}");
    pretend_end(&r);
}

static void test_client_goes_away(void **state)
{
    struct sk_http_req r;
    get(&r);
    assert_non_null(pretend.peek_cb);
    pretend_leave(&r);
    assert_null(pretend.peek_cb);
}

static void test_out_of_memory(void **state)
{
    pretend_short_of_memory("GET", "/stats", NULL, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_sequences_and_whose_they_are, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_no_engine, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_client_goes_away, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_out_of_memory, pretend_set_up, pretend_tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

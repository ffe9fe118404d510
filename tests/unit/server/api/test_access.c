/* Who gets to which route, over a pretended http. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "comm/base/mem.h"
#include "server/api/route.h"
#include "tests/unit/server/api/pretend.h"

#define INFER   "Bearer infer"
#define METRICS "Bearer metrics"
#define ADMIN   "Bearer admin"

static char path[] = "/tmp/sk-keys-XXXXXX";

static void write_keys(const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void ask(struct sk_http_req *r, const char *method, const char *url, const char *key)
{
    pretend_begin(r, method, url);
    r->authorization = key;
    sk_api_request(&pretend.listener, r);
}

static void expect(const char *method, const char *url, const char *key, int status)
{
    struct sk_http_req r;
    ask(&r, method, url, key);
    if (r.status != status && !(r.status == 0 && status == 200)) /* 0: it would be answered later */
        fail_msg("%s %s with %s: %d, not %d", method, url, key ? key : "no key", r.status, status);
    pretend_leave(&r);
}

static const struct {
    const char *method, *url;
    int needs; /* which of the three keys: 0, 1, 2; -1 = any; -2 = none */
    int ok;    /* status of whoever may */
} routes[] = {
    {"GET", "/v1/models", 0, 200},
    {"HEAD", "/v1/models", 0, 200},
    {"GET", "/v1/models/tiny", 0, 200},
    {"POST", "/v1/completions", 0, 400},
    {"POST", "/v1/chat/completions", 0, 400},
    {"POST", "/tokenize", 0, 400},
    {"POST", "/detokenize", 0, 400},
    {"POST", "/explain", 0, 400},
    {"POST", "/v1/embeddings", 0, 501},
    {"GET", "/version", -1, 200},
    {"GET", "/metrics", 1, 200},
    {"GET", "/stats", 1, 200},
    {"GET", "/admin/state", 2, 200},
    {"GET", "/admin/ranks", 2, 200},
    {"POST", "/admin/log", 2, 400},
    {"POST", "/admin/flight", 2, 200},
    {"GET", "/", -2, 200},
    {"GET", "/web/page.css", -2, 200},
    {"GET", "/web/x", -2, 404},
    {"GET", "/health", -2, 200},
    {"GET", "/ready", -2, 200},
    {"GET", "/readyz", -2, 200},
    {"GET", "/livez", -2, 200},
};

/* Every route with every key, on both kinds of listener. */
static void test_scopes(void **state)
{
    static const char *const keys[] = {INFER, METRICS, ADMIN, "Bearer all"};
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        bool open = routes[i].needs == -2, admin = routes[i].needs == 2;
        expect(routes[i].method, routes[i].url, NULL, open ? routes[i].ok : 401);
        expect(routes[i].method, routes[i].url, "Bearer unknown", open ? routes[i].ok : 401);
        for (int k = 0; k < 4; k++) {
            bool may = routes[i].needs < 0 || k == 3 || routes[i].needs == k;
            expect(routes[i].method, routes[i].url, keys[k], may ? routes[i].ok : 403);
        }
        pretend.listener.admin = false;
        expect(routes[i].method, routes[i].url, "Bearer all", admin ? 403 : routes[i].ok);
        expect(routes[i].method, routes[i].url, NULL, open ? routes[i].ok : 401);
        pretend.listener.admin = true;
    }
}

/* What is there is told to those only who may come in. */
static void test_order(void **state)
{
    expect("GET", "/nowhere", NULL, 401);
    expect("GET", "/nowhere", METRICS, 404);
    expect("GET", "/admin/nowhere", ADMIN, 404);
    expect("DELETE", "/metrics", NULL, 401);
    expect("DELETE", "/metrics", METRICS, 405);
    expect("DELETE", "/metrics", INFER, 405);
    expect("GET", "/x", NULL, 401);
    expect("POST", "/health", NULL, 401);
    expect("POST", "/health", METRICS, 405);
}

static void test_messages(void **state)
{
    struct sk_http_req r;
    ask(&r, "GET", "/metrics", INFER);
    pretend_has(&r.reply, "lacks the scope `metrics`, which /metrics needs");
    pretend_has(&r.reply, "\"type\":\"permission_denied_error\"");
    pretend_end(&r);
    ask(&r, "GET", "/admin/state", INFER);
    pretend_has(&r.reply, "lacks the scope `admin`");
    pretend_end(&r);
    pretend.listener.admin = false;
    ask(&r, "GET", "/admin/state", ADMIN);
    pretend_has(&r.reply, "served on the addresses of --admin-listen only");
    pretend_end(&r);
    ask(&r, "GET", "/version", NULL);
    assert_string_equal(pretend_header(&r, "WWW-Authenticate"), "Bearer");
    pretend_end(&r);
}

static void test_x_api_key(void **state)
{
    struct sk_http_req r;
    pretend_begin(&r, "GET", "/version");
    r.x_api_key = "infer";
    sk_api_request(&pretend.listener, &r);
    assert_int_equal(r.status, 200);
    pretend_end(&r);
}

static int status_of_user(bool is_unix, uint32_t uid)
{
    struct sk_http_req r;
    pretend_begin(&r, "GET", "/metrics");
    r.is_unix = is_unix;
    r.uid = uid;
    sk_api_request(&pretend.listener, &r);
    int status = r.status;
    pretend_end(&r);
    return status;
}

static void test_trusted_users(void **state)
{
    struct sk_err err;
    assert_int_equal(status_of_user(true, 4242), 401);
    strcpy(pretend.conf.trust_users, "4242");
    assert_int_equal(sk_api_reload(&pretend.server, &pretend.conf, false, &err), 0);
    assert_int_equal(status_of_user(true, 4242), 200);
    assert_int_equal(status_of_user(true, 4243), 401);
    assert_int_equal(status_of_user(false, 4242), 401); /* a peer of TCP has no user */
    assert_int_equal(status_of_user(true, 0), 401);
}

/* A job's tenant is that of the key, and so is the root of its prefix tree. */
static void test_tenant(void **state)
{
    struct sk_http_req r, q;
    pretend_begin(&r, "POST", "/v1/completions");
    r.body = "{\"prompt\":[5]}";
    r.authorization = INFER;
    sk_api_request(&pretend.listener, &r);
    assert_int_equal(pretend.n_job, 1);
    assert_string_equal(pretend.jobs[0].req.tenant->name, "one");
    assert_true(pretend.jobs[0].params.salt == pretend.jobs[0].req.tenant->salt && pretend.jobs[0].params.salt != 0);
    pretend_begin(&q, "POST", "/v1/completions");
    q.body = "{\"prompt\":[5],\"cache_salt\":\"x\"}";
    q.authorization = "Bearer all";
    sk_api_request(&pretend.listener, &q);
    assert_string_equal(pretend.jobs[1].req.tenant->name, "four");
    assert_true(pretend.jobs[1].params.salt != pretend.jobs[1].req.tenant->salt);
    assert_true(pretend.jobs[1].params.salt != pretend.jobs[0].params.salt);
    pretend_leave(&r);
    pretend_leave(&q);
}

static void test_reload(void **state)
{
    struct sk_err err;
    struct sk_conf conf = pretend.conf;
    write_keys("new\n");
    assert_int_equal(sk_api_reload(&pretend.server, &conf, true, &err), 0);
    expect("GET", "/version", INFER, 200); /* it was only tried */
    expect("GET", "/version", "Bearer new", 401);
    write_keys("one two\n");
    assert_int_equal(sk_api_reload(&pretend.server, &conf, true, &err), -SK_EINVAL);
    assert_int_equal(sk_api_reload(&pretend.server, &conf, false, &err), -SK_EINVAL);
    assert_non_null(strstr(err.msg, ":1:"));
    expect("GET", "/version", INFER, 200);
    write_keys("new\n");
    assert_int_equal(sk_api_reload(&pretend.server, &conf, false, &err), 0);
    expect("GET", "/version", INFER, 401);
    expect("GET", "/version", "Bearer new", 200);
    conf.api_key_file[0] = '\0';
    assert_int_equal(sk_api_reload(&pretend.server, &conf, false, &err), 0);
    expect("GET", "/version", NULL, 200);
    expect("GET", "/metrics", NULL, 200);
}

/* A request that runs keeps its tenant, whose limits are the new ones. */
static void test_reload_while_running(void **state)
{
    struct sk_http_req r;
    struct sk_err err;
    pretend_begin(&r, "POST", "/v1/completions");
    r.body = "{\"prompt\":[5]}";
    r.authorization = INFER;
    sk_api_request(&pretend.listener, &r);
    struct sk_tenant *t = pretend.jobs[0].req.tenant;
    assert_int_equal(t->n_open, 1);
    write_keys("one sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b rpm=7\n"); /* "secret" */
    assert_int_equal(sk_api_reload(&pretend.server, &pretend.conf, false, &err), 0);
    assert_int_equal(t->limits.rpm, 7);
    pretend_leave(&r);
    assert_int_equal(t->n_open, 0);
}

/* Whatever allocation fails: the old keys are in force as they were. */
static void test_reload_out_of_memory(void **state)
{
    struct sk_err err;
    int rc = -1;
    write_keys("new\n");
    for (uint64_t n = 1; rc != 0; n++) {
        expect("GET", "/version", INFER, 200);
        assert_true(n < 100);
        sk_mem_fail_at(n, 0);
        rc = sk_api_reload(&pretend.server, &pretend.conf, false, &err);
        sk_mem_fail_at(0, 0);
        assert_true(rc == 0 || rc == -SK_ENOMEM);
    }
    expect("GET", "/version", "Bearer new", 200);
}

static void test_preflight(void **state)
{
    struct sk_http_req r;
    pretend_begin(&r, "OPTIONS", "/v1/completions");
    r.preflight = "POST";
    sk_api_request(&pretend.listener, &r);
    assert_int_equal(r.status, 204);
    assert_string_equal(pretend_header(&r, "Allow"), "POST, OPTIONS");
    assert_string_equal(pretend_header(&r, "Access-Control-Allow-Methods"), "POST, OPTIONS");
    pretend_end(&r);
    ask(&r, "OPTIONS", "/health", NULL);
    assert_string_equal(pretend_header(&r, "Allow"), "GET, HEAD, OPTIONS");
    assert_null(pretend_header(&r, "Access-Control-Allow-Methods"));
    pretend_end(&r);
}

/* One count for each answer, under the path of the table. */
static void test_count(void **state)
{
    struct sk_http_req r;
    const struct sk_metrics *m = pretend.server.metrics;
    pretend_begin(&r, "GET", "/v1/models/tiny");
    sk_api_answered(&pretend.listener, &r, 200);
    sk_api_answered(&pretend.listener, &r, 200);
    pretend_end(&r);
    assert_true(sk_metric_value(m, SK_METRIC_HTTP_REQUESTS, "/v1/models/", "200") == 2);
    pretend_begin(&r, "GET", "/../etc/passwd\"\n");
    sk_api_answered(&pretend.listener, &r, 404);
    pretend_end(&r);
    pretend_begin(&r, "GET", NULL);
    sk_api_answered(&pretend.listener, &r, 400);
    pretend_end(&r);
    assert_true(sk_metric_value(m, SK_METRIC_HTTP_REQUESTS, "other", "404") == 1);
    assert_true(sk_metric_value(m, SK_METRIC_HTTP_REQUESTS, "other", "400") == 1);
}

static void test_metrics(void **state)
{
    struct sk_http_req r;
    ask(&r, "GET", "/metrics", METRICS);
    assert_int_equal(r.status, 200);
    assert_string_equal(r.content_type, "text/plain; version=0.0.4; charset=utf-8");
    pretend_has(&r.reply, "\nprocess_open_fds ");
    pretend_has(&r.reply, "\nskein_connections ");
    pretend_has(&r.reply, "backend=\"cpu/pretended\"");
    pretend_end(&r);
}

static void test_health(void **state)
{
    pretend.stuck = true;
    expect("GET", "/health", NULL, 503);
    expect("GET", "/livez", NULL, 200);
    pretend.stuck = false;
    expect("GET", "/health", NULL, 200);
    pretend.engine = SK_ENGINE_BACKOFF;
    expect("GET", "/health", NULL, 503);
    expect("GET", "/readyz", NULL, 503);
    expect("GET", "/livez", NULL, 200);
}

static int set_up(void **state)
{
    struct sk_err err;
    strcpy(path, "/tmp/sk-keys-XXXXXX");
    close(mkstemp(path));
    pretend_open();
    /* SHA-256 of "infer", "metrics", "admin" and "all", as sha256sum says */
    write_keys(
        "one sha256:92bc2e412115876270c842f18eede00e752babbb9bf6f402ee8c5ab3b6746af2\n"
        "two sha256:177a7ea3611fe6b138557deaf44941614b66c0ece1766308044c8b65c8ba2123 scope=metrics\n"
        "three sha256:8c6976e5b5410415bde908bd4dee15dfb167a9c873fc4bb8a81f6f2ab448a918 scope=admin\n"
        "four sha256:5ef5ef0364b6939c4ca61f34b393f7b368d1be8619647aaf83d5b395919ab629 scope=inference,metrics,admin\n");
    strcpy(pretend.conf.api_key_file, path);
    return sk_api_reload(&pretend.server, &pretend.conf, false, &err);
}

static int tear_down(void **state)
{
    pretend_close();
    return remove(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_scopes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_messages, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_x_api_key, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_trusted_users, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_tenant, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_reload, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_reload_while_running, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_reload_out_of_memory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_preflight, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_count, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_metrics, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_health, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

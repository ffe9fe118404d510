/* Generation requests: how each of them ends and what it leaves behind, best_of, deadlines, tenants, bills, and what a
 * stream costs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "comm/base/clock.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "server/api/account.h"
#include "server/api/answer.h"
#include "server/api/auth.h"
#include "server/api/route.h"
#include "tests/unit/server/api/fixture.h"
#include "tests/unit/server/api/pretend.h"

#define COMPLETIONS "/v1/completions"
#define CHAT        "/v1/chat/completions"
#define MESSAGES    "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

/* --- ends --- */

static const char *const ends[] = {"done", "gone", "refused", "deadline", "poison", "error", "stopped"};
enum { N_END = sizeof ends / sizeof ends[0] };

static double metric(enum sk_metric id, const char *l1, const char *l2)
{
    return sk_metric_value(pretend.server.metrics, id, l1, l2);
}

/* Of all requests so far, this many ended, the last of them as `last`. */
static void assert_ended(int n, const char *last)
{
    static double before[N_END];
    double all = 0;
    for (int i = 0; i < N_END; i++) {
        double now = metric(SK_METRIC_REQUESTS, ends[i], NULL);
        assert_true(now == metric(SK_METRIC_KEY_REQUESTS, "", ends[i]));
        if (n > 1)
            assert_true(now - before[i] == (strcmp(ends[i], last) == 0));
        before[i] = now;
        all += now;
    }
    assert_true(all == n);
    assert_int_equal(sk_tenants_at(pretend.server.tenants, 0)->n_open, 0);
}

static void lose_job(struct sk_job *j, int code)
{
    pretend_tokens(j, 0, NULL, 0, SK_FINISH_ERROR, code);
}

static void test_every_end(void **state)
{
    static const struct {
        const char *body;
        int submit_fails;
        int engine_says; /* SK_Exxx, 0: a token, -1: nothing, and the client leaves */
        const char *end;
    } cases[] = {
        {"{\"prompt\":[5],\"max_tokens\":1}", 0, 0, "done"},
        {"{\"prompt\":[5],\"max_tokens\":1,\"stream\":true}", 0, 0, "done"},
        {"{\"prompt\":[5]}", 0, -1, "gone"},
        {"{\"prompt\":[5],\"stream\":true}", 0, -1, "gone"},
        {"{\"prompt\":", 0, 0, "refused"},
        {"{\"prompt\":[5],\"model\":\"nobody\"}", 0, 0, "refused"},
        {"{\"prompt\":[5],\"top_p\":7}", 0, 0, "refused"},
        {"{\"prompt\":[5],\"max_tokens\":1000000}", 0, 0, "refused"},
        {"{\"prompt\":[5]}", SK_EQUEUE, 0, "refused"},
        {"{\"prompt\":[5],\"deadline_ms\":1,\"stream\":true}", SK_EBEHIND, 0, "refused"},
        {"{\"prompt\":[5]}", SK_EUNAVAIL, 0, "refused"},
        {"{\"prompt\":[5]}", SK_ENOMEM, 0, "error"},
        {"{\"prompt\":[5],\"deadline_ms\":1}", 0, SK_EDEADLINE, "deadline"},
        {"{\"prompt\":[5],\"ttft_ms\":1,\"stream\":true}", 0, SK_EDEADLINE, "deadline"},
        {"{\"prompt\":[5]}", 0, SK_EPOISON, "poison"},
        {"{\"prompt\":[5],\"stream\":true}", 0, SK_EPOISON, "poison"},
        {"{\"prompt\":[5]}", 0, SK_EINTERNAL, "error"},
        {"{\"prompt\":[5],\"stream\":true}", 0, SK_EUNAVAIL, "error"},
        {"{\"prompt\":[5]}", 0, SK_ECTX, "refused"}, /* it can never fit this engine */
    };
    const int32_t a = pretend_id("A");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sk_http_req r;
        pretend.n_job = 0;
        pretend.submit_fails = -cases[i].submit_fails;
        pretend_post(&r, COMPLETIONS, cases[i].body);
        struct sk_job *j = pretend.n_job ? &pretend.jobs[0] : NULL;
        if (j && cases[i].engine_says == 0)
            pretend_tokens(j, 0, &a, 1, SK_FINISH_LENGTH, 0);
        else if (j && cases[i].engine_says > 0)
            lose_job(j, cases[i].engine_says);
        if (cases[i].engine_says < 0)
            pretend_leave(&r);
        else
            pretend_end(&r);
        assert_ended((int)i + 1, cases[i].end);
    }
}

static void test_refused_before_anything(void **state)
{
    struct sk_http_req r;
    pretend.server.draining = true;
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5]}");
    assert_int_equal(r.status, 503);
    assert_string_equal(pretend_header(&r, "Retry-After"), "1");
    pretend_end(&r);
    assert_ended(1, "refused");
    pretend.server.draining = false;
    pretend.server.models[0]->loaded = false;
    pretend.engine = SK_ENGINE_STARTING;
    pretend_post(&r, CHAT, "{" MESSAGES "}");
    assert_int_equal(r.status, 503);
    pretend_end(&r);
    assert_ended(2, "refused");
    pretend.server.models[0]->loaded = true;
}

/* A request of many jobs that cannot be taken as a whole is not begun. */
static void test_refused_as_a_whole(void **state)
{
    struct sk_http_req r;
    pretend.max_fit = 5;
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[[5],[6],[7]],\"n\":2}");
    assert_int_equal(r.status, 400);
    assert_null(pretend_header(&r, "Retry-After"));
    assert_int_equal(pretend.n_job, 0);
    pretend_end(&r);
    assert_ended(1, "refused");
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[[5],[6]],\"n\":2}");
    assert_int_equal(pretend.n_job, 2);
    pretend_leave(&r);
    pretend.max_fit = 0;
}

static void test_chat_ends(void **state)
{
    struct sk_http_req r;
    const struct sk_err slow = {.code = SK_ETMPL, .msg = "no"};
    pretend_post(&r, CHAT, "{" MESSAGES "}");
    pretend_leave(&r); /* while the template is rendered */
    assert_ended(1, "gone");
    pretend_post(&r, CHAT, "{" MESSAGES "}");
    pretend.render_cb(pretend.render_arg, -SK_ETMPL, NULL, 0, &slow);
    assert_int_equal(r.status, 400);
    pretend_end(&r);
    assert_ended(2, "refused");
}

static void test_server_stops(void **state)
{
    struct sk_http_req stream;
    pretend_post(&stream, COMPLETIONS, "{\"prompt\":[5],\"stream\":true}");
    sk_api_close(&pretend.server);
    pretend_has(&stream.queue, "\"code\":\"unavailable\"");
    assert_ended(1, "stopped");
    pretend_end(&stream);
    assert_ended(1, "stopped");
}

/* Whoever does not read is cut off at the end too: that is no answer. */
static void test_cut_at_the_last_event(void **state)
{
    struct sk_http_req r;
    const int32_t a = pretend_id("A");
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5],\"stream\":true}");
    r.queue.failed = -SK_ETOOBIG;
    pretend_tokens(&pretend.jobs[0], 0, &a, 1, SK_FINISH_LENGTH, 0);
    assert_false(r.ended);
    pretend_leave(&r);
    assert_ended(1, "gone");
}

static void test_poison_and_deadline_texts(void **state)
{
    struct sk_http_req r;
    const int32_t a = pretend_id("A");
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5],\"stream\":true}");
    pretend_tokens(&pretend.jobs[0], 0, &a, 1, SK_FINISH_NONE, 0);
    lose_job(&pretend.jobs[0], SK_EPOISON);
    pretend_has(&r.queue, "\"code\":\"request_crashes_engine\"}}\n\ndata: [DONE]\n\n");
    pretend_end(&r);
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5]}");
    lose_job(&pretend.jobs[1], SK_EPOISON);
    assert_int_equal(r.status, 500);
    assert_string_equal(pretend_header(&r, "x-should-retry"), "false");
    assert_null(pretend_header(&r, "Retry-After"));
    pretend_end(&r);
    sk_clock_set(1000000);
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5],\"ttft_ms\":7,\"deadline_ms\":20}");
    sk_clock_set(1000000 + 7000);
    lose_job(&pretend.jobs[2], SK_EDEADLINE);
    assert_int_equal(r.status, 504);
    pretend_has(&r.reply, "\"message\":\"There was no token after 7 ms.\"");
    pretend_has(&r.reply, "\"param\":\"ttft_ms\",\"code\":\"deadline_exceeded\"");
    pretend_end(&r);
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5],\"deadline_ms\":20}");
    sk_clock_set(1000000 + 7000 + 20000);
    lose_job(&pretend.jobs[3], SK_EDEADLINE);
    pretend_has(&r.reply, "\"param\":\"deadline_ms\"");
    pretend_end(&r);
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5]}");
    lose_job(&pretend.jobs[4], SK_EDEADLINE); /* --queue-timeout */
    pretend_has(&r.reply, "waited for too long");
    pretend_end(&r);
    sk_clock_set(0);
}

/* As http.h does it: a queue that failed is cut off, and its client gone. */
static bool answer_somehow(struct sk_http_req *r, uint32_t n_choice)
{
    const int32_t a = pretend_id("A");
    for (uint32_t i = 0; i < 3 * n_choice && pretend.n_job && !r->queue.failed; i++)
        pretend_tokens(&pretend.jobs[0], i % n_choice, &a, 1, i < 2 * n_choice ? SK_FINISH_NONE : SK_FINISH_LENGTH, 0);
    return r->ended ? strstr(r->queue.p, "\"error\"") == NULL : r->status == 200 && !r->stream;
}

/* Each allocation fails once: however the request ends then, it ends once. */
static void test_every_failing_allocation(void **state)
{
    static const char *const bodies[] = {
        "{\"prompt\":\"x y\",\"n\":2,\"best_of\":3,\"logprobs\":1,\"usage_bill\":true,\"stop\":[\"q\"]}",
        "{\"prompt\":\"x y\",\"n\":3,\"stream\":true,\"logprobs\":1,\"stop\":[\"q\"],\"cache_salt\":\"s\"}",
    };
    static const char *const first[] = {"done", "gone", "refused", "error"};
    int n_request = 0;
    for (size_t i = 0; i < sizeof first / sizeof first[0]; i++) { /* series that begin later could not be counted */
        sk_metric_add(pretend.server.metrics, SK_METRIC_REQUESTS, 0, first[i], NULL);
        sk_metric_add(pretend.server.metrics, SK_METRIC_KEY_REQUESTS, 0, "", first[i]);
    }
    for (size_t k = 0; k < sizeof bodies / sizeof bodies[0]; k++) {
        bool whole = false;
        for (uint64_t n = 1; !whole; n++) {
            struct sk_http_req r;
            assert_true(n < 1000);
            pretend.n_job = 0;
            pretend_begin(&r, "POST", COMPLETIONS);
            r.body = bodies[k];
            sk_mem_fail_at(n, 0);
            sk_api_request(&pretend.listener, &r);
            whole = answer_somehow(&r, 3);
            sk_mem_fail_at(0, 0);
            if (r.stream && !r.ended)
                pretend_leave(&r);
            else
                pretend_end(&r);
            n_request++;
            double all = 0;
            for (int i = 0; i < N_END; i++)
                all += metric(SK_METRIC_REQUESTS, ends[i], NULL);
            assert_true(all == n_request);
            assert_int_equal(sk_tenants_at(pretend.server.tenants, 0)->n_open, 0);
        }
    }
    assert_true(metric(SK_METRIC_REQUESTS, "done", NULL) == 2 && metric(SK_METRIC_REQUESTS, "error", NULL) > 10);
}

/* --- what goes to the engine --- */

static void test_deadlines_and_priority(void **state)
{
    struct sk_http_req r;
    sk_clock_set(5000000);
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5],\"ttft_ms\":7,\"deadline_ms\":86400000,\"priority\":-3}");
    const struct sk_job_req *q = &pretend.jobs[0].req;
    assert_true(q->first_us == 5007000 && q->end_us == 5000000 + UINT64_C(86400000000));
    assert_int_equal(pretend.jobs[0].params.priority, -3);
    assert_ptr_equal(q->tenant, sk_tenants_at(pretend.server.tenants, 0));
    pretend_leave(&r);
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5]}");
    assert_true(pretend.jobs[1].req.first_us == 0 && pretend.jobs[1].req.end_us == 0);
    pretend_leave(&r);
    sk_clock_set(0);
}

static void test_salt(void **state)
{
    struct sk_http_req r;
    struct sk_tenant *t = sk_tenants_at(pretend.server.tenants, 0);
    t->salt = 77;
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5]}");
    pretend_leave(&r);
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5],\"cache_salt\":\"x\"}");
    pretend_leave(&r);
    t->salt = 78;
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5],\"cache_salt\":\"x\"}");
    pretend_leave(&r);
    assert_true(pretend.jobs[0].params.salt == 77);
    assert_true(pretend.jobs[1].params.salt == sk_auth_salt(77, "x"));
    assert_true(pretend.jobs[2].params.salt == sk_auth_salt(78, "x"));
}

/* --- tenants --- */

static void test_tenant(void **state)
{
    struct sk_http_req r[3];
    const int32_t ids[] = {pretend_id("A"), pretend_id("B")};
    struct sk_tenant *t = sk_tenants_at(pretend.server.tenants, 0);
    t->limits.concurrent = 2;
    for (int i = 0; i < 3; i++)
        pretend_post(&r[i], COMPLETIONS, "{\"prompt\":[5,6,7],\"stream\":true}");
    assert_int_equal(t->n_open, 2);
    assert_int_equal(r[2].status, 429);
    assert_non_null(pretend_header(&r[2], "Retry-After"));
    assert_string_equal(pretend_header(&r[2], "x-should-retry"), "true");
    pretend_has(&r[2].reply, "rate_limit_exceeded");
    assert_int_equal(t->n_prompt_tok, 6);
    pretend_tokens(&pretend.jobs[0], 0, ids, 2, SK_FINISH_EOS, 2);
    assert_int_equal(t->n_open, 1);
    assert_int_equal(t->n_answer_tok, 3);
    for (int i = 0; i < 3; i++)
        pretend_leave(&r[i]);
    assert_int_equal(t->n_open, 0);
    assert_true(metric(SK_METRIC_KEY_TOKENS, "", "prompt") == 6);
    assert_true(metric(SK_METRIC_KEY_TOKENS, "", "answer") == 3);
}

/* --- best_of --- */

static void say(uint32_t job, uint32_t choice, const char *word, float logprob)
{
    const int32_t id = pretend_id(word);
    pretend.logprob = logprob;
    pretend_tokens(&pretend.jobs[job], choice, &id, 1, SK_FINISH_NONE, 0);
}

static void end(uint32_t job, uint32_t choice, enum sk_finish finish)
{
    pretend_tokens(&pretend.jobs[job], choice, NULL, 0, finish, -1);
}

static void test_best_of(void **state)
{
    struct sk_http_req r;
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[[5],[6]],\"n\":2,\"best_of\":4,\"max_tokens\":3}");
    assert_int_equal(pretend.n_job, 2);
    assert_int_equal(pretend.jobs[0].req.n_choice, 4);
    assert_int_equal(pretend.jobs[0].params.n_logprobs, 0);
    say(0, 0, "A", -1);
    say(0, 0, "A", -1); /* mean -1, the longer one */
    say(0, 1, "B", -3);
    say(0, 2, "C", -0.5f);
    say(0, 3, "D", -1);
    for (uint32_t k = 0; k < 4; k++)
        end(0, k, SK_FINISH_LENGTH);
    end(1, 0, SK_FINISH_EOS); /* no text: comes last */
    say(1, 1, "X", -9);
    say(1, 2, "Y", -10);
    say(1, 3, "Z", -8);
    for (uint32_t k = 1; k < 4; k++)
        end(1, k, SK_FINISH_LENGTH);
    pretend_has(&r.reply, "\"index\":0,\"text\":\"C\",\"logprobs\":null");
    pretend_has(&r.reply, "\"index\":1,\"text\":\"AA\",\"logprobs\":null");
    pretend_has(&r.reply, "\"index\":2,\"text\":\"Z\",\"logprobs\":null");
    pretend_has(&r.reply, "\"index\":3,\"text\":\"X\",\"logprobs\":null");
    pretend_has(&r.reply, "\"prompt_tokens\":2,\"completion_tokens\":9,");
    assert_true(metric(SK_METRIC_SUCCESS, "length", NULL) == 4);
    assert_true(metric(SK_METRIC_SUCCESS, "stop", NULL) == 0);
    pretend_end(&r);
}

/* With all of them shown nothing is sorted: a stream has the same numbers. */
static void test_best_of_n(void **state)
{
    struct sk_http_req r;
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5],\"n\":2,\"best_of\":2}");
    assert_int_equal(pretend.jobs[0].params.n_logprobs, -1);
    say(0, 0, "A", -5);
    say(0, 1, "B", -1);
    end(0, 0, SK_FINISH_LENGTH);
    end(0, 1, SK_FINISH_LENGTH);
    pretend_has(&r.reply, "\"index\":0,\"text\":\"A\"");
    pretend_end(&r);
}

static void test_best_of_with_logprobs(void **state)
{
    struct sk_http_req r;
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5],\"best_of\":2,\"logprobs\":0,\"return_token_ids\":true}");
    say(0, 0, "A", -5);
    say(0, 1, "B", -1);
    end(0, 0, SK_FINISH_LENGTH);
    end(0, 1, SK_FINISH_LENGTH);
    pretend_has(&r.reply, "\"choices\":[{\"index\":0,\"text\":\"B\",\"logprobs\":{\"tokens\":[\"B\"],"
                          "\"token_logprobs\":[-1]");
    pretend_end(&r);
}

/* --- figures --- */

static void test_bill(void **state)
{
    static const char bill[] =
        ",\"bill\":{\"queue_ms\":4.000,\"prefill_ms\":6.000,\"decode_ms\":9.000,\"cpu_ms\":3.000,"
        "\"kv_block_seconds\":0.500000,\"preemptions\":2,\"readmissions\":4}}";
    struct sk_http_req r;
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[[5],[6]],\"usage_bill\":true}");
    end(0, 0, SK_FINISH_LENGTH);
    end(1, 0, SK_FINISH_LENGTH);
    pretend_has(&r.reply, bill);
    pretend_end(&r);
    pretend_post(&r, COMPLETIONS,
                 "{\"prompt\":[[5],[6]],\"usage_bill\":true,\"stream\":true,\"stream_options\":{"
                 "\"include_usage\":true,\"continuous_usage_stats\":true}}");
    end(2, 0, SK_FINISH_LENGTH);
    assert_null(strstr(r.queue.p, "bill"));
    end(3, 0, SK_FINISH_LENGTH);
    pretend_has(&r.queue, bill);
    pretend_end(&r);
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5]}");
    end(4, 0, SK_FINISH_LENGTH);
    assert_null(strstr(r.reply.p, "bill"));
    pretend_end(&r);
}

static void assert_in_metrics(const char *name, int n)
{
    struct sk_buf b;
    char line[200];
    sk_buf_init(&b, 1 << 20);
    sk_metrics_write(pretend.server.metrics, &b);
    const char *p = strstr(b.p, name);
    for (snprintf(line, sizeof line, "%s{", name); p && strncmp(p, line, strlen(line)) != 0;)
        p = strstr(p + 1, name);
    assert_non_null(p);
    assert_int_equal(atoi(strchr(p, ' ') + 1), n);
    sk_buf_done(&b);
}

/* One time to the first token for each request, n - 1 times between the n tokens of a choice, one end. */
static void test_times(void **state)
{
    struct sk_http_req r;
    sk_clock_set(1000000);
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5],\"n\":2}");
    sk_clock_set(1250000);
    say(0, 0, "A", -1);
    say(0, 1, "A", -1);
    sk_clock_set(1350000);
    say(0, 0, "A", -1);
    say(0, 1, "A", -1);
    sk_clock_set(1500000);
    say(0, 1, "A", -1);
    end(0, 0, SK_FINISH_LENGTH);
    end(0, 1, SK_FINISH_EOS);
    pretend_end(&r);
    sk_clock_set(0);
    assert_in_metrics("vllm:time_to_first_token_seconds_count", 1);
    assert_in_metrics("vllm:inter_token_latency_seconds_count", 4);
    assert_in_metrics("vllm:e2e_request_latency_seconds_count", 1);
    assert_float_equal(metric(SK_METRIC_TTFT, NULL, NULL), 0.25, 1e-9);
    assert_float_equal(metric(SK_METRIC_ITL, NULL, NULL), 0.1 + 0.1 + 0.15 + 0.0, 1e-9);
    assert_float_equal(metric(SK_METRIC_E2E, NULL, NULL), 0.5, 1e-9);
    assert_true(metric(SK_METRIC_SUCCESS, "length", NULL) == 1 && metric(SK_METRIC_SUCCESS, "stop", NULL) == 1);
}

/* --- the log --- */

static int saved_stderr, log_fd;

static void begin_log(void)
{
    fflush(stderr);
    saved_stderr = dup(2);
    FILE *f = tmpfile();
    log_fd = dup(fileno(f));
    fclose(f);
    dup2(log_fd, 2);
}

static const char *end_log(void)
{
    static char text[1 << 16];
    fflush(stderr);
    dup2(saved_stderr, 2);
    close(saved_stderr);
    ssize_t n = pread(log_fd, text, sizeof text - 1, 0);
    close(log_fd);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

static void assert_line(const char *log, const char *text)
{
    if (!strstr(log, text))
        fail_msg("`%s` is not in: %s", text, log);
}

static void ask_with_log(const char *body)
{
    struct sk_http_req r;
    pretend.n_job = 0;
    pretend_begin(&r, "POST", COMPLETIONS);
    r.body = body;
    r.traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    begin_log();
    sk_api_request(&pretend.listener, &r);
    if (pretend.n_job) {
        say(0, 0, "A", -1);
        say(0, 0, "B", -1);
        end(0, 0, SK_FINISH_LENGTH);
    }
    pretend_end(&r);
}

static void test_log(void **state)
{
    ask_with_log("{\"prompt\":\"secret\",\"stream\":true}");
    const char *log = end_log();
    assert_line(log, "request id=id-1 trace=4bf92f3577b34da6a3ce929d0e0e4736 route=completions end=done status=200 ");
    assert_line(log, " cached_tok=1 answer_tok=2 choices=1 queue_ms=2 ttft_ms=");
    assert_line(log, " peer=192.0.2.1");
    assert_null(strstr(log, "secret"));
    assert_null(strstr(log, "AB"));
    ask_with_log("{\"prompt\":\"secret\",\"top_p\":3}");
    log = end_log();
    assert_line(log, "end=refused status=400 error=out_of_range prompt_tok=0 ");
    assert_null(strstr(log, "ttft_ms"));
    pretend.conf.access_log = false;
    ask_with_log("{\"prompt\":\"secret\"}");
    assert_string_equal(end_log(), "");
}

static void test_log_prompts(void **state)
{
    pretend.conf.log_prompts = true;
    ask_with_log("{\"prompt\":\"secret\",\"stream\":true}");
    const char *log = end_log();
    assert_line(log, "prompt id=id-1 index=0 text=secret");
    assert_line(log, "answer id=id-1 index=0 text=AB");
    ask_with_log("{\"prompt\":\"secret\"}");
    assert_line(end_log(), "answer id=id-1 index=0 text=AB");
}

static void test_trace(void **state)
{
    static const char *const wrong[] = {
        NULL,
        "",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
        "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
        "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736:00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7:01",
    };
    char id[SK_TRACE_DIGITS + 1];
    assert_int_equal(sk_account_trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", id), 0);
    assert_string_equal(id, "4bf92f3577b34da6a3ce929d0e0e4736");
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(sk_account_trace(wrong[i], id), -SK_EINVAL);
}

/* --- what a stream costs --- */

size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

static size_t bytes_in_use(void)
{
    return __sanitizer_get_current_allocated_bytes ? __sanitizer_get_current_allocated_bytes() : mallinfo2().uordblks;
}

static void test_tokens_allocate_nothing(void **state)
{
    struct sk_http_req r;
    pretend_post(&r, COMPLETIONS,
                 "{\"prompt\":[5],\"n\":2,\"stream\":true,\"logprobs\":2,\"stop\":[\"ZZ\"],\"max_tokens\":50,"
                 "\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}}");
    for (int i = 0; i < 8; i++) /* two of four are held back and come out with the third */
        say(0, (uint32_t)i % 2, i / 2 % 2 ? "Z" : "A", -1);
    uint64_t before = sk_mem_count();
    for (int i = 0; i < 40; i++) {
        sk_buf_clear(&r.queue);
        say(0, (uint32_t)i % 2, i / 2 % 2 ? "Z" : "A", -1);
    }
    assert_int_equal(sk_mem_count(), before);
    pretend_leave(&r);
}

enum { N_STREAM = 16, MAX_STREAM_BYTES = 10000 };

static void test_memory_of_a_stream(void **state)
{
    static struct sk_http_req r[N_STREAM];
    for (int i = 0; i < N_STREAM; i++)
        pretend_begin(&r[i], "POST", COMPLETIONS);
    size_t before = bytes_in_use();
    for (uint32_t i = 0; i < N_STREAM; i++) {
        r[i].body = "{\"prompt\":\"a prompt of some words\",\"stream\":true,\"max_tokens\":10,\"stop\":[\"ZZ\"]}";
        sk_api_request(&pretend.listener, &r[i]);
        say(i, 0, "A", -1);
    }
    size_t each = (bytes_in_use() - before) / N_STREAM;
    print_message("a stream: %zu bytes\n", each);
    assert_in_range(each, 1, MAX_STREAM_BYTES);
    for (int i = 0; i < N_STREAM; i++)
        pretend_leave(&r[i]);
}

static int set_up(void **state)
{
    pretend_open();
    return 0;
}

static int tear_down(void **state)
{
    pretend_close();
    return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    sk_log_init("test", SK_LOG_INFO);
    const struct CMUnitTest tests[] = {
        TEST(test_every_end),
        TEST(test_refused_before_anything),
        TEST(test_refused_as_a_whole),
        TEST(test_chat_ends),
        TEST(test_server_stops),
        TEST(test_cut_at_the_last_event),
        TEST(test_poison_and_deadline_texts),
        TEST(test_every_failing_allocation),
        TEST(test_deadlines_and_priority),
        TEST(test_salt),
        TEST(test_tenant),
        TEST(test_best_of),
        TEST(test_best_of_n),
        TEST(test_best_of_with_logprobs),
        TEST(test_bill),
        TEST(test_times),
        TEST(test_log),
        TEST(test_log_prompts),
        cmocka_unit_test(test_trace),
        TEST(test_tokens_allocate_nothing),
        TEST(test_memory_of_a_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

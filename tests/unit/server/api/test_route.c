/* Requests from the path to the last byte, over a pretended http, engine and template helper. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "comm/base/json.h"
#include "comm/base/mem.h"
#include "server/api/route.h"
#include "tests/unit/server/api/fixture.h"
#include "tests/unit/server/api/pretend.h"

#define COMPLETIONS "/v1/completions"
#define CHAT        "/v1/chat/completions"
#define MESSAGES    "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static int32_t id_of(const char *word)
{
    int id = sk_vocab_find(pretend.server.models[0]->vocab, word, strlen(word));
    assert_true(id >= 0);
    return id;
}

static void assert_has(const struct sk_buf *b, const char *text)
{
    if (!b->p || !strstr(b->p, text))
        fail_msg("`%s` is not in: %s", text, b->p ? b->p : "(nothing)");
}

static size_t count(const struct sk_buf *b, const char *text)
{
    size_t n = 0;
    for (const char *p = b->p; p && (p = strstr(p, text)); p++)
        n++;
    return n;
}

static void expect_error(const char *path, const char *body, int status, const char *text)
{
    struct sk_http_req r;
    uint32_t n_job = pretend.n_job;
    pretend_post(&r, path, body);
    assert_int_equal(r.status, status);
    assert_has(&r.reply, text);
    assert_int_equal(pretend.n_job, n_job);
    pretend_end(&r);
}

static void call(struct sk_http_req *r, const char *method, const char *path)
{
    pretend_begin(r, method, path);
    sk_api_request(&pretend.listener, r);
}

static void test_methods(void **state)
{
    static const struct {
        const char *method, *path;
        int status;
    } cases[] = {
        {"GET", "/health", 200},
        {"HEAD", "/health", 200},
        {"OPTIONS", "/health", 204},
        {"POST", "/health", 405},
        {"GET", COMPLETIONS, 405},
        {"OPTIONS", CHAT, 204},
        {"GET", "/", 200},
        {"HEAD", "/", 200},
        {"GET", "/web/page.css", 200},
        {"GET", "/x", 404},
        {"OPTIONS", "/x", 404},
        {"GET", "/v1/models/tiny", 200},
        {"GET", "/v1/models/x", 404},
        {"GET", "/v1/models/", 404},
        {"GET", "/v1/modelsx", 404},
        {"GET", "/version", 200},
        {"POST", "/v1/embeddings", 501},
        {"BREW", "/version", 405},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sk_http_req r;
        call(&r, cases[i].method, cases[i].path);
        if (r.status != cases[i].status)
            fail_msg("%s %s: %d", cases[i].method, cases[i].path, r.status);
        assert_true((pretend_header(&r, "Allow") != NULL) == (r.status == 405 || r.status == 204));
        pretend_end(&r);
    }
}

static void test_not_ready(void **state)
{
    struct sk_http_req r;
    pretend.engine = SK_ENGINE_BUILDING;
    pretend.server.models[0]->loaded = false;
    call(&r, "GET", "/health");
    assert_int_equal(r.status, 503);
    assert_has(&r.reply, "building 43 %");
    assert_non_null(pretend_header(&r, "Retry-After"));
    pretend_end(&r);
    expect_error(COMPLETIONS, "{\"prompt\":\"x\"}", 503, "building 43 %");
    pretend.server.models[0]->loaded = true;
    pretend.engine = SK_ENGINE_READY;
    pretend.server.draining = true;
    expect_error(COMPLETIONS, "{\"prompt\":\"x\"}", 503, "stopping");
    call(&r, "GET", "/ready");
    assert_int_equal(r.status, 503);
    pretend_end(&r);
    call(&r, "GET", "/health");
    assert_int_equal(r.status, 200);
    pretend_end(&r);
}

static void test_whole_answer(void **state)
{
    struct sk_http_req r;
    const int32_t ids[] = {id_of("A"), id_of("B"), id_of("C")};
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5,6,7],\"max_tokens\":3}");
    struct sk_job *j = &pretend.jobs[0];
    assert_int_equal(j->req.n_prompt, 3);
    assert_int_equal(j->prompt[2], 7);
    assert_int_equal(j->params.max_tokens, 3);
    pretend_tokens(j, 0, ids, 1, SK_FINISH_NONE, 0);
    assert_int_equal(r.status, 0);
    pretend_tokens(j, 0, ids + 1, 2, SK_FINISH_LENGTH, 0);
    assert_int_equal(r.status, 200);
    assert_has(&r.reply, "\"text\":\"ABC\"");
    assert_has(&r.reply, "\"finish_reason\":\"length\"");
    assert_has(&r.reply, "\"prompt_tokens\":3,\"completion_tokens\":3,\"total_tokens\":6,\"prompt_tokens_details\":{"
                         "\"cached_tokens\":1}");
    assert_false(j->freed);
    pretend_end(&r);
    assert_true(j->freed);
}

static void test_eos_is_no_text(void **state)
{
    struct sk_http_req r;
    const int32_t a = id_of("A");
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5],\"include_stop_str_in_output\":true}");
    pretend_tokens(&pretend.jobs[0], 0, &a, 1, SK_FINISH_EOS, 2);
    assert_has(&r.reply, "\"text\":\"A\",\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null");
    assert_has(&r.reply, "\"completion_tokens\":2,");
    pretend_end(&r);
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5],\"include_stop_str_in_output\":true,\"stop_token_ids\":[50]}");
    pretend_tokens(&pretend.jobs[1], 0, &a, 1, SK_FINISH_STOP_ID, id_of("B"));
    assert_has(&r.reply, "\"text\":\"AB\"");
    assert_has(&r.reply, "\"completion_tokens\":2,"); /* the token that stopped it was computed */
    pretend_end(&r);
}

/* Tokens behind the stop string, in the same step or later, are neither text nor billed. */
static void test_stop_string(void **state)
{
    struct sk_http_req r;
    const int32_t ids[] = {id_of("A"), id_of("B"), id_of("C"), id_of("D")};
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5],\"n\":2,\"stop\":[\"x\",\"BC\"]}");
    struct sk_job *j = &pretend.jobs[0];
    pretend_tokens(j, 1, ids, 4, SK_FINISH_NONE, 0);
    assert_int_equal(j->cancelled, 2);
    assert_int_equal(r.status, 0);
    pretend_tokens(j, 0, ids, 2, SK_FINISH_LENGTH, 0);
    assert_int_equal(r.status, 200);
    assert_has(&r.reply, "\"index\":0,\"text\":\"AB\",\"logprobs\":null,\"finish_reason\":\"length\"");
    assert_has(&r.reply,
               "\"index\":1,\"text\":\"A\",\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":\"BC\"");
    assert_has(&r.reply, "\"completion_tokens\":5,");
    pretend_end(&r);
}

static void test_min_tokens_keeps_stop_strings_off(void **state)
{
    struct sk_http_req r;
    const int32_t ids[] = {id_of("A"), id_of("A"), id_of("A"), id_of("A")};
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5],\"stop\":\"A\",\"min_tokens\":3}");
    pretend_tokens(&pretend.jobs[0], 0, ids, 4, SK_FINISH_LENGTH, 0);
    assert_has(&r.reply, "\"text\":\"AA\"");
    assert_has(&r.reply, "\"completion_tokens\":3,");
    pretend_end(&r);
}

static void test_stream(void **state)
{
    struct sk_http_req r;
    const int32_t ids[] = {id_of("A"), id_of("B"), id_of("C")};
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5],\"stream\":true,\"stop\":\"BD\",\"logprobs\":0}");
    struct sk_job *j = &pretend.jobs[0];
    assert_true(r.stream);
    assert_string_equal(r.content_type, "text/event-stream");
    pretend_tokens(j, 0, ids, 1, SK_FINISH_NONE, 0);
    assert_int_equal(count(&r.queue, "data: "), 1);
    assert_has(&r.queue, "\"text\":\"A\",\"logprobs\":{\"tokens\":[\"A\"]");
    pretend_tokens(j, 0, ids + 1, 1, SK_FINISH_NONE, 0); /* held back: the stop string may follow */
    assert_int_equal(count(&r.queue, "data: "), 1);
    pretend_tokens(j, 0, ids + 2, 1, SK_FINISH_NONE, 0);
    assert_has(&r.queue, "\"text\":\"BC\",\"logprobs\":{\"tokens\":[\"B\",\"C\"]");
    assert_has(&r.queue, "\"text_offset\":[1,2]");
    pretend_tokens(j, 0, ids + 1, 1, SK_FINISH_LENGTH, 0);
    assert_has(&r.queue, "\"text\":\"B\",\"logprobs\":{\"tokens\":[\"B\"]");
    assert_true(r.ended);
    assert_string_equal(r.queue.p + r.queue.n - strlen("data: [DONE]\n\n"), "data: [DONE]\n\n");
    assert_int_equal(count(&r.queue, "\"finish_reason\":\"length\""), 1);
    pretend_end(&r);
}

static void test_error_in_a_stream(void **state)
{
    struct sk_http_req r;
    const int32_t a = id_of("A");
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[[5],[6]],\"stream\":true}");
    pretend_tokens(&pretend.jobs[0], 0, &a, 1, SK_FINISH_NONE, 0);
    pretend_tokens(&pretend.jobs[1], 0, NULL, 0, SK_FINISH_ERROR, SK_ENOBLK);
    assert_has(&r.queue, "data: {\"error\":{\"message\":");
    assert_has(&r.queue, "\"code\":\"no_kv_blocks\"}}\n\ndata: [DONE]\n\n");
    assert_true(r.ended);
    assert_int_equal(pretend.jobs[0].cancelled, UINT32_MAX);
    pretend_end(&r);
}

static void test_error_of_a_whole_answer(void **state)
{
    struct sk_http_req r;
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5],\"n\":2}");
    pretend_tokens(&pretend.jobs[0], 1, NULL, 0, SK_FINISH_ERROR, SK_EINTERNAL);
    assert_int_equal(r.status, 500);
    assert_int_equal(pretend.jobs[0].cancelled, UINT32_MAX);
    pretend_end(&r);
}

static void test_queue_full(void **state)
{
    struct sk_http_req r;
    pretend.submit_fails = -SK_EQUEUE;
    pretend.fail_at = 2;
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[[5],[6],[7]],\"stream\":true}");
    assert_int_equal(r.status, 429);
    assert_false(r.stream);
    assert_non_null(pretend_header(&r, "Retry-After"));
    assert_int_equal(pretend.jobs[0].cancelled, UINT32_MAX);
    assert_int_equal(pretend.jobs[1].cancelled, UINT32_MAX);
    pretend_end(&r);
}

static void test_client_goes_away(void **state)
{
    struct sk_http_req r;
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[5],\"stream\":true}");
    pretend_leave(&r);
    assert_int_equal(pretend.jobs[0].cancelled, UINT32_MAX);
    assert_true(pretend.jobs[0].freed);
    pretend_post(&r, CHAT, "{" MESSAGES "}");
    assert_non_null(pretend.render_cb);
    pretend_leave(&r);
    assert_int_equal(pretend.cancelled_render, 7);
    assert_null(pretend.render_cb);
    pretend_post(&r, "/tokenize", "{" MESSAGES "}");
    assert_non_null(pretend.render_cb);
    pretend.cancelled_render = 0;
    pretend_leave(&r);
    assert_int_equal(pretend.cancelled_render, 7);
}

static void test_server_stops(void **state)
{
    struct sk_http_req whole, stream, chat;
    pretend_post(&whole, COMPLETIONS, "{\"prompt\":[5]}");
    pretend_post(&stream, COMPLETIONS, "{\"prompt\":[5],\"stream\":true}");
    pretend_post(&chat, CHAT, "{" MESSAGES "}");
    sk_api_close(&pretend.server);
    assert_int_equal(whole.status, 503);
    assert_int_equal(chat.status, 503);
    assert_has(&stream.queue, "\"code\":\"unavailable\"");
    assert_true(stream.ended);
    assert_true(pretend.jobs[0].freed && pretend.jobs[1].freed);
    pretend_end(&whole);
    pretend_end(&stream);
    pretend_end(&chat);
    struct sk_http_req late;
    call(&late, "GET", "/v1/models");
    assert_int_equal(late.status, 503);
    pretend_end(&late);
}

static void test_several_prompts(void **state)
{
    struct sk_http_req r;
    const int32_t a = id_of("A"), b = id_of("B");
    pretend_post(&r, COMPLETIONS, "{\"prompt\":[\"x\",\"y\"],\"n\":2,\"echo\":true}");
    assert_int_equal(pretend.n_job, 2);
    for (uint32_t i = 0; i < 4; i++)
        pretend_tokens(&pretend.jobs[i / 2], i % 2, i % 2 ? &b : &a, 1, SK_FINISH_LENGTH, 0);
    assert_has(&r.reply, "\"index\":0,\"text\":\"xA\"");
    assert_has(&r.reply, "\"index\":1,\"text\":\"xB\"");
    assert_has(&r.reply, "\"index\":2,\"text\":\"yA\"");
    assert_has(&r.reply, "\"index\":3,\"text\":\"yB\"");
    assert_has(&r.reply, "\"prompt_tokens\":2,\"completion_tokens\":4,");
    pretend_end(&r);
}

static void test_echo_logprobs(void **state)
{
    struct sk_http_req r;
    const int32_t a = id_of("A");
    char body[128];
    snprintf(body, sizeof body, "{\"prompt\":[%d,%d,%d],\"echo\":true,\"logprobs\":1,\"max_tokens\":1}", id_of("X"),
             id_of("Y"), id_of("Z"));
    pretend_post(&r, COMPLETIONS, body);
    pretend_prompt(&pretend.jobs[0], 0);
    pretend_prompt(&pretend.jobs[0], 0); /* more than there are: passed over */
    pretend_tokens(&pretend.jobs[0], 0, &a, 1, SK_FINISH_LENGTH, 0);
    assert_has(
        &r.reply,
        "\"text\":\"XYZA\",\"logprobs\":{\"tokens\":[\"X\",\"Y\",\"Z\",\"A\"],\"token_logprobs\":[null,-0.5,-0.5,-0.5],"
        "\"top_logprobs\":[null,{\"Y\":-0.5},{\"Z\":-0.5},{\"A\":-0.5}],\"text_offset\":[0,1,2,3]}");
    pretend_end(&r);
}

static void test_chat(void **state)
{
    struct sk_http_req r;
    const int32_t a = id_of("A");
    pretend_post(&r, CHAT, "{\"chat_template_kwargs\":{\"k\":[1]},\"stream\":true,\"max_tokens\":1," MESSAGES "}");
    assert_string_equal(pretend.rendered,
                        "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"tools\":null,\"kwargs\":{\"k\":[1]},"
                        "\"add_generation_prompt\":true,\"continue_final_message\":false,\"chat_template\":null}");
    assert_int_equal(r.status, 0);
    pretend_render("<|im_start|>hi");
    assert_int_equal(pretend.jobs[0].prompt[0], id_of("<|im_start|>"));
    assert_true(r.stream);
    assert_int_equal(r.queue.n, 0); /* the role comes with the first token, not before it */
    pretend_tokens(&pretend.jobs[0], 0, &a, 1, SK_FINISH_LENGTH, 0);
    assert_int_equal(count(&r.queue, "\"role\":\"assistant\""), 1);
    assert_has(&r.queue, "\"delta\":{\"content\":\"A\"},\"logprobs\":null,\"finish_reason\":\"length\"");
    pretend_end(&r);
}

/* What a user writes with the guard in it is text; the guard itself is no input. */
static void test_guard(void **state)
{
    struct sk_http_req r;
    pretend_post(&r, CHAT, "{" MESSAGES "}");
    pretend_render("<" SK_TOKEN_GUARD "|im_start|>");
    struct sk_job *j = &pretend.jobs[0];
    for (uint32_t i = 0; i < j->req.n_prompt; i++)
        assert_true(j->prompt[i] != id_of("<|im_start|>"));
    pretend_leave(&r);
    expect_error(COMPLETIONS, "{\"prompt\":\"a\\ufdd0\"}", 400, "\"param\":\"prompt\"");
    expect_error(CHAT, "{" MESSAGES ",\"tools\":[{\"type\":\"function\",\"function\":{\"\\ufdd0\":1}}]}", 400,
                 "\"param\":\"tools\"");
}

static void test_keys(void **state)
{
    struct sk_err err;
    struct sk_http_req r;
    char path[] = "/tmp/sk-keys-XXXXXX";
    int fd = mkstemp(path);
    FILE *f = fdopen(fd, "w");
    fputs("k1\n", f);
    fclose(f);
    sk_api_close(&pretend.server);
    strcpy(pretend.conf.api_key_file, path);
    assert_int_equal(sk_api_open(&pretend.server, &err), 0);
    call(&r, "GET", "/v1/models");
    assert_int_equal(r.status, 401);
    assert_string_equal(pretend_header(&r, "WWW-Authenticate"), "Bearer");
    pretend_end(&r);
    call(&r, "GET", "/ready");
    assert_int_equal(r.status, 200);
    pretend_end(&r);
    pretend_begin(&r, "GET", "/v1/models");
    r.authorization = "Bearer k1";
    sk_api_request(&pretend.listener, &r);
    assert_int_equal(r.status, 200);
    pretend_end(&r);
    remove(path);
}

/* Each allocation of a request fails once: an error, or an answer, but no leak and no second reply. */
static void test_out_of_memory(void **state)
{
    static const char body[] = "{\"prompt\":[\"x\",\"y\"],\"n\":2,\"echo\":true,\"logprobs\":1,\"stop\":[\"q\"],\"bad_"
                               "words\":[\"z\"],\"max_tokens\":1}";
    const int32_t a = id_of("A");
    int status = 0;
    for (uint64_t n = 1; status != 200; n++) {
        struct sk_http_req r;
        pretend.n_job = 0;
        assert_true(n < 1000);
        pretend_begin(&r, "POST", COMPLETIONS);
        r.body = body;
        sk_mem_fail_at(n, 0);
        sk_api_request(&pretend.listener, &r);
        for (uint32_t i = 0; i < 4 && r.status == 0 && pretend.n_job == 2; i++)
            pretend_tokens(&pretend.jobs[i / 2], i % 2, &a, 1, SK_FINISH_LENGTH, 0);
        sk_mem_fail_at(0, 0);
        status = r.status;
        assert_true(status == 200 || status == 500);
        pretend_end(&r);
        for (uint32_t i = 0; i < pretend.n_job; i++)
            assert_true(pretend.jobs[i].freed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_methods, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_not_ready, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_whole_answer, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_eos_is_no_text, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_stop_string, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_min_tokens_keeps_stop_strings_off, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_stream, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_error_in_a_stream, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_error_of_a_whole_answer, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_queue_full, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_client_goes_away, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_server_stops, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_several_prompts, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_echo_logprobs, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_chat, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_guard, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_keys, pretend_set_up, pretend_tear_down),
        cmocka_unit_test_setup_teardown(test_out_of_memory, pretend_set_up, pretend_tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

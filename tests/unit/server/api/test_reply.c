/* The JSON of answers, to the byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "comm/base/json.h"
#include "server/api/reply.h"
#include "server/http/http.h"
#include "server/job/job.h"
#include "tests/unit/server/api/fixture.h"

static struct sk_vocab *vocab;
static struct sk_buf out;

/* The answer that reply.c gave last: "STATUS NAME: VALUE; NAME: VALUE; ". */
static char answered[512];

void sk_http_reply(struct sk_http_req *r, int status, const struct sk_http_headers *h, const char *body, size_t n)
{
    int at = snprintf(answered, sizeof answered, "%d ", status);
    for (uint32_t i = 0; i < h->n; i++) {
        if (h->more[i].value)
            at += snprintf(answered + at, sizeof answered - (size_t)at, "%s: %s; ", h->more[i].name, h->more[i].value);
    }
    sk_buf_add(&out, body, n);
}

static int32_t id_of(const char *word)
{
    int id = sk_vocab_find(vocab, word, strlen(word));
    assert_true(id >= 0);
    return id;
}

/* What was written since the last call. */
static const char *written(void)
{
    static char text[8192];
    assert_int_equal(out.failed, 0);
    assert_true(out.n < sizeof text);
    memcpy(text, out.p, out.n);
    text[out.n] = '\0';
    sk_buf_clear(&out);
    struct cJSON *v = NULL;
    if (text[0] == '{' || text[0] == '[') {
        assert_int_equal(sk_json_parse(text, strlen(text), 1 << 20, &v, NULL), 0);
        sk_json_free(v);
    }
    return text;
}

struct full_item {
    struct sk_wire_item it;
    struct sk_wire_top top[3];
};

static void add(struct sk_logprobs *l, int32_t id, float logprob, int32_t rank, uint16_t n_top,
                const struct sk_wire_top *top)
{
    struct full_item f = {.it = {.id = id, .logprob = logprob, .rank = rank, .n_top = n_top}};
    for (uint16_t i = 0; i < n_top; i++)
        f.top[i] = top[i];
    assert_int_equal(sk_logprobs_add(l, &f.it), 0);
}

static void test_chat_logprobs(void **state)
{
    struct sk_logprobs l;
    const struct sk_logprobs_style st = {.vocab = vocab, .n_top = 2},
                                   ids = {.vocab = vocab, .n_top = 1, .as_ids = true};
    const struct sk_wire_top top[] = {{id_of("A"), -0.25f}, {id_of("B"), -2}, {id_of("C"), -3}};
    char want[512];
    sk_logprobs_init(&l);
    sk_logprobs_put_chat(&out, &l, &st);
    assert_string_equal(written(), "{\"content\":[],\"refusal\":null}");
    add(&l, id_of("B"), -2, 2, 3, top);
    sk_logprobs_put_chat(&out, &l, &st);
    assert_string_equal(
        written(),
        "{\"content\":[{\"token\":\"B\",\"logprob\":-2,\"bytes\":[66],\"top_logprobs\":["
        "{\"token\":\"A\",\"logprob\":-0.25,\"bytes\":[65]},{\"token\":\"B\",\"logprob\":-2,\"bytes\":[66]}]}],"
        "\"refusal\":null}");
    sk_logprobs_put_chat(&out, &l, &ids);
    snprintf(want, sizeof want,
             "{\"content\":[{\"token\":\"token_id:%d\",\"logprob\":-2,\"bytes\":[66],\"top_logprobs\":["
             "{\"token\":\"token_id:%d\",\"logprob\":-0.25,\"bytes\":[65]}]}],\"refusal\":null}",
             id_of("B"), id_of("A"));
    assert_string_equal(written(), want);
    sk_logprobs_done(&l);
}

static void test_legacy_logprobs(void **state)
{
    struct sk_logprobs l;
    const struct sk_logprobs_style st = {.vocab = vocab, .n_top = 1};
    const struct sk_wire_top top[] = {{id_of("A"), -0.25f}};
    uint32_t offset = 5;
    sk_logprobs_init(&l);
    assert_int_equal(sk_logprobs_add_bare(&l, id_of("A"), false), 0);
    add(&l, id_of("B"), -INFINITY, 9, 1, top);
    add(&l, id_of("A"), -0.25f, 1, 1, top);
    sk_logprobs_put_legacy(&out, &l, &st, &offset);
    assert_string_equal(written(),
                        "{\"tokens\":[\"A\",\"B\",\"A\"],\"token_logprobs\":[null,-9999.0,-0.25],"
                        "\"top_logprobs\":[null,{\"B\":-9999.0,\"A\":-0.25},{\"A\":-0.25}],\"text_offset\":[5,6,7]}");
    assert_int_equal(offset, 8);
    sk_logprobs_done(&l);
}

static void test_hidden_first_token(void **state)
{
    struct sk_logprobs l;
    const struct sk_logprobs_style st = {.vocab = vocab};
    uint32_t offset = 0;
    sk_logprobs_init(&l);
    assert_int_equal(sk_logprobs_add_bare(&l, id_of("<|endoftext|>"), true), 0);
    add(&l, id_of("A"), -1, 1, 0, NULL);
    sk_logprobs_put_legacy(&out, &l, &st, &offset);
    assert_non_null(strstr(written(), "\"text_offset\":[0,0]"));
    sk_logprobs_done(&l);
}

/* Parts of characters all read U+FFFD: one key, with the value of the first. Their offset is that of the character. */
static void test_parts_of_characters(void **state)
{
    struct sk_logprobs l;
    const struct sk_logprobs_style st = {.vocab = vocab, .n_top = 3};
    int32_t part[3], n = 0;
    for (uint32_t id = 0; n < 3 && id < sk_vocab_size(vocab); id++) {
        size_t len;
        const char *s = sk_vocab_bytes(vocab, id, &len);
        if (len == 1 && ((unsigned char)*s & 0xC0) == 0x80)
            part[n++] = (int32_t)id;
    }
    assert_int_equal(n, 3);
    const struct sk_wire_top top[] = {{part[1], -0.5f}, {part[0], -1}, {id_of("A"), -2}};
    uint32_t offset = 0;
    sk_logprobs_init(&l);
    add(&l, part[0], -1, 2, 3, top);
    sk_logprobs_put_legacy(&out, &l, &st, &offset);
    assert_string_equal(
        written(),
        "{\"tokens\":[\"\xEF\xBF\xBD\"],\"token_logprobs\":[-1],\"top_logprobs\":[{\"\xEF\xBF\xBD\":-1,\"A\":-2}],"
        "\"text_offset\":[0]}");
    assert_int_equal(offset, 0);
    sk_logprobs_put_chat(&out, &l, &st);
    char bytes[32];
    size_t len;
    snprintf(bytes, sizeof bytes, "\"bytes\":[%u]", (unsigned char)*sk_vocab_bytes(vocab, (uint32_t)part[0], &len));
    assert_non_null(strstr(written(), bytes));
    sk_logprobs_done(&l);
}

static void test_prompt_logprobs(void **state)
{
    struct sk_logprobs l;
    const struct sk_logprobs_style st = {.vocab = vocab, .n_top = 2};
    const struct sk_wire_top top[] = {{id_of("A"), -0.25f}, {id_of("B"), -2}, {id_of("C"), -3}};
    char want[512];
    sk_logprobs_init(&l);
    assert_int_equal(sk_logprobs_add_bare(&l, id_of("A"), true), 0);
    add(&l, id_of("C"), -3, 3, 3, top);
    add(&l, id_of("A"), -0.25f, 1, 3, top);
    sk_logprobs_put_prompt(&out, &l, &st);
    snprintf(want, sizeof want,
             "[null,{\"%d\":{\"logprob\":-3,\"rank\":3,\"decoded_token\":\"C\"},\"%d\":{\"logprob\":-0.25,\"rank\":1,"
             "\"decoded_token\":\"A\"},"
             "\"%d\":{\"logprob\":-2,\"rank\":2,\"decoded_token\":\"B\"}},"
             "{\"%d\":{\"logprob\":-0.25,\"rank\":1,\"decoded_token\":\"A\"},\"%d\":{\"logprob\":-2,\"rank\":2,"
             "\"decoded_token\":\"B\"}}]",
             id_of("C"), id_of("A"), id_of("B"), id_of("A"), id_of("B"));
    assert_string_equal(written(), want);
    sk_logprobs_put_ids(&out, &l);
    snprintf(want, sizeof want, "[%d,%d]", id_of("C"), id_of("A"));
    assert_string_equal(written(), want);
    sk_logprobs_done(&l);
}

/* Ids between the tokenizer's and the model's size: rows that pad the embedding. */
static void test_ids_without_words(void **state)
{
    struct sk_logprobs l;
    const struct sk_logprobs_style st = {.vocab = vocab};
    sk_logprobs_init(&l);
    add(&l, 1000000, -1, 1, 0, NULL);
    add(&l, -5, -1, 1, 0, NULL);
    sk_logprobs_put_chat(&out, &l, &st);
    assert_non_null(strstr(written(), "{\"token\":\"\",\"logprob\":-1,\"bytes\":[],\"top_logprobs\":[]}"));
    sk_logprobs_done(&l);
}

static const struct sk_reply_usage usage = {.n_prompt = 3, .n_answer = 2, .n_cached = 1};
#define HEAD(object)                                                                                                   \
    "{\"id\":\"i\",\"object\":\"" object "\",\"created\":7,\"model\":\"m\",\"system_fingerprint\":\"f\",\"choices\":["
#define USAGE                                                                                                          \
    ",\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5,\"prompt_tokens_details\":{\"cached_"  \
    "tokens\":1},"                                                                                                     \
    "\"completion_tokens_details\":{\"reasoning_tokens\":0}}"

static void test_completion(void **state)
{
    const struct sk_reply r = {.id = "i", .model = "m", .fingerprint = "f", .created = 7};
    const struct sk_reply_choice a = {.text = "x\"\n", .n_text = 3, .finish = "length", .stop_id = -1},
                                 b = {.index = 1, .text = "", .finish = "stop", .stop_id = 2},
                                 c = {.index = 2, .text = "", .finish = "stop", .stop_id = -1, .stop_str = "END"};
    sk_reply_open(&out, &r);
    sk_reply_choice(&out, &r, &a);
    sk_reply_choice(&out, &r, &b);
    sk_reply_choice(&out, &r, &c);
    sk_reply_close(&out, &r, NULL, &usage);
    assert_string_equal(
        written(),
        HEAD("text_completion") "{\"index\":0,\"text\":\"x\\\"\\n\",\"logprobs\":null,\"finish_reason\":\"length\","
                                "\"stop_reason\":null},{\"index\":1,\"text\":\"\",\"logprobs\":null,"
                                "\"finish_reason\":\"stop\",\"stop_reason\":2},{\"index\":2,\"text\":\"\","
                                "\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":\"END\"}]" USAGE "}");
}

static void test_chat(void **state)
{
    const int32_t ids[] = {1, 2};
    const struct sk_reply r = {
        .chat = true, .id = "i", .model = "m", .fingerprint = "f", .created = 7, .token_ids = true};
    struct sk_logprobs l;
    sk_logprobs_init(&l);
    add(&l, 9, -1, 1, 0, NULL);
    const struct sk_reply_choice a = {
        .text = "x", .n_text = 1, .finish = "stop", .stop_id = -1, .tokens = &l, .prompt_ids = ids, .n_prompt = 2};
    sk_reply_open(&out, &r);
    sk_reply_choice(&out, &r, &a);
    sk_reply_close(&out, &r, &a, &usage);
    assert_string_equal(
        written(),
        HEAD("chat.completion") "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"x\",\"refusal\":null},"
                                "\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null,"
                                "\"token_ids\":[9]}],\"prompt_token_ids\":[1,2]" USAGE "}");
    sk_logprobs_done(&l);
}

static void test_chunks(void **state)
{
    const struct sk_reply r = {
        .chat = true, .stream = true, .id = "i", .model = "m", .fingerprint = "f", .created = 7, .usage = true};
    const struct sk_reply_choice role = {.role = true, .stop_id = -1}, text = {.text = "x", .n_text = 1, .stop_id = -1},
                                 last = {.text = "", .finish = "stop", .stop_id = -1};
    sk_reply_open(&out, &r);
    sk_reply_choice(&out, &r, &role);
    sk_reply_close(&out, &r, &role, NULL);
    assert_string_equal(written(), HEAD("chat.completion.chunk") "{\"index\":0,\"delta\":{\"role\":\"assistant\","
                                                                 "\"content\":\"\"},\"logprobs\":null,"
                                                                 "\"finish_reason\":null}],\"usage\":null}");
    sk_reply_open(&out, &r);
    sk_reply_choice(&out, &r, &text);
    sk_reply_close(&out, &r, &text, NULL);
    assert_non_null(strstr(written(), "\"delta\":{\"content\":\"x\"},\"logprobs\":null,\"finish_reason\":null}]"));
    sk_reply_open(&out, &r);
    sk_reply_choice(&out, &r, &last);
    sk_reply_close(&out, &r, &last, NULL);
    assert_non_null(
        strstr(written(), "\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null}]"));
    sk_reply_open(&out, &r);
    sk_reply_close(&out, &r, NULL, &usage);
    assert_string_equal(written(), HEAD("chat.completion.chunk") "]" USAGE "}");
}

static void test_error(void **state)
{
    struct sk_err err;
    sk_err_set(&err, SK_ERANGE, "top_p", "too \"big\"");
    sk_reply_error(&out, &err);
    assert_string_equal(
        written(), "{\"error\":{\"message\":\"too "
                   "\\\"big\\\"\",\"type\":\"invalid_request_error\",\"param\":\"top_p\",\"code\":\"out_of_range\"}}");
    err = (struct sk_err){.code = SK_EUNAVAIL};
    sk_reply_error(&out, &err);
    assert_string_equal(
        written(),
        "{\"error\":{\"message\":\"unavailable\",\"type\":\"server_error\",\"param\":null,\"code\":\"unavailable\"}}");
}

static void expect_answer(int code, uint32_t retry_ms, const char *want)
{
    struct sk_err err;
    sk_err_set(&err, code, NULL, "x");
    err.retry_ms = retry_ms;
    sk_reply_send_error(NULL, &err);
    assert_string_equal(answered, want);
    assert_non_null(strstr(written(), "{\"error\":{\"message\":\"x\""));
}

static void test_error_headers(void **state)
{
    expect_answer(SK_ERANGE, 0, "400 x-should-retry: false; ");
    expect_answer(SK_EAUTH, 0, "401 x-should-retry: false; WWW-Authenticate: Bearer; ");
    expect_answer(SK_EQUEUE, 0, "429 x-should-retry: true; Retry-After: 1; retry-after-ms: 1000; ");
    expect_answer(SK_ERATE, 2001, "429 x-should-retry: true; Retry-After: 3; retry-after-ms: 2001; ");
    expect_answer(SK_EBEHIND, 1, "429 x-should-retry: true; Retry-After: 1; retry-after-ms: 1; ");
    expect_answer(SK_EUNAVAIL, UINT32_MAX,
                  "503 x-should-retry: true; Retry-After: 4294968; retry-after-ms: 4294967295; ");
    expect_answer(SK_EINTERNAL, 0, "500 x-should-retry: true; ");
    expect_answer(SK_EPOISON, 0, "500 x-should-retry: false; ");
    expect_answer(SK_EDEADLINE, 5, "504 x-should-retry: false; ");
}

static void test_bill(void **state)
{
    const struct sk_reply r = {.id = "i", .model = "m", .fingerprint = "f", .created = 7};
    const struct sk_job_bill bill = {
        .queue_us = 1, .prefill_us = 1500, .decode_us = 2000000, .cpu_us = 7, .blk_us = 1, .n_preempt = 3};
    struct sk_reply_usage u = usage;
    u.bill = &bill;
    sk_reply_open(&out, &r);
    sk_reply_close(&out, &r, NULL, &u);
    assert_non_null(strstr(written(), ",\"bill\":{\"queue_ms\":0.001,\"prefill_ms\":1.500,\"decode_ms\":2000.000,"
                                      "\"cpu_ms\":0.007,\"kv_block_seconds\":0.000001,\"preemptions\":3,"
                                      "\"readmissions\":0}}}"));
}

static int set_up(void **state)
{
    vocab = fixture_vocab();
    sk_buf_init(&out, 1 << 20);
    return 0;
}

static int tear_down(void **state)
{
    sk_buf_done(&out);
    sk_vocab_close(vocab);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat_logprobs),
        cmocka_unit_test(test_legacy_logprobs),
        cmocka_unit_test(test_hidden_first_token),
        cmocka_unit_test(test_parts_of_characters),
        cmocka_unit_test(test_prompt_logprobs),
        cmocka_unit_test(test_ids_without_words),
        cmocka_unit_test(test_completion),
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_error),
        cmocka_unit_test(test_error_headers),
        cmocka_unit_test(test_bill),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

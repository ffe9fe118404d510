/* Every parser, table and buffer with its n-th allocation failing, for each n: it says -SK_ENOMEM (or does without),
 * leaks nothing (the sanitizer build sees that) and works the next time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "comm/base/conf.h"
#include "comm/base/json.h"
#include "comm/base/mem.h"
#include "comm/wire/board.h"
#include "comm/wire/chan.h"
#include "comm/wire/plan.h"
#include "server/api/auth.h"
#include "server/api/messages.h"
#include "server/api/params.h"
#include "server/metrics/metrics.h"
#include "server/text/detok.h"
#include "server/text/token.h"
#include "tests/unit/server/api/fixture.h"

enum { MAX_BYTES = 1 << 20 };

static struct sk_vocab *vocab;

static void fail_each_with(int (*run)(void), bool forever)
{
    uint64_t before = sk_mem_count();
    assert_int_equal(run(), 0);
    uint64_t n = sk_mem_count() - before;
    assert_true(n > 0);
    for (uint64_t i = 1; i <= n; i++) {
        sk_mem_fail_at(i, forever);
        int rc = run();
        sk_mem_fail_at(0, 0);
        if (rc != 0)
            assert_int_equal(rc, -SK_ENOMEM);
    }
    assert_int_equal(run(), 0);
}

static void fail_each(int (*run)(void))
{
    fail_each_with(run, false);
    fail_each_with(run, true);
}

/* ---- JSON and requests ---- */

static const char chat[] =
    "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":\"Be kind.\"},{\"role\":\"user\",\"content\":["
    "{\"type\":\"text\",\"text\":\"Hi "
    "\\u00e9\\ud83d\\ude00\"}]}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":"
    "\"f\",\"parameters\":{}}}],\"temperature\":0.5,\"seed\":7,\"stop\":[\"a\",\"bc\"],\"logit_bias\":{\"7\":1.5,\"9\":"
    "-3},"
    "\"bad_words\":[\"bird\",\"a cat\"],\"stop_token_ids\":[5,6],\"allowed_token_ids\":[1,2,3,9],\"logprobs\":true,"
    "\"top_logprobs\":2,\"n\":2,\"max_tokens\":5,\"request_id\":\"r-1\"}";

static int run_json(void)
{
    struct cJSON *v;
    struct sk_err err;
    struct sk_buf b;
    sk_buf_init(&b, MAX_BYTES);
    int rc = sk_json_parse(chat, strlen(chat), MAX_BYTES, &v, &err);
    if (rc)
        return rc;
    rc = sk_json_print(&b, v);
    sk_json_free(v);
    sk_buf_done(&b);
    return rc;
}

static int run_request(void)
{
    struct sk_conf conf;
    struct cJSON *v = NULL;
    struct sk_token *token = NULL;
    struct sk_api_params p;
    struct sk_params w;
    struct sk_arena arena;
    struct sk_buf b;
    struct sk_err err;
    sk_conf_defaults(&conf);
    sk_arena_init(&arena, MAX_BYTES);
    sk_buf_init(&b, MAX_BYTES);
    int rc = sk_json_parse(chat, strlen(chat), MAX_BYTES, &v, &err);
    if (!rc)
        rc = sk_token_new(vocab, &token, &err);
    const struct sk_api_rules rules = {.conf = &conf, .token = token, .n_vocab = N_VOCAB, .max_len = MAX_LEN};
    if (!rc)
        rc = sk_api_params_parse(SK_API_CHAT, v, &rules, &arena, &p, &err);
    if (!rc)
        rc = sk_api_params_fit(&p, SK_API_CHAT, &rules, 3, &w, &err);
    if (!rc)
        rc = sk_messages_put(v, &b, &err);
    sk_json_free(v);
    sk_token_free(token);
    sk_arena_done(&arena);
    sk_buf_done(&b);
    return rc;
}

static int run_text(void)
{
    static const char text[] = "A bird, \xc3\xa9\xf0\x9f\x98\x80 and 12,345 more.\n";
    struct sk_token *token = NULL;
    struct sk_buf b;
    struct sk_err err;
    int32_t *ids = NULL;
    size_t n = 0;
    sk_buf_init(&b, MAX_BYTES);
    int rc = sk_token_new(vocab, &token, &err);
    if (!rc)
        rc = sk_token_encode(token, text, strlen(text), SK_TOKEN_PLAIN, true, 1000, &ids, &n, &err);
    if (!rc)
        rc = sk_token_decode(vocab, ids, n, true, &b, &err);
    sk_free(ids);
    sk_token_free(token);
    sk_buf_done(&b);
    return rc;
}

static void test_requests(void **state)
{
    fail_each(run_json);
    fail_each(run_request);
    fail_each(run_text);
}

/* ---- configuration, keys, figures ---- */

static int run_conf(void)
{
    static const char text[] = "# a comment\nmax-seqs = 7\nmodel = \"/a b\"\nkv-memory = 1.5G\n";
    char *argv[64];
    struct sk_conf c, other;
    struct sk_buf names;
    struct sk_err err;
    sk_buf_init(&names, MAX_BYTES);
    sk_conf_defaults(&c);
    sk_conf_defaults(&other);
    int rc = sk_conf_text(&c, SK_PROG_DAEMON, "f", text, strlen(text), &err);
    if (!rc) {
        sk_conf_reload(&other, &c, SK_PROG_DAEMON, &names);
        rc = names.failed;
    }
    int n = sk_conf_to_args(&c, SK_PROG_ENGINE, argv, 64);
    for (int i = 0; i < n; i++)
        sk_free(argv[i]);
    sk_buf_done(&names);
    return rc ? rc : n < 0 ? n : 0;
}

static int run_keys(void)
{
    static const char text[] =
        "# keys\nalice sha256:0000000000000000000000000000000000000000000000000000000000000001 rpm=10 cache=g\n"
        "bob sha256:0000000000000000000000000000000000000000000000000000000000000002 scope=inference,admin weight=2\n"
        "a-bare-key\n";
    struct sk_auth *a = NULL;
    struct sk_tenants *t = NULL;
    struct sk_err err;
    int rc = sk_auth_parse("keys", text, strlen(text), &a, &err);
    if (!rc)
        rc = sk_tenants_new(&t);
    if (!rc)
        rc = sk_auth_bind(a, t, &err);
    sk_auth_free(a);
    if (t)
        sk_tenants_free(t);
    return rc;
}

/* Where there is no memory for a series, its value is lost, and no more. */
static int run_metrics(void)
{
    struct sk_metrics *m;
    struct sk_buf b;
    int rc = sk_metrics_new(&m);
    if (rc)
        return rc;
    sk_buf_init(&b, MAX_BYTES);
    sk_metrics_name(m, "model", "0");
    sk_metric_add(m, SK_METRIC_REQUESTS, 1, "done", NULL);
    sk_metric_add(m, SK_METRIC_KEY_REQUESTS, 1, "alice", "done");
    sk_metric_observe(m, SK_METRIC_TTFT, 0.1);
    sk_metrics_write(m, &b);
    rc = b.failed;
    sk_buf_done(&b);
    sk_metrics_free(m);
    return rc;
}

static void test_tables(void **state)
{
    fail_each(run_conf);
    fail_each(run_keys);
    fail_each(run_metrics);
}

/* ---- between processes ---- */

static int put_frames(struct sk_buf *b)
{
    static const int32_t tok[] = {1, 2, 3};
    static const struct sk_wire_view_seq held = {.job = 1, .n_prompt = 3};
    struct sk_wire_seq seq = {.job = 1, .n_done = 3};
    size_t at;
    sk_params_default(&seq.params);
    int rc = sk_wire_put_prompt(b, 1, 1, tok, 3);
    rc = rc ? rc : sk_wire_put_seq(b, &seq, NULL, tok);
    rc = rc ? rc : sk_wire_put_peek(b, 1, 0, tok, 3);
    rc = rc ? rc : sk_wire_put_view(b, &(struct sk_wire_view){.number = 1, .n_seq = 1}, &held);
    sk_wire_tokens_begin(b, &at, 1);
    sk_wire_tokens_entry(b, &(struct sk_wire_entry){.job = 1, .n_item = 1});
    sk_wire_tokens_item(b, &(struct sk_wire_item){.id = 1}, NULL);
    return rc ? rc : sk_wire_tokens_end(b, at, 1, 0);
}

/* Short of memory, a channel is broken: whoever reads it is told so. */
static int run_channel(void)
{
    struct sk_chan from, to;
    const struct sk_frame *f;
    int fds[2], n = 0;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    sk_chan_init(&from, fds[0], MAX_BYTES);
    sk_chan_init(&to, fds[1], MAX_BYTES);
    int rc = put_frames(&from.out);
    if (!rc && sk_chan_flush(&from) != 0)
        rc = -SK_ENOMEM;
    if (!rc && sk_chan_fill(&to) != 0)
        rc = -SK_ENOMEM;
    while (!rc && sk_chan_next(&to, &f) == 1)
        n++;
    assert_true(rc || n == 5);
    sk_chan_done(&from);
    sk_chan_done(&to);
    return rc;
}

static int run_plan(void)
{
    struct sk_plan_open o = {.slot = 0, .n_prompt = 2};
    struct sk_buf b, text;
    sk_buf_init(&b, MAX_BYTES);
    sk_buf_init(&text, MAX_BYTES);
    sk_params_default(&o.params);
    sk_plan_begin(&b, 1);
    sk_plan_put_open(&b, &o, NULL);
    sk_plan_put_tok(&b, 0, 0, (const int32_t[]){1, 2}, 2);
    sk_plan_put_run(&b, 0, 0, 2, SK_RUN_SAMPLE, 0);
    int rc = sk_plan_end(&b, 2, 1);
    if (!rc)
        rc = sk_plan_dump(b.p, &text);
    sk_buf_done(&b);
    sk_buf_done(&text);
    return rc;
}

static int run_board(void)
{
    struct sk_board b = {0};
    struct sk_buf copy;
    struct sk_err err;
    uint64_t number;
    int fd;
    int rc = sk_board_make(4, 8, 4096, &fd, &b, &err);
    if (rc)
        return rc;
    memcpy(sk_board_segment_data(&b, 0), "0123456789abcdef", 16);
    b.head->segment[0].n_byte = 16;
    b.head->segment[0].number = 1;
    sk_buf_init(&copy, MAX_BYTES);
    rc = sk_board_copy_segment(&b, 1, &copy, &number);
    if (rc >= 0) {
        int more = sk_board_copy_segment(&b, 0, &copy, &number);
        assert_true(more < 0 || rc + more == 1);
        rc = more < 0 ? more : 0;
    }
    sk_buf_done(&copy);
    sk_board_unmap(&b);
    close(fd);
    return rc;
}

static void test_processes(void **state)
{
    fail_each(run_channel);
    fail_each(run_plan);
    fail_each(run_board);
}

static int setup(void **state)
{
    vocab = fixture_vocab();
    return 0;
}

static int teardown(void **state)
{
    sk_vocab_close(vocab);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_processes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

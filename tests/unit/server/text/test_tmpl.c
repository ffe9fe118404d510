/* Chat templates against what transformers makes of them (tests/golden/chat), and helpers that misbehave. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <uv.h>
#include "comm/base/buf.h"
#include "comm/base/json.h"
#include "comm/base/mem.h"
#include "server/text/helper.h"
#include "server/text/tmpl.h"
#include "server/text/token.h"

enum { MAX_OUT = 1 << 20, PATIENT_MS = 60000, WALL_MS = 1000 };

static uv_loop_t loop;

struct result {
    int rc, n_calls;
    char *text;
    struct sk_err err;
};

static void on_render(void *arg, int rc, const char *text, size_t n, const struct sk_err *err)
{
    struct result *r = arg;
    r->rc = rc;
    r->n_calls++;
    r->text = text ? strndup(text, n) : NULL;
    if (err)
        r->err = *err;
}

static void wait_for(struct result *r)
{
    while (r->n_calls == 0)
        uv_run(&loop, UV_RUN_ONCE);
}

static struct sk_tmpl *open_limited(const char *source, const char *bos, const char *eos, int wall_ms)
{
    static const char *const guarded[] = {"<|im_start|>", "<|im_end|>", "<|endoftext|>"};
    const struct sk_tmpl_conf conf = {.source = source,
                                      .bos_token = bos,
                                      .eos_token = eos,
                                      .guarded = guarded,
                                      .n_guarded = 3,
                                      .wall_ms = wall_ms,
                                      .max_out_bytes = MAX_OUT};
    struct sk_tmpl *t;
    struct sk_err err;
    assert_int_equal(sk_tmpl_new(&loop, &conf, &t, &err), 0);
    return t;
}

static struct sk_tmpl *open_tmpl(const char *source, const char *bos, const char *eos)
{
    return open_limited(source, bos, eos, PATIENT_MS);
}

static void close_tmpl(struct sk_tmpl *t)
{
    sk_tmpl_close(t, NULL, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
}

static struct result render(struct sk_tmpl *t, const char *json)
{
    struct result r = {0};
    struct sk_err err;
    assert_true(sk_tmpl_render(t, json, strlen(json), on_render, &r, &err) > 0);
    wait_for(&r);
    return r;
}

static void expect_text(struct sk_tmpl *t, const char *json, const char *expected)
{
    struct result r = render(t, json);
    if (r.rc != 0)
        fail_msg("%s: %s", json, r.err.msg);
    assert_string_equal(r.text, expected);
    free(r.text);
}

static void expect_error(struct sk_tmpl *t, const char *json, int rc, const char *holds)
{
    struct result r = render(t, json);
    if (r.rc != rc || !strstr(r.err.msg, holds))
        fail_msg("%s: rc %d, %s", json, r.rc, r.rc ? r.err.msg : r.text);
    free(r.text);
}

static const char *golden(const char *name)
{
    static char path[512];
    const char *root = getenv("SK_SRCDIR");
    snprintf(path, sizeof path, "%s/tests/golden/chat/%s", root ? root : ".", name);
    return path;
}

static struct cJSON *load(const char *name)
{
    const char *path = golden(name);
    struct cJSON *v;
    struct sk_err err;
    if (sk_json_load(path, 1 << 20, &v, &err) != 0)
        fail_msg("%s", err.msg);
    return v;
}

static void put(struct sk_buf *b, const char *key, const struct cJSON *v)
{
    sk_buf_fmt(b, "\"%s\":", key);
    if (v)
        sk_json_print(b, v);
    else
        sk_buf_str(b, "null");
    sk_buf_char(b, ',');
}

/* The case as the API would send it; kwargs less the two that have fields of their own. */
static void put_case(struct sk_buf *b, const struct cJSON *c)
{
    const struct cJSON *kwargs = sk_json_get(c, "kwargs"), *k;
    const char *sep = "";
    sk_buf_char(b, '{');
    put(b, "messages", sk_json_get(c, "messages"));
    put(b, "tools", sk_json_get(c, "tools"));
    put(b, "add_generation_prompt", sk_json_get(kwargs, "add_generation_prompt"));
    put(b, "continue_final_message", sk_json_get(kwargs, "continue_final_message"));
    sk_buf_str(b, "\"kwargs\":{");
    for (k = sk_json_first(kwargs); k; k = sk_json_next(k)) {
        if (strcmp(sk_json_key(k), "add_generation_prompt") == 0 ||
            strcmp(sk_json_key(k), "continue_final_message") == 0)
            continue;
        sk_buf_fmt(b, "%s\"%s\":", sep, sk_json_key(k));
        sk_json_print(b, k);
        sep = ",";
    }
    sk_buf_str(b, "}}");
}

static int remove_guards(char *s)
{
    size_t n = strlen(SK_TOKEN_GUARD);
    int count = 0;
    for (char *p; (p = strstr(s, SK_TOKEN_GUARD)); count++)
        memmove(p, p + n, strlen(p + n) + 1);
    return count;
}

/* Errors in transformers that the normalisation of OpenAI's forms takes away. */
static bool is_normalised(const char *name)
{
    static const char *const names[] = {"tool_call_string_args", "content_list", "system_list", "null_content"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(name, names[i]) == 0)
            return true;
    }
    return false;
}

static void check_model(const char *file)
{
    struct cJSON *v = load(file);
    const char *bos = sk_json_str(sk_json_get(v, "bos_token")), *eos = sk_json_str(sk_json_get(v, "eos_token"));
    struct sk_tmpl *t = open_tmpl(sk_json_str(sk_json_get(v, "chat_template")), bos ? bos : "", eos ? eos : "");
    struct sk_buf b;
    int n = 0, n_guards = 0;
    sk_buf_init(&b, 1 << 20);
    for (const struct cJSON *c = sk_json_first(sk_json_get(v, "cases")); c; c = sk_json_next(c), n++) {
        const char *name = sk_json_str(sk_json_get(c, "name")), *expected = sk_json_str(sk_json_get(c, "expected"));
        sk_buf_clear(&b);
        put_case(&b, c);
        struct result r = render(t, b.p);
        if (expected ? r.rc != 0 : (r.rc == 0) != is_normalised(name))
            fail_msg("%s %s: rc %d %s", file, name, r.rc, r.err.msg);
        if (r.rc == 0)
            n_guards += remove_guards(r.text);
        if (expected)
            assert_string_equal(r.text, expected);
        free(r.text);
    }
    assert_int_equal(n, 33);
    assert_true(n_guards > 0); /* special_in_text has some */
    sk_buf_done(&b);
    sk_json_free(v);
    close_tmpl(t);
}

static void test_smollm2(void **state)
{
    check_model("smollm2.json");
}

static void test_qwen3(void **state)
{
    check_model("qwen3.json");
}

/* The first array under that key, as it is written: a parsed 1.0 would be printed as 1. */
static void put_raw_array(struct sk_buf *b, const char *text, const char *key)
{
    int depth = 0;
    const char *p = strchr(strstr(text, key), '[');
    sk_buf_fmt(b, "\"%s\":", key);
    do {
        depth += *p == '[' ? 1 : *p == ']' ? -1 : 0;
        sk_buf_char(b, *p++);
    } while (depth > 0);
    sk_buf_char(b, ',');
}

static void test_features(void **state)
{
    struct cJSON *v = load("jinja.json");
    const struct cJSON *vars = sk_json_get(v, "vars");
    struct sk_tmpl *t = open_tmpl("unused", "<s>", "</s>");
    struct sk_buf b, file;
    int n = 0;
    sk_buf_init(&b, 1 << 20);
    sk_buf_init(&file, 1 << 20);
    assert_int_equal(sk_buf_file(&file, golden("jinja.json"), NULL), 0);
    for (const struct cJSON *c = sk_json_first(sk_json_get(v, "cases")); c; c = sk_json_next(c), n++) {
        static const char *const extra[] = {"n", "x", "s", "e", "d"};
        const char *expected = sk_json_str(sk_json_get(c, "expected"));
        sk_buf_clear(&b);
        sk_buf_char(&b, '{');
        put(&b, "messages", sk_json_get(vars, "messages"));
        put_raw_array(&b, file.p, "tools");
        put(&b, "chat_template", sk_json_get(c, "template"));
        sk_buf_str(&b, "\"add_generation_prompt\":true,\"kwargs\":{");
        for (int i = 0; i < 5; i++)
            put(&b, extra[i], sk_json_get(vars, extra[i]));
        b.n--; /* the last comma */
        sk_buf_str(&b, "}}");
        if (expected)
            expect_text(t, b.p, expected);
        else
            expect_error(t, b.p, -SK_ETMPL, sk_json_str(sk_json_get(c, "error")));
    }
    assert_true(n > 25);
    sk_buf_done(&file);
    sk_buf_done(&b);
    sk_json_free(v);
    close_tmpl(t);
}

static void test_guard(void **state)
{
    struct sk_tmpl *t = open_tmpl(
        "{% for m in messages %}<|im_start|>{{ m.content }}{{ m.name }}{% endfor %}{{ tools | tojson }}", "", "");
    expect_text(t,
                "{\"messages\":[{\"content\":\"a<|im_end|>\",\"name\":\"<|<|im_start|>\"}],\"tools\":[{\"<|im_end|>\":"
                "\"<|endoftext|>\"}]}",
                "<|im_start|>a<" SK_TOKEN_GUARD "|im_end|><|<" SK_TOKEN_GUARD "|im_start|>[{\"<" SK_TOKEN_GUARD
                "|im_end|>\": \"<" SK_TOKEN_GUARD "|endoftext|>\"}]");
    expect_error(t, "{\"messages\":[{\"content\":\"\xEF\xB7\x90\"}]}", -SK_ETMPL, "U+FDD0");
    expect_error(t, "{\"messages\":[{\"content\":\"a\"}],\"kwargs\":{\"messages\":[]}}", -SK_ETMPL, "messages");
    close_tmpl(t);
}

static void test_endless(void **state)
{
    struct sk_tmpl *t = open_limited("{{ messages[0].content }}", "", "", WALL_MS);
    expect_error(t,
                 "{\"messages\":[{}],\"chat_template\":\"{% for i in range(99999) %}{% for j in range(99999) %}{% "
                 "endfor %}{% endfor %}\"}",
                 -SK_ETIMEOUT, "1000 ms");
    expect_text(t, "{\"messages\":[{\"content\":\"fine\"}]}", "fine"); /* by another helper */
    close_tmpl(t);
}

static void test_misbehaviour(void **state)
{
    struct sk_tmpl *t = open_tmpl("{{ messages[0].content }}", "", "");
    const char *ok = "{\"messages\":[{\"content\":\"fine\"}]}";
    expect_text(t, ok, "fine");
    expect_text(t, ok, "fine");
    expect_error(t, "{\"messages\":[{}],\"chat_template\":\"{{ 'a' * 2000000000 }}\"}", -SK_ETMPL, "memory");
    expect_error(t, "{\"messages\":[{}],\"chat_template\":\"{{ '%2000000000d' | format(1) }}\"}", -SK_ETMPL, "memory");
    expect_error(t, "{\"messages\":[{}],\"chat_template\":\"{% for i in range(99999) %}0123456789012345{% endfor %}\"}",
                 -SK_ETOOBIG, "too long");
    expect_error(t, "{\"messages\":[{}],\"chat_template\":\"{{ 'a' * 1048577 }}\"}", -SK_ETOOBIG, "too long");
    expect_error(t, "{\"messages\":[{}],\"chat_template\":\"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}\"}",
                 -SK_ETMPL, "recurs");
    expect_error(t, "{\"messages\":[{}],\"chat_template\":\"{% if %}\"}", -SK_ETMPL, "");
    expect_error(t, "{\"messages\":[{}],\"chat_template\":\"{{ raise_exception('no ' ~ 'such') }}\"}", -SK_ETMPL,
                 "no such");
    expect_text(t, ok, "fine");
    close_tmpl(t);
}

static void test_sandbox(void **state)
{
    static const char *const escapes[] = {
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('id') }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ ('{0.__class__' ~ '}') | attr('for' ~ 'mat')(1) }}",
        "{{ range(10**9) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
    };
    struct sk_tmpl *t = open_tmpl("x", "", "");
    for (size_t i = 0; i < sizeof escapes / sizeof escapes[0]; i++) {
        struct sk_buf b;
        sk_buf_init(&b, 4096);
        sk_buf_str(&b, "{\"messages\":[{}],\"chat_template\":");
        sk_json_quote(&b, escapes[i], strlen(escapes[i]));
        sk_buf_char(&b, '}');
        struct result r = render(t, b.p); /* what is out of bounds is an error, or undefined and so nothing */
        if (r.rc == 0 ? r.text[0] != '\0' : r.rc != -SK_ETMPL)
            fail_msg("%s: rc %d %s", escapes[i], r.rc, r.text);
        free(r.text);
        sk_buf_done(&b);
    }
    close_tmpl(t);
}

/* The helpers are the only children of this program. */
static int kill_children(void)
{
    char path[64], line[256] = "", *p = line, *end;
    int n = 0;
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    if (!fgets(line, sizeof line, f))
        line[0] = '\0';
    fclose(f);
    for (long pid; (pid = strtol(p, &end, 10)) > 0 && end != p; p = end, n++)
        kill((pid_t)pid, SIGKILL);
    return n;
}

static void test_killed_helper(void **state)
{
    struct sk_tmpl *t = open_tmpl("{{ messages[0].content }}", "", "");
    const char *ok = "{\"messages\":[{\"content\":\"fine\"}]}";
    struct result r[8] = {0};
    struct sk_err err;
    expect_text(t, ok, "fine");
    assert_int_equal(sk_tmpl_restarts(t), 0);
    assert_true(kill_children() >= 1);
    for (int i = 0; i < 8; i++)
        assert_true(sk_tmpl_render(t, ok, strlen(ok), on_render, &r[i], &err) > 0);
    sk_tmpl_cancel(t, sk_tmpl_render(t, ok, strlen(ok), on_render, NULL, &err));
    sk_tmpl_cancel(t, 12345);
    for (int i = 0; i < 8; i++) {
        wait_for(&r[i]);
        assert_int_equal(r[i].rc, 0);
        assert_int_equal(r[i].n_calls, 1);
        free(r[i].text);
    }
    assert_in_range(sk_tmpl_restarts(t), 1, 2);
    assert_true(kill_children() <= 2);
    close_tmpl(t);
}

/* A frame as a helper would send it, of which n_came bytes have come. */
static int read_frame(uint32_t len, const char *body, size_t n_body, size_t n_came, struct sk_helper_frame *ret)
{
    static struct sk_buf rx;
    sk_buf_done(&rx);
    sk_buf_init(&rx, 64);
    sk_buf_add(&rx, &len, sizeof len);
    sk_buf_add(&rx, body, n_body);
    rx.n = n_came;
    return sk_helper_read(&rx, ret);
}

static void test_frames(void **state)
{
    struct sk_helper_frame f;
    for (size_t n = 0; n < 4 + 6; n++)
        assert_int_equal(read_frame(6, "Ohello", 6, n, &f), 0);
    assert_int_equal(read_frame(6, "Ohello", 6, 4 + 6, &f), 1);
    assert_int_equal(f.letter, SK_HELPER_OUTPUT);
    assert_int_equal(f.n, 5);
    assert_memory_equal(f.text, "hello", 5);
    assert_int_equal(read_frame(1, "R", 1, 4 + 1, &f), 1);
    assert_int_equal(f.n, 0);
    assert_int_equal(read_frame(0, "", 0, 4, &f), -SK_EPROTO);
    assert_int_equal(read_frame(61, "", 0, 4, &f), -SK_EPROTO); /* never fits */
    assert_int_equal(read_frame(60, "", 0, 4, &f), 0);
    assert_int_equal(read_frame(UINT32_MAX, "", 0, 4, &f), -SK_EPROTO);
    assert_int_equal(read_frame(2, "Oab", 3, 4 + 3, &f), -SK_EPROTO); /* more than one */
    assert_int_equal(read_frame(6, "X", 1, 4 + 1, &f), -SK_EPROTO);
}

static void test_limits(void **state)
{
    struct sk_err err;
    struct sk_tmpl *t = open_tmpl(NULL, "", "");
    assert_int_equal(sk_tmpl_render(t, "{}", 2, on_render, NULL, &err), -SK_EUNSUP);
    assert_non_null(strstr(err.msg, "--chat-template"));
    close_tmpl(t);

    t = open_tmpl("{% if %}", "", "");
    expect_error(t, "{\"messages\":[{}]}", -SK_ETMPL, "does not compile");
    expect_error(t, "{\"messages\":[{}]}", -SK_ETMPL, "does not compile");
    close_tmpl(t);

    enum { MANY = 10000 };
    struct result *r = calloc(MANY, sizeof *r);
    int rc = 0, n = 0;
    t = open_tmpl("x", "", "");
    while (n < MANY && (rc = sk_tmpl_render(t, "{\"messages\":[{}]}", 17, on_render, &r[n], &err)) > 0)
        n++;
    assert_int_equal(rc, -SK_EQUEUE);
    uv_run(&loop, UV_RUN_NOWAIT); /* one or two are being rendered, the others wait */
    uv_run(&loop, UV_RUN_NOWAIT);
    close_tmpl(t);
    for (int i = 0; i < n; i++) {
        assert_int_equal(r[i].n_calls, 1);
        assert_true(r[i].rc == -SK_EUNAVAIL);
    }
    free(r);
}

/* An answer that cannot be taken for want of memory is no fault of the template's. */
static void test_no_memory(void **state)
{
    static const char json[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}";
    struct sk_tmpl *t = open_tmpl("x", "", "");
    struct result r = {0};
    struct sk_err err;
    expect_text(t, json, "x");
    assert_true(sk_tmpl_render(t, json, strlen(json), on_render, &r, &err) > 0);
    sk_mem_fail_at(1, 1);
    wait_for(&r);
    sk_mem_fail_at(0, 0);
    assert_int_equal(r.rc, -SK_ENOMEM);
    expect_text(t, json, "x");
    close_tmpl(t);
}

/* The last one that fits may fill the queue a little more than that, and then nothing fits. */
static void test_queued_bytes(void **state)
{
    enum { MAX_QUEUED_BYTES = 256 << 20 };
    struct result r = {0};
    struct sk_err err;
    struct sk_tmpl *t = open_tmpl("x", "", "");
    char *json = mmap(NULL, MAX_QUEUED_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(json != MAP_FAILED);
    assert_int_equal(sk_tmpl_render(t, json, MAX_QUEUED_BYTES + 1, on_render, &r, &err), -SK_EQUEUE);
    int id = sk_tmpl_render(t, json, MAX_QUEUED_BYTES - 2, on_render, &r, &err);
    assert_true(id > 0);
    assert_int_equal(sk_tmpl_render(t, json, 1, on_render, &r, &err), -SK_EQUEUE);
    sk_tmpl_cancel(t, id);
    munmap(json, MAX_QUEUED_BYTES);
    close_tmpl(t);
}

static int setup(void **state)
{
    signal(SIGPIPE, SIG_IGN);
    return uv_loop_init(&loop);
}

static int teardown(void **state)
{
    return uv_loop_close(&loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_smollm2),   cmocka_unit_test(test_qwen3),         cmocka_unit_test(test_features),
        cmocka_unit_test(test_guard),     cmocka_unit_test(test_endless),       cmocka_unit_test(test_misbehaviour),
        cmocka_unit_test(test_sandbox),   cmocka_unit_test(test_killed_helper), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_no_memory), cmocka_unit_test(test_frames),        cmocka_unit_test(test_queued_bytes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "clients/bench/trace.h"

static int read_text(struct sk_trace *t, const char *s, struct sk_err *err)
{
    *err = (struct sk_err){0};
    return sk_trace_text(t, "f", s, strlen(s), err);
}

static void test_lines(void **state)
{
    struct sk_trace t;
    struct sk_err err;
    assert_int_equal(read_text(&t,
                               "{\"timestamp\":2500,\"input_length\":7,\"output_length\":3}\r\n\n"
                               "{\"timestamp\":500,\"prompt\":\"hi \\u00e9\",\"max_tokens\":9}\n"
                               "{\"timestamp\":2500,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
                               &err),
                     0);
    assert_int_equal(t.n, 3);
    assert_int_equal(t.n_timed, 3);
    assert_int_equal(t.n_messages, 1);
    assert_int_equal(t.n_bad, 0);
    /* by time, from the first on; the file's order within a moment */
    assert_true(t.items[0].at_ms == 0 && t.items[1].at_ms == 2000 && t.items[2].at_ms == 2000);
    assert_string_equal(t.items[0].turns[0].text, "hi \xc3\xa9");
    assert_int_equal(t.items[0].turns[0].n_out, 9);
    assert_int_equal(t.items[1].turns[0].n_in, 7);
    assert_int_equal(t.items[1].turns[0].n_out, 3);
    assert_string_equal(t.items[2].turns[0].messages, "[{\"role\":\"user\",\"content\":\"x\"}]");
    sk_trace_done(&t);
}

static void test_half_valid(void **state)
{
    struct sk_trace t;
    struct sk_err err;
    assert_int_equal(
        read_text(&t,
                  "{\"prompt\":\"a\"}\n{\"prompt\":\n[1]\n{\"input_length\":0}\n{\"prompt\":5}\n"
                  "{\"x\":1}\n{\"prompt\":\"b\",\"timestamp\":-1}\n{\"prompt\":\"c\"}\n{\"prompt\":\"\xff\"}\n",
                  &err),
        0);
    assert_int_equal(t.n, 2);
    assert_int_equal(t.n_bad, 7);
    assert_non_null(strstr(t.bad.p, "f:2: "));
    assert_non_null(strstr(t.bad.p, "f:3: "));
    assert_non_null(strstr(t.bad.p, "f:4: input_length"));
    assert_null(strstr(t.bad.p, "f:9: ")); /* the first ones only */
    assert_string_equal(t.items[1].turns[0].text, "c");
    sk_trace_done(&t);
}

static void test_sharegpt(void **state)
{
    struct sk_trace t;
    struct sk_err err;
    assert_int_equal(
        read_text(
            &t,
            " [{\"id\":\"1\",\"conversations\":[{\"from\":\"human\",\"value\":\"q1\"},{\"from\":\"gpt\",\"value\":"
            "\"12345678\"},{\"from\":\"human\",\"value\":\"q2\"}]},\n{\"conversations\":[{\"from\":\"gpt\",\"value\":"
            "\"alone\"}]},{\"conversations\":[{\"from\":\"user\",\"value\":\"q3\"}]}]",
            &err),
        0);
    assert_int_equal(t.n, 2);
    assert_int_equal(t.n_bad, 1);
    assert_non_null(strstr(t.bad.p, "f:2: "));
    assert_int_equal(t.items[0].n_turn, 2);
    assert_string_equal(t.items[0].turns[1].text, "q2");
    assert_int_equal(t.items[0].turns[0].n_out, 3);
    assert_int_equal(t.items[0].turns[1].n_out, 0);
    assert_string_equal(t.items[1].turns[0].text, "q3");
    assert_int_equal(t.n_timed, 0);
    sk_trace_done(&t);
}

static void test_nothing(void **state)
{
    static const char *const all[] = {"", "\n \n", "[]", "[", "{}", "x\ny", "[{\"conversations\":1}]"};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct sk_trace t;
        struct sk_err err;
        assert_true(read_text(&t, all[i], &err) < 0);
        assert_non_null(strstr(err.msg, "f"));
        sk_trace_done(&t);
    }
    struct sk_trace t;
    struct sk_err err = {0};
    assert_int_equal(sk_trace_read(&t, "/nowhere/x.jsonl", &err), -SK_ENOENT);
    sk_trace_done(&t);
}

static void test_out_of_memory(void **state)
{
    static const char *const all[] = {
        "{\"prompt\":\"a\"}\n{\"messages\":[{}]}\n{\"input_length\":3,\"timestamp\":1}\n",
        "[{\"conversations\":[{\"from\":\"human\",\"value\":\"q\"},{\"from\":\"gpt\",\"value\":\"a\"}]}]"};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        int rc = -SK_ENOMEM;
        for (uint64_t n = 1; rc; n++) {
            struct sk_trace t;
            struct sk_err err;
            sk_mem_fail_at(n, 0);
            rc = read_text(&t, all[i], &err);
            sk_mem_fail_at(0, 0);
            assert_true(rc == 0 || rc == -SK_ENOMEM);
            assert_true(rc || t.n_bad == 0);
            sk_trace_done(&t);
            assert_true(n < 1000);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lines), cmocka_unit_test(test_half_valid),
                                       cmocka_unit_test(test_sharegpt), cmocka_unit_test(test_nothing),
                                       cmocka_unit_test(test_out_of_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

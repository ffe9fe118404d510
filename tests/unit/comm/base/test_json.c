#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/base/json.h"
#include "comm/base/mem.h"
#include "comm/base/rng.h"

static struct cJSON *parse(const char *s)
{
    struct cJSON *v = NULL;
    struct sk_err err = {0};
    if (sk_json_parse(s, strlen(s), SIZE_MAX, &v, &err))
        fail_msg("%s: %s", s, err.msg);
    return v;
}

static void test_accepts(void **state)
{
    static const char *const good[] = {
        "null",
        " true ",
        "\t\r\nfalse",
        "0",
        "-0",
        "-1.5e+3",
        "1E5",
        "1e999",
        "\"\"",
        "[]",
        "{}",
        "[ ]",
        "{ }",
        "[1,2]",
        "{\"a\":1,\"a\":2}",
        "\"\\ud83d\\ude00\"",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\"",
        "\"\xC3\xA9\xF0\x9F\x98\x80\x7F\"",
        "123456789012345678901234567890123456789012345678901234567890123",
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        sk_json_free(parse(good[i]));
}

static void test_refuses(void **state)
{
    static const struct {
        const char *text;
        int code, line, column;
    } bad[] = {
        {"", SK_EJSON, 1, 1},
        {" ", SK_EJSON, 1, 2},
        {"nul", SK_EJSON, 1, 1},
        {"True", SK_EJSON, 1, 1},
        {"NaN", SK_EJSON, 1, 1},
        {"01", SK_EJSON, 1, 2},
        {"+1", SK_EJSON, 1, 1},
        {".5", SK_EJSON, 1, 1},
        {"1.", SK_EJSON, 1, 3},
        {"-", SK_EJSON, 1, 2},
        {"1e", SK_EJSON, 1, 3},
        {"1e+", SK_EJSON, 1, 4},
        {"0x10", SK_EJSON, 1, 2},
        {"1234567890123456789012345678901234567890123456789012345678901234", SK_EJSON, 1, 1},
        {"[1,]", SK_EJSON, 1, 4},
        {"[1 2]", SK_EJSON, 1, 4},
        {"[\n1,\n  x]", SK_EJSON, 3, 3},
        {"[1", SK_EJSON, 1, 3},
        {"]", SK_EJSON, 1, 1},
        {"{\"a\":1,}", SK_EJSON, 1, 8},
        {"{a:1}", SK_EJSON, 1, 2},
        {"{\"a\" 1}", SK_EJSON, 1, 6},
        {"{\"a\":}", SK_EJSON, 1, 6},
        {"{} x", SK_EJSON, 1, 4},
        {"\xEF\xBB\xBF{}", SK_EJSON, 1, 1},
        {"/* */1", SK_EJSON, 1, 1},
        {"\"a", SK_EJSON, 1, 3},
        {"\"a\nb\"", SK_EJSON, 1, 3},
        {"\"\\x\"", SK_EJSON, 1, 3},
        {"\"\\u12G4\"", SK_EJSON, 1, 6},
        {"\"a\\u0000\"", SK_EJSON, 1, 3},
        {"\"a\\ud800\"", SK_EJSON, 1, 3},
        {"\"\\ud800\\u0041\"", SK_EJSON, 1, 2},
        {"\"\\ude00\"", SK_EJSON, 1, 2},
        {"\"a\xC3\"", SK_EUTF8, 1, 3},
        {"\"\xED\xA0\x80\"", SK_EUTF8, 1, 2},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct cJSON *v = NULL;
        struct sk_err err = {0};
        char where[64];
        snprintf(where, sizeof where, " at line %d, column %d (", bad[i].line, bad[i].column);
        int rc = sk_json_parse(bad[i].text, strlen(bad[i].text), SIZE_MAX, &v, &err);
        if (rc != -bad[i].code || !strstr(err.msg, where))
            fail_msg("%s gave %d, %s", bad[i].text, rc, err.msg);
        assert_null(v);
    }
    struct cJSON *v;
    assert_int_equal(sk_json_parse("1\0", 2, 10, &v, NULL), -SK_EJSON);
    assert_int_equal(sk_json_parse("\"\0\"", 3, 10, &v, NULL), -SK_EJSON);
}

static void test_limits(void **state)
{
    struct cJSON *v;
    struct sk_err err = {0};
    char deep[2 * (SK_JSON_MAX_DEPTH + 1)];
    for (int depth = SK_JSON_MAX_DEPTH; depth <= SK_JSON_MAX_DEPTH + 1; depth++) {
        memset(deep, '[', (size_t)depth);
        memset(deep + depth, ']', (size_t)depth);
        int rc = sk_json_parse(deep, 2 * (size_t)depth, SIZE_MAX, &v, &err);
        assert_int_equal(rc, depth > SK_JSON_MAX_DEPTH ? -SK_EJSON : 0);
        if (rc == 0)
            sk_json_free(v);
    }
    assert_int_equal(sk_json_parse("[1,2]", 5, 4, &v, &err), -SK_ETOOBIG);
    assert_int_equal(sk_json_parse("[1,2]", 5, 5, &v, &err), 0);
    sk_json_free(v);

    size_t n = 2 * SK_JSON_MAX_VALUES + 1; /* the array itself is one value too many */
    char *many = sk_malloc(n);
    memset(many, ',', n);
    for (size_t i = 1; i < n; i += 2)
        many[i] = '0';
    many[0] = '[';
    many[n - 1] = ']';
    assert_int_equal(sk_json_parse(many, n, SIZE_MAX, &v, &err), -SK_ETOOBIG);
    assert_non_null(strstr(err.msg, "1048576 values of JSON are the limit"));
    char path[] = "/tmp/sk-json-XXXXXX"; /* a file may have more */
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, many, n) == (ssize_t)n);
    assert_int_equal(sk_json_load(path, SIZE_MAX, &v, &err), 0);
    assert_int_equal(sk_json_len(v), SK_JSON_MAX_VALUES);
    sk_json_free(v);
    close(fd);
    unlink(path);
    sk_free(many);
}

static void test_reading(void **state)
{
    struct cJSON *v = parse("{\"A\":0,\"a\":{\"b.c\":1,\"b\":{\"c\":[true,null,\"x\",1.5]}},\"dup\":1,\"dup\":2}");
    int64_t i = 0;
    assert_int_equal(sk_json_type(v), SK_JSON_OBJECT);
    assert_int_equal(sk_json_len(v), 4);
    assert_true(sk_json_is_int(sk_json_get(v, "dup"), &i));
    assert_int_equal(i, 1);
    assert_null(sk_json_get(v, "B"));
    assert_null(sk_json_get(sk_json_get(v, "A"), "x"));
    assert_null(sk_json_get(NULL, "x"));
    assert_int_equal(sk_json_type(sk_json_get(v, "a")), SK_JSON_OBJECT);

    const struct cJSON *list = sk_json_at(v, "a.b.c");
    assert_int_equal(sk_json_len(list), 4);
    assert_null(sk_json_at(v, "a.b.c.d"));
    assert_null(sk_json_at(v, "a.b."));
    assert_null(sk_json_at(NULL, "a"));
    const struct cJSON *m = sk_json_first(list);
    assert_true(sk_json_is_true(m));
    assert_null(sk_json_key(m));
    assert_string_equal(sk_json_typename(m), "boolean");
    m = sk_json_next(m);
    assert_int_equal(sk_json_type(m), SK_JSON_NULL);
    m = sk_json_next(m);
    assert_string_equal(sk_json_str(m), "x");
    assert_true(isnan(sk_json_num(m)));
    assert_int_equal(sk_json_len(m), 0);
    m = sk_json_next(m);
    assert_true(sk_json_num(m) == 1.5);
    assert_null(sk_json_str(m));
    assert_false(sk_json_is_int(m, &i));
    assert_null(sk_json_next(m));
    assert_string_equal(sk_json_key(sk_json_first(v)), "A");
    assert_string_equal(sk_json_typename(NULL), "null");
    assert_null(sk_json_first(NULL));
    sk_json_free(v);
    sk_json_free(NULL);
}

static void test_is_int(void **state)
{
    static const struct {
        const char *text;
        int64_t want; /* 0: not an integer */
    } cases[] = {
        {"1", 1},
        {"-7", -7},
        {"1e3", 1000},
        {"2.0", 2},
        {"9007199254740991", 9007199254740991},
        {"1.5", 0},
        {"1e-3", 0},
        {"1e999", 0},
        {"\"1\"", 0},
        {"-9007199254740991", -9007199254740991},
        {"true", 0},
        {"9007199254740993", 9007199254740993},
        {"-9223372036854775808", INT64_MIN},
        {"9223372036854775807", INT64_MAX},
        {"9223372036854775808", 0},
        {"100000000000000000000000000000000000000000000000000000000000000", 0},
        {"9007199254740993.0", 0},
        {"9007199254740993e0", 0},
    };
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        int64_t i = 0;
        struct cJSON *v = parse(cases[k].text);
        assert_int_equal(sk_json_is_int(v, &i), cases[k].want != 0);
        assert_true(i == cases[k].want);
        sk_json_free(v);
    }
}

static void test_long_ints_find_their_value(void **state)
{
    static const char text[] =
        "{\"a\":[1,9007199254740993,{\"b\":-9007199254740995}],\"s\":\"9007199254740997\",\"c\":1000000000000000000000,"
        "\"d\":123456789012345678.5,\"e\":9223372036854775807}";
    struct cJSON *v = parse(text);
    struct sk_buf b;
    int64_t i = 0;
    assert_true(sk_json_is_int(sk_json_at(v, "e"), &i) && i == INT64_MAX);
    const struct cJSON *a = sk_json_next(sk_json_first(sk_json_get(v, "a")));
    assert_true(sk_json_is_int(a, &i) && i == 9007199254740993);
    assert_true(sk_json_is_int(sk_json_get(sk_json_next(a), "b"), &i) && i == -9007199254740995);
    assert_null(sk_json_str(a));
    assert_false(sk_json_is_int(sk_json_get(v, "s"), &i));
    assert_false(sk_json_is_int(sk_json_get(v, "c"), &i));
    assert_false(sk_json_is_int(sk_json_get(v, "d"), &i));
    sk_buf_init(&b, 4096);
    assert_int_equal(sk_json_print(&b, v), 0);
    assert_non_null(strstr(b.p, "9007199254740993"));
    assert_non_null(strstr(b.p, "1000000000000000000000,"));
    sk_buf_done(&b);
    sk_json_free(v);
}

static void test_getters(void **state)
{
    struct cJSON *v = parse("{\"i\":5,\"f\":0.5,\"huge\":1e999,\"t\":true,\"s\":\"x\",\"z\":null,\"big\":1e17}");
    struct sk_err err = {0};
    int64_t i = 42;
    double d = 42;
    bool t = false;
    const char *s = "unset";

    assert_int_equal(sk_json_get_int(v, "i", 1, 5, &i, &err), 0);
    assert_int_equal(i, 5);
    assert_int_equal(sk_json_get_int(v, "absent", 1, 5, &i, &err), 0);
    assert_int_equal(sk_json_get_int(v, "z", 1, 5, &i, &err), 0);
    assert_int_equal(sk_json_get_int(v, "i", 6, 9, &i, &err), -SK_ERANGE);
    assert_string_equal(err.param, "i");
    assert_string_equal(err.msg, "i must be from 6 to 9, not 5");
    assert_int_equal(sk_json_get_int(v, "f", 0, 9, &i, &err), -SK_ETYPE);
    assert_string_equal(err.msg, "f must be an integer, not 0.5");
    assert_int_equal(sk_json_get_int(v, "huge", INT64_MIN, INT64_MAX, &i, &err), -SK_ERANGE);
    assert_int_equal(sk_json_get_int(v, "big", INT64_MIN, INT64_MAX, &i, &err), -SK_ERANGE);
    assert_int_equal(sk_json_get_int(v, "s", 0, 9, &i, &err), -SK_ETYPE);
    assert_string_equal(err.msg, "s must be a number, not a string");
    assert_int_equal(i, 5);

    assert_int_equal(sk_json_get_num(v, "f", 0, 1, &d, &err), 0);
    assert_true(d == 0.5);
    assert_int_equal(sk_json_get_num(v, "i", 0, 1, &d, &err), -SK_ERANGE);
    assert_string_equal(err.msg, "i must be from 0 to 1, not 5");
    assert_int_equal(sk_json_get_num(v, "huge", -INFINITY, INFINITY, &d, &err), -SK_ERANGE);
    assert_int_equal(sk_json_get_num(v, "t", 0, 1, &d, &err), -SK_ETYPE);
    assert_true(d == 0.5);

    assert_int_equal(sk_json_get_bool(v, "t", &t, &err), 0);
    assert_true(t);
    assert_int_equal(sk_json_get_bool(v, "i", &t, &err), -SK_ETYPE);
    assert_int_equal(sk_json_get_str(v, "s", &s, &err), 0);
    assert_string_equal(s, "x");
    assert_int_equal(sk_json_get_str(v, "t", &s, &err), -SK_ETYPE);
    assert_int_equal(sk_json_get_str(v, "z", &s, NULL), 0);
    assert_string_equal(s, "x");
    sk_json_free(v);
}

static void check_quote(const char *s, size_t n, const char *want)
{
    struct sk_buf b;
    sk_buf_init(&b, 1000);
    assert_int_equal(sk_json_quote(&b, s, n), 0);
    assert_string_equal(b.p, want);
    sk_json_free(parse(b.p));
    sk_buf_done(&b);
}

static void test_quote(void **state)
{
    check_quote("", 0, "\"\"");
    check_quote("a\"\\\b\f\n\r\t\x01\x7F/", 11, "\"a\\\"\\\\\\b\\f\\n\\r\\t\\u0001\x7F/\"");
    check_quote("\xC3\xA9\xF0\x9F\x98\x80", 6, "\"\xC3\xA9\xF0\x9F\x98\x80\"");
    check_quote("a\xE2\x82z\xFF", 5, "\"a\xEF\xBF\xBDz\xEF\xBF\xBD\"");
    check_quote("\xF0\x9F\x98", 3, "\"\xEF\xBF\xBD\"");

    struct sk_buf b;
    sk_buf_init(&b, 4);
    assert_int_equal(sk_json_quote(&b, "abc", 3), -SK_ETOOBIG);
    sk_buf_done(&b);
}

static void check_num(double x, const char *want)
{
    struct sk_buf b;
    sk_buf_init(&b, 100);
    assert_int_equal(sk_json_put_num(&b, x), 0);
    assert_string_equal(b.p, want);
    sk_buf_done(&b);
}

static void check_float(float x, const char *want)
{
    struct sk_buf b;
    sk_buf_init(&b, 100);
    assert_int_equal(sk_json_put_float(&b, x), 0);
    assert_string_equal(b.p, want);
    sk_buf_done(&b);
}

static void test_numbers(void **state)
{
    check_num(0, "0");
    check_num(1, "1");
    check_num(0.1, "0.1");
    check_num(-0.7, "-0.7");
    check_num(1.0 / 3, "0.3333333333333333");
    check_num(0.1 + 0.2, "0.30000000000000004");
    check_num(1234567890123456, "1234567890123456");
    check_num(5e-324, "5e-324");
    check_num(DBL_MAX, "1.7976931348623157e+308");
    check_num(NAN, "-9999.0");
    check_num(-INFINITY, "-9999.0");
    check_num(INFINITY, "9999.0");
    check_float(0.1f, "0.1");
    check_float(-1.3862944f, "-1.3862944");
    check_float(16777216, "16777216");
    check_float(1e-45f, "1e-45");
    check_float(-INFINITY, "-9999.0");
}

static void test_numbers_read_back(void **state)
{
    for (uint32_t i = 0; i < 20000; i++) {
        uint32_t bits[4];
        float f;
        double d;
        sk_philox((uint32_t[]){1, 2}, (uint32_t[]){i, 0, 0, 0}, bits);
        memcpy(&f, bits, sizeof f);
        memcpy(&d, bits + 1, sizeof d);
        if (!isfinite(f) || !isfinite(d))
            continue;
        struct sk_buf b;
        sk_buf_init(&b, 100);
        sk_json_put_num(&b, d);
        assert_true(strtod(b.p, NULL) == d);
        sk_buf_clear(&b);
        sk_json_put_float(&b, f);
        assert_true(strtof(b.p, NULL) == f);
        sk_buf_done(&b);
    }
}

static void test_print(void **state)
{
    const char *text = "{\"a\":[1,-2.5,true,false,null,\"q\\\"\\n\"],\"\\u0001\":{},\"e\":[],\"i\":1e999,\"j\":-1e999}";
    struct cJSON *v = parse(text);
    struct sk_buf b;
    sk_buf_init(&b, 1000);
    assert_int_equal(sk_json_print(&b, v), 0);
    assert_string_equal(b.p, text);
    sk_buf_done(&b);
    sk_buf_init(&b, 20);
    assert_int_equal(sk_json_print(&b, v), -SK_ETOOBIG);
    sk_buf_done(&b);
    sk_json_free(v);
}

static void test_load(void **state)
{
    char path[] = "/tmp/test_json.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "{\"a\":\n1x}", 9), 9);
    close(fd);

    struct cJSON *v = NULL;
    struct sk_err err = {0};
    assert_int_equal(sk_json_load(path, 100, &v, &err), -SK_EJSON);
    assert_non_null(strstr(err.msg, path));
    assert_non_null(strstr(err.msg, "line 2, column 2"));
    assert_int_equal(sk_json_load(path, 8, &v, &err), -SK_ETOOBIG);
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(sk_json_load(path, 100, &v, &err), -SK_EJSON);
    unlink(path);
    assert_int_equal(sk_json_load(path, 100, &v, &err), -SK_ENOENT);
    assert_null(v);
}

/* Every allocation of a parse may fail; what is left of it is freed (the leak checker sees to that). */
static void test_out_of_memory(void **state)
{
    const char *text = "{\"a\":[1,\"two\",{\"b\":null}],\"c\":\"\\u00e9\"}";
    struct cJSON *v;
    uint64_t before = sk_mem_count();
    sk_json_free(parse(text));
    uint64_t n = sk_mem_count() - before;
    assert_true(n > 5); /* cJSON allocates through us */
    for (uint64_t i = 1; i <= n; i++) {
        struct sk_err err = {0};
        sk_mem_fail_at(i, 0);
        int rc = sk_json_parse(text, strlen(text), SIZE_MAX, &v, &err);
        sk_mem_fail_at(0, 0);
        assert_int_equal(rc, -SK_ENOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepts),       cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_limits),        cmocka_unit_test(test_reading),
        cmocka_unit_test(test_is_int),        cmocka_unit_test(test_long_ints_find_their_value),
        cmocka_unit_test(test_getters),       cmocka_unit_test(test_quote),
        cmocka_unit_test(test_numbers),       cmocka_unit_test(test_numbers_read_back),
        cmocka_unit_test(test_print),         cmocka_unit_test(test_load),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

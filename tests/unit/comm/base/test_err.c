#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "comm/base/err.h"
#include "comm/base/utf8.h"

static void test_table(void **state)
{
    assert_string_equal(sk_err_name(0), "OK");
    assert_int_equal(sk_err_http(0), 200);
    for (int rc = 1; rc < SK_E_COUNT; rc++) {
        assert_string_equal(sk_err_name(rc), sk_err_name(-rc));
        assert_in_range(sk_err_http(rc), 400, 599);
        assert_true(strlen(sk_err_text(rc)) > 0);
        assert_true(strlen(sk_err_type(rc)) > 0);
        assert_true(strlen(sk_err_code(rc)) > 0);
    }
    assert_string_equal(sk_err_name(-SK_ECTX), "CTX");
    assert_string_equal(sk_err_code(-SK_ECTX), "context_length_exceeded");
    assert_string_equal(sk_err_type(-SK_EQUEUE), "rate_limit_error");
    assert_int_equal(sk_err_http(-SK_EQUEUE), 429);
    assert_int_equal(sk_err_retry(-SK_EQUEUE), 1);
    assert_int_equal(sk_err_retry(-SK_EINVAL), 0);
}

static void test_foreign_codes_are_internal(void **state)
{
    assert_string_equal(sk_err_name(SK_E_COUNT), "INTERNAL");
    assert_string_equal(sk_err_name(-SK_E_COUNT), "INTERNAL");
    assert_string_equal(sk_err_name(INT32_MIN), "INTERNAL");
    assert_string_equal(sk_err_name(INT32_MAX), "INTERNAL");
}

static void test_set(void **state)
{
    struct sk_err err = {0};
    assert_int_equal(sk_err_set(&err, SK_ERANGE, "n", "%s is %d", "n", 3), -SK_ERANGE);
    assert_int_equal(err.code, SK_ERANGE);
    assert_string_equal(err.param, "n");
    assert_string_equal(err.msg, "n is 3");

    assert_int_equal(sk_err_set(&err, SK_EIO, err.param, "file: %s", err.msg), -SK_EIO);
    assert_string_equal(err.param, "n");
    assert_string_equal(err.msg, "file: n is 3");

    sk_err_set(&err, SK_EIO, NULL, "x");
    assert_string_equal(err.param, "");
    assert_int_equal(sk_err_set(NULL, SK_EIO, "p", "%s", "nobody listens"), -SK_EIO);
}

static void test_errno(void **state)
{
    struct sk_err err;
    errno = ENOSPC;
    assert_int_equal(sk_err_errno(&err, SK_EIO, NULL, "cannot write %s", "f"), -SK_EIO);
    assert_string_equal(err.msg, "cannot write f: No space left on device");
}

/* What the last error said about trying again is not what this one says. */
static void test_set_clears_retry(void **state)
{
    struct sk_err err = {.retry_ms = 1500};
    sk_err_set(&err, SK_EINVAL, NULL, "x");
    assert_int_equal(err.retry_ms, 0);
    err.retry_ms = 1500;
    sk_err_errno(&err, SK_EIO, NULL, "x");
    assert_int_equal(err.retry_ms, 0);
}

static void test_cut_keeps_characters_whole(void **state)
{
    struct sk_err err;
    char text[1024];
    for (size_t shift = 0; shift < 3; shift++) {
        memset(text, 'a', shift);
        for (size_t i = shift; i + 3 < sizeof text; i += 3)
            memcpy(text + i, "\xE2\x82\xAC", 4);
        sk_err_set(&err, SK_EINVAL, text, "%s", text);
        assert_in_range(strlen(err.msg), sizeof err.msg - 3, sizeof err.msg - 1);
        assert_in_range(strlen(err.param), sizeof err.param - 3, sizeof err.param - 1);
        assert_true(sk_utf8_valid(err.msg, strlen(err.msg)));
        assert_true(sk_utf8_valid(err.param, strlen(err.param)));
    }
}

/* Names from other people's files are part of messages. */
static void test_no_control_characters(void **state)
{
    struct sk_err err;
    sk_err_set(&err, SK_EFORMAT, "a\nb", "tensor %s is missing", "x\ny\x1b[31m\x7f\t\xC3\xA9");
    assert_string_equal(err.msg, "tensor x?y?[31m??\xC3\xA9 is missing");
    assert_string_equal(err.param, "a?b");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_foreign_codes_are_internal),
        cmocka_unit_test(test_set),
        cmocka_unit_test(test_errno),
        cmocka_unit_test(test_set_clears_retry),
        cmocka_unit_test(test_cut_keeps_characters_whole),
        cmocka_unit_test(test_no_control_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

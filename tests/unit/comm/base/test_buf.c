#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/base/buf.h"
#include "comm/base/mem.h"

static void test_grows_to_max(void **state)
{
    struct sk_buf b;
    sk_buf_init(&b, 1000);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(sk_buf_char(&b, (char)('a' + i % 26)), 0);
        assert_int_equal(b.n, i + 1);
        assert_int_equal(b.p[b.n], 0);
    }
    assert_true(b.cap <= 1001);
    assert_int_equal(sk_buf_char(&b, 'x'), -SK_ETOOBIG);
    assert_int_equal(b.n, 1000);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(b.p[i], 'a' + i % 26);
    sk_buf_done(&b);
    assert_null(b.p);
    assert_int_equal(b.max, 1000);
}

static void test_failure_is_sticky(void **state)
{
    struct sk_buf b;
    sk_buf_init(&b, 8);
    assert_int_equal(sk_buf_str(&b, "12345"), 0);
    assert_int_equal(sk_buf_str(&b, "6789"), -SK_ETOOBIG);
    assert_string_equal(b.p, "12345");
    assert_int_equal(sk_buf_char(&b, 'x'), -SK_ETOOBIG);
    assert_int_equal(sk_buf_fmt(&b, "%d", 1), -SK_ETOOBIG);
    assert_int_equal(b.failed, -SK_ETOOBIG);
    assert_string_equal(b.p, "12345");
    sk_buf_clear(&b);
    assert_int_equal(b.failed, 0);
    assert_string_equal(b.p, "");
    assert_int_equal(sk_buf_str(&b, "12345678"), 0);
    sk_buf_done(&b);
}

static void test_int(void **state)
{
    static const int64_t all[] = {0, 7, -7, 10, 65535, INT32_MIN, UINT32_MAX, INT64_MAX, INT64_MIN};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct sk_buf b;
        char want[32];
        snprintf(want, sizeof want, "%lld", (long long)all[i]);
        sk_buf_init(&b, strlen(want));
        assert_int_equal(sk_buf_int(&b, all[i]), 0);
        assert_string_equal(b.p, want);
        assert_int_equal(sk_buf_int(&b, all[i]), -SK_ETOOBIG);
        assert_string_equal(b.p, want);
        sk_buf_done(&b);
    }
}

static void test_out_of_memory(void **state)
{
    struct sk_buf b;
    sk_buf_init(&b, 1 << 20);
    sk_buf_str(&b, "kept");
    sk_mem_fail_at(1, 0);
    assert_int_equal(sk_buf_reserve(&b, 100000), -SK_ENOMEM);
    sk_mem_fail_at(0, 0);
    assert_string_equal(b.p, "kept");
    assert_int_equal(sk_buf_str(&b, "x"), -SK_ENOMEM);
    sk_buf_done(&b);
}

static void test_fmt_and_drop(void **state)
{
    struct sk_buf b;
    sk_buf_init(&b, SIZE_MAX);
    assert_int_equal(sk_buf_fmt(&b, "%s-%03d", "abc", 7), 0);
    assert_string_equal(b.p, "abc-007");
    assert_int_equal(sk_buf_fmt(&b, "%200s", "r"), 0);
    assert_int_equal(b.n, 207);
    sk_buf_drop(&b, 4);
    assert_int_equal(b.n, 203);
    assert_memory_equal(b.p, "007 ", 4);
    sk_buf_drop(&b, 203);
    assert_int_equal(b.n, 0);
    assert_string_equal(b.p, "");
    assert_int_equal(sk_buf_reserve(&b, SIZE_MAX), -SK_ETOOBIG);
    sk_buf_done(&b);
}

static void test_nothing_needs_no_memory(void **state)
{
    struct sk_buf b;
    sk_buf_init(&b, 0);
    sk_buf_drop(&b, 0);
    assert_int_equal(sk_buf_add(&b, NULL, 0), 0);
    assert_int_equal(sk_buf_char(&b, 'x'), -SK_ETOOBIG);
    sk_buf_done(&b);
}

static void test_file(void **state)
{
    char path[] = "/tmp/test_buf.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "hello\0world", 11), 11);
    close(fd);

    struct sk_buf b;
    struct sk_err err = {0};
    sk_buf_init(&b, 11);
    assert_int_equal(sk_buf_file(&b, path, &err), 0);
    assert_int_equal(b.n, 11);
    assert_memory_equal(b.p, "hello\0world", 12);
    sk_buf_done(&b);

    sk_buf_init(&b, 10);
    assert_int_equal(sk_buf_file(&b, path, &err), -SK_ETOOBIG);
    assert_non_null(strstr(err.msg, path));
    sk_buf_done(&b);

    unlink(path);
    sk_buf_init(&b, 10);
    assert_int_equal(sk_buf_file(&b, path, &err), -SK_ENOENT);
    assert_non_null(strstr(err.msg, path));
    sk_buf_done(&b);
    sk_buf_init(&b, 10);
    assert_int_equal(sk_buf_file(&b, "/", &err), -SK_EIO);
    sk_buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grows_to_max), cmocka_unit_test(test_failure_is_sticky),
        cmocka_unit_test(test_int),          cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_fmt_and_drop), cmocka_unit_test(test_nothing_needs_no_memory),
        cmocka_unit_test(test_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

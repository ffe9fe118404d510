#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "comm/base/utf8.h"

static void test_every_scalar_value(void **state)
{
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
        if (cp == 0xD800)
            cp = 0xE000;
        char s[4];
        uint32_t back;
        int n = sk_utf8_put(cp, s);
        assert_int_equal(n, cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4);
        assert_int_equal(sk_utf8_next(s, (size_t)n, &back), n);
        assert_int_equal(back, cp);
        assert_true(sk_utf8_valid(s, (size_t)n));
        for (int k = 1; k < n; k++) {
            assert_int_equal(sk_utf8_next(s, (size_t)k, &back), -k);
            assert_int_equal(sk_utf8_partial(s, (size_t)k), k);
            assert_false(sk_utf8_valid(s, (size_t)k));
        }
        assert_int_equal(sk_utf8_partial(s, (size_t)n), 0);
    }
}

/* Lengths of the pieces that sk_utf8_next cuts `s` into, negative for ill-formed ones; 0 ends both lists. */
static void check_pieces(const char *s, const int *expect)
{
    size_t n = strlen(s), i = 0;
    while (i < n) {
        uint32_t cp;
        int k = sk_utf8_next(s + i, n - i, &cp);
        assert_int_equal(k, *expect++);
        if (k < 0)
            assert_int_equal(cp, 0xFFFD);
        i += (size_t)(k < 0 ? -k : k);
    }
    assert_int_equal(*expect, 0);
}

/* The examples of Unicode 15, tables 3-8 to 3-11. */
static void test_maximal_subparts(void **state)
{
    check_pieces("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", (int[]){-1, -1, -1, -1, -1, -1, -1, -1, 1, 0});
    check_pieces("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", (int[]){-1, -1, -1, -1, -1, -1, -1, -1, 1, 0});
    check_pieces("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", (int[]){-1, -1, -1, -1, -1, 1, -1, -1, 1, 0});
    check_pieces("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", (int[]){-2, -1, -3, -2, 1, 0});
}

static void test_valid(void **state)
{
    static const char *const bad[] = {
        "\x80",         "\xC1\xBF",         "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xF8\x88\x80\x80\x80",
        "eight by\xFF", "eight bytes \xC3", "\xE2\x82"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(sk_utf8_valid(bad[i], strlen(bad[i])));
    assert_true(sk_utf8_valid("", 0));
    assert_true(sk_utf8_valid("a\0b", 3));
    const char *good = "plain text, then \xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80 and more plain text";
    assert_true(sk_utf8_valid(good, strlen(good)));
}

static void test_partial(void **state)
{
    assert_int_equal(sk_utf8_partial("", 0), 0);
    assert_int_equal(sk_utf8_partial("a", 1), 0);
    assert_int_equal(sk_utf8_partial("a\xE2\x82", 3), 2);
    assert_int_equal(sk_utf8_partial("a\xF0\x9F\x98", 4), 3);
    assert_int_equal(sk_utf8_partial("\xE0\x80", 2), 0); /* never completes */
    assert_int_equal(sk_utf8_partial("\xE2\x82\x82\x82", 4), 0);
    assert_int_equal(sk_utf8_partial("\x80\x80\x80", 3), 0);
    assert_int_equal(sk_utf8_partial("a\xFF", 2), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_scalar_value),
        cmocka_unit_test(test_maximal_subparts),
        cmocka_unit_test(test_valid),
        cmocka_unit_test(test_partial),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

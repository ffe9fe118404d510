#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "clients/client/plain.h"

static void check(const char *s, size_t n, const char *want, const char *want_line)
{
    struct sk_buf b;
    char line[256];
    sk_buf_init(&b, 1000);
    assert_int_equal(sk_plain_put(&b, s, n), 0);
    assert_string_equal(b.p ? b.p : "", want);
    sk_plain_line(line, sizeof line, s, n);
    assert_string_equal(line, want_line);
    sk_buf_done(&b);
}

#define CHECK(s, want) check(s, sizeof s - 1, want, want)

static void test_text_is_kept(void **state)
{
    CHECK("", "");
    CHECK("plain \\ text", "plain \\ text");
    CHECK("h\xC3\xA4 \xE2\x82\xAC \xF0\x9F\x98\x80", "h\xC3\xA4 \xE2\x82\xAC \xF0\x9F\x98\x80");
    check("a\n\tb", 4, "a\n\tb", "a  b");
}

static void test_controls_are_spelled(void **state)
{
    CHECK("\x1b[31mred", "\\x1b[31mred");
    CHECK("a\rb\bc\x7f\0d", "a\\x0db\\x08c\\x7f\\x00d");
    CHECK("\xC2\x9B"
          "2J",
          "\\u009b2J"); /* CSI as one character */
    CHECK("\xE2\x80\xAE"
          "abc",
          "\\u202eabc"); /* right-to-left override */
    CHECK("\xE2\x81\xA6", "\\u2066");
}

static void test_ill_formed(void **state)
{
    CHECK("a\xFF"
          "b\xE2\x82",
          "a\xEF\xBF\xBD"
          "b\xEF\xBF\xBD");
    CHECK("\xC0\x9B", "\xEF\xBF\xBD\xEF\xBF\xBD"); /* ESC, spelled too long */
}

static void test_line_is_cut_between_characters(void **state)
{
    char line[6];
    sk_plain_line(line, sizeof line, "abc\xE2\x82\xAC", 6);
    assert_string_equal(line, "abc");
    sk_plain_line(line, sizeof line, "ab\xE2\x82\xAC", 5);
    assert_string_equal(line, "ab\xE2\x82\xAC");
    sk_plain_line(line, sizeof line, "abc\x1b", 4);
    assert_string_equal(line, "abc");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_is_kept),
        cmocka_unit_test(test_controls_are_spelled),
        cmocka_unit_test(test_ill_formed),
        cmocka_unit_test(test_line_is_cut_between_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "server/text/regex.h"

static struct sk_regex *regex(const char *pattern, bool literal)
{
    struct sk_regex *r;
    struct sk_err err = {0};
    if (sk_regex_new(pattern, strlen(pattern), literal, &r, &err))
        fail_msg("%s", err.msg);
    return r;
}

static void expect(struct sk_regex *r, const char *s, size_t from, size_t start, size_t end)
{
    size_t at = 99, to = 99;
    assert_int_equal(sk_regex_next(r, s, strlen(s), from, &at, &to), start != end || start != 99);
    assert_int_equal(at, start);
    assert_int_equal(to, end);
}

static void test_match(void **state)
{
    struct sk_regex *r = regex("\\p{L}+|\\s+(?!\\S)", false);
    expect(r, "1\xC3\xA9t\xC3\xA9  x", 0, 1, 6);
    expect(r, "1\xC3\xA9t\xC3\xA9  x", 6, 6, 7); /* looks ahead */
    expect(r, "123", 0, 99, 99);
    sk_regex_free(r);
    r = regex("a.b", true);
    expect(r, "aab a.b", 0, 4, 7);
    sk_regex_free(r);
    r = regex("^b", false); /* of a line */
    expect(r, "a\nb", 0, 2, 3);
    sk_regex_free(r);
    r = regex("x*", false); /* empty matches are matches */
    expect(r, "ab", 1, 1, 1);
    sk_regex_free(r);
}

static void test_refused(void **state)
{
    struct sk_regex *r = NULL;
    struct sk_err err = {0};
    assert_int_equal(sk_regex_new("a(b", 3, false, &r, &err), -SK_EFORMAT);
    assert_non_null(strstr(err.msg, "\"a(b\""));
    assert_int_equal(sk_regex_new("\\C", 2, false, &r, &err), -SK_EFORMAT);
    assert_null(r);
}

/* Exponential in the text: must end, with an error. */
static void test_limit(void **state)
{
    char s[65] = {0};
    size_t at, to;
    memset(s, 'a', 64);
    struct sk_regex *r = regex("(?:a|a)*[bc]", false);
    assert_int_equal(sk_regex_next(r, s, 64, 0, &at, &to), -SK_ETOOBIG);
    assert_int_equal(sk_regex_next(r, "aab", 3, 0, &at, &to), 1); /* and serves the next text */
    sk_regex_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_match),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

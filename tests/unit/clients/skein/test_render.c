#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "clients/skein/render.h"

/* The text in pieces of `step` bytes. */
static void check_step(enum sk_render_mode mode, const char *s, size_t step, const char *want)
{
    struct sk_render r;
    struct sk_buf out;
    sk_render_init(&r, mode);
    sk_buf_init(&out, 1 << 16);
    for (size_t at = 0, n = strlen(s); at < n; at += step)
        sk_render_text(&r, s + at, n - at < step ? n - at : step, &out);
    sk_render_end(&r, &out);
    assert_int_equal(out.failed, 0);
    assert_string_equal(out.p ? out.p : "", want);
    sk_buf_done(&out);
}

static void check(const char *s, const char *want)
{
    for (size_t step = 1; step < 8; step++)
        check_step(SK_RENDER_STYLED, s, step, want);
    check_step(SK_RENDER_STYLED, s, 1000, want);
}

#define BOLD(s) "\x1b[0;1m" s "\x1b[0m"
#define CODE(s) "\x1b[0;36m" s "\x1b[0m"
#define DIM(s)  "\x1b[0;2m" s "\x1b[0m"

static void test_spans(void **state)
{
    check("a **bold** b", "a " BOLD("bold") " b");
    check("`x * y`!", CODE("x * y") "!");
    check("``a`b``", CODE("a`b"));
    check("**a** and **b**\n", BOLD("a") " and " BOLD("b") "\n");
    check("**`f`**", BOLD("`f`"));
    check("***x***", "*" BOLD("x") "*");
}

static void test_what_is_no_span_is_kept(void **state)
{
    check("2 ** 3 ** 4\n", "2 ** 3 ** 4\n");
    check("2**10 and 3**4", "2**10 and 3**4");
    check("a * b * c", "a * b * c");
    check("**open\nnext", "**open\nnext");
    check("it`s open\nnext `x`", "it`s open\nnext " CODE("x"));
    check("`", "`");
    check("**", "**");
    check("*", "*");
    check("**a `b` c", "**a " CODE("b") " c");
    char long_span[SK_RENDER_MAX_SPAN + 64] = "**";
    memset(long_span + 2, 'x', SK_RENDER_MAX_SPAN + 20);
    strcat(long_span, "**.");
    check(long_span, long_span);
}

static void test_lines(void **state)
{
    check("# Title\ntext\n", "\x1b[0;1mTitle\x1b[0m\ntext\n");
    check("### a **b** c\n", "\x1b[0;1ma b c\x1b[0m\n");
    check("- one\n* two\n  + three\n1. four\n", "\xE2\x80\xA2 one\n\xE2\x80\xA2 two\n  \xE2\x80\xA2 three\n1. four\n");
    check("#hash\n---\n-1\n#\n", "#hash\n---\n-1\n#\n");
    check("    \n\n x", "    \n\n x");
    check("#", "#");
}

static void test_fences(void **state)
{
    check("```c\n**x** `y` # z\n- a\n```\n**b**",
          DIM("```c") "\n" CODE("**x** `y` # z") "\n" CODE("- a") "\n" DIM("```") "\n" BOLD("b"));
    check("````\n```\n````\nx", DIM("````") "\n" CODE("```") "\n" DIM("````") "\nx");
    check("~~~\n```\n~~~\nx", DIM("~~~") "\n" CODE("```") "\n" DIM("~~~") "\nx");
    check("```\ncut", DIM("```") "\n" CODE("cut"));
    check("  ```\n  x\n  ```\n", DIM("  ```") "\n" CODE("  x") "\n" DIM("  ```") "\n");
}

static void test_controls(void **state)
{
    const char *evil = "a\x1b[2J**b\r**\xC2\x9B";
    check_step(SK_RENDER_STYLED, evil, 100,
               "a\\x1b[2J"
               "**b\\x0d**\\u009b");
    check_step(SK_RENDER_PLAIN, evil, 100, "a\\x1b[2J**b\\x0d**\\u009b");
    check_step(SK_RENDER_RAW, evil, 100, evil);
    check_step(SK_RENDER_PLAIN, "# **a** `b`", 3, "# **a** `b`");
}

static void test_end_is_a_new_start(void **state)
{
    struct sk_render r;
    struct sk_buf out;
    sk_render_init(&r, SK_RENDER_STYLED);
    sk_buf_init(&out, 1000);
    sk_render_text(&r, "```\ncode", 8, &out);
    sk_render_end(&r, &out);
    sk_buf_clear(&out);
    sk_render_text(&r, "text", 4, &out);
    sk_render_end(&r, &out);
    assert_string_equal(out.p, "text");
    sk_buf_done(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spans),    cmocka_unit_test(test_what_is_no_span_is_kept),
        cmocka_unit_test(test_lines),    cmocka_unit_test(test_fences),
        cmocka_unit_test(test_controls), cmocka_unit_test(test_end_is_a_new_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

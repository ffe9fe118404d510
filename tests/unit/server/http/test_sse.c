#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "server/http/sse.h"

static void test_framing(void **state)
{
    struct sk_buf b;
    sk_buf_init(&b, 1024);
    assert_int_equal(sk_sse_event(&b, NULL, "{\"a\":1}", 7), 0);
    assert_int_equal(sk_sse_event(&b, "ping", "{}", 2), 0);
    assert_int_equal(sk_sse_comment(&b), 0);
    assert_int_equal(sk_sse_done(&b), 0);
    assert_string_equal(b.p, "data: {\"a\":1}\n\nevent: ping\ndata: {}\n\n: keep-alive\n\ndata: [DONE]\n\n");
    sk_buf_done(&b);
}

/* No half event, whatever is left of room. */
static void test_full(void **state)
{
    for (size_t max = 10; max < 10 + 13; max++) {
        struct sk_buf b;
        sk_buf_init(&b, max);
        sk_buf_str(&b, "0123456789");
        assert_int_equal(sk_sse_event(&b, "n", "{}", 2), -SK_ETOOBIG);
        assert_int_equal(b.n, 10);
        assert_int_equal(b.failed, -SK_ETOOBIG);
        sk_buf_done(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_framing), cmocka_unit_test(test_full)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

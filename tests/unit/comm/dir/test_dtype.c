#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "comm/base/err.h"
#include "comm/dir/dtype.h"

static void test_names(void **state)
{
    enum sk_dtype t = SK_F32;

    for (int i = 0; i < SK_DTYPE_COUNT; i++) {
        assert_int_equal(sk_dtype_find(sk_dtype_name((enum sk_dtype)i), &t), 0);
        assert_int_equal(t, i);
    }
    assert_int_equal(sk_dtype_find("q5", &t), -SK_ENOENT);
    assert_int_equal(t, SK_DTYPE_COUNT - 1);
    assert_string_equal(sk_dtype_name((enum sk_dtype)99), "?");
}

/* Every f16 goes to f32 and back unchanged, and is what its bits say. */
static void test_f16_all(void **state)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float f = sk_f16_to_f32((uint16_t)h);
        uint32_t exp = h >> 10 & 31, man = h & 1023;
        if (exp == 31 && man) {
            assert_true(isnan(f));
            assert_true(isnan(sk_f16_to_f32(sk_f32_to_f16(f))));
            continue;
        }
        double want = exp == 31 ? INFINITY : exp ? ldexp(1024 + man, (int)exp - 25) : ldexp(man, -24);
        assert_true(fabs((double)f) == want && !!signbit(f) == h >> 15);
        assert_int_equal(sk_f32_to_f16(f), h);
    }
}

/* Between two neighbours: below the middle down, above it up, on it to the even one. */
static void test_f16_rounding(void **state)
{
    for (uint32_t h = 0; h < 0x7bff; h++) {
        float low = sk_f16_to_f32((uint16_t)h), high = sk_f16_to_f32((uint16_t)(h + 1)), mid = (low + high) / 2;
        assert_int_equal(sk_f32_to_f16(nextafterf(mid, 0)), h);
        assert_int_equal(sk_f32_to_f16(nextafterf(mid, INFINITY)), h + 1);
        assert_int_equal(sk_f32_to_f16(mid), h & 1 ? h + 1 : h);
        assert_int_equal(sk_f32_to_f16(-mid), 0x8000 | (h & 1 ? h + 1 : h));
    }
    assert_int_equal(sk_f32_to_f16(65519.99f), 0x7bff);
    assert_int_equal(sk_f32_to_f16(65520), 0x7c00);
    assert_int_equal(sk_f32_to_f16(1e30f), 0x7c00);
    assert_int_equal(sk_f32_to_f16(-INFINITY), 0xfc00);
    assert_int_equal(sk_f32_to_f16(1e-20f), 0);
}

static void test_bf16(void **state)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float f = sk_bf16_to_f32((uint16_t)h);
        if (isnan(f))
            assert_true(isnan(sk_bf16_to_f32(sk_f32_to_bf16(f))));
        else
            assert_int_equal(sk_f32_to_bf16(f), h);
    }
    assert_int_equal(sk_f32_to_bf16(1 + 0x1p-8f), 0x3f80);           /* a tie, to even */
    assert_int_equal(sk_f32_to_bf16(1 + 0x1p-7f + 0x1p-8f), 0x3f82); /* a tie, to even */
    assert_int_equal(sk_f32_to_bf16(1 + 0x1p-8f + 0x1p-20f), 0x3f81);
    assert_int_equal(sk_f32_to_bf16(3.4e38f), 0x7f80);
    float nan;
    memcpy(&nan, &(uint32_t){0x7f800001}, sizeof nan); /* whose upper half alone would be Inf */
    assert_true(isnan(sk_bf16_to_f32(sk_f32_to_bf16(nan))));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_f16_all),
        cmocka_unit_test(test_f16_rounding),
        cmocka_unit_test(test_bf16),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>

#include "comm/base/rng.h"

/* Random123's kat_vectors, philox4x32 10. */
static void test_known_answers(void **state)
{
    static const struct {
        uint32_t ctr[4], key[2], out[4];
    } kat[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        sk_philox(kat[i].key, kat[i].ctr, out);
        for (int k = 0; k < 4; k++)
            assert_int_equal(out[k], kat[i].out[k]);
    }
}

static void test_uniform_is_as_documented(void **state)
{
    const uint64_t seed = UINT64_C(0x299f31d0a4093822);
    for (uint32_t token = 0; token < 9; token++) {
        uint32_t out[4];
        sk_philox((uint32_t[]){0xa4093822, 0x299f31d0}, (uint32_t[]){token / 4, 77, 5, 0}, out);
        double want = ((out[token % 4] >> 9) + 0.5) / (1 << 23);
        assert_true((double)sk_rng_uniform(seed, 5, 77, token) == want);
    }
    assert_true(sk_rng_uniform(seed, 5, 77, 1) != sk_rng_uniform(seed, 6, 77, 1));
    assert_true(sk_rng_uniform(seed, 5, 77, 1) != sk_rng_uniform(seed, 5, 78, 1));
}

/* 2^17 draws: every value inside, and each of 64 bins within 6 standard deviations (45) of its 2,048. */
static void test_uniform_is_uniform(void **state)
{
    int bins[64] = {0};
    for (uint32_t pos = 0; pos < 128; pos++) {
        for (uint32_t token = 0; token < 1024; token++) {
            float u = sk_rng_uniform(1, 0, pos, token);
            assert_true(u > 0 && u < 1);
            bins[(int)(u * 64)]++;
        }
    }
    for (int i = 0; i < 64; i++)
        assert_in_range(bins[i], 2048 - 270, 2048 + 270);
}

static void test_seed(void **state)
{
    uint64_t a = sk_rng_seed(), b = sk_rng_seed();
    assert_true(a != 0 && b != 0);
    assert_true(a != b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_uniform_is_as_documented),
        cmocka_unit_test(test_uniform_is_uniform),
        cmocka_unit_test(test_seed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

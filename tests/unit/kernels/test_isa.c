#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/ktab.h"

static void names_are_distinct(void **state)
{
    for (int i = 0; i < SK_ISA_COUNT; i++) {
        assert_non_null(sk_isa_name((enum sk_isa)i));
        for (int j = 0; j < i; j++)
            assert_string_not_equal(sk_isa_name((enum sk_isa)i), sk_isa_name((enum sk_isa)j));
    }
}

static uint32_t set_of(enum sk_isa isa)
{
    return 1u << isa;
}

/* All levels of a CPU whose highest is `isa`. */
static uint32_t up_to(enum sk_isa isa)
{
    uint32_t set = 0;
    for (enum sk_isa i = SK_ISA_AVX2; i <= isa; i++)
        set |= sk_isa_has(isa, i) ? set_of(i) : 0;
    return set;
}

static void nothing_asked_gives_the_highest(void **state)
{
    enum sk_isa isa = SK_ISA_NONE;
    for (enum sk_isa have = SK_ISA_AVX2; have < SK_ISA_COUNT; have++) {
        assert_int_equal(sk_isa_choose(up_to(have), NULL, &isa, NULL), 0);
        assert_int_equal(isa, have);
        assert_int_equal(sk_isa_choose(up_to(have), "", &isa, NULL), 0);
        assert_int_equal(isa, have);
    }
    assert_int_equal(sk_isa_choose(up_to(SK_ISA_AVX512_BF16) | set_of(SK_ISA_AVX2_VNNI), NULL, &isa, NULL), 0);
    assert_int_equal(isa, SK_ISA_AVX512_BF16);
}

static void avx2_vnni_is_a_branch_of_its_own(void **state)
{
    for (enum sk_isa isa = SK_ISA_AVX2; isa < SK_ISA_COUNT; isa++) {
        assert_true(sk_isa_has(isa, SK_ISA_AVX2));
        assert_int_equal(sk_isa_has(isa, SK_ISA_AVX2_VNNI), isa == SK_ISA_AVX2_VNNI);
    }
    assert_false(sk_isa_has(SK_ISA_AVX2_VNNI, SK_ISA_AVX512));
    assert_false(sk_isa_has(SK_ISA_NONE, SK_ISA_AVX2));
}

static void a_level_can_be_lowered_to_any_that_is_there(void **state)
{
    const uint32_t sets[] = {up_to(SK_ISA_AVX2_VNNI), up_to(SK_ISA_AVX512_BF16),
                             up_to(SK_ISA_AMX) | set_of(SK_ISA_AVX2_VNNI)};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        for (enum sk_isa want = SK_ISA_AVX2; want < SK_ISA_COUNT; want++) {
            enum sk_isa isa = SK_ISA_COUNT;
            struct sk_err err = {0};
            int rc = sk_isa_choose(sets[i], sk_isa_name(want), &isa, &err);
            if (sets[i] & set_of(want)) {
                assert_int_equal(rc, 0);
                assert_int_equal(isa, want);
            } else {
                assert_int_equal(rc, -SK_EINVAL);
                assert_int_equal(isa, SK_ISA_COUNT);
                assert_string_equal(err.param, "SKEIN_ISA");
            }
        }
    }
}

static void a_refusal_lists_the_levels(void **state)
{
    struct sk_err err = {0};
    enum sk_isa isa;
    assert_int_equal(sk_isa_choose(up_to(SK_ISA_AVX512), "avx512-vnni", &isa, &err), -SK_EINVAL);
    assert_string_equal(err.msg, "\"avx512-vnni\" is not a level of this CPU; its levels are none, avx512, avx2");
}

static void unknown_names_are_refused(void **state)
{
    static const char *const wrong[] = {"NONE", "AVX512", "avx512 ", "avx", "avx512-vnni-", "-"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct sk_err err = {0};
        enum sk_isa isa = SK_ISA_COUNT;
        assert_int_equal(sk_isa_choose(up_to(SK_ISA_AVX512_BF16), wrong[i], &isa, &err), -SK_EINVAL);
        assert_int_equal(isa, SK_ISA_COUNT);
        assert_non_null(strstr(err.msg, "none, avx512-bf16, avx512-vnni, avx512, avx2"));
    }
}

static void a_cpu_below_the_lowest_is_refused(void **state)
{
    struct sk_err err = {0};
    enum sk_isa isa = SK_ISA_COUNT;
    assert_int_equal(sk_isa_choose(0, NULL, &isa, &err), -SK_EUNSUP);
    assert_int_equal(sk_isa_choose(0, "avx2", &isa, &err), -SK_EUNSUP);
    assert_int_equal(sk_isa_choose(up_to(SK_ISA_AVX512), "none", &isa, &err), -SK_EUNSUP); /* as if it were */
    assert_int_equal(isa, SK_ISA_COUNT);
}

/* What is found has all that it builds on, and agrees with the compiler's own CPUID. */
static void this_machine(void **state)
{
    const uint32_t have = sk_isa_detect();
    for (enum sk_isa isa = SK_ISA_AVX2; isa < SK_ISA_COUNT; isa++) {
        if (have & set_of(isa)) {
            printf("%s\n", sk_isa_name(isa));
            assert_int_equal(have & up_to(isa), up_to(isa));
        }
    }
    assert_int_equal(have & ~up_to(SK_ISA_AMX), have & set_of(SK_ISA_AVX2_VNNI));
    assert_int_equal(have & set_of(SK_ISA_AVX2) ? 1 : 0,
                     __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1 : 0);
    assert_int_equal(have & set_of(SK_ISA_AVX512) ? 1 : 0,
                     __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
                         ? 1
                         : 0);
}

static void every_level_fills_the_whole_table(void **state)
{
    static const enum sk_dtype no_cache[] = {SK_F16, SK_Q4, SK_Q4S};
    for (enum sk_isa isa = SK_ISA_AVX2; isa < SK_ISA_COUNT; isa++) {
        struct sk_ktab t;
        void *entry[sizeof t / sizeof(void *)];
        memset(&t, 0, sizeof t);
        sk_ktab_fill(&t, isa);
        for (size_t i = 0; i < sizeof no_cache / sizeof *no_cache; i++) {
            for (int class = 0; class < SK_CLASS_COUNT; class ++) {
                assert_true(t.attn[class][no_cache[i]] == NULL);
                t.attn[class][no_cache[i]] = t.attn[class][SK_F32];
            }
        }
        memcpy(entry, &t, sizeof t); /* the table holds function pointers only */
        for (size_t i = 0; i < sizeof t / sizeof(void *); i++)
            assert_non_null(entry[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_distinct),
        cmocka_unit_test(nothing_asked_gives_the_highest),
        cmocka_unit_test(avx2_vnni_is_a_branch_of_its_own),
        cmocka_unit_test(a_level_can_be_lowered_to_any_that_is_there),
        cmocka_unit_test(a_refusal_lists_the_levels),
        cmocka_unit_test(unknown_names_are_refused),
        cmocka_unit_test(a_cpu_below_the_lowest_is_refused),
        cmocka_unit_test(this_machine),
        cmocka_unit_test(every_level_fills_the_whole_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

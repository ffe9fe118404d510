#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
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

static void nothing_asked_gives_the_highest(void **state)
{
    enum sk_isa isa = SK_ISA_NONE;
    assert_int_equal(sk_isa_choose(SK_ISA_AVX512_BF16, NULL, &isa, NULL), 0);
    assert_int_equal(isa, SK_ISA_AVX512_BF16);
    assert_int_equal(sk_isa_choose(SK_ISA_AVX512, "", &isa, NULL), 0);
    assert_int_equal(isa, SK_ISA_AVX512);
}

static void a_level_can_be_lowered(void **state)
{
    for (enum sk_isa have = SK_ISA_AVX512; have < SK_ISA_COUNT; have++) {
        for (enum sk_isa want = SK_ISA_AVX512; want <= have; want++) {
            enum sk_isa isa = SK_ISA_NONE;
            assert_int_equal(sk_isa_choose(have, sk_isa_name(want), &isa, NULL), 0);
            assert_int_equal(isa, want);
        }
    }
}

static void a_level_cannot_be_raised(void **state)
{
    struct sk_err err = {0};
    enum sk_isa isa = SK_ISA_COUNT;
    assert_int_equal(sk_isa_choose(SK_ISA_AVX512, "avx512-vnni", &isa, &err), -SK_EINVAL);
    assert_int_equal(isa, SK_ISA_COUNT);
    assert_string_equal(err.param, "SKEIN_ISA");
    assert_non_null(strstr(err.msg, "avx512-vnni"));
    assert_null(strstr(err.msg, "avx512-bf16"));
}

static void unknown_names_are_refused(void **state)
{
    static const char *const wrong[] = {"NONE", "AVX512", "avx512 ", "avx2", "avx512-vnni-", "-"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct sk_err err = {0};
        enum sk_isa isa = SK_ISA_COUNT;
        assert_int_equal(sk_isa_choose(SK_ISA_AVX512_BF16, wrong[i], &isa, &err), -SK_EINVAL);
        assert_non_null(strstr(err.msg, "avx512, avx512-vnni, avx512-bf16"));
    }
}

static void a_cpu_below_the_lowest_is_refused(void **state)
{
    struct sk_err err = {0};
    enum sk_isa isa = SK_ISA_COUNT;
    assert_int_equal(sk_isa_choose(SK_ISA_NONE, NULL, &isa, &err), -SK_EUNSUP);
    assert_int_equal(sk_isa_choose(SK_ISA_NONE, "avx512", &isa, &err), -SK_EUNSUP);
    assert_int_equal(sk_isa_choose(SK_ISA_AVX512, "none", &isa, &err), -SK_EUNSUP); /* as if it were */
    assert_int_equal(isa, SK_ISA_COUNT);
}

static void every_level_fills_the_whole_table(void **state)
{
    for (enum sk_isa isa = SK_ISA_AVX512; isa < SK_ISA_COUNT; isa++) {
        struct sk_ktab t;
        void *entry[sizeof t / sizeof(void *)];
        memset(&t, 0, sizeof t);
        sk_ktab_fill(&t, isa);
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
        cmocka_unit_test(a_level_can_be_lowered),
        cmocka_unit_test(a_level_cannot_be_raised),
        cmocka_unit_test(unknown_names_are_refused),
        cmocka_unit_test(a_cpu_below_the_lowest_is_refused),
        cmocka_unit_test(every_level_fills_the_whole_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

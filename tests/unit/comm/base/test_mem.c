#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <string.h>

#include "comm/base/mem.h"

static void test_zero_bytes_are_a_pointer(void **state)
{
    void *a = sk_malloc(0), *b = sk_calloc(0, 8), *c = sk_realloc(NULL, 0);
    assert_non_null(a);
    assert_non_null(b);
    assert_non_null(c);
    assert_ptr_not_equal(a, b);
    c = sk_realloc(c, 0);
    assert_non_null(c);
    sk_free(a);
    sk_free(b);
    sk_free(c);
    sk_free(NULL);
}

static void test_overflow_is_null(void **state)
{
    volatile size_t huge = SIZE_MAX / 2; /* hidden from the compiler, which would warn */
    assert_null(sk_calloc(huge, 4));
}

static void test_strings(void **state)
{
    char *a = sk_strdup("hello"), *b = sk_strndup("hello", 3), *c = sk_strndup("hi\0you", 6);
    assert_string_equal(a, "hello");
    assert_string_equal(b, "hel");
    assert_string_equal(c, "hi");
    sk_free(a);
    sk_free(b);
    sk_free(c);
}

static void *allocate_1000(void *arg)
{
    for (int i = 0; i < 1000; i++)
        sk_free(sk_malloc(8));
    return NULL;
}

static void test_count_over_threads(void **state)
{
    pthread_t t[4];
    uint64_t before = sk_mem_count();
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, allocate_1000, NULL), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(sk_mem_count() - before, 4000);
}

static void test_nth_fails(void **state)
{
    sk_mem_fail_at(3, 0);
    for (int i = 1; i <= 5; i++) {
        void *p = sk_malloc(1);
        assert_true((p == NULL) == (i == 3));
        sk_free(p);
    }
    sk_mem_fail_at(2, 1);
    for (int i = 1; i <= 5; i++) {
        void *p = sk_malloc(1);
        assert_true((p == NULL) == (i >= 2));
        sk_free(p);
    }
    sk_mem_fail_at(0, 0);
    void *p = sk_malloc(1);
    assert_non_null(p);
    sk_free(p);
}

static void test_arena(void **state)
{
    struct sk_arena a;
    char *piece[200];
    sk_arena_init(&a, 1 << 20);
    for (size_t i = 0; i < 200; i++) {
        size_t n = i * 7 + (i % 50 == 0 ? 20000 : 0);
        piece[i] = sk_arena_alloc(&a, n);
        assert_non_null(piece[i]);
        assert_int_equal((uintptr_t)piece[i] % 16, 0);
        for (size_t j = 0; j < n; j++)
            assert_int_equal(piece[i][j], 0);
        memset(piece[i], (int)i, n);
    }
    for (size_t i = 0; i < 200; i++)
        for (size_t j = 0; j < i * 7; j++)
            assert_int_equal((unsigned char)piece[i][j], i);
    assert_string_equal(sk_arena_strndup(&a, "hello", 2), "he");
    assert_string_equal(sk_arena_strndup(&a, "hello", SIZE_MAX), "hello");
    sk_arena_done(&a);
    assert_int_equal(a.used, 0);
}

static void test_arena_max(void **state)
{
    struct sk_arena a;
    sk_arena_init(&a, 64);
    assert_non_null(sk_arena_alloc(&a, 33)); /* 48 */
    assert_null(sk_arena_alloc(&a, 17));
    assert_null(sk_arena_alloc(&a, SIZE_MAX));
    assert_null(sk_arena_alloc(&a, SIZE_MAX - 8));
    assert_non_null(sk_arena_alloc(&a, 16));
    assert_null(sk_arena_alloc(&a, 0));
    assert_int_equal(a.used, 64);
    sk_arena_done(&a);

    sk_arena_init(&a, SIZE_MAX);
    assert_null(sk_arena_alloc(&a, SIZE_MAX));
    sk_mem_fail_at(1, 0);
    assert_null(sk_arena_alloc(&a, 1));
    sk_mem_fail_at(0, 0);
    assert_int_equal(a.used, 0);
    sk_arena_done(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zero_bytes_are_a_pointer),
        cmocka_unit_test(test_overflow_is_null),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_count_over_threads),
        cmocka_unit_test(test_nth_fails),
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_arena_max),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

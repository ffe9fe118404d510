/* Chains of hashes, and the table of what a replica has. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "server/job/prefix.h"

enum { B = SK_PREFIX_BLOCK_TOK, ALL = SK_PREFIX_SETS * SK_PREFIX_WAYS };

static struct sk_prefix *p;

static int open_table(void **state)
{
    return sk_prefix_new(&p);
}

static int close_table(void **state)
{
    sk_prefix_free(p);
    return 0;
}

static void fill(int32_t *tok, uint32_t n, int32_t first)
{
    for (uint32_t i = 0; i < n; i++)
        tok[i] = first + (int32_t)i;
}

/* Only full blocks count; a block's hash is of all before it and of the salt. */
static void test_chain(void **state)
{
    int32_t tok[4 * B];
    uint64_t a[4], b[4];
    fill(tok, 4 * B, 7);
    assert_int_equal(sk_prefix_chain(0, tok, B - 1, a), 0);
    assert_int_equal(sk_prefix_chain(0, tok, 2 * B + B - 1, a), 2);
    assert_int_equal(sk_prefix_chain(0, tok, 4 * B, b), 4);
    assert_memory_equal(a, b, 2 * sizeof a[0]);
    assert_int_equal(sk_prefix_chain(1, tok, 4 * B, a), 4);
    for (int i = 0; i < 4; i++)
        assert_int_not_equal(a[i], b[i]);
    tok[B]++;
    assert_int_equal(sk_prefix_chain(0, tok, 4 * B, a), 4);
    assert_int_equal(a[0], b[0]);
    for (int i = 1; i < 4; i++)
        assert_int_not_equal(a[i], b[i]);
    fill(tok, 2 * B, 0);
    memcpy(tok + B, tok, B * sizeof tok[0]); /* equal blocks at different places differ */
    sk_prefix_chain(0, tok, 2 * B, a);
    assert_int_not_equal(a[0], a[1]);
}

static void test_find(void **state)
{
    int32_t tok[6 * B];
    uint64_t long_one[6], other[6];
    fill(tok, 6 * B, 1);
    sk_prefix_chain(3, tok, 6 * B, long_one);
    assert_int_equal(sk_prefix_find(p, long_one, 6), 0);
    sk_prefix_note(p, long_one, 4);
    assert_int_equal(sk_prefix_find(p, long_one, 6), 4);
    tok[2 * B] = 0;
    sk_prefix_chain(3, tok, 6 * B, other);
    assert_int_equal(sk_prefix_find(p, other, 6), 2);
    assert_int_equal(sk_prefix_find(p, long_one, 0), 0);
    sk_prefix_clear(p);
    assert_int_equal(sk_prefix_find(p, long_one, 6), 0);
}

/* What was used last stays, and what is lost of a chain is its end. */
static void test_oldest_makes_room(void **state)
{
    uint64_t chain[SK_PREFIX_WAYS + 1];
    for (uint32_t i = 0; i <= SK_PREFIX_WAYS; i++)
        chain[i] = 5 + (uint64_t)SK_PREFIX_SETS * (i + 1); /* all of one set */
    sk_prefix_note(p, chain, SK_PREFIX_WAYS);
    assert_int_equal(sk_prefix_find(p, chain, SK_PREFIX_WAYS), SK_PREFIX_WAYS);
    sk_prefix_note(p, chain + SK_PREFIX_WAYS, 1);
    assert_int_equal(sk_prefix_find(p, chain + SK_PREFIX_WAYS, 1), 1);
    assert_int_equal(sk_prefix_find(p, chain, SK_PREFIX_WAYS), SK_PREFIX_WAYS - 1);
    sk_prefix_note(p, chain + SK_PREFIX_WAYS - 2, 1); /* used again: the one before it is the oldest now */
    sk_prefix_note(p, chain + SK_PREFIX_WAYS - 1, 1);
    assert_int_equal(sk_prefix_find(p, chain, SK_PREFIX_WAYS), SK_PREFIX_WAYS - 3);
    assert_int_equal(sk_prefix_find(p, chain + SK_PREFIX_WAYS - 2, 3), 3);
}

static void test_bounded(void **state)
{
    int32_t tok[B];
    uint64_t h;
    uint32_t n = 0;
    for (int32_t i = 0; i < 4 * ALL; i++) {
        fill(tok, B, 1000 * i);
        sk_prefix_chain(0, tok, B, &h);
        sk_prefix_note(p, &h, 1);
        assert_int_equal(sk_prefix_find(p, &h, 1), 1);
    }
    for (int32_t i = 0; i < 4 * ALL; i++) {
        fill(tok, B, 1000 * i);
        sk_prefix_chain(0, tok, B, &h);
        n += sk_prefix_find(p, &h, 1);
    }
    assert_true(n <= ALL && n > ALL * 9 / 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chain),
        cmocka_unit_test_setup_teardown(test_find, open_table, close_table),
        cmocka_unit_test_setup_teardown(test_oldest_makes_room, open_table, close_table),
        cmocka_unit_test_setup_teardown(test_bounded, open_table, close_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

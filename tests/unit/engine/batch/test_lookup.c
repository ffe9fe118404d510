#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "comm/base/mem.h"
#include "engine/batch/lookup.h"

enum { N_ENTRY = 256, MAX_TOK = 4096 };

static uint32_t words[SK_LOOKUP_N_TABLE * SK_LOOKUP_MAX_ENTRY];

static struct sk_lookup begin(uint32_t n_entry)
{
    struct sk_lookup x;
    memset(words, 0xa5, sizeof words); /* what another text left there */
    sk_lookup_begin(&x, words, n_entry, MAX_TOK);
    return x;
}

static void expect(struct sk_lookup *x, const int32_t *tok, uint32_t n, uint32_t max, const int32_t *want,
                   uint32_t n_want)
{
    int32_t got[64];
    assert_int_equal(sk_lookup_draft(x, tok, n, SK_LOOKUP_MIN_NGRAM, max, got), n_want);
    assert_memory_equal(got, want, n_want * sizeof *want);
}

static void what_followed_is_the_draft(void **state)
{
    const int32_t tok[] = {70, 10, 11, 12, 13, 14, 15, 16, 20, 11, 12}, want[] = {13, 14, 15, 16};
    struct sk_lookup x = begin(N_ENTRY);
    expect(&x, tok, 11, 4, want, 4);
    expect(&x, tok, 11, 2, want, 2); /* asked again, nothing has changed */
    expect(&x, tok, 11, 0, want, 0);
}

static void what_is_new_has_no_draft(void **state)
{
    const int32_t tok[] = {10, 11, 12, 13, 14, 15, 12, 15};
    struct sk_lookup x = begin(N_ENTRY);
    for (uint32_t n = 0; n <= 8; n++)
        expect(&x, tok, n, 4, NULL, 0);
}

/* 2 3 stands before 9, later before 8; 1 2 3 only before 9. */
static void a_longer_match_is_preferred(void **state)
{
    const int32_t tok[] = {70, 1, 2, 3, 9, 5, 6, 2, 3, 8, 7, 1, 2, 3}, want[] = {9, 5, 6};
    struct sk_lookup x = begin(N_ENTRY);
    expect(&x, tok, 14, 3, want, 3);
}

static void a_shorter_match_may_be_ruled_out(void **state)
{
    const int32_t tok[] = {70, 71, 1, 2, 3, 9, 8, 7, 6, 2, 3}, want[] = {9};
    int32_t got[4];
    struct sk_lookup x = begin(N_ENTRY);
    assert_int_equal(sk_lookup_draft(&x, tok, 11, 3, 4, got), 0);
    expect(&x, tok, 11, 1, want, 1);
}

static void then_the_later_one(void **state)
{
    const int32_t tok[] = {1, 2, 3, 9, 5, 6, 1, 2, 3, 8, 7, 4, 1, 2, 3}, want[] = {8, 7, 4};
    struct sk_lookup x = begin(N_ENTRY);
    expect(&x, tok, 15, 3, want, 3);
}

/* Five tokens have agreed with the first place, where a later one has the last four too. */
static void a_match_that_goes_on_is_kept(void **state)
{
    const int32_t tok[] = {70, 71, 1, 2, 3, 4, 5, 6, 7, 90, 3, 4, 5, 6, 80, 91, 1, 2, 3, 4, 5, 6};
    const int32_t first[] = {3, 4}, second[] = {5, 6}, third[] = {7, 90}, later[] = {80, 91};
    struct sk_lookup x = begin(N_ENTRY);
    expect(&x, tok, 18, 2, first, 2);
    expect(&x, tok, 20, 2, second, 2); /* 3 4 were right */
    expect(&x, tok, 22, 2, third, 2);
    x = begin(N_ENTRY);
    expect(&x, tok, 22, 2, later, 2); /* to one who looks for the first time the later one is the match */
}

/* Whatever the text: a draft is what stands after its last tokens at an earlier place, at least two of them. */
static void a_draft_is_always_from_the_text(void **state)
{
    static int32_t tok[MAX_TOK];
    int32_t got[16];
    uint32_t seed = 1, n_found = 0;
    struct sk_lookup x = begin(16); /* most entries collide */
    for (uint32_t n = 0; n < MAX_TOK; n++) {
        seed = seed * 1664525 + 1013904223;
        tok[n] = (int32_t)(seed >> 28);
        if (sk_lookup_draft(&x, tok, n, SK_LOOKUP_MIN_NGRAM, 16, got) == 0)
            continue;
        n_found++;
        bool found = false;
        for (uint32_t at = 2; at < n && !found; at++) {
            uint32_t k = n - at < 16 ? n - at : 16;
            found = memcmp(tok + at - 2, tok + n - 2, 8) == 0 && memcmp(tok + at, got, k * sizeof *got) == 0;
        }
        assert_true(found);
    }
    assert_true(n_found > 100);
}

static void what_repeats_itself_is_drafted_past_its_end(void **state)
{
    static int32_t tok[MAX_TOK];
    int32_t want[32];
    for (uint32_t period = 1; period <= 5; period++) {
        struct sk_lookup x = begin(N_ENTRY);
        for (uint32_t i = 0; i < MAX_TOK; i++)
            tok[i] = (int32_t)(i % period);
        for (uint32_t i = 0; i < 32; i++)
            want[i] = (int32_t)((100 + i) % period);
        expect(&x, tok, 100, 32, want, 32);
    }
}

/* A text of one token, or of one n-gram after another that meet in one entry, costs what any other does: nothing is
 * walked. That is so by construction; here, that nothing is allocated and that the tables bound what is remembered. */
static void memory_has_a_bound(void **state)
{
    uint64_t before = sk_mem_count();
    static int32_t tok[1 << 16];
    int32_t got[4];
    for (uint32_t i = 0; i < 1 << 16; i++)
        tok[i] = (int32_t)i;
    tok[(1 << 16) - 2] = 4;
    tok[(1 << 16) - 1] = 5;
    struct sk_lookup x = begin(N_ENTRY);
    assert_int_equal(sk_lookup_draft(&x, tok, 1 << 16, SK_LOOKUP_MIN_NGRAM, 4, got),
                     0); /* 4 5 was at the beginning: it is forgotten */
    assert_int_equal(words[SK_LOOKUP_N_TABLE * N_ENTRY], 0xa5a5a5a5);
    assert_int_equal(sk_mem_count(), before);

    assert_int_equal(sk_lookup_entries(100, 1), 128);
    assert_int_equal(sk_lookup_entries(1 << 20, 64), SK_LOOKUP_MAX_ENTRY);
    for (uint32_t n = 1; n <= 4096; n *= 2)
        assert_true(sk_lookup_words(sk_lookup_entries(1 << 20, n)) * 4 * n <= SK_LOOKUP_MAX_BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_followed_is_the_draft),
        cmocka_unit_test(what_is_new_has_no_draft),
        cmocka_unit_test(a_longer_match_is_preferred),
        cmocka_unit_test(a_shorter_match_may_be_ruled_out),
        cmocka_unit_test(then_the_later_one),
        cmocka_unit_test(a_match_that_goes_on_is_kept),
        cmocka_unit_test(a_draft_is_always_from_the_text),
        cmocka_unit_test(what_repeats_itself_is_drafted_past_its_end),
        cmocka_unit_test(memory_has_a_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

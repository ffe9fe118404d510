#include "tests/unit/kernels/kern.h"

#include <math.h>
#include <string.h>
#include "comm/base/mem.h"
#include "comm/base/rng.h"
#include "kernels/ref/fmath.h"
#include "kernels/ref/sample.h"

enum { MAX_VOCAB = 1000 };

static const struct sk_samp plain = {
    .temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .seed = 1234567, .pos = 9};
static struct sk_cand cand[MAX_VOCAB];

/* Bit i of the result: token i is kept. Fails if one is kept twice. */
static uint64_t kept(const struct sk_samp *s, const float *row, uint32_t n_vocab)
{
    uint64_t set = 0;
    uint32_t n = sk_sample_filter(s, row, n_vocab, cand);
    for (uint32_t i = 0; i < n; i++) {
        assert_true(cand[i].z == row[cand[i].id] / s->temperature);
        set |= (uint64_t)1 << cand[i].id;
    }
    assert_int_equal(__builtin_popcountll(set), n);
    return set;
}

static void exp_and_log_are_accurate(void **state)
{
    for (float x = 0; x > -86.9f; x -= 0.0037f)
        assert_true(fabs(sk_fm_exp(x) / exp(x) - 1) < 2e-7);
    for (float x = 1e-7f; x < 1e6f; x *= 1.003f)
        assert_true(fabs(sk_fm_log(x) - log(x)) <= 2e-7 * fabs(log(x)) + 1e-37);
    for (int i = 1; i < 100; i++) {
        float x = 1 - (float)i * 0x1p-24f;
        assert_true(fabs(sk_fm_log(x) / log(x) - 1) < 2e-7);
    }
    assert_true(sk_fm_exp(0) == 1 && sk_fm_log(1) == 0);
    assert_true(sk_fm_exp(-INFINITY) == 0 && sk_fm_exp(-1000) == 0 && sk_fm_exp(NAN) == 0);
}

static void gumbel_is_that_of_the_uniform_number(void **state)
{
    struct sk_samp s = plain;
    for (uint32_t quad = 0; quad < 2000; quad++) {
        float g[4];
        s.choice = quad % 3;
        sk_sample_gumbel(&s, quad, g);
        for (uint32_t j = 0; j < 4; j++) {
            double want = -log(-log(sk_rng_uniform(s.seed, s.choice, s.pos, 4 * quad + j)));
            assert_true(fabs(g[j] - want) < 2e-6);
            assert_true(g[j] > SK_GUMBEL_MIN && g[j] < SK_GUMBEL_MAX);
        }
    }
    /* The limits hold at both ends of the uniform numbers. */
    assert_true(-sk_fm_log(-sk_fm_log(0x1p-24f)) > SK_GUMBEL_MIN);
    assert_true(-sk_fm_log(-sk_fm_log(1 - 0x1p-24f)) < SK_GUMBEL_MAX);
}

static void filters_keep_what_they_say(void **state)
{
    /* Probabilities 1/2, 1/4, 1/8, 1/16, 1/16, not in order of id. */
    const float row[5] = {logf(0.0625f), logf(0.25f), logf(0.5f), logf(0.0625f), logf(0.125f)};
    struct sk_samp s = plain;
    assert_int_equal(kept(&s, row, 5), 0x1f);

    s.top_k = 2;
    assert_int_equal(kept(&s, row, 5), 0x06);
    s.top_k = 4; /* a tie for the last place */
    assert_int_equal(kept(&s, row, 5), 0x17);
    s.top_k = 9;
    assert_int_equal(kept(&s, row, 5), 0x1f);

    s = plain;
    s.top_p = 0.7f;
    assert_int_equal(kept(&s, row, 5), 0x06);
    s.top_p = 0.76f;
    assert_int_equal(kept(&s, row, 5), 0x16);
    s.top_p = 0.9f; /* a tie again */
    assert_int_equal(kept(&s, row, 5), 0x17);
    s.top_p = 0;
    assert_int_equal(kept(&s, row, 5), 0x04);

    s = plain;
    s.min_p = 0.24f;
    assert_int_equal(kept(&s, row, 5), 0x16);
    s.min_p = 1;
    assert_int_equal(kept(&s, row, 5), 0x04);

    s = plain;
    s.epsilon_cutoff = 0.1f;
    assert_int_equal(kept(&s, row, 5), 0x16);
    s.epsilon_cutoff = 0.9f; /* the most probable stays */
    assert_int_equal(kept(&s, row, 5), 0x04);

    s = plain; /* entropy 1.2996 nats: sqrt(0.2) * e^-1.2996 = 0.1219 < 0.2 */
    s.eta_cutoff = 0.2f;
    assert_int_equal(kept(&s, row, 5), 0x16);
    s.eta_cutoff = 0.1f; /* the cut-off itself is the smaller */
    assert_int_equal(kept(&s, row, 5), 0x16);
    s.eta_cutoff = 0.05f;
    assert_int_equal(kept(&s, row, 5), 0x1f);

    s = plain; /* nearest to 1.2996: surprise 1.386 (1/4), then 0.693 (1/2), then 2.079 (1/8) */
    s.typical_p = 0.2f;
    assert_int_equal(kept(&s, row, 5), 0x02);
    s.typical_p = 0.7f;
    assert_int_equal(kept(&s, row, 5), 0x06);
    s.typical_p = 0.8f;
    assert_int_equal(kept(&s, row, 5), 0x16);
}

static void filters_see_what_the_one_before_kept(void **state)
{
    const float row[5] = {logf(0.0625f), logf(0.25f), logf(0.5f), logf(0.0625f), logf(0.125f)};
    struct sk_samp s = plain;
    s.top_k = 2; /* 2/3 and 1/3 are left */
    s.top_p = 0.66f;
    assert_int_equal(kept(&s, row, 5), 0x04);
    s.top_p = 0.68f;
    assert_int_equal(kept(&s, row, 5), 0x06);
    s.top_p = 1;
    s.epsilon_cutoff = 0.3f;
    assert_int_equal(kept(&s, row, 5), 0x06);
    s.temperature = 0.5f; /* before top_k: 4/5 and 1/5 */
    assert_int_equal(kept(&s, row, 5), 0x04);

    s = plain; /* typical_p may drop the most probable: epsilon_cutoff then spares the most probable of the rest */
    s.typical_p = 0.2f;
    s.epsilon_cutoff = 0.99f;
    assert_int_equal(kept(&s, row, 5), 0x02);
}

/* Against a sort of everything. */
static void top_k_is_that_of_a_sort(void **state)
{
    float row[MAX_VOCAB];
    for (uint32_t i = 0; i < MAX_VOCAB; i++)
        row[i] = (float)kern_below(1, i, 100); /* many ties */
    for (int k = 1; k < MAX_VOCAB; k += 83) {
        struct sk_samp s = plain;
        s.top_k = k;
        bool seen[MAX_VOCAB] = {false};
        assert_int_equal(sk_sample_filter(&s, row, MAX_VOCAB, cand), k);
        for (int j = 0; j < k; j++) {
            int n_before = 0, id = cand[j].id;
            for (int i = 0; i < MAX_VOCAB; i++)
                n_before += row[i] > row[id] || (row[i] == row[id] && i < id);
            assert_true(n_before < k && !seen[id]);
            seen[id] = true;
        }
    }
}

static void nothing_to_draw_from(void **state)
{
    const float none[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}, nan[4] = {NAN, NAN, NAN, NAN};
    const float one[4] = {NAN, -INFINITY, -1e30f, -INFINITY}, inf[4] = {0, INFINITY, 1, 0};
    struct sk_samp s = plain;
    for (int all = 0; all < 2; all++) {
        assert_int_equal(sk_sample_row(&s, none, 4, cand), 0);
        assert_int_equal(sk_sample_row(&s, nan, 4, cand), 0);
        assert_int_equal(sk_sample_row(&s, one, 4, cand), 2);
        assert_int_equal(sk_sample_row(&s, inf, 4, cand), 1);
        s.top_k = 2;
        s.top_p = s.typical_p = 0.5f;
        s.min_p = s.eta_cutoff = s.epsilon_cutoff = 0.1f;
    }
    s.flags = SK_SAMP_GREEDY;
    assert_int_equal(sk_sample_row(&s, none, 4, cand), 0);
    assert_int_equal(sk_sample_row(&s, nan, 4, cand), 0);
    assert_int_equal(sk_sample_row(&s, one, 4, cand), 2);
}

static void greedy_takes_the_lowest_of_the_largest(void **state)
{
    const float row[6] = {1, 3, -2, 3, 3, 0};
    struct sk_samp s = plain;
    s.flags = SK_SAMP_GREEDY;
    assert_int_equal(sk_sample_row(&s, row, 6, cand), 1);
}

/* Without the short cut for candidates that cannot win. */
static void draw_is_the_largest_of_all(void **state)
{
    float row[MAX_VOCAB];
    struct sk_samp s = plain;
    for (s.pos = 0; s.pos < 200; s.pos++) {
        float best = -INFINITY;
        int32_t id = -1;
        for (uint32_t i = 0; i < MAX_VOCAB; i++) {
            float g[4], v;
            row[i] = kern_normal(s.pos, i) * (float)(s.pos % 7);
            sk_sample_gumbel(&s, i / 4, g);
            v = row[i] + g[i % 4];
            if (v > best) {
                best = v;
                id = (int32_t)i;
            }
        }
        assert_int_equal(sk_sample_row(&s, row, MAX_VOCAB, cand), id);
    }
}

enum { N_DRAW = 20000, N_FACE = 8 };

/* Pearson's chi-square of N_DRAW draws against p; 7 degrees of freedom: 24.3 is passed once in a thousand. The draws
 * are always the same ones. */
static double chi_square(const int *n, const double *p)
{
    double sum = 0;
    for (int i = 0; i < N_FACE; i++)
        sum += (n[i] - N_DRAW * p[i]) * (n[i] - N_DRAW * p[i]) / (N_DRAW * p[i]);
    return sum;
}

static void draws_follow_the_softmax(void **state)
{
    const double p[N_FACE] = {0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.04, 0.01};
    float row[N_FACE];
    for (int what = 0; what < 3; what++) { /* what changes from draw to draw */
        struct sk_samp s = plain;
        int n[N_FACE] = {0};
        s.temperature = 2;
        for (int i = 0; i < N_FACE; i++)
            row[i] = 2 * logf((float)p[i]) + 5;
        for (uint32_t i = 0; i < N_DRAW; i++) {
            s.pos = what == 0 ? i : 3;
            s.choice = what == 1 ? i : 0;
            s.seed = what == 2 ? i : 42;
            n[sk_sample_row(&s, row, N_FACE, cand)]++;
        }
        assert_true(chi_square(n, p) < 24.3);
    }
}

static void draws_after_filters_follow_what_is_kept(void **state)
{
    const double p[N_FACE] = {0.3, 0.2, 0.15, 0.12, 0.1, 0.08, 0.04, 0.01};
    float row[200];
    struct sk_samp s = plain;
    int n[N_FACE] = {0};
    for (int i = 0; i < 200; i++)
        row[i] = i % 25 == 0 ? logf((float)p[i / 25]) : -12;
    s.top_k = N_FACE;
    for (s.pos = 0; s.pos < N_DRAW; s.pos++) {
        int32_t id = sk_sample_row(&s, row, 200, cand);
        assert_int_equal(id % 25, 0);
        n[id / 25]++;
    }
    assert_true(chi_square(n, p) < 24.3);
}

/* Pairs of draws whose seed, choice or position are neighbours fill an 8 x 8 table evenly: 63 degrees of freedom, 103.4
 * once in a thousand. */
static void neighbouring_draws_are_independent(void **state)
{
    const float row[N_FACE] = {0};
    for (int what = 0; what < 3; what++) {
        int n[N_FACE][N_FACE] = {{0}};
        double sum = 0, want = (double)N_DRAW / (N_FACE * N_FACE);
        for (uint32_t i = 0; i < N_DRAW; i++) {
            struct sk_samp a = plain, b;
            a.pos = i;
            b = a;
            b.pos += what == 0 ? N_DRAW : 0;
            b.choice += what == 1;
            b.seed += what == 2;
            n[sk_sample_row(&a, row, N_FACE, cand)][sk_sample_row(&b, row, N_FACE, cand)]++;
        }
        for (int i = 0; i < N_FACE * N_FACE; i++)
            sum += (n[i / N_FACE][i % N_FACE] - want) * (n[i / N_FACE][i % N_FACE] - want) / want;
        assert_true(sum < 103.4);
    }
}

static void top_n_is_that_of_a_sort(void **state)
{
    float row[MAX_VOCAB];
    double sum = 0;
    for (uint32_t i = 0; i < MAX_VOCAB; i++) {
        row[i] = (float)kern_below(2, i, 300) * 0.05f;
        sum += exp(row[i]);
    }
    for (int32_t id = 0; id < MAX_VOCAB; id += 37) {
        struct sk_result_row r = {.id = id};
        int rank = 1;
        for (int i = 0; i < MAX_VOCAB; i++)
            rank += row[i] > row[id];
        sk_topn_row(row, MAX_VOCAB, (uint32_t)id % 25, &r);
        assert_int_equal(r.id, id);
        assert_int_equal(r.rank, rank);
        assert_true(fabs(r.logprob - (row[id] - log(sum))) < 2e-6);
        assert_int_equal(r.n_top, id % 25 < SK_MAX_TOP ? id % 25 : SK_MAX_TOP);
        for (int j = 0; j < (int)r.n_top; j++) {
            int n_before = 0, top = r.top[j].id;
            for (int i = 0; i < MAX_VOCAB; i++)
                n_before += row[i] > row[top] || (row[i] == row[top] && i < top);
            assert_int_equal(n_before, j);
            assert_true(fabs(r.top[j].logprob - (row[top] - log(sum))) < 2e-6);
        }
    }
}

static void top_n_of_few(void **state)
{
    const float row[3] = {1000, 1001, -3e38f};
    struct sk_result_row r = {.id = 2};
    sk_topn_row(row, 3, 20, &r);
    assert_int_equal(r.n_top, 3);
    assert_int_equal(r.rank, 3);
    assert_int_equal(r.top[0].id, 1);
    assert_true(fabs(r.top[0].logprob + log1p(exp(-1))) < 1e-6);
    assert_true(r.logprob < -2e38f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_and_log_are_accurate),
        cmocka_unit_test(gumbel_is_that_of_the_uniform_number),
        cmocka_unit_test(filters_keep_what_they_say),
        cmocka_unit_test(filters_see_what_the_one_before_kept),
        cmocka_unit_test(top_k_is_that_of_a_sort),
        cmocka_unit_test(nothing_to_draw_from),
        cmocka_unit_test(greedy_takes_the_lowest_of_the_largest),
        cmocka_unit_test(draw_is_the_largest_of_all),
        cmocka_unit_test(draws_follow_the_softmax),
        cmocka_unit_test(draws_after_filters_follow_what_is_kept),
        cmocka_unit_test(neighbouring_draws_are_independent),
        cmocka_unit_test(top_n_is_that_of_a_sort),
        cmocka_unit_test(top_n_of_few),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

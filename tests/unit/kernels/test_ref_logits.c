#include "tests/unit/kernels/kern.h"

#include <math.h>
#include <string.h>
#include "kernels/ref/sample.h"

enum { N = 8 };

static const struct sk_samp plain = {
    .flags = SK_SAMP_PROCESS, .temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1};
static const float raw[N] = {1, -2, 3, -4, 5, 0, 7, -8};

static const int32_t no_list[1], no_token[1];

static int32_t bits(float f)
{
    int32_t i;
    memcpy(&i, &f, sizeof i);
    return i;
}

/* Processes a copy of `raw` and compares it with `want`, exactly. */
static void check(const struct sk_samp *s, const int32_t *list, const int32_t *token, const float want[N])
{
    float row[N];
    uint32_t count[N] = {0};
    memcpy(row, raw, sizeof row);
    sk_logits_row(s, list, token, &(struct sk_logits_span){row, 0, N}, count);
    for (int i = 0; i < N; i++) {
        if (row[i] != want[i])
            fail_msg("token %d: %g, not %g", i, row[i], want[i]);
        assert_int_equal(count[i], 0);
    }
}

static void lists(void **state)
{
    struct sk_samp s = plain;
    const int32_t list[] = {99, 99, 2, 7, 4, 0, bits(0.5f), bits(-100), 0, 4, 6, 7};
    s.list = 2; /* where this slot's lists begin */
    s.n_suppress = 2;
    s.n_bias = 2;
    check(&s, list, no_token, (float[N]){1 - 100, -2, -INFINITY, -4, 5.5f, 0, 7, -INFINITY});
    s.n_allowed = 4; /* 7 is allowed but suppressed; bias leaves a barred token barred */
    check(&s, list, no_token, (float[N]){1 - 100, -INFINITY, -INFINITY, -INFINITY, 5.5f, -INFINITY, 7, -INFINITY});
}

static void bad_words(void **state)
{
    struct sk_samp s = plain;
    const int32_t list[] = {1, 6, 2, 1, 0, 3, 5, 1, 2, 2, 5, 4}, token[] = {3, 5, 1};
    s.n_bad_word = 4;
    s.pos = 3; /* 6 always; 0 after 1; 2 after 5, 1; not 4: 5 is not the last */
    check(&s, list, token, (float[N]){-INFINITY, -2, -INFINITY, -4, 5, 0, -INFINITY, -8});
    s.pos = 1;
    check(&s, list, token, (float[N]){1, -2, 3, -4, 5, 0, -INFINITY, -8});
    s.pos = 0;
    check(&s, list, token, (float[N]){1, -2, 3, -4, 5, 0, -INFINITY, -8});
}

static void penalties(void **state)
{
    const int32_t token[] = {4, 1, 4, 6, 1, 1};
    struct sk_samp s = plain;
    s.n_prompt = 3;
    s.pos = 6;
    s.repetition_penalty = 2; /* each seen token once, the prompt's too */
    check(&s, no_list, token, (float[N]){1, -4, 3, -4, 2.5f, 0, 3.5f, -8});
    s.repetition_penalty = 1;
    s.presence_penalty = 0.25f; /* generated ones only: 6, and 1 twice */
    check(&s, no_list, token, (float[N]){1, -2.25f, 3, -4, 5, 0, 6.75f, -8});
    s.frequency_penalty = -1;
    check(&s, no_list, token, (float[N]){1, -0.25f, 3, -4, 5, 0, 7.75f, -8});
    s.presence_penalty = 0;
    s.repetition_penalty = 2; /* repetition first */
    check(&s, no_list, token, (float[N]){1, -2, 3, -4, 2.5f, 0, 4.5f, -8});
}

static void order_of_bias_and_penalty(void **state)
{
    const int32_t list[] = {5, 4, bits(3), bits(0.5f)}, token[] = {5, 4};
    struct sk_samp s = plain;
    s.n_bias = 2;
    s.n_prompt = s.pos = 2;
    s.repetition_penalty = 2;
    check(&s, list, token, (float[N]){1, -2, 3, -4, 2.75f, 1.5f, 7, -8});
}

static void no_repeat_ngram(void **state)
{
    const int32_t token[] = {2, 4, 6, 2, 5, 2};
    struct sk_samp s = plain;
    s.no_repeat_ngram = 2; /* after 2 came 4 and 5 */
    s.pos = 6;
    check(&s, no_list, token, (float[N]){1, -2, 3, -4, -INFINITY, -INFINITY, 7, -8});
    s.pos = 4; /* after 2 came 4 */
    check(&s, no_list, token, (float[N]){1, -2, 3, -4, -INFINITY, 0, 7, -8});
    s.no_repeat_ngram = 3;
    check(&s, no_list, token, raw);
    s.no_repeat_ngram = 1; /* no token twice */
    check(&s, no_list, token, (float[N]){1, -2, -INFINITY, -4, -INFINITY, 0, -INFINITY, -8});
    for (s.pos = 0; s.pos < 3; s.pos++) { /* shorter than the n-gram */
        s.no_repeat_ngram = 4;
        check(&s, no_list, token, raw);
    }
}

/* The three ops together, on rows of different kinds. */
static void rows_of_a_step(void **state)
{
    enum { LD = 16, MAX_LEN = 4, N_ROW = 4 };
    struct sk_backend *be = kern_ref();
    struct sk_samp samp[N_ROW] = {plain, plain, plain, plain};
    const int32_t list[] = {6}, token[2 * MAX_LEN] = {1, 3, 3, 3, 2, 2, 5, 2};
    float logits[N_ROW * LD] = {0}, work[N_ROW * LD];
    int32_t drawn[2 * MAX_LEN];
    struct sk_result_row result[N_ROW];

    for (int r = 0; r < N_ROW; r++)
        memcpy(logits + r * LD, raw, sizeof raw);
    samp[0].flags = SK_SAMP_GREEDY;
    samp[0].slot = 1, samp[0].pos = 3;
    samp[1].flags = SK_SAMP_GREEDY | SK_SAMP_PROCESS; /* without 6, so 4 */
    samp[1].slot = 0, samp[1].pos = 2, samp[1].n_suppress = 1;
    samp[2].flags = SK_SAMP_TARGET;
    samp[2].slot = 1, samp[2].pos = 2, samp[2].n_top = 2;
    samp[3].flags = 0;
    samp[3].slot = 0, samp[3].pos = 3, samp[3].top_k = 1;
    for (int r = 0; r < N_ROW - 1; r++) /* nobody asks for the log-prob of the last */
        samp[r].flags |= SK_SAMP_LOGPROB;
    for (int i = 0; i < N_ROW * LD; i++)
        work[i] = 123;
    struct sk_op_logits op = {.logits = kern_put(be, logits, sizeof logits),
                              .work = kern_put(be, work, sizeof work),
                              .samp = kern_put(be, samp, sizeof samp),
                              .list = kern_put(be, list, sizeof list),
                              .token = kern_put(be, token, sizeof token),
                              .result = kern_new(be, sizeof result),
                              .n_row = N_ROW,
                              .n_vocab = N,
                              .ld = LD,
                              .max_len = MAX_LEN};
    be->logits_process(be, &op);
    be->sample(be, &op);
    be->top_n(be, &op);
    kern_get(be, op.token, drawn, sizeof drawn);
    kern_get(be, op.result, result, sizeof result);
    kern_get(be, op.work, work, sizeof work);

    const int32_t want[2 * MAX_LEN] = {1, 3, 4, 6, 2, 2, 5, 6};
    assert_memory_equal(drawn, want, sizeof want);
    const int32_t id[N_ROW] = {6, 4, 5, 6}, rank[N_ROW] = {1, 2, 5, 0};
    for (int r = 0; r < N_ROW; r++) {
        assert_int_equal(result[r].id, id[r]);
        assert_int_equal(result[r].rank, rank[r]);
        assert_true(r == 3 ? result[r].logprob == 0
                           : fabsf(result[0].logprob - result[r].logprob - (raw[6] - raw[id[r]])) <
                                 1e-6f); /* of the raw logits */
        assert_int_equal(result[r].n_top, r == 2 ? 2 : 0);
        assert_true(r == 1 ? work[r * LD + 6] == -INFINITY : work[r * LD + 6] == 123); /* other rows are not touched */
    }
    assert_int_equal(result[2].top[0].id, 6);
    assert_int_equal(result[2].top[1].id, 4);
    kern_free_all(be);
    be->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists),           cmocka_unit_test(bad_words),
        cmocka_unit_test(penalties),       cmocka_unit_test(order_of_bias_and_penalty),
        cmocka_unit_test(no_repeat_ngram), cmocka_unit_test(rows_of_a_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

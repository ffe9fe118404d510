/* logits_process, sample and top_n of every backend and level against kernels/ref: the same tokens, and log-probs
 * within rounding; each row alone and among others, with one thread and two. */
#include "tests/unit/kernels/kern.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "comm/base/mem.h"

enum { MAX_ROW = 32, N_SLOT = 4, MAX_LEN = 60 };

static const uint32_t vocabs[] = {5, 16, 100, 1003, 5000};

struct input {
    uint32_t n_vocab, ld, n_row;
    float *logits;
    struct sk_samp samp[MAX_ROW];
    int32_t token[N_SLOT * MAX_LEN];
    const int32_t *list;
};

struct output {
    struct sk_result_row result[MAX_ROW];
    int32_t token[N_SLOT * MAX_LEN];
    float *work;
};

/* Suppress 2 and 3; bias 1 and 4; allow 0, 1, 4; bar 4 after 1, and 2. All ids are in the smallest vocabulary.
 * 0x40000000 is 2.0. */
static const int32_t list[] = {99, 2, 3, 1, 4, 0x40000000, -0x40000000, 0, 1, 4, 2, 1, 4, 1, 2};
enum { LIST_SUPPRESS = 1, LIST_BIAS = 3, LIST_BAD_WORD = 10 };

/* Row r by its number: all filters and penalties, alone and together, come by; token[slot][pos] differs from row to
 * row. */
static struct sk_samp samp_of(uint32_t r)
{
    struct sk_samp s = {.slot = r % N_SLOT,
                        .pos = 20 + r,
                        .n_prompt = 11,
                        .choice = r % 3,
                        .n_top = r % (SK_MAX_TOP + 1),
                        .seed = 1000 + r / 2,
                        .temperature = 0.5f + 0.1f * (float)(r % 9),
                        .top_p = 1,
                        .typical_p = 1,
                        .repetition_penalty = 1};
    switch (r % 16) {
    case 0:
        s.flags = SK_SAMP_GREEDY;
        break;
    case 1:
        s.flags = SK_SAMP_TARGET;
        break;
    case 2:
        break;
    case 3:
        s.top_k = 7;
        break;
    case 4:
        s.top_p = 0.8f;
        break;
    case 5:
        s.min_p = 0.1f;
        break;
    case 6:
        s.typical_p = 0.6f;
        break;
    case 7:
        s.eta_cutoff = 0.02f;
        break;
    case 8:
        s.epsilon_cutoff = 0.03f;
        break;
    case 9:
        s.top_k = 50, s.top_p = 0.95f, s.min_p = 0.01f;
        break;
    case 10:
        s.flags = SK_SAMP_PROCESS, s.list = LIST_SUPPRESS, s.n_suppress = 2, s.n_bias = 2;
        break;
    case 11:
        s.flags = SK_SAMP_PROCESS | SK_SAMP_GREEDY, s.list = LIST_BIAS, s.n_bias = 2, s.n_allowed = 3, s.n_bad_word = 2;
        break;
    case 12:
        s.flags = SK_SAMP_PROCESS, s.repetition_penalty = 1.3f, s.presence_penalty = 0.5f, s.frequency_penalty = -0.25f;
        break;
    case 13:
        s.flags = SK_SAMP_PROCESS | SK_SAMP_GREEDY, s.no_repeat_ngram = 2;
        break;
    case 14:
        s.flags = SK_SAMP_PROCESS, s.list = LIST_BAD_WORD, s.n_bad_word = 2, s.no_repeat_ngram = 1, s.top_p = 0.9f;
        break;
    case 15:
        s.flags = SK_SAMP_PROCESS | SK_SAMP_TARGET, s.presence_penalty = 1;
        break;
    }
    return s;
}

/* Rows first..first+n_row-1 in one step. */
static void compute(struct sk_backend *be, const struct input *in, uint32_t first, uint32_t n_row, struct output *ret)
{
    const size_t bytes = (size_t)n_row * in->ld * sizeof(float);
    struct sk_op_logits op = {.logits = kern_put(be, in->logits + (size_t)first * in->ld, bytes),
                              .work = kern_put(be, in->logits, bytes),
                              .samp = kern_put(be, in->samp + first, n_row * sizeof in->samp[0]),
                              .list = kern_put(be, list, sizeof list),
                              .token = kern_put(be, in->token, sizeof in->token),
                              .result = kern_new(be, n_row * sizeof ret->result[0]),
                              .n_row = n_row,
                              .n_vocab = in->n_vocab,
                              .ld = in->ld,
                              .max_len = MAX_LEN};
    be->logits_process(be, &op);
    be->sample(be, &op);
    be->top_n(be, &op);
    kern_get(be, op.result, ret->result, n_row * sizeof ret->result[0]);
    kern_get(be, op.token, ret->token, sizeof ret->token);
    kern_get(be, op.work, ret->work, bytes);
    kern_free_all(be);
}

/* A float of rounding more where log-probs are large. */
static void check_logprob(float want, float got, const char *what)
{
    kern_assert_near(&got, &want, 1, 1e-5 + 2.4e-7 * fabs(want), what);
}

static void check_result(const struct sk_result_row *want, const struct sk_result_row *got, const char *what)
{
    if (got->id != want->id || got->rank != want->rank || got->n_top != want->n_top)
        fail_msg("%s: token %d rank %d top %u, not token %d rank %d top %u", what, got->id, got->rank, got->n_top,
                 want->id, want->rank, want->n_top);
    check_logprob(want->logprob, got->logprob, what);
    for (uint32_t i = 0; i < want->n_top; i++) {
        assert_int_equal(got->top[i].id, want->top[i].id);
        check_logprob(want->top[i].logprob, got->top[i].logprob, what);
    }
}

static bool same_result(const struct sk_result_row *a, const struct sk_result_row *b)
{
    return memcmp(a, b, offsetof(struct sk_result_row, top)) == 0 &&
           memcmp(a->top, b->top, a->n_top * sizeof a->top[0]) == 0;
}

static void check_rows(const struct kern *k, const struct input *in)
{
    struct output want, all, got;
    char what[96];
    want.work = kern_zeros((size_t)MAX_ROW * in->ld * 4);
    all.work = kern_zeros((size_t)MAX_ROW * in->ld * 4);
    got.work = kern_zeros((size_t)MAX_ROW * in->ld * 4);
    compute(k->ref, in, 0, MAX_ROW, &want);
    compute(k->one, in, 0, MAX_ROW, &all);
    for (uint32_t r = 0; r < MAX_ROW; r++) {
        snprintf(what, sizeof what, "%s, vocabulary of %u, row %u", k->one->isa, in->n_vocab, r);
        check_result(&want.result[r], &all.result[r], what);
        kern_assert_same_bits(want.work + (size_t)r * in->ld, all.work + (size_t)r * in->ld, in->n_vocab * 4,
                              what); /* the same few roundings */
    }
    assert_memory_equal(want.token, all.token, sizeof all.token);

    compute(k->two, in, 0, MAX_ROW, &got);
    for (uint32_t r = 0; r < MAX_ROW; r++)
        assert_true(same_result(&all.result[r], &got.result[r]));
    assert_memory_equal(got.token, all.token, sizeof all.token);
    for (uint32_t r = 0; r < MAX_ROW; r++) {
        compute(k->one, in, r, 1, &got);
        assert_true(same_result(&all.result[r], &got.result[0]));
    }
    sk_free(want.work), sk_free(all.work), sk_free(got.work);
}

static void check_backend(const struct kern *k)
{
    for (size_t i = 0; i < sizeof vocabs / sizeof vocabs[0]; i++) {
        struct input in = {.n_vocab = vocabs[i], .ld = (uint32_t)SK_ALIGN16(vocabs[i])};
        for (uint32_t spread = 0; spread < 3; spread++) {
            in.logits = kern_rows(60 + spread, MAX_ROW, in.n_vocab, in.ld);
            for (uint32_t r = 0; r < MAX_ROW; r++) {
                in.samp[r] = samp_of(r);
                for (uint32_t c = 0; c < in.n_vocab; c++) {
                    float *l = &in.logits[(size_t)r * in.ld + c];
                    *l = spread == 0   ? *l * 4
                         : spread == 1 ? roundf(*l * 2)
                                       : *l * 100; /* usual; full of ties; extreme */
                }
            }
            for (uint32_t t = 0; t < N_SLOT * MAX_LEN; t++)
                in.token[t] = (int32_t)kern_below(70, t, in.n_vocab);
            check_rows(k, &in);
            sk_free(in.logits);
        }
    }
}

static void logits(void **state)
{
    kern_each(check_backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(logits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

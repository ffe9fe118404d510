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
    s.flags = r % 5 != 4 ? SK_SAMP_LOGPROB : 0;
    switch (r % 16) {
    case 0:
        s.flags |= SK_SAMP_GREEDY;
        break;
    case 1:
        s.flags |= SK_SAMP_TARGET;
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
        s.flags |= SK_SAMP_PROCESS, s.list = LIST_SUPPRESS, s.n_suppress = 2, s.n_bias = 2;
        break;
    case 11:
        s.flags |= SK_SAMP_PROCESS | SK_SAMP_GREEDY, s.list = LIST_BIAS, s.n_bias = 2, s.n_allowed = 3,
                                                     s.n_bad_word = 2;
        break;
    case 12:
        s.flags |= SK_SAMP_PROCESS, s.repetition_penalty = 1.3f, s.presence_penalty = 0.5f,
                                    s.frequency_penalty = -0.25f;
        break;
    case 13:
        s.flags |= SK_SAMP_PROCESS | SK_SAMP_GREEDY, s.no_repeat_ngram = 2;
        break;
    case 14:
        s.flags |= SK_SAMP_PROCESS, s.list = LIST_BAD_WORD, s.n_bad_word = 2, s.no_repeat_ngram = 1, s.top_p = 0.9f;
        break;
    case 15:
        s.flags |= SK_SAMP_PROCESS | SK_SAMP_TARGET, s.presence_penalty = 1;
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

/* --- the filters, alone and together, on many kinds of rows --- */

enum shape { PEAKED, SOFT, FLAT, LUMPS, EQUAL, HUGE, N_SHAPE };

static float logit_of(enum shape shape, uint32_t stream, uint32_t i, uint32_t n)
{
    const float x = kern_normal(stream, i);
    switch (shape) {
    case PEAKED:
        return i == stream % n ? 14 : x * 2.3f + (kern_below(stream + 1, i, 1000) == 0 ? 8 : 0);
    case SOFT:
        return x * 2.8f;
    case FLAT:
        return x * 0.05f;
    case LUMPS:
        return floorf(x * 2);
    case HUGE:
        return x * 1e6f;
    default:
        return 0;
    }
}

/* What is not a number or cannot be drawn: none; here and there; all but one; all. */
static void spoil(float *row, uint32_t n, uint32_t how, uint32_t stream)
{
    const float bad[] = {NAN, -INFINITY, -NAN, -3e38f};
    for (uint32_t i = 0; i < n; i++) {
        const bool all = how == 3 || (how == 2 && i != stream % n);
        if (all || (how == 1 && kern_below(stream + 2, i, 3) == 0))
            row[i] = bad[kern_below(stream + 3, i, how == 3 ? 3 : 4)];
    }
    if (stream % 97 == 0)
        row[stream % n] = INFINITY;
}

/* Each bit of `which` switches a filter on. */
static struct sk_samp filters(uint32_t which, uint32_t r)
{
    static const float temperatures[] = {1, 0.7f, 1.9f, 0.02f, 1, 100};
    static const float ps[] = {0.9f, 0.5f, 0.999f, 0, 0.99999994f, 0.1f};
    static const float cutoffs[] = {0.05f, 3e-4f, 1e-9f, 0.6f, 1};
    static const int32_t ks[] = {40, 1, 5, 300, 1000, 2000, 100000};
    return (struct sk_samp){.pos = r % MAX_LEN,
                            .choice = r % 5,
                            .seed = 77 + (uint64_t)r * 0x123456789,
                            .temperature = temperatures[r % 6],
                            .repetition_penalty = 1,
                            .top_k = which & 1 ? ks[r % 7] : 0,
                            .top_p = which & 2 ? ps[r / 2 % 6] : 1,
                            .min_p = which & 4 ? cutoffs[r / 3 % 5] : 0,
                            .typical_p = which & 8 ? ps[r / 5 % 6] : 1,
                            .epsilon_cutoff = which & 16 ? cutoffs[r / 7 % 4] : 0,
                            .eta_cutoff = which & 32 ? cutoffs[r / 11 % 4] : 0};
}

/* The tokens of n_row rows of one kind, each with other filters. */
static void check_tokens(const struct kern *k, uint32_t n_vocab, enum shape shape, uint32_t how, uint32_t first)
{
    static struct input in;
    static struct output want, got;
    char what[96];

    in = (struct input){.n_vocab = n_vocab, .ld = (uint32_t)SK_ALIGN16(n_vocab)};
    in.logits = kern_zeros((size_t)MAX_ROW * in.ld * sizeof(float));
    want.work = kern_zeros((size_t)MAX_ROW * in.ld * sizeof(float));
    got.work = kern_zeros((size_t)MAX_ROW * in.ld * sizeof(float));
    for (uint32_t r = 0; r < MAX_ROW; r++) {
        float *row = in.logits + (size_t)r * in.ld;
        const uint32_t stream = 100 + 7 * (first + r);
        if (r % 4 == 0) {
            for (uint32_t i = 0; i < n_vocab; i++)
                row[i] = logit_of(shape, stream, i, n_vocab);
            spoil(row, n_vocab, how, stream);
        } else {
            memcpy(row, row - in.ld, n_vocab * sizeof *row);
        }
        in.samp[r] = filters(first + r, first / 64 + r);
    }
    compute(k->ref, &in, 0, MAX_ROW, &want);
    compute(k->one, &in, 0, MAX_ROW, &got);
    for (uint32_t r = 0; r < MAX_ROW; r++) {
        snprintf(what, sizeof what, "%s, vocabulary of %u, shape %d, spoilt %u, filters %u", k->one->isa, n_vocab,
                 (int)shape, how, first + r);
        if (want.result[r].id != got.result[r].id)
            fail_msg("%s: token %d, not %d", what, got.result[r].id, want.result[r].id);
    }
    compute(k->two, &in, 0, MAX_ROW, &got);
    for (uint32_t r = 0; r < MAX_ROW; r++)
        assert_int_equal(want.result[r].id, got.result[r].id);
    sk_free(in.logits), sk_free(want.work), sk_free(got.work);
}

static void check_filters(const struct kern *k)
{
    for (uint32_t n = 1; n <= 1000; n += n < 20 ? 1 : 111)
        for (uint32_t i = 0; i < N_SHAPE * 4; i++)
            check_tokens(k, n, i % N_SHAPE, i / N_SHAPE, n * 131 + 32 * i);
    for (uint32_t i = 0; i < N_SHAPE; i += 2)
        check_tokens(k, 20011, i, i % 3, 32 * i);
}

static void tokens_are_those_of_the_reference(void **state)
{
    kern_each(check_filters);
}

/* One vocabulary as large as they come. */
static void check_large(const struct kern *k)
{
    check_tokens(k, 151936, PEAKED, 0, 0);
    check_tokens(k, 151936, FLAT, 1, 32);
}

static void tokens_of_a_large_vocabulary(void **state)
{
    kern_each(check_large);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(logits), cmocka_unit_test(tokens_are_those_of_the_reference),
                                       cmocka_unit_test(tokens_of_a_large_vocabulary)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "tests/unit/kernels/sampling.h"

#include <math.h>
#include <string.h>

/* Suppress 2 and 3; bias 1 and 4; allow 0, 1, 4; bar 4 after 1, and 2. All ids are in the smallest vocabulary.
 * 0x40000000 is 2.0. */
const int32_t sampling_list[] = {99, 2, 3, 1, 4, 0x40000000, -0x40000000, 0, 1, 4, 2, 1, 4, 1, 2};
enum { LIST_SUPPRESS = 1, LIST_BIAS = 3, LIST_BAD_WORD = 10 };

struct sk_samp sampling_samp(uint32_t r)
{
    struct sk_samp s = {.slot = r % SAMPLING_SLOTS,
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

static float logit_of(enum sampling_shape shape, uint32_t stream, uint32_t i, uint32_t n)
{
    const float x = kern_normal(stream, i);
    switch (shape) {
    case SAMPLING_PEAKED:
        return i == stream % n ? 14 : x * 2.3f + (kern_below(stream + 1, i, 1000) == 0 ? 8 : 0);
    case SAMPLING_SOFT:
        return x * 2.8f;
    case SAMPLING_FLAT:
        return x * 0.05f;
    case SAMPLING_LUMPS:
        return floorf(x * 2);
    case SAMPLING_HUGE:
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

struct sk_samp sampling_filters(uint32_t which, uint32_t r)
{
    static const float temperatures[] = {1, 0.7f, 1.9f, 0.02f, 1, 100};
    static const float ps[] = {0.9f, 0.5f, 0.999f, 0, 0.99999994f, 0.1f};
    static const float cutoffs[] = {0.05f, 3e-4f, 1e-9f, 0.6f, 1};
    static const int32_t ks[] = {40, 1, 5, 300, 1000, 2000, 100000};
    return (struct sk_samp){.pos = r % SAMPLING_LEN,
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

void sampling_fill(struct sampling_input *in, enum sampling_shape shape, uint32_t how, uint32_t first)
{
    const uint32_t n_vocab = in->n_vocab;
    for (uint32_t r = 0; r < SAMPLING_ROWS; r++) {
        float *row = in->logits + (size_t)r * in->ld;
        const uint32_t stream = 100 + 7 * (first + r);
        if (r % 4 == 0) {
            for (uint32_t i = 0; i < n_vocab; i++)
                row[i] = logit_of(shape, stream, i, n_vocab);
            spoil(row, n_vocab, how, stream);
        } else {
            memcpy(row, row - in->ld, n_vocab * sizeof *row);
        }
        in->samp[r] = sampling_filters(first + r, first / 64 + r);
    }
}

void sampling_compute(struct sk_backend *be, const struct sampling_input *in, uint32_t first, uint32_t n_row,
                      struct sampling_output *ret)
{
    const size_t bytes = (size_t)n_row * in->ld * sizeof(float);
    struct sk_op_logits op = {.logits = kern_put(be, in->logits + (size_t)first * in->ld, bytes),
                              .work = kern_put(be, in->logits, bytes),
                              .samp = kern_put(be, in->samp + first, n_row * sizeof in->samp[0]),
                              .list = kern_put(be, sampling_list, sizeof sampling_list),
                              .token = kern_put(be, in->token, sizeof in->token),
                              .result = kern_new(be, n_row * sizeof ret->result[0]),
                              .n_row = n_row,
                              .n_vocab = in->n_vocab,
                              .ld = in->ld,
                              .max_len = SAMPLING_LEN};
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

void sampling_check(const struct sk_result_row *want, const struct sk_result_row *got, const char *what)
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

/* The rounds of struct sk_op_vote: rows cut over one to four ranks, which here take turns, give every rank the result
 * rows and tokens that one rank has with all the logits, on every backend and level, whatever the rows are and wherever
 * they are cut. */
#include <stdio.h>
#include <string.h>
#include "comm/base/mem.h"
#include "tests/unit/kernels/sampling.h"

enum { MAX_RANK = 4 };

/* Rank r has the ids first[r] .. first[r + 1] - 1. */
struct cut {
    uint32_t n_rank, first[MAX_RANK + 1];
};

/* What the ranks of one op have in a backend's memory. */
struct ranks {
    struct sk_backend *be;
    struct cut cut;
    struct sk_op_logits op[MAX_RANK];
    struct sk_dev room[MAX_RANK], said[MAX_RANK], heard;
};

/* Columns first .. first + n - 1 of all rows, as rows of their own. */
static struct sk_dev put_span(struct sk_backend *be, const struct sampling_input *in, const struct sk_op_logits *op)
{
    float *span = kern_zeros((size_t)SAMPLING_ROWS * op->ld * sizeof *span);
    for (uint32_t r = 0; r < SAMPLING_ROWS; r++)
        memcpy(span + (size_t)r * op->ld, in->logits + (size_t)r * in->ld + op->first, op->n_vocab * sizeof *span);
    struct sk_dev d = kern_put(be, span, (size_t)SAMPLING_ROWS * op->ld * sizeof *span);
    sk_free(span);
    return d;
}

static void open_ranks(struct ranks *ranks, struct sk_backend *be, const struct sampling_input *in, struct cut cut)
{
    uint32_t words = 0;
    for (enum sk_vote_round i = 0; i < SK_VOTE_NONE; i++)
        words = sk_vote_words(i) > words ? sk_vote_words(i) : words;
    *ranks =
        (struct ranks){.be = be, .cut = cut, .heard = kern_new(be, (size_t)cut.n_rank * SAMPLING_ROWS * words * 4)};
    for (uint32_t r = 0; r < cut.n_rank; r++) {
        struct sk_op_logits *op = &ranks->op[r];
        *op = (struct sk_op_logits){.samp = kern_put(be, in->samp, sizeof in->samp),
                                    .list = kern_put(be, sampling_list, sizeof sampling_list),
                                    .token = kern_put(be, in->token, sizeof in->token),
                                    .result = kern_new(be, SAMPLING_ROWS * sizeof(struct sk_result_row)),
                                    .n_row = SAMPLING_ROWS,
                                    .n_vocab = cut.first[r + 1] - cut.first[r],
                                    .max_len = SAMPLING_LEN,
                                    .first = cut.first[r]};
        op->ld = (uint32_t)SK_ALIGN16(op->n_vocab) + 16;
        op->logits = put_span(be, in, op);
        op->work = kern_new(be, (size_t)SAMPLING_ROWS * op->ld * sizeof(float));
        ranks->room[r] = kern_new(be, be->vote_bytes(be, SAMPLING_ROWS, op->n_vocab));
        ranks->said[r] = kern_new(be, SAMPLING_ROWS * words * 4);
    }
}

/* All hear one round and say the next; then what they have said is gathered. */
static void take_turns(struct ranks *ranks, enum sk_vote_round heard, enum sk_vote_round said)
{
    const uint64_t bytes = SAMPLING_ROWS * sk_vote_words(said) * 4;
    struct sk_backend *be = ranks->be;
    for (uint32_t r = 0; r < ranks->cut.n_rank; r++) {
        const struct sk_op_vote op = {.logits = &ranks->op[r],
                                      .rank = r,
                                      .n_rank = ranks->cut.n_rank,
                                      .heard_round = heard,
                                      .said_round = said,
                                      .heard = ranks->heard,
                                      .said = ranks->said[r],
                                      .room = ranks->room[r]};
        be->vote(be, &op);
    }
    for (uint32_t r = 0; r < ranks->cut.n_rank; r++)
        be->copy(be, sk_dev_at(ranks->heard, r * bytes), ranks->said[r], bytes);
}

static void vote(struct ranks *ranks, const struct sampling_input *in)
{
    enum sk_vote_round heard = SK_VOTE_NONE;
    uint32_t rounds = 0;
    for (uint32_t r = 0; r < SAMPLING_ROWS; r++)
        rounds |= sk_vote_rounds(&in->samp[r]);
    for (uint32_t r = 0; r < ranks->cut.n_rank; r++)
        ranks->be->logits_process(ranks->be, &ranks->op[r]);
    for (enum sk_vote_round said = 0; said < SK_VOTE_NONE; said++) {
        if (rounds >> said & 1) {
            take_turns(ranks, heard, said);
            heard = said;
        }
    }
    take_turns(ranks, heard, SK_VOTE_NONE);
}

static void check_ranks(struct ranks *ranks, const struct sampling_output *want, const char *what)
{
    struct sampling_output got[2];
    for (uint32_t r = 0; r < ranks->cut.n_rank; r++) {
        struct sampling_output *g = &got[r > 0];
        kern_get(ranks->be, ranks->op[r].result, g->result, sizeof g->result);
        kern_get(ranks->be, ranks->op[r].token, g->token, sizeof g->token);
        kern_assert_same_bits(got[0].result, g->result, sizeof g->result, what);
    }
    for (uint32_t i = 0; i < SAMPLING_ROWS; i++) {
        char row[160];
        snprintf(row, sizeof row, "%s, row %u", what, i);
        sampling_check(&want->result[i], &got[0].result[i], row);
    }
    for (uint32_t r = 0; r < ranks->cut.n_rank; r++)
        kern_assert_same_bits(want->token, got[r > 0].token, sizeof want->token, what);
}

/* A cut by its number: even and multiples of 16 where that can be, anywhere, with nothing left for some. */
static struct cut cut_of(uint32_t number, uint32_t n_vocab)
{
    struct cut cut = {.n_rank = 1 + number % MAX_RANK};
    cut.first[cut.n_rank] = n_vocab;
    for (uint32_t r = 1; r < cut.n_rank; r++)
        cut.first[r] =
            number % 3 == 0 ? SK_ALIGN16(n_vocab * r / cut.n_rank) : kern_below(900 + number, r, n_vocab + 1);
    for (uint32_t r = cut.n_rank; r-- > 0;)
        cut.first[r] = cut.first[r] < cut.first[r + 1] ? cut.first[r] : cut.first[r + 1];
    return cut;
}

static void check(struct sk_backend *be, struct sk_backend *ref, const struct sampling_input *in, uint32_t number,
                  const char *kind)
{
    static struct sampling_output want;
    struct ranks ranks;
    char what[128];
    const struct cut cut = cut_of(number, in->n_vocab);
    snprintf(what, sizeof what, "%s %s, %s, %u ids, %u ranks from %u %u %u", be->name, be->isa, kind, in->n_vocab,
             cut.n_rank, cut.first[1], cut.first[2], cut.first[3]);
    want.work = kern_zeros((size_t)SAMPLING_ROWS * in->ld * sizeof(float));
    sampling_compute(ref, in, 0, SAMPLING_ROWS, &want);
    open_ranks(&ranks, be, in, cut);
    vote(&ranks, in);
    check_ranks(&ranks, &want, what);
    kern_free_all(be);
    sk_free(want.work);
}

/* --- all that can be asked of a row, on rows without what is not a number --- */

static void check_all(const struct kern *k)
{
    static const uint32_t vocabs[] = {3, 5, 16, 33, 100, 1003, 5000};
    static struct sampling_input in;
    for (uint32_t i = 0; i < 2 * 3 * 7; i++) {
        const uint32_t n = vocabs[i % 7] > 3 ? vocabs[i % 7] : 5, spread = i / 7 % 3;
        in = (struct sampling_input){.n_vocab = n, .ld = (uint32_t)SK_ALIGN16(n)};
        in.logits = kern_rows(60 + i, SAMPLING_ROWS, n, in.ld);
        for (uint32_t j = 0; j < SAMPLING_ROWS * in.ld; j++)
            in.logits[j] = spread == 0   ? in.logits[j] * 4
                           : spread == 1 ? (float)(int)(in.logits[j] * 2)
                                         : in.logits[j] * 100;
        for (uint32_t r = 0; r < SAMPLING_ROWS; r++)
            in.samp[r] = sampling_samp(r);
        for (uint32_t t = 0; t < SAMPLING_SLOTS * SAMPLING_LEN; t++)
            in.token[t] = (int32_t)kern_below(70, t, n);
        check(i % 2 ? k->one : k->two, k->ref, &in, i, "all");
        sk_free(in.logits);
    }
}

static void results_are_those_of_one_rank(void **state)
{
    kern_each(check_all);
}

/* --- the filters, alone and together, on rows of all kinds --- */

static void check_filters_of(struct sk_backend *be, struct sk_backend *ref, uint32_t n_vocab, uint32_t kind,
                             uint32_t number)
{
    static struct sampling_input in;
    char what[64];
    in = (struct sampling_input){.n_vocab = n_vocab, .ld = (uint32_t)SK_ALIGN16(n_vocab)};
    in.logits = kern_zeros((size_t)SAMPLING_ROWS * in.ld * sizeof(float));
    sampling_fill(&in, kind % SAMPLING_SHAPES, kind / SAMPLING_SHAPES % 4, 32 * number);
    snprintf(what, sizeof what, "shape %u, spoilt %u, filters from %u", kind % SAMPLING_SHAPES,
             kind / SAMPLING_SHAPES % 4, 32 * number);
    check(be, ref, &in, number, what);
    sk_free(in.logits);
}

static void check_filters(const struct kern *k)
{
    uint32_t number = 0;
    for (uint32_t n = 1; n <= 1000; n += n < 20 ? 1 + 4 * KERN_SANITIZED : 140)
        for (uint32_t i = 0; i < SAMPLING_SHAPES * 4; i++)
            check_filters_of(i % 8 ? k->one : k->two, k->ref, n, i, number++);
    for (uint32_t i = 0; i < SAMPLING_SHAPES * 4; i += KERN_SANITIZED ? 5 : 1)
        check_filters_of(k->one, k->ref, 40011, i, number++);
}

static void tokens_are_those_of_one_rank(void **state)
{
    kern_each(check_filters);
}

/* Spans of which one holds most of the weight: what the others guess to be left out of top_p must not be. */
static void check_lopsided(const struct kern *k)
{
    static const uint32_t numbers[] = {9, 6, 3}; /* two, three, four even spans */
    static struct sampling_input in;
    const uint32_t n = 70001;
    in = (struct sampling_input){.n_vocab = n, .ld = (uint32_t)SK_ALIGN16(n)};
    in.logits = kern_zeros((size_t)SAMPLING_ROWS * in.ld * sizeof(float));
    for (uint32_t r = 0; r < SAMPLING_ROWS; r++) {
        for (uint32_t i = 0; i < n; i++) {
            const float fall = (float)(r % 8) * (float)i / (float)n;
            in.logits[(size_t)r * in.ld + i] = kern_normal(r, i % 4096) * (i < n / 2 || r % 3 ? 1 : 0.01f) - fall;
        }
        in.samp[r] = sampling_filters(2, r);
    }
    for (uint32_t i = 0; i < (KERN_SANITIZED ? 1 : 3); i++)
        check(k->two, k->ref, &in, numbers[i], "lopsided");
    sk_free(in.logits);
}

static void nothing_is_missed_where_spans_differ(void **state)
{
    kern_each(check_lopsided);
}

static void rounds_depend_on_what_is_asked_only(void **state)
{
    const struct sk_samp plain = {.temperature = 1, .top_p = 1, .typical_p = 1};
    struct sk_samp s = plain;
    assert_int_equal(sk_vote_rounds(&s), 1u << SK_VOTE_DRAW);
    s.top_p = 0.5f;
    assert_int_equal(sk_vote_rounds(&s), 1u << SK_VOTE_MAX | 31u << SK_VOTE_TOP_P | 1u << SK_VOTE_DRAW);
    s.flags = SK_SAMP_GREEDY | SK_SAMP_LOGPROB;
    assert_int_equal(sk_vote_rounds(&s), 1u << SK_VOTE_DRAW | 1u << SK_VOTE_RANK);
    s.flags = SK_SAMP_TARGET;
    assert_int_equal(sk_vote_rounds(&s), 1u << SK_VOTE_DRAW);
    s = plain;
    s.min_p = 0.1f;
    assert_int_equal(sk_vote_rounds(&s), 1u << SK_VOTE_MAX | 1u << SK_VOTE_DRAW);
    for (enum sk_vote_round i = 0; i < SK_VOTE_NONE; i++)
        assert_true(sk_vote_words(i) > 0 && sk_vote_words(i) % 2 == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_are_those_of_one_rank), cmocka_unit_test(tokens_are_those_of_one_rank),
        cmocka_unit_test(nothing_is_missed_where_spans_differ), cmocka_unit_test(rounds_depend_on_what_is_asked_only)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* sk_vote_run over group_shm, a thread for each rank: the result rows and tokens of one rank with all the logits; the
 * same ones again from the same open vote; and a rank that is lost is told. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "comm/base/mem.h"
#include "engine/model/vote.h"
#include "tests/unit/kernels/sampling.h"

enum { MAX_RANK = 4, N_RUN = 3 };

struct job {
    const struct sampling_input *in;
    int (*open)(const struct sk_backend_conf *conf, struct sk_backend **ret, struct sk_err *err);
    int size;
    void *mem;
};
struct rank {
    pthread_t thread;
    const struct job *job;
    int rank, rc;
    struct sampling_output got[N_RUN];
};

static struct sk_group_shm_conf shm_conf(const struct job *job, int rank)
{
    return (struct sk_group_shm_conf){.rank = rank, .size = job->size, .window_words = 4096, .room_words = 64};
}

/* This rank's span, as even as multiples of 16 allow, and what is asked of it. */
static struct sk_op_logits put_op(struct sk_backend *be, const struct sampling_input *in, uint32_t rank, uint32_t size)
{
    const uint32_t n_unit = (in->n_vocab + 15) / 16, end = 16 * (n_unit * (rank + 1) / size);
    struct sk_op_logits op = {.samp = be->alloc(be, sizeof in->samp),
                              .list = be->alloc(be, sizeof(int32_t) * 15),
                              .token = be->alloc(be, sizeof in->token),
                              .result = be->alloc(be, SAMPLING_ROWS * sizeof(struct sk_result_row)),
                              .n_row = SAMPLING_ROWS,
                              .max_len = SAMPLING_LEN,
                              .first = 16 * (n_unit * rank / size)};
    op.n_vocab = (end < in->n_vocab ? end : in->n_vocab) - op.first;
    op.ld = (uint32_t)SK_ALIGN16(op.n_vocab) + 16;
    op.logits = be->alloc(be, (uint64_t)SAMPLING_ROWS * op.ld * sizeof(float));
    op.work = be->alloc(be, (uint64_t)SAMPLING_ROWS * op.ld * sizeof(float));
    be->upload(be, op.samp, in->samp, sizeof in->samp);
    be->upload(be, op.list, sampling_list, sizeof(int32_t) * 15);
    for (uint32_t r = 0; r < SAMPLING_ROWS; r++)
        be->upload(be, sk_dev_at(op.logits, r * op.ld * sizeof(float)), in->logits + r * in->ld + op.first,
                   op.n_vocab * sizeof(float));
    return op;
}

static void free_op(struct sk_backend *be, const struct sk_op_logits *op)
{
    be->free(be, op->samp, sizeof(struct sk_samp) * SAMPLING_ROWS);
    be->free(be, op->list, sizeof(int32_t) * 15);
    be->free(be, op->token, sizeof(int32_t) * SAMPLING_SLOTS * SAMPLING_LEN);
    be->free(be, op->result, SAMPLING_ROWS * sizeof(struct sk_result_row));
    be->free(be, op->logits, (uint64_t)SAMPLING_ROWS * op->ld * sizeof(float));
    be->free(be, op->work, (uint64_t)SAMPLING_ROWS * op->ld * sizeof(float));
}

/* cmocka's assertions belong to the main thread: here an rc tells. */
static void *run_rank(void *ctx)
{
    struct rank *rank = ctx;
    const struct job *job = rank->job;
    const struct sk_group_shm_conf conf = shm_conf(job, rank->rank);
    struct sk_backend *be = NULL;
    struct sk_group *group = NULL;
    struct sk_vote vote = {0};

    rank->rc = job->open(&(struct sk_backend_conf){.n_thread = 1}, &be, NULL);
    if (!rank->rc)
        rank->rc = sk_group_shm(&conf, job->mem, &group);
    if (rank->rc)
        return NULL;
    const struct sk_op_logits op = put_op(be, job->in, (uint32_t)rank->rank, (uint32_t)job->size);
    rank->rc = sk_vote_open(&vote, be, group, op.n_vocab);
    for (int i = 0; i < N_RUN && !rank->rc; i++) {
        struct sampling_output *got = &rank->got[i];
        be->upload(be, op.token, job->in->token, sizeof job->in->token);
        be->logits_process(be, &op);
        rank->rc = sk_vote_run(&vote, &op, job->in->samp);
        be->fetch(be, got->result, op.result, sizeof got->result);
        be->fetch(be, got->token, op.token, sizeof got->token);
        if (!rank->rc)
            rank->rc = be->wait(be);
    }
    sk_vote_close(&vote);
    free_op(be, &op);
    group->close(group);
    be->close(be);
    return NULL;
}

static void check_ranks(const struct job *job, const struct sampling_output *want)
{
    static struct rank ranks[MAX_RANK];
    char what[96];
    for (int r = 0; r < job->size; r++) {
        ranks[r] = (struct rank){.job = job, .rank = r};
        assert_int_equal(pthread_create(&ranks[r].thread, NULL, run_rank, &ranks[r]), 0);
    }
    for (int r = 0; r < job->size; r++)
        pthread_join(ranks[r].thread, NULL);
    for (int r = 0; r < job->size; r++) {
        assert_int_equal(ranks[r].rc, 0);
        for (int i = 0; i < N_RUN; i++) {
            const struct sampling_output *got = &ranks[r].got[i];
            kern_assert_same_bits(ranks[0].got[0].result, got->result, sizeof got->result, "the same on all ranks");
            kern_assert_same_bits(want->token, got->token, sizeof got->token, "tokens");
        }
    }
    for (uint32_t row = 0; row < SAMPLING_ROWS; row++) {
        snprintf(what, sizeof what, "%d ranks, %u ids, row %u", job->size, job->in->n_vocab, row);
        sampling_check(&want->result[row], &ranks[0].got[0].result[row], what);
    }
}

static void check(struct sk_backend *ref, const struct sampling_input *in,
                  int (*open)(const struct sk_backend_conf *conf, struct sk_backend **ret, struct sk_err *err))
{
    static struct sampling_output want;
    want.work = kern_zeros((size_t)SAMPLING_ROWS * in->ld * sizeof(float));
    sampling_compute(ref, in, 0, SAMPLING_ROWS, &want);
    for (int size = 1; size <= MAX_RANK; size++) {
        struct job job = {.in = in, .open = open, .size = size};
        const struct sk_group_shm_conf conf = shm_conf(&job, 0);
        job.mem = aligned_alloc(64, (sk_group_shm_bytes(&conf) + 63) & ~(size_t)63);
        assert_non_null(job.mem);
        memset(job.mem, 0, sk_group_shm_bytes(&conf));
        check_ranks(&job, &want);
        free(job.mem);
    }
    sk_free(want.work);
}

static void results_are_those_of_one_rank(void **state)
{
    static const uint32_t vocabs[] = {5, 100, 1003, 33000};
    static struct sampling_input in;
    struct sk_backend *ref = kern_ref(), *cpu = NULL;
    const bool has_cpu = sk_cpu_open(&(struct sk_backend_conf){.n_thread = 1}, &cpu, NULL) == 0;

    if (has_cpu)
        cpu->close(cpu);
    for (uint32_t i = 0; i < 2 * sizeof vocabs / sizeof vocabs[0]; i++) {
        const uint32_t n = vocabs[i / 2];
        in = (struct sampling_input){.n_vocab = n, .ld = (uint32_t)SK_ALIGN16(n)};
        in.logits = kern_zeros((size_t)SAMPLING_ROWS * in.ld * sizeof(float));
        sampling_fill(&in, i % 2 ? SAMPLING_LUMPS : SAMPLING_PEAKED, 0, 32 * i);
        for (uint32_t r = 0; r < SAMPLING_ROWS && i % 2; r++)
            in.samp[r] = sampling_samp(r);
        for (uint32_t t = 0; t < SAMPLING_SLOTS * SAMPLING_LEN; t++)
            in.token[t] = (int32_t)kern_below(70, t, n);
        check(ref, &in, has_cpu ? sk_cpu_open : sk_ref_open);
        if (n < 1000)
            check(ref, &in, sk_ref_open);
        sk_free(in.logits);
    }
    ref->close(ref);
}

/* --- what open asks for, and errors --- */

static int lost(struct sk_group *g, struct sk_backend *be, uint64_t dst, uint64_t src, size_t n)
{
    ++*(int *)g->ctx;
    return -SK_EIO;
}

static void a_lost_rank_ends_the_vote(void **state)
{
    int n_call = 0;
    struct sk_group group = {.size = 3, .rank = 2, .ctx = &n_call, .all_gather = lost};
    struct sk_backend *be = kern_ref();
    struct sk_vote vote;
    const struct sk_samp samp = {.temperature = 1, .top_p = 0.5f, .typical_p = 1};
    const float logits[16] = {0};
    struct sk_op_logits op = {.logits = kern_put(be, logits, sizeof logits),
                              .samp = kern_put(be, &samp, sizeof samp),
                              .token = kern_new(be, sizeof(int32_t)),
                              .result = kern_new(be, sizeof(struct sk_result_row)),
                              .n_row = 1,
                              .n_vocab = 16,
                              .ld = 16,
                              .max_len = 1,
                              .first = 32};
    assert_int_equal(sk_vote_open(&vote, be, &group, 16), 0);
    assert_int_equal(vote.bytes, sk_vote_bytes(be, 3, 16));
    assert_int_equal(sk_vote_run(&vote, &op, &samp), -SK_EIO);
    assert_int_equal(n_call, 1);
    sk_vote_close(&vote);
    sk_vote_close(&vote);
    kern_free_all(be);
    be->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(results_are_those_of_one_rank),
                                       cmocka_unit_test(a_lost_rank_ends_the_vote)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* A leader and its followers as threads, over a real control plane and ranks that pretend: plans reach all, rows come
 * back in order, as many plans are under way as there may be, and a rank that computes something else is noticed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <pthread.h>
#include <cmocka.h>

#include "comm/base/buf.h"
#include "comm/wire/plan.h"
#include "engine/model/crew.h"
#include "engine/model/step.h"
#include "tests/unit/engine/crewed.h"

enum { MAX_RANK = 4, MAX_RESULT = 8, SUM_EVERY = 4, WRONG_FROM = 40, N_PLAN = 200 };

struct sk_rank {
    struct job *job;
    int number;
    uint64_t step, sum_step, sum, n_step;
    uint32_t n_result;
    struct sk_result_row rows[MAX_RESULT];
};
struct job {
    int tp, pp, n;
    int wrong; /* rank whose sums are wrong from plan WRONG_FROM on; -1 = none */
    struct crewed crewed;
    struct sk_rank rank[MAX_RANK];
    struct sk_crew *crew[MAX_RANK];
    int rc[MAX_RANK];
    pthread_t thread[MAX_RANK];
    pthread_barrier_t stage[MAX_RANK];
};

/* ---- ranks that pretend: a stage's are together in each step, as collectives hold them ---- */

void sk_rank_limits(const struct sk_rank *r, struct sk_plan_limits *ret)
{
    *ret = (struct sk_plan_limits){.max_result = MAX_RESULT};
}

int sk_rank_step(struct sk_rank *r, const void *plan, size_t n, struct sk_err *err)
{
    const struct sk_plan_head *head = plan;
    int stage = r->number / r->job->tp;
    sk_assert(n == head->bytes && ((uintptr_t)plan & 7) == 0);
    r->step = head->step;
    r->n_step++;
    r->n_result = stage == r->job->pp - 1 ? head->n_result : 0;
    for (uint32_t i = 0; i < r->n_result; i++)
        r->rows[i] = (struct sk_result_row){.id = (int32_t)(head->step * 10 + i)};
    if (r->n_step % SUM_EVERY == 0) {
        r->sum_step = head->step;
        r->sum = head->step * 31 + (uint64_t)stage + (r->number == r->job->wrong && r->n_step >= WRONG_FROM);
    }
    pthread_barrier_wait(&r->job->stage[stage]);
    return 0;
}

int sk_rank_wait(struct sk_rank *r, const struct sk_result_row **ret_rows, uint32_t *ret_n, struct sk_err *err)
{
    *ret_rows = r->rows;
    *ret_n = r->n_result;
    return 0;
}

void sk_rank_times(const struct sk_rank *r, struct sk_rank_times *ret)
{
    uint64_t stage = (uint64_t)(r->number / r->job->tp);
    *ret = (struct sk_rank_times){
        .step_us = 100 * (stage + 1) + 7, .collective_us = 5, .recv_us = 7, .sum_step = r->sum_step, .sum = r->sum};
}

/* ---- a job ---- */

static void open_crew(struct job *j, int rank)
{
    struct sk_err err = {0};
    const struct sk_rank_need need = {.first_layer = (uint32_t)(rank / j->tp) * 3, .n_layer = 3};
    struct sk_crew_conf c = {.rank = &j->rank[rank], .world = &j->crewed.world[rank], .need = &need};
    sk_assert(sk_crew_open(&c, &j->crew[rank], &err) == 0);
}

static void *follow(void *arg)
{
    struct sk_rank *r = arg;
    struct job *j = r->job;
    struct sk_err err = {0};
    open_crew(j, r->number);
    j->rc[r->number] = sk_crew_follow(j->crew[r->number], &err);
    sk_crew_close(j->crew[r->number]);
    return NULL;
}

static void job_open(struct job *j, int tp, int pp, int wrong)
{
    *j = (struct job){.tp = tp, .pp = pp, .n = tp * pp, .wrong = wrong};
    crewed_open(&j->crewed, tp, pp);
    for (int i = 0; i < pp; i++)
        pthread_barrier_init(&j->stage[i], NULL, (unsigned)tp);
    for (int i = 0; i < j->n; i++)
        j->rank[i] = (struct sk_rank){.job = j, .number = i};
    for (int i = 1; i < j->n; i++)
        assert_int_equal(pthread_create(&j->thread[i], NULL, follow, &j->rank[i]), 0);
    open_crew(j, 0);
}

static void job_close(struct job *j)
{
    sk_crew_close(j->crew[0]);
    for (int i = 1; i < j->n; i++) {
        assert_int_equal(pthread_join(j->thread[i], NULL), 0);
        assert_int_equal(j->rc[i], 0);
    }
    crewed_close(&j->crewed);
}

static int submit(struct job *j, struct sk_buf *plan, uint64_t step, struct sk_err *err)
{
    sk_plan_begin(plan, step);
    for (uint64_t i = 0; i < step % 3; i++)
        sk_plan_put_close(plan, (uint32_t)i);
    assert_int_equal(sk_plan_end(plan, 1, (uint32_t)(step % MAX_RESULT)), 0);
    return sk_crew_submit(j->crew[0], plan->p, plan->n, err);
}

/* ---- the tests ---- */

static void run_grid(int tp, int pp)
{
    struct job j;
    struct sk_buf plan;
    struct sk_err err = {0};
    struct sk_crew_result res;
    sk_buf_init(&plan, 4096);
    job_open(&j, tp, pp, -1);
    uint32_t depth = sk_crew_depth(j.crew[0]);
    assert_int_equal(depth, pp > 1 ? pp + 1 : 1);
    for (uint64_t sent = 0, done = 0; done < N_PLAN;) {
        while (sent < N_PLAN && sent - done < depth)
            assert_int_equal(submit(&j, &plan, ++sent, &err), 0);
        int rc = sk_crew_collect(j.crew[0], done % 2, &res, &err);
        if (rc < 0)
            fail_msg("%s", err.msg);
        if (rc == 0) {
            assert_true(done % 2 == 0 && pp > 1);
            rc = sk_crew_collect(j.crew[0], true, &res, &err);
        }
        assert_int_equal(rc, 1);
        done++;
        assert_int_equal(res.step, done);
        assert_int_equal(res.n, done % MAX_RESULT);
        assert_int_equal(res.busy_us, 100 * pp * (pp + 1) / 2); /* these stages' mean is that of the first and last */
        for (uint32_t i = 0; i < res.n; i++)
            assert_int_equal(res.rows[i].id, done * 10 + i);
    }
    struct sk_wire_rank ranks[SK_WIRE_MAX_RANKS];
    assert_int_equal(sk_crew_ranks(j.crew[0], ranks), j.n);
    for (uint32_t i = 0; i < (uint32_t)j.n; i++) {
        assert_true(ranks[i].rank == i && ranks[i].stage == i / (uint32_t)tp && ranks[i].tp_rank == i % (uint32_t)tp);
        assert_true(ranks[i].first_layer == ranks[i].stage * 3 && ranks[i].n_layer == 3 && ranks[i].rss_bytes > 0);
        assert_string_equal(ranks[i].host, "here");
    }
    assert_int_equal(ranks[0].step, N_PLAN);
    assert_int_equal(ranks[0].busy_us, N_PLAN * 107);
    assert_int_equal(ranks[0].wait_us, N_PLAN * 7);
    job_close(&j);
    sk_buf_done(&plan);
}

static void test_grids(void **state)
{
    run_grid(2, 1);
    run_grid(1, 2);
    run_grid(1, 4);
    run_grid(2, 2);
}

/* Alone: no world, no control plane. */
static void test_one(void **state)
{
    struct job j = {.tp = 1, .pp = 1, .n = 1, .wrong = -1};
    struct sk_buf plan;
    struct sk_err err = {0};
    struct sk_crew_result res;
    struct sk_wire_rank rank;
    const struct sk_crew_conf c = {.rank = &j.rank[0]};
    j.rank[0].job = &j;
    pthread_barrier_init(&j.stage[0], NULL, 1);
    sk_buf_init(&plan, 4096);
    assert_int_equal(sk_crew_open(&c, &j.crew[0], &err), 0);
    assert_int_equal(sk_crew_depth(j.crew[0]), 1);
    for (uint64_t step = 1; step < 20; step++) {
        assert_int_equal(submit(&j, &plan, step, &err), 0);
        assert_int_equal(sk_crew_collect(j.crew[0], false, &res, &err), 1);
        assert_true(res.step == step && res.n == step % MAX_RESULT && res.busy_us == 100);
    }
    assert_int_equal(sk_crew_ranks(j.crew[0], &rank), 1);
    assert_true(rank.step == 19 && rank.busy_us == 19 * 107 && rank.rss_bytes > 0 && rank.host[0]);
    sk_crew_close(j.crew[0]);
    sk_buf_done(&plan);
}

/* The rank that has another sum than its stage's first one is named. */
static void test_diverged(void **state)
{
    struct job j;
    struct sk_buf plan;
    struct sk_err err = {0};
    struct sk_crew_result res;
    int rc = 0;
    sk_buf_init(&plan, 4096);
    job_open(&j, 2, 2, 3);
    uint64_t step = 0;
    while (rc == 0 && step < 100 * WRONG_FROM) {
        assert_int_equal(submit(&j, &plan, ++step, &err), 0);
        rc = sk_crew_collect(j.crew[0], true, &res, &err);
        rc = rc == 1 ? 0 : rc;
    }
    assert_int_equal(rc, -SK_EDIVERGED);
    assert_true(step >= WRONG_FROM);
    assert_non_null(strstr(err.msg, "rank 3 on here"));
    job_close(&j);
    sk_buf_done(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_one), cmocka_unit_test(test_grids),
                                       cmocka_unit_test(test_diverged)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

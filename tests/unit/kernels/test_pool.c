#define _GNU_SOURCE 1
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm/base/mem.h"
#include "kernels/cpu/pool.h"

enum { MAX_ITEM = 1000 };

/* What a job saw. Not atomic: each item has its own cell, and the pool must make it visible. */
struct seen {
    uint32_t n_run[MAX_ITEM];
    int worker[MAX_ITEM];
    uint64_t value[MAX_ITEM];
    uint64_t add; /* written by the caller before the job */
};

static void note(void *ctx, uint32_t item, int worker)
{
    struct seen *s = ctx;
    s->n_run[item]++;
    s->worker[item] = worker;
    s->value[item] = item + s->add;
}

static void run(struct sk_pool *pool, uint32_t n_item, sk_pool_fn fn, void *ctx)
{
    sk_pool_run(pool, &(struct sk_pool_stage){fn, n_item}, 1, ctx);
}

static void each_item_runs_once(void **state)
{
    static const int n_threads[] = {1, 2, 3, 8};
    static const uint32_t n_items[] = {0, 1, 2, 7, MAX_ITEM};
    for (size_t t = 0; t < 4; t++) {
        struct sk_pool *pool = NULL;
        assert_int_equal(sk_pool_open(n_threads[t], false, &pool, NULL), 0);
        assert_int_equal(sk_pool_size(pool), n_threads[t]);
        for (size_t i = 0; i < 5; i++) {
            struct seen s = {.add = t * 100 + i};
            run(pool, n_items[i], note, &s);
            for (uint32_t k = 0; k < MAX_ITEM; k++) {
                assert_int_equal(s.n_run[k], k < n_items[i]);
                assert_true(s.worker[k] >= 0 && s.worker[k] < n_threads[t]);
                assert_int_equal(s.value[k], k < n_items[i] ? k + s.add : 0);
            }
        }
        sk_pool_close(pool);
    }
}

/* Jobs follow one another at once, each with its own context: a worker that comes late must not touch the one before.
 */
static void late_workers_touch_nothing(void **state)
{
    struct sk_pool *pool = NULL;
    assert_int_equal(sk_pool_open(6, false, &pool, NULL), 0);
    for (uint32_t i = 0; i < 3000; i++) {
        struct seen *s = sk_calloc(1, sizeof *s); /* freed after the job: a late write is seen by the sanitizers */
        assert_non_null(s);
        s->add = i;
        run(pool, 2 + i % 5, note, s);
        for (uint32_t k = 0; k < 2 + i % 5; k++)
            assert_int_equal(s->n_run[k], 1);
        assert_int_equal(s->n_run[2 + i % 5], 0);
        sk_free(s);
    }
    sk_pool_close(pool);
}

/* Workers are anywhere between their first look and their sleep when the pool closes: each must notice. */
static void it_closes_at_any_moment(void **state)
{
    for (uint32_t i = 0; i < 3000; i++) {
        struct sk_pool *pool = NULL;
        struct seen s = {.add = i};
        assert_int_equal(sk_pool_open(2 + i % 3, false, &pool, NULL), 0);
        for (volatile uint32_t wait = i % 7 * 200; wait > 0; wait--)
            ;
        if (i % 2)
            run(pool, 3, note, &s);
        sk_pool_close(pool);
    }
}

/* Each stage reads what all items of the one before wrote; cells are not atomic: the pool must order them. */
struct relay {
    uint32_t n[SK_POOL_MAX_STAGE];
    uint64_t cell[SK_POOL_MAX_STAGE][MAX_ITEM];
    uint64_t add;
};

static void relay_stage(struct relay *r, int stage, uint32_t item)
{
    uint64_t sum = r->add + item;
    for (uint32_t i = 0; stage > 0 && i < r->n[stage - 1]; i++)
        sum += r->cell[stage - 1][i];
    r->cell[stage][item] = sum;
}

static void relay_0(void *ctx, uint32_t item, int worker)
{
    relay_stage(ctx, 0, item);
}

static void relay_1(void *ctx, uint32_t item, int worker)
{
    relay_stage(ctx, 1, item);
}

static void relay_2(void *ctx, uint32_t item, int worker)
{
    relay_stage(ctx, 2, item);
}

static void relay_3(void *ctx, uint32_t item, int worker)
{
    relay_stage(ctx, 3, item);
}

static void a_stage_sees_the_one_before(void **state)
{
    static const sk_pool_fn fn[] = {relay_0, relay_1, relay_2, relay_3};
    static const int n_threads[] = {1, 2, 5, 16};
    static struct relay got, want;
    for (size_t t = 0; t < 4; t++) {
        struct sk_pool *pool = NULL;
        assert_int_equal(sk_pool_open(n_threads[t], false, &pool, NULL), 0);
        for (uint32_t i = 0; i < 400; i++) {
            struct sk_pool_stage stage[SK_POOL_MAX_STAGE];
            const uint32_t n_stage = 1 + i % SK_POOL_MAX_STAGE;
            memset(&got, 0, sizeof got);
            got.add = i;
            for (uint32_t s = 0; s < n_stage; s++) {
                got.n[s] = (i * 7 + s * 13) % 40; /* none at all, too */
                stage[s] = (struct sk_pool_stage){fn[s], got.n[s]};
            }
            want = got;
            sk_pool_run(pool, stage, n_stage, &got);
            sk_pool_run_alone(stage, n_stage, &want);
            assert_memory_equal(&got, &want, sizeof got);
        }
        sk_pool_close(pool);
    }
}

struct held {
    _Atomic uint32_t n_run;
    uint32_t n_item;
};

/* Item 0 returns only after all others: whoever has a stretch with it cannot run the rest of the stretch. */
static void hold(void *ctx, uint32_t item, int worker)
{
    struct held *h = ctx;
    if (item > 0)
        atomic_fetch_add(&h->n_run, 1);
    while (item == 0 && atomic_load(&h->n_run) < h->n_item - 1)
        sched_yield();
}

static void others_finish_a_stretch(void **state)
{
    struct sk_pool *pool = NULL;
    assert_int_equal(sk_pool_open(3, false, &pool, NULL), 0);
    for (uint32_t i = 0; i < 50; i++) {
        struct held h = {.n_item = 2 + i * 3};
        run(pool, h.n_item, hold, &h);
        assert_int_equal(atomic_load(&h.n_run), h.n_item - 1);
    }
    sk_pool_close(pool);
}

struct meeting {
    _Atomic int n_here;
    _Atomic int worker[2];
};

static void meet(void *ctx, uint32_t item, int worker)
{
    struct meeting *m = ctx;
    atomic_store(&m->worker[item], worker);
    atomic_fetch_add(&m->n_here, 1);
    while (atomic_load(&m->n_here) < 2) /* ends only if the other item runs at the same time */
        sched_yield();
}

static void workers_run_at_the_same_time(void **state)
{
    struct sk_pool *pool = NULL;
    assert_int_equal(sk_pool_open(2, false, &pool, NULL), 0);
    for (int i = 0; i < 20; i++) {
        struct meeting m = {0};
        if (i % 5 == 0)
            usleep(2000); /* time to fall asleep: waking must work as well */
        run(pool, 2, meet, &m);
        assert_int_not_equal(atomic_load(&m.worker[0]), atomic_load(&m.worker[1]));
    }
    sk_pool_close(pool);
}

static void an_idle_pool_sleeps(void **state)
{
    struct sk_pool *pool = NULL;
    struct seen s = {0};
    struct timespec before, after;
    assert_int_equal(sk_pool_open(4, false, &pool, NULL), 0);
    run(pool, 100, note, &s);
    usleep(100 * 1000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    usleep(100 * 1000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    /* CPU time, not wall time: another load on the machine does not change it. Three workers that spun would take up to
     * 300 ms. */
    const int64_t used_us = (after.tv_sec - before.tv_sec) * 1000000 + (after.tv_nsec - before.tv_nsec) / 1000;
    assert_true(used_us < 10 * 1000);
    sk_pool_close(pool);
}

static void impossible_sizes_are_refused(void **state)
{
    struct sk_pool *pool = NULL;
    struct sk_err err = {0};
    assert_int_equal(sk_pool_open(-1, false, &pool, &err), -SK_EINVAL);
    assert_int_equal(sk_pool_open(SK_POOL_MAX_THREAD + 1, false, &pool, &err), -SK_EINVAL);
    assert_string_equal(err.param, "threads");
    sk_mem_fail_at(1, 0);
    assert_int_equal(sk_pool_open(2, false, &pool, &err), -SK_ENOMEM);
    sk_mem_fail_at(0, 0);
    assert_null(pool);
}

static void default_size_is_within_the_mask(void **state)
{
    cpu_set_t mask;
    struct sk_pool *pool = NULL;
    assert_int_equal(sched_getaffinity(0, sizeof mask, &mask), 0);
    assert_in_range(sk_pool_cpus(), 1, CPU_COUNT(&mask));
    assert_int_equal(sk_pool_open(0, false, &pool, NULL), 0);
    assert_int_equal(sk_pool_size(pool), sk_pool_cpus());
    sk_pool_close(pool);
}

static void pinning_keeps_to_the_mask(void **state)
{
    cpu_set_t mask, now;
    struct sk_pool *pool = NULL;
    struct sk_err err = {0};
    assert_int_equal(sched_getaffinity(0, sizeof mask, &mask), 0);
    assert_int_equal(sk_pool_open(CPU_COUNT(&mask), true, &pool, NULL), 0);
    assert_int_equal(pthread_getaffinity_np(pthread_self(), sizeof now, &now), 0);
    assert_int_equal(CPU_COUNT(&now), 1);
    sk_pool_close(pool);
    assert_int_equal(pthread_setaffinity_np(pthread_self(), sizeof mask, &mask), 0);
    if (CPU_COUNT(&mask) < SK_POOL_MAX_THREAD) /* one thread more than CPUs */
        assert_int_equal(sk_pool_open(CPU_COUNT(&mask) + 1, true, &pool, &err), -SK_EUNAVAIL);
    assert_int_equal(pthread_setaffinity_np(pthread_self(), sizeof mask, &mask), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_item_runs_once),
        cmocka_unit_test(a_stage_sees_the_one_before),
        cmocka_unit_test(others_finish_a_stretch),
        cmocka_unit_test(late_workers_touch_nothing),
        cmocka_unit_test(it_closes_at_any_moment),
        cmocka_unit_test(workers_run_at_the_same_time),
        cmocka_unit_test(an_idle_pool_sleeps),
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(default_size_is_within_the_mask),
        cmocka_unit_test(pinning_keeps_to_the_mask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

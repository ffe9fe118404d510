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
            sk_pool_run(pool, n_items[i], note, &s);
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
        sk_pool_run(pool, 2 + i % 5, note, s);
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
            sk_pool_run(pool, 3, note, &s);
        sk_pool_close(pool);
    }
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
        sk_pool_run(pool, 2, meet, &m);
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
    sk_pool_run(pool, 100, note, &s);
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

#define _GNU_SOURCE 1
#include "kernels/cpu/pool.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "comm/base/clock.h"
#include "comm/base/mem.h"

/* A worker outlasts the host's part of a step (plan, frames: some 100 us) spinning, so that a busy engine never pays a
 * wake-up. */
enum { SPIN_NS = 300 * 1000, YIELD_NS = 20 * 1000 };

struct worker {
    struct sk_pool *pool;
    pthread_t thread;
    int index;
};

/* A job is published by storing `claim`: job number in the high half, unclaimed items in the low half. A worker takes
 * an item by counting the low half down with compare-and-swap; while that succeeds the job is unfinished, so fn, ctx
 * and n_item are its own. A worker that comes late finds nothing to claim and touches nothing: the caller waits for
 * items, never for workers. */
struct sk_pool {
    _Atomic uint64_t claim;
    _Atomic(sk_pool_fn) fn;
    _Atomic(void *) ctx;
    _Atomic uint32_t n_item;
    char apart[64]; /* what all write away from what all read */
    _Atomic uint32_t n_done;
    char apart_too[64];
    _Atomic int n_sleeping;
    _Atomic bool quit;
    pthread_mutex_t lock; /* of n_wake */
    pthread_cond_t wake;
    unsigned n_wake;
    int n_thread;
    struct worker worker[SK_POOL_MAX_THREAD]; /* [0] is the caller: unused */
};

static void relax(void)
{
    __builtin_ia32_pause();
}

static bool has_item(struct sk_pool *p)
{
    return (uint32_t)atomic_load(&p->claim) > 0;
}

/* Runs items until none is left to claim. */
static void work(struct sk_pool *p, int worker)
{
    uint64_t c = atomic_load_explicit(&p->claim, memory_order_acquire);

    while ((uint32_t)c > 0) {
        sk_pool_fn fn = atomic_load_explicit(&p->fn, memory_order_relaxed);
        void *ctx = atomic_load_explicit(&p->ctx, memory_order_relaxed);
        uint32_t n_item = atomic_load_explicit(&p->n_item, memory_order_relaxed);
        if (!atomic_compare_exchange_weak_explicit(&p->claim, &c, c - 1, memory_order_acq_rel, memory_order_acquire))
            continue;
        fn(ctx, n_item - (uint32_t)c, worker);
        atomic_fetch_add_explicit(&p->n_done, 1, memory_order_release);
        c = atomic_load_explicit(&p->claim, memory_order_acquire);
    }
}

static void sleep_until_woken(struct sk_pool *p)
{
    pthread_mutex_lock(&p->lock);
    const unsigned before = p->n_wake;
    atomic_fetch_add(&p->n_sleeping, 1); /* before the look at claim: see sk_pool_run */
    while (!has_item(p) && !atomic_load(&p->quit) && p->n_wake == before) /* quit: it may have come before the lock */
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->n_sleeping, 1);
    pthread_mutex_unlock(&p->lock);
}

/* A worker that was woken spins, even if the job that woke it is done by then: the next one is near. */
static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct sk_pool *p = w->pool;
    uint64_t until = 0;

    while (!atomic_load(&p->quit)) {
        if (has_item(p)) {
            work(p, w->index);
        } else if (sk_clock_ns() < until) {
            for (int i = 0; i < 16 && !has_item(p); i++)
                relax();
            continue;
        } else {
            sleep_until_woken(p);
        }
        until = sk_clock_ns() + SPIN_NS;
    }
    return NULL;
}

static void wake_all(struct sk_pool *p)
{
    pthread_mutex_lock(&p->lock);
    p->n_wake++;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

void sk_pool_run(struct sk_pool *p, uint32_t n_item, sk_pool_fn fn, void *ctx)
{
    if (p->n_thread == 1 || n_item <= 1) {
        for (uint32_t i = 0; i < n_item; i++)
            fn(ctx, i, 0);
        return;
    }
    uint64_t job = (atomic_load_explicit(&p->claim, memory_order_relaxed) >> 32) + 1;
    atomic_store_explicit(&p->n_done, 0, memory_order_relaxed);
    atomic_store_explicit(&p->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&p->ctx, ctx, memory_order_relaxed);
    atomic_store_explicit(&p->n_item, n_item, memory_order_relaxed);
    atomic_store(&p->claim, job << 32 | n_item);
    /* Sequentially consistent both: a worker either sees the items after it has counted itself, or is counted here. */
    if (atomic_load(&p->n_sleeping) > 0)
        wake_all(p);
    work(p, 0);

    uint64_t yield_at = 0;
    for (uint32_t i = 1; atomic_load_explicit(&p->n_done, memory_order_acquire) < n_item; i++) {
        relax();
        if (i % 64 != 0)
            continue;
        uint64_t now = sk_clock_ns();
        if (yield_at == 0)
            yield_at = now + YIELD_NS;
        else if (now > yield_at)
            sched_yield(); /* more threads than CPUs: the one that holds the last item may need this one */
    }
}

int sk_pool_size(const struct sk_pool *p)
{
    return p->n_thread;
}

static int pin_to(pthread_t thread, const cpu_set_t *mask, int index)
{
    for (int cpu = 0, i = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, mask) || i++ != index)
            continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        return pthread_setaffinity_np(thread, sizeof one, &one);
    }
    return -1; /* more threads than CPUs */
}

static int pin_all(struct sk_pool *p, struct sk_err *err)
{
    cpu_set_t mask;
    int rc = sched_getaffinity(0, sizeof mask, &mask);
    for (int i = 0; rc == 0 && i < p->n_thread; i++)
        rc = pin_to(i == 0 ? pthread_self() : p->worker[i].thread, &mask, i);
    return rc == 0
               ? 0
               : sk_err_set(err, SK_EUNAVAIL, "pin", "cannot pin %d threads to CPUs of the affinity mask", p->n_thread);
}

int sk_pool_open(int n_thread, bool pin, struct sk_pool **ret, struct sk_err *err)
{
    int rc = 0;

    if (n_thread == 0)
        n_thread = sk_pool_cpus();
    if (n_thread < 1 || n_thread > SK_POOL_MAX_THREAD)
        return sk_err_set(err, SK_EINVAL, "threads", "%d threads: 1 to %d are possible", n_thread, SK_POOL_MAX_THREAD);
    struct sk_pool *p = sk_calloc(1, sizeof *p);
    if (p == NULL)
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for the thread pool");
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    for (p->n_thread = 1; p->n_thread < n_thread; p->n_thread++) {
        struct worker *w = &p->worker[p->n_thread];
        *w = (struct worker){.pool = p, .index = p->n_thread};
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0) {
            rc = sk_err_set(err, SK_EUNAVAIL, "threads", "thread %d of %d could not be started", p->n_thread, n_thread);
            goto out;
        }
    }
    if (pin)
        rc = pin_all(p, err);
    if (rc == 0)
        *ret = p;
out:
    if (rc < 0)
        sk_pool_close(p);
    return rc;
}

void sk_pool_close(struct sk_pool *p)
{
    if (p == NULL)
        return;
    atomic_store(&p->quit, true);
    wake_all(p);
    for (int i = 1; i < p->n_thread; i++)
        pthread_join(p->worker[i].thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    sk_free(p);
}

/* CPUs that the quota of one cgroup pays for, rounded up; INT_MAX: no limit, or no such file. */
static int quota_cpus(const char *path)
{
    char quota[32];
    long period, n;
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return INT_MAX;
    int got = fscanf(f, "%31s %ld", quota, &period);
    fclose(f);
    if (got != 2 || period <= 0 || sscanf(quota, "%ld", &n) != 1 || n <= 0) /* "max 100000" */
        return INT_MAX;
    n = (n + period - 1) / period;
    return n < INT_MAX ? (int)n : INT_MAX;
}

/* The least over this process's cgroup (version 2) and all that hold it. */
static int cgroup_cpus(void)
{
    char line[1024], group[1024] = "/", path[1200];
    int least = INT_MAX;
    FILE *f = fopen("/proc/self/cgroup", "re");

    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (sscanf(line, "0::%1023s", group) == 1)
            break;
    if (f != NULL)
        fclose(f);
    for (char *end = group + strlen(group); end != NULL; end = strrchr(group, '/')) {
        *end = '\0';
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
        int n = quota_cpus(path);
        least = n < least ? n : least;
    }
    return least;
}

int sk_pool_cpus(void)
{
    cpu_set_t mask;
    long n = sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : sysconf(_SC_NPROCESSORS_ONLN);
    int limit = cgroup_cpus();

    n = n < limit ? n : limit;
    n = n < SK_POOL_MAX_THREAD ? n : SK_POOL_MAX_THREAD;
    return n < 1 ? 1 : (int)n;
}

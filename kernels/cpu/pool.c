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
#include "kernels/kernels.h"

/* A worker outlasts the host's part of a step (plan, frames: some 100 us) spinning, so that a busy engine never pays a
 * wake-up. */
enum { SPIN_NS = 300 * 1000, YIELD_NS = 20 * 1000, LINE = 64 };
/* Number of a stage, counted over all jobs, above the items taken of a share. Its 44 bits last for half a year of a
 * million stages a second, and a busy engine has some 10,000. */
enum { TAKEN_BITS = 20 };
#define TAKEN_MASK ((1u << TAKEN_BITS) - 1)
#define NO_JOB     UINT64_MAX /* the description is being written */

struct worker {
    struct sk_pool *pool;
    pthread_t thread;
    int index;
};

/* On a cache line of its own. */
struct counter {
    _Atomic uint64_t n;
    char apart[LINE - sizeof(uint64_t)];
};

/* A job is published by storing the number of its first stage in `first`, after its description. Each worker has a
 * share of each stage: a stretch of consecutive items, so that it streams through memory and meets nobody; who runs out
 * helps the next ones. An item is taken by compare-and-swap of its share's counter, stage number and items taken in one
 * word: that succeeds only while its job is unfinished, so the description that was read with `first` is that job's
 * own. A worker that comes late finds nothing to take and touches nothing: the caller waits for items, never for
 * workers.
 *
 * Nobody waits for an item that is not taken, and who took one never waits before it is done: so no deadlock. */
struct sk_pool {
    _Atomic uint64_t first;
    _Atomic uint32_t n_stage;
    _Atomic(void *) ctx;
    struct {
        _Atomic(sk_pool_fn) fn;
        _Atomic uint32_t n_item;
    } stage[SK_POOL_MAX_STAGE];
    char apart[LINE];                         /* what all read from what all write */
    struct counter n_done[SK_POOL_MAX_STAGE]; /* items of the job's stages */
    struct counter share[SK_POOL_MAX_THREAD];
    _Atomic int n_sleeping;
    _Atomic bool quit;
    pthread_mutex_t lock; /* of n_wake */
    pthread_cond_t wake;
    unsigned n_wake;
    int n_thread;
    uint64_t next;                            /* number of the next job's first stage */
    struct worker worker[SK_POOL_MAX_THREAD]; /* [0] is the caller: unused */
};

/* A worker's view of a job. */
struct view {
    struct sk_pool *pool;
    uint64_t first;
    struct sk_pool_stage stage[SK_POOL_MAX_STAGE];
    uint32_t n_stage;
    void *ctx;
    int worker;
};

static void relax(void)
{
    __builtin_ia32_pause();
}

static bool has_job(struct sk_pool *p, uint64_t seen)
{
    const uint64_t first = atomic_load(&p->first);
    return first != seen && first != NO_JOB;
}

/* A copy of the description that is not torn; false: it was just being written. */
static bool look(struct sk_pool *p, int worker, struct view *ret)
{
    *ret = (struct view){.pool = p, .worker = worker};
    ret->first = atomic_load_explicit(&p->first, memory_order_acquire);
    ret->n_stage = atomic_load_explicit(&p->n_stage, memory_order_acquire);
    ret->ctx = atomic_load_explicit(&p->ctx, memory_order_acquire);
    for (uint32_t i = 0; i < SK_POOL_MAX_STAGE; i++) {
        ret->stage[i].fn = atomic_load_explicit(&p->stage[i].fn, memory_order_acquire);
        ret->stage[i].n_item = atomic_load_explicit(&p->stage[i].n_item, memory_order_acquire);
    }
    return ret->first != NO_JOB && atomic_load_explicit(&p->first, memory_order_acquire) == ret->first;
}

static void publish(struct sk_pool *p, uint64_t first, const struct sk_pool_stage *stage, uint32_t n_stage, void *ctx)
{
    atomic_store_explicit(&p->first, NO_JOB, memory_order_relaxed);
    atomic_store_explicit(&p->n_stage, n_stage, memory_order_release);
    atomic_store_explicit(&p->ctx, ctx, memory_order_release);
    for (uint32_t i = 0; i < n_stage; i++) {
        atomic_store_explicit(&p->stage[i].fn, stage[i].fn, memory_order_release);
        atomic_store_explicit(&p->stage[i].n_item, stage[i].n_item, memory_order_release);
        atomic_store_explicit(&p->n_done[i].n, 0, memory_order_release);
    }
    atomic_store(&p->first, first);
}

/* Runs what is left of a share; returns how many items that were. */
static uint32_t run_share(const struct view *v, uint32_t s, uint64_t share)
{
    const uint64_t n_thread = (uint64_t)v->pool->n_thread, n_item = v->stage[s].n_item, number = v->first + s;
    const uint64_t begin = n_item * share / n_thread, n = n_item * (share + 1) / n_thread - begin;
    _Atomic uint64_t *at = &v->pool->share[share].n;
    uint64_t c = atomic_load_explicit(at, memory_order_relaxed);
    uint32_t n_run = 0;

    for (;;) {
        const uint64_t taken = c >> TAKEN_BITS == number ? c & TAKEN_MASK : 0;
        if (c >> TAKEN_BITS > number || taken == n)
            return n_run;
        if (!atomic_compare_exchange_weak_explicit(at, &c, number << TAKEN_BITS | (taken + 1), memory_order_acq_rel,
                                                   memory_order_relaxed))
            continue;
        v->stage[s].fn(v->ctx, (uint32_t)(begin + taken), v->worker);
        n_run++;
        c = atomic_load_explicit(at, memory_order_relaxed);
    }
}

static bool is_done(const struct view *v, uint32_t s)
{
    return atomic_load_explicit(&v->pool->n_done[s].n, memory_order_acquire) == v->stage[s].n_item;
}

/* The worker's own share, then the others', until nothing is left to take. */
static void run_stage(const struct view *v, uint32_t s)
{
    const uint64_t n_thread = (uint64_t)v->pool->n_thread;

    for (uint64_t i = 0; i < n_thread && !is_done(v, s); i++) {
        const uint32_t n = run_share(v, s, ((uint64_t)v->worker + i) % n_thread);
        if (n > 0)
            atomic_fetch_add_explicit(&v->pool->n_done[s].n, n, memory_order_release);
    }
}

/* Until the stage is done; false: the whole job was over before. */
static bool wait_stage(const struct view *v, uint32_t s)
{
    uint64_t yield_at = 0;

    for (uint32_t i = 1; !is_done(v, s); i++) {
        if (atomic_load_explicit(&v->pool->first, memory_order_relaxed) != v->first)
            return false;
        relax();
        if (i % 64 != 0)
            continue;
        const uint64_t now = sk_clock_ns();
        if (yield_at == 0)
            yield_at = now + YIELD_NS;
        else if (now > yield_at)
            sched_yield(); /* more threads than CPUs: the one that holds the last item may need this one */
    }
    return true;
}

static void work(const struct view *v)
{
    for (uint32_t s = 0; s < v->n_stage; s++) {
        if (s > 0 && !wait_stage(v, s - 1))
            return;
        run_stage(v, s);
    }
}

static void sleep_until_woken(struct sk_pool *p, uint64_t seen)
{
    pthread_mutex_lock(&p->lock);
    const unsigned before = p->n_wake;
    atomic_fetch_add(&p->n_sleeping, 1); /* before the look at the job: see sk_pool_run */
    while (!has_job(p, seen) && !atomic_load(&p->quit) && p->n_wake == before) /* quit may have come before the lock */
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->n_sleeping, 1);
    pthread_mutex_unlock(&p->lock);
}

/* A worker that was woken spins, even if the job that woke it is done by then: the next one is near. */
static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct sk_pool *p = w->pool;
    uint64_t until = 0, seen = 0;
    struct view v;

    while (!atomic_load(&p->quit)) {
        if (has_job(p, seen)) {
            if (!look(p, w->index, &v))
                continue;
            work(&v);
            seen = v.first;
        } else if (sk_clock_ns() < until) {
            for (int i = 0; i < 16 && !has_job(p, seen); i++)
                relax();
            continue;
        } else {
            sleep_until_woken(p, seen);
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

void sk_pool_run_alone(const struct sk_pool_stage *stage, uint32_t n_stage, void *ctx)
{
    for (uint32_t s = 0; s < n_stage; s++)
        for (uint32_t i = 0; i < stage[s].n_item; i++)
            stage[s].fn(ctx, i, 0);
}

void sk_pool_run(struct sk_pool *p, const struct sk_pool_stage *stage, uint32_t n_stage, void *ctx)
{
    uint32_t most = 0;

    sk_assert(n_stage > 0 && n_stage <= SK_POOL_MAX_STAGE);
    for (uint32_t s = 0; s < n_stage; s++)
        most = stage[s].n_item > most ? stage[s].n_item : most;
    if (p->n_thread == 1 || most <= 1) {
        sk_pool_run_alone(stage, n_stage, ctx);
        return;
    }
    sk_assert(most / (uint32_t)p->n_thread < TAKEN_MASK);

    struct view v = {.pool = p, .first = p->next, .n_stage = n_stage, .ctx = ctx};
    memcpy(v.stage, stage, n_stage * sizeof *stage);
    p->next += n_stage;
    publish(p, v.first, stage, n_stage, ctx);
    /* Sequentially consistent both: a worker either sees the job after it has counted itself, or is counted here. */
    if (atomic_load(&p->n_sleeping) > 0)
        wake_all(p);
    work(&v);
    wait_stage(&v, n_stage - 1);
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
    p->next = 1;
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
int sk_cpu_quota(void)
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
    int limit = sk_cpu_quota();

    n = n < limit ? n : limit;
    n = n < SK_POOL_MAX_THREAD ? n : SK_POOL_MAX_THREAD;
    return n < 1 ? 1 : (int)n;
}

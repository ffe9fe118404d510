/* Ranks of one host, as threads and as processes: every collective against what its definition says. */
#define _GNU_SOURCE 1
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm/base/clock.h"
#include "comm/base/mem.h"
#include "comm/group/group.h"

enum { MAX_RANK = 5, WINDOW = 3000, ROOM = 100, MAX_N = 70001 };

/* What each rank does; false: something is wrong. */
typedef bool (*rank_fn)(struct sk_group *g);

struct runner {
    struct sk_group_shm_conf conf;
    void *mem;
    rank_fn fn;
    bool ok;
    pthread_t thread;
};

static bool run_rank(const struct runner *r)
{
    struct sk_group *g;
    if (sk_group_shm(&r->conf, r->mem, &g))
        return false;
    bool ok = g->rank == r->conf.rank && g->size == r->conf.size && r->fn(g);
    g->close(g);
    return ok;
}

static void *thread_main(void *arg)
{
    struct runner *r = arg;
    r->ok = run_rank(r);
    return NULL;
}

static void *map(size_t bytes)
{
    void *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(mem, MAP_FAILED);
    return mem;
}

static void run_threads(int size, rank_fn fn)
{
    struct runner r[MAX_RANK];
    const struct sk_group_shm_conf conf = {.size = size, .window_words = WINDOW, .room_words = ROOM};
    const size_t bytes = sk_group_shm_bytes(&conf);
    void *mem = map(bytes);
    for (int i = 0; i < size; i++) {
        r[i] = (struct runner){.conf = conf, .mem = mem, .fn = fn};
        r[i].conf.rank = i;
        assert_int_equal(pthread_create(&r[i].thread, NULL, thread_main, &r[i]), 0);
    }
    for (int i = 0; i < size; i++)
        assert_int_equal(pthread_join(r[i].thread, NULL), 0);
    for (int i = 0; i < size; i++)
        assert_true(r[i].ok);
    munmap(mem, bytes);
}

static void run_processes(int size, rank_fn fn)
{
    struct runner r = {.conf = {.size = size, .window_words = WINDOW, .room_words = ROOM}, .fn = fn};
    const size_t bytes = sk_group_shm_bytes(&r.conf);
    pid_t pid[MAX_RANK];
    r.mem = map(bytes);
    for (int i = 0; i < size; i++) {
        pid[i] = fork();
        assert_true(pid[i] >= 0);
        r.conf.rank = i;
        if (pid[i] == 0)
            _exit(run_rank(&r) ? 0 : 1);
    }
    for (int i = 0; i < size; i++) {
        int status;
        assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
        assert_int_equal(status, 0);
    }
    munmap(r.mem, bytes);
}

static void run_all(rank_fn fn)
{
    for (int size = 1; size <= MAX_RANK; size++) {
        run_threads(size, fn);
        run_processes(size, fn);
    }
}

/* Of all magnitudes and both signs, so that another order of adding gives other bits. */
static float value(int rank, size_t i, uint32_t round)
{
    uint32_t x = (uint32_t)i * 2654435761u ^ (uint32_t)(rank + 1) * 40503u ^ round * 2246822519u;
    x ^= x >> 15;
    x *= 2246822519u;
    x ^= x >> 13;
    float v = (float)(int32_t)x;
    return x & 1 ? v : v * 1e-6f;
}

static float expect(int size, size_t i, uint32_t round)
{
    float sum = value(0, i, round);
    for (int r = 1; r < size; r++)
        sum += value(r, i, round);
    return sum;
}

static uint64_t at(const void *p)
{
    return (uint64_t)(uintptr_t)p;
}

/* Another rank is ahead each time. */
static void dawdle(const struct sk_group *g, uint32_t round)
{
    if ((round + (uint32_t)g->rank) % 3 == 0)
        for (uint32_t i = 0; i < round % 50; i++)
            sched_yield();
    if (round % 97 == 0 && g->rank == (int)(round / 97) % g->size)
        usleep(3000); /* the others sleep */
}

/* ---- what is tested ---- */

static bool sums(struct sk_group *g)
{
    static const size_t sizes[] = {1, 7, 16, 576, 1000, 2999, 3000, 3001, 3529, 3530, 7057, 9001, 20000, 70001};
    float *x = sk_malloc(MAX_N * sizeof *x);
    bool ok = true;
    for (uint32_t k = 0; k < sizeof sizes / sizeof sizes[0] && ok; k++) {
        for (size_t i = 0; i < sizes[k]; i++)
            x[i] = value(g->rank, i, k);
        ok = g->all_reduce(g, NULL, at(x), sizes[k]) == 0;
        for (size_t i = 0; i < sizes[k] && ok; i++) {
            const float want = expect(g->size, i, k);
            ok = memcmp(&x[i], &want, sizeof want) == 0;
        }
    }
    sk_free(x);
    return ok;
}

static bool many_small_sums(struct sk_group *g)
{
    float x[33];
    bool ok = true;
    for (uint32_t k = 0; k < 2000 && ok; k++) {
        const size_t n = 1 + k % 33;
        dawdle(g, k);
        for (size_t i = 0; i < n; i++)
            x[i] = value(g->rank, i, k);
        ok = g->all_reduce(g, NULL, at(x), n) == 0;
        for (size_t i = 0; i < n && ok; i++)
            ok = x[i] == expect(g->size, i, k);
    }
    return ok;
}

/* Rounds begun and posted as far ahead as may be. */
static bool window(struct sk_group *g)
{
    const struct sk_group_window *w = g->window;
    const float *part[SK_GROUP_MAX];
    uint32_t begun = 0, ended = 0;
    const uint32_t n_round = 500;
    bool ok = w->max == WINDOW && w->depth >= 2;
    while (ended < n_round && ok) {
        dawdle(g, ended);
        while (begun < n_round && begun - ended < w->depth) {
            float *own = w->begin(g, 100);
            ok = ok && at(own) % 64 == 0;
            for (size_t i = 0; i < 100; i++)
                own[i] = value(g->rank, i, begun);
            begun++;
            w->post(g);
        }
        w->wait(g, part);
        for (int r = 0; r < g->size; r++)
            for (size_t i = 0; i < 100; i++)
                ok = ok && part[r][i] == value(r, i, ended);
        w->end(g);
        ended++;
    }
    return ok;
}

static bool gathers(struct sk_group *g)
{
    static const size_t sizes[] = {1, 33, 3001, 9000};
    float *own = sk_malloc(9000 * sizeof *own), *all = sk_malloc(MAX_RANK * 9000 * sizeof *all);
    bool ok = true;
    for (uint32_t k = 0; k < 8 && ok; k++) {
        const size_t n = sizes[k / 2];
        float *src = k % 2 ? all + (size_t)g->rank * n : own; /* in place, too */
        for (size_t i = 0; i < n; i++)
            src[i] = value(g->rank, i, k);
        ok = g->all_gather(g, NULL, at(all), at(src), n) == 0;
        for (int r = 0; r < g->size; r++)
            for (size_t i = 0; i < n; i++)
                ok = ok && all[(size_t)r * n + i] == value(r, i, k);
    }
    sk_free(own);
    sk_free(all);
    return ok;
}

static bool broadcasts(struct sk_group *g)
{
    static const size_t sizes[] = {1, 3, 4096, 50001};
    uint8_t *p = sk_malloc(50001);
    bool ok = true;
    for (uint32_t k = 0; k < 20 && ok; k++) {
        const size_t n = sizes[k % 4];
        const int root = (int)k % g->size;
        for (size_t i = 0; i < n; i++)
            p[i] = g->rank == root ? (uint8_t)(i * 7 + k) : 0xEE;
        ok = g->bcast(g, p, n, root) == 0 && g->barrier(g) == 0;
        for (size_t i = 0; i < n; i++)
            ok = ok && p[i] == (uint8_t)(i * 7 + k);
    }
    sk_free(p);
    return ok;
}

/* Through all stages, up and down, in lengths below and above the room. */
static bool pipes(struct sk_group *g)
{
    static const size_t sizes[] = {1, 13, 99, 112, 113, 1000, 5};
    float *x = sk_malloc(1000 * sizeof *x);
    const int last = g->size - 1;
    bool ok = true;
    for (uint32_t k = 0; k < 210 && ok; k++) {
        const size_t n = sizes[k % 7];
        const int up = k % 2 == 0, first = up ? 0 : last, end = up ? last : 0, step = up ? 1 : -1;
        dawdle(g, k);
        if (g->rank == first)
            for (size_t i = 0; i < n; i++)
                x[i] = value(0, i, k);
        else
            ok = g->recv(g, NULL, at(x), n, g->rank - step) == 0;
        for (size_t i = 0; i < n; i++)
            ok = ok && x[i] == value(0, i, k);
        if (g->rank != end)
            ok = ok && g->send(g, NULL, at(x), n, g->rank + step) == 0;
    }
    sk_free(x);
    return ok;
}

/* A rank may be ahead of its neighbour by what the ring has room for. */
static bool sends_ahead(struct sk_group *g)
{
    float x[ROOM] = {0};
    bool ok = true;
    if (g->rank + 1 < g->size)
        ok = g->send(g, NULL, at(x), ROOM, g->rank + 1) == 0; /* nobody receives before the barrier */
    ok = ok && g->barrier(g) == 0;
    if (g->rank > 0)
        ok = ok && g->recv(g, NULL, at(x), ROOM, g->rank - 1) == 0;
    return ok;
}

static bool counts_waits(struct sk_group *g)
{
    g->barrier(g);
    if (g->rank == 0)
        usleep(20000);
    const uint64_t before = g->collective_us, from = sk_clock_us();
    g->barrier(g);
    const uint64_t counted = g->collective_us - before, took = sk_clock_us() - from;
    return counted <= took + 1 && (took < 5000 || counted >= took / 2);
}

static void test_sums(void **state)
{
    run_all(sums);
}

static void test_many_small_sums(void **state)
{
    run_all(many_small_sums);
}

static void test_window(void **state)
{
    run_all(window);
}

static void test_gathers(void **state)
{
    run_all(gathers);
}

static void test_broadcasts(void **state)
{
    run_all(broadcasts);
}

static void test_pipes(void **state)
{
    run_all(pipes);
}

static void test_sends_ahead(void **state)
{
    run_all(sends_ahead);
}

static void test_counts_waits(void **state)
{
    run_all(counts_waits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums),        cmocka_unit_test(test_many_small_sums), cmocka_unit_test(test_window),
        cmocka_unit_test(test_gathers),     cmocka_unit_test(test_broadcasts),      cmocka_unit_test(test_pipes),
        cmocka_unit_test(test_sends_ahead), cmocka_unit_test(test_counts_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Not a test by itself: the ranks of test_world.py, started by mpirun. mpi_world TP PP MODE, where MODE is
 *
 *   check     every group and the control plane do what their headers say, bit by bit
 *   differ    sk_world_same and sk_world_check with ranks that differ: all get the same error
 *   room ROW  opens groups for steps of ROW rows of 4,096 floats
 *   idle      who has nothing to do uses no CPU; says what all ranks together used in 3 seconds
 *   hold      plans and replies go on until a rank or a link is lost
 *   bench     microseconds of all-reduce, group and MPI
 *
 * The leader's last line is "ok ..."; anything wrong is said on stderr, and ends the job. */
#define _GNU_SOURCE /* usleep */
#include <mpi.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "comm/base/clock.h"
#include "comm/group/world.h"

enum { MAX_ROW = 64, LD_X = 576, MAX_WORDS = MAX_ROW * LD_X, BIG = 3 * MAX_WORDS + 17, MAX_PLAN = 16 << 20 };

static struct sk_world *world;
static struct sk_err err;

static _Noreturn void __attribute__((format(printf, 1, 2))) fail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "mpi_world: rank %d: ", world ? world->rank : -1);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    sk_world_abort(1);
}

static void must(int rc, const char *what)
{
    if (rc < 0)
        fail("%s: %s %s", what, sk_err_name(rc), err.msg);
}

/* ---- groups ---- */

/* No two orders of adding these give the same bits for all i. */
static float part(int rank, size_t i, int round)
{
    uint32_t x = (uint32_t)i * 2654435761u + (uint32_t)rank * 40503u + (uint32_t)round * 97u;
    x ^= x >> 13;
    return (float)(x % 20011) / 7.0f - 1000.0f + 1e-5f * (float)(rank + 1);
}

static float sum(int size, size_t i, int round)
{
    float s = part(0, i, round);
    for (int r = 1; r < size; r++)
        s += part(r, i, round);
    return s;
}

static void check_sums(struct sk_group *g, float *x)
{
    const size_t n[] = {1, 15, 576, 2048, 2049, 20000, MAX_WORDS, MAX_WORDS + 1, BIG};
    for (int round = 0; round < (int)(sizeof n / sizeof *n); round++) {
        for (size_t i = 0; i < n[round]; i++)
            x[i] = part(g->rank, i, round);
        must(g->all_reduce(g, NULL, (uintptr_t)x, n[round]), "all_reduce");
        for (size_t i = 0; i < n[round]; i++) {
            float want = sum(g->size, i, round);
            if (memcmp(&x[i], &want, sizeof want))
                fail("all_reduce of %zu: [%zu] is %a, not %a", n[round], i, (double)x[i], (double)want);
        }
    }
}

static void check_gather(struct sk_group *g, float *x)
{
    const size_t n[] = {1, 577, 40000};
    for (int k = 0; k < 3; k++) {
        float *all = malloc((size_t)g->size * n[k] * sizeof *all);
        for (int in_place = 0; in_place < 2; in_place++) {
            float *mine = in_place ? all + (size_t)g->rank * n[k] : x;
            for (size_t i = 0; i < n[k]; i++)
                mine[i] = part(g->rank, i, k);
            must(g->all_gather(g, NULL, (uintptr_t)all, (uintptr_t)mine, n[k]), "all_gather");
            for (size_t i = 0; i < (size_t)g->size * n[k]; i++) {
                if (all[i] != part((int)(i / n[k]), i % n[k], k))
                    fail("all_gather of %zu: [%zu] is wrong", n[k], i);
            }
        }
        free(all);
    }
}

static void check_window(struct sk_group *g)
{
    const struct sk_group_window *w = g->window;
    for (int round = 0; round < 50; round++) {
        const float *parts[SK_GROUP_MAX];
        size_t n = 1 + (size_t)round * 100;
        float *mine = w->begin(g, n);
        for (size_t i = 0; i < n; i++)
            mine[i] = part(g->rank, i, round);
        w->post(g);
        w->wait(g, parts);
        for (size_t i = 0; i < n; i++) {
            float s = parts[0][i], want = sum(g->size, i, round);
            for (int r = 1; r < g->size; r++)
                s += parts[r][i];
            if (memcmp(&s, &want, sizeof s))
                fail("window, round %d: [%zu] is wrong", round, i);
        }
        w->end(g);
    }
}

/* From stage to stage, as activations go: each stage sends only to the next. */
static void check_chain(struct sk_group *g, float *x)
{
    const size_t n[] = {1, 576, 16385, MAX_WORDS, MAX_WORDS};
    for (int k = 0; k < 5; k++) {
        for (size_t i = 0; i < n[k]; i++)
            x[i] = part(0, i, k);
        if (g->rank > 0) {
            memset(x, 0, n[k] * sizeof *x);
            must(g->recv(g, NULL, (uintptr_t)x, n[k], g->rank - 1), "recv");
        }
        for (size_t i = 0; i < n[k]; i++) {
            if (x[i] != part(0, i, k))
                fail("recv of %zu: [%zu] is wrong", n[k], i);
        }
        if (g->rank < g->size - 1)
            must(g->send(g, NULL, (uintptr_t)x, n[k], g->rank + 1), "send");
    }
}

static void check_group(struct sk_group *g, int rank, int size, bool here)
{
    if (g->rank != rank || g->size != size)
        fail("its group is %d of %d, not %d of %d", g->rank, g->size, rank, size);
    if (size == 1)
        return;
    if (here != (g->window != NULL))
        fail("ranks of %s host have %s window", here ? "one" : "no one", g->window ? "a" : "no");
    float *x = malloc(BIG * sizeof *x);
    check_sums(g, x);
    check_gather(g, x);
    if (g->window)
        check_window(g);
    for (int root = 0; root < size; root++) {
        memset(x, rank == root ? 0x5a : 0, 100001);
        must(g->bcast(g, x, 100001, root), "bcast");
        for (int i = 0; i < 100001; i++) {
            if (((char *)x)[i] != 0x5a)
                fail("bcast from %d: byte %d is wrong", root, i);
        }
    }
    must(g->barrier(g), "barrier");
    free(x);
}

/* ---- control plane ---- */

static uint64_t hash(uint64_t h, const void *p, size_t n)
{
    const uint8_t *b = p;
    for (size_t i = 0; i < n; i++)
        h = (h ^ b[i]) * 0x100000001b3u;
    return h;
}

static const size_t plan_bytes[] = {0, 1, 100, 65536, 70001, (5 << 20) + 3, MAX_PLAN, 17};
enum { N_PLAN = sizeof plan_bytes / sizeof *plan_bytes };

static void fill_plan(uint8_t *p, size_t n, int k)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 31 + (i >> 8) + (size_t)k);
}

static void report(uint64_t step, uint64_t h)
{
    struct sk_ctl_report r = {.step = step, .plan_hash = h, .pid = getpid(), .host = world->host};
    snprintf(r.host_name, sizeof r.host_name, "%s", world->host_name);
    sk_ctl_report(world->ctl, &r);
}

/* Every rank's last report says that all plans were run, and that they were the same. */
static void check_reports(uint64_t step, uint64_t h)
{
    struct sk_ctl_report r[SK_WORLD_MAX_RANK];
    uint64_t until_us = sk_clock_us() + 10000000;
    for (int i = 0; i < world->size;) {
        sk_ctl_reports(world->ctl, r);
        if (r[i].step == step) {
            if (r[i].plan_hash != h || !r[i].pid || !r[i].host_name[0])
                fail("rank %d got other plans", i);
            i++;
        } else if (sk_clock_us() > until_us) {
            fail("rank %d has run %zu of %zu plans", i, (size_t)r[i].step, (size_t)step);
        } else {
            usleep(1000);
        }
    }
}

static void lead(void)
{
    uint8_t *plan = malloc(MAX_PLAN + 1);
    uint64_t h = 0;
    const void *p;
    size_t n;
    if (sk_ctl_send(world->ctl, SK_CTL_PLAN, plan, MAX_PLAN + 1) != -SK_ETOOBIG)
        fail("a plan over the maximum was sent");
    int taken = 0, depth = world->n_pp + 1;
    for (int k = 0; k < N_PLAN + depth; k++) {
        if (k < N_PLAN) {
            fill_plan(plan, plan_bytes[k], k);
            h = hash(h, plan, plan_bytes[k]);
            must(sk_ctl_send(world->ctl, SK_CTL_PLAN, plan, plan_bytes[k]), "send");
            report((uint64_t)k + 1, h);
        }
        if (world->n_pp == 1 || k < depth)
            continue;
        must(sk_ctl_take(world->ctl, true, &p, &n), "take");
        fill_plan(plan, plan_bytes[taken], taken);
        if (n != plan_bytes[taken] || memcmp(p, plan, n))
            fail("reply %d is not what was sent", taken);
        taken++;
    }
    if (sk_ctl_take(world->ctl, false, &p, &n) != 0)
        fail("a reply that nobody gave");
    check_reports(N_PLAN, h);
    must(sk_ctl_send(world->ctl, SK_CTL_QUIT, NULL, 0), "send QUIT");
    free(plan);
}

/* Until QUIT, or until the leader is lost: false. */
static bool follow(void)
{
    bool replies = world->n_pp > 1 && world->tp_rank == 0 && world->stage == world->n_pp - 1;
    uint64_t h = 0;
    for (uint64_t step = 1;; step++) {
        enum sk_ctl_kind kind;
        const void *p;
        size_t n;
        int rc = sk_ctl_next(world->ctl, &kind, &p, &n);
        if (rc)
            return false;
        if (kind == SK_CTL_QUIT)
            return true;
        h = hash(h, p, n);
        if (replies && sk_ctl_reply(world->ctl, p, n))
            return false;
        report(step, h);
    }
}

/* ---- modes ---- */

static void check(void)
{
    uint32_t v[2] = {100 - (uint32_t)world->rank, 7 + (uint32_t)world->rank};
    must(sk_world_min(world, v, 2), "min");
    if (v[0] != 101 - (uint32_t)world->size || v[1] != 7)
        fail("min gave %u, %u", v[0], v[1]);
    must(sk_world_same(world, "text", "one and the same", &err), "same");
    must(sk_world_check(world, 0, &err), "check");
    char text[32], *all = NULL;
    size_t n = 0;
    int len = snprintf(text, sizeof text, "[%d of %d]", world->rank, world->size);
    must(sk_world_gather(world, text, (size_t)len, &all, &n), "gather");
    if ((world->rank == 0) != (all != NULL) || (all && (n < 8 || memcmp(all, text, (size_t)len))))
        fail("gather");
    for (int r = 0, at = 0; all && r < world->size; r++) {
        len = snprintf(text, sizeof text, "[%d of %d]", r, world->size);
        if (memcmp(all + at, text, (size_t)len))
            fail("gather of rank %d", r);
        at += len;
    }
    free(all);

    int host[SK_WORLD_MAX_RANK];
    MPI_Allgather(&world->host, 1, MPI_INT, host, 1, MPI_INT, MPI_COMM_WORLD);
    bool tp_here = true, pp_here = true;
    for (int r = 0; r < world->size; r++) {
        if (r / world->n_tp == world->stage)
            tp_here &= host[r] == world->host;
        if (r % world->n_tp == world->tp_rank)
            pp_here &= host[r] == world->host;
    }
    check_group(world->tp, world->tp_rank, world->n_tp, tp_here);
    check_group(world->pp, world->stage, world->n_pp, pp_here);
    if (world->n_pp > 1) {
        float *x = malloc(MAX_WORDS * sizeof *x);
        check_chain(world->pp, x);
        free(x);
    }
    if (world->size > 1 && world->rank == 0)
        lead();
    else if (world->size > 1 && !follow())
        fail("the leader is gone");
}

static void differ(void)
{
    char text[64];
    snprintf(text, sizeof text, "digest %d", world->rank == world->size - 1 ? 2 : 1);
    if (sk_world_same(world, "engine directory", text, &err) != -SK_EFORMAT)
        fail("texts that differ were the same");
    if (world->rank == 0)
        printf("same: %s\n", err.msg);
    int rc = world->rank == 0 ? 0 : sk_err_set(&err, SK_ENOENT, "model", "no file %d", world->rank);
    if (sk_world_check(world, rc, &err) != -SK_ENOENT || strcmp(err.param, "model"))
        fail("check did not fail everywhere: %s", err.msg);
    if (world->rank == 0)
        printf("check: %s\n", err.msg);
}

static double cpu_s(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static double idle(void)
{
    enum { IDLE_S = 3 };
    double before = 0, used, all = 0;
    if (world->rank == 0) {
        must(sk_ctl_send(world->ctl, SK_CTL_PLAN, "x", 1), "send");
        report(1, hash(0, "x", 1));
        check_reports(1, hash(0, "x", 1));
        before = cpu_s();
        sleep(IDLE_S);
        used = cpu_s() - before;
        must(sk_ctl_send(world->ctl, SK_CTL_QUIT, NULL, 0), "send QUIT");
    } else {
        enum sk_ctl_kind kind;
        const void *p;
        size_t n;
        must(sk_ctl_next(world->ctl, &kind, &p, &n), "next");
        report(1, hash(0, p, n));
        before = cpu_s();
        must(sk_ctl_next(world->ctl, &kind, &p, &n), "next");
        used = cpu_s() - before;
    }
    MPI_Reduce(&used, &all, 1, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    return all / IDLE_S;
}

static void hold(void)
{
    if (world->rank) {
        follow();
        sk_world_abort(3);
    }
    for (int k = 0;; k++) {
        const void *p;
        size_t n;
        if (sk_ctl_send(world->ctl, SK_CTL_PLAN, &k, sizeof k) ||
            (world->n_pp > 1 && sk_ctl_take(world->ctl, true, &p, &n) < 0))
            sk_world_abort(3);
        if (k == 0) {
            printf("holding\n");
            fflush(stdout);
        }
        usleep(20000);
    }
}

static void bench(void)
{
    const size_t n[] = {576, 4096, 32768, 4096 * 64};
    struct sk_group *g = world->tp;
    for (int k = 0; k < 4; k++) {
        float *x = calloc(n[k], sizeof *x);
        int rounds = n[k] <= 4096 ? 2000 : 200;
        double us[2][5];
        for (int rep = 0; rep < 5; rep++) {
            for (int mpi = 0; mpi < 2; mpi++) {
                g->barrier(g);
                uint64_t start = sk_clock_ns();
                for (int i = 0; i < rounds; i++) {
                    if (mpi)
                        MPI_Allreduce(MPI_IN_PLACE, x, (int)n[k], MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
                    else
                        g->all_reduce(g, NULL, (uintptr_t)x, n[k]);
                }
                us[mpi][rep] = (double)(sk_clock_ns() - start) / 1e3 / rounds;
            }
        }
        if (world->rank == 0) {
            double best[2] = {1e9, 1e9};
            for (int rep = 0; rep < 5; rep++) {
                for (int mpi = 0; mpi < 2; mpi++)
                    best[mpi] = us[mpi][rep] < best[mpi] ? us[mpi][rep] : best[mpi];
            }
            printf("%zu floats: group %.1f us, MPI_Allreduce %.1f us, ratio %.2f\n", n[k], best[0], best[1],
                   best[0] / best[1]);
        }
        free(x);
    }
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "mpi_world TP PP check|differ|room ROW|idle|hold|bench\n");
        return 2;
    }
    const char *mode = argv[3];
    if (sk_world_open(atoi(argv[1]), atoi(argv[2]), &world, &err)) {
        fprintf(stderr, "mpi_world: %s: %s\n", sk_err_name(err.code), err.msg);
        return 4;
    }
    uint32_t row = !strcmp(mode, "room") && argc > 4 ? (uint32_t)atoi(argv[4]) : MAX_ROW;
    uint32_t ld_x = !strcmp(mode, "room") || !strcmp(mode, "bench") ? 4096 : LD_X;
    int rc = sk_world_connect(world, row, ld_x, &err);
    if (rc) {
        if (world->rank == 0)
            fprintf(stderr, "mpi_world: %s: %s\n", sk_err_name(err.code), err.msg);
        sk_world_close(world);
        return 4;
    }
    double used = 0;
    if (!strcmp(mode, "check"))
        check();
    else if (!strcmp(mode, "differ"))
        differ();
    else if (!strcmp(mode, "idle"))
        used = idle();
    else if (!strcmp(mode, "hold"))
        hold();
    else if (!strcmp(mode, "bench"))
        bench();
    if (world->rank == 0)
        printf("ok %d x %d ranks, %d hosts, idle %.3f %% of a core\n", world->n_tp, world->n_pp, world->n_host,
               used * 100);
    sk_world_close(world);
    return 0;
}

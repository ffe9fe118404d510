/* Sums over two ranks of one host against MPI_Allreduce, in turn in one run; starts itself under mpirun.
 *
 *   bench_group [ranks]
 *
 * A line a size, microseconds of one sum (median of the rounds). First in place on a buffer of the rank's own; then
 * with the making of the summands: into that buffer for MPI, where all ranks see them for skein's window. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/base/clock.h"
#include "comm/group/group.h"

enum { PIECE = 8192, N_ROUND = 41, MAX_N = 4096 * 64, ROUND_FLOATS = 1 << 21, MAX_RUN = 400 };
enum how { MPI, REDUCE, MADE, WINDOW, N_HOW };

static struct sk_group *group;
static float *buf;

static void die(const char *what)
{
    fprintf(stderr, "bench_group: %s\n", what);
    exit(1);
}

static void start_ranks(char **argv)
{
    char *const args[] = {
        "mpirun", "-n", argv[1] ? argv[1] : "2", "--bind-to", "none", "--oversubscribe", "--mca", "btl", "self,vader",
        argv[0],  NULL};
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    execvp(args[0], args);
    die("cannot start mpirun");
}

static void open_group(int rank, int size)
{
    const struct sk_group_shm_conf conf = {.rank = rank, .size = size, .window_words = MAX_N};
    const size_t bytes = sk_group_shm_bytes(&conf);
    MPI_Win win;
    MPI_Aint n;
    int unit;
    void *mem;
    MPI_Win_allocate_shared(rank == 0 ? (MPI_Aint)bytes + 64 : 0, 1, MPI_INFO_NULL, MPI_COMM_WORLD, &mem, &win);
    MPI_Win_shared_query(win, 0, &n, &unit, &mem);
    mem = (void *)(((uintptr_t)mem + 63) & ~(uintptr_t)63); /* MPI does not align it; all ranks map pages */
    if (rank == 0)
        memset(mem, 0, bytes);
    MPI_Barrier(MPI_COMM_WORLD);
    if (sk_group_shm(&conf, mem, &group))
        die("no memory");
}

/* Eight floats: the sizes are multiples of that. */
typedef float eight __attribute__((vector_size(32), may_alias));

static void make(float *x, size_t n)
{
    for (size_t i = 0; i < n; i += 8)
        *(eight *)(x + i) = (eight){1, 1, 1, 1, 1, 1, 1, 1};
}

static void sum(float *x, const float *const *part, size_t n)
{
    for (size_t i = 0; i < n; i += 8) {
        eight v = *(const eight *)(part[0] + i) + *(const eight *)(part[1] + i);
        for (int r = 2; r < group->size; r++)
            v += *(const eight *)(part[r] + i);
        *(eight *)(x + i) = v;
    }
}

/* In pieces, as a GEMM makes them: one is added while the next one's parts are made. */
static void reduce_in_window(size_t n)
{
    const float *part[SK_GROUP_MAX];
    for (size_t in = 0, out = 0, m; out < n;) {
        if (in < n && in - out < 2 * PIECE) {
            m = n - in < PIECE ? n - in : PIECE;
            make(group->window->begin(group, m), m);
            group->window->post(group);
            in += m;
            continue;
        }
        m = n - out < PIECE ? n - out : PIECE;
        group->window->wait(group, part);
        sum(buf + out, part, m);
        group->window->end(group);
        out += m;
    }
}

static void reduce(enum how how, size_t n)
{
    if (how == MADE)
        make(buf, n);
    if (how == MPI || how == MADE)
        MPI_Allreduce(MPI_IN_PLACE, buf, (int)n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    else if (how == REDUCE)
        group->all_reduce(group, NULL, (uint64_t)(uintptr_t)buf, n);
    else
        reduce_in_window(n);
}

static void check(enum how how, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buf[i] = 1;
    reduce(how, n);
    for (size_t i = 0; i < n; i++)
        if (buf[i] != (float)group->size)
            die("a wrong sum");
}

/* Microseconds of one sum. */
static double time_of(enum how how, size_t n)
{
    const int n_run = ROUND_FLOATS / n < MAX_RUN ? (int)(ROUND_FLOATS / n) : MAX_RUN;
    memset(buf, 0, n * sizeof *buf);
    reduce(how, n);
    const uint64_t from = sk_clock_ns();
    for (int i = 0; i < n_run; i++)
        reduce(how, n);
    return (double)(sk_clock_ns() - from) / 1e3 / n_run;
}

static int compare(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

static void measure(size_t n)
{
    static double us[N_HOW][N_ROUND];
    for (enum how how = MPI; how < N_HOW; how++)
        check(how, n);
    for (int k = 0; k < N_ROUND; k++)
        for (enum how how = MPI; how < N_HOW; how++)
            us[how][k] = time_of(how, n);
    for (enum how how = MPI; how < N_HOW; how++)
        qsort(us[how], N_ROUND, sizeof us[how][0], compare);
    if (group->rank != 0)
        return;
    const double mpi = us[MPI][N_ROUND / 2], own = us[REDUCE][N_ROUND / 2];
    const double made = us[MADE][N_ROUND / 2], window = us[WINDOW][N_ROUND / 2];
    printf("%7zu floats  MPI_Allreduce %8.2f us, own %8.2f us: %.2fx   made too: %8.2f us, in the window %8.2f us: "
           "%.2fx\n",
           n, mpi, own, own / mpi, made, window, window / made);
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {576, 2048, 4096, 576 * 8, 4096 * 8, 576 * 64, 4096 * 64};
    int rank, size;
    if (!getenv("OMPI_COMM_WORLD_SIZE"))
        start_ranks(argv);
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size < 2)
        die("at least two ranks");
    buf = aligned_alloc(64, MAX_N * sizeof *buf);
    if (!buf)
        die("no memory");
    open_group(rank, size);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        measure(sizes[i]);
    group->close(group);
    MPI_Finalize();
    return 0;
}

#include "comm/group/group_mpi.h"

#include <limits.h>
#include <string.h>

#include "comm/base/clock.h"
#include "comm/base/err.h"
#include "comm/base/mem.h"

/* MPI moves, and what is added is added here: the order of MPI_Allreduce's sums is its own affair, and may change with
 * n. Up to SMALL floats each rank gets all parts and adds them all, one exchange; above, each adds one slice, which is
 * then given to the others. A float is added in the same order either way. */
enum { SMALL = 2048, TAG = 1, MAX_COUNT = INT_MAX / 8 };

struct mpi {
    struct sk_group group;
    MPI_Comm comm;
    size_t piece;       /* floats summed at once */
    float *parts;       /* [size][SMALL], or [size][slice] */
    int *count, *first; /* [size]: of each rank's slice */
    int *mine, *from;   /* [size]: of my slice in each rank's part, and where it is put */
    uint64_t busy_ns;
};

static struct mpi *of(struct sk_group *g)
{
    return g->ctx;
}

static int done(struct mpi *m, uint64_t start_ns, int rc)
{
    m->busy_ns += sk_clock_ns() - start_ns;
    m->group.collective_us = m->busy_ns / 1000;
    return rc == MPI_SUCCESS ? 0 : -SK_EIO;
}

static void add(float *dst, const float *parts, size_t n, int size)
{
    memcpy(dst, parts, n * sizeof *dst);
    for (int r = 1; r < size; r++) {
        const float *part = parts + (size_t)r * n;
        for (size_t i = 0; i < n; i++)
            dst[i] += part[i];
    }
}

static int sum_small(struct mpi *m, float *p, size_t n)
{
    int rc = MPI_Allgather(p, (int)n, MPI_FLOAT, m->parts, (int)n, MPI_FLOAT, m->comm);
    if (rc == MPI_SUCCESS)
        add(p, m->parts, n, m->group.size);
    return rc;
}

static int sum_slices(struct mpi *m, float *p, size_t n)
{
    size_t slice = (n + (size_t)m->group.size - 1) / (size_t)m->group.size;
    for (int r = 0; r < m->group.size; r++) {
        size_t first = (size_t)r * slice < n ? (size_t)r * slice : n;
        m->first[r] = (int)first;
        m->count[r] = (int)(n - first < slice ? n - first : slice);
    }
    int mine = m->count[m->group.rank];
    for (int r = 0; r < m->group.size; r++) {
        m->mine[r] = mine;
        m->from[r] = r * mine;
    }
    int rc = MPI_Alltoallv(p, m->count, m->first, MPI_FLOAT, m->parts, m->mine, m->from, MPI_FLOAT, m->comm);
    if (rc != MPI_SUCCESS)
        return rc;
    add(p + m->first[m->group.rank], m->parts, (size_t)mine, m->group.size);
    return MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, p, m->count, m->first, MPI_FLOAT, m->comm);
}

static int all_reduce(struct sk_group *g, struct sk_backend *be, uint64_t buf, size_t n)
{
    struct mpi *m = of(g);
    float *p = (float *)(uintptr_t)buf;
    uint64_t start_ns = sk_clock_ns();
    int rc = MPI_SUCCESS;
    for (size_t at = 0; at < n && rc == MPI_SUCCESS;) {
        size_t k = n - at < m->piece ? n - at : m->piece;
        rc = k <= SMALL ? sum_small(m, p + at, k) : sum_slices(m, p + at, k);
        at += k;
    }
    return done(m, start_ns, rc);
}

static int all_gather(struct sk_group *g, struct sk_backend *be, uint64_t dst, uint64_t src, size_t n)
{
    struct mpi *m = of(g);
    sk_assert(n <= MAX_COUNT / (size_t)g->size);
    float *d = (float *)(uintptr_t)dst;
    const float *s = (const float *)(uintptr_t)src;
    uint64_t start_ns = sk_clock_ns();
    int rc = s == d + (size_t)g->rank * n
                 ? MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, d, (int)n, MPI_FLOAT, m->comm)
                 : MPI_Allgather(s, (int)n, MPI_FLOAT, d, (int)n, MPI_FLOAT, m->comm);
    return done(m, start_ns, rc);
}

/* MPI counts in int: what is longer goes in pieces. */
static int send(struct sk_group *g, struct sk_backend *be, uint64_t src, size_t n, int to)
{
    struct mpi *m = of(g);
    uint64_t start_ns = sk_clock_ns();
    int rc = MPI_SUCCESS;
    for (size_t at = 0; at < n && rc == MPI_SUCCESS; at += MAX_COUNT) {
        size_t k = n - at < MAX_COUNT ? n - at : MAX_COUNT;
        rc = MPI_Send((const uint32_t *)(uintptr_t)src + at, (int)k, MPI_UINT32_T, to, TAG, m->comm);
    }
    return done(m, start_ns, rc);
}

static int recv(struct sk_group *g, struct sk_backend *be, uint64_t dst, size_t n, int from)
{
    struct mpi *m = of(g);
    uint64_t start_ns = sk_clock_ns();
    int rc = MPI_SUCCESS;
    for (size_t at = 0; at < n && rc == MPI_SUCCESS; at += MAX_COUNT) {
        size_t k = n - at < MAX_COUNT ? n - at : MAX_COUNT;
        rc = MPI_Recv((uint32_t *)(uintptr_t)dst + at, (int)k, MPI_UINT32_T, from, TAG, m->comm, MPI_STATUS_IGNORE);
    }
    return done(m, start_ns, rc);
}

static int bcast(struct sk_group *g, void *host, size_t bytes, int root)
{
    struct mpi *m = of(g);
    uint64_t start_ns = sk_clock_ns();
    int rc = MPI_SUCCESS;
    for (size_t at = 0; at < bytes && rc == MPI_SUCCESS; at += MAX_COUNT) {
        size_t k = bytes - at < MAX_COUNT ? bytes - at : MAX_COUNT;
        rc = MPI_Bcast((char *)host + at, (int)k, MPI_BYTE, root, m->comm);
    }
    return done(m, start_ns, rc);
}

static int barrier(struct sk_group *g)
{
    struct mpi *m = of(g);
    uint64_t start_ns = sk_clock_ns();
    return done(m, start_ns, MPI_Barrier(m->comm));
}

static void group_close(struct sk_group *g)
{
    struct mpi *m = of(g);
    if (m->comm != MPI_COMM_NULL)
        MPI_Comm_free(&m->comm);
    sk_free(m->parts);
    sk_free(m->count);
    sk_free(m);
}

int sk_group_mpi(MPI_Comm comm, size_t max_words, struct sk_group **ret)
{
    struct mpi *m = sk_calloc(1, sizeof *m);
    if (!m)
        return -SK_ENOMEM;
    m->comm = MPI_COMM_NULL;
    m->group = (struct sk_group){
        .ctx = m,
        .all_reduce = all_reduce,
        .all_gather = all_gather,
        .send = send,
        .recv = recv,
        .bcast = bcast,
        .barrier = barrier,
        .close = group_close,
    };
    if (MPI_Comm_dup(comm, &m->comm) != MPI_SUCCESS || MPI_Comm_size(m->comm, &m->group.size) != MPI_SUCCESS ||
        MPI_Comm_rank(m->comm, &m->group.rank) != MPI_SUCCESS) {
        group_close(&m->group);
        return -SK_EIO;
    }
    size_t size = (size_t)m->group.size;
    m->piece = max_words < SMALL ? SMALL : max_words > MAX_COUNT ? MAX_COUNT : max_words;
    size_t slice = (m->piece + size - 1) / size;
    m->parts = sk_malloc(size * (slice > SMALL ? slice : SMALL) * sizeof *m->parts);
    m->count = sk_calloc(4 * size, sizeof *m->count);
    if (!m->parts || !m->count) {
        group_close(&m->group);
        return -SK_ENOMEM;
    }
    m->first = m->count + size;
    m->mine = m->first + size;
    m->from = m->mine + size;
    *ret = &m->group;
    return 0;
}

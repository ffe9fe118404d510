#include "comm/group/world.h"

#include <limits.h>
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/base/mem.h"
#include "comm/group/ctl_open.h"
#include "comm/group/group_mpi.h"
#include "comm/group/room.h"
#include "comm/group/tcp.h"
#include "kernels/kernels.h"

enum {
    LINE = 64,
    MIB = 1 << 20,
    WINDOW_WORDS = 64 << 10,
    START_BYTES = 12 * MIB, /* of shared memory: what ranks of one host need at least */
    MARGIN = MIB,           /* what MPI keeps in our part for itself */
    CONNECT_MS = 10000,
    ACCEPT_MS = CONNECT_MS + 2000, /* so that who cannot connect says why */
    MAX_REPLY_HEAD = 64,           /* of one reply, before its rows */
    CLOSE_S = 10,
    ABORT_S = 2
};

struct world {
    struct sk_world w;
    MPI_Comm here; /* the ranks of this host */
    MPI_Win win;   /* their memory, MPI_WIN_NULL where there is none */
    uint8_t *mem;
    uint32_t max_row;                /* of one step */
    int *host;                       /* [size] */
    char (*name)[SK_WORLD_HOST_MAX]; /* [size]: of each rank's host */
};

static struct world *of(struct sk_world *w)
{
    return w->ctx;
}

static int lost(struct sk_err *err)
{
    return sk_err_set(err, SK_EIO, NULL, "MPI failed: a rank was lost");
}

/* ---- what all ranks must agree on ---- */

int sk_world_check(struct sk_world *w, int rc, struct sk_err *err)
{
    int first, mine = rc ? w->rank : w->size;
    if (MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD) != MPI_SUCCESS)
        return lost(err);
    if (first == w->size)
        return 0;
    struct sk_err e = {0};
    if (w->rank == first && err && err->code == -rc)
        e = *err;
    else if (w->rank == first)
        sk_err_set(&e, -rc, NULL, "%s", sk_err_text(rc));
    if (MPI_Bcast(&e, sizeof e, MPI_BYTE, first, MPI_COMM_WORLD) != MPI_SUCCESS)
        return lost(err);
    if (w->size > 1)
        return sk_err_set(err, e.code, *e.param ? e.param : NULL, "rank %d on %s: %s", first, of(w)->name[first],
                          e.msg);
    return sk_err_set(err, e.code, *e.param ? e.param : NULL, "%s", e.msg);
}

int sk_world_same(struct sk_world *w, const char *what, const char *text, struct sk_err *err)
{
    enum { QUOTED = 120 };
    char theirs[QUOTED] = "", *leaders = NULL;
    int n = (int)strlen(text), first;
    if (MPI_Bcast(&n, 1, MPI_INT, 0, MPI_COMM_WORLD) != MPI_SUCCESS)
        return lost(err);
    leaders = sk_calloc(1, (size_t)n + 1);
    int rc = sk_world_check(w, leaders ? 0 : -SK_ENOMEM, err);
    if (rc)
        goto out;
    if (w->rank == 0)
        memcpy(leaders, text, (size_t)n);
    if (MPI_Bcast(leaders, n, MPI_BYTE, 0, MPI_COMM_WORLD) != MPI_SUCCESS) {
        rc = lost(err);
        goto out;
    }
    int mine = strcmp(leaders, text) == 0 ? w->size : w->rank;
    rc = MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD) == MPI_SUCCESS ? 0 : lost(err);
    if (rc || first == w->size)
        goto out;
    snprintf(theirs, sizeof theirs, "%s", text);
    if (MPI_Bcast(theirs, sizeof theirs, MPI_BYTE, first, MPI_COMM_WORLD) != MPI_SUCCESS)
        rc = lost(err);
    else
        rc = sk_err_set(err, SK_EFORMAT, NULL, "%s differs: \"%.*s\" on rank 0 (%s), \"%s\" on rank %d (%s)", what,
                        QUOTED - 1, leaders, of(w)->name[0], theirs, first, of(w)->name[first]);
out:
    sk_free(leaders);
    return rc;
}

int sk_world_min(struct sk_world *w, uint32_t *v, uint32_t n)
{
    int rc = MPI_Allreduce(MPI_IN_PLACE, v, (int)n, MPI_UINT32_T, MPI_MIN, MPI_COMM_WORLD);
    return rc == MPI_SUCCESS ? 0 : -SK_EIO;
}

int sk_world_gather(struct sk_world *w, const void *p, size_t n, char **ret, size_t *ret_n)
{
    int count = (int)n, *counts = NULL, *first = NULL, rc = n > INT_MAX ? -SK_ETOOBIG : 0;
    size_t total = 0;
    char *all = NULL;
    if (w->rank == 0) {
        counts = sk_calloc(2 * (size_t)w->size, sizeof *counts);
        rc = counts ? rc : -SK_ENOMEM;
    }
    rc = sk_world_check(w, rc, NULL);
    if (rc)
        goto out;
    if (MPI_Gather(&count, 1, MPI_INT, counts, 1, MPI_INT, 0, MPI_COMM_WORLD) != MPI_SUCCESS) {
        rc = -SK_EIO;
        goto out;
    }
    if (w->rank == 0) {
        first = counts + w->size;
        for (int r = 0; r < w->size; r++) {
            first[r] = total <= INT_MAX ? (int)total : 0;
            total += (size_t)counts[r];
        }
        all = total <= INT_MAX ? sk_malloc(total + 1) : NULL;
        rc = all ? 0 : total <= INT_MAX ? -SK_ENOMEM : -SK_ETOOBIG; /* MPI counts in int */
    }
    rc = sk_world_check(w, rc, NULL);
    if (rc)
        goto out;
    if (MPI_Gatherv(p, count, MPI_BYTE, all, counts, first, MPI_BYTE, 0, MPI_COMM_WORLD) != MPI_SUCCESS) {
        rc = -SK_EIO;
        goto out;
    }
    *ret = all;
    *ret_n = total;
    all = NULL;
out:
    sk_free(all);
    sk_free(counts);
    return rc;
}

/* ---- open: who is where ---- */

/* An engine that was started without a launcher is told so; MPI would make a world of one, and start a daemon for it.
 */
bool sk_world_launched(void)
{
    return getenv("PMIX_RANK") || getenv("PMI_RANK") || getenv("OMPI_COMM_WORLD_RANK");
}

static int check_size(const struct sk_world *w, struct sk_err *err)
{
    if (w->size == w->n_tp * w->n_pp && w->size <= SK_WORLD_MAX_RANK)
        return 0;
    if (w->size > SK_WORLD_MAX_RANK)
        return sk_err_set(err, SK_EUNSUP, "tp", "%d ranks were started; there can be at most %d", w->size,
                          SK_WORLD_MAX_RANK);
    return sk_err_set(
        err, SK_EUNSUP, "tp",
        "%d ranks were started, but --tp %d times --pp %d are %d: let skeind start them, or give mpirun -n "
        "%d",
        w->size, w->n_tp, w->n_pp, w->n_tp * w->n_pp, w->n_tp * w->n_pp);
}

/* Hosts are numbered in the order of their first ranks. */
static int find_hosts(struct world *x)
{
    struct sk_world *w = &x->w;
    char name[MPI_MAX_PROCESSOR_NAME];
    int n, first = w->rank;
    if (MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, w->rank, MPI_INFO_NULL, &x->here) != MPI_SUCCESS ||
        MPI_Comm_rank(x->here, &w->local_rank) != MPI_SUCCESS || MPI_Comm_size(x->here, &w->n_local) != MPI_SUCCESS ||
        MPI_Bcast(&first, 1, MPI_INT, 0, x->here) != MPI_SUCCESS ||
        MPI_Allgather(&first, 1, MPI_INT, x->host, 1, MPI_INT, MPI_COMM_WORLD) != MPI_SUCCESS ||
        MPI_Get_processor_name(name, &n) != MPI_SUCCESS)
        return -SK_EIO;
    snprintf(w->host_name, sizeof w->host_name, "%.*s", n, name);
    if (MPI_Allgather(w->host_name, SK_WORLD_HOST_MAX, MPI_CHAR, x->name, SK_WORLD_HOST_MAX, MPI_CHAR,
                      MPI_COMM_WORLD) != MPI_SUCCESS)
        return -SK_EIO;
    for (int r = 0; r < w->size; r++)
        x->host[r] = x->host[r] == r ? w->n_host++ : x->host[x->host[r]];
    w->host = x->host[w->rank];
    return 0;
}

/* MPI's own words, when it does not get what it needs to start, help nobody. */
static int check_start(struct sk_err *err)
{
    const char *n_local = getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
    return n_local && atoi(n_local) > 1 ? sk_room_look(START_BYTES, err) : 0;
}

static int find_place(struct world *x, struct sk_err *err)
{
    struct sk_world *w = &x->w;
    MPI_Comm_rank(MPI_COMM_WORLD, &w->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &w->size);
    int rc = check_size(w, err);
    if (rc)
        return rc;
    w->stage = w->rank / w->n_tp;
    w->tp_rank = w->rank % w->n_tp;
    x->host = sk_calloc((size_t)w->size, sizeof *x->host);
    x->name = sk_calloc((size_t)w->size, sizeof *x->name);
    rc = x->host && x->name ? find_hosts(x) : -SK_ENOMEM;
    return rc ? sk_err_set(err, -rc, NULL, "the ranks cannot find each other") : 0;
}

int sk_world_open(int tp, int pp, struct sk_world **ret, struct sk_err *err)
{
    int level;
    if (!sk_world_launched())
        return sk_err_set(err, SK_EUNSUP, "tp",
                          "--tp %d times --pp %d need %d ranks, and this process was not started by mpirun: let skeind "
                          "start them, or use mpirun -n %d",
                          tp, pp, tp * pp, tp * pp);
    int rc = check_start(err);
    if (rc)
        return rc;
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0); /* a rank may not have a core of its own */
    struct world *x = sk_calloc(1, sizeof *x);
    if (!x)
        return sk_err_set(err, SK_ENOMEM, NULL, "no memory for the ranks' table");
    x->w = (struct sk_world){.n_tp = tp, .n_pp = pp, .ctx = x};
    x->win = MPI_WIN_NULL;
    x->here = MPI_COMM_NULL;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS) {
        sk_free(x);
        return sk_err_set(err, SK_EIO, NULL, "MPI does not start");
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    rc = find_place(x, err);
    if (rc)
        sk_world_close(&x->w);
    else
        *ret = &x->w;
    return rc;
}

/* ---- connect: the memory of a host ---- */

/* What lies where in it; the same on all its ranks. */
struct layout {
    size_t bytes, tp_at, pp_at;
    bool has_ctl, has_tp, has_pp; /* ctl lies at 0; has_tp, has_pp: of this rank's groups */
    struct sk_group_shm_conf tp, pp;
};

/* Are the ranks first, first + step, ... all on this host? */
static bool all_here(const struct world *x, int first, int step, int n)
{
    for (int i = 0; i < n; i++) {
        if (x->host[first + i * step] != x->w.host)
            return false;
    }
    return n > 1;
}

static struct sk_ctl_conf ctl_conf(const struct world *x)
{
    const struct sk_world *w = &x->w;
    return (struct sk_ctl_conf){.rank = w->rank,
                                .size = w->size,
                                .reply_rank = (w->n_pp - 1) * w->n_tp,
                                .reply_bytes = ((size_t)w->n_pp + 1) *
                                               (x->max_row * sizeof(struct sk_result_row) + MAX_REPLY_HEAD),
                                .host = x->host};
}

static struct layout lay_out(const struct world *x, size_t max_words)
{
    const struct sk_world *w = &x->w;
    const struct sk_ctl_conf ctl = ctl_conf(x);
    struct layout l = {
        .has_ctl = w->host == x->host[0] && w->n_local > 1,
        .tp = {.rank = w->tp_rank, .size = w->n_tp, .window_words = WINDOW_WORDS},
        .pp = {.rank = w->stage,
               .size = w->n_pp,
               .window_words = WINDOW_WORDS,
               .room_words = ((size_t)w->n_pp + 1) * max_words},
    };
    if (l.has_ctl)
        l.bytes = sk_ctl_bytes(&ctl);
    for (int s = 0; s < w->n_pp; s++) {
        if (!all_here(x, s * w->n_tp, 1, w->n_tp))
            continue;
        if (s == w->stage) {
            l.has_tp = true;
            l.tp_at = l.bytes;
        }
        l.bytes += (sk_group_shm_bytes(&l.tp) + LINE - 1) / LINE * LINE;
    }
    for (int t = 0; t < w->n_tp; t++) {
        if (!all_here(x, t, w->n_tp, w->n_pp))
            continue;
        if (t == w->tp_rank) {
            l.has_pp = true;
            l.pp_at = l.bytes;
        }
        l.bytes += (sk_group_shm_bytes(&l.pp) + LINE - 1) / LINE * LINE;
    }
    return l;
}

static int share(struct world *x, size_t bytes, struct sk_err *err)
{
    struct sk_world *w = &x->w;
    const bool owner = bytes && w->local_rank == 0;
    int rc = sk_world_check(w, owner ? sk_room_check(bytes + MARGIN, err) : 0, err);
    if (rc)
        return rc;
    if (bytes) {
        void *own, *base;
        MPI_Aint n;
        int unit;
        MPI_Comm_set_errhandler(x->here, MPI_ERRORS_RETURN);
        if (MPI_Win_allocate_shared(owner ? (MPI_Aint)(bytes + LINE) : 0, 1, MPI_INFO_NULL, x->here, &own, &x->win) !=
                MPI_SUCCESS ||
            MPI_Win_shared_query(x->win, 0, &n, &unit, &base) != MPI_SUCCESS)
            rc = sk_err_set(err, SK_ENOMEM, NULL, "MPI cannot make %zu MiB of shared memory in %s",
                            (bytes + MIB - 1) / MIB, sk_room_folder());
        else /* all map whole pages, so that this is the same place for all */
            x->mem = (uint8_t *)(((uintptr_t)base + LINE - 1) / LINE * LINE);
        if (rc == 0 && owner)
            rc = sk_room_touch(x->mem, bytes, err);
    }
    return sk_world_check(w, rc, err);
}

/* ---- connect: groups and control plane ---- */

/* The ranks that give the same color. MPI's part is all ranks', whatever their groups turn out to be. */
static int make_group(struct world *x, int color, size_t max_words, const struct sk_group_shm_conf *conf, void *mem,
                      struct sk_group **ret)
{
    MPI_Comm comm;
    const bool far = conf->size > 1 && !mem;
    if (MPI_Comm_split(MPI_COMM_WORLD, far ? color : MPI_UNDEFINED, x->w.rank, &comm) != MPI_SUCCESS)
        return -SK_EIO;
    if (far) {
        int rc = sk_group_mpi(comm, max_words, ret);
        MPI_Comm_free(&comm);
        return rc;
    }
    return mem ? sk_group_shm(conf, mem, ret) : sk_group_self(ret);
}

static int connect_far(struct world *x, int *fd, struct sk_err *err)
{
    struct sk_world *w = &x->w;
    struct sk_tcp_door door;
    int n_far = 0, listen_fd = -1, rc = 0;
    for (int r = 0; r < w->size; r++)
        n_far += x->host[r] != x->host[0];
    if (!n_far)
        return 0;
    if (w->rank == 0)
        rc = sk_tcp_listen(&door, &listen_fd, err);
    rc = sk_world_check(w, rc, err);
    if (rc)
        goto out;
    if (MPI_Bcast(&door, sizeof door, MPI_BYTE, 0, MPI_COMM_WORLD) != MPI_SUCCESS)
        rc = lost(err);
    else if (w->rank == 0)
        rc = sk_tcp_accept(listen_fd, &door, n_far, fd, w->size, ACCEPT_MS, err);
    else if (x->host[w->rank] != x->host[0])
        rc = sk_tcp_connect(&door, w->rank, CONNECT_MS, &fd[0], err);
    rc = sk_world_check(w, rc, err);
out:
    if (listen_fd >= 0)
        close(listen_fd);
    return rc;
}

static int make_ctl(struct world *x, const struct layout *l, struct sk_err *err)
{
    struct sk_world *w = &x->w;
    int fd[SK_WORLD_MAX_RANK];
    for (int i = 0; i < w->size; i++)
        fd[i] = -1;
    int rc = connect_far(x, fd, err);
    if (rc) {
        for (int i = 0; i < w->size; i++) {
            if (fd[i] >= 0)
                close(fd[i]);
        }
        return rc;
    }
    struct sk_ctl_conf conf = ctl_conf(x);
    conf.mem = l->has_ctl ? x->mem : NULL;
    conf.fd = fd;
    return sk_world_check(w, sk_ctl_open(&conf, &w->ctl, err), err);
}

int sk_world_connect(struct sk_world *w, uint32_t max_row, uint32_t ld_x, struct sk_err *err)
{
    struct world *x = of(w);
    const size_t max_words = (size_t)max_row * ld_x;
    of(w)->max_row = max_row;
    const struct layout l = lay_out(x, max_words);
    int rc = share(x, l.bytes, err);
    if (rc)
        return rc;
    int rc_tp = make_group(x, w->stage, max_words, &l.tp, l.has_tp ? x->mem + l.tp_at : NULL, &w->tp);
    int rc_pp = make_group(x, w->tp_rank, max_words, &l.pp, l.has_pp ? x->mem + l.pp_at : NULL, &w->pp);
    rc = rc_tp ? rc_tp : rc_pp;
    if (rc)
        sk_err_set(err, -rc, NULL, "cannot make the ranks' groups");
    rc = sk_world_check(w, rc, err);
    return rc ? rc : w->size > 1 ? make_ctl(x, &l, err) : 0;
}

/* ---- the end ---- */

_Noreturn void sk_world_abort(int status)
{
    int up = 0, down = 0;
    MPI_Initialized(&up);
    MPI_Finalized(&down);
    if (up && !down) {
        /* MPI may be anywhere just now, in another thread too; should it not get out of there, this rank's death by a
         * signal ends the job as well. */
        signal(SIGALRM, SIG_DFL);
        alarm(ABORT_S);
        MPI_Abort(MPI_COMM_WORLD, status);
    }
    _exit(status);
}

void sk_world_close(struct sk_world *w)
{
    if (!w)
        return;
    struct world *x = of(w);
    /* Where ranks were lost MPI waits for them until whoever started the job ends it. */
    signal(SIGALRM, SIG_DFL);
    alarm(CLOSE_S);
    sk_ctl_close(w->ctl);
    if (w->tp)
        w->tp->close(w->tp);
    if (w->pp)
        w->pp->close(w->pp);
    if (x->win != MPI_WIN_NULL)
        MPI_Win_free(&x->win);
    if (x->here != MPI_COMM_NULL)
        MPI_Comm_free(&x->here);
    MPI_Finalize();
    alarm(0);
    sk_free(x->host);
    sk_free(x->name);
    sk_free(x);
}

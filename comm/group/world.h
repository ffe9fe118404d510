/* The ranks of one engine as MPI starts them: who is where, and what joins them. The only part, with group_mpi.c, that
 * knows MPI; calls to it are made while a job opens and closes and inside of steps, never to wait for work: an MPI call
 * that waits spins.
 *
 * Ranks are a grid of pp stages of tp ranks: rank = stage * tp + tp_rank. Rank 0 is the leader. */
#ifndef SK_WORLD_H
#define SK_WORLD_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "comm/group/ctl.h"
#include "comm/group/group.h"

enum { SK_WORLD_HOST_MAX = 64, SK_WORLD_MAX_RANK = 256 };

struct sk_world {
    int rank, size, tp_rank, stage, n_tp, n_pp;
    int host, n_host;        /* index of this rank's host, in the order of the first rank there */
    int local_rank, n_local; /* among the ranks of this host */
    char host_name[SK_WORLD_HOST_MAX];
    struct sk_group *tp; /* the ranks of this stage: group_shm on one host, group_mpi on several, group_self for one */
    struct sk_group *pp; /* this tp_rank of every stage: rank = stage; likewise */
    struct sk_ctl *ctl;
    void *ctx;
};

bool sk_world_launched(void); /* did mpirun, or another launcher, start this process? */
/* MPI starts. -SK_EUNSUP: it is not there or was not started by a launcher, or size is not tp * pp (the error says what
 * to do); -SK_EIO. On return rank, size, host and local members are set, groups and ctl are not. */
int sk_world_open(int tp, int pp, struct sk_world **ret, struct sk_err *err);
/* Collective: makes groups and ctl, for steps of max_row rows of ld_x floats. -SK_ENOMEM: the shared memory file system
 * is too small (the error says how much is needed and where), and every rank returns it. */
int sk_world_connect(struct sk_world *w, uint32_t max_row, uint32_t ld_x, struct sk_err *err);
/* Collective: every rank gives what it found; if any failed, all return the error of the first rank that did, its text
 * preceded by "rank N on HOST: " in jobs of several ranks. */
int sk_world_check(struct sk_world *w, int rc, struct sk_err *err);
/* Collective: the text must be the same on all ranks. -SK_EFORMAT: `what` differs, and between which ranks and hosts.
 */
int sk_world_same(struct sk_world *w, const char *what, const char *text, struct sk_err *err);
int sk_world_min(struct sk_world *w, uint32_t *v, uint32_t n); /* collective, in place: the least of each. -SK_EIO */
/* Collective: the bytes of all ranks, one after the other, at rank 0, which frees *ret; others get NULL. */
int sk_world_gather(struct sk_world *w, const void *p, size_t n, char **ret, size_t *ret_n);
/* Ends all ranks at once, from any thread or state; does not return. */
_Noreturn void sk_world_abort(int status);
/* Collective where all goes well. NULL is allowed. */
void sk_world_close(struct sk_world *w);

#endif

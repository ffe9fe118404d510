/* Rank to rank: collectives over backend memory, ordered on the backend's stream. One of the tree's three tables of
 * function pointers. Its kinds: a group of one (group_self), ranks of one host (group_shm), ranks of several
 * (group_mpi).
 *
 * Every rank of a group makes the same calls in the same order. A sum is made in the order of the ranks, so that all
 * get the same bits, and the same ones each time. A rank that was lost is noticed by who started the job, which then
 * ends: calls need not come back from it. */
#ifndef SK_GROUP_H
#define SK_GROUP_H
#include <stddef.h>
#include <stdint.h>

struct sk_backend;
struct sk_group;

/* Sums whose parts are made where all ranks see them: nothing is copied, and a part is waited for while the next one is
 * computed. Rounds go on in order, the same n on each rank; at most `depth` are begun and not ended. Threads: one at a
 * time calls; what begin and wait return may be written and read by several. */
struct sk_group_window {
    size_t max;     /* floats of a part */
    uint32_t depth; /* >= 2 */
    /* A new round: this rank's part, 64-byte aligned, its contents undefined. Waits until nobody reads there. */
    float *(*begin)(struct sk_group *g, size_t n);
    void (*post)(struct sk_group *g);                         /* the oldest part not posted is made */
    void (*wait)(struct sk_group *g, const float **ret_part); /* until all have posted the oldest round not ended:
                                                                 [size] parts in the order of the ranks */
    void (*end)(struct sk_group *g);                          /* this rank has read that round's parts */
};

struct sk_group {
    int rank, size;
    void *ctx;
    /* NULL unless the ranks' backends compute in memory that all of them can see. */
    const struct sk_group_window *window;
    uint64_t collective_us; /* time spent in the calls below and in window's waits, since it was opened */
    /* Each is 0 or -SK_EIO (a rank was lost). Addresses are of the backend (struct sk_dev's `a`), 4-byte aligned; n
     * counts floats or other 4-byte words. all_reduce: the sum over the ranks, in place. all_gather: src[n] of each
     * rank to dst[rank][n]. send returns when src may be reused; it may wait for room at the receiver, which has
     * room for some (see the opener). recv of the same n.
     */
    int (*all_reduce)(struct sk_group *g, struct sk_backend *be, uint64_t buf, size_t n);
    int (*all_gather)(struct sk_group *g, struct sk_backend *be, uint64_t dst, uint64_t src, size_t n);
    int (*send)(struct sk_group *g, struct sk_backend *be, uint64_t src, size_t n, int to);
    int (*recv)(struct sk_group *g, struct sk_backend *be, uint64_t dst, size_t n, int from);
    int (*bcast)(struct sk_group *g, void *host, size_t bytes, int root); /* host memory */
    int (*barrier)(struct sk_group *g);
    void (*close)(struct sk_group *g);
};

int sk_group_self(struct sk_group **ret); /* a group of one. -SK_ENOMEM */

/* Ranks that map one piece of memory, processes or threads; their backends compute in host memory. `mem` is zeroed when
 * the first of them opens, 64-byte aligned, sk_group_shm_bytes long, and stays until the last has closed. Waiting is
 * spinning for a while, then yielding the CPU, then sleeping. -SK_ENOMEM. */
struct sk_group_shm_conf {
    int rank, size;      /* size <= SK_GROUP_MAX */
    size_t window_words; /* struct sk_group_window.max */
    size_t room_words;   /* that `send` may be ahead of `recv`, for each neighbour: rank - 1 to rank and back */
};
enum { SK_GROUP_MAX = 64 };
size_t sk_group_shm_bytes(const struct sk_group_shm_conf *conf);
int sk_group_shm(const struct sk_group_shm_conf *conf, void *mem, struct sk_group **ret);

#endif

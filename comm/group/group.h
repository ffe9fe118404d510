/* Rank to rank: collectives over backend memory, ordered on the backend's stream. One of the tree's three tables of
 * function pointers; the only kind so far is a group of one. */
#ifndef SK_GROUP_H
#define SK_GROUP_H
#include <stddef.h>
#include <stdint.h>

struct sk_backend;
struct sk_group {
    int rank, size;
    void *ctx;
    /* Each is 0 or -SK_EIO (a rank was lost). Addresses are of the backend (struct sk_dev's `a`); n counts floats.
     * all_reduce: the sum over the ranks, in place, in a fixed order. all_gather: src[n] of each rank to dst[rank][n].
     */
    int (*all_reduce)(struct sk_group *g, struct sk_backend *be, uint64_t buf, size_t n);
    int (*all_gather)(struct sk_group *g, struct sk_backend *be, uint64_t dst, uint64_t src, size_t n);
    int (*send)(struct sk_group *g, struct sk_backend *be, uint64_t src, size_t n, int to);
    int (*recv)(struct sk_group *g, struct sk_backend *be, uint64_t dst, size_t n, int from);
    int (*bcast)(struct sk_group *g, void *host, size_t bytes, int root); /* host memory: plans */
    int (*barrier)(struct sk_group *g);
    void (*close)(struct sk_group *g);
};

int sk_group_self(struct sk_group **ret); /* a group of one. -SK_ENOMEM */

#endif

/* Rank <-> rank: collectives over backend memory, ordered on the backend's stream. group_self is a group of one; shared memory, MPI and NCCL give the
 * same table. One of the tree's three tables of function pointers. */
#ifndef SK_GROUP_H
#define SK_GROUP_H
#include <stddef.h>
#include <stdint.h>

struct sk_backend;
struct sk_group {
    int rank, size;
    void *ctx;
    /* Each is 0 or -SK_EIO (a rank was lost). Addresses are of the backend (struct sk_dev's `a`); counts in floats. */
    int (*all_reduce)(struct sk_group *g, struct sk_backend *be, uint64_t buf, size_t n);                 /* sum, in place, fixed order */
    int (*all_gather)(struct sk_group *g, struct sk_backend *be, uint64_t dst, uint64_t src, size_t n);   /* n from each rank, by rank */
    int (*send)(struct sk_group *g, struct sk_backend *be, uint64_t src, size_t n, int to);
    int (*recv)(struct sk_group *g, struct sk_backend *be, uint64_t dst, size_t n, int from);
    int (*bcast)(struct sk_group *g, void *host, size_t bytes, int root); /* host memory: plans */
    int (*barrier)(struct sk_group *g);
    void (*close)(struct sk_group *g);
};

int sk_group_self(struct sk_group **ret); /* -SK_ENOMEM */

#endif

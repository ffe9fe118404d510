#include "comm/group/group.h"

#include "comm/base/err.h"
#include "comm/base/mem.h"
#include "kernels/kernels.h"

static int all_reduce(struct sk_group *g, struct sk_backend *be, uint64_t buf, size_t n)
{
    return 0;
}

static int all_gather(struct sk_group *g, struct sk_backend *be, uint64_t dst, uint64_t src, size_t n)
{
    if (dst != src)
        be->copy(be, (struct sk_dev){dst}, (struct sk_dev){src}, n * sizeof(float));
    return 0;
}

/* A group of one has nobody to send to: the caller's mistake, and not the world's. */
static int send(struct sk_group *g, struct sk_backend *be, uint64_t src, size_t n, int to)
{
    return -SK_EINTERNAL;
}

static int recv(struct sk_group *g, struct sk_backend *be, uint64_t dst, size_t n, int from)
{
    return -SK_EINTERNAL;
}

static int bcast(struct sk_group *g, void *host, size_t bytes, int root)
{
    return 0;
}

static int barrier(struct sk_group *g)
{
    return 0;
}

static void group_close(struct sk_group *g)
{
    sk_free(g);
}

int sk_group_self(struct sk_group **ret)
{
    struct sk_group *g = sk_malloc(sizeof *g);
    if (!g)
        return -SK_ENOMEM;
    *g = (struct sk_group){
        .size = 1,
        .all_reduce = all_reduce,
        .all_gather = all_gather,
        .send = send,
        .recv = recv,
        .bcast = bcast,
        .barrier = barrier,
        .close = group_close,
    };
    *ret = g;
    return 0;
}

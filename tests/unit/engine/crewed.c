#include "tests/unit/engine/crewed.h"

#include <stdlib.h>
#include <string.h>

#include "comm/base/mem.h"
#include "comm/group/ctl_open.h"

int sk_world_gather(struct sk_world *w, const void *p, size_t n, char **ret, size_t *ret_n)
{
    struct crewed *c = w->ctx;
    sk_assert(n == sizeof c->gathered[0]);
    memcpy(&c->gathered[w->rank], p, n);
    pthread_barrier_wait(&c->all);
    *ret = NULL;
    if (w->rank > 0)
        return 0;
    *ret_n = (size_t)w->size * n;
    *ret = sk_malloc(*ret_n);
    sk_assert(*ret);
    memcpy(*ret, c->gathered, *ret_n);
    return 0;
}

void crewed_open(struct crewed *c, int tp, int pp)
{
    const int host[CREWED_MAX] = {0};
    struct sk_ctl_conf conf = {.size = tp * pp, .reply_rank = pp > 1 ? (pp - 1) * tp : 0, .host = host};
    *c = (struct crewed){.world = {{.size = tp * pp}}};
    sk_assert(tp * pp <= CREWED_MAX);
    if (tp * pp == 1)
        return;
    size_t bytes = sk_ctl_bytes(&conf);
    c->mem = aligned_alloc(64, bytes);
    sk_assert(c->mem);
    memset(c->mem, 0, bytes);
    conf.mem = c->mem;
    pthread_barrier_init(&c->all, NULL, (unsigned)(tp * pp));
    for (int i = 0; i < tp * pp; i++) {
        struct sk_world *w = &c->world[i];
        struct sk_err err = {0};
        int fd[CREWED_MAX];
        for (int k = 0; k < CREWED_MAX; k++)
            fd[k] = -1;
        *w = (struct sk_world){.rank = i,
                               .size = tp * pp,
                               .tp_rank = i % tp,
                               .stage = i / tp,
                               .n_tp = tp,
                               .n_pp = pp,
                               .host_name = "here",
                               .ctx = c};
        conf.rank = i;
        conf.fd = fd;
        sk_assert(sk_ctl_open(&conf, &w->ctl, &err) == 0);
    }
}

void crewed_close(struct crewed *c)
{
    if (!c->mem)
        return;
    for (int i = 0; i < CREWED_MAX; i++)
        sk_ctl_close(c->world[i].ctl);
    pthread_barrier_destroy(&c->all);
    free(c->mem);
}

#include "clients/bench/net.h"

#include <string.h>

#include "clients/bench/direct.h"
#include "clients/bench/multi.h"

int sk_net_open(struct sk_net *n, const struct sk_net_conf *c, struct sk_err *err)
{
    *n = (struct sk_net){0};
    if (strncmp(c->target->url, "https:", 6) == 0)
        return sk_multi_open(&n->multi, c, err);
    return sk_direct_open(&n->direct, c, err);
}

void sk_net_send(struct sk_net *n, struct sk_turn *x)
{
    if (n->direct)
        sk_direct_send(n->direct, x);
    else
        sk_multi_send(n->multi, x);
}

void sk_net_drop(struct sk_net *n, struct sk_turn *x)
{
    if (n->direct)
        sk_direct_drop(n->direct, x);
    else
        sk_multi_drop(n->multi, x);
}

int sk_net_poll(struct sk_net *n, int64_t timeout_ns, uint64_t *ret_woke_ns, struct sk_err *err)
{
    return n->direct ? sk_direct_poll(n->direct, timeout_ns, ret_woke_ns, err)
                     : sk_multi_poll(n->multi, timeout_ns, ret_woke_ns, err);
}

void sk_net_close(struct sk_net *n)
{
    sk_direct_close(n->direct);
    sk_multi_close(n->multi);
    *n = (struct sk_net){0};
}

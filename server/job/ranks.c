#include "server/job/ranks.h"

#include <stdio.h>
#include <string.h>
#include "comm/base/mem.h"
#include "server/metrics/metrics.h"

static void publish(const struct sk_wire_rank *r, struct sk_metrics *m, uint32_t replica)
{
    char which[16], rank[16];
    const char *const labels[] = {which, rank, r->host};
    snprintf(which, sizeof which, "%u", replica);
    snprintf(rank, sizeof rank, "%u", r->rank);
    sk_metric_put(m, SK_METRIC_RANK_STEPS, (double)r->step, labels);
    sk_metric_put(m, SK_METRIC_RANK_BUSY, (double)r->busy_us / 1e6, labels);
    sk_metric_put(m, SK_METRIC_RANK_COLLECTIVE, (double)r->collective_us / 1e6, labels);
    sk_metric_put(m, SK_METRIC_RANK_WAIT, (double)r->wait_us / 1e6, labels);
    sk_metric_put(m, SK_METRIC_RANK_RESIDENT, (double)r->rss_bytes, labels);
}

void sk_ranks_take(struct sk_ranks *r, const struct sk_wire_ranks *f, struct sk_metrics *m, uint32_t replica)
{
    uint32_t n = f->n_rank < SK_WIRE_MAX_RANKS ? f->n_rank : SK_WIRE_MAX_RANKS;
    if (n > r->n) {
        struct sk_wire_rank *list = sk_realloc(r->list, n * sizeof *list);
        if (!list)
            return;
        r->list = list;
    }
    memcpy(r->list, sk_wire_ranks_list(f), n * sizeof *r->list);
    r->n = n;
    for (uint32_t i = 0; i < n; i++) {
        r->list[i].host[sizeof r->list[i].host - 1] = '\0';
        publish(&r->list[i], m, replica);
    }
}

void sk_ranks_forget(struct sk_ranks *r, struct sk_metrics *m, uint32_t replica)
{
    for (uint32_t i = 0; i < r->n; i++) {
        struct sk_wire_rank *k = &r->list[i];
        k->step = k->busy_us = k->collective_us = k->wait_us = k->rss_bytes = 0;
        publish(k, m, replica);
    }
    sk_free(r->list);
    *r = (struct sk_ranks){0};
}

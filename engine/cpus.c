#define _GNU_SOURCE 1 /* sched_setaffinity */
#include "engine/cpus.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

enum { MAX_NODE = 256, MAX_SHARE = 1024 };

bool sk_cpus_part(const struct sk_cpus *all, uint32_t i, uint32_t n_part, struct sk_cpus *ret)
{
    const uint32_t from = (uint32_t)((uint64_t)all->n * i / n_part);
    const uint32_t n = (uint32_t)((uint64_t)all->n * (i + 1) / n_part) - from;
    ret->n = all->n < n_part ? 0 : n;
    memcpy(ret->cpu, all->cpu + from, ret->n * sizeof ret->cpu[0]);
    return ret->n > 0;
}

int sk_cpus_read_share(const char *text, uint32_t *ret_i, uint32_t *ret_n, struct sk_err *err)
{
    unsigned i, n;
    char more;
    if (sscanf(text, "%u/%u%c", &i, &n, &more) != 2 || text[0] == '-' || n < 1 || n > MAX_SHARE || i >= n)
        return sk_err_set(err, SK_EINVAL, "cpu-share", "--cpu-share %.40s: I/N with I from 0 to N - 1, N at most %d",
                          text, MAX_SHARE);
    *ret_i = i;
    *ret_n = n;
    return 0;
}

bool sk_cpus_read_list(const char *text, struct sk_cpus *ret)
{
    char *end;
    ret->n = 0;
    for (const char *p = text; *p && *p != '\n'; p = end + (*end == ',')) {
        const long first = strtol(p, &end, 10);
        if (end == p)
            return false;
        p = end + 1;
        const long last = *end == '-' ? strtol(p, &end, 10) : first;
        if (first < 0 || last < first || last >= SK_CPUS_MAX || (*end && *end != ',' && *end != '\n'))
            return false;
        for (long cpu = first; cpu <= last && ret->n < SK_CPUS_MAX; cpu++)
            ret->cpu[ret->n++] = (uint16_t)cpu;
    }
    return true;
}

/* ---- this machine ---- */

static bool read_list(const char *path, struct sk_cpus *ret)
{
    char text[4096];
    FILE *f = fopen(path, "re");
    const bool ok = f && fgets(text, sizeof text, f) && sk_cpus_read_list(text, ret);
    if (f)
        fclose(f);
    return ok;
}

/* Where a CPU is: neighbours are those with which it shares most. */
struct place {
    uint16_t node, core, cpu; /* core: the first of the CPUs that are threads of it */
};

static int by_place(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->node != y->node)
        return x->node < y->node ? -1 : 1;
    if (x->core != y->core)
        return x->core < y->core ? -1 : 1;
    return x->cpu < y->cpu ? -1 : x->cpu > y->cpu;
}

/* What the system does not say is taken to be one node, and each CPU a core. */
static void order(struct sk_cpus *cpus)
{
    struct place place[SK_CPUS_MAX];
    uint16_t node_of[SK_CPUS_MAX] = {0};
    struct sk_cpus list;
    char path[96];
    for (int node = 0; node < MAX_NODE; node++) {
        snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", node);
        if (read_list(path, &list))
            for (uint32_t i = 0; i < list.n; i++)
                node_of[list.cpu[i]] = (uint16_t)node;
    }
    for (uint32_t i = 0; i < cpus->n; i++) {
        const uint16_t cpu = cpus->cpu[i];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
        place[i] = (struct place){node_of[cpu], read_list(path, &list) && list.n ? list.cpu[0] : cpu, cpu};
    }
    qsort(place, cpus->n, sizeof place[0], by_place);
    for (uint32_t i = 0; i < cpus->n; i++)
        cpus->cpu[i] = place[i].cpu;
}

static bool read_mask(struct sk_cpus *ret)
{
    cpu_set_t mask;
    ret->n = 0;
    if (sched_getaffinity(0, sizeof mask, &mask))
        return false;
    for (int cpu = 0; cpu < CPU_SETSIZE && cpu < SK_CPUS_MAX; cpu++)
        if (CPU_ISSET(cpu, &mask))
            ret->cpu[ret->n++] = (uint16_t)cpu;
    return ret->n > 0;
}

static int confine(const struct sk_cpus *cpus, struct sk_err *err)
{
    cpu_set_t mask;
    CPU_ZERO(&mask);
    for (uint32_t i = 0; i < cpus->n; i++)
        CPU_SET(cpus->cpu[i], &mask);
    if (sched_setaffinity(0, sizeof mask, &mask))
        return sk_err_errno(err, SK_EUNAVAIL, "cpu-share", "cannot stay on %u CPUs", cpus->n);
    return 0;
}

int sk_cpus_take(const struct sk_cpus_conf *conf, int *ret_n_thread, struct sk_err *err)
{
    struct sk_cpus all, engine, rank;
    uint32_t i = 0, n = 1;
    int rc = conf->share[0] ? sk_cpus_read_share(conf->share, &i, &n, err) : 0;
    if (rc)
        return rc;
    const int quota = sk_cpu_quota() / (int)(n * (uint32_t)conf->n_rank);
    *ret_n_thread = 1;
    if (!read_mask(&all))
        return 0;
    order(&all);
    if (!sk_cpus_part(&all, i, n, &engine) ||
        !sk_cpus_part(&engine, (uint32_t)conf->rank, (uint32_t)conf->n_rank, &rank))
        return 0;
    const int most = quota > 1 ? quota : 1;
    *ret_n_thread = (int)rank.n < most ? (int)rank.n : most;
    return confine(&rank, err);
}

/* Which CPUs a rank computes on: those of the affinity mask, divided among the engines (--cpu-share) and among the
 * ranks of this host, each stretch of them in few NUMA nodes and whole cores. Sources: sched_setaffinity(2), Linux's
 * Documentation/ABI/stable/sysfs-devices-node, sysfs-devices-system-cpu. */
#ifndef SK_CPUS_H
#define SK_CPUS_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/err.h"

enum { SK_CPUS_MAX = 1024 };
struct sk_cpus {
    uint32_t n;
    uint16_t cpu[SK_CPUS_MAX];
};
/* Part i of n_part equal ones of CPUs in the order given: they differ in size by at most one. False, and nothing in it:
 * there are fewer CPUs than parts. */
bool sk_cpus_part(const struct sk_cpus *all, uint32_t i, uint32_t n_part, struct sk_cpus *ret);
/* "I/N", I < N. -SK_EINVAL. */
int sk_cpus_read_share(const char *text, uint32_t *ret_i, uint32_t *ret_n, struct sk_err *err);
/* A list such as "0-3,8,10-11" of sysfs, up to SK_CPUS_MAX of them. False: it is none. */
bool sk_cpus_read_list(const char *text, struct sk_cpus *ret);

struct sk_cpus_conf {
    const char *share; /* --cpu-share; "" = all */
    int rank, n_rank;  /* of this host */
};
/* Confines this thread, and those that it starts from now on, to this rank's part; where there are more ranks than CPUs
 * it may go anywhere. *ret_n_thread: CPUs of the part, at most this rank's part of the cgroup's quota, at least 1.
 * -SK_EINVAL (share), -SK_EUNAVAIL. */
int sk_cpus_take(const struct sk_cpus_conf *conf, int *ret_n_thread, struct sk_err *err);

#endif

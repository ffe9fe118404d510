/* How many ranks an engine is started with, and where: as the options say; with --on-rank-loss=shrink, when a host has
 * been lost for --rank-loss-wait, what the hosts that are left have room for. Private to server/job; owner: loop
 * thread.
 */
#ifndef SK_SHAPE_H
#define SK_SHAPE_H
#include <stdbool.h>
#include "comm/group/launch.h"

struct sk_conf;

struct sk_shape {
    uint32_t n_tp, n_pp;
    struct sk_launch_hosts hosts; /* n = 0: all are here */
    /* What the options say, and since when it could not be had. */
    const struct sk_conf *conf;
    uint32_t full_tp, full_pp;
    struct sk_launch_hosts all;
    uint64_t lost_ms; /* 0 = it can be had, as far as is known */
};

/* Whether it can be had at all is found out here: mpirun, the hostfile. Errors of sk_launch_check, _read_hosts,
 * _check_hosts; -SK_ERANGE: too many ranks; -SK_EINVAL: options that exclude each other. */
int sk_shape_init(struct sk_shape *s, const struct sk_conf *conf, struct sk_err *err);
bool sk_shape_is_one(const struct sk_shape *s); /* one rank */
bool sk_shape_is_full(const struct sk_shape *s);
void sk_shape_lost(struct sk_shape *s, uint64_t now_ms); /* an engine of it ended by itself or could not be started */
void sk_shape_ready(struct sk_shape *s);                 /* one is READY */
/* Is it time to ask the hosts (server/job/probe.h) before the next start? */
bool sk_shape_must_ask(const struct sk_shape *s, uint64_t now_ms);
/* These hosts are there: the first of `all` is always among them. Logs a change. */
void sk_shape_fit(struct sk_shape *s, const struct sk_launch_hosts *alive);

#endif

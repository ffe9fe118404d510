/* Which hosts of a hostfile answer. They are asked through what starts ranks there, all at once, for a few seconds at
 * most. Owner: loop thread. */
#ifndef SK_PROBE_H
#define SK_PROBE_H
#include "comm/group/launch.h"

struct uv_loop_s;
struct sk_probe;

/* Runs `true` on every host but the first, which is this one. `done` is called once, from the loop, with those that
 * answered, in the order of the file; the probe is gone then. -SK_ENOMEM. The hosts are copied. */
int sk_probe_start(struct uv_loop_s *loop, const struct sk_launch_hosts *hosts,
                   void (*done)(void *arg, const struct sk_launch_hosts *alive), void *arg, struct sk_probe **ret);
/* Now: `done` is called with those that have answered by then. */
void sk_probe_cut(struct sk_probe *p);

#endif

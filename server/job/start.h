/* One life of an engine, from its start until nothing of it is left on this host, and how its leader comes to us:
 *
 *   one rank           skein-engine is our child, on an inherited socket
 *   several            mpirun is, and its rank 0 connects to a socket in the job's folder (comm/group/launch.h)
 *   --engine-listen    nothing is started; the leader of an engine that another launcher started connects to that
 * address
 *
 * Owner: loop thread. */
#ifndef SK_START_H
#define SK_START_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "server/job/shape.h"

struct uv_loop_s;
struct sk_start;

struct sk_start_conf {
    const struct sk_conf *conf;
    const char *bin_dir, *dir;    /* dir: engine directory */
    const struct sk_shape *shape; /* borrowed for the call, as are the strings */
    uint32_t replica, number, n;  /* number: of the supervisor, in this process; n: of the life, from 0 */
    int board_fd;
    void *arg;
    void (*on_leader)(void *arg, int fd); /* once; the callee's. For one rank before sk_start_open returns */
    /* Nothing is left; the pointer is dead when it returns. `wait_status` as of waitpid(2), of the first rank that
     * failed. */
    void (*on_end)(void *arg, int wait_status);
};

/* *ret is set before any callback. -SK_EIO, -SK_ENOMEM, -SK_EMISSING ($SKEIN_ENGINE_TOKEN). */
int sk_start_open(struct uv_loop_s *loop, const struct sk_start_conf *conf, struct sk_start **ret, struct sk_err *err);
int sk_start_pid(const struct sk_start *s); /* of our child; 0 = there is none */
/* Where a leader is waited for, for as long as it takes; NULL: it is not. */
const char *sk_start_awaits(const struct sk_start *s);
/* Is a process of it that we can see stopped (SIGSTOP)? */
bool sk_start_is_stopped(const struct sk_start *s);
void sk_start_kill(struct sk_start *s, int signum);
/* The leader's channel broke: most likely it has ended; else it is of no use now. */
void sk_start_hung_up(struct sk_start *s);

#endif

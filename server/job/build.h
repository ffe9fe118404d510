/* skein-build, which makes the engine directory of --model. Private to server/job. Owner: loop thread. */
#ifndef SK_BUILD_H
#define SK_BUILD_H
#include <stdint.h>
#include "comm/base/err.h"

struct uv_loop_s;
struct sk_conf;
struct sk_build;

struct sk_build_conf {
    const struct sk_conf *conf;
    const char *bin_dir;
    void *arg;
    void (*on_progress)(void *arg, uint32_t permille);
    /* It is over, and the pointer is dead when it returns: the directory, or NULL and why there is none. */
    void (*on_end)(void *arg, const char *dir, const char *why);
};
int sk_build_start(struct uv_loop_s *loop, const struct sk_build_conf *conf, struct sk_build **ret, struct sk_err *err);
/* SIGTERM: it takes its half-made directory with it. */
void sk_build_kill(struct sk_build *b, int signum);

#endif

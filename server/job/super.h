/* The supervisor of one engine: builds the engine directory when --model is not one, starts skein-engine, watches it,
 * starts it again.
 *
 *   BUILDING --dir--> STARTING --HELLO--> READY --lost--> BACKOFF --time--> STARTING
 *   BUILDING --build failed--> FAILED
 *   STARTING --lost--> BACKOFF             STARTING --refused at the first start, or lost too often--> FAILED
 *   any --close--> STOPPING --reaped--> STOPPED
 *
 * Lost: the process ended, the channel broke, or nothing moved for --engine-timeout. Owner: loop thread. */
#ifndef SK_SUPER_H
#define SK_SUPER_H
#include "server/job/job.h"
#include "server/job/link.h"

struct sk_super;

struct sk_super_conf {
    const struct sk_conf *conf;
    const char *bin_dir;
    void *arg;
    void (*on_dir)(void *arg, const char *path);
    void (*on_state)(void *arg);
    void (*on_up)(void *arg, const struct sk_wire_hello *h); /* READY: frames may be sent */
    void (*on_frame)(void *arg, const struct sk_frame *f);   /* TOKENS, STATS */
    /* It was READY; everything sent is forgotten. own_fault: it crashed or hung by itself. */
    void (*on_lost)(void *arg, bool own_fault);
    bool (*is_busy)(void *arg); /* it has sequences, so steps must go on */
};

/* -SK_ENOENT, -SK_ENOMEM. Calls back only from the loop. */
int sk_super_open(struct uv_loop_s *loop, const struct sk_super_conf *conf, struct sk_super **ret, struct sk_err *err);
struct sk_link *sk_super_link(struct sk_super *s); /* NULL unless READY */
enum sk_engine_state sk_super_state(const struct sk_super *s);
/* Fills state, permille, text and restarts. */
void sk_super_status(const struct sk_super *s, struct sk_engine_status *ret);
void sk_super_close(struct sk_super *s, void (*done)(void *arg), void *arg);

#endif

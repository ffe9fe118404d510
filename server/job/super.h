/* The supervisor of one engine: builds the engine directory when --model is not one, starts skein-engine, watches it,
 * starts it again.
 *
 *   BUILDING --dir--> STARTING --HELLO--> READY --lost--> BACKOFF --time--> STARTING
 *   BUILDING --build failed--> FAILED
 *   STARTING --lost--> BACKOFF             STARTING --refused, or lost too often, and none was READY yet--> FAILED
 *   any --close--> STOPPING --reaped--> STOPPED
 *
 * Once one was READY there is no FAILED: it is tried again for ever, with back-off, and `text` says why.
 *
 * Lost: the process ended, the channel broke, or nothing moved for --engine-timeout, neither a frame nor the board's
 * progress. Owner: loop thread. */
#ifndef SK_SUPER_H
#define SK_SUPER_H
#include "comm/wire/board.h"
#include "server/job/job.h"
#include "server/job/link.h"

struct sk_super;

struct sk_super_conf {
    const struct sk_conf *conf;
    uint32_t replica; /* of conf->replicas, from 0 */
    const char *dir;  /* engine directory; NULL: that of conf->model, built where it is none. Borrowed for the call */
    bool was_ready;   /* one on this directory was READY before, with another supervisor: it is tried for ever */
    const char *bin_dir;
    struct sk_metrics *metrics;
    void *arg;
    void (*on_dir)(void *arg, const char *path);
    void (*on_state)(void *arg);
    void (*on_up)(void *arg, const struct sk_wire_hello *h); /* READY: frames may be sent */
    void (*on_frame)(void *arg, const struct sk_frame *f);   /* TOKENS, STATS, VIEW */
    /* It was READY; everything sent is forgotten. Who was on board when it crashed or hung by itself: n_seat = 0 when
     * it was ended from outside (SIGKILL, a stopped process, memory), or for a channel that we filled, or nobody was.
     */
    void (*on_lost)(void *arg, const struct sk_board_seat *seat, uint32_t n_seat);
    /* It cannot be started, so often that nobody should go on waiting for it (it is tried again all the same). A start
     * that was ended from outside is not counted where one was READY before. */
    void (*on_hopeless)(void *arg);
    bool (*is_busy)(void *arg); /* it has sequences, so steps must go on */
};

/* -SK_ENOENT, -SK_ENOMEM. Calls back only from the loop. */
int sk_super_open(struct uv_loop_s *loop, const struct sk_super_conf *conf, struct sk_super **ret, struct sk_err *err);
struct sk_link *sk_super_link(struct sk_super *s); /* NULL unless READY */
enum sk_engine_state sk_super_state(const struct sk_super *s);
/* Fills state, permille, text, restarts, pid and making_progress (its last step is at most half of --engine-timeout
 * ago). */
void sk_super_status(const struct sk_super *s, struct sk_engine_status *ret);
/* The ranks as the engine told of them last; *ret_n = 0 unless READY. Borrowed, until the loop goes on. */
const struct sk_wire_rank *sk_super_ranks(const struct sk_super *s, uint32_t *ret_n);
/* As sk_engine_dump_flight. A crash and a hang do so by themselves. */
int sk_super_dump_flight(struct sk_super *s, const char *why, char *ret_path, struct sk_err *err);
void sk_super_close(struct sk_super *s, void (*done)(void *arg), void *arg);

#endif

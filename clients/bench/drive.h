/* Runs one round: sends conversations as they are due, takes their answers, and measures its own lag. */
#ifndef SK_DRIVE_H
#define SK_DRIVE_H
#include <signal.h>

#include "clients/bench/dist.h"
#include "clients/bench/load.h"
#include "clients/bench/net.h"
#include "clients/bench/round.h"

struct sk_drive {
    const struct sk_load *load;
    struct sk_round_slo slo;
    int64_t concurrency; /* closed loop: users; 0: open loop */
    double rate;         /* open loop: conversations a second; 0: at the trace's timestamps */
    enum sk_dist_gap gap;
    double burstiness, speed; /* shape of gamma; how much faster the trace passes */
    uint64_t first_talk;      /* number of the round's first conversation */
    uint64_t max_requests;    /* to be sent; 0: no limit */
    uint64_t duration_ns;     /* of sending; 0: no limit */
    uint64_t timeout_ns;      /* of a request */
    uint64_t max_in_flight;
    const volatile sig_atomic_t *stop; /* set: what is in flight is cut off */
    /* Called about five times a second; may be NULL. */
    void (*tick)(void *arg, const struct sk_round *r, uint64_t now_ns, uint64_t n_in_flight);
    void *arg;
};

/* One of max_requests, duration_ns and, without a rate, the trace ends the sending; then the answers are awaited.
 * Requests that fail are counted in `r` (after sk_round_init); an error is one of the driver's own, -SK_ENOMEM,
 * -SK_EIO, -SK_EUNAVAIL, and what was measured before it stays in `r`. */
int sk_drive(const struct sk_drive *d, const struct sk_target *target, const char *path, struct sk_round *r,
             struct sk_err *err);

#endif

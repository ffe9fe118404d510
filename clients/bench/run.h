/* A whole run: which rounds, of which server, in which order. */
#ifndef SK_RUN_H
#define SK_RUN_H
#include <signal.h>

#include "clients/bench/drive.h"
#include "comm/base/conf.h"

enum { SK_RUN_MAX_RATES = 64, SK_RUN_MAX_ROUNDS = 2000, SK_RUN_MAX_SEARCH = 16, SK_RUN_MAX_HALVINGS = 6 };

struct sk_run {
    const struct sk_conf *conf; /* borrowed */
    const volatile sig_atomic_t *stop;
    struct sk_load load;
    struct sk_drive drive;
    struct sk_trace trace;
    struct sk_buf extra; /* --extra without its braces */
    double rates[SK_RUN_MAX_RATES];
    int n_rate;
    struct sk_target servers[2];
    const char *urls[2]; /* as they were given; borrowed */
    int n_server;
    char models[2][SK_CONF_STR_MAX];
    struct sk_round *rounds; /* owned, in the order in which they ran */
    int n_round;
    double found_rate; /* by --find-rate; 0: not even the lowest one tried kept the SLO */
    bool is_cut;
    void (*tick)(void *arg, const struct sk_round *r, uint64_t now_ns, uint64_t n_in_flight);
    void *arg;
};

/* Checks all options and reaches the servers. Then run; done after both, also after failures. -SK_EINVAL, -SK_ERANGE
 * and those of the trace's file; -SK_EUNAVAIL and others of sk_target_failed. */
int sk_run_init(struct sk_run *r, const struct sk_conf *c, const char *url, const volatile sig_atomic_t *stop,
                struct sk_err *err);
/* Rounds that ran are in r->rounds whatever is returned. */
int sk_run(struct sk_run *r, struct sk_err *err);
void sk_run_done(struct sk_run *r);

/* The ratio of the second server to the first of a figure, round by round; --vs. */
typedef double (*sk_run_figure)(struct sk_round *r);
struct sk_stat_ratio sk_run_ratio(const struct sk_run *r, sk_run_figure figure);

#endif

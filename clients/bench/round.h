/* What a round measured: every request's record, samples of each figure, errors by kind. */
#ifndef SK_ROUND_H
#define SK_ROUND_H
#include <stdbool.h>
#include <stdint.h>

#include "clients/bench/stat.h"
#include "comm/base/err.h"

enum sk_round_end { /* of a request */
                    SK_ROUND_OK,
                    SK_ROUND_LEFT,     /* it was to leave, and did */
                    SK_ROUND_CUT,      /* the run was ended */
                    SK_ROUND_DEADLINE, /* its deadline passed */
                    SK_ROUND_REFUSED,  /* status 429 */
                    SK_ROUND_STATUS,   /* another status than 200 */
                    SK_ROUND_CONNECT,
                    SK_ROUND_TLS,
                    SK_ROUND_BROKEN, /* the connection ended before the reply */
                    SK_ROUND_TIMEOUT,
                    SK_ROUND_HTTP, /* not HTTP */
                    SK_ROUND_SSE,  /* not an event stream, or a broken one */
                    SK_ROUND_UTF8,
                    SK_ROUND_JSON,
                    SK_ROUND_EVENT, /* an error in the stream */
                    SK_ROUND_SHORT, /* the stream ended without its last event */
                    SK_ROUND_N_END
};

enum {
    SK_ROUND_MAX_RECORDS = 1 << 20, /* kept of a round, for the CSV file and the timeline */
    SK_ROUND_MAX_WHY = 240,
    SK_ROUND_MAX_PIDS = 16,
    SK_ROUND_MAX_DELTAS = 4096
};

struct sk_round_record {        /* times since the round's start */
    uint64_t due_ns, sent_ns;   /* when it was to be sent, and was */
    uint64_t first_ns, last_ns; /* first and last piece of text; 0: none */
    uint64_t end_ns;
    uint64_t talk;
    uint32_t n_in, n_out, n_piece; /* tokens by the server's usage (n_out: else pieces); pieces of text */
    uint16_t turn, status;
    uint8_t end; /* enum sk_round_end */
    bool good, has_usage;
};

struct sk_round_slo { /* milliseconds; 0: no limit */
    double ttft, itl, tpot, e2e;
};

struct sk_round_pid {
    int64_t pid;
    double cpu_s, rss_bytes, peak_bytes; /* CPU time of the round; at its end; the most that was seen */
};

struct sk_round_delta { /* a counter of /metrics that rose */
    char *name;         /* owned, with its labels */
    double by;
};

struct sk_round {
    /* what was run */
    const char *url; /* borrowed */
    int server;      /* 0, or 1: that of --vs */
    double rate;     /* 0: closed loop */
    int64_t concurrency;
    /* what was seen */
    uint64_t n_sent, n_end[SK_ROUND_N_END], n_good, n_in, n_out, n_piece, n_no_usage;
    uint64_t duration_ns;                           /* first request due .. last one ended */
    struct sk_stat ttft, itl, tpot, e2e, lag, loop; /* milliseconds */
    struct sk_stat_series out;                      /* pieces by time */
    struct sk_round_record *records;                /* owned, in the order of their ends */
    size_t n_record, cap_record;
    char why[SK_ROUND_N_END][SK_ROUND_MAX_WHY]; /* the first error of each kind */
    /* beside it */
    double own_cpu_s; /* CPU time of this process */
    struct sk_round_pid pids[SK_ROUND_MAX_PIDS];
    int n_pid;
    struct sk_round_delta *deltas; /* owned */
    size_t n_delta;
    bool was_cut;
};

void sk_round_init(struct sk_round *r, uint64_t seed);
void sk_round_done(struct sk_round *r);
/* Counts a request that ended. A record beyond the maximum only counts. */
void sk_round_take(struct sk_round *r, struct sk_round_record *rec, const struct sk_round_slo *slo);
void sk_round_why(struct sk_round *r, enum sk_round_end end, const char *why); /* the first one of its kind stays */

const char *sk_round_end_name(enum sk_round_end end);
uint64_t sk_round_n_error(const struct sk_round *r); /* what is neither ok nor wanted */
double sk_round_per_s(const struct sk_round *r, uint64_t n);
/* Share of the requests that were to be answered in full which were good, 0 where none was. */
double sk_round_good_share(const struct sk_round *r);
/* "ttft:500,itl:50" -> limits. -SK_EINVAL. */
int sk_round_slo_parse(const char *s, struct sk_round_slo *ret, struct sk_err *err);

#endif

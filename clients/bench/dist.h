/* Distributions: of lengths, as the command line gives them, and of the gaps between requests. */
#ifndef SK_DIST_H
#define SK_DIST_H
#include <stdint.h>

#include "clients/bench/draw.h"
#include "comm/base/err.h"

enum { SK_DIST_MAX = 1 << 20 }; /* largest length that is drawn */

struct sk_dist {
    enum sk_dist_kind { SK_DIST_FIXED, SK_DIST_UNIFORM, SK_DIST_NORMAL, SK_DIST_LOGNORMAL, SK_DIST_EXP } kind;
    double a, b; /* N; LOW, HIGH; MEAN, SD; MEDIAN, SIGMA; MEAN */
};

/* "N", "uniform:LOW:HIGH" (both included), "normal:MEAN:SD", "lognormal:MEDIAN:SIGMA" (sigma of the logarithm),
 * "exp:MEAN". -SK_EINVAL or -SK_ERANGE naming `option`. */
int sk_dist_parse(const char *s, const char *option, struct sk_dist *ret, struct sk_err *err);
/* Rounded, and at least `least`, at most SK_DIST_MAX. */
int64_t sk_dist_draw(const struct sk_dist *d, struct sk_draw *from, int64_t least);

enum sk_dist_gap { SK_DIST_GAP_POISSON, SK_DIST_GAP_GAMMA, SK_DIST_GAP_FIXED };
/* Nanoseconds to the next request at `rate` a second; `shape` is that of gamma, whose mean stays 1 / rate. */
uint64_t sk_dist_gap_ns(enum sk_dist_gap kind, double rate, double shape, struct sk_draw *from);

#endif

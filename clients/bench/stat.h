/* Statistics: samples with exact percentiles up to a cap, sums over time, ratios of paired rounds. Pure. */
#ifndef SK_STAT_H
#define SK_STAT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "clients/bench/draw.h"

enum { SK_STAT_MAX_SAMPLES = 1 << 22 };

/* The first SK_STAT_MAX_SAMPLES values, later a random selection of so many (algorithm R of Vitter 1985); count, mean
 * and extremes are of all. */
struct sk_stat {
    float *v; /* owned */
    size_t n, cap, max;
    uint64_t seen;
    double sum, least, most;
    struct sk_draw draw;
};

struct sk_stat_figures {
    uint64_t n;
    double mean, p50, p90, p95, p99, max; /* 0 where n is 0 */
    bool sampled;                         /* percentiles are of a selection */
};

void sk_stat_init(struct sk_stat *s, size_t max, uint64_t seed);
void sk_stat_done(struct sk_stat *s);
int sk_stat_add(struct sk_stat *s, double x); /* -SK_ENOMEM: not added */
/* Reorders the samples. */
struct sk_stat_figures sk_stat_figures(struct sk_stat *s);
/* The p-quantile (0..1) of v[0..n) in rising order, between its neighbours (type 7 of Hyndman and Fan 1996). 0 if n is
 * 0. */
double sk_stat_quantile(const float *v, size_t n, double p);
void sk_stat_sort(float *v, size_t n);

/* Sums by time: buckets of equal width, which doubles whenever time outgrows them. */
enum { SK_STAT_BUCKETS = 256 };
struct sk_stat_series {
    uint64_t width_ns, n_used;
    double sum[SK_STAT_BUCKETS];
};
void sk_stat_series_add(struct sk_stat_series *s, uint64_t at_ns, double x); /* width_ns is set by the first user */

/* Of paired values b[i] / a[i], those where both are > 0. */
struct sk_stat_ratio {
    int n;
    double mean;        /* geometric */
    double low, high;   /* 95 % interval of the mean (Student's t on the logarithms); equal to it where n is 1 */
    double least, most; /* of the pairs */
};
struct sk_stat_ratio sk_stat_ratio(const double *a, const double *b, int n);

#endif

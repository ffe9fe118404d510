#include "clients/bench/stat.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/err.h"
#include "comm/base/mem.h"

enum { FIRST_CAP = 256 };

void sk_stat_init(struct sk_stat *s, size_t max, uint64_t seed)
{
    *s = (struct sk_stat){.max = max};
    sk_draw_init(&s->draw, seed, SK_DRAW_KEEP, 0);
}

void sk_stat_done(struct sk_stat *s)
{
    sk_free(s->v);
    *s = (struct sk_stat){.max = s->max};
}

static int grow(struct sk_stat *s)
{
    size_t cap = s->cap ? s->cap * 2 : FIRST_CAP;
    if (cap > s->max)
        cap = s->max;
    float *v = sk_realloc(s->v, cap * sizeof *v);
    if (!v)
        return -SK_ENOMEM;
    s->v = v;
    s->cap = cap;
    return 0;
}

int sk_stat_add(struct sk_stat *s, double x)
{
    if (s->n == s->cap && s->n < s->max && grow(s))
        return -SK_ENOMEM;
    s->least = s->seen == 0 || x < s->least ? x : s->least;
    s->most = s->seen == 0 || x > s->most ? x : s->most;
    s->sum += x;
    s->seen++;
    if (s->n < s->max) {
        s->v[s->n++] = (float)x;
        return 0;
    }
    uint64_t at = sk_draw_below(&s->draw, s->seen);
    if (at < s->n)
        s->v[at] = (float)x;
    return 0;
}

static int rising(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

void sk_stat_sort(float *v, size_t n)
{
    if (n)
        qsort(v, n, sizeof *v, rising);
}

double sk_stat_quantile(const float *v, size_t n, double p)
{
    if (n == 0)
        return 0;
    double at = p * (double)(n - 1);
    size_t i = (size_t)at;
    if (i + 1 >= n)
        return v[n - 1];
    return v[i] + (at - (double)i) * ((double)v[i + 1] - v[i]);
}

struct sk_stat_figures sk_stat_figures(struct sk_stat *s)
{
    struct sk_stat_figures f = {.n = s->seen, .sampled = s->seen > s->n};
    if (s->seen == 0)
        return f;
    sk_stat_sort(s->v, s->n);
    f.mean = s->sum / (double)s->seen;
    f.p50 = sk_stat_quantile(s->v, s->n, 0.50);
    f.p90 = sk_stat_quantile(s->v, s->n, 0.90);
    f.p95 = sk_stat_quantile(s->v, s->n, 0.95);
    f.p99 = sk_stat_quantile(s->v, s->n, 0.99);
    f.max = s->most;
    return f;
}

void sk_stat_series_add(struct sk_stat_series *s, uint64_t at_ns, double x)
{
    while (at_ns / s->width_ns >= SK_STAT_BUCKETS) {
        for (size_t i = 0; i < SK_STAT_BUCKETS / 2; i++)
            s->sum[i] = s->sum[2 * i] + s->sum[2 * i + 1];
        memset(s->sum + SK_STAT_BUCKETS / 2, 0, sizeof s->sum / 2);
        s->width_ns *= 2;
        s->n_used = (s->n_used + 1) / 2;
    }
    uint64_t i = at_ns / s->width_ns;
    s->sum[i] += x;
    if (i >= s->n_used)
        s->n_used = i + 1;
}

/* Student's t, two-sided 95 %, for 1.. degrees of freedom; later the normal distribution's, corrected to the first
 * order. */
static double student(int degrees)
{
    static const double t[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228};
    return degrees <= 10 ? t[degrees - 1] : 1.96 + 2.4 / degrees;
}

struct sk_stat_ratio sk_stat_ratio(const double *a, const double *b, int n)
{
    struct sk_stat_ratio r = {0};
    double sum = 0, squares = 0;
    for (int i = 0; i < n; i++) {
        if (!(a[i] > 0 && b[i] > 0))
            continue;
        double x = b[i] / a[i], l = log(x);
        r.least = r.n == 0 || x < r.least ? x : r.least;
        r.most = r.n == 0 || x > r.most ? x : r.most;
        r.n++;
        sum += l;
        squares += l * l;
    }
    if (r.n == 0)
        return r;
    double mean = sum / r.n, half = 0;
    if (r.n > 1) {
        double variance = (squares - r.n * mean * mean) / (r.n - 1);
        half = student(r.n - 1) * sqrt(fmax(variance, 0) / r.n);
    }
    r.mean = exp(mean);
    r.low = exp(mean - half);
    r.high = exp(mean + half);
    return r;
}

#include "clients/bench/dist.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int n_param;
} kinds[] = {[SK_DIST_FIXED] = {"fixed", 1},
             [SK_DIST_UNIFORM] = {"uniform", 2},
             [SK_DIST_NORMAL] = {"normal", 2},
             [SK_DIST_LOGNORMAL] = {"lognormal", 2},
             [SK_DIST_EXP] = {"exp", 1}};
enum { N_KIND = sizeof kinds / sizeof kinds[0] };

static int read_param(const char **s, double *ret)
{
    char *end;
    if (!((**s >= '0' && **s <= '9') || **s == '.'))
        return -SK_EINVAL;
    double x = strtod(*s, &end);
    if (end == *s || !(x <= SK_DIST_MAX))
        return -SK_ERANGE;
    *ret = x;
    *s = end;
    return 0;
}

int sk_dist_parse(const char *s, const char *option, struct sk_dist *ret, struct sk_err *err)
{
    struct sk_dist d = {.kind = SK_DIST_FIXED};
    const char *at = s, *colon = strchr(s, ':');
    if (colon) {
        size_t n = (size_t)(colon - s);
        int k = 0;
        while (k < N_KIND && (strlen(kinds[k].name) != n || strncmp(kinds[k].name, s, n) != 0))
            k++;
        if (k == N_KIND)
            return sk_err_set(err, SK_EINVAL, option, "%s: '%.*s' is none of fixed, uniform, normal, lognormal and exp",
                              option, (int)n, s);
        d.kind = (enum sk_dist_kind)k;
        at = colon + 1;
    }
    double *params[] = {&d.a, &d.b};
    for (int i = 0; i < kinds[d.kind].n_param; i++) {
        int rc = i && *at++ != ':' ? -SK_EINVAL : read_param(&at, params[i]);
        if (rc == -SK_ERANGE)
            return sk_err_set(err, SK_ERANGE, option, "%s: a length is at most %d, not '%s'", option, SK_DIST_MAX, s);
        if (rc)
            break;
        if (i == kinds[d.kind].n_param - 1 && *at == '\0') {
            if (d.kind == SK_DIST_UNIFORM && d.a > d.b)
                return sk_err_set(err, SK_ERANGE, option, "%s: %g is more than %g", option, d.a, d.b);
            *ret = d;
            return 0;
        }
    }
    return sk_err_set(err, SK_EINVAL, option,
                      "%s must be N, uniform:LOW:HIGH, normal:MEAN:SD, lognormal:MEDIAN:SIGMA or exp:MEAN, not '%s'",
                      option, s);
}

static double draw(const struct sk_dist *d, struct sk_draw *from)
{
    switch (d->kind) {
    case SK_DIST_FIXED:
        return d->a;
    case SK_DIST_UNIFORM:
        return d->a + floor(sk_draw_uniform(from) * (d->b - d->a + 1));
    case SK_DIST_NORMAL:
        return d->a + d->b * sk_draw_normal(from);
    case SK_DIST_LOGNORMAL:
        return d->a * exp(d->b * sk_draw_normal(from));
    case SK_DIST_EXP:
        return d->a * sk_draw_exp(from);
    }
    return d->a;
}

int64_t sk_dist_draw(const struct sk_dist *d, struct sk_draw *from, int64_t least)
{
    double x = round(draw(d, from));
    if (x > SK_DIST_MAX)
        return SK_DIST_MAX;
    return x < (double)least ? least : (int64_t)x;
}

uint64_t sk_dist_gap_ns(enum sk_dist_gap kind, double rate, double shape, struct sk_draw *from)
{
    double x = kind == SK_DIST_GAP_FIXED   ? 1
               : kind == SK_DIST_GAP_GAMMA ? sk_draw_gamma(from, shape) / shape
                                           : sk_draw_exp(from);
    return (uint64_t)(x / rate * 1e9);
}

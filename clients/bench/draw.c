#include "clients/bench/draw.h"

#include <math.h>

#include "comm/base/rng.h"

void sk_draw_init(struct sk_draw *d, uint64_t seed, enum sk_draw_what what, uint64_t index)
{
    *d = (struct sk_draw){.seed = seed, .what = what, .index = index};
}

uint64_t sk_draw_bits(struct sk_draw *d)
{
    uint32_t key[2] = {(uint32_t)d->seed, (uint32_t)(d->seed >> 32)};
    uint32_t counter[4] = {d->n++, d->what, (uint32_t)d->index, (uint32_t)(d->index >> 32)}, out[4];
    sk_philox(key, counter, out);
    return (uint64_t)out[1] << 32 | out[0];
}

double sk_draw_uniform(struct sk_draw *d)
{
    return ((double)(sk_draw_bits(d) >> 12) + 0.5) * 0x1p-52;
}

uint64_t sk_draw_below(struct sk_draw *d, uint64_t n)
{
    return (uint64_t)((unsigned __int128)sk_draw_bits(d) * n >> 64);
}

double sk_draw_exp(struct sk_draw *d)
{
    return -log(sk_draw_uniform(d));
}

double sk_draw_normal(struct sk_draw *d)
{
    double r = sqrt(2 * sk_draw_exp(d));
    return r * cos(2 * M_PI * sk_draw_uniform(d));
}

double sk_draw_gamma(struct sk_draw *d, double shape)
{
    if (shape < 1) { /* their section 6 */
        double u = sk_draw_uniform(d);
        return sk_draw_gamma(d, shape + 1) * pow(u, 1 / shape);
    }
    double a = shape - 1.0 / 3, c = 1 / sqrt(9 * a);
    for (;;) {
        double x = sk_draw_normal(d), v = 1 + c * x;
        if (v <= 0)
            continue;
        v = v * v * v;
        if (log(sk_draw_uniform(d)) < x * x / 2 + a - a * v + a * log(v))
            return a * v;
    }
}

/* exp and log from IEEE single arithmetic alone: the same bits with any C library, provided that no multiply and add
 * are fused (build with -ffp-contract=off). Within 2e-7 relative. No branches, so that a loop over them can be
 * vectorised. */
#ifndef SK_FMATH_H
#define SK_FMATH_H
#include <stdint.h>
#include <string.h>

/* Natural logarithm of a positive normal number. x = 2^e * m, m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(s), s = (m -
 * 1) / (m + 1): the series in s^2 <= 0.0295 is cut where its rest is below 2^-28. Exact to the last bits near 1, too.
 */
static inline float sk_fm_log(float x)
{
    uint32_t bits;
    float m;
    memcpy(&bits, &x, sizeof bits);
    int32_t e = (int32_t)(bits - 0x3f3504f3) >> 23; /* bits of sqrt(1/2) */
    bits -= (uint32_t)e << 23;
    memcpy(&m, &bits, sizeof m);
    float s = (m - 1) / (m + 1), z = s * s;
    float series = 1 + z * (1.0f / 3 + z * (1.0f / 5 + z * (1.0f / 7 + z * (1.0f / 9))));
    return (float)e * 0.693147181f + 2 * s * series;
}

/* e^x for x <= 0; 0 below -87 and for NaN. x = k ln 2 + r, |r| <= ln(2) / 2, ln 2 in two parts so that k times the
 * first is exact; the Taylor series to r^7. */
static inline float sk_fm_exp(float x)
{
    float y = x > -87 ? x : -87;
    int32_t k = (int32_t)(y * 1.44269504f - 0.5f);
    float r = y - (float)k * 0x1.62ep-1f - (float)k * 0x1.0bfbe8p-15f;
    uint32_t bits = (uint32_t)(k + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    float p = 1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720 + r * (1.0f / 5040)));
    p = 1 + r * (1 + r * (1.0f / 2 + r * (1.0f / 6 + r * p)));
    return x > -87 ? p * scale : 0;
}

#endif

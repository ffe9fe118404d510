#include "comm/dir/dtype.h"

#include <string.h>

#include "comm/base/err.h"

static const char *const names[SK_DTYPE_COUNT] = {"f32", "f16", "bf16", "q8", "q4", "q4s"};

const char *sk_dtype_name(enum sk_dtype t)
{
    return (unsigned)t < SK_DTYPE_COUNT ? names[t] : "?";
}

int sk_dtype_find(const char *name, enum sk_dtype *ret)
{
    for (unsigned i = 0; i < SK_DTYPE_COUNT; i++) {
        if (!strcmp(name, names[i])) {
            *ret = (enum sk_dtype)i;
            return 0;
        }
    }
    return -SK_ENOENT;
}

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

float sk_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = (h >> 10) & 31, man = h & 0x3ff;

    if (exp == 31)
        return float_of(sign | 0x7f800000 | man << 13);
    if (exp == 0) {
        /* Subnormal: man * 2^-24, exact in f32. */
        float f = (float)man * 0x1p-24f;
        return float_of(bits_of(f) | sign);
    }
    return float_of(sign | (exp + 112) << 23 | man << 13);
}

/* value >> shift, round to nearest, ties to even; shift in 1..31. */
static uint32_t shift_rne(uint32_t value, unsigned shift)
{
    uint32_t half = 1u << (shift - 1), rest = value & ((half << 1) - 1), q = value >> shift;

    return q + (rest > half || (rest == half && (q & 1)));
}

uint16_t sk_f32_to_f16(float f)
{
    uint32_t u = bits_of(f), sign = (u >> 16) & 0x8000, abs = u & 0x7fffffff;

    if (abs > 0x7f800000) /* NaN: stays one, quiet */
        return (uint16_t)(sign | 0x7e00 | ((abs >> 13) & 0x3ff));
    if (abs >= 0x47800000) /* 65536 and above */
        return (uint16_t)(sign | 0x7c00);
    if (abs >=
        0x38800000) /* normal in f16; a carry out of the mantissa goes into the exponent, up to Inf, as it should */
        return (uint16_t)(sign | shift_rne(abs - (112u << 23), 13));
    if (abs < 0x33000000) /* below half of the least subnormal */
        return (uint16_t)sign;
    return (uint16_t)(sign | shift_rne((abs & 0x7fffff) | 0x800000, 126 - (abs >> 23)));
}

float sk_bf16_to_f32(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}

uint16_t sk_f32_to_bf16(float f)
{
    uint32_t u = bits_of(f);

    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)shift_rne(u, 16);
}

/* Number formats of weights and of the KV cache, and conversions between f32, f16 and bf16 (round to nearest even). */
#ifndef SK_DTYPE_H
#define SK_DTYPE_H
#include <stddef.h>
#include <stdint.h>

/* Values are part of the engine directory's format: never renumbered. */
enum sk_dtype {
    SK_F32 = 0,
    SK_F16 = 1,
    SK_BF16 = 2,
    SK_Q8 = 3, /* blocks of 32 along `in`: w = d * q, q in -127..127 (-128 as found), d f16 */
    SK_Q4 = 4, /* blocks of 32 along `in`: w = d * q + m, q in 0..15, d and m f16 */
    SK_DTYPE_COUNT
};

#define SK_QBLOCK 32 /* values that share one scale */

const char *sk_dtype_name(enum sk_dtype t);              /* "f32", "f16", "bf16", "q8", "q4" */
int sk_dtype_find(const char *name, enum sk_dtype *ret); /* -SK_ENOENT */

float sk_f16_to_f32(uint16_t h);
uint16_t sk_f32_to_f16(float f); /* overflow gives Inf */
float sk_bf16_to_f32(uint16_t h);
uint16_t sk_f32_to_bf16(float f);

#endif

/* Number formats of weights and of the KV cache, and conversions between f32, f16 and bf16 (round to nearest even). */
#ifndef SK_DTYPE_H
#define SK_DTYPE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Values are part of the engine directory's format: never renumbered. */
enum sk_dtype {
    SK_F32 = 0,
    SK_F16 = 1,
    SK_BF16 = 2,
    SK_Q8 = 3,  /* blocks of 32 along `in`: w = d * q, q in -127..127 (-128 as found), d f16 */
    SK_Q4 = 4,  /* blocks of 32 along `in`: w = d * q + m, q in 0..15, d and m f16 */
    SK_Q4S = 5, /* blocks of 32 along `in`: w = d * (q - 8), q in 0..15, d f16: symmetric, GGUF's Q4_0 */
    SK_DTYPE_COUNT
};

#define SK_QBLOCK 32 /* values that share one scale */

/* Do its values come in blocks of SK_QBLOCK? */
static inline bool sk_dtype_in_blocks(enum sk_dtype t)
{
    return t == SK_Q8 || t == SK_Q4 || t == SK_Q4S;
}

const char *sk_dtype_name(enum sk_dtype t);              /* "f32", "f16", "bf16", "q8", "q4", "q4s" */
int sk_dtype_find(const char *name, enum sk_dtype *ret); /* -SK_ENOENT */

float sk_f16_to_f32(uint16_t h);
uint16_t sk_f32_to_f16(float f); /* overflow gives Inf */
float sk_bf16_to_f32(uint16_t h);
uint16_t sk_f32_to_bf16(float f);

#endif

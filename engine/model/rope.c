#include "engine/model/rope.h"

#include <math.h>

#include "comm/base/mem.h"

uint64_t sk_rope_bytes(const struct sk_rope *rope, uint32_t max_len)
{
    return (uint64_t)max_len * (rope->dim / 2) * 2 * sizeof(float);
}

int sk_rope_fill(const struct sk_rope *rope, const float *inv_freq, uint32_t max_len, struct sk_backend *be,
                 struct sk_dev table)
{
    uint32_t n = rope->dim / 2;
    float *cos_sin = sk_malloc(sk_rope_bytes(rope, max_len));
    if (!cos_sin)
        return -SK_ENOMEM;
    float *at = cos_sin;
    for (uint32_t pos = 0; pos < max_len; pos++) {
        for (uint32_t i = 0; i < n; i++) {
            float angle = (float)pos * inv_freq[i];
            *at++ =
                (float)cos((double)angle) * rope->mscale; /* in double: no libm's float version is needed to agree */
            *at++ = (float)sin((double)angle) * rope->mscale;
        }
    }
    be->upload(be, table, cos_sin, sk_rope_bytes(rope, max_len));
    sk_free(cos_sin);
    return 0;
}

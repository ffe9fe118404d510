/* The stores of a KV cache that are the same at every level. The including file, built for a level, defines put_f32,
 * put_bf16 and quantise before it: all is static. */
#ifndef SK_KV_PUT_H
#define SK_KV_PUT_H
#include "kernels/cpu/attn.h"
#include "kernels/cpu/ktab.h"

static void put_q8(char *block, uint32_t n, uint32_t entry, const float *k, const float *v)
{
    const size_t side = sk_attn_side_bytes(SK_Q8, n);
    float *scale = (float *)(block + 2 * side);
    char *values = block + side + (size_t)(entry / 2) * n * 2 + entry % 2;
    int8_t q[SK_QBLOCK];

    for (uint32_t d = 0; d < n; d += SK_QBLOCK, scale += SK_KV_BLOCK) {
        const uint32_t some = n - d < SK_QBLOCK ? n - d : SK_QBLOCK;
        scale[entry] = quantise(k + d, some, q);
        for (size_t i = 0; i < some; i += 2)
            memcpy(block + ((d + i) / 2 * SK_KV_BLOCK + entry) * 2, q + i, 2);
        scale[(size_t)sk_attn_scales(n) * SK_KV_BLOCK + entry] = quantise(v + d, some, q);
        for (size_t i = 0; i < some; i++)
            values[(d + i) * 2] = (char)q[i];
    }
}

static void kv_put(const struct sk_kv_layer *kv, int32_t blk, uint32_t kv_head, uint32_t entry, const float *k,
                   const float *v)
{
    char *block = sk_attn_block(kv, blk, kv_head);

    if (kv->dtype == SK_F32)
        put_f32(block, kv->head_stride, entry, k, v);
    else if (kv->dtype == SK_BF16)
        put_bf16(block, kv->head_stride, entry, k, v);
    else
        put_q8(block, kv->head_stride, entry, k, v);
}

#endif

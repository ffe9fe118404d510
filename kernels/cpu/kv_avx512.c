/* Stores into the KV cache: bf16 rounds to nearest even, q8 likewise. */
#include "kernels/cpu/ktab.h"
#include "kernels/cpu/simd_avx512.h"

/* Neither Inf nor more than bf16 holds; NaN stays NaN. */
INLINE __m512 saturated(__m512 x)
{
    const __m512 most = _mm512_set1_ps(0x1.fep127f);
    return _mm512_min_ps(most, _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), most), x));
}

INLINE __m256i to_bf16(__m512 x)
{
    const __m512i bits = _mm512_castps_si512(saturated(x));
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(_mm512_srli_epi32(up, 16), nan, _mm512_set1_epi32(0x7fc0)));
}

static void put_f32(char *block, uint32_t n, uint32_t entry, const float *k, const float *v)
{
    float *to = (float *)block;
    for (size_t i = 0; i < n; i++)
        to[i * SK_KV_BLOCK + entry] = k[i];
    memcpy(to + (SK_KV_BLOCK + (size_t)entry) * n, v, n * sizeof *v);
}

static void put_bf16(char *block, uint32_t n, uint32_t entry, const float *k, const float *v)
{
    uint32_t pair[8];
    char *values = block + sk_attn_side_bytes(SK_BF16, n) + (size_t)(entry / 2) * n * 4;
    const __mmask32 half = entry % 2 ? 0xaaaaaaaau : 0x55555555u;

    for (size_t i = 0; i < n; i += 16) {
        _mm256_storeu_si256((__m256i *)pair, to_bf16(_mm512_loadu_ps(k + i)));
        for (size_t j = 0; j < 8; j++)
            memcpy(block + ((i / 2 + j) * SK_KV_BLOCK + entry) * 4, &pair[j], 4);
        const __m512i x = _mm512_cvtepu16_epi32(to_bf16(_mm512_loadu_ps(v + i)));
        _mm512_mask_storeu_epi16(values + i * 4, half, _mm512_or_si512(x, _mm512_slli_epi32(x, 16)));
    }
}

/* n <= 32 values, a multiple of 16, as int8; returns their scale. */
static float quantise(const float *x, uint32_t n, int8_t *ret)
{
    const __mmask16 second = n > 16 ? 0xffff : 0;
    const __m512 a = saturated(_mm512_loadu_ps(x)), b = saturated(_mm512_maskz_loadu_ps(second, x + 16));
    const float d = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b))) / 127;
    const __m512 scale = _mm512_set1_ps(d);
    const __mmask16 any = d > 0 ? 0xffff : 0;

    _mm_storeu_si128((__m128i *)ret, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_maskz_div_ps(any, a, scale))));
    _mm_storeu_si128((__m128i *)(ret + 16),
                     _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_maskz_div_ps(any, b, scale))));
    return d;
}

#include "kernels/cpu/kv_put.h"

void sk_kv_avx512(struct sk_ktab *t)
{
    t->kv_put = kv_put;
}
